"""Reading the dictionaries that people write: every mistake is named by its place, with what was probably meant."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from phantom_ml_studio.errors import Invalid

Violations = list[tuple[str, str]]


class Reader:
    """One dictionary, and where it stands; `violations` gathers what is wrong in it and in those inside it."""

    def __init__(
        self,
        content: Mapping[str, Any],
        path: str,
        known: Iterable[str],
        violations: Violations | None = None,
    ) -> None:
        self._path, self._known = path, tuple(known)
        self.violations: Violations = [] if violations is None else violations
        self._content: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
        if not isinstance(content, Mapping):
            self.violations.append((path or "config", f"a dictionary was expected, not {content!r}"))
        for name in self._content:
            if name not in self._known:
                self.wrong(str(name), unknown(str(name), self._known))

    def has(self, name: str) -> bool:
        """Whether it was given; None counts as absent."""
        return self._content.get(name) is not None

    def raw(self, name: str) -> Any:
        """As it was given."""
        return self._content.get(name)

    def wrong(self, name: str, what: str) -> None:
        """Keep what is wrong with a key."""
        self.violations.append((f"{self._path}.{name}" if self._path else name, what))

    def number(
        self,
        name: str,
        default: float | None = None,
        *,
        above: float | None = None,
        least: float | None = None,
        most: float | None = None,
        below: float | None = None,
    ) -> float | None:
        """A finite number inside the limits, or the default where it is absent."""
        value = self._content.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            self.wrong(name, f"a number was expected, not {value!r}")
            return default
        number = float(value)
        is_low = (above is not None and number <= above) or (least is not None and number < least)
        is_high = (below is not None and number >= below) or (most is not None and number > most)
        if is_low or is_high:
            self.wrong(name, f"{value!r} is not {_limits(above, least, most, below)}")
            return default
        return number

    def needed(self, name: str, **limits: float) -> float:
        """A number that has to be there."""
        if not self.has(name):
            self.wrong(name, "is missing")
        return self.number(name, **limits) or 0.0

    def percent(self, name: str, default: float | None = None, **limits: float) -> float | None:
        """A share in steps of 0.01 %."""
        value = self.number(name, default, **({"most": 100.0} | limits))
        if value is not None and abs(value * 100 - round(value * 100)) > 1e-6:
            self.wrong(name, f"{value!r} is not in steps of 0.01")
        return value

    def percents(self, name: str) -> list[float]:
        """A list of shares above 0."""
        found = []
        for i, value in enumerate(self._list(name)):
            item = Reader({f"{name}[{i}]": value}, self._path, [f"{name}[{i}]"], self.violations)
            found.append(item.percent(f"{name}[{i}]", above=0))
        return [share for share in found if share is not None]

    def integer(self, name: str, default: int, *, least: int = 0, most: int | None = None) -> int:
        """A whole number inside the limits."""
        value = self._content.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, Integral):
            self.wrong(name, f"a whole number was expected, not {value!r}")
            return default
        number = int(value)
        if number < least or (most is not None and number > most):
            self.wrong(name, f"{value!r} is not {_limits(None, least, most)}")
            return default
        return number

    def flag(self, name: str, default: bool | None = None) -> bool | None:
        """True or False."""
        value = self._content.get(name, default)
        if value is not None and not isinstance(value, bool):
            self.wrong(name, f"True or False was expected, not {value!r}")
            return default
        return value

    def choice(self, name: str, options: Sequence[str], default: str) -> str:
        """One of these words."""
        value = self._content.get(name, default)
        if value not in options:
            self.wrong(name, f"{value!r} is not one of {', '.join(options)}{_meant(str(value), options)}")
            return default
        return str(value)

    def text(self, name: str) -> str:
        """A text that has to be there."""
        value = self._content.get(name)
        if not isinstance(value, str) or not value:
            self.wrong(name, f"a text was expected, not {value!r}" if self.has(name) else "is missing")
            return ""
        return value

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        found = self._list(name)
        for value in found:
            if not isinstance(value, str) or not value:
                self.wrong(name, f"texts were expected, not {value!r}")
        return [value for value in found if isinstance(value, str)]

    def inside(self, name: str, known: Iterable[str]) -> Reader | None:
        """The dictionary under a key; None where it is absent."""
        if not self.has(name):
            return None
        path = f"{self._path}.{name}" if self._path else name
        return Reader(self._content[name], path, known, self.violations)

    def refuse(self, what: str, code: str) -> None:
        """Raises Invalid where anything was wrong."""
        if not self.violations:
            return
        listed = "; ".join(f"{path}: {why}" for path, why in self.violations)
        error = Invalid(f"{what}: {listed}", code=code)
        error.violations = tuple(self.violations)
        raise error

    def _list(self, name: str) -> list[Any]:
        value = self._content.get(name)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            self.wrong(name, f"a list was expected, not {value!r}")
            return []
        return list(value)


def unknown(name: str, known: Iterable[str]) -> str:
    """That there is no such key, what it may have meant, and what there is."""
    options = tuple(known)
    return f"there is no {name!r}{_meant(name, options)}; it takes {', '.join(options)}"


def _meant(name: str, options: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, options, 1)
    return f", did you mean {close[0]!r}?" if close else ""


def _limits(above: float | None, least: float | None, most: float | None, below: float | None = None) -> str:
    low = f"above {above:g}" if above is not None else f"at least {least:g}" if least is not None else ""
    high = f"below {below:g}" if below is not None else f"at most {most:g}" if most is not None else ""
    return " and ".join(part for part in (low, high) if part)
