"""Sentences that depend on a result: for either sign and for none, each states what its numbers show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tiny import ROOT
from tli.analysis.table import Column, Kind, Table, display
from tli.config import parameters
from tli.config.parameters import Params
from tli.report import wording

VIEW = "2.mask.nf4"
SMALL, LARGE = 1e-9, 0.4


@pytest.fixture(scope="module")
def smoke() -> Params:
    return parameters.load(ROOT / "tests" / "smoke" / "params.yaml", model="microworld")


KINDS: dict[str, Kind] = {
    **dict.fromkeys(("gain", "difference", "random", "excess"), "cosine_change"),
    **dict.fromkeys(("before", "after", "cosine"), "cosine"),
    **dict.fromkeys(("p1_before", "p1_after", "p1_sw_en"), "share"),
    **dict.fromkeys(("ratio_before", "ratio_after"), "magnitude"),
    "d_z": "t",
    "p": "p",
}


def table(name: str, *rows: dict[str, Any]) -> Table:
    """A table of rows that need not have every cell."""
    keys = [*dict.fromkeys(key for row in rows for key in row)]
    ids = ("values", "view", "set", "measure", "direction")
    columns = [Column(key, key, KINDS.get(key, "text"), key in ids) for key in keys]
    made = Table(name, name, "", columns, rows, view="-")
    return replace(made, text=display(made, lambda *_: None))


def before_after(gain: float, p: float, *views: str) -> Table:
    rows: list[dict[str, Any]] = []
    for view in views or (VIEW,):
        cells = {"before": 0.5, "after": 0.5 + gain, "gain": gain, "p": p, "d_z": gain * 10}
        rows += [{"values": "run", "view": view, "set": set_, **cells} for set_ in ("trained", "control")]
        rows.append({"values": "published", "view": view, "set": "trained", "gain": 0.09, "p": 1e-240})
    return table("before_after", *rows)


@pytest.mark.parametrize(
    ("gain", "p", "words"),
    [(0.2, SMALL, "rises"), (-0.2, SMALL, "falls"), (0.2, LARGE, "is not shown to change")],
)
def test_training(gain: float, p: float, words: str, smoke: Params) -> None:
    text = wording.training(before_after(gain, p), VIEW, smoke)
    ways = {"rises", "falls", "is not shown to change"}
    assert {way for way in ways if way in text} == {words}
    assert f"{0.5 + gain:.4f}" in text
    assert ("p < 1e-4" if p == SMALL else "p = 0.4") in text
    counted = wording.views(before_after(gain, p), smoke)
    assert counted.startswith("Of 1 views")
    assert ("falls at 1" in counted, "rises at 1" in counted) == (words == "falls", words == "rises")
    assert ("not shown to change at 1" in counted) == (words not in ("rises", "falls"))


@pytest.mark.parametrize(
    ("gain", "p", "words"),
    [(0.2, SMALL, "the same sign"), (-0.2, SMALL, "the other sign"), (-0.2, LARGE, "no sign")],
)
def test_beside_the_published_value(gain: float, p: float, words: str, smoke: Params) -> None:
    views = [wording.points(smoke)[name] for name in ("as_scripted", "as_described")]
    text = wording.beside_published(before_after(gain, p, *views), smoke)
    assert text is not None
    assert text.count(words) == 2
    assert "+0.0900" in text


@pytest.mark.parametrize(
    ("difference", "p", "words"),
    [(0.1, SMALL, "gain more than"), (-0.1, SMALL, "gain less"), (0.1, LARGE, "not told apart")],
)
def test_unseen_pairs(difference: float, p: float, words: str, smoke: Params) -> None:
    row = {"view": VIEW, "difference": difference, "p": p}
    gains = table("gains", row | {"values": "run"}, row | {"values": "published"})
    published = wording.unseen_published(gains, smoke)
    assert published is not None
    for text in (wording.unseen(gains, VIEW, smoke), published):
        assert words in text
    assert wording.unseen_published(table("gains", row | {"values": "run"}), smoke) is None


@pytest.mark.parametrize(
    ("gain", "excess", "p", "words", "though"),
    [
        (-0.2, 0.3, SMALL, "draw nearer", True),
        (0.2, 0.3, SMALL, "draw nearer", False),
        (0.2, -0.3, SMALL, "lose against random pairs, by 0.3000", False),
        (0.2, 0.3, LARGE, "is not shown to exceed it", False),
    ],
)
def test_against_random_pairs(gain: float, excess: float, p: float, words: str, though: bool, smoke: Params) -> None:
    row = {"view": VIEW, "set": "trained", "measure": "cosine"}
    row |= {"gain": gain, "random": gain - excess, "excess": excess, "p": p}
    controls = table("controls", row)
    text = wording.against_random(controls, VIEW, smoke)
    assert words in text
    assert ("though their own cosine falls" in text) == though
    counted = wording.survives(controls, smoke)
    more, less = int(excess > 0 and p == SMALL), int(excess < 0 and p == SMALL)
    assert f"in {more}, less in {less}, and are not told apart from them in {1 - more - less}" in counted
    untested = {"view": VIEW, "set": "trained", "measure": "linear CKA", "excess": excess}
    assert wording.survives(table("controls", row, untested), smoke) == counted, "a row without a test counts nowhere"


def hits(before: float, *after: float) -> Table:
    rows = [
        {"view": VIEW, "set": "all", "direction": arrow, "p1_before": before, "p1_after": value}
        for arrow, value in zip(wording.WAYS.values(), after, strict=True)
    ]
    return table("retrieval", *rows)


@pytest.mark.parametrize(
    ("gain", "p", "after", "words"),
    [
        (0.2, SMALL, (0.2, 0.2), "move the same way in both"),
        (-0.2, SMALL, (0.2, 0.2), "move in opposite ways"),
        (-0.2, SMALL, (0.2, 0.05), "do not move the same way"),
        (-0.2, SMALL, (0.1, 0.1), "do not move the same way"),
        (-0.2, LARGE, (0.2, 0.2), "nothing is said"),
    ],
)
def test_cosine_and_retrieval(gain: float, p: float, after: tuple[float, float], words: str, smoke: Params) -> None:
    retrieval = hits(0.1, *after)
    assert words in wording.cosine_and_hits(before_after(gain, p), retrieval, VIEW, smoke)
    text = wording.retrieval(retrieval, VIEW)
    for value in after:
        word = "rises" if value > 0.1 else "falls" if value < 0.1 else "stays"
        assert f"{word} from 0.100 to {value:.3f}" in text


def test_the_highest_layer_under_a_pooling() -> None:
    rows = [
        {"view": f"{layer}.{pooling}.nf4", "cosine": cosine, "p1_sw_en": hit, "difference": hit}
        for pooling, best in (("mask", 1), ("content", 0))
        for layer, (cosine, hit) in enumerate([(0.1, 0.2 if not best else 0.9), (0.9 * best, 0.1)])
    ]
    scan = table("scan", *rows)
    assert "highest at `1.mask.nf4`, P@1 sw→en at `0.mask.nf4`" in wording.highest(scan, "mask")
    assert "both highest at `0.content.nf4`" in wording.highest(scan, "content")


@pytest.mark.parametrize(("after", "word"), [(9.0, "rises"), (0.5, "falls"), (3.0, "stays")])
def test_bos(after: float, word: str, smoke: Params) -> None:
    norms = table("norms", {"view": "2.-.nf4", "ratio_before": 3.0, "ratio_after": after})
    assert f"{word} from 3 to {after:g} at layer 2" in wording.bos(norms, smoke)


def test_verdicts() -> None:
    verify: dict[str, Any] = {
        "verdicts": {"agrees": 3, "differs": 0, "no expectation": 1200},
        "claims": {"number": 2, "verdicts": {"holds": 1, "needs models=[lugha_llama]": 1}},
        "recomputed": [{"statistic": "t, trained", "agrees": True}, {"statistic": "p, trained", "agrees": True}],
    }
    assert "All 3 values" in wording.expected(verify)
    assert wording.judged(verify) == "The study's 2 claims read: 1 `holds`, 1 `needs models=[lugha_llama]`."
    assert wording.recomputed(verify).startswith("All 2 ")
    verify["recomputed"][1]["agrees"] = False
    assert wording.recomputed(verify).endswith("1 follow from the published summaries; not so: p, trained.")
    verify["verdicts"] |= {"differs": 2}
    assert "Of 5 values that have an expectation 2 lie outside" in wording.expected(verify)
    verify["verdicts"] |= {"differs": 0, "agrees": 0}
    assert "None of this run's 1,200 values" in wording.expected(verify)
