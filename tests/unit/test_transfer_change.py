"""The pieces of the robustness summary: a worked case, agreement with McNemar's counts, laws, degenerate cells."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tli.stats import mcnemar
from tli.stats.transfer_change import TransferChange, transfer_change

Answers = list[tuple[bool, bool]]
ITEMS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30)


def sides(pairs: dict[str, Answers]) -> tuple[dict[str, list[bool]], dict[str, list[bool]]]:
    before, after = ({name: [pair[i] for pair in items] for name, items in pairs.items()} for i in (0, 1))
    return before, after


def test_a_worked_case() -> None:
    before = {"en": [True, True, True, False], "sw": [True, False, False, False], "tr": [True, True, False, False]}
    after = {"en": [True, True, False, False], "sw": [True, True, True, False], "tr": [False, True, False, False]}
    margins = {"en": [9.0] * 4, "sw": [1.0, -1.0, -2.0, -3.0], "tr": [1.0, 1.0, -1.0, -1.0]}
    moved = {"en": [0.0] * 4, "sw": [2.0, 0.0, -1.0, -2.0], "tr": [-1.0, 1.0, -1.0, -1.0]}
    found = transfer_change(before, after, margins, moved)
    assert (found.won, found.lost) == (2, 1)
    assert (found.worst_language, found.worst_change) == ("tr", -0.25)
    assert (found.target_change, found.source_change) == (0.125, -0.25)
    assert (found.gap_before, found.gap_after) == (0.75 - 0.375, 0.5 - 0.5)
    assert found.margin_change == (1.0 - 0.5) / 2
    assert found.note == ""


@given(ITEMS, ITEMS, ITEMS, st.randoms())
def test_laws(en: Answers, sw: Answers, tr: Answers, mixer: random.Random) -> None:
    before, after = sides({"en": en, "sw": sw, "tr": tr})
    found, back = transfer_change(before, after), transfer_change(after, before)
    flips = [mcnemar.exact(before[name], after[name]) for name in ("sw", "tr")]
    assert (found.won, found.lost) == (sum(one.won for one in flips), sum(one.lost for one in flips))
    assert (back.won, back.lost, back.source_change) == (found.lost, found.won, pytest.approx(-found.source_change))
    assert found.gap_after - found.gap_before == pytest.approx(found.source_change - found.target_change)
    assert found.worst_change <= found.target_change + 1e-12
    mixer.shuffle(sw)
    mixed = transfer_change(*sides({"tr": tr, "sw": sw, "en": en}))
    assert mixed == found


def test_equal_changes_name_the_first_language() -> None:
    answers = {"en": [True], "tr": [True], "sw": [True]}
    assert transfer_change(answers, answers).worst_language == "sw"


def test_degenerate_data_give_defined_cells() -> None:
    alone = transfer_change({"en": [True, False]}, {"en": [True, True]})
    assert alone == TransferChange(0, 0, None, None, None, 0.5, None, None, None, "no target language")
    targets = transfer_change({"sw": [True]}, {"sw": [False]}, {"sw": [1.0]}, {"sw": [0.5]})
    assert (targets.lost, targets.gap_before, targets.source_change) == (1, None, None)
    assert (targets.margin_change, targets.note) == (-0.5, "no items in en")
    none = transfer_change({}, {}, {}, {})
    assert set(none[2:9]) == {None}
    assert none.note == "no target language; no items in en"
    assert transfer_change({"en": [True], "sw": []}, {"en": [True], "sw": []}).worst_language is None
    for before, after in (({"sw": [True]}, {"sw": [True, True]}), ({"sw": [True]}, {"en": [True]})):
        with pytest.raises(ValueError, match="same languages"):
            transfer_change(before, after)
