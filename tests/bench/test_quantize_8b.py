"""Peak memory of `quantize` at Llama-3.1-8B's own shape: it must not grow with the checkpoint, 32 GB in float32.

The published file's layout, sparse: the values are zeros, the sizes real. What is written takes 12 GB of disk;
TLI_8B_BLOCKS=2 takes two of the 32 blocks, and 4.6 GB.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from tiny import ROOT
from tli.io.rows import read_rows
from tli.io.structured import read_json

BLOCKS = int(os.environ.get("TLI_8B_BLOCKS", "32"))
CONFIG = {
    "architectures": ["LlamaForSequenceClassification"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "torch_dtype": "float32",
}
LIMIT = 2.5e9  # bytes, imports included
BLOCK = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
    "input_layernorm": (4096,),
    "post_attention_layernorm": (4096,),
}


def write_sparse(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of zeros in float32 that takes no room on disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        handle.truncate(8 + len(text) + end)


def test_quantize_stays_below_the_limit_at_the_real_shape(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "quantized"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(CONFIG))
    write_sparse(base / "model-0.safetensors", {"model.embed_tokens.weight": (128256, 4096)})
    for number in range(BLOCKS):
        shapes = {f"model.layers.{number}.{name}.weight": shape for name, shape in BLOCK.items()}
        write_sparse(base / f"model-1-{number:02d}.safetensors", shapes)
    write_sparse(
        base / "model-2.safetensors",
        {"model.norm.weight": (4096,), "lm_head.weight": (128256, 4096), "score.weight": (2, 4096)},
    )
    command = [sys.executable, "-m", "tli", "quantize", str(base), "--out", str(out), "--rows", f"{out}.tsv"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    benchmark.pedantic(lambda: subprocess.run(command, cwd=ROOT, env=environment, check=True), rounds=1)
    receipt = read_json(f"{out}.receipt.json")
    rows = read_rows(f"{out}.tsv").set_index(["set", "item", "measure"])["value"]
    for kind in ("nf4", "fp4"):
        assert int(rows[kind, "projections", "parameters"]) == BLOCKS * 218_103_808
        assert int(rows[kind, "others", "parameters"]) == 2 * 128256 * 4096 + (2 * BLOCKS + 1) * 4096
        assert rows[kind, "model", "class"] == "LlamaForCausalLM"
    files = [path for folder in (base, out) for path in folder.rglob("*") if path.is_file()]
    benchmark.extra_info |= {
        "table": f"Quantising {BLOCKS} blocks of Llama-3.1-8B's shape",
        "name": "quantize",
        "line": "stage `quantize`: from float32 to NF4 and FP4",
        "seconds": receipt["seconds"],
        "peak_bytes": receipt["peak_memory_bytes"],
        "copied_bytes": sum(path.stat().st_size for path in files),
        "aims": {"gb": LIMIT / 1e9},
    }
    assert receipt["peak_memory_bytes"] < LIMIT
