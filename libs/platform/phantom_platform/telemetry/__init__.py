"""Logs, traces and metrics: what leaves a process besides its answers.

Admission: configuration and thin helpers over structlog, OpenTelemetry and prometheus_client. Nothing here
knows a service, and no collector lives on a global registry.
"""
