"""The pipelines service."""
