"""Which files of the machine the service reads for those who register datasets."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from phantom_pipelines.app import _dataset_roots
from phantom_pipelines.settings import PipelinesSettings
from phantom_pipelines.tests.laboratory import Versions, make_laboratory
from phantom_platform.errors import Refused
from phantom_probing.dataset_files import Access
from phantom_probing.tests.conftest import FRAUD


def roots(data_dir: Path, **settings: Any) -> tuple[Path, ...]:
    context: Any = SimpleNamespace(data_dir=data_dir)
    return _dataset_roots(context, PipelinesSettings(**settings))


def test_datasets_are_read_from_the_data_directorys_own_folder_and_from_what_the_operator_adds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert roots(tmp_path) == (tmp_path / "datasets",)
    monkeypatch.setenv("PHANTOM_PIPELINES_DATASET_ROOTS", f"/srv/a{os.pathsep}/srv/b")
    assert roots(tmp_path) == (tmp_path / "datasets", Path("/srv/a"), Path("/srv/b"))
    with pytest.raises(ValidationError, match="'here' is no absolute path"):
        roots(tmp_path, dataset_roots="here")


async def test_a_file_of_the_machine_that_somebody_registers_is_not_opened(tmp_path: Path) -> None:
    versions = Versions(tmp_path / "store")
    laboratory = make_laboratory(versions, tmp_path)
    laboratory._access = Access((tmp_path / "data" / "datasets",))
    await laboratory.start()
    assert (tmp_path / "data" / "datasets").is_dir()
    (tmp_path / "payroll.csv").write_text("name,salary\nada,1\n")
    versions.add_dataset(tmp_path / "payroll.csv", "payroll")
    with pytest.raises(Refused) as error:
        await laboratory.rows("default", FRAUD, "payroll")
    assert error.value.code == "dataset_outside_roots"
    assert "salary" not in error.value.message
