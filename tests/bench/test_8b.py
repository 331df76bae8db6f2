"""Llama-3.1-8B's shape on this machine's processor: the training step and the scan, against what a user would run.

    make bench-8b

Every measurement has a process of its own (worker.py), which also tells its peak memory; the baselines need 9 GB.
What is asserted is that all did the same work; how fast they were, and what was aimed at, goes to docs/performance.md
through `tools/performance`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import shape
from pytest_benchmark.fixture import BenchmarkFixture
from worker import THREADS

from tiny import ROOT

ENVIRONMENT = {
    "OMP_NUM_THREADS": str(THREADS),
    "OPENBLAS_NUM_THREADS": "1",
    "GOMP_SPINCOUNT": "1000",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

STEP, SCAN = "One training step: 8 pairs, 96 tokens, layer 2", "The scan: 1,372 words, 32 blocks"
# Measurement: its table, its line there, and the aims. `times`: how many times as fast as the measurement named;
# `gb`, `seconds`: at most so much; `floor`: the share of its time that the matrix products alone would take, at least.
LINES: dict[str, dict[str, Any]] = {
    "step dequantized": {
        "table": STEP,
        "line": "stage `train`, weights unpacked once",
        "aims": {"times": {"step whole": 20, "step two blocks": 2.2}, "gb": 1.5, "floor": 0.6},
    },
    "step packed": {
        "table": STEP,
        "line": "stage `train`, weights packed",
        "aims": {"times": {"step whole": 8}, "gb": 1.0},
    },
    "step together": {
        "table": STEP,
        "line": "stage `sweep-train`, five seeds side by side, for each of them",
        "aims": {"times": {"step whole": 2}},
    },
    "step two blocks": {"table": STEP, "line": "transformers, PEFT and bitsandbytes, `num_hidden_layers=2`"},
    "step whole": {"table": STEP, "line": "transformers, PEFT and bitsandbytes, `output_hidden_states=True`"},
    "training": {
        "table": "The paper's whole training: 390 steps",
        "line": "stage `train`, weights unpacked once",
        "aims": {"seconds": 150, "gb": 1.5},
    },
    "scan streamed": {
        "table": SCAN,
        "line": "stage `scan`, one block in memory at a time",
        "aims": {"times": {"scan one word": 20, "scan batches": 1.2, "scan offload": 1.2}, "gb": 2.0, "seconds": 240},
    },
    "scan batches": {"table": SCAN, "line": "transformers and bitsandbytes, batches of 64"},
    "scan offload": {"table": SCAN, "line": "Accelerate's disk offload in bfloat16, batches of 64"},
    "scan one word": {"table": SCAN, "line": "transformers and bitsandbytes, one word a forward pass"},
    "imports": {"table": "Imports alone", "line": "torch, transformers, PEFT, bitsandbytes"},
    "rates": {"table": "The machine", "line": "rates"},
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint, in TLI_BENCH_8B where that is set, so that it can be kept for another run."""
    kept = os.environ.get("TLI_BENCH_8B")
    place = Path(kept) if kept else tmp_path_factory.mktemp("8b") / "quantized"
    return place if place.exists() else shape.write(place)


@pytest.fixture(scope="session")
def results() -> dict[str, dict[str, Any]]:
    return {}


@pytest.mark.parametrize("name", LINES)
def test_at_llama_8b_s_shape(
    benchmark: BenchmarkFixture, folder: Path, results: dict[str, dict[str, Any]], name: str
) -> None:
    def process() -> dict[str, Any]:
        call = [sys.executable, str(Path(__file__).parent / "worker.py"), name, str(folder)]
        environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(call, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    results[name] = benchmark.pedantic(process, rounds=1)
    benchmark.extra_info |= {"name": name} | LINES[name] | results[name]


def test_all_did_the_same_work(benchmark: BenchmarkFixture, results: dict[str, dict[str, Any]]) -> None:
    """The same losses, before training moves any by its own schedule; the same mean cosine of translations a layer."""
    benchmark.pedantic(lambda: None, rounds=1)
    losses = {name: found["losses"] for name, found in results.items() if name.startswith("step")}
    assert losses["step packed"] == losses["step dequantized"]
    assert losses["step together"] == pytest.approx(losses["step dequantized"], abs=0.01)
    assert losses["step whole"][0] == pytest.approx(losses["step packed"][0], abs=0.01)
    cosines = [found["cosines"] for found in results.values() if "cosines" in found]
    assert len(cosines) == 3
    for other in cosines[1:]:
        assert other == pytest.approx(cosines[0], abs=0.01)
