"""One code path for float32 products on every processor: which variables a stage sets, keeps and unsets.

The variables only count before the libraries are loaded, so each case is a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny import ROOT
from tli.commands.process import PORTABLE

SMOKE = ROOT / "tests" / "smoke" / "params.yaml"
PROGRAM = """
import json, os, sys
from pathlib import Path
from tli import cli

@cli.main.command()
def report():
    with cli.stage(Path("out"), torch=False):
        print(json.dumps(dict(os.environ)))

cli.main(sys.argv[1:], standalone_mode=False)
"""


def environment_of_a_stage(folder: Path, given: dict[str, str], *changes: str) -> dict[str, str]:
    """The variables that the libraries see in a stage: of a process started with `given`, under --set CHANGES."""
    (folder / "params.yaml").write_text(SMOKE.read_text(encoding="utf-8"), encoding="utf-8")
    before = {key: value for key, value in os.environ.items() if key not in PORTABLE}
    call = subprocess.run(
        [sys.executable, "-c", PROGRAM, *(word for change in changes for word in ("--set", change)), "report"],
        cwd=folder,
        env=before | {"PYTHONPATH": str(ROOT / "src")} | given,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert call.returncode == 0, call.stderr
    seen: dict[str, str] = json.loads(call.stdout)
    return {key: value for key, value in seen.items() if key in PORTABLE}


def test_float32_on_the_processor_takes_the_portable_path(tmp_path: Path) -> None:
    assert environment_of_a_stage(tmp_path, {}) == PORTABLE


@pytest.mark.parametrize(
    "change", ["profiles.microworld.compute.dtype=bfloat16", "profiles.microworld.compute.device=cuda"]
)
def test_bfloat16_and_a_gpu_leave_the_choice_to_the_libraries(tmp_path: Path, change: str) -> None:
    assert environment_of_a_stage(tmp_path, {}, change) == {}


def test_a_variable_that_is_set_stays_and_an_empty_one_is_taken_away(tmp_path: Path) -> None:
    given = {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": ""}
    kept = {name: value for name, value in PORTABLE.items() if name not in given}
    assert environment_of_a_stage(tmp_path, given) == {"MKL_CBWR": "COMPATIBLE", **kept}


def test_every_variable_can_be_switched_off(tmp_path: Path) -> None:
    """So do `make compare` and the drift study run under a processor's own instructions."""
    assert environment_of_a_stage(tmp_path, dict.fromkeys(PORTABLE, "")) == {}


def test_the_products_are_those_of_avx2(tmp_path: Path) -> None:
    """What PyTorch says of itself once a stage has set the variables and loaded it."""
    program = PROGRAM.replace("torch=False", "torch=True").replace(
        "json.dumps(dict(os.environ))", "__import__('torch').backends.cpu.get_cpu_capability()"
    )
    (tmp_path / "params.yaml").write_text(SMOKE.read_text(encoding="utf-8"), encoding="utf-8")
    before = {key: value for key, value in os.environ.items() if key not in PORTABLE}
    call = subprocess.run(
        [sys.executable, "-c", program, "report"],
        cwd=tmp_path,
        env=before | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert call.returncode == 0, call.stderr
    assert call.stdout.split()[-1] == "AVX2"
