"""The pilot: how similar translations look at every layer, beside what random pairs look like (stage: scan).

Feeds the layer-scan table and figure, the table of norms, and what the claims table reads off the loaded model. The
paper's pilot (2506.15415, section 3.1) gives the first of the scan's columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from tli.config.parameters import Params
from tli.data.words.lexicon import Pair, read_pairs
from tli.io import progress
from tli.io.rows import Row, write_rows
from tli.measure import similarity
from tli.measure.embeddings import Embedded, by_layer, content, tokens, vocabulary
from tli.measure.pair_rows import SETS, members, norm_rows
from tli.measure.views import BASE, POOLINGS, View, layers
from tli.model import backbone, checkpoint


def run(pairs_path: Path, quantized: Path, out: Path, params: Params) -> None:
    """The `scan` stage: rows of cell `base` for every layer, 0 to L and norm, under both poolings, on the NF4 cache.

    One block is in memory at a time, unpacked while all words go through it.
    """
    pairs = read_pairs(pairs_path)
    lists = [pair.swahili for pair in pairs], [pair.english for pair in pairs]
    tokenizer, size = checkpoint.tokenizer(quantized / "nf4"), params.active.compute.batch_size
    used = vocabulary(tokenizer, [*lists[0], *lists[1]])
    model = checkpoint.load(quantized / "nf4", vocabulary=used, head=False, weights="dequantized", resident=0)
    found: list[Row] = []
    norms: list[Row] = []
    each = by_layer(model, tokenizer, lists, size)
    for layer, (swahili, english) in progress.track(each, "scan", len(layers(params.active.model))):
        found += rows(pairs, swahili, english, [layer], params.measure.random_seeds)
        norms += norm_rows(BASE, swahili, english, [layer])
        if layer == "1":
            first = swahili
    found += [*norms, *evidence(model, tokenizer, lists[0], size, first)]
    write_rows(out, found)


def rows(
    pairs: Sequence[Pair], swahili: Embedded, english: Embedded, names: Sequence[str], seeds: Sequence[int]
) -> Iterator[Row]:
    """Per layer and pooling: mean cosine of translations and of random pairs, P@1 both ways."""

    def row(set_: str, item: str, view: View, measure: str, value: float) -> Row:
        return Row("base", "-", 0, "-", set_, item, str(view), measure, value)

    for layer in names:
        for pooling in POOLINGS:
            view = View(layer, pooling, "nf4")
            u, v = (similarity.unit(side.pooled[layer, pooling]) for side in (swahili, english))
            cosines = similarity.dots(u, v)
            for set_ in SETS:
                chosen = members(pairs, set_)
                yield row(set_, "-", view, "cosine_mean", float(cosines[chosen].mean()))
                for seed in seeds:
                    random = similarity.dots(u, v, (chosen, chosen[similarity.derangement(len(chosen), seed)]))
                    yield row(set_, f"random{seed}", view, "random_cosine_mean", float(random.mean()))
            matrix = np.clip(u @ v.T, -1.0, 1.0)
            true = np.arange(len(pairs))
            for way, table in (("sw_en", matrix), ("en_sw", matrix.T)):
                yield row("all", "-", view, f"p_at_1.{way}", similarity.precision_at(similarity.ranks(table, true), 1))


@torch.no_grad()
def evidence(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, words: Sequence[str], size: int, embedded: Embedded
) -> Iterator[Row]:
    """What a view is on the loaded model, found by asking transformers itself with some of `words`.

    How many hidden states it returns and which one is its final output; whether layer 0 is the rows of the embedding
    matrix; whether the poolings are plain means of hidden_states[1] over all tokens and over the words' own; whether
    the cosine is the dot product of vectors scaled to length 1. Rows of set `model`, in words: `no` where it is not so.
    One word goes through all blocks; the first batch, as it was in the scan, through two.
    """
    sequences = tokens(tokenizer, words)
    indices = next(backbone.batches(sequences, size))
    ids, real = backbone.pad([sequences[index] for index in indices], tokenizer.pad_token_id)
    own = content(ids, real, tokenizer)
    body = backbone.body_of(model)
    config: Any = model.config
    placed = ids.to(body.embed_tokens.weight.device)
    output: Any = body(input_ids=placed[:1], use_cache=False, output_hidden_states=True)
    hidden = output.hidden_states
    final = [number for number, states in enumerate(hidden) if torch.equal(states, output.last_hidden_state)]
    blocks, body.layers = body.layers, body.layers[:2]  # of one alone transformers returns no state before the norm
    try:
        first = body(input_ids=placed, use_cache=False, output_hidden_states=True).hidden_states[1].float().cpu()
    finally:
        body.layers = blocks

    def is_mean(pooling: str, chosen: torch.Tensor) -> bool:
        means = np.stack([states[where].numpy().mean(axis=0) for states, where in zip(first, chosen, strict=True)])
        return bool(np.allclose(embedded.pooled["1", pooling][indices], means, rtol=1e-4, atol=1e-5))

    x, y = (embedded.pooled["1", pooling][indices].astype(np.float64) for pooling in POOLINGS)
    dots = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(x, y, strict=True)]
    rope = _rope(getattr(config, "rope_parameters", None) or {})
    found: dict[str, float | str] = {
        "architecture": f"{config.model_type}, rope {rope}",
        "hidden_states": len(hidden),
        "final_hidden_state": final[-1] if final else "no",
        "layer_0": "embeddings" if torch.equal(hidden[0], checkpoint.rows(body.embed_tokens, placed[:1])) else "no",
        "mask_pooling": "mean of all tokens" if is_mean("mask", real) else "no",
        "content_pooling": "mean of the word's own tokens" if is_mean("content", own) else "no",
        "cosine": "dot product at length 1" if np.allclose(similarity.cosine(x, y), dots, rtol=0, atol=1e-9) else "no",
    }
    for measure, value in found.items():
        yield Row(*BASE, "model", "-", "-", measure, value)


def _rope(parameters: Mapping[str, Any]) -> str:
    """The type of the rotary embeddings; by type of layer where each has its own, as in Gemma 3."""
    if "rope_type" in parameters:
        return str(parameters["rope_type"])
    return ", ".join(f"{layer} {each['rope_type']}" for layer, each in sorted(parameters.items())) or "unknown"
