"""What the benchmarks' items give away without a language model: words of the options alone, and word trigrams.

Called by the stage `benchmarks`; feeds the baselines table. A model that does not beat both has not read the premise.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self


class Question(NamedTuple):
    """What is seen of an item without its premise: XCOPA's two choices, or XNLI's hypothesis alone; and its label."""

    candidates: tuple[str, ...]
    label: int


def words(text: str) -> list[str]:
    """Words and marks of `text`, case folded."""
    return re.findall(r"\w+|[^\w\s]", text.casefold())


def choice_only(dev: Sequence[Question], test: Sequence[Question]) -> list[int]:
    """The label of each test question that a bag of words prefers, fitted on dev (Gururangan et al. 2018).

    `dev` is the split that is not scored. A word is a run of letters, so Chinese and Thai count by the clause.

    Logistic regression on counts of words and word pairs. Several candidates: p(right | candidate), the highest
    wins, the first on a tie. One candidate: p(label | candidate). Deterministic: full-batch L-BFGS.

    Raises:
        ValueError: dev does not show two labels.
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
        raise ValueError(f"expected dev items of two labels or more, got {len(dev)} items of {len(set(targets))}")
    features = CountVectorizer(tokenizer=words, token_pattern=None, lowercase=False, ngram_range=(1, 2))
    model = make_pipeline(features, LogisticRegression(max_iter=1000, random_state=0)).fit(texts, targets)
    if not several:
        return [int(model.predict(question.candidates)[0]) for question in test]
    return [int(model.decision_function(question.candidates).argmax()) for question in test]


class Trigrams:
    """A word trigram model with interpolated Witten-Bell smoothing (Witten and Bell 1991; Chen and Goodman 1998, 2.4).

    p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h)), with h the last two words, h' the last one, then none;
    c counts, t(h) is the number of distinct words seen after h; below them all p(w) = 1 / (v + 1), v the number of
    distinct words, one more for the words never seen. An unseen h leaves p(w | h'). No parameter is fitted.
    """

    ORDER = 3
    START = "<s>"

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, ...]] = Counter()  # (history..., word), histories of 0 to 2 words
        self._seen: Counter[tuple[str, ...]] = Counter()  # history -> c(h)
        self._kinds: Counter[tuple[str, ...]] = Counter()  # history -> t(h)

    @classmethod
    def fit(cls, documents: Iterable[str]) -> Self:
        """Counts over `documents`; two start marks stand before each."""
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
        """p(word | the last two words of `history`)."""
        p = 1 / (self._kinds[()] + 1)
        for length in range(min(len(history), self.ORDER - 1) + 1):
            before = tuple(history[len(history) - length :])
            seen, kinds = self._seen[before], self._kinds[before]
            if seen:
                p = (self._counts[(*before, word)] + kinds * p) / (seen + kinds)
        return p

    def score(self, context: str, option: str) -> float:
        """log p(option | context) in nats: the sum over the option's words. An empty context is a document's start."""
        history = [self.START] * (self.ORDER - 1) + words(context)
        total = 0.0
        for word in words(option):
            total += math.log(self.probability(word, history))
            history.append(word)
        return total
