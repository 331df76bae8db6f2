"""docker/ as it stands in the repository: what needs no engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

from container import DOCKERFILE, pip_setting, run

from tiny import ROOT

TEXT = DOCKERFILE.read_text(encoding="utf-8")


def test_hadolint_finds_nothing() -> None:
    assert json.loads(run("hadolint", "--format", "json", DOCKERFILE).stdout) == []


def test_the_base_is_fully_qualified_and_pinned_by_digest() -> None:
    (base,) = re.findall(r"^ARG BASE_IMAGE=(.*)$", TEXT, re.M)
    assert re.fullmatch(r"docker\.io/library/python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", base)
    sources = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", TEXT, re.M)
    stages = [name for _, name in sources]
    assert {source for source, _ in sources} - set(stages) == {"${BASE_IMAGE}"}
    assert {"cpu", "cuda"} < set(stages)
    assert stages[-1] == "cuda", "the default target"


def test_the_dockerfile_fetches_no_frontend_and_checks_no_health() -> None:
    assert not re.search(r"^# *syntax *=", TEXT, re.M | re.I)
    assert "HEALTHCHECK" not in TEXT, "nothing serves"


def test_the_label_s_version_is_the_project_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert re.findall(r'image\.version="([^"]*)"', TEXT) == [project["version"]]


def test_a_failed_build_shows_where_the_base_is_re_pinned() -> None:
    """Docker prints the lines before the failing FROM: they name a heading of docker/README.md."""
    lines = TEXT.splitlines()
    before = lines[next(i for i, line in enumerate(lines) if line.startswith("FROM ${BASE_IMAGE}")) - 1]
    (heading,) = re.findall(r'docker/README\.md, "([^"]+)"', before)
    assert f"## {heading}\n" in (ROOT / "docker" / "README.md").read_text(encoding="utf-8")


def test_the_scripts_name_headings_that_exist() -> None:
    page = (ROOT / "docker" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"docker/README\.md, '([^']+)'", (ROOT / "docker" / "entrypoint").read_text(encoding="utf-8"))
    assert named
    for heading in named:
        assert f"## {heading}\n" in page


def test_what_git_ignores_is_no_part_of_the_build() -> None:
    """.dockerignore lets in by name: each name is the repository's, and each file of the repository has one."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
    named = {line[1:].split("/")[0] for line in lines if line.startswith("!")}
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {path.split("/")[0] for path in listed} == named, "a new top-level file belongs into .dockerignore"


def test_torch_s_cuda_build_fits_the_lists(tmp_path: Path) -> None:
    """What `cuda` would install, resolved from metadata alone: CUDA's packages, and else the locked versions."""
    text = (ROOT / "requirements" / "run.txt").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([a-z0-9][a-z0-9.-]*)==([^ ;\\]+)", text, re.M))
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in locked.items()), encoding="utf-8")
    index = [f"--default-index={address}" for address in pip_setting("index-url")[-1:]]
    authorities = dict(zip(["SSL_CERT_FILE"], pip_setting("cert")[-1:], strict=False))
    said = run(
        "uv",
        "pip",
        "compile",
        "-q",
        "--no-config",
        "--no-header",
        "--no-annotate",
        "--python-version=3.11",
        "--python-platform=x86_64-manylinux_2_28",
        "-c",
        constraints,
        *index,
        "requirements/torch.txt",
        env=os.environ | authorities,
    )
    resolved = dict(line.split("==") for line in said.stdout.splitlines())
    cuda = {name for name in resolved if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert {"nvidia-nccl-cu13", "triton"} <= cuda
    assert {
        name: version for name, version in resolved.items() if name not in {"torch", *cuda}
    }.items() <= locked.items()
