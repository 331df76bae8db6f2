"""Zero-shot scoring: the log-likelihood of each choice of a benchmark item.

    log p(choice | context) = sum over the choice's tokens t of log p(t | context and the choice's tokens before t)

in nats. The choice with the highest sum is the prediction (lm-evaluation-harness 0.4.13, metric acc). Used by the
stages base-rows, score, sweep-score and translate.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tli.config.parameters import Params
from tli.data.benchmarks.items import read_items
from tli.data.benchmarks.prompts import Item
from tli.io import progress, resume
from tli.io.errors import CheckFailed
from tli.io.rows import Row
from tli.io.structured import read_json
from tli.measure import token_tree
from tli.measure.views import BASE, RunId
from tli.model import backbone, checkpoint

FILE = "score.tsv"  # the name of these rows in a folder of rows
BATCHES_PER_CHECKPOINT = 32  # batches of one checkpoint: their scores are written together


class Request(NamedTuple):
    """A token sequence, and the number of its last tokens that are scored."""

    ids: list[int]
    scored: int


def items_to_score(path: Path, params: Params) -> list[Item]:
    """The items of the file; no items if the model's profile has no benchmarks."""
    return [] if params.active.benchmarks.source == "none" else read_items(path)


def untrained_model(folder: Path, seed: int) -> PreTrainedModel:
    """A model with the checkpoint's configuration and random weights from `seed`: the untrained baseline."""
    config = checkpoint.config(folder)
    del config.quantization_config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    cast(Any, model).to(config.dtype).eval()
    return model


def requests(tokenizer: PreTrainedTokenizerBase, item: Item) -> list[Request]:
    """One token sequence per choice, split into context and choice as lm-evaluation-harness splits it.

    With a context, context + choice is tokenised as one text, and the tokens after the first n are scored, n being the
    number of tokens of the context alone. Without a context, BOS (or EOS if the tokenizer has no BOS) takes its place
    and all tokens of the choice are scored.
    """
    if not item.context:
        start_id = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        choice_ids = [tokenizer.encode(choice, add_special_tokens=False) for choice in item.options]
        return [Request([start_id, *ids], len(ids)) for ids in choice_ids]
    context_length = len(tokenizer.encode(item.context))
    full_ids = [tokenizer.encode(item.context + choice) for choice in item.options]
    return [Request(ids, len(ids) - context_length) for ids in full_ids]


class ScoringBatch(NamedTuple):
    """Trees that run together, and which values are read: each hidden state and each token's log p only once.

    - `requests`: the number of requests whose sums are computed here.
    - `trees`: the padded trees (`token_tree.pad_trees`).
    - `states`: the positions, in the flattened batch, of the hidden states that predict a scored token.
    - `before`, `token`: for each scored token, the index of its state in `states`, and its token id.
    - `term`, `request`: for each term of a sum, the index of its scored token, and the request it is added to.
    """

    requests: int
    trees: Int[Tensor, "3 tree node"]
    states: Int[Tensor, " state"]
    before: Int[Tensor, " token"]
    token: Int[Tensor, " token"]
    term: Int[Tensor, " term"]
    request: Int[Tensor, " term"]


def plan(to_score: Sequence[Request], pad_id: int, batch_size: int) -> list[ScoringBatch]:
    """Batches of at most `batch_size` requests; they are the same for every model with the same tokenizer."""
    return [
        _batch(batch, to_score, token_tree.pad_trees(batch, pad_id))
        for batch in token_tree.batches([request.ids for request in to_score], batch_size)
    ]


def _batch(
    batch: Sequence[token_tree.Tree], to_score: Sequence[Request], trees: Int[Tensor, "3 tree node"]
) -> ScoringBatch:
    states: dict[int, int] = {}
    scored_tokens: dict[int, tuple[int, int]] = {}
    token_indices: dict[int, int] = {}
    terms: list[tuple[int, int]] = []
    for row, tree in enumerate(batch):
        row_start = row * trees.shape[2]
        for index, path in tree.paths.items():
            for parent, node in pairwise(path[-to_score[index].scored - 1 :]):
                token_index = token_indices.setdefault(row_start + node, len(token_indices))
                scored_tokens[token_index] = states.setdefault(row_start + parent, len(states)), tree.ids[node]
                terms.append((token_index, index))
    before, token = _columns(scored_tokens.values())
    term, request = _columns(terms)
    state_positions = torch.tensor([*states], dtype=torch.int64)
    return ScoringBatch(sum(len(tree.paths) for tree in batch), trees, state_positions, before, token, term, request)


def _columns(pairs: Iterable[tuple[int, int]]) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    first, second = torch.tensor([*pairs], dtype=torch.int64).view(-1, 2).T
    return first, second


def log_likelihoods(
    model: nn.Module, batches: Sequence[ScoringBatch], finished: resume.Checkpoints | None = None, name: str = "scores"
) -> list[float]:
    """The log-likelihood of each planned request: the sum of log p over its scored tokens, in nats.

    The log-softmax is computed in float32 and the sum in float64, so that sums of a thousand nats keep all digits of
    float32. A common prefix of several requests runs once (token_tree.py), and the head runs only on the states that
    predict a scored token. Padding has no effect.

    Args:
        finished: where the sums of every BATCHES_PER_CHECKPOINT batches are saved, and read if they are there already.
        name: the name of these checkpoints.

    Raises:
        CheckFailed: the model attends to a window shorter than a sequence; the mask of a tree would ignore it.
    """
    sums = [0.0] * sum(batch.requests for batch in batches)
    groups = {
        start: batches[start : start + BATCHES_PER_CHECKPOINT]
        for start in range(0, len(batches), BATCHES_PER_CHECKPOINT)
    }
    if finished is None:
        results = map(partial(_sums, model), groups.values())
    else:
        shown = progress.track(groups.items(), f"score {name}", len(groups))
        files = (finished.get_or_make(f"{name}-{start}", partial(_write_sums, model, group)) for start, group in shown)
        results = map(read_json, files)
    for index, value in chain.from_iterable(results):
        sums[index] = value
    return sums


def _write_sums(model: nn.Module, group: Sequence[ScoringBatch], path: Path) -> None:
    path.write_text(json.dumps(_sums(model, group)), encoding="utf-8")  # json keeps all digits of a float


@torch.no_grad()
def _sums(model: nn.Module, batches: Sequence[ScoringBatch]) -> list[tuple[int, float]]:
    """(index of a request, its sum) for each request in these batches that has a scored token."""
    body, head, device = backbone.body_of(model), backbone.head_of(model), next(model.parameters()).device
    dtype, window = body.embed_tokens.weight.dtype, getattr(body.config, "sliding_window", None)
    sums_of_requests: list[tuple[int, float]] = []
    for batch in batches:
        ids, depth, end = batch.trees.to(device)
        if window is not None and int(depth.max()) >= window:
            raise CheckFailed(
                f"score: expected sequences within the model's attention window of {window} tokens, "
                f"got one of {int(depth.max()) + 1}; leave the item out"
            )
        output = body(
            input_ids=ids, position_ids=depth, attention_mask=token_tree.attention_mask(end, dtype), use_cache=False
        )
        states = output.last_hidden_state.flatten(0, 1)[batch.states.to(device)]
        log_p = torch.log_softmax(head(states), dim=-1, dtype=torch.float32)
        token_log_p = log_p[batch.before.to(device), batch.token.to(device)].double().cpu()
        indices, positions = batch.request.unique(return_inverse=True)
        sums = torch.zeros(len(indices), dtype=torch.float64).index_add_(0, positions, token_log_p[batch.term])
        sums_of_requests += zip(indices.tolist(), sums.tolist(), strict=True)
    return sums_of_requests


class PreparedItems(NamedTuple):
    """Items and the batches that score their choices in order; they can be scored with any number of models."""

    items: Sequence[Item]
    batches: list[ScoringBatch]


def prepare(items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, batch_size: int) -> PreparedItems:
    """Tokenises `items` and plans their batches; an adapter changes neither."""
    to_score = [request for item in items for request in requests(tokenizer, item)]
    return PreparedItems(items, plan(to_score, tokenizer.pad_token_id, batch_size))


def measure(
    run_id: RunId, prepared: PreparedItems, model: nn.Module, finished: resume.Checkpoints | None = None
) -> list[Row]:
    """Per item: each choice's log-likelihood (`loglik.N`), `label`, `pred`, `correct` (0 or 1) and `margin`, in nats:

        pred   = argmax over choices c of log p(c | context)
        margin = log p(correct choice) - max over the other choices c of log p(c)

    With `finished` the scores are saved there as checkpoints.
    """
    scores = iter(log_likelihoods(model, prepared.batches, finished, run_id.run))
    return [row for item in prepared.items for row in _item_rows(run_id, item, [next(scores) for _ in item.options])]


def _item_rows(run_id: RunId, item: Item, scores: Sequence[float]) -> Iterator[Row]:
    predicted = max(range(len(scores)), key=lambda choice: scores[choice])
    others = [score for choice, score in enumerate(scores) if choice != item.label]
    values = {f"loglik.{choice}": score for choice, score in enumerate(scores)}
    values |= {
        "label": item.label,
        "pred": predicted,
        "correct": int(predicted == item.label),
        "margin": scores[item.label] - max(others),
    }
    for name, value in values.items():
        yield Row(*run_id, item.set, item.id, "-", name, value)


def padding_drift(
    items: Sequence[Item], model: nn.Module, tokenizer: PreTrainedTokenizerBase, batch_size: int, sample: int = 16
) -> Row:
    """The largest |difference|, in nats, between a log-likelihood scored in a batch of trees and scored alone.

    In float32 this is rounding in the last digits; in bfloat16 margins below it have no meaning. About `sample` items
    are used, spread evenly over `items`.
    """
    sampled = items[:: max(1, len(items) // sample)]
    to_score = [request for item in sampled for request in requests(tokenizer, item)]
    batched, alone = (log_likelihoods(model, plan(to_score, tokenizer.pad_token_id, size)) for size in (batch_size, 1))
    largest = max(abs(a - b) for a, b in zip(batched, alone, strict=True))
    return Row(*BASE, "drift", "-", "-", "padding_drift", largest)
