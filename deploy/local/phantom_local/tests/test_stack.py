"""What the children are told, and what they say."""

import pytest

from phantom_local.embedded.process import free_port
from phantom_local.layout import Layout
from phantom_local.stack import StackSettings, control_child, gateway_child, readiness


def test_a_process_is_told_its_ports_its_servers_and_its_data_directory(layout: Layout) -> None:
    child = gateway_child(layout, StackSettings(), 2, "k:9092")
    assert child.usual_ports == {"grpc": 8021, "http": 8020, "metrics": 8022}
    env = child.launch({"grpc": 1, "http": 2, "metrics": 3}).env
    assert env["PHANTOM_GATEWAY_GRPC_PORT"] == "1"
    assert env["PHANTOM_GATEWAY_METRICS_PORT"] == "3"
    assert env["PHANTOM_GATEWAY_WORKER"] == "2"
    assert env["PHANTOM_GATEWAY_WORKERS"] == "1"
    assert env["PHANTOM_DATA_DIR"] == str(layout.data_dir)
    control = control_child(layout, StackSettings(), "k:9092", "postgresql://x")
    assert control.usual_ports == {"grpc": 50051, "metrics": 9464}
    env = control.launch({"grpc": 1, "metrics": 2}).env
    assert env["PHANTOM_POSTGRES_DSN"] == "postgresql://x"
    assert env["PHANTOM_RUN_POST_MIGRATIONS"] == "true"


def test_the_usual_ports_and_servers_can_be_chosen_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHANTOM_CONTROL_PORT", "6000")
    monkeypatch.setenv("PHANTOM_KAFKA_BOOTSTRAP", "elsewhere:9092")
    monkeypatch.setenv("PHANTOM_KAFKA_PORT", "0")
    settings = StackSettings.from_environment(1)
    assert settings.kafka_ports["kafka"][1] == 0
    assert settings.control_ports["grpc"] == ("PHANTOM_CONTROL_PORT", 6000)
    assert settings.kafka_bootstrap == "elsewhere:9092"
    assert settings.postgres_dsn is None


def test_a_port_variable_that_is_no_port_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHANTOM_GATEWAY_HTTP_PORT", "eighty")
    with pytest.raises(ValueError, match="PHANTOM_GATEWAY_HTTP_PORT is 'eighty'"):
        StackSettings.from_environment(1)


def test_a_process_that_does_not_answer_is_not_ready_and_says_where() -> None:
    port = free_port()
    assert f"port {port} does not answer" in readiness(port)
