"""A load that lasts an instant, on the real gateway before a stub: the harness finds its way through all of it."""

import pytest
from benchmarks.harness import events
from benchmarks.harness.groups.scale import Case, Endpoint, standing
from benchmarks.harness.measure import Shape, measure
from benchmarks.harness.system import CannotMeasure


@pytest.mark.integration
def test_a_gateway_is_loaded_and_its_events_are_in_kafka(tmp_path):
    case = Case("two arms", (Endpoint("bench", (1, 1), arms=2),), ("bench",))
    unary = Shape(in_flight=4, seconds=0.3, warm_s=0.1)
    with standing(tmp_path, case) as gateway:
        kafka = gateway.site.kafka
        loads = [
            measure(gateway, unary, tmp_path),
            measure(gateway, Shape("stream", 32, seconds=0.3), tmp_path),
        ]
        loads.append(measure(gateway, Shape("open", rate=50, seconds=0.3, warm_s=0), tmp_path))
        gateway.stop()
        found = events.read(kafka)
        gateway.set_endpoint("nobody", ())
        gateway.start()
        with pytest.raises(CannotMeasure):
            measure(gateway, unary, tmp_path)
    assert all(each.cpu["gateway"] > 0 for each in loads)
    assert (len(found.seen), found.doubled) == (sum(each.found.answered for each in loads), 0)
