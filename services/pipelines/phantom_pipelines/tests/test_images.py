"""Real images, built by buildah on a stand-in base image and run: they serve the model, and say why they cannot be.

`tools/images.sh` brings buildah and the base image; where it cannot, these tests say why and are skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest

from phantom_pipelines.containers import images
from phantom_pipelines.containers.builders import Builder
from phantom_pipelines.containers.images import Workshop
from phantom_pipelines.containers.requirements import find_lock
from phantom_pipelines.runners.containerization import ContainerizationRunner
from phantom_pipelines.tests.test_containers import Artifacts, Stage, make_model
from phantom_platform.errors import Refused

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]

BASE = "localhost/python:3.11-slim"
# In a network of its own: start the image's command as its user, ask it, and end it.
INSIDE = """
import fcntl, json, socket, struct, subprocess, sys, time, urllib.request
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    fcntl.ioctl(one, 0x8914, struct.pack("16sh", b"lo", 1))  # lo goes up
container, config = sys.argv[1], json.loads(sys.argv[2])
server = subprocess.Popen(["buildah", "run", container, "--", *config["Cmd"]], stdout=sys.stderr)
try:
    until = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen("http://localhost:8080/health", timeout=5).read()
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < until
            time.sleep(0.1)
    health = config["Healthcheck"]["Test"]
    checked = subprocess.run(["buildah", "run", container, "--", "/bin/sh", "-c", health[1]]).returncode
    user = subprocess.run(["buildah", "run", container, "--", "id", "-un"], capture_output=True, text=True).stdout
    body = {"inputs": [{"name": "features", "datatype": "FP64", "shape": [1, 2], "data": [1.5, 0.0]}]}
    asked = urllib.request.Request("http://localhost:8080/v2/models/fraud-detection/infer", json.dumps(body).encode())
    answer = json.load(urllib.request.urlopen(asked, timeout=20))
    print(json.dumps({"health": checked, "user": user.strip(), "answer": answer}))
finally:
    server.terminate()
    server.wait(30)
"""


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "artifact")


@pytest.fixture(scope="module")
def store():
    """The builder's environment, with the base image in its store."""
    root = find_lock().parent
    done = subprocess.run(
        ["bash", str(root / "tools" / "images.sh")], capture_output=True, text=True, timeout=400, check=False
    )
    if done.returncode != 0:
        pytest.skip(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "tools/images.sh failed")
    settings = dict([done.stdout.strip().splitlines()[-1].split("=", 1)])
    settings["BUILDAH_ISOLATION"] = "chroot"
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(scope="module")
def workshop(store, tmp_path_factory):
    return Workshop(folder=tmp_path_factory.mktemp("containers"), builder="buildah")


@pytest.fixture
def image_of(workshop, model_file):
    """image_of(**config) → (result, stage) of a containerization stage; its image is gone after the test."""
    made = []

    async def build(**config):
        stage = Stage(model_file[1], **config)
        result = await ContainerizationRunner(Artifacts(model_file[0]), workshop).run(stage)
        made.append(result.result["image"])
        return result.result, stage

    yield build
    for image in made:
        buildah("rmi", image)


def buildah(*arguments, timeout=120):
    return subprocess.run(
        ["buildah", *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )


def inspect(image):
    return json.loads(buildah("inspect", "--type", "image", image).stdout)["Docker"]["config"]


async def test_an_image_is_built_offline_and_serves_its_model(image_of, workshop):
    result, stage = await image_of(base_image=BASE, image_name="fraud-detection")
    assert (result["built"], result["builder"]) == (True, "buildah")
    assert result["tag"] == f"2.1.1-{result['context_digest'].removeprefix('sha256:')[:12]}"
    assert any(line.startswith("STEP") for line in stage.lines)
    config = inspect(result["image"])
    assert config["User"] == "appuser"
    assert set(config["ExposedPorts"]) == {"8080/tcp", "8081/tcp"}
    assert config["Labels"]["io.phantom.context-digest"] == result["context_digest"]
    container = buildah("from", "--pull-never", result["image"]).stdout.strip()
    try:
        asked = await asyncio.to_thread(
            subprocess.run,
            ["unshare", "--net", sys.executable, "-c", INSIDE, container, json.dumps(config)],
            capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
        assert asked.returncode == 0, asked.stderr[-3000:]
        found = json.loads(asked.stdout.splitlines()[-1])
    finally:
        buildah("rm", container)
    assert (found["health"], found["user"]) == (0, "appuser")
    assert found["answer"]["model_version"] == "2.1.1"
    outputs = {each["name"]: each["data"] for each in found["answer"]["outputs"]}
    assert sum(outputs["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert not [name for name in os.listdir(workshop.folder) if name.startswith("build-")]


async def test_the_guides_base_image_is_refused_with_what_it_needs_and_what_it_found(
    store, workshop, model_file, tmp_path
):
    old = "localhost/python:3.9-slim"
    (tmp_path / "python").write_text(
        "#!/usr/bin/python3.11\nimport sys\nsys.version_info = (3, 9, 16, 'final', 0)\nexec(sys.argv[2])\n"
    )
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "Dockerfile").write_text(
        f"FROM {BASE}\nRUN rm /usr/local/bin/python\nCOPY python /usr/local/bin/python\n"
    )
    assert buildah("bud", "--tag", old, str(tmp_path)).returncode == 0
    try:
        made = await images.write_context(workshop, model_file[1], model_file[0], "python:3.9-slim")
        with pytest.raises(Refused) as refused:
            await images.build(workshop, made, Builder("buildah"), "localhost/old:1")
    finally:
        buildah("rmi", old)
    assert refused.value.code == "image_not_built"
    assert "This image needs Python 3.11 or newer, and python:3.9-slim has 3.9.16" in refused.value.message


async def test_a_base_image_that_is_nowhere_fails_the_build_and_says_so(workshop, model_file):
    made = await images.write_context(workshop, model_file[1], model_file[0], "localhost/nothing-here:1")
    with pytest.raises(Refused) as refused:
        await images.build(workshop, made, Builder("buildah", ("--pull-never",)), "localhost/x:1")
    assert "nothing-here" in refused.value.message
