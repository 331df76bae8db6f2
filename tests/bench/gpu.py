"""The paper's training, the scan and XNLI-shaped scoring at Llama-3.1-8B's shape on a GPU, in one call.

    python tests/bench/gpu.py build/bench/gpu.json

Needs torch, transformers and this repository, fetches nothing, takes a few minutes and 30 GB of the GPU's memory.
`tools/performance` takes the JSON beside that of the other benchmarks. The first three lines miss nothing where
bitsandbytes is not installed: weights are random NF4 codes that `unpack` turns into numbers, as bitsandbytes would
(tests/unit/test_gpu.py). They time the shape and the operations of the stages, not their own code; with `--tiny`
they run on any machine. Where the project's own packages and data/ are there, the stages themselves follow
(gpu_stages.py).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "src"))
sys.path.insert(0, str(ROOT / "tests"))
from tli.measure import token_tree  # noqa: E402 - found through the line above

# QLoRA (2305.14314), appendix E, as bitsandbytes has the sixteen values.
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
BLOCK = 64  # weights that share a scale
RANK, ALPHA, DROPOUT, LR, MARGIN, LAYER, PAIRS, STEPS = 16, 32, 0.05, 2e-4, 0.4, 2, 8, 390
WORDS, TOKENS = 1372, 6  # the scan's words; tokens a word, BOS counted
PREMISES, PREMISE, HYPOTHESIS = 240, 27, 16  # scored items / 3, and their tokens
AIMS = {
    "train": {"seconds": 10},
    "score": {"floor": 0.5},
    "stage train": {"seconds": 10},
    "stage transfer": {"floor": 0.5},
}


class Packed(NamedTuple):
    """A 4-bit weight: two codes a byte, the first in the high half, and a scale for every 64 weights."""

    codes: Tensor
    scales: Tensor
    shape: torch.Size


def unpack(packed: Packed, dtype: torch.dtype) -> Tensor:
    """w_i = NF4[c_i] * scale_(i div 64), multiplied in float32 and rounded once to `dtype`."""
    values = torch.tensor(NF4, device=packed.codes.device)
    codes = torch.stack([packed.codes.flatten() >> 4, packed.codes.flatten() & 15], dim=1).flatten().int()
    numbers = values[codes].view(-1, BLOCK) * packed.scales.float()[:, None]
    return numbers.to(dtype).view(packed.shape)


def drawn(shape: torch.Size, device: str) -> Packed:
    codes = torch.randint(0, 256, (shape.numel() // 2,), dtype=torch.uint8, device=device)
    return Packed(codes, torch.full((shape.numel() // BLOCK,), 0.06, device=device), shape)


def config(tiny: bool) -> LlamaConfig:
    sizes = (64, 128, 2, 1, 512, 3) if tiny else (4096, 14336, 32, 8, 128256, 32)
    names = (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "num_hidden_layers",
    )
    made = LlamaConfig(**dict(zip(names, sizes, strict=True)), tie_word_embeddings=False)
    made._attn_implementation = "sdpa"
    return made


class Lora(nn.Module):
    """W x + s B A dropout(x), A and B in float32 around a frozen W, as PEFT has it for 4-bit weights."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, device = base, base.weight.device
        self.a = nn.Parameter(torch.randn(RANK, base.in_features, device=device) / math.sqrt(base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, RANK, device=device))

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.dropout(x.float(), DROPOUT, self.training) @ self.a.T
        result: Tensor = self.base(x) + (inner @ self.b.T * (ALPHA / RANK)).to(x.dtype)
        return result


class Model:
    """Blocks in 4 bits, and one block's worth of room to unpack them into."""

    def __init__(self, settings: LlamaConfig, device: str) -> None:
        self.config, self.device = settings, device
        self.rotary = LlamaRotaryEmbedding(settings).to(device)
        self.room = self.block()
        self.names = [name for name, weight in self.room.named_parameters() if weight.ndim == 2]
        shapes = [self.room.get_parameter(name).shape for name in self.names]
        self.packed = [[drawn(shape, device) for shape in shapes] for _ in range(settings.num_hidden_layers)]
        self.weights = settings.num_hidden_layers * sum(shape.numel() for shape in shapes)

    def block(self, number: int = 0) -> LlamaDecoderLayer:
        with torch.device(self.device):
            made: LlamaDecoderLayer = LlamaDecoderLayer(self.config, number).bfloat16().requires_grad_(False)
        return made

    def fill(self, block: nn.Module, number: int) -> None:
        for name, packed in zip(self.names, self.packed[number], strict=True):
            block.get_parameter(name).data = unpack(packed, torch.bfloat16)

    def embedded(self, *shape: int) -> Tensor:
        return torch.randn(*shape, self.config.hidden_size, device=self.device, dtype=torch.bfloat16) * 0.02

    def positions(self, states: Tensor, depth: Tensor | None = None) -> tuple[Tensor, Tensor]:
        depth = torch.arange(states.shape[1], device=self.device)[None] if depth is None else depth
        found: tuple[Tensor, Tensor] = self.rotary(states, depth)
        return found


def train(model: Model, steps: int) -> dict[str, Any]:
    """The whole training of one adapter, two blocks unpacked once, `steps` steps of 8 pairs; on CUDA in a graph."""
    blocks = [model.block(number) for number in range(LAYER)]
    for number, block in enumerate(blocks):
        model.fill(block, number)
        for name, module in [*block.named_modules()]:
            if isinstance(module, nn.Linear):
                block.set_submodule(name, Lora(module))
    trained = [weight for block in blocks for weight in block.parameters() if weight.requires_grad]
    cuda = model.device == "cuda"
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.01, **({"capturable": True} if cuda else {}))
    words, own = model.embedded(2 * PAIRS, TOKENS), torch.eye(PAIRS, dtype=torch.bool, device=model.device)
    positions = model.positions(words)

    def step() -> Tensor:
        states = words
        for block in blocks:
            output = block(states, position_embeddings=positions)
            states = output[0] if isinstance(output, tuple) else output
        anchors, positives = states.float().mean(dim=1).chunk(2)
        similarity = nn.functional.cosine_similarity(anchors[:, None], positives[None], dim=-1)
        hardest = similarity.masked_fill(own, -math.inf).amax(dim=1)
        loss = torch.relu(MARGIN + hardest - similarity.diagonal()).mean()
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        return loss.detach()

    run, start = step, time.perf_counter()
    if cuda:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = step()

        def run() -> Tensor:
            graph.replay()
            words.copy_(torch.randn_like(words) * 0.02)  # another batch
            return kept

    for _ in range(steps):
        loss = run()
    last, seconds = float(loss), time.perf_counter() - start
    if not math.isfinite(last):
        raise SystemExit(f"train: expected a finite loss, got {last}")
    weights = model.weights * LAYER // model.config.num_hidden_layers
    tokens = steps * 2 * PAIRS * TOKENS
    return {"seconds": seconds, "tokens": tokens, "flop": 4 * weights * tokens}


@torch.no_grad()
def scan(model: Model) -> dict[str, Any]:
    """Every word through every block, each block unpacked when its turn comes; pooled, and their cosines."""
    start, states = time.perf_counter(), model.embedded(WORDS, TOKENS)
    positions, cosines = model.positions(states), []
    for number in range(model.config.num_hidden_layers):
        model.fill(model.room, number)
        output = model.room(states, position_embeddings=positions)
        states = output[0] if isinstance(output, tuple) else output
        pooled = nn.functional.normalize(states.float().mean(dim=1), dim=-1)
        cosines.append((pooled[: WORDS // 2] @ pooled[WORDS // 2 :].T).diagonal().mean())
    if not torch.stack(cosines).isfinite().all():
        raise SystemExit("scan: expected finite cosines")
    return {
        "seconds": time.perf_counter() - start,
        "tokens": WORDS * TOKENS,
        "flop": 2 * model.weights * WORDS * TOKENS,
    }


@torch.no_grad()
def score(model: Model) -> dict[str, Any]:
    """Log-likelihoods of nine answers a premise, three to each of three hypotheses; what they share is run once."""
    size = model.config.vocab_size
    planned = [*token_tree.batches(xnli_shaped(size), 576)]
    batches = [token_tree.pad_trees(batch, 0) for batch in planned]
    table = torch.randn(size, model.config.hidden_size, device=model.device, dtype=torch.bfloat16) * 0.02
    head, blocks = table.clone(), []
    for number in range(model.config.num_hidden_layers):
        blocks.append(model.block(number))
        model.fill(blocks[-1], number)
    synchronize(model.device)
    start, scored, total = time.perf_counter(), 0, torch.zeros((), device=model.device)
    for batch in batches:
        ids, depth, end = batch.to(model.device)
        states, mask = table[ids], token_tree.attention_mask(end, torch.bfloat16)
        positions = model.positions(states, depth)
        for block in blocks:
            output = block(states, attention_mask=mask, position_embeddings=positions)
            states = output[0] if isinstance(output, tuple) else output
        foretelling = states[depth >= PREMISE]
        logits = (foretelling @ head.T).float()
        total += logits.log_softmax(dim=-1).amax(dim=-1).sum()
        scored += len(foretelling)
    if not math.isfinite(float(total)):
        raise SystemExit(f"score: expected a finite sum, got {float(total)}")
    tokens = sum(len(tree.ids) for batch in planned for tree in batch)
    flop = 2 * model.weights * tokens + 2 * head.numel() * scored
    return {"seconds": time.perf_counter() - start, "tokens": tokens, "flop": flop}


def xnli_shaped(vocabulary: int) -> list[list[int]]:
    """Nine sequences of random tokens a premise: each of three answers between it and each of three hypotheses."""
    draw, sequences = random.Random(0), []
    for _ in range(PREMISES):
        premise = [draw.randrange(vocabulary) for _ in range(PREMISE)]
        hypotheses = [[draw.randrange(vocabulary) for _ in range(HYPOTHESIS)] for _ in range(3)]
        sequences += [[*premise, answer, *hypothesis] for hypothesis in hypotheses for answer in range(3)]
    return sequences


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def rate(device: str, n: int) -> float:
    """FLOP a second of a bfloat16 product of two n x n matrices, the best of twenty."""
    a, b, best = torch.randn(n, n, device=device).bfloat16(), torch.randn(n, n, device=device).bfloat16(), math.inf
    for _ in range(20):
        synchronize(device)
        start = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def measured(
    call: Callable[[], dict[str, Any]], device: str, warm: Callable[[], object] | None = None
) -> dict[str, Any]:
    if warm is not None:
        warm()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found = call()
    return found | ({"peak_bytes": torch.cuda.max_memory_allocated()} if device == "cuda" else {})


Line = tuple[str, str, dict[str, Any]]  # name, what the page says, measurements


def stages() -> Iterator[Line]:
    """The stages' own code, where what they need is installed."""
    missing = [name for name in ("bitsandbytes", "peft", "pydantic", "ruamel.yaml") if find_spec(name) is None]
    missing += [] if (ROOT / "data" / "pairs.tsv").exists() else ["data/pairs.tsv"]
    if missing:
        return print(f"the stages themselves: left out, no {', '.join(missing)}")
    import gpu_stages

    yield from gpu_stages.lines(xnli_shaped(gpu_stages.shape.TOKENS), HYPOTHESIS)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="where the JSON goes")
    parser.add_argument("--tiny", action="store_true", help="a small model on the processor, to see that it runs")
    asked = parser.parse_args(arguments)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as every stage sets it (tli.cli)
    device = "cpu" if asked.tiny else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("expected a CUDA device, found none; --tiny runs it on the processor")
    torch.manual_seed(0)
    named = torch.cuda.get_device_name() if device == "cuda" else "the processor, a tiny model"
    best, model = rate(device, 512 if asked.tiny else 8192), Model(config(asked.tiny), device)
    lines: list[Line] = [
        ("train", f"the operations of `train`, {STEPS} steps", measured(lambda: train(model, STEPS), device)),
        ("scan", "those of `scan`, from memory", measured(lambda: scan(model), device, lambda: scan(model))),
        (
            "score",
            f"those of `score`, {3 * PREMISES} items of XNLI's shape",
            measured(lambda: score(model), device, lambda: score(model)),
        ),
    ]
    del model
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    now, shown = datetime.now(UTC).isoformat(), []
    table = f"Llama-3.1-8B's shape on a GPU: {named}, {now[:10]}"
    for name, line, found in chain(lines, () if asked.tiny else stages()):
        seconds = found["seconds"]
        speed = f"{found['tokens'] / seconds:,.0f} tokens/s"
        memory = f"{found['peak_bytes'] / 1e9:.1f} GB, " if "peak_bytes" in found else ""
        share = f"{found['flop'] / best / seconds:.0%} of {best / 1e12:.2g} TFLOP/s"
        print(f"{line}: {seconds:.2f} s, {speed}, {memory}{share}", flush=True)
        shown.append(
            {
                "extra_info": {
                    "name": f"gpu {name}",
                    "table": table,
                    "line": f"{line}: {speed}",
                    "rate": best,
                    "aims": AIMS.get(name, {}),
                }
                | found
            }
        )
        report = {"datetime": now, "device": named, "benchmarks": shown}
        asked.out.write_text(json.dumps(report), encoding="utf-8")  # as far as it is


if __name__ == "__main__":
    main()
