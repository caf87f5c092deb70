"""Rows from JSON and CSV."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import typer

from phantom_ml_studio.cli.rows import csv_rows, json_rows, read_text

HERE = Path("rows.csv")


def test_a_column_of_csv_is_what_all_its_cells_can_be_read_as() -> None:
    content = "amount,count,flag,city,mixed\n1.5,1,true,Bern,1\n-2e3,2,False,Thun,x\n"
    assert csv_rows(HERE, content, ()) == [
        {"amount": 1.5, "count": 1, "flag": True, "city": "Bern", "mixed": "1"},
        {"amount": -2000.0, "count": 2, "flag": False, "city": "Thun", "mixed": "x"},
    ]


def test_empty_cells_are_missing_values() -> None:
    content = "a,b,c\n,,x\n1,true,\n"
    assert csv_rows(HERE, content, ()) == [
        {"a": None, "b": None, "c": "x"},
        {"a": 1, "b": True, "c": None},
    ]


def test_what_the_endpoint_takes_as_text_stays_text() -> None:
    content = "zip,amount\n007,1\n,2\n"
    assert csv_rows(HERE, content, {"zip"}) == [{"zip": "007", "amount": 1}, {"zip": None, "amount": 2}]


def test_quoted_cells_may_hold_commas() -> None:
    assert csv_rows(HERE, 'a,b\n"1, or 2",3\n', ()) == [{"a": "1, or 2", "b": 3}]


@pytest.mark.parametrize("content", ["", "a,b\n", "a,b\n1\n", "a,b\n1,2,3\n"])
def test_csv_that_does_not_fit_its_header_is_a_usage_error(
    content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        csv_rows(HERE, content, ())
    assert ended.value.exit_code == 2
    assert "rows.csv" in capsys.readouterr().err


def test_json_is_a_row_or_a_list_of_rows_from_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"a": 1, "b": null}')
    assert json_rows(path) == [{"a": 1, "b": None}]
    monkeypatch.setattr("sys.stdin", io.StringIO('[{"a": "x"}, {}]'))
    assert json_rows(Path("-")) == [{"a": "x"}, {}]


@pytest.mark.parametrize("content", ["", "{", "[]", "1", "[1]", '"x"', "null"])
def test_json_that_holds_no_rows_is_a_usage_error(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(typer.Exit) as ended:
        json_rows(path)
    assert ended.value.exit_code == 2
    assert str(path) in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "nothing", tmp_path, binary):
        with pytest.raises(typer.Exit) as ended:
            read_text(path)
        assert ended.value.exit_code == 2
