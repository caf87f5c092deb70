"""An image that serves one model version: its build context, and what builds and pushes it."""
