"""Page tokens: opaque to clients, bound to the list they were given for."""

from __future__ import annotations

import base64
import hashlib
import json

from phantom_pipelines.domain.values import Page
from phantom_platform.errors import Invalid, Violation

DEFAULT_SIZE = 50


def page(size: int, token: str, *filters: object) -> Page:
    """The page that a request wants; `Invalid` `invalid_page_token` for a token of another list."""
    return Page(size or DEFAULT_SIZE, _before(token, _stamp(filters)) if token else None)


def token(last: int | None, *filters: object) -> str:
    """The token of the page after the one that ends at `last`; empty where there is none."""
    if last is None:
        return ""
    return base64.urlsafe_b64encode(json.dumps([last, _stamp(filters)]).encode()).decode()


def _stamp(filters: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(filters).encode()).hexdigest()[:16]


def _before(text: str, stamp: str) -> int:
    try:
        last, given = json.loads(base64.b64decode(text.encode(), altchars=b"-_", validate=True))
    except (ValueError, TypeError, RecursionError):
        last, given = None, None
    if type(last) is not int or not 0 <= last < 2**63 or given != stamp:
        description = "was not given out for this list; leave it out to start from the beginning"
        raise Invalid(code="invalid_page_token", violations=[Violation("page_token", description)])
    return last
