"""The image, built once for all tests here from a base that can be had; `make image-test` runs them.

The base is the Dockerfile's own where its registry can be reached, else TLI_BASE_IMAGE or a Debian 12 that debootstrap
makes. TLI_IMAGE_CACHE names the folder that keeps that base and a throwaway engine's programs between runs.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import secrets as random
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import container
import pytest
from container import CACHE, DOCKERFILE, Build, pip_setting, run

from checkout import Checkout, clone
from tiny import ROOT

STAND_IN = "localhost/tli-base:bookworm"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--twice", action="store_true", help="build again without the cache, and compare every file")


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Checkout]]:
    """The smoke run on this machine, without a container; it runs while the image is built."""

    def work() -> Checkout:
        checkout = clone(tmp_path_factory.mktemp("outside") / "project")
        for name in ("paper/figures", "results"):  # paper and report depend on them as wholes
            for folder in (ROOT / name).iterdir():
                if folder.is_dir() and folder.name != checkout.model:
                    ignored = shutil.ignore_patterns("*.receipt.json", "tables.json")
                    shutil.copytree(folder, checkout.root / name / folder.name, ignore=ignored)
        checkout("dvc", "pull", "-q", "data.dvc")
        checkout("dvc", "repro")
        return checkout

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)


@pytest.fixture(scope="session")
def engine() -> Iterator[None]:
    """A Docker engine; where there can be none, the reason of a skip."""
    with container.engine():
        yield


@pytest.fixture(scope="session")
def base(engine: None) -> str:
    """The name of the base image."""
    (pinned,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", DOCKERFILE.read_text(encoding="utf-8"), re.M)
    name = os.environ.get("TLI_BASE_IMAGE", pinned)
    try:
        run("docker", "pull", "-q", name, timeout=180)
    except (AssertionError, subprocess.TimeoutExpired):
        if "TLI_BASE_IMAGE" not in os.environ:
            stand_in()
            name = STAND_IN
    return name


def stand_in() -> None:
    """Imports a Debian 12 with Python under the name STAND_IN."""
    if run("docker", "image", "inspect", STAND_IN, ok=False).returncode == 0:
        return
    tar = CACHE / "bookworm.tar"
    if not tar.exists():
        if os.geteuid() != 0 or shutil.which("debootstrap") is None:
            pytest.skip("the pinned base cannot be had here, nor root and debootstrap to make a stand-in")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            root = Path(folder) / "root"
            run("debootstrap", "--variant=minbase", "--include=ca-certificates,python3,python3-venv", "bookworm", root)
            run("chroot", root, "apt-get", "clean")
            run("tar", "-C", root, "--exclude=./var/lib/apt/lists/*", "-cf", f"{folder}/tar", ".")
            Path(folder, "tar").rename(tar)
    run("docker", "import", tar, STAND_IN)


class Wheels(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def marker() -> str:
    """Stands in the build's secret pip.conf, and so must stand nowhere in the image."""
    return random.token_hex(16)


@pytest.fixture(scope="session")
def packages(marker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """What `docker build` needs to reach packages as pip does here: indexes, authorities, folders of wheels by HTTP."""
    lines = [f"# {marker}", "[global]"]
    for name in ("index-url", "extra-index-url"):
        lines += [f"{name} = {word}" for word in pip_setting(name) if word.startswith("http")]
    folders = [Path(word) for word in pip_setting("find-links") if Path(word).is_dir()]
    servers = [
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Wheels, directory=folder))
        for folder in folders
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    if servers:
        lines += ["find-links =", *(f"    http://127.0.0.1:{server.server_port}/" for server in servers)]
    file = tmp_path_factory.mktemp("secrets") / "pip.conf"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    given = ["--network", "host", "--secret", f"id=pip.conf,src={file}"]
    for authorities in pip_setting("cert")[-1:]:
        given += ["--secret", f"id=cacerts,src={authorities}"]
    if any(wheel for folder in folders for wheel in folder.glob("torch-*+cpu-*.whl")):
        given += ["--build-arg", "TORCH_INDEX="]
    yield given
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def build(packages: list[str]) -> Build:
    """Builds the target cpu by `make image`, as a user does."""

    def call(*arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        given = shlex.join(["--progress", "plain", *packages, *arguments])
        return run("make", "image", "TARGET=cpu", f"ARGS={given}", ok=ok, env=env)

    return call


@pytest.fixture(scope="session")
def image(base: str, outside: Future[Checkout], build: Build) -> str:
    """The name of the image under test; `make image` gives it."""
    build("--build-arg", f"BASE_IMAGE={base}")
    return "tli:cpu"
