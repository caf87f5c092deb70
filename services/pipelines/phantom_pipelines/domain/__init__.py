"""Pipelines, the configurations of their stages, executions and approvals: decisions without I/O or a clock."""
