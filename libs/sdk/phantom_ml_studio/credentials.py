"""Where the platform is and who we are: the login file, and the addresses that a local stack leaves behind."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from phantom_ml_studio.errors import PhantomError, Unauthenticated

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_GATEWAY = "127.0.0.1:8001"


@dataclass(frozen=True)
class Login:
    """A token and where it is valid."""

    address: str
    username: str
    token: str
    expires_at: float  # unix seconds

    @property
    def has_expired(self) -> bool:
        """True where the token's hour is over."""
        return datetime.now(UTC).timestamp() >= self.expires_at


def config_dir() -> Path:
    """PHANTOM_CONFIG_DIR, else phantom-ml-studio in the user's configuration folder."""
    if given := os.environ.get("PHANTOM_CONFIG_DIR"):
        return Path(given)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "phantom-ml-studio"


def _login_file() -> Path:
    return config_dir() / "credentials.json"


def save(login: Login) -> Path:
    """Write the login to a file that only its user can read; returns the path."""
    path = _login_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(login), file)
    temporary.replace(path)
    return path


def forget() -> bool:
    """Delete the login; False where there was none."""
    try:
        _login_file().unlink()
    except FileNotFoundError:
        return False
    return True


def load() -> Login:
    """The stored login. Raises Unauthenticated where there is none, it cannot be read, or it has expired."""
    path = _login_file()
    try:
        content = json.loads(path.read_text())
        login = Login(**{field.name: content[field.name] for field in fields(Login)})
    except FileNotFoundError:
        raise Unauthenticated(
            "not logged in: run `phantom-ml-studio auth login --username <you>`", code="not_logged_in"
        ) from None
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise Unauthenticated(
            f"{path} cannot be read ({error!r}): log in again", code="not_logged_in"
        ) from error
    if login.has_expired:
        raise Unauthenticated(
            f"the login of {login.username} has expired: run "
            f"`phantom-ml-studio auth login --username {login.username}`",
            code="login_expired",
        )
    return login


def local_stack() -> dict[str, object]:
    """What `up` wrote about the local stack; empty where none runs from this data directory."""
    data_dir = Path(os.environ.get("PHANTOM_DATA_DIR") or Path.home() / ".phantom-ml-studio")
    try:
        stack = json.loads((data_dir / "run" / "stack.json").read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise PhantomError(f"{data_dir}/run/stack.json cannot be read: {error}", code="stack_file") from error
    return stack if isinstance(stack, dict) else {}


def control_address() -> str:
    """PHANTOM_ADDRESS, else the local stack's, else 127.0.0.1:50051."""
    return os.environ.get("PHANTOM_ADDRESS") or str(local_stack().get("control_address") or DEFAULT_ADDRESS)


def gateway_address() -> str:
    """PHANTOM_GATEWAY, else the local stack's first gateway, else 127.0.0.1:8001."""
    if given := os.environ.get("PHANTOM_GATEWAY"):
        return given
    gateways = local_stack().get("gateways")
    if isinstance(gateways, list) and gateways:
        return str(gateways[0].get("grpc", DEFAULT_GATEWAY))
    return DEFAULT_GATEWAY
