"""Stage `translate`: word translation by prompt, with the base and with the paper's adapter.

The prompt is a dictionary: some trained pairs or none, then a Swahili word of the control set. Every English form of
the control set is a candidate c:

    score(c) = sum over the tokens t of c of log p(t | prompt and the tokens of c before t), in nats, or the mean over t
    rank     = 1 + |{wrong c: score(c) >= max over correct c of score(c)}|

Inputs: word pairs, the NF4 checkpoint, the adapter.
Output: rows of the runs `base` and `main`; sets shots0 and shotsN (N example pairs); no view; measures loglik.FORM,
rank.sum and rank.mean (item: the Swahili form), candidate_tokens (item: the English form).

Used by: the table `probe`.
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

from tli.config.parameters import Params, Translate
from tli.data.benchmarks.prompts import Item
from tli.data.words.lexicon import Pair, key, read_pairs
from tli.io import progress
from tli.io.errors import UserError
from tli.io.rows import Row, write_rows
from tli.measure.scoring import Request, log_likelihoods, plan, requests
from tli.measure.views import BASE, RunId, main_run
from tli.model import checkpoint, lora

# The same format for all models: a dictionary line of the micro-world, `mbwa = mbwa, dog`. The micro-world's model has
# read no other format, and other models learn it from the examples. (For that model a line break is an unknown token.)
ASKED, ANSWER, END = "{swahili} = {swahili},", " {english}", ". "


class Query(NamedTuple):
    """A Swahili word to translate, and the indices of its correct translations among the candidates."""

    swahili: str
    correct: tuple[int, ...]


class PromptRequests(NamedTuple):
    """The requests of one prompt: its number of examples, and one request per query and candidate, in this order."""

    shots: int
    requests: list[Request]


def run(pairs_path: Path, quantized: Path, adapter: Path, out: Path, params: Params) -> None:
    """Writes the rows of the base and of the paper's adapter, without examples and with `translate.shots` examples.

    There are no rows if the profile has no benchmarks (its model may have no head) or `translate.skip` has the model.

    Raises:
        UserError: the checkpoint has no head, a prompt is too long, or there are too few example pairs.
    """
    folder = quantized / "nf4"
    if not params.translates:
        return write_rows(out, [])
    checkpoint.require_head(folder)
    tokenizer = checkpoint.tokenizer(folder)
    pairs = read_pairs(pairs_path)
    candidates = candidate_forms(pairs)
    word_queries = queries(pairs, candidates)
    example_pairs = examples(pairs, params.translate)
    prompts = [prompt_requests(tokenizer, shots, word_queries, candidates) for shots in ([], example_pairs)]
    base = checkpoint.load(folder)
    check_length(prompts, base.config.max_position_embeddings)
    size = params.active.compute.batch_size
    rows = measure(BASE, base, tokenizer, prompts, word_queries, candidates, size)
    adapted = lora.load(base, adapter)
    run_id = main_run(*lora.scaling_and_rank(adapter), params.train.seed)
    rows += measure(run_id, adapted, tokenizer, prompts, word_queries, candidates, size)
    write_rows(out, rows)


def candidate_forms(pairs: Sequence[Pair]) -> list[str]:
    """The candidates: the distinct English forms of the control pairs, in the order of the list."""
    return _distinct_forms(pair.english for pair in pairs if pair.set == "control")


def _distinct_forms(forms: Iterable[str]) -> list[str]:
    """Each form once, in its first spelling."""
    first_spelling: dict[str, str] = {}
    for form in forms:
        first_spelling.setdefault(key(form), form)
    return [*first_spelling.values()]


def queries(pairs: Sequence[Pair], candidates: Sequence[str]) -> list[Query]:
    """One query per Swahili form of the control pairs; correct is any translation in the list, of either set."""
    candidate_index = {key(form): index for index, form in enumerate(candidates)}
    correct: dict[str, set[int]] = {}
    for pair in pairs:
        if key(pair.english) in candidate_index:
            correct.setdefault(key(pair.swahili), set()).add(candidate_index[key(pair.english)])
    forms = _distinct_forms(pair.swahili for pair in pairs if pair.set == "control")
    return [Query(form, tuple(sorted(correct[key(form)]))) for form in forms]


def examples(pairs: Sequence[Pair], settings: Translate) -> list[Pair]:
    """Draws `settings.shots` trained pairs by `settings.seed`, without words of any control form.

    The model could copy a control word from the prompt, or exclude it as an answer. Swahili forms with several
    translations are excluded too.

    Raises:
        UserError: there are fewer such pairs than shots.
    """
    control_words = {word for pair in pairs if pair.set == "control" for form in pair[:2] for word in key(form).split()}
    translations = Counter(key(pair.swahili) for pair in pairs)
    allowed = [
        pair
        for pair in pairs
        if pair.set == "trained"
        and translations[key(pair.swahili)] == 1
        and not control_words & {word for form in pair[:2] for word in key(form).split()}
    ]
    if len(allowed) < settings.shots:
        raise UserError(
            f"params.yaml: translate.shots: expected at most {len(allowed)}, the trained pairs with one translation "
            f"and no word of a control pair, got {settings.shots}; set fewer"
        )
    drawn = np.random.default_rng(settings.seed).choice(len(allowed), settings.shots, replace=False)
    return [allowed[index] for index in drawn]


def prompt(shots: Sequence[Pair], swahili: str) -> str:
    """The examples, then the word to translate: `paka = paka, cat. mbwa = mbwa,`."""
    line = ASKED + ANSWER + END
    examples_text = "".join(line.format(swahili=pair.swahili, english=pair.english) for pair in shots)
    return examples_text + ASKED.format(swahili=swahili)


def prompt_requests(
    tokenizer: PreTrainedTokenizerBase, shots: Sequence[Pair], word_queries: Sequence[Query], candidates: Sequence[str]
) -> PromptRequests:
    """Every candidate after the prompt of every query, tokenised like the choices of a benchmark item."""
    choices = tuple(ANSWER.format(english=form) for form in candidates)
    items = [
        Item(query.swahili, "translate", "en", "control", 0, prompt(shots, query.swahili), choices)
        for query in word_queries
    ]
    return PromptRequests(len(shots), [request for item in items for request in requests(tokenizer, item)])


def check_length(prompts: Sequence[PromptRequests], positions: int) -> None:
    """Raises UserError if a request is longer than the model's maximum number of positions."""
    longest = max(len(request.ids) for prompt in prompts for request in prompt.requests)
    if longest > positions:
        raise UserError(
            f"params.yaml: translate.shots: expected prompts of at most {positions} tokens (the model's positions), "
            f"got one of {longest} with {prompts[-1].shots} examples; set fewer"
        )


def scores(model: nn.Module, to_score: Sequence[Request], pad_id: int, batch_size: int) -> list[float]:
    """The log-likelihood of each request, in nats; the examples that all share run once (measure/token_tree.py)."""
    return log_likelihoods(model, plan(to_score, pad_id, batch_size))


def measure(
    run_id: RunId,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[PromptRequests],
    word_queries: Sequence[Query],
    candidates: Sequence[str],
    batch_size: int,
) -> list[Row]:
    """Per prompt and query: each candidate's log-likelihood and the rank of the correct one; per candidate: tokens."""
    rows: list[Row] = []
    for prompt_ in progress.track(prompts, f"translate {run_id.run}"):
        shape = len(word_queries), len(candidates)
        flat = scores(model, prompt_.requests, tokenizer.pad_token_id, batch_size)
        tokens = np.array([request.scored for request in prompt_.requests]).reshape(shape)
        rows += _rows(run_id, f"shots{prompt_.shots}", word_queries, candidates, np.array(flat).reshape(shape), tokens)
    return rows


def _rows(
    run_id: RunId,
    set_: str,
    word_queries: Sequence[Query],
    candidates: Sequence[str],
    scores: Float[ndarray, "query candidate"],
    tokens: Int[ndarray, "query candidate"],
) -> Iterator[Row]:
    for form, count in zip(candidates, tokens.max(axis=0), strict=True):
        yield Row(*run_id, set_, form, "-", "candidate_tokens", int(count))
    for query, query_scores, length in zip(word_queries, scores, tokens, strict=True):
        for form, value in zip(candidates, query_scores, strict=True):
            yield Row(*run_id, set_, query.swahili, "-", f"loglik.{form}", float(value))
        yield Row(*run_id, set_, query.swahili, "-", "rank.sum", rank(query_scores, query.correct))
        yield Row(*run_id, set_, query.swahili, "-", "rank.mean", rank(query_scores / length, query.correct))


def rank(scores: Float[ndarray, " candidate"], correct: Sequence[int]) -> int:
    """Rank of the best correct candidate: 1 + |{wrong c: score(c) >= max over correct c of score(c)}|.

    A wrong candidate that ties is ranked first.
    """
    wrong = np.delete(scores, list(correct))
    return 1 + int(np.sum(wrong >= scores[list(correct)].max()))
