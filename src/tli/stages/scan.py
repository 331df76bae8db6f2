"""Stage `scan`: the layer scan of the base model, as in the paper's pilot (2506.15415, section 3.1).

At every layer and under both poolings, over the pairs i of a set:

    cosine_mean        = mean_i cos(x_i, y_i)          x_i, y_i the embeddings of a Swahili form and its translation
    random_cosine_mean = mean_i cos(x_i, y_{p(i)})     p a random pairing without fixed points, one per seed
    p_at_1             = share of i with cos(x_i, y_i) > cos(x_i, y_j) for all other pairs j

Details: measure/similarity.py. `evidence` also checks layers, poolings and the cosine against transformers' own output.

Inputs: word pairs, the NF4 checkpoint.
Output: rows of run `base`:
- sets trained, control and all; views LAYER.POOLING.nf4; measures cosine_mean, random_cosine_mean (item randomSEED),
  p_at_1.sw_en and p_at_1.en_sw (set all).
- set all; views LAYER.-.nf4; measures bos_norm, content_norm, bos_peak, bos_peak_dimension, median_magnitude.
- set model; no view: the checks as text.

Used by: the tables `scan` and `claims`, and the figure `scan`.
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
    """Writes the rows of every layer (0 to L and norm) under both poolings, measured on the NF4 checkpoint.

    One block is in memory at a time, dequantised while all words go through it.
    """
    pairs = read_pairs(pairs_path)
    lists = [pair.swahili for pair in pairs], [pair.english for pair in pairs]
    tokenizer, size = checkpoint.tokenizer(quantized / "nf4"), params.active.compute.batch_size
    used = vocabulary(tokenizer, [*lists[0], *lists[1]])
    model = checkpoint.load(quantized / "nf4", vocabulary=used, head=False, weights="dequantized", resident=0)
    all_rows: list[Row] = []
    norms: list[Row] = []
    by_layer_name = by_layer(model, tokenizer, lists, size)
    for layer, (swahili, english) in progress.track(by_layer_name, "scan", len(layers(params.active.model))):
        all_rows += rows(pairs, swahili, english, [layer], params.measure.random_seeds)
        norms += norm_rows(BASE, swahili, english, [layer])
        if layer == "1":
            first_layer = swahili
    all_rows += [*norms, *evidence(model, tokenizer, lists[0], size, first_layer)]
    write_rows(out, all_rows)


def rows(
    pairs: Sequence[Pair], swahili: Embedded, english: Embedded, layer_names: Sequence[str], seeds: Sequence[int]
) -> Iterator[Row]:
    """Per layer and pooling: mean cosine of translations and of random pairs, and P@1 in both directions."""

    def row(set_: str, item: str, view: View, measure: str, value: float) -> Row:
        return Row("base", "-", 0, "-", set_, item, str(view), measure, value)

    for layer in layer_names:
        for pooling in POOLINGS:
            view = View(layer, pooling, "nf4")
            u, v = (similarity.unit(side.pooled[layer, pooling]) for side in (swahili, english))
            cosines = similarity.dots(u, v)
            for set_ in SETS:
                indices = members(pairs, set_)
                yield row(set_, "-", view, "cosine_mean", float(cosines[indices].mean()))
                for seed in seeds:
                    random = similarity.dots(u, v, (indices, indices[similarity.derangement(len(indices), seed)]))
                    yield row(set_, f"random{seed}", view, "random_cosine_mean", float(random.mean()))
            matrix = np.clip(u @ v.T, -1.0, 1.0)
            targets = np.arange(len(pairs))
            for direction, table in (("sw_en", matrix), ("en_sw", matrix.T)):
                yield row(
                    "all",
                    "-",
                    view,
                    f"p_at_1.{direction}",
                    similarity.precision_at(similarity.ranks(table, targets), 1),
                )


@torch.no_grad()
def evidence(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, words: Sequence[str], size: int, embedded: Embedded
) -> Iterator[Row]:
    """Checks the definition of a view against transformers' own output, with some of `words`.

    The rows of set `model` have text values, `no` where a check fails:

    - hidden_states: how many hidden states transformers returns; final_hidden_state: which one is its final output.
    - layer_0: it equals the rows of the embedding matrix.
    - mask_pooling, content_pooling: the means of hidden_states[1] over all tokens and over the content tokens.
    - cosine: it equals the dot product of vectors scaled to length 1.

    One word runs through all blocks; the first batch of the scan runs through two.
    """
    sequences = tokens(tokenizer, words)
    indices = next(backbone.batches(sequences, size))
    ids, real = backbone.pad([sequences[index] for index in indices], tokenizer.pad_token_id)
    content_tokens = content(ids, real, tokenizer)
    body = backbone.body_of(model)
    config: Any = model.config
    device_ids = ids.to(body.embed_tokens.weight.device)
    output: Any = body(input_ids=device_ids[:1], use_cache=False, output_hidden_states=True)
    hidden = output.hidden_states
    final = [number for number, states in enumerate(hidden) if torch.equal(states, output.last_hidden_state)]
    # two blocks, because transformers returns the state of a last block only after the norm
    blocks, body.layers = body.layers, body.layers[:2]
    try:
        first_block_states = (
            body(input_ids=device_ids, use_cache=False, output_hidden_states=True).hidden_states[1].float().cpu()
        )
    finally:
        body.layers = blocks

    def is_mean(pooling: str, selected: torch.Tensor) -> bool:
        means = np.stack(
            [states[where].numpy().mean(axis=0) for states, where in zip(first_block_states, selected, strict=True)]
        )
        return bool(np.allclose(embedded.pooled["1", pooling][indices], means, rtol=1e-4, atol=1e-5))

    x, y = (embedded.pooled["1", pooling][indices].astype(np.float64) for pooling in POOLINGS)
    dots = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(x, y, strict=True)]
    rope = _rope(getattr(config, "rope_parameters", None) or {})
    checks: dict[str, float | str] = {
        "architecture": f"{config.model_type}, rope {rope}",
        "hidden_states": len(hidden),
        "final_hidden_state": final[-1] if final else "no",
        "layer_0": "embeddings"
        if torch.equal(hidden[0], checkpoint.embedding_rows(body.embed_tokens, device_ids[:1]))
        else "no",
        "mask_pooling": "mean of all tokens" if is_mean("mask", real) else "no",
        "content_pooling": "mean of the word's own tokens" if is_mean("content", content_tokens) else "no",
        "cosine": "dot product at length 1" if np.allclose(similarity.cosine(x, y), dots, rtol=0, atol=1e-9) else "no",
    }
    for measure, value in checks.items():
        yield Row(*BASE, "model", "-", "-", measure, value)


def _rope(parameters: Mapping[str, Any]) -> str:
    """The type of the rotary embeddings; per type of layer if they differ, as in Gemma 3."""
    if "rope_type" in parameters:
        return str(parameters["rope_type"])
    return ", ".join(f"{layer} {rope['rope_type']}" for layer, rope in sorted(parameters.items())) or "unknown"
