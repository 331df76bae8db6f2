"""The benchmark for a GPU, where there is none: its 4-bit numbers are bitsandbytes', and all of it runs small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from tiny import ROOT

sys.path.append(str(ROOT / "tests" / "bench"))
import gpu


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_numbers_are_bitsandbytes_own(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    codes, state = quantize_4bit(torch.randn(96, 128), quant_type="nf4")
    state.dtype = dtype
    ours = gpu.unpack(gpu.Packed(codes, state.absmax, state.shape), dtype)
    assert torch.equal(ours, dequantize_4bit(codes, state))


def test_it_runs_and_writes_what_the_page_takes(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    call = [sys.executable, str(ROOT / "tests" / "bench" / "gpu.py"), str(out), "--tiny"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stdout.count("tokens/s") == 3
    lines = [each["extra_info"] for each in json.loads(out.read_text())["benchmarks"]]
    assert [line["name"] for line in lines] == ["gpu train", "gpu scan", "gpu score"]
    assert all(line["seconds"] > 0 and line["flop"] > 0 and line["rate"] > 0 for line in lines)
