"""Translation by prompt: asked for a control word in English, how high does the model rate the right answer?

The prompt is a dictionary: lines of trained pairs, or none, then the word. Every English form of the control set is a
candidate c, rated by the sum of log p(token | all before it) over its tokens, or by their mean. Stage: probe; feeds the
table of that name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from torch import nn
from transformers import PreTrainedTokenizerBase

from tli.config.parameters import Params, Probe
from tli.data.benchmarks.prompts import Item
from tli.data.words.lexicon import Pair, key, read_pairs
from tli.io import progress
from tli.io.errors import UserError
from tli.io.rows import Row, write_rows
from tli.measure.scoring import Request, log_likelihoods, plan, requests
from tli.measure.views import BASE, Cell, main_cell
from tli.model import checkpoint, lora

# One form for every profile: the micro-world's own dictionary lines, `mbwa = mbwa, dog`, the only one that the embedded
# base has read; other models learn it from the examples. (A line break would be an unknown token to the embedded base.)
ASKED, ANSWER, END = "{swahili} = {swahili},", " {english}", ". "


class Query(NamedTuple):
    """A Swahili word to translate, and the places in the pool of every English form that the list gives for it."""

    swahili: str
    right: tuple[int, ...]


class Asked(NamedTuple):
    """One prompt put for every query: its examples' number, and a request a query and candidate, in that order."""

    shots: int
    requests: list[Request]


def run(pairs_path: Path, quantized: Path, adapter: Path, out: Path, params: Params) -> None:
    """The `translate` stage: rows of the base and of the paper's cell, without examples and with `probe.shots`.

    Where the profile has no benchmarks, for want of a head, nothing is asked and there are no rows.
    """
    folder = quantized / "nf4"
    if params.active.benchmarks.source == "none":
        return write_rows(out, [])
    checkpoint.require_head(folder)
    tokenizer = checkpoint.tokenizer(folder)
    pairs = read_pairs(pairs_path)
    candidates = pool(pairs)
    asked_for = queries(pairs, candidates)
    drawn = examples(pairs, params.probe)
    prompts = [ask(tokenizer, shots, asked_for, candidates) for shots in ([], drawn)]
    base = checkpoint.load(folder)
    fits(prompts, base.config.max_position_embeddings)
    size = params.active.compute.batch_size
    found = measure(BASE, base, tokenizer, prompts, asked_for, candidates, size)
    tuned = lora.load(base, adapter)
    main = main_cell(*lora.scaling_and_rank(adapter), params.train.seed)
    found += measure(main, tuned, tokenizer, prompts, asked_for, candidates, size)
    write_rows(out, found)


def pool(pairs: Sequence[Pair]) -> list[str]:
    """The distinct English forms of the control pairs, in the list's order."""
    return _distinct(pair.english for pair in pairs if pair.set == "control")


def _distinct(forms: Iterable[str]) -> list[str]:
    """Each form once, as it is first written."""
    found: dict[str, str] = {}
    for form in forms:
        found.setdefault(key(form), form)
    return [*found.values()]


def queries(pairs: Sequence[Pair], candidates: Sequence[str]) -> list[Query]:
    """Each Swahili form of the control pairs once; right is whatever any pair of the list, of either set, gives it."""
    places = {key(form): place for place, form in enumerate(candidates)}
    right: dict[str, set[int]] = {}
    for pair in pairs:
        if key(pair.english) in places:
            right.setdefault(key(pair.swahili), set()).add(places[key(pair.english)])
    forms = _distinct(pair.swahili for pair in pairs if pair.set == "control")
    return [Query(form, tuple(sorted(right[key(form)]))) for form in forms]


def examples(pairs: Sequence[Pair], settings: Probe) -> list[Pair]:
    """`settings.shots` trained pairs, drawn by `settings.seed`, none with a word that is in any control form.

    A word of a control pair in the prompt could be copied from there, or rule the answer out. A Swahili form with
    several translations is no example either.

    Raises:
        UserError: fewer such pairs than shots.
    """
    control = {word for pair in pairs if pair.set == "control" for form in pair[:2] for word in key(form).split()}
    count = Counter(key(pair.swahili) for pair in pairs)
    free = [
        pair
        for pair in pairs
        if pair.set == "trained"
        and count[key(pair.swahili)] == 1
        and not control & {word for form in pair[:2] for word in key(form).split()}
    ]
    if len(free) < settings.shots:
        raise UserError(
            f"params.yaml: probe.shots: expected at most {len(free)}, the trained pairs with one translation and no "
            f"word of a control pair, got {settings.shots}; set fewer"
        )
    chosen = np.random.default_rng(settings.seed).choice(len(free), settings.shots, replace=False)
    return [free[index] for index in chosen]


def prompt(shots: Sequence[Pair], swahili: str) -> str:
    """The examples' lines, then the word whose translation is asked: `paka = paka, cat. mbwa = mbwa,`."""
    line = ASKED + ANSWER + END
    given = "".join(line.format(swahili=pair.swahili, english=pair.english) for pair in shots)
    return given + ASKED.format(swahili=swahili)


def ask(
    tokenizer: PreTrainedTokenizerBase, shots: Sequence[Pair], asked_for: Sequence[Query], candidates: Sequence[str]
) -> Asked:
    """Every candidate after the prompt of every query, cut into tokens as the benchmarks' options are."""
    options = tuple(ANSWER.format(english=form) for form in candidates)
    items = [
        Item(one.swahili, "translate", "en", "control", 0, prompt(shots, one.swahili), options) for one in asked_for
    ]
    return Asked(len(shots), [request for item in items for request in requests(tokenizer, item)])


def fits(prompts: Sequence[Asked], positions: int) -> None:
    """Raises UserError where a request is longer than the model has positions."""
    longest = max(len(request.ids) for asked in prompts for request in asked.requests)
    if longest > positions:
        raise UserError(
            f"params.yaml: probe.shots: expected prompts of at most {positions} tokens (the model's positions), "
            f"got one of {longest} with {prompts[-1].shots} examples; set fewer"
        )


def scores(model: nn.Module, asked: Sequence[Request], pad_id: int, batch_size: int) -> list[float]:
    """log p of each request's scored tokens, in nats: the examples in front of all of them run once (`trie`)."""
    return log_likelihoods(model, plan(asked, pad_id, batch_size))


def measure(
    cell: Cell,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Asked],
    asked_for: Sequence[Query],
    candidates: Sequence[str],
    batch_size: int,
) -> list[Row]:
    """Per prompt and query: every candidate's log-likelihood and the right one's rank; per candidate: its tokens."""
    found: list[Row] = []
    for asked in progress.track(prompts, f"probe {cell.cell}"):
        shape = len(asked_for), len(candidates)
        flat = scores(model, asked.requests, tokenizer.pad_token_id, batch_size)
        tokens = np.array([request.scored for request in asked.requests]).reshape(shape)
        found += _rows(cell, f"shots{asked.shots}", asked_for, candidates, np.array(flat).reshape(shape), tokens)
    return found


def _rows(
    cell: Cell,
    set_: str,
    asked_for: Sequence[Query],
    candidates: Sequence[str],
    scores: Float[ndarray, "query candidate"],
    tokens: Int[ndarray, "query candidate"],
) -> Iterator[Row]:
    for form, count in zip(candidates, tokens.max(axis=0), strict=True):
        yield Row(*cell, set_, form, "-", "candidate_tokens", int(count))
    for query, own, length in zip(asked_for, scores, tokens, strict=True):
        for form, value in zip(candidates, own, strict=True):
            yield Row(*cell, set_, query.swahili, "-", f"loglik.{form}", float(value))
        yield Row(*cell, set_, query.swahili, "-", "rank.sum", rank(own, query.right))
        yield Row(*cell, set_, query.swahili, "-", "rank.mean", rank(own / length, query.right))


def rank(scores: Float[ndarray, " candidate"], right: Sequence[int]) -> int:
    """Place of the best right candidate among the wrong ones, from 1: 1 + |{wrong c: score(c) >= max over right}|.

    Ties count against it.
    """
    wrong = np.delete(scores, list(right))
    return 1 + int(np.sum(wrong >= scores[list(right)].max()))
