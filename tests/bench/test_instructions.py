"""Training, scan and scoring on a processor's own instructions and on AVX2 alone, as whole stages of the last run.

In float32 the second is to take at most 1.5 times the first; in bfloat16 it took ten times as long. `make bench` prints
the ratios. Needs a finished run in build/, whose outputs it does not touch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from compare import AVX2, OWN
from tiny import ROOT

TABLE = "Whole stages in float32, on the processor's own instructions and on AVX2 alone"
STAGES = {
    "train": ("smollm2", "train {build}/pairs.tsv {build}/quantized --out {out}/a --rows {out}/t.tsv --log {out}/log"),
    "scan": ("smollm2", "scan {build}/pairs.tsv {build}/quantized --out {out}/scan.tsv"),
    "score": (
        "microworld",
        "score {build}/benchmarks/items.jsonl {build}/quantized {build}/adapter --out {out}/score.tsv",
    ),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("instructions", ["own", "AVX2"])
def test_a_stage(
    benchmark: BenchmarkFixture,
    tmp_path: Path,
    noted: Callable[..., None],
    tell: Callable[[str, str, str], None],
    stage: str,
    instructions: str,
) -> None:
    model, words = STAGES[stage]
    build = ROOT / "build" / model
    if not (build / "adapter").is_dir():
        pytest.skip(f"needs a finished run in {build.relative_to(ROOT)}: `make repro`")
    command = [sys.executable, "-m", "tli", "--model", model, *words.format(build=build, out=tmp_path).split()]
    environment = os.environ | (AVX2 | {"MKL_CBWR": ""} if instructions == "AVX2" else OWN)

    def run() -> int:
        return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True).returncode

    assert benchmark.pedantic(run, rounds=3) == 0
    noted(TABLE, f"{stage} of {model}, {instructions}")
    if instructions == "AVX2":
        tell(f"stage {stage} on AVX2 alone", f"{stage} of {model}, AVX2", f"{stage} of {model}, own")
