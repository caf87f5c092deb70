"""Build contexts, tags, builders and the containerization stage, without a real builder (see test_images.py)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from phantom_contracts.container import ContainerFile
from phantom_contracts.schema import Feature, ModelSchema
from phantom_pipelines.containers import builders, commands, context, images, sources, wheels
from phantom_pipelines.containers.dockerfile import Wanted, dockerfile
from phantom_pipelines.containers.images import Workshop
from phantom_pipelines.containers.requirements import find_lock, requirements
from phantom_pipelines.domain.configs import read
from phantom_pipelines.domain.configs.containerization import ContainerizationConfig
from phantom_pipelines.domain.values import ModelVersion
from phantom_pipelines.runners.containerization import ContainerizationRunner
from phantom_pipelines.runners.runner import StageFacts
from phantom_platform.errors import Invalid, Refused

SCHEMA = ModelSchema(features=(Feature(name="f0"), Feature(name="f1")), class_labels=("no", "yes"))


def make_model(path):
    """A small XGBoost model and its version."""
    import numpy as np
    import xgboost as xgb

    rows = np.random.default_rng(0).normal(size=(80, 2))
    matrix = xgb.DMatrix(rows, rows[:, 0] > 0, feature_names=["f0", "f1"])
    path.write_bytes(xgb.train({"objective": "binary:logistic", "nthread": 1}, matrix, 2).save_raw("ubj"))
    return path, version_of(path)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "artifact")


def version_of(path, **changes):
    raw = path.read_bytes()
    fields = {
        "model_id": "fraud-detection",
        "version": "2.1.1",
        "digest": f"sha256:{hashlib.sha256(raw).hexdigest()}",
        "size_bytes": len(raw),
        "file_name": "model.pkl",
        "framework": "xgboost",
        "schema_json": SCHEMA.model_dump_json(),
    }
    return ModelVersion(**{**fields, **changes})


def written(model_file, folder, base_image="python:3.11-slim", **changes):
    path, _ = model_file
    return context.write(version_of(path, **changes), path, base_image, find_lock(), folder)


# -- the Dockerfile ----------------------------------------------------------------------------------------------
def test_the_dockerfile_has_the_guides_sections_in_its_order():
    lines = dockerfile(Wanted("python:3.11-slim", "fraud-detection", "2.1.1")).splitlines()
    wanted = [
        "FROM python:3.11-slim",
        "    apt-get update && apt-get install -y \\",
        "WORKDIR /app",
        "COPY requirements.txt .",
        "COPY src/ ./src/",
        "COPY models/ ./models/",
        "COPY config/ ./config/",
        "RUN adduser --disabled-password --gecos '' appuser",
        "RUN chown -R appuser:appuser /app",
        "USER appuser",
        "EXPOSE 8080",
        "HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \\",
        'CMD ["python", "-m", "phantom_model_server", "--container", "config/serve.json"]',
    ]
    assert [line for line in lines if line in wanted] == wanted
    assert not any(
        "syntax=" in line or "--link" in line or "<<" in line or "@sha256" in line for line in lines
    )


@pytest.mark.parametrize("value", ["", "a b", "a\nRUN id", 'a"b', "a\\"])
def test_no_value_can_write_a_line_of_its_own_into_the_dockerfile(value):
    with pytest.raises(ValueError, match="cannot stand in a Dockerfile"):
        dockerfile(Wanted("python:3.11-slim", "fraud", value))


@pytest.mark.parametrize(("found", "code"), [("3.9.16", 1), ("3.10.1", 1), ("3.11.2", 0), ("3.13.0", 0)])
async def test_the_python_check_says_what_is_needed_and_what_was_found(found, code, tmp_path):
    ended = await checked(tmp_path, found)
    assert ended.code == code
    if code:
        said = (
            f"This image needs Python 3.11 or newer, and python:3.9-slim has {found}: name another base_image"
        )
        assert said in ended.tail


async def test_the_python_check_says_that_there_is_no_python(tmp_path):
    ended = await checked(tmp_path, "")
    assert ended.code == 1
    assert "python:3.9-slim has none" in ended.tail


async def checked(folder: Path, found: str):
    """The check's shell line, on a PATH whose python says to be of this version."""
    text = dockerfile(Wanted("python:3.9-slim", "m", "1"))
    line = text.split("RUN ")[1].split("ARG")[0].replace("\\\n", "\n")
    if found:
        python = folder / "python"
        numbers = tuple(map(int, found.split(".")))
        python.write_text(
            f"#!{sys.executable}\nimport sys\nsys.version_info = {(*numbers, 'final', 0)}\nexec(sys.argv[2])\n"
        )
        python.chmod(0o755)
    return await commands.run(["/bin/sh", "-c", f"PATH={folder}\n{line}"], timeout_s=20)


# -- the context -------------------------------------------------------------------------------------------------
def test_the_same_version_gives_the_same_bytes_whenever_it_is_written(model_file, tmp_path, monkeypatch):
    first = written(model_file, tmp_path / "a")
    os.utime(model_file[0], (1, 1))
    monkeypatch.setattr(os, "umask", lambda _: 0)
    second = written(model_file, tmp_path / "b")
    assert first.digest == second.digest
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.path.name == f"{first.digest.removeprefix('sha256:')}.tar"
    assert first.size_bytes == first.path.stat().st_size
    assert list((tmp_path / "a").iterdir()) == [first.path]


def test_another_version_base_image_or_model_gives_another_digest(model_file, tmp_path):
    digests = {
        written(model_file, tmp_path).digest,
        written(model_file, tmp_path, version="2.1.2").digest,
        written(model_file, tmp_path, base_image="python:3.12-slim").digest,
        written(model_file, tmp_path, model_id="other").digest,
    }
    assert len(digests) == 4


def test_the_context_holds_what_the_dockerfile_copies_and_nothing_of_this_machine(model_file, tmp_path):
    made = written(model_file, tmp_path)
    with tarfile.open(made.path) as archive:
        members = archive.getmembers()
        names = [member.name for member in members]
        serve = archive.extractfile("config/serve.json").read()
        model = archive.extractfile("models/fraud-detection-2.1.1.ubj").read()
        needed = archive.extractfile("requirements.txt").read().decode()
    assert names == sorted(names)
    assert {(each.mtime, each.uid, each.gid, each.uname, each.mode) for each in members} == {
        (0, 0, 0, "", 0o644)
    }
    assert {name.split("/")[0] for name in names} == {
        "Dockerfile",
        "requirements.txt",
        "wheels",
        "src",
        "models",
        "config",
    }
    assert {"src/phantom_model_server/__main__.py", "src/phantom_runtimes/loading.py"} <= set(names)
    assert "src/phantom/modelserver/v1/model_server_service_pb2.py" in names
    assert not any("/tests/" in name or "__pycache__" in name or name.endswith(".pyc") for name in names)
    file = ContainerFile.model_validate_json(serve)
    assert (file.model_id, file.model_version, str(file.artifact_path)) == (
        "fraud-detection", "2.1.1", "models/fraud-detection-2.1.1.ubj",
    )  # fmt: skip
    assert file.artifact.digest == f"sha256:{hashlib.sha256(model).hexdigest()}"
    assert file.model_schema == SCHEMA
    assert needed == made.requirements()


def test_requirements_are_those_of_the_framework_pinned_with_hashes():
    lock = find_lock()
    by_framework = {each: requirements(lock, each) for each in ("xgboost", "onnx", "scikit-learn")}
    for framework, text in by_framework.items():
        entries = [line for line in text.splitlines() if not line.startswith(("#", " "))]
        assert all("==" in line for line in entries)
        assert text.count("--hash=sha256:") > len(entries)
        assert "\naiohttp==" in text
        assert "\nyarl==" in text, "what aiohttp needs comes along"
        for other in ("pandas", "aiokafka", "pytest", "asyncpg", "sqlalchemy"):
            assert f"\n{other}==" not in text, framework
    assert "\nxgboost-cpu==" in by_framework["xgboost"]
    assert "\nxgboost-cpu==" not in by_framework["onnx"]
    assert "\nonnxruntime==" in by_framework["onnx"]
    with pytest.raises(Refused, match="there is no model server for 'torch'"):
        requirements(lock, "torch")


def test_a_lock_that_pins_too_little_or_is_not_there_is_refused(tmp_path):
    (tmp_path / "requirements.lock").write_text(
        "numpy==1.0 \\\n    --hash=sha256:00\n    # via -r requirements.in\n"
    )
    with pytest.raises(Refused, match="does not pin aiohttp"):
        requirements(tmp_path / "requirements.lock", "onnx")
    with pytest.raises(Refused, match="PHANTOM_PIPELINES_REQUIREMENTS_LOCK"):
        find_lock(Path("/nowhere/at/all"))


ONLY = """
import importlib.metadata, re, sys
allowed = set(sys.argv[1].split(","))
owners = importlib.metadata.packages_distributions()
ours = {"buf", "inference", "phantom"}
ours |= {f"phantom_{each}" for each in ("contracts", "model_server", "platform", "runtimes")}
class Only:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        names = {re.sub(r"[-_.]+", "-", each).lower() for each in owners.get(top, [])}
        if names and top not in ours and not names & allowed:
            raise ModuleNotFoundError(f"No module named {top!r} in the image", name=top)
sys.meta_path.insert(0, Only())
from pathlib import Path
import numpy, uvloop
from phantom_contracts.schema import ModelSchema
from phantom_model_server import app, container, rest
from phantom_runtimes import load
model = load(Path(sys.argv[3]), sys.argv[2], ModelSchema.model_validate_json(sys.argv[4]))
model.predict(numpy.zeros((1, 2), numpy.float32))
"""


@pytest.mark.parametrize("framework", ["xgboost", "onnx", "scikit-learn"])
def test_the_pinned_packages_are_all_that_the_server_needs(framework, model_file, tmp_path):
    path = model_file[0] if framework == "xgboost" else other_model(framework, tmp_path / "artifact")
    names = re.findall(r"(?m)^([a-z0-9._-]+)==", requirements(find_lock(), framework))
    allowed = ",".join(re.sub(r"[-_.]+", "-", name) for name in names)
    command = [sys.executable, "-c", ONLY, allowed, framework, str(path), SCHEMA.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def other_model(framework, path):
    import numpy as np
    import skops.io
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
    labels = np.where(rows[:, 0] > 0, "yes", "no")
    model = LogisticRegression().fit(rows, labels)
    if framework == "onnx":
        exported = to_onnx(model, rows[:1], options={"zipmap": False})
        path.write_bytes(exported.SerializeToString())
    else:
        skops.io.dump(model, path)
    return path


def test_the_servers_packages_import_only_what_the_image_holds():
    from phantom_pipelines.containers.sources import PACKAGES

    known = {name.split("/")[0] for name, _ in sources.files()}
    assert known == set(PACKAGES)
    for name, content in sources.files():
        if name.startswith("phantom_model_server/"):
            for other in ("phantom_pipelines", "phantom_registry", "phantom_statistics", "phantom_scanner"):
                assert other.encode() not in content, name


@pytest.mark.parametrize(
    ("content", "changes", "code"),
    [
        (b"\x80\x04N.", {"framework": "scikit-learn"}, "pickle_in_image"),
        (b"what is this", {}, "unknown_format"),
        (b"{}", {"framework": "onnx"}, "wrong_format"),
        (None, {"schema_json": ""}, "no_schema"),
    ],
)
def test_a_version_that_no_image_can_serve_is_refused(content, changes, code, model_file, tmp_path):
    path = tmp_path / "artifact"
    path.write_bytes(model_file[0].read_bytes() if content is None else content)
    with pytest.raises(Refused) as refused:
        context.write(version_of(path, **changes), path, "python:3.11-slim", find_lock(), tmp_path / "out")
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("strategy", "version", "expected"),
    [
        ("version+hash", "2.1.1", "2.1.1-0123456789ab"),
        ("version", "2.1.1", "2.1.1"),
        ("hash", "2.1.1", "0123456789ab"),
        ("version+hash", "2.1.1+build.7", "2.1.1_build.7-0123456789ab"),
    ],
)
def test_tags_follow_their_strategy(strategy, version, expected):
    assert context.tag(strategy, version, "0123456789ab") == expected


def test_an_unknown_strategy_is_refused_here_and_in_the_configuration():
    with pytest.raises(ValueError, match="there is no tag strategy 'latest'"):
        context.tag("latest", "1", "0")
    with pytest.raises(Invalid):
        read("containerization", {"tag_strategy": "latest"})
    with pytest.raises(Invalid, match="no registry is named"):
        read("containerization", {"push": True})
    assert read("containerization", {"push": False}).config == ContainerizationConfig(push=False)


# -- builders and commands ---------------------------------------------------------------------------------------
@pytest.fixture
def programs(tmp_path, monkeypatch):
    """programs(docker=script, …) → a PATH with these only; each call is kept in `calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls = tmp_path / "calls"
    monkeypatch.setenv("PATH", str(folder))

    def make(**scripts):
        for name, script in scripts.items():
            path = folder / name
            path.write_text(f'#!/bin/sh\nPATH=/usr/bin:/bin\necho "{name} $*" >> {calls}\n{script}\n')
            path.chmod(path.stat().st_mode | stat.S_IEXEC)
        return calls

    return make


WORKS = 'while [ $# -gt 0 ]; do [ "$1" = --iidfile ] && echo sha256:built > "$2"; shift; done; exit 0'


async def test_docker_is_taken_where_its_daemon_answers_else_buildah(programs):
    programs(docker="exit 0", buildah="exit 0")
    assert (await builders.find("auto"))[0].program == "docker"
    assert (await builders.find("buildah"))[0].program == "buildah"
    programs(docker="echo cannot connect to the daemon; exit 1")
    assert (await builders.find("auto"))[0].program == "buildah"
    builder, why = await builders.find("docker")
    assert builder is None
    assert "docker does not answer (cannot connect to the daemon)" in why


async def test_without_a_builder_it_is_said_why(programs):
    programs()
    builder, why = await builders.find("auto")
    assert (builder, why) == (None, "docker is not installed; buildah is not installed")
    assert "is none" in (await builders.find("none"))[1]


async def test_a_command_that_takes_too_long_ends_with_its_children(tmp_path):
    witness = tmp_path / "pid"
    ended = await commands.run(["/bin/sh", "-c", f"sleep 60 & echo $! > {witness}; wait"], timeout_s=0.5)
    assert ended.code is None
    assert "longer than 0.5 s" in ended.tail

    pid = witness.read_text().strip()
    assert await asyncio.to_thread(is_gone_soon, pid)


def is_gone_soon(pid: str) -> bool:
    """Whether the process is dead within ten seconds."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


async def test_a_command_sees_none_of_our_settings(monkeypatch):
    monkeypatch.setenv("PHANTOM_SECRET", "s3cret")
    assert "s3cret" not in (await commands.run(["/usr/bin/env"], timeout_s=10)).tail


async def test_wheels_are_fetched_once_and_a_failure_says_why(tmp_path):
    with pytest.raises(Refused) as refused:
        await wheels.fetch("no-such-package==1 --hash=sha256:00\n", tmp_path, timeout_s=60)
    assert refused.value.code == "wheels_unavailable"
    assert [each.name for each in tmp_path.iterdir()] == []
    empty = await wheels.fetch("# nothing\n", tmp_path, timeout_s=60)
    again = await wheels.fetch("# nothing\n", tmp_path, timeout_s=0.001)
    assert empty == again


# -- the stage ---------------------------------------------------------------------------------------------------
class Artifacts:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.downloads = 0

    async def download(self, workspace, digest, target):
        self.downloads += 1
        target.write_bytes(self.path.read_bytes())


class Stage:
    """A `StageContext` in memory."""

    def __init__(self, model, **config) -> None:
        self.finished_checks: dict = {}
        self.lines: list[str] = []
        now = datetime(2026, 1, 1, tzinfo=UTC)
        self.facts = StageFacts(
            "default", "e1", "p", "build", "ada", model, ContainerizationConfig(**config), (), 1, now
        )

    async def check(self, name, run):
        if name not in self.finished_checks:
            self.finished_checks[name] = json.loads(json.dumps(await run()))
        return self.finished_checks[name]

    async def log(self, text, level="info", *, once=""):
        self.lines.append(text)

    async def progress(self, share):
        assert 0 <= share <= 1


def workshop(folder, **changes):
    return Workshop(folder=folder, packages="index", **changes)


async def test_without_a_builder_the_stage_ends_with_the_context_and_says_so(model_file, tmp_path, programs):
    programs()
    stage = Stage(model_file[1], registry="phantomml.azurecr.io", image_name="fraud-detection")
    result = await ContainerizationRunner(Artifacts(model_file[0]), workshop(tmp_path)).run(stage)
    assert result.ok
    assert (result.result["built"], result.result["pushed"]) == (False, False)
    assert sorted(each.name for each in (tmp_path / "contexts").iterdir()) == [
        result.result["context_digest"].removeprefix("sha256:") + ".tar"
    ]
    short = result.result["context_digest"].removeprefix("sha256:")[:12]
    assert result.result["image"] == f"phantomml.azurecr.io/fraud-detection:2.1.1-{short}"
    assert (
        "No image was built: docker is not installed; buildah is not installed" in result.result["statement"]
    )
    assert result.result["statement"] in stage.lines


async def test_an_image_is_built_and_not_pushed_where_pushing_is_not_set_up(model_file, tmp_path, programs):
    calls = programs(buildah=WORKS)
    stage = Stage(model_file[1], registry="phantomml.azurecr.io")
    result = await ContainerizationRunner(Artifacts(model_file[0]), workshop(tmp_path)).run(stage)
    assert (result.ok, result.result["builder"], result.result["image_id"]) == (
        True,
        "buildah",
        "sha256:built",
    )
    assert result.result["pushed"] is False
    assert "was not pushed: phantomml.azurecr.io is not among" in result.result["statement"]
    asked = calls.read_text()
    assert "buildah bud --format docker" in asked
    assert f"--tag {result.result['image']}" in asked
    assert "buildah push" not in asked
    assert not list(tmp_path.glob("build-*")), "the build's folder is gone"


async def test_an_image_is_pushed_to_a_registry_that_the_operator_names(model_file, tmp_path, programs):
    calls = programs(docker=WORKS)
    place = workshop(tmp_path, push_registries=("registry.example",))
    result = await ContainerizationRunner(Artifacts(model_file[0]), place).run(
        Stage(model_file[1], registry="registry.example")
    )
    assert result.result["pushed"] is True
    assert f"docker push {result.result['image']}" in calls.read_text()
    held = await ContainerizationRunner(Artifacts(model_file[0]), place).run(
        Stage(model_file[1], registry="registry.example", push=False)
    )
    assert "push: false" in held.result["statement"]


async def test_a_push_that_is_asked_for_and_not_allowed_is_refused_before_anything_is_built(
    model_file, tmp_path, programs
):
    calls = programs(docker=WORKS)
    stage = Stage(model_file[1], registry="registry.example", push=True)
    with pytest.raises(Refused, match=r"may not push to registry\.example"):
        await ContainerizationRunner(Artifacts(model_file[0]), workshop(tmp_path)).run(stage)
    assert not calls.exists()


async def test_a_failed_build_names_the_cause_and_leaves_no_folder(model_file, tmp_path, programs):
    said = "This image needs Python 3.11 or newer, and x has 3.9.16"
    script = f"echo STEP 2/20: RUN check; echo '{said}'; echo noise; exit 1"
    programs(buildah=f'[ "$1" = --version ] && exit 0\n{script}')
    with pytest.raises(Refused) as refused:
        await ContainerizationRunner(Artifacts(model_file[0]), workshop(tmp_path)).run(Stage(model_file[1]))
    assert refused.value.code == "image_not_built"
    assert "needs Python 3.11 or newer, and x has 3.9.16" in refused.value.message
    assert not list(tmp_path.glob("build-*"))


async def test_a_context_that_was_deleted_meanwhile_is_said_to_be(model_file, tmp_path, programs):
    programs(docker=WORKS)
    stage = Stage(model_file[1])
    runner = ContainerizationRunner(Artifacts(model_file[0]), workshop(tmp_path))
    await runner.run(stage)
    del stage.finished_checks["image"]
    for path in (tmp_path / "contexts").iterdir():
        path.unlink()
    with pytest.raises(Refused) as refused:
        await runner.run(stage)
    assert refused.value.code == "context_missing"


async def test_what_a_killed_build_left_is_swept_and_a_living_one_is_not(model_file, tmp_path, programs):
    programs(docker=WORKS)
    place = workshop(tmp_path, build_timeout_s=100)
    for name, age_s in (("build-dead", 500), ("build-alive", 10)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    await ContainerizationRunner(Artifacts(model_file[0]), place).run(Stage(model_file[1]))
    assert sorted(name for name in os.listdir(tmp_path) if name.startswith("build-")) == ["build-alive"]


async def test_a_failed_push_is_told_apart_from_a_failed_build(model_file, tmp_path, programs):
    programs(docker=f'[ "$1" = push ] && echo denied && exit 1\n{WORKS}')
    place = workshop(tmp_path, push_registries=("registry.example",))
    with pytest.raises(Refused) as refused:
        await ContainerizationRunner(Artifacts(model_file[0]), place).run(
            Stage(model_file[1], registry="registry.example")
        )
    assert refused.value.code == "image_not_pushed"


async def test_an_interrupted_stage_goes_on_where_it_was(model_file, tmp_path, programs):
    calls = programs(docker=WORKS)
    artifacts = Artifacts(model_file[0])
    stage = Stage(model_file[1])
    runner = ContainerizationRunner(artifacts, workshop(tmp_path))
    first = await runner.run(stage)
    before = calls.read_text().count("docker build")
    again = await runner.run(stage)
    assert again.result == first.result
    assert (artifacts.downloads, calls.read_text().count("docker build")) == (1, before)
    assert await runner.undo(stage) == ""


def test_an_image_without_a_registry_belongs_to_nobody_elses():
    assert images.image_name("", "fraud", "1") == "localhost/fraud:1"
    assert images.image_name("r.example/team", "fraud", "1") == "r.example/team/fraud:1"
