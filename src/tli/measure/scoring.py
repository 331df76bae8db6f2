"""Zero-shot scoring: the log-likelihood of each choice of an item."""

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
from tli.measure.views import BASE, Cell
from tli.model import backbone, checkpoint

FILE = "score.tsv"  # where a folder holds these rows
SHARD = 32  # batches whose scores are kept together


class Request(NamedTuple):
    """A token sequence and how many of its last tokens are scored."""

    ids: list[int]
    scored: int


def asked_items(path: Path, params: Params) -> list[Item]:
    """The items to score: those of the file, and none where the profile has no benchmarks."""
    return [] if params.active.benchmarks.source == "none" else read_items(path)


def untrained(folder: Path, seed: int) -> PreTrainedModel:
    """A model of the same configuration with random weights: a baseline that is named so wherever it is shown."""
    config = checkpoint.config(folder)
    del config.quantization_config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    cast(Any, model).to(config.dtype).eval()
    return model


def requests(tokenizer: PreTrainedTokenizerBase, item: Item) -> list[Request]:
    """One token sequence an option, cut where lm-evaluation-harness cuts it.

    With a context, context + option is tokenised as one text and what exceeds the context's own tokens is scored;
    without one, BOS (EOS where the tokenizer has no BOS) stands for it and every token of the option is scored.
    """
    if not item.context:
        start_id = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        plain = [tokenizer.encode(option, add_special_tokens=False) for option in item.options]
        return [Request([start_id, *ids], len(ids)) for ids in plain]
    start = len(tokenizer.encode(item.context))
    whole = [tokenizer.encode(item.context + option) for option in item.options]
    return [Request(ids, len(ids) - start) for ids in whole]


class Batch(NamedTuple):
    """Trees that run together, and what is read off them: each state once, each token's log p once.

    `trees` is `trie.stack`'s. Of each state read, `states`: its place in the flattened batch. Of each token scored:
    which of those states foretells it, `before`, and which token it is, `token`. Of each term of a sum: which token
    scored, `term`, in which request's sum, `owner`. `requests`: how many have their sum here.
    """

    requests: int

    trees: Int[Tensor, "3 tree node"]
    states: Int[Tensor, " state"]
    before: Int[Tensor, " token"]
    token: Int[Tensor, " token"]
    term: Int[Tensor, " term"]
    owner: Int[Tensor, " term"]


def plan(asked: Sequence[Request], pad_id: int, batch_size: int) -> list[Batch]:
    """The batches that score `asked`, `batch_size` requests each at most: the same for every model of a tokenizer."""
    return [
        _batch(batch, asked, token_tree.stack(batch, pad_id))
        for batch in token_tree.batches([request.ids for request in asked], batch_size)
    ]


def _batch(batch: Sequence[token_tree.Tree], asked: Sequence[Request], trees: Int[Tensor, "3 tree node"]) -> Batch:
    states: dict[int, int] = {}
    tokens: dict[int, tuple[int, int]] = {}
    numbers: dict[int, int] = {}
    terms: list[tuple[int, int]] = []
    for row, tree in enumerate(batch):
        start = row * trees.shape[2]
        for index, path in tree.paths.items():
            for parent, node in pairwise(path[-asked[index].scored - 1 :]):
                place = numbers.setdefault(start + node, len(numbers))
                tokens[place] = states.setdefault(start + parent, len(states)), tree.ids[node]
                terms.append((place, index))
    before, token = _columns(tokens.values())
    term, owner = _columns(terms)
    places = torch.tensor([*states], dtype=torch.int64)
    return Batch(sum(len(tree.paths) for tree in batch), trees, places, before, token, term, owner)


def _columns(pairs: Iterable[tuple[int, int]]) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    first, second = torch.tensor([*pairs], dtype=torch.int64).view(-1, 2).T
    return first, second


def log_likelihoods(
    model: nn.Module, batches: Sequence[Batch], finished: resume.Checkpoints | None = None, name: str = "scores"
) -> list[float]:
    """Sum of log p of each planned request's scored tokens, in nats: log-softmax in float32, the sum in float64, where
    a thousand nats leave every digit of float32. Padding never enters.

    What several requests begin with runs once (`trie`), and the head is applied to the states alone that foretell a
    scored token, once each. With `finished` the sums of every SHARD batches are kept there under `name`, and taken from
    there where they are already.

    Raises:
        CheckFailed: the model attends to a window shorter than a sequence, which a tree's mask would widen.
    """
    found = [0.0] * sum(batch.requests for batch in batches)
    shards = {start: batches[start : start + SHARD] for start in range(0, len(batches), SHARD)}
    if finished is None:
        pieces = map(partial(_sums, model), shards.values())
    else:
        told = progress.track(shards.items(), f"transfer {name}", len(shards))
        files = (finished.get_or_make(f"{name}-{start}", partial(_write_sums, model, shard)) for start, shard in told)
        pieces = map(read_json, files)
    for index, value in chain.from_iterable(pieces):
        found[index] = value
    return found


def _write_sums(model: nn.Module, shard: Sequence[Batch], path: Path) -> None:
    path.write_text(json.dumps(_sums(model, shard)), encoding="utf-8")  # every digit


@torch.no_grad()
def _sums(model: nn.Module, batches: Sequence[Batch]) -> list[tuple[int, float]]:
    """(request, its sum) of each request that has a token scored in these batches."""
    body, head, device = backbone.body_of(model), backbone.head_of(model), next(model.parameters()).device
    dtype, window = body.embed_tokens.weight.dtype, getattr(body.config, "sliding_window", None)
    found: list[tuple[int, float]] = []
    for batch in batches:
        ids, depth, end = batch.trees.to(device)
        if window is not None and int(depth.max()) >= window:
            raise CheckFailed(
                f"transfer: expected sequences within the model's attention window of {window} tokens, "
                f"got one of {int(depth.max()) + 1}; leave the item out"
            )
        output = body(input_ids=ids, position_ids=depth, attention_mask=token_tree.mask(end, dtype), use_cache=False)
        read = output.last_hidden_state.flatten(0, 1)[batch.states.to(device)]
        logits = torch.log_softmax(head(read), dim=-1, dtype=torch.float32)
        chosen = logits[batch.before.to(device), batch.token.to(device)].double().cpu()
        owners, places = batch.owner.unique(return_inverse=True)
        sums = torch.zeros(len(owners), dtype=torch.float64).index_add_(0, places, chosen[batch.term])
        found += zip(owners.tolist(), sums.tolist(), strict=True)
    return found


class Exam(NamedTuple):
    """Items with the batches that score their options in order: made once, put to any number of models."""

    items: Sequence[Item]
    batches: list[Batch]


def prepare(items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, batch_size: int) -> Exam:
    """Tokenises `items` and plans their batches, which no adapter changes."""
    asked = [request for item in items for request in requests(tokenizer, item)]
    return Exam(items, plan(asked, tokenizer.pad_token_id, batch_size))


def measure(cell: Cell, exam: Exam, model: nn.Module, finished: resume.Checkpoints | None = None) -> list[Row]:
    """Per item: every option's log-likelihood, the prediction, whether it is right, and the margin

    margin = log p(right option) - max over the others of log p(option).

    With `finished` the scores are kept there on the way.
    """
    scores = iter(log_likelihoods(model, exam.batches, finished, cell.cell))
    return [row for item in exam.items for row in _item_rows(cell, item, [next(scores) for _ in item.options])]


def _item_rows(cell: Cell, item: Item, scores: Sequence[float]) -> Iterator[Row]:
    predicted = max(range(len(scores)), key=lambda option: scores[option])
    others = [score for option, score in enumerate(scores) if option != item.label]
    values = {f"loglik.{option}": score for option, score in enumerate(scores)}
    values |= {
        "label": item.label,
        "pred": predicted,
        "correct": int(predicted == item.label),
        "margin": scores[item.label] - max(others),
    }
    for name, value in values.items():
        yield Row(*cell, f"{item.task}.{item.language}", item.id, "-", name, value)


def drift(
    items: Sequence[Item], model: nn.Module, tokenizer: PreTrainedTokenizerBase, batch_size: int, sample: int = 64
) -> Row:
    """Largest |change| of a log-likelihood when a sequence is scored alone rather than in its batch of trees, in nats.

    In float32 it is rounding of the last digits; in bfloat16 it bounds what a margin can mean. The sample is spread
    evenly over the items.
    """
    spread = items[:: max(1, len(items) // sample)]
    asked = [request for item in spread for request in requests(tokenizer, item)]
    batched, alone = (log_likelihoods(model, plan(asked, tokenizer.pad_token_id, size)) for size in (batch_size, 1))
    largest = max(abs(a - b) for a, b in zip(batched, alone, strict=True))
    return Row(*BASE, "drift", "-", "-", "padding_drift", largest)
