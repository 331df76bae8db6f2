"""Counts properties of a list of word pairs, whether or not it follows the project's rules (lexicon.py).

The stage `words` writes them for the data-audit table; `tli audit --pairs` prints them. Two forms count as the same if
their `lexicon.key` is the same. A form with a space in it has several words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tli.data.words.lexicon import SETS, SIDES, Pair, citation_fault, key

Counts = dict[object, dict[str, int]]


def forms(pairs: Sequence[Pair], side: str, set_: str = "all") -> list[str]:
    """Returns the keys of the forms of one side in a set (trained, control or all), in the list's order."""
    return [key(getattr(pair, side)) for pair in pairs if set_ in ("all", pair.set)]


def repeats(keys: Sequence[str]) -> int:
    """Returns the number of keys that occurred before: the number of keys minus that of distinct keys."""
    return len(keys) - len(set(keys))


def in_both_sets(pairs: Sequence[Pair], side: str) -> list[str]:
    """Returns the forms of one side that are in both the trained and the control set, sorted."""
    return sorted(set(forms(pairs, side, "trained")) & set(forms(pairs, side, "control")))


def same_batch(n: int, size: int) -> float:
    """Returns the probability that two given entries of n are in the same batch, with random batches of `size`.

    P = sum_k s_k (s_k - 1) / (n (n - 1)), where s_k are the sizes of the batches: the last has the remaining entries.
    """
    if n < 2:
        return 0.0
    sizes = [size] * (n // size) + [n % size]
    return sum(s * (s - 1) for s in sizes) / (n * (n - 1))


def false_negatives(labels: Sequence[object], size: int) -> float:
    """Returns the expected number per epoch of ordered (anchor, negative) couples in one batch with the same label.

    It is P sum_f m_f (m_f - 1), with P from `same_batch` and m_f the number of entries with label f. Couples are
    ordered, as the training loop counts them. If the labels are English forms, the negative of such a couple equals the
    anchor's translation; if they are Swahili forms, it is another translation of the anchor.
    """
    return same_batch(len(labels), size) * sum(m * (m - 1) for m in Counter(labels).values())


def expected_false_negatives(pairs: Sequence[Pair], size: int) -> dict[str, float]:
    """Returns `false_negatives` of the trained set for couples with the same English form, Swahili form, or either."""
    swahili, english = (forms(pairs, side, "trained") for side in SIDES)
    same_english, same_swahili = false_negatives(english, size), false_negatives(swahili, size)
    both = false_negatives([*zip(swahili, english, strict=True)], size)
    either = same_english + same_swahili - both
    return {"same_english": same_english, "same_swahili": same_swahili, "either": either}


def _by_label(pairs: Sequence[Pair], group: Callable[[Pair], object]) -> Counts:
    """Value of `group` -> set -> number of pairs, the most frequent value first."""
    order = sorted(Counter(map(group, pairs)).items(), key=lambda item: (-item[1], str(item[0])))
    counts = Counter((group(pair), pair.set) for pair in pairs)
    return {value: {name: counts[value, name] for name in SETS} for value, _ in order}


def deviations(counts: Counts) -> dict[object, float]:
    """Returns for each group g how far the control set is from proportional to the trained set, in pairs.

    It is |c_g − C t_g / T|, where c_g and t_g are the control and trained counts, C and T their sums (T at least 1).
    """
    trained, control = (sum(count[name] for count in counts.values()) for name in SETS)
    return {g: abs(count["control"] - control * count["trained"] / max(trained, 1)) for g, count in counts.items()}


def audit(pairs: Sequence[Pair], batch_size: int) -> dict[str, Any]:
    """Returns the counts and shares of a list; by part of speech and domain only if the list has these labels.

    Shares are in [0, 1], deviations in pairs, and false negatives in couples per epoch.

    Args:
        pairs: the list.
        batch_size: the training batch size, for false negatives.
    """

    def by_set(counts: Callable[[Pair], bool]) -> dict[str, int]:
        counter = Counter(pair.set for pair in pairs if counts(pair))
        return {"all": counter.total()} | {name: counter[name] for name in SETS}

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
    """Counts by part of speech and domain, and how far the control set is from proportional."""
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
