"""Reading a stage's configuration strictly: every mistake is named, with what would be right."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from phantom_platform.errors import Invalid, Violation
from phantom_platform.ids import check_name, check_principal, check_resource_id

_CHECKS = {"resource_id": check_resource_id, "name": check_name, "principal": check_principal}


class Reader:
    """Hands out the values of one mapping, and collects what is wrong with it in `problems`.

    Every method returns the default where the value is missing or wrong; `end` names the keys nobody asked for.
    """

    def __init__(self, values: Mapping[str, Any], path: str, problems: list[Violation] | None = None) -> None:
        self._values = values
        self._path = path
        self._asked: set[str] = set()
        self.problems: list[Violation] = [] if problems is None else problems

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._take(name)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.wrong(name, f"is {value!r}; use true or false")
        return default

    def number(
        self,
        name: str,
        *,
        above: float | None = None,
        least: float | None = None,
        most: float | None = None,
        below: float | None = None,
    ) -> float | None:
        """None: not given."""
        value = self._take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.wrong(name, f"is {value!r}; use a number")
            return None
        too_small = (above is not None and value <= above) or (least is not None and value < least)
        too_large = (most is not None and value > most) or (below is not None and value >= below)
        if too_small or too_large:
            self.wrong(name, f"is {value:g}; use {_range(above, least, most, below)}")
            return None
        return float(value)

    def percent(self, name: str, *, least: float = 0.01, below: float | None = None) -> float | None:
        """In steps of 0.01, as shares of traffic are."""
        value = self.number(name, least=least, most=100, below=below)
        if value is None or abs(value * 100 - round(value * 100)) < 1e-6:
            return value
        self.wrong(name, f"is {value:.6g}; use steps of 0.01")
        return None

    def whole(self, name: str, *, least: int, most: int) -> int | None:
        """None: not given."""
        value = self.number(name, least=least, most=most)
        if value is None or value == int(value):
            return None if value is None else int(value)
        self.wrong(name, f"is {value:g}; use a whole number")
        return None

    def text(self, name: str, *, kind: str = "", longest: int = 500) -> str:
        """Empty: not given. `kind` is `resource_id`, `name` or `principal`, where it has to be one."""
        value = self._take(name)
        if value is None:
            return ""
        if not isinstance(value, str) or not value.strip() or len(value) > longest:
            self.wrong(name, f"is {_short(value)}; use a text of 1 to {longest} characters")
            return ""
        return self._checked(value, name, kind)

    def choice(self, name: str, among: Sequence[str], default: str = "") -> str:
        value = self._take(name)
        if value is None:
            return default
        if value in among:
            return str(value)
        near = difflib.get_close_matches(str(value), among, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        self.wrong(name, f"is {_short(value)}{hint}; use one of: {', '.join(among)}")
        return default

    def texts(self, name: str, *, kind: str = "", most: int = 100) -> tuple[str, ...]:
        value = self._take(name)
        if value is None:
            return ()
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            self.wrong(name, f"is {_short(value)}; use a list of texts")
            return ()
        if len(value) > most or len(set(value)) < len(value):
            self.wrong(name, f"has {len(value)} entries; use at most {most}, each once")
            return ()
        return tuple(self._checked(each, f"{name}[{place}]", kind) for place, each in enumerate(value))

    def numbers(self, name: str, *, above: float, below: float) -> tuple[float, ...]:
        value = self._take(name)
        if value is None:
            return ()
        are_numbers = isinstance(value, list | tuple) and all(
            isinstance(each, int | float) and not isinstance(each, bool) and above < each < below
            for each in value
        )
        if not are_numbers:
            self.wrong(name, f"is {_short(value)}; use a list of numbers between {above:g} and {below:g}")
            return ()
        return tuple(float(each) for each in value)

    def section(self, name: str) -> Reader | None:
        """The reader of a nested mapping, to be ended by who asks for it. None: not given."""
        value = self._take(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.wrong(name, f"is {_short(value)}; use a mapping")
            return None
        return Reader(value, f"{self._path}.{name}", self.problems)

    def wrong(self, name: str, description: str) -> None:
        self.problems.append(Violation(f"{self._path}.{name}" if name else self._path, description))

    @property
    def has_strangers(self) -> bool:
        """Whether there are keys that nobody has asked for so far."""
        return any(name not in self._asked for name in self._values)

    def end(self) -> None:
        """Name every key that was not asked for."""
        for name in self._values:
            if name not in self._asked:
                near = difflib.get_close_matches(str(name), sorted(self._asked), 1)
                hint = f"did you mean {near[0]!r}?" if near else f"use: {', '.join(sorted(self._asked))}"
                self.wrong(str(name)[:100], f"is not known here; {hint}")

    def _take(self, name: str) -> Any:
        self._asked.add(name)
        return self._values.get(name)

    def _checked(self, value: str, name: str, kind: str) -> str:
        if kind:
            try:
                return _CHECKS[kind](value, name)
            except Invalid as error:
                self.wrong(name, error.violations[0].description)
        return value


def _range(above: float | None, least: float | None, most: float | None, below: float | None) -> str:
    words = []
    if above is not None:
        words.append(f"more than {above:g}")
    if least is not None:
        words.append(f"at least {least:g}")
    if most is not None:
        words.append(f"at most {most:g}")
    if below is not None:
        words.append(f"less than {below:g}")
    return " and ".join(words)


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"
