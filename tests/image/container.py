"""What the tests of the image share: running commands, and the engine, found or started."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tiny import ROOT, SHARED

DOCKERFILE = ROOT / "docker" / "Dockerfile"
COMPOSE = ROOT / "docker" / "compose.yaml"
ENGINE = Path(os.environ.get("TLI_DOCKER_ENGINE", SHARED.parent / "tools" / "docker-engine"))
Build = Callable[..., subprocess.CompletedProcess[str]]
CACHE = Path(os.environ.get("TLI_IMAGE_CACHE", Path(tempfile.gettempdir()) / f"tli-image-{os.getuid()}"))


def run(
    *command: str | Path, ok: bool = True, timeout: float = 900, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `command` in the project's root, both streams in one; asserts its success unless ok=False."""
    words = [str(word) for word in command]
    call = subprocess.run(
        words,
        cwd=ROOT,
        env=env,
        timeout=timeout,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert not ok or call.returncode == 0, f"{shlex.join(words)}: exit {call.returncode}\n{call.stdout[-4000:]}"
    return call


def pip_setting(name: str) -> list[str]:
    """The words of pip's setting `name` (index-url, find-links, cert …) here, of its files and of the environment."""
    listed = run(sys.executable, "-m", "pip", "config", "list").stdout
    values = re.findall(rf"^[\w:]+\.{name}=(.*)$", listed, re.M)
    return list(dict.fromkeys(word for value in values for word in ast.literal_eval(value).split()))


@contextmanager
def engine() -> Iterator[None]:
    """Gives `docker` an engine: the local one where it works, else the program ENGINE for as long as this lasts.

    That program is `ENGINE FOLDER -- COMMAND...`: it runs COMMAND with an engine of its own, and needs root.
    """
    if shutil.which("docker") and run("docker", "info", ok=False).returncode == 0:
        yield
        return
    if os.geteuid() != 0:
        pytest.skip("no working Docker here, and no root to start one")
    if not os.access(ENGINE, os.X_OK):
        pytest.skip("no working Docker here, and TLI_DOCKER_ENGINE names no program that starts one")
    CACHE.mkdir(parents=True, exist_ok=True)
    told = CACHE / "environment"
    told.unlink(missing_ok=True)
    wait = f"env -0 > {shlex.quote(str(told))}; cat > /dev/null"  # until its input ends
    with (CACHE / "engine.log").open("wb") as log:
        process = subprocess.Popen(
            [str(ENGINE), str(CACHE / "engine"), "--", "sh", "-c", wait], stdin=subprocess.PIPE, stdout=log, stderr=log
        )
    assert process.stdin is not None
    try:
        while process.poll() is None and not (told.exists() and told.stat().st_size):
            time.sleep(0.2)
        assert process.poll() is None, f"{ENGINE} started no engine: {(CACHE / 'engine.log').read_text()[-2000:]}"
        lines = told.read_text(encoding="utf-8").split("\0")
        before = dict(os.environ)
        os.environ.update(line.split("=", 1) for line in lines if line.startswith(("DOCKER_", "PATH=")))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
    finally:
        process.stdin.close()
        process.wait()  # it removes its layers, which takes as long as it takes


class Scan:
    """Reads a stream to its end in pieces, hashes it, and tells which of `needles` it holds."""

    def __init__(self, needles: list[bytes]) -> None:
        self.needles = needles
        self.overlap = max(map(len, needles), default=1) - 1

    def __call__(self, stream: IO[bytes]) -> tuple[str, set[bytes]]:
        digest, found, tail = hashlib.sha256(), set(), b""
        while piece := stream.read(1 << 20):
            digest.update(piece)
            tail += piece
            found |= {needle for needle in self.needles if needle in tail}
            tail = tail[-self.overlap :]
        return digest.hexdigest(), found


def listing(image: str, needles: list[bytes]) -> tuple[dict[str, str], dict[str, set[bytes]]]:
    """Every path of the image with its kind, mode, owner and content, as text; and which files hold which needles."""
    name = run("docker", "create", image).stdout.split()[-1]
    files, found, scan = {}, {}, Scan(needles)
    try:
        with subprocess.Popen(["docker", "export", name], stdout=subprocess.PIPE) as export:
            with tarfile.open(fileobj=export.stdout, mode="r|") as tar:
                for member in tar:
                    content = member.linkname
                    if member.isfile():
                        stream = tar.extractfile(member)
                        assert stream is not None
                        content, held = scan(stream)
                        if held:
                            found[member.name] = held
                    files[member.name] = f"{member.type!r} {member.mode:o} {member.uid}:{member.gid} {content}"
            assert export.wait() == 0
    finally:
        run("docker", "rm", "-v", name)
    return files, found
