"""The rows of the benchmark's table: ratios, verdicts, what a new run keeps of an old one."""

import json

import pytest
from benchmarks.harness import report
from benchmarks.harness.groups import overload, serving, soak
from benchmarks.harness.load import Found
from benchmarks.harness.measure import Figures
from benchmarks.harness.report import Row
from benchmarks.harness.targets import TARGETS, Target


def figures(rate: float, p50_ms: float = 1.0, **cpu: float) -> Figures:
    found = Found(100, 1.0, rate, 0.1, p50_ms, 2.0, 3.0, 4.0, {})
    return Figures(found, cpu or {"server": 1.0}, {"kafka": 0.1})


def test_a_ratio_is_taken_within_each_round():
    assert report.ratios([10, 40], [5, 10]) == [2, 4]


@pytest.mark.parametrize(("value", "holds"), [(0.84, False), (0.85, True), (0.9, True)])
def test_a_bound_from_below_holds_at_the_bound(value, holds):
    assert Target("g", "m", at_least=0.85).holds(value) is holds


def test_a_judged_row_has_median_extremes_and_verdict():
    row = report.judged("p50", [1.5, 1.1, 1.2])
    assert (row.value, row.min, row.max, row.target, row.holds) == (1.2, 1.1, 1.5, "≤ 1.3", True)


def test_every_target_stands_in_the_table_measured_or_not():
    rows = report.complete([report.judged("floor", [0.9])])
    assert [row.measure for row in rows] == [target.measure for target in TARGETS.values()]
    assert [row.value for row in rows[:2]] == [0.9, None]


def test_a_row_of_another_script_follows_the_targets():
    other = Row("route change applied, ms", 3.0, 1.0, 5.0, "≤ 1000", True, "routes")
    assert report.complete([other])[-1] == other


def test_a_run_replaces_the_rows_of_its_groups_and_keeps_the_others():
    old = [Row("a", 1, 1, 1, group="serving"), Row("b", 1, 1, 1, group="soak")]
    new = [Row("c", 2, 2, 2, group="serving")]
    assert [row.measure for row in report.merged(old, new, ["serving"])] == ["b", "c"]


def test_a_saved_report_is_a_list_of_rows_and_reads_back(tmp_path):
    path = tmp_path / "report.json"
    row = report.stamped([report.judged("floor", [0.9])], "2026-01-01 10:00", "abc")[0]
    detail = report.figures("serving", "unary: ours", [{"requests/s": 10.0}, {"requests/s": 20.0}])[0]
    report.save(path, [detail, row])
    told = json.loads(path.read_text())
    assert all(each.keys() >= {"measure", "value", "min", "max", "target", "holds"} for each in told)
    assert {row, detail} <= set(report.load(path))


def test_details_are_a_line_a_case_and_a_column_a_figure():
    rows = report.figures("g", "one", [{"rate": 1.0}, {"rate": 3.0}]) + report.figures(
        "g", "two", [{"cpu": 5.0}]
    )
    lines = report.details(rows, "g").splitlines()
    assert lines[0] == "| g | rate | cpu |"
    assert lines[2:] == ["| one | 2 (1–3) |  |", "| two |  | 5 |"]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (5075.4, "5,075"), (0.2189, "0.219"), (123.4, "123")]
)
def test_numbers_show_three_digits_that_count(value, text):
    assert report.number(value) == text


def test_the_document_says_what_could_not_be_measured():
    text = report.document([report.judged("floor", [0.9])], {"machine": "2 cores"}, {"peers": "no network"})
    assert "- peers: no network" in text
    assert "- machine: 2 cores" in text


def test_serving_compares_the_systems_of_the_same_round():
    unary, batch = "unary, 32 in flight", "32-row batches, 32 in flight"
    found = {
        f"unary, {n} in flight: {name}": [figures(10.0)] * 2 for n in (1, 128) for name in ("ours", "direct")
    }
    found |= {f"{unary}: {name}": [figures(10.0, server=2.0)] * 2 for name in ("floor", "direct")}
    found |= {f"{unary}: ours": [figures(5.0, gateway=0.5, model=0.5), figures(20.0, gateway=0.5, model=0.5)]}
    found |= {f"{unary}: ours without experiment and log": [figures(10.0)] * 2}
    found |= {f"{batch}: {name}": [figures(10.0)] * 2 for name in ("ours", "direct")}
    found |= {"stream, 32 in flight: ours": [figures(20.0)] * 2}
    rows = {row.measure: row for row in serving.rows(found) if row.target}
    floor, cpu = rows[TARGETS["floor"].measure], rows[TARGETS["cpu"].measure]
    assert (floor.value, floor.min, floor.max) == (1.25, 0.5, 2.0)
    assert cpu.value == 0.5


def test_figures_tell_each_process_and_what_the_cores_could_carry():
    flat = figures(10.0, gateway=0.3, model=0.1).flat()
    assert flat["CPU s/1000"] == pytest.approx(0.4)
    assert flat["gateway CPU"] == 0.3
    assert flat["ceiling/s"] > 0


def test_growth_is_that_of_thirds():
    assert soak.growth_of([1, 1, 9, 5, 5, 5, 2, 2, 2]) == 2


def test_overload_is_judged_by_the_capacity_of_its_round():
    rows = overload.rows([figures(100.0)], [figures(95.0)])
    assert rows[0].value == 0.95
    assert rows[0].holds
