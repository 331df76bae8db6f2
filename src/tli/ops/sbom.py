"""What a run is made of, package by package: a CycloneDX list, the licences, known vulnerabilities (`make sbom`).

Names, versions, hashes and who requires what come from the locked list, licences from what the installed packages say
of themselves. torch stands on a line of its own: the builds for different hardware have no common hash, so neither
they nor the CUDA packages that come with them are locked by one. The package that holds a model's weights has a list
and a folder of its own. Feeds no table.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tli.io.files import read_text, write_text
from tli.io.structured import write_json

LOCKED = re.compile(r"^([a-z0-9][a-z0-9.-]*)==([^ ;\\\n]+)(?: ; ([^\\\n]*[^\\\n ]))?(?: \\)?\n((?:    .*\n)*)", re.M)
ROOT = "tli-artifact"
CUDA = ("nvidia-", "cuda-", "triton")
UNHASHED = "not locked by a hash: builds for different hardware have none in common"
MODEL = Path("requirements/model.txt")
LONG = 40  # characters of a License field; what is longer is the licence's own text


class Package(NamedTuple):
    """A locked package: where it is needed (an environment marker, or empty), the hashes allowed, who requires it."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    required_by: tuple[str, ...]

    @property
    def ref(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def run(requirements: Path, torch: Path, out: Path, model: Path = MODEL) -> str:
    """Writes sbom.cdx.json, licences.md and audit.json to the folder `out`; returns a line that sums them up.

    Args:
        requirements: the locked list of what a run needs, with hashes.
        torch: the list of torch alone, without hashes.
        model: the locked list of the package that holds a model's weights.
    """
    packages = [*read(requirements), *read(torch), *read(model), *of_cuda()]
    found = {package.name: licence(package.name) for package in packages}
    write_json(out / "sbom.cdx.json", bom(packages, found))
    write_text(out / "licences.md", page(packages, found))
    checked = audit(requirements, torch, model)
    write_json(out / "audit.json", checked)
    return f"{len(packages)} packages; {checked['said']}"


def read(path: Path) -> Iterator[Package]:
    """The packages of a locked list, in its order."""
    for match in LOCKED.finditer(read_text(path)):
        name, version, marker, rest = match.groups()
        hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", rest)
        via = re.findall(r"^    #(?: via|  ) +(\S.*)", rest, re.M)
        parents = ("" if parent.startswith("-r ") else parent.partition(" ")[0] for parent in via)
        yield Package(name, version, marker or "", tuple(hashes), tuple(parents) or ("",))


def of_cuda() -> Iterator[Package]:
    """The CUDA packages that came with the installed torch; a processor's build has none."""
    for line in importlib.metadata.requires("torch") or []:
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower()
        if name.startswith(CUDA):
            try:
                yield Package(name, importlib.metadata.version(name), "", (), ("torch",))
            except importlib.metadata.PackageNotFoundError:
                continue


def licence(name: str) -> dict[str, Any]:
    """The licence in the installed package's metadata, as CycloneDX writes it: an SPDX expression, or a name.

    The package with a model's weights is installed in the environment's folder `models`, outside sys.path (Makefile).
    """
    places = [*sys.path, str(Path(sys.prefix) / "models")]
    installed = next(iter(importlib.metadata.distributions(name=name, path=places)), None)
    if installed is None:
        return {"license": {"name": "not installed here"}}
    metadata = installed.metadata
    if "License-Expression" in metadata:
        return {"expression": metadata["License-Expression"]}
    said = metadata["License"].strip() if "License" in metadata else ""
    if said and len(said) <= LONG and "\n" not in said:
        return {"license": {"name": said}}
    classes = [value.rpartition(" :: ")[2] for value in metadata.get_all("Classifier") or [] if "License" in value]
    return {"license": {"name": ", ".join(classes) or "not stated"}}


def bom(packages: list[Package], licences: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The list as a CycloneDX 1.6 document; the same packages give the same bytes, so that it holds no time."""
    refs = {package.name: package.ref for package in packages}
    required: dict[str, list[str]] = {ref: [] for ref in (ROOT, *refs.values())}
    for package in packages:
        for parent in package.required_by:
            required[refs[parent] if parent else ROOT].append(package.ref)
    components = []
    for package in packages:
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": package.ref,
            "name": package.name,
            "version": package.version,
            "licenses": [licences[package.name]],
            "purl": package.ref,
        }
        if package.hashes:  # one a file that may be installed: a wheel a platform, or the source
            component["hashes"] = [{"alg": "SHA-256", "content": content} for content in package.hashes]
        notes = {"marker": package.marker, "hashes": "" if package.hashes else UNHASHED}
        if any(notes.values()):
            component["properties"] = [{"name": f"tli:{key}", "value": value} for key, value in notes.items() if value]
        components.append(component)
    own = {
        "type": "application",
        "bom-ref": ROOT,
        "name": ROOT,
        "version": importlib.metadata.version(ROOT),
        "licenses": [licence(ROOT)],
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own},
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": sorted(others)} for ref, others in required.items()],
    }


def page(packages: list[Package], licences: dict[str, dict[str, Any]]) -> str:
    """The licences as a Markdown table."""
    lines = ["# Licences of what a run needs", "", "| package | version | licence | where |", "|---|---|---|---|"]
    for package in packages:
        found = licences[package.name]
        said = found.get("expression") or found["license"]["name"]
        lines.append(
            f"| {package.name} | {package.version} | {_cell(said)} | {_cell(package.marker or 'everywhere')} |"
        )
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def audit(*requirements: Path) -> dict[str, Any]:
    """Known vulnerabilities of the packages in these lists, by pip-audit where it is installed and reaches its service.

    Returns:
        `said`, a line on the outcome, and `found`: package -> the ids of its vulnerabilities, None without an outcome.
    """
    program = shutil.which("pip-audit")
    if program is None:
        return {"said": "vulnerabilities not looked up: no program pip-audit (pip install pip-audit)", "found": None}
    lists = (word for path in requirements for word in ("-r", str(path)))
    call = [program, *lists, "--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off"]
    done = subprocess.run(call, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    try:
        listed = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):  # it reached no service
        last = done.stderr.strip().rpartition("\n")[2]
        return {"said": f"vulnerabilities not looked up: pip-audit: {last}", "found": None}
    found = {each["name"]: sorted(one["id"] for one in each["vulns"]) for each in listed if each.get("vulns")}
    return {"said": f"pip-audit knows vulnerabilities of {len(found)} of {len(listed)}", "found": found}
