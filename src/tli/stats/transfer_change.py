"""What an adapter changes in cross-lingual transfer: flips, worst language, gap, forgetting and margins."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tli.stats.arrays import Floats, finite

Answers = Sequence[bool] | NDArray[np.bool_]


class TransferChange(NamedTuple):
    """One adapter compared with its base (rank 0) on one task; accuracies are shares, changes are after - before."""

    won: int  # items of the target languages, wrong before and right after
    lost: int
    target_change: float | None  # mean over target languages
    worst_language: str | None  # the target language whose accuracy changes for the worst
    worst_change: float | None
    source_change: float | None  # below 0 the source language is forgotten
    gap_before: float | None
    gap_after: float | None
    margin_change: float | None  # nats, mean over target languages of the mean over items
    note: str


def transfer_change(
    before: Mapping[str, Answers],
    after: Mapping[str, Answers],
    margins_before: Mapping[str, Floats] | None = None,
    margins_after: Mapping[str, Floats] | None = None,
    source: str = "en",
    never_worst: Collection[str] = (),
) -> TransferChange:
    """Changes of transfer from {language: whether each item is right}; the items are in the same order on both sides.

    flips: won = number of items wrong before and right after, lost = the reverse, over the target languages (all but
    the source). gap = accuracy of the source - mean accuracy of the targets (XTREME's cross-lingual transfer gap, Hu et
    al. 2020). The change of the source's accuracy shows forgetting (Chaudhry et al. 2018, with the opposite sign).
    Worst language: the target with the lowest change (a worst group, as in Sagawa et al. 2020), the first by name of
    equals; none of `never_worst`. margin = log p(right choice) - max log p(other choice). Raises ValueError where
    languages or numbers of items differ.
    """
    _same(before, after)
    score = {name: (_share(before[name]), _share(after[name])) for name in sorted(before) if len(before[name])}
    targets = {name: pair for name, pair in score.items() if name != source}
    change = {name: y - x for name, (x, y) in targets.items()}
    pairs = [(np.asarray(before[name], dtype=bool), np.asarray(after[name], dtype=bool)) for name in targets]
    won, lost = (sum(int((a & ~b).sum()) for a, b in order) for order in ([(y, x) for x, y in pairs], pairs))
    both = bool(targets) and source in score
    worst = min(change.keys() - set(never_worst), key=lambda name: (change[name], name), default=None)
    gaps = [score[source][i] - float(np.mean([pair[i] for pair in targets.values()])) for i in (0, 1) if both]
    margin = None
    if margins_before is not None and margins_after is not None:
        _same(margins_before, margins_after)
        moved = [
            float((finite(margins_after[name]) - finite(margins_before[name])).mean())
            for name in sorted(margins_before)
            if name != source and len(margins_before[name])
        ]
        margin = float(np.mean(moved)) if moved else None
    notes = ["" if targets else "no target language", "" if source in score else f"no items in {source}"]
    return TransferChange(
        won,
        lost,
        float(np.mean(list(change.values()))) if change else None,
        worst,
        None if worst is None else change[worst],
        score[source][1] - score[source][0] if source in score else None,
        gaps[0] if both else None,
        gaps[1] if both else None,
        margin,
        "; ".join(note for note in notes if note),
    )


def _share(answers: Answers) -> float:
    return float(np.mean(np.asarray(answers, dtype=bool)))


def _same(
    before: Mapping[str, Answers] | Mapping[str, Floats], after: Mapping[str, Answers] | Mapping[str, Floats]
) -> None:
    sizes = [{name: len(values) for name, values in side.items()} for side in (before, after)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"expected the same languages and items before and after, got {sizes[0]} and {sizes[1]}")
