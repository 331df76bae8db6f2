"""Baselines that use no language model: a classifier that sees only the choices, and a word trigram model.

A model that does not beat both may not have used the premise. The stage `benchmarks` runs them for the baselines table.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self


class Question(NamedTuple):
    """An item without its premise: the two choices of XCOPA or the hypothesis of XNLI, and the label."""

    candidates: tuple[str, ...]
    label: int


def words(text: str) -> list[str]:
    """Returns the words and punctuation marks of `text`, case folded."""
    return re.findall(r"\w+|[^\w\s]", text.casefold())


def choice_only(dev: Sequence[Question], test: Sequence[Question]) -> list[int]:
    """Predicts the label of each test question from its candidates alone (Gururangan et al. 2018).

    The model is a logistic regression on counts of words and word pairs, fitted on `dev`, the split that is not scored.
    With several candidates it models p(right | candidate); the highest wins, and the first of equals. With one
    candidate it models p(label | candidate). It is deterministic (full-batch L-BFGS). A word is a run of letters, so
    that in Chinese and Thai it is a whole clause.

    Returns:
        The predicted label of each test question.

    Raises:
        ValueError: `dev` has fewer than two labels.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    several = len(test[0].candidates) > 1
    texts = [text for question in dev for text in question.candidates]
    targets = [
        int(index == question.label) if several else question.label
        for question in dev
        for index in range(len(question.candidates))
    ]
    if len(set(targets)) < 2:
        raise ValueError(f"expected dev items with at least two labels, got {len(dev)} items of {len(set(targets))}")
    features = CountVectorizer(tokenizer=words, token_pattern=None, lowercase=False, ngram_range=(1, 2))
    model = make_pipeline(features, LogisticRegression(max_iter=1000, random_state=0)).fit(texts, targets)
    if not several:
        return [int(model.predict(question.candidates)[0]) for question in test]
    return [int(model.decision_function(question.candidates).argmax()) for question in test]


def cross_validated(questions: Sequence[Question], premises: Sequence[str], folds: int = 10) -> list[int]:
    """Predicts each question by `choice_only` fitted on the other folds. Questions of one premise share a fold."""
    from sklearn.model_selection import GroupKFold

    picks = [0] * len(questions)
    splitter = GroupKFold(min(folds, len(set(premises))))
    for fitted, predicted in splitter.split(premises, groups=premises):
        values = choice_only([questions[index] for index in fitted], [questions[index] for index in predicted])
        for index, value in zip(predicted, values, strict=True):
            picks[index] = value
    return picks


class Trigrams:
    """A word trigram model with interpolated Witten-Bell smoothing (Witten and Bell 1991; Chen and Goodman 1998, 2.4).

    p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h)), where h is the last two words, h' the last one, and then none.
    c counts occurrences, and t(h) is the number of distinct words after h. The recursion ends in p(w) = 1 / (v + 1),
    where v is the number of distinct words; the 1 is for all unseen words. If h is unseen, p(w | h) = p(w | h'). There
    are no parameters to fit.
    """

    ORDER = 3
    START = "<s>"

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, ...]] = Counter()  # (history..., word), histories of 0 to 2 words
        self._seen: Counter[tuple[str, ...]] = Counter()  # history -> c(h)
        self._kinds: Counter[tuple[str, ...]] = Counter()  # history -> t(h)

    @classmethod
    def fit(cls, documents: Iterable[str]) -> Self:
        """Counts n-grams over `documents`. Two start marks precede each document."""
        model = cls()
        for document in documents:
            marked = [cls.START] * (cls.ORDER - 1) + words(document)
            for length in range(1, cls.ORDER + 1):
                shifted = (marked[cls.ORDER - length + offset :] for offset in range(length))
                model._counts.update(zip(*shifted, strict=False))
        for gram, count in model._counts.items():
            model._seen[gram[:-1]] += count
            model._kinds[gram[:-1]] += 1
        return model

    def probability(self, word: str, history: Sequence[str]) -> float:
        """Returns p(word | the last two words of `history`)."""
        p = 1 / (self._kinds[()] + 1)
        for length in range(min(len(history), self.ORDER - 1) + 1):
            h = tuple(history[len(history) - length :])
            seen, kinds = self._seen[h], self._kinds[h]
            if seen:
                p = (self._counts[(*h, word)] + kinds * p) / (seen + kinds)
        return p

    def score(self, context: str, option: str) -> float:
        """Returns log p(option | context) in nats, summed over words. An empty context is the start of a document."""
        history = [self.START] * (self.ORDER - 1) + words(context)
        total = 0.0
        for word in words(option):
            total += math.log(self.probability(word, history))
            history.append(word)
        return total
