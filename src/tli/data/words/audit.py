"""What a list of word pairs is like, counted: any list, whether it keeps the project's rules or not (stage: pairs).

Feeds the data-audit table; `tli audit --pairs` prints the same. Two forms are the same if their `lexicon.key` is; a
form of several words is one with a space in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tli.data.words.lexicon import SETS, SIDES, Pair, citation_fault, key

Counts = dict[object, dict[str, int]]


def forms(pairs: Sequence[Pair], side: str, set_: str = "all") -> list[str]:
    """The keys of one side's forms in a set (trained, control or all), in the list's order."""
    return [key(getattr(pair, side)) for pair in pairs if set_ in ("all", pair.set)]


def repeats(keys: Sequence[str]) -> int:
    """How many entries have a form that stands above already: entries less distinct forms."""
    return len(keys) - len(set(keys))


def in_both_sets(pairs: Sequence[Pair], side: str) -> list[str]:
    """The forms of one side that stand in the trained and in the control set, sorted."""
    return sorted(set(forms(pairs, side, "trained")) & set(forms(pairs, side, "control")))


def same_batch(n: int, size: int) -> float:
    """The chance that two given entries of n share a batch, when a permutation is cut into batches of `size`.

    P = sum_k s_k (s_k - 1) / (n (n - 1)), s_k the batches' sizes: all `size` but the last, which holds the rest.
    """
    if n < 2:
        return 0.0
    sizes = [size] * (n // size) + [n % size]
    return sum(s * (s - 1) for s in sizes) / (n * (n - 1))


def false_negatives(labels: Sequence[object], size: int) -> float:
    """Expected number, an epoch, of (anchor, negative) couples in one batch that share a label.

    P sum_f m_f (m_f - 1), with m_f entries of label f and P from `same_batch`: each couple counts once from either
    side, as the training loop counts them (stages/train.py). With English forms as labels, the negative is the anchor's
    own translation; with Swahili forms, it is another translation of the anchor.
    """
    return same_batch(len(labels), size) * sum(m * (m - 1) for m in Counter(labels).values())


def expected_false_negatives(pairs: Sequence[Pair], size: int) -> dict[str, float]:
    """`false_negatives` of the trained set by what is shared: English form, Swahili form, one or both."""
    swahili, english = (forms(pairs, side, "trained") for side in SIDES)
    found = {"same_english": false_negatives(english, size), "same_swahili": false_negatives(swahili, size)}
    both = false_negatives([*zip(swahili, english, strict=True)], size)
    return found | {"either": found["same_english"] + found["same_swahili"] - both}


def _by_label(pairs: Sequence[Pair], group: Callable[[Pair], object]) -> Counts:
    """Per value of `group`, the most frequent first: how many pairs of each set."""
    order = sorted(Counter(map(group, pairs)).items(), key=lambda item: (-item[1], str(item[0])))
    cells = Counter((group(pair), pair.set) for pair in pairs)
    return {value: {name: cells[value, name] for name in SETS} for value, _ in order}


def deviations(counts: Counts) -> dict[object, float]:
    """Per group g: |c_g − C t_g / T|, in pairs; c, t: control and trained counts, C, T their sums (T at least 1)."""
    trained, control = (sum(count[name] for count in counts.values()) for name in SETS)
    return {g: abs(count["control"] - control * count["trained"] / max(trained, 1)) for g, count in counts.items()}


def audit(pairs: Sequence[Pair], batch_size: int) -> dict[str, Any]:
    """Counts and shares of a list; shares lie in [0, 1], deviations are in pairs, false negatives in couples an epoch.

    Counts by part of speech and domain are given only where the list has such labels.
    """

    def by_set(counted: Callable[[Pair], bool]) -> dict[str, int]:
        found = Counter(pair.set for pair in pairs if counted(pair))
        return {"all": found.total()} | {name: found[name] for name in SETS}

    several = {
        "swahili": by_set(lambda pair: " " in pair.swahili),
        "english": by_set(lambda pair: " " in pair.english),
        "either": by_set(lambda pair: " " in pair.swahili + pair.english),
    }
    result: dict[str, Any] = {
        "pairs": by_set(lambda _: True),
        "single_word_share": {side: (len(pairs) - several[side]["all"]) / max(len(pairs), 1) for side in SIDES},
        "multi_word": several,
        "duplicates": {side: repeats(forms(pairs, side)) for side in SIDES},
        "repeated_within": {side: {name: repeats(forms(pairs, side, name)) for name in SETS} for side in SIDES},
        "in_both_sets": {side: len(in_both_sets(pairs, side)) for side in SIDES},
        "expected_false_negatives_an_epoch": expected_false_negatives(pairs, batch_size),
        "same_on_both_sides": sum(key(pair.swahili) == key(pair.english) for pair in pairs),
        "forms_on_both_sides": len({*forms(pairs, "swahili")} & {*forms(pairs, "english")}),
    }
    if any(pair.pos != "-" or pair.domain != "-" for pair in pairs):
        result |= _labels(pairs)
    return result


def _labels(pairs: Sequence[Pair]) -> dict[str, Any]:
    """What parts of speech and domains show: counts by set, and how far the control set is from proportional."""
    pos, domain = _by_label(pairs, lambda pair: pair.pos), _by_label(pairs, lambda pair: pair.domain)
    both = _by_label(pairs, lambda pair: (pair.pos, pair.domain))
    return {
        "verbs": sum(pair.pos == "verb" for pair in pairs),
        "not_in_citation_form": sum(citation_fault(pair) is not None for pair in pairs),
        "largest_deviation": {
            name: max(deviations(counts).values(), default=0.0)
            for name, counts in {"pos": pos, "domain": domain, "pos_and_domain": both}.items()
        },
        "pos": pos,
        "domain": domain,
    }
