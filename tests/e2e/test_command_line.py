"""The README's quick start, line by line as written, and what else people do at a prompt."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness import models
from harness.cli import Shell
from harness.stack import ROOT
from harness.waiting import eventually

if TYPE_CHECKING:
    from harness.people import People
    from harness.stack import Stack
    from phantom_ml_studio.values import Deployment

README = (ROOT / "README.md").read_text()
CONSOLE = re.search(r"```console\n(\$ make setup.*?)```", README, re.DOTALL)
PYTHON = re.search(r"```python\n(.*?)```", README, re.DOTALL)
SCHEMA = {
    "features": [{"name": "sepal"}, {"name": "petal"}],
    "class_labels": ["setosa", "other"],
}
# What the fixtures have done already, or a person's typing.
NOT_HERE = ("make setup", "phantom-ml-studio up", "phantom-ml-studio down")


def commands() -> list[str]:
    """The lines behind the prompts of the README's quick start, without their comments."""
    assert CONSOLE is not None
    lines = [line.removeprefix("$ ") for line in CONSOLE[1].splitlines() if line.startswith("$ ")]
    return [re.sub(r"\s+# .*", "", line) for line in lines]


def test_the_quick_start_of_the_readme_works_as_written(stack: Stack, tmp_path: Path) -> None:
    assert PYTHON is not None
    for name, seed in (("iris", 1), ("iris2", 2)):
        booster = models.booster(seed)
        booster.feature_names = ["sepal", "petal"]
        booster.save_model(tmp_path / f"{name}.ubj")
    (tmp_path / "iris.schema.json").write_text(json.dumps(SCHEMA))
    shell = Shell(stack, tmp_path)
    lines = [line for line in commands() if not line.startswith(NOT_HERE)]
    assert len(lines) >= 8
    said = {}
    for line in lines:
        if line.startswith("phantom-ml-studio rollouts promote"):
            python = shell.python(PYTHON[1])
            assert python.code == 0, python.err
            assert "Prediction(" in python.out
        if "auth login" in line:
            done = shell.bash(f"{line} --password-stdin", stdin=stack.admin_password + "\n")
        elif "rollouts watch" in line:  # for the hour that a canary of the command line takes
            done = shell.bash(f"{line} --timeout 2 || [ $? -eq 6 ]")
        else:
            done = shell.bash(line)
        assert done.code == 0, f"{line}: {done.err}"
        said[line.removeprefix("phantom-ml-studio ").split(" --")[0]] = done.out
    assert re.search(
        r"^0\s+(setosa|other)\s+0\.\d+\s+iris-prod\.1\s+control", said["predict iris"], re.MULTILINE
    )
    assert "mod 10000" in said["explain-route iris u42"]
    assert "canary, 1.0.0 -> 1.1.0" in said["rollouts watch iris-prod"]
    assert re.search(r"share %\s+100\b", said["rollouts promote iris-prod"])
    gone = shell.run("deployments", "delete", "iris-prod", "--yes")
    assert gone.code == 0, gone.err


def test_users_environments_and_promotions_by_the_command_line(
    stack: Stack, people: People, shell: Shell, run_id: str, tmp_path: Path
) -> None:
    admin = Shell(stack, tmp_path / "admin")
    admin.folder.mkdir()
    admin.log_in(people.admin)
    name = f"colleague-{run_id}@company.com"
    made = admin.run(
        "users", "create", name, "--password-stdin", "--output", "json", stdin="a long password\n"
    )
    assert made.json["username"] == name
    assert "models:*" in made.json["permissions"]
    assert name in admin.run("users", "list").out
    assert admin.run("users", "create", name, "--password-stdin", stdin="another password\n").code == 1
    weak = admin.run("users", "create", f"x{name}", "--password-stdin", stdin="short\n")
    assert weak.code == 1
    assert "weak_password" in weak.err

    environment = f"staging-{run_id}"
    assert admin.run("env", "create", "--name", environment, "-o", "json").json["type"] == "local"
    assert environment in admin.run("env", "list").out
    cluster = admin.run("env", "create", "--name", "cluster", "--type", "kubernetes")
    assert cluster.code == 1
    assert "environment_type_unsupported" in cluster.err
    assert shell.run("env", "create", "--name", "mine").code == 4

    model = f"promoted-{run_id}"
    file = models.xgboost_file(tmp_path / "m.json")
    for version in ("1.0.0", "1.1.0"):
        made = shell.run(
            "models", "register", model, "--version", version, "--path", file, "--stage", "staging"
        )
        assert made.code == 0, made.err
    asked = shell.run(
        *("models", "promote", model, "1.1.0", "--from", "staging", "--to", "production"),
        *("--approval-required", "--reviewer", name, "--output", "json"),
    )
    assert asked.code == 3
    promotion = json.loads(asked.out)["promotion_id"]
    assert shell.run("approvals", "grant", promotion).code == 4  # one's own request
    assert promotion in shell.run("approvals", "list").out
    reviewer = Shell(stack, tmp_path / "reviewer")
    reviewer.folder.mkdir()
    assert (
        reviewer.run("auth", "login", "--username", name, "--password-stdin", stdin="a long password\n").code
        == 0
    )
    assert reviewer.run("auth", "whoami", "-o", "json").json["username"] == name
    granted = reviewer.run("approvals", "grant", promotion, "--comment", "fine", "-o", "json").json
    assert (granted["state"], granted["decided_by"]) == ("executed", name)
    assert reviewer.run("approvals", "reject", promotion).code == 5
    shown = shell.run("models", "show", model, "-o", "json").json
    assert {v["version"]: v["stage"] for v in shown["versions"]} == {
        "1.0.0": "staging",
        "1.1.0": "production",
    }
    listed = shell.run("models", "list", "--text", model, "--stage", "production", "-o", "json").json
    assert [each["model_id"] for each in listed] == [model]
    assert shell.run("models", "list", "--text", f"no-{model}", "-o", "json").json == []


def test_predictions_from_csv_and_json_with_missing_values_a_category_and_a_pin(
    shell: Shell, mixed: Deployment, shop: Deployment, stack: Stack
) -> None:
    (shell.folder / "rows.csv").write_text("amount,channel\n0.1,web\n0.9,\n0.4,kiosk\n")
    found = shell.run("predict", mixed.id, "--csv", "rows.csv", "--output", "json").json
    assert found["labels"] == ["low", "high", "low"]
    assert found["revision"] == f"{mixed.id}.1"
    table = shell.run("predict", mixed.id, "--csv", "rows.csv")
    assert [line.split()[:2] for line in table.out.splitlines()[1:]] == [
        ["0", "low"],
        ["1", "high"],
        ["2", "low"],
    ]
    rows = json.dumps([{"amount": 0.9, "hour": None}, {"amount": 0.1, "hour": 3}])
    by_id = shell.run("predict", shop.model_id, "--json", "-", "--version", "1.0.0", "-o", "json", stdin=rows)
    assert by_id.json["labels"] == ["high", "low"]
    missing = shell.run("predict", mixed.id, "--json", "-", stdin='{"channel": "web"}')
    assert missing.code == 1
    assert "[missing_feature]" in missing.err
    assert "'amount'" in missing.err
    unknown = shell.run("predict", "nothing", "--csv", "rows.csv")
    assert unknown.code == 1
    assert "[endpoint_not_found]" in unknown.err


def test_status_tells_what_runs_where_and_logs_show_it(shell: Shell, shop: Deployment) -> None:
    found = eventually(
        lambda: (s := shell.run("status", "--output", "json")).code == 0 and json.loads(s.out), "health"
    )
    names = {each["name"] for each in found["processes"]}
    assert {"kafka", "postgres", "control", "gateway-0"} <= names
    assert any(f"{shop.id}.1" in name or "replica" in name for name in names)
    assert found["healthy"] is True
    table = shell.run("status")
    assert table.code == 0
    assert "gateway-0" in table.out
    assert "MB" in table.err
    logs = shell.run("logs", "control", "--tail", "5")
    assert logs.code == 0
    assert 1 <= len(logs.out.splitlines()) <= 5
    assert shell.run("logs", "nobody").code == 2


@pytest.mark.parametrize("command", ["deployments list", "deployments show {}", "explain-route {} u-1"])
def test_what_is_deployed_is_shown_as_a_table_and_as_json(
    command: str, shell: Shell, shop: Deployment
) -> None:
    arguments = command.format(shop.id).split()
    table, data = shell.run(*arguments), shell.run(*arguments, "--output", "json").json
    assert table.code == 0
    assert shop.id in table.out
    assert shop.id in json.dumps(data)
