from __future__ import annotations

import numpy as np
import pytest

from phantom_contracts.schema import ModelSchema
from phantom_demo import training
from phantom_demo.flights import ALL, SCHEDULE, Flights, load
from phantom_demo.replay import encode_requests
from phantom_ml_studio import oip


@pytest.fixture(scope="module")
def april() -> Flights:
    return load((4,))


def test_april_is_as_published(april: Flights) -> None:
    assert len(april) == 28_330
    assert (april.tail == "").sum() == 208
    assert np.isnan(april.late).sum() == 766


def test_features_are_known_before_departure(april: Flights) -> None:
    assert tuple(april.features.columns) == ALL
    assert not {"dep_delay", "arr_delay", "air_time", "dep_time"} & set(april.features.columns)


def test_flights_come_in_time_order(april: Flights) -> None:
    assert april.features.departure_minute.iloc[0] < 8 * 60
    assert april.features.weekday.iloc[0] == 0  # 1 April 2013 was a Monday
    assert april.features.weekday.iloc[-1] == 1


def test_the_schema_is_one_that_the_platform_takes(april: Flights) -> None:
    categories = training.categories_of(april)
    schema = ModelSchema.model_validate(training.schema(ALL, categories))
    assert schema.score_label == "late"
    assert schema.outcome is not None


def test_a_category_is_its_place_in_the_list_and_an_unknown_one_is_missing(april: Flights) -> None:
    categories = training.categories_of(april) | {"dest": ["ATL"]}
    matrix = training.encode(april.features, SCHEDULE, categories)
    dest = matrix[:, SCHEDULE.index("dest")]
    assert set(np.unique(dest[~np.isnan(dest)])) == {0.0}
    assert np.isnan(dest).any()


def test_a_request_carries_every_feature_and_the_tail_number(april: Flights) -> None:
    raw = encode_requests(april, range(len(april)), "flights-prod", ALL, "run")[0]
    request = oip.message("ModelInferRequest").FromString(raw)
    assert [tensor.name for tensor in request.inputs] == list(ALL)
    assert len(request.raw_input_contents) == len(ALL)
    assert request.id == f"run-{april.row[0]}"
    assert request.parameters["tailnum"].string_param == april.tail[0]
