"""The Dockerfile of a model version. No `# syntax=` line, heredoc or digest: any builder of the last years reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass

MIN_PYTHON = (3, 11)
HTTP_PORT = 8080
GRPC_PORT = 8081

_TEMPLATE = """\
# Serves {model} {version}. Written by phantom-pipelines: change the pipeline, not this file.
FROM {base_image}

# The model server needs Python {minimum} or newer: said here, not by a traceback when the container starts
RUN {check_python}
ARG WHEELS_PYTHON=""
RUN {check_wheels}

# Install system dependencies, where the base image does not have them
RUN if ! command -v gcc >/dev/null || ! command -v g++ >/dev/null; then \\
    apt-get update && apt-get install -y \\
    gcc \\
    g++ \\
    && rm -rf /var/lib/apt/lists/*; \\
    fi

# Set working directory
WORKDIR /app

# Copy requirements and install Python dependencies, each by its hash; from wheels/ alone where they were fetched before
COPY requirements.txt .
COPY wheels/ ./wheels/
ARG PIP_NO_INDEX=""
RUN pip install --no-cache-dir --require-hashes --find-links wheels -r requirements.txt && rm -rf wheels

# Copy application code, the model, and what to serve of it
COPY src/ ./src/
COPY models/ ./models/
COPY config/ ./config/
ENV PYTHONPATH=/app/src PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# Create non-root user
RUN adduser --disabled-password --gecos '' appuser
RUN chown -R appuser:appuser /app
USER appuser

# Expose ports: OIP's REST form, health and metrics; OIP over gRPC
EXPOSE {http_port}
EXPOSE {grpc_port}

# Health check
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \\
  CMD python -c "import urllib.request as u; u.urlopen('http://localhost:{http_port}/health', timeout=9)" || exit 1

# Start application
CMD {command}
"""
COMMAND = ("python", "-m", "phantom_model_server", "--container", "config/serve.json")


@dataclass(frozen=True)
class Wanted:
    """What the Dockerfile is for."""

    base_image: str
    model: str
    version: str


def dockerfile(wanted: Wanted) -> str:
    """The whole file. What it names is checked before: no value can end its line."""
    for value in (wanted.base_image, wanted.model, wanted.version):
        if not value or any(letter.isspace() or letter in "\\'\"" for letter in value):
            raise ValueError(f"{value!r} cannot stand in a Dockerfile")
    return _TEMPLATE.format(
        base_image=wanted.base_image,
        model=wanted.model,
        version=wanted.version,
        minimum=".".join(map(str, MIN_PYTHON)),
        check_python=_check_python(wanted.base_image),
        check_wheels=_check_wheels(wanted.base_image),
        http_port=HTTP_PORT,
        grpc_port=GRPC_PORT,
        command=json.dumps(list(COMMAND)),
    )


def _check_wheels(base_image: str) -> str:
    """Packages that were fetched before fit one minor version of Python."""
    return (
        'if [ -n "$WHEELS_PYTHON" ] && ! python -c '
        "\"import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$WHEELS_PYTHON')\"; then \\\n"
        f'    echo "The packages in wheels/ need Python $WHEELS_PYTHON, and {base_image} has another: name \\\n'
        'a base_image with it, or fetch packages in the build (PHANTOM_PIPELINES_IMAGE_PACKAGES=index)" >&2; exit 1; fi'
    )


def _check_python(base_image: str) -> str:
    """One shell line that fails with what is needed and what was found, on every Python since 2.6 and without one."""
    minimum = ".".join(map(str, MIN_PYTHON))
    needs = f"This image needs Python {minimum} or newer, and {base_image} has"
    advice = f"name another base_image, such as python:{minimum}-slim"
    script = (
        "import sys; found = '.'.join(map(str, sys.version_info[:3])); "
        f"sys.exit(0 if sys.version_info[:2] >= {MIN_PYTHON} else '{needs} ' + found + ': {advice}')"
    )
    return (
        f"if ! command -v python >/dev/null; then echo '{needs} none: {advice}' >&2; exit 1; fi; \\\n"
        f'    python -c "{script}"'
    )
