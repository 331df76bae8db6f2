"""The stages' own code at Llama-3.1-8B's shape on a GPU: what `gpu.py` adds where bitsandbytes, PEFT and data/ are.

The parameters are those of the profile `paper`: its threads, its batches, weights unpacked once for training.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import shape
import torch

from tiny import ROOT
from tli.config import parameters
from tli.data.words.lexicon import read_pairs
from tli.measure import embeddings, scoring, token_tree
from tli.measure.scoring import Request
from tli.model import backbone, checkpoint
from tli.model.batched_lora import batched_lora
from tli.stages import scan
from tli.training import loop

PAIRS = ROOT / "data" / "pairs.tsv"


def lines(sequences: list[list[int]], scored: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, line and measurements of each; `sequences` are scored from their last `scored` tokens."""
    chosen = parameters.load(ROOT / "params.yaml", model="lugha_llama")
    compute = chosen.active.compute
    backbone.setup(compute.threads, compute.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = shape.write(Path(temporary) / "quantized")
        one, five = [chosen.train.seed], range(5)
        yield "stage train", "stage `train`, 390 steps", _measured(_train, folder, chosen, one)
        yield "stage sweep-train", "stage `sweep-train`, five seeds of them", _measured(_train, folder, chosen, five)
        yield "stage scan", "stage `scan`, from disk", _measured(_scan, folder, chosen)
        model = checkpoint.load(folder / "nf4")
        torch.nn.init.normal_(model.lm_head.weight, std=0.02)
        asked = [Request(ids, scored) for ids in sequences]
        planned = scoring.plan(asked, 3, compute.batch_size)
        scoring.log_likelihoods(model, scoring.plan(asked[: compute.batch_size], 3, compute.batch_size))  # warm
        line = f"stage `score`, {len(asked) // 3} items of XNLI's shape"
        yield "stage transfer", line, _measured(_score, model, asked, planned)


def _measured(call: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start, found = time.perf_counter(), call(*given)
    torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - start, "peak_bytes": torch.cuda.max_memory_allocated()} | found


def _train(folder: Path, chosen: parameters.Params, seeds: Sequence[int]) -> dict[str, Any]:
    pairs = [pair for pair in read_pairs(PAIRS) if pair.set == "trained"]
    tokenizer, model = checkpoint.tokenizer(folder / "nf4"), loop.load_frozen(folder / "nf4", chosen, pairs)
    with batched_lora(model, chosen.lora, chosen.adapted_blocks, seeds, chosen.train.layer) as adapters:
        loop.train(adapters, tokenizer, pairs, chosen.train)
    words = [form for pair in pairs for form in (pair.swahili, pair.english)]
    tokens = sum(map(len, embeddings.tokens(tokenizer, words))) * chosen.train.epochs * len(seeds)
    return {"tokens": tokens, "flop": 4 * chosen.train.layer * shape.BLOCK_PARAMETERS * tokens}


def _scan(folder: Path, chosen: parameters.Params) -> dict[str, Any]:
    scan.run(PAIRS, folder, folder / "scan.tsv", chosen)
    words = [form for pair in read_pairs(PAIRS) for form in (pair.swahili, pair.english)]
    tokens = sum(map(len, embeddings.tokens(checkpoint.tokenizer(folder / "nf4"), words)))
    return {"tokens": tokens, "flop": 2 * shape.BLOCKS * shape.BLOCK_PARAMETERS * tokens}


def _score(model: Any, asked: list[Request], planned: list[scoring.ScoringBatch]) -> dict[str, Any]:
    scoring.log_likelihoods(model, planned)
    sequences, states = [request.ids for request in asked], sum(len(batch.states) for batch in planned)
    tokens = sum(len(tree.ids) for tree in token_tree.trees(sequences, len(sequences)))
    head = shape.VOCABULARY * shape.HIDDEN
    return {"tokens": tokens, "flop": 2 * shape.BLOCKS * shape.BLOCK_PARAMETERS * tokens + 2 * head * states}
