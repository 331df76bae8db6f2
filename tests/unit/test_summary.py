"""The robustness tables: verdicts and sentences from a known effect, against SciPy, and where undefined."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from synthetic import fabricate
from tiny import ROOT
from tli.analysis import effects, render
from tli.analysis import outcomes as cells
from tli.analysis.outcomes import Outcome, Source, Values
from tli.analysis.premises import read_premises
from tli.analysis.render import Made
from tli.analysis.results import Rows, read_sweep
from tli.config import parameters
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.rows import read_rows
from tli.paper import changes, classes, controls, summary, verdicts
from tli.paper.accuracy import CLASSES

SMOKE = parameters.load(ROOT / "tests" / "smoke" / "params.yaml")
LANGUAGES = {"English": "en", "Swahili": "sw"}
WORDS = {"equivalent", "differs within margin", "differs", "cannot tell", "undefined"}


def sweep(ranks: tuple[int, ...], seeds: tuple[int, ...]) -> Params:
    return SMOKE.model_copy(update={"sweep": SMOKE.sweep.model_copy(update={"ranks": ranks, "seeds": seeds})})


def source(folder: Path, params: Params, base: int = 0, **options: Any) -> Source:
    """Synthetic rows of one base."""
    made = fabricate(folder, params, seed=base, **({"pairs": (8, 4), "items": 20} | options))
    return read(made, params, base)


def read(made: dict[str, Any], params: Params, base: int = 0) -> Source:
    shared = read_premises(made["items"])
    aligned = Rows(made["base_rows"] / "similarity.tsv", made["align"])
    scored = Rows(made["base_rows"] / "score.tsv", made["transfer"])
    return Source(base, aligned, scored, read_sweep(made["sweep"], params), shared)


def everything(sources: list[Source], params: Params) -> list[Made]:
    """Every table that this issue's statistics stand in."""
    tasks = changes.tasks(sources, params)
    found = effects.effects(cells.outcomes(sources, params), params)
    return [
        changes.changes(tasks, changes.drawn(tasks, params), params),
        changes.gap(tasks, params),
        changes.calibration(tasks, params),
        classes.table(tasks, sources, params),
        *summary.tables(found, params),
        controls.table(sources[0].align, params),
    ]


def lines(made: list[Made], name: str) -> list[dict[str, str]]:
    (table,) = (one.table for one in made if one.table.name == name)
    return list(csv.DictReader(io.StringIO(render.to_csv(table))))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, list[Made]]:
    params = sweep((2, 4), (0, 1, 2))
    found = source(tmp_path_factory.mktemp("one"), params, items=60)
    return found, everything([found], params)


def outcome(
    slope: float, change: float, noise: float, params: Params, *, bases: int = 1, answers: bool = False
) -> Outcome:
    """Three hundred items in points, with a change against rank 0 and a slope per doubling that are known."""
    rng = np.random.default_rng(5)
    items = 300
    start = {base: rng.normal(50, 5, items) for base in range(bases)}
    tuned = {
        (base, seed, rank): start[base]
        + change
        + slope * np.log2(rank)
        + rng.normal(0, noise)
        + rng.normal(0, 1, items)
        for base in range(bases)
        for seed in params.sweep.seeds
        for rank in params.sweep.ranks
    }
    if answers:
        cut = {name: [100.0 * (x > 50) for x in part.values()] for name, part in (("start", start), ("tuned", tuned))}
        start = dict(zip(start, cut["start"], strict=True))
        tuned = dict(zip(tuned, cut["tuned"], strict=True))
    return Outcome("xcopa.sw", "xcopa", "accuracy", "view", 2.0, Values(start, tuned), answers)


LONG = sweep((1, 2, 4, 8, 16, 32), (0, 1, 2, 3, 4))


@pytest.mark.parametrize(
    ("slope", "change", "noise", "word", "said"),
    [
        (0.0, 0.0, 0.1, "equivalent", r"not told apart from rank 0.*changes by less than the margin of 2.0"),
        (0.0, -5.0, 0.1, "equivalent", r"(4\.9|5\.0)\d+ below rank 0.*changes by less than"),
        (0.2, 3.0, 0.05, "differs within margin", r"above rank 0.*rises by .* less than the margin"),
        (-2.0, 0.0, 0.1, "differs", r"below rank 0.*falls by .* more than the margin of 2.0"),
        (0.0, 0.0, 20.0, "cannot tell", r"these data cannot tell: .* smallest detectable before correction \d"),
    ],
)
@pytest.mark.parametrize("bases", [1, 6])
def test_a_known_effect_is_said_as_what_it_is(
    slope: float, change: float, noise: float, word: str, said: str, bases: int
) -> None:
    (effect,) = effects.effects([outcome(slope, change, noise, LONG, bases=bases)], LONG)
    assert summary.SHORT[effects.verdict(effect, 0.05)] == word
    assert re.search(said, summary.said(effect, LONG)), summary.said(effect, LONG)
    assert effect.trend.unit == ("base" if bases > 1 else "seed")
    assert effect.change == pytest.approx(change + 2.5 * slope, abs=1.0 if noise < 1 else 15)
    assert effect.span is not None
    assert effect.span.estimate == pytest.approx(5 * slope, abs=0.5 if noise < 1 else 60)


def test_scalings_that_disagree_are_named() -> None:
    flat, steep = (effects.effects([outcome(slope, 0.0, 0.1, LONG, bases=6)], LONG) for slope in (0.0, -2.0))
    made = verdicts.table({"2r": steep, "fixed32": flat, "rslora": flat}, LONG)
    (line,) = lines([made], "verdicts")
    assert [line[f"rank_{arm}"] for arm in ("2r", "fixed32", "rslora")] == ["differs", "equivalent", "equivalent"]
    assert (line["way_2r"], line["way_rslora"]) == ("below", "not told apart")
    assert float(line["span_2r"]) == pytest.approx(-10, abs=0.5)
    assert made.table.remarks[0] == (
        "over 6 bases the rank has one verdict under every scaling in 0 of 1 outcomes; it depends on the scaling in 1 "
        "(accuracy: 2r differs, fixed32 equivalent, rslora equivalent)"
    )
    agreed = verdicts.table({"2r": flat, "rslora": flat}, LONG).table.remarks[0]
    assert agreed == ("over 6 bases the rank has one verdict under every scaling in 1 of 1 outcomes (equivalent in 1)")


def test_a_hump_that_a_line_does_not_see_is_said() -> None:
    flat = outcome(0.0, 0.0, 0.05, LONG)
    humped = {key: x + 8.0 * (key[2] in (4, 8)) for key, x in flat.values.tuned.items()}
    (effect,) = effects.effects([flat._replace(values=Values(flat.values.start, humped))], LONG)
    assert summary.SHORT[effects.verdict(effect, 0.05)] == "equivalent"
    assert "apart, which a line does not see" in summary.said(effect, LONG)


def test_trend_and_equivalence_are_scipys_over_the_seeds_slopes(one: tuple[Source, list[Made]]) -> None:
    found, made = one
    params = sweep((2, 4), (0, 1, 2))
    trends = {line["outcome"]: line for line in lines(made, "trends")}
    margins = {line["outcome"]: line for line in lines(made, "equivalence")}
    summaries = {x["outcome"]: x for name in ("robustness", "robustness_alignment") for x in lines(made, name)}
    outcomes = {x.name: x for x in cells.outcomes([found], params)}
    assert trends.keys() == margins.keys() == summaries.keys() == outcomes.keys()
    checked = 0
    for name, line in trends.items():
        tuned = outcomes[name].values.tuned
        slopes = [np.polyfit([1, 2], [tuned[0, seed, rank].mean() for rank in (2, 4)], 1)[0] for seed in range(3)]
        assert float(line["slope"]) == pytest.approx(np.mean(slopes), abs=1e-8)
        assert float(summaries[name]["span"]) == pytest.approx(np.mean(slopes), abs=1e-8), "one doubling from 2 to 4"
        if line["t"] == "-" or abs(float(line["t"])) > 1e6:
            continue  # the invented differences to random pairs are constants
        assert float(line["t"]) == pytest.approx(scipy_stats.ttest_1samp(slopes, 0).statistic, rel=1e-5)
        margin = float(margins[name]["margin"])
        below = scipy_stats.ttest_1samp(slopes, margin, alternative="less").pvalue
        above = scipy_stats.ttest_1samp(slopes, -margin, alternative="greater").pvalue
        assert float(margins[name]["p"]) == pytest.approx(max(below, above), rel=1e-5)
        checked += 1
    assert checked >= 6


def test_a_family_s_tests_are_corrected_together(one: tuple[Source, list[Made]]) -> None:
    params = sweep((2, 4), (0, 1, 2))
    found = effects.effects(cells.outcomes([one[0]], params), params)
    for family in params.stats.families:
        members = [effect for effect in found if effect.outcome.family == family]
        pairs = [(x.p[test], x.p_holm[test]) for x in members for test in x.p]
        plain = [1.0 if p is None else p for p, _ in pairs]  # a test without a p counts, and is never rejected
        wanted = multipletests(plain, method="holm")[1]
        for (p, adjusted), want in zip(pairs, wanted, strict=True):
            assert (p is None) == (adjusted is None)
            assert adjusted is None or adjusted == pytest.approx(min(1.0, want), rel=1e-6)
    assert {test for x in found for test in x.p} == set(effects.TESTS)
    assert [len(x.p) for x in found if x.outcome.answers] == [4] * 4


def test_gap_calibration_and_changes_follow_from_the_rows(one: tuple[Source, list[Made]]) -> None:
    found, made = one
    rows = {rank: found.sweep.transfer[rank] for rank in (2, 4)}

    def share(rank: int, set_: str) -> float:
        which = [(rows[rank], f"r{rank}-s{seed}") for seed in range(3)] if rank else [(found.transfer, "base")]
        return 100 * float(np.mean([np.mean([*x.each(cell, set_, "-", "correct").values()]) for x, cell in which]))

    for line in lines(made, "gap"):
        task, rank = line["task"].removesuffix("-form").lower(), int(line["rank"])
        assert float(line["english"]) == pytest.approx(share(rank, f"{task}.en") - share(0, f"{task}.en"), abs=1e-6)
        assert float(line["gap"]) == pytest.approx(share(rank, f"{task}.en") - share(rank, f"{task}.sw"), abs=1e-6)
        assert (line["language"], line["worst"]) == ("Swahili", line["targets"])
    for line in lines(made, "changes"):
        set_ = f"{line['task'].removesuffix('-form').lower()}.{LANGUAGES[line['language']]}"
        assert float(line["change"]) == pytest.approx(share(int(line["rank"]), set_) - share(0, set_), abs=1e-6)
        assert float(line["low"]) <= float(line["change"]) <= float(line["high"])
    checked = 0
    for line in lines(made, "class_changes"):
        set_ = f"{line['task'].removesuffix('-form').lower()}.{LANGUAGES[line['language']]}"
        gold = found.transfer.each("base", set_, "-", "label")
        index, rank = CLASSES[set_[: set_.index(".")]].index(line["class"]), int(line["rank"])
        before = found.transfer.each("base", set_, "-", "correct")
        of_class = [item for item, label in gold.items() if label == index]
        which = [(rows[rank], f"r{rank}-s{seed}") for seed in range(3)] if rank else [(found.transfer, "base")]
        right = [x.each(cell, set_, "-", "correct") for x, cell in which]
        moved = [[one[item] - before[item] for item in of_class] for one in right]
        picked = [list(x.each(cell, set_, "-", "pred").values()) for x, cell in which]
        assert int(line["n"]) == len(of_class)
        assert float(line["accuracy"]) == pytest.approx(100 * np.mean([[one[i] for i in of_class] for one in right]))
        assert float(line["chosen"]) == pytest.approx(100 * np.mean(np.array(picked) == index))
        if rank:
            assert float(line["change"]) == pytest.approx(100 * np.mean(moved), abs=1e-6)
            assert float(line["won"]) == pytest.approx(100 * np.mean(np.array(moved) == 1), abs=1e-6)
            assert float(line["lost"]) == pytest.approx(100 * np.mean(np.array(moved) == -1), abs=1e-6)
            checked += 1
    assert checked == 20
    for line in lines(made, "calibration"):
        set_ = f"{line['task'].removesuffix('-form').lower()}.{LANGUAGES[line['language']]}"
        assert 100 * float(line["accuracy"]) == pytest.approx(share(int(line["rank"]), set_), abs=1e-6)
        assert 0 <= float(line["ece"]) <= 1
        assert 0 <= float(line["brier"]) <= 2


def test_controls_leave_what_random_pairs_do_not_gain(one: tuple[Source, list[Made]]) -> None:
    found, made = one
    measures = {"cosine": ("cosine", "random_cosine"), **controls.SCALED}
    for line in lines(made, "controls"):
        gains = []
        for measure in measures[line["measure"]]:
            before, after = found.align.matched(("base", "main"), line["set"], line["view"], measure)
            gains.append(np.mean(after) - np.mean(before))
        assert float(line["gain"]) == pytest.approx(gains[0], abs=1e-8)
        assert float(line["random"]) == pytest.approx(gains[1], abs=1e-8)
        assert float(line["left"]) == pytest.approx(gains[0] - gains[1], abs=1e-8)
        assert line["low"] == "-" or line["measure"] == "cosine"
    names = [line["control"] for line in lines(made, "controls")]
    assert names[:4] == ["as trained", "as trained, unseen pairs", "BOS out", "BOS out, unseen pairs"]
    assert {"centred", "standardised, BOS out", "linear CKA", "centred, BOS out, unseen pairs"} <= set(names)
    text = "".join(render.to_md(one.table) for one in made if one.table.name == "controls")
    assert "the arm `shuffled` of the full grid" in text


def test_several_bases_are_the_unit(tmp_path: Path) -> None:
    params = sweep((2, 4), (0, 1))
    made = everything([source(tmp_path / str(base), params, base) for base in range(3)], params)
    assert {line["units"] for line in lines(made, "trends")} == {"3 bases"}
    texts = [render.to_md(one.table) for one in made if one.table.name.startswith("robustness")]
    assert all("over 3 bases" in text and "one base" not in text for text in texts)
    assert {line["models"] for line in lines(made, "calibration") if line["rank"] == "0"} == {"3"}


def without(part: str) -> Callable[[Any], Any]:
    return lambda rows: rows[~rows["set"].str.contains(part, regex=True)]


def all_right(rows: Any) -> Any:
    return rows.assign(value=rows["value"].where(rows["measure"] != "correct", 1.0))


@pytest.mark.parametrize(
    ("ranks", "seeds", "change", "said"),
    [
        ((2,), (1,), None, "no two ranks above 0"),
        ((2, 4), (1,), None, "one seed: the slope has no error estimate"),
        ((2,), (0, 1), None, "no two ranks above 0"),
        ((2, 4), (0, 1), all_right, "every answer is right"),
        ((2, 4), (0, 1), without(r"\.en$"), "no items in en"),
        ((2, 4), (0, 1), without(r"\.sw$"), "no target language"),
        ((2, 4), (0, 1), without("xnli"), "one base"),
    ],
)
def test_what_is_undefined_is_a_cell_and_a_note(
    tmp_path: Path, ranks: tuple[int, ...], seeds: tuple[int, ...], change: Callable[[Any], Any] | None, said: str
) -> None:
    params = sweep(ranks, seeds)
    made = fabricate(tmp_path, params, pairs=(6, 4), items=8)
    scored = [made["base_rows"] / "score.tsv", made["transfer"], *(made["sweep"] / "rows").glob("*/score.tsv")]
    for path in scored if change else []:
        assert change is not None
        change(read_rows(path)).to_csv(path, sep="\t", index=False)
    tables = everything([read(made, params)], params)
    text = "\n".join(render.to_md(one.table) + render.to_csv(one.table) + render.to_tex(one.table) for one in tables)
    assert said in text
    assert not re.search(r"(?i:\bnan\b|\binf\b)|\bNone\b", text)
    assert {line["verdict"] for line in lines(tables, "robustness")} <= WORDS


@settings(max_examples=60, deadline=None)
@given(
    ranks=st.sets(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=3),
    seeds=st.integers(1, 3),
    bases=st.integers(1, 3),
    items=st.integers(1, 6),
    answers=st.booleans(),
    values=st.integers(0, 2**32 - 1),
)
def test_any_small_grid_has_a_verdict_and_no_crash(
    ranks: set[int], seeds: int, bases: int, items: int, answers: bool, values: int
) -> None:
    """Over few values, so that ties, constants and separated answers are common. Seeds' names change nothing."""
    rng = np.random.default_rng(values)
    params = sweep(tuple(sorted(ranks)), tuple(range(seeds)))
    levels = np.array([0.0, 100.0]) if answers else np.array([0.0, 0.5, 1.0])
    start = {base: rng.choice(levels, items) for base in range(bases)}
    tuned = {
        (base, seed, rank): rng.choice(levels, items)
        for base in range(bases)
        for seed in range(seeds)
        for rank in ranks
    }
    first = Outcome("xcopa.sw", "xcopa", "accuracy", "view", 2.0, Values(start, tuned), answers)
    (effect,) = effects.effects([first], params)
    made = summary.tables([effect], params)
    text = "".join(render.to_md(one.table) + render.to_csv(one.table) for one in made)
    assert not re.search(r"(?i:\bnan\b|\binf\b)|\bNone\b", text)
    assert all(value is None or np.isfinite(value) for one in made for value in one.measured.values())  # type: ignore[arg-type]
    renamed = {(base, seeds - seed, rank): x for (base, seed, rank), x in reversed(tuned.items())}
    (again,) = effects.effects([first._replace(values=Values(start, renamed))], params)
    assert again.change == pytest.approx(effect.change)
    assert effects.verdict(again, params.stats.alpha) == effects.verdict(effect, params.stats.alpha)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("xnli: [xnli]", "xnli: []", "stats.families: expected each of cosine, left, p1, xcopa, xnli in one family"),
        ("xnli: [xnli]", "xnli: [xnli, xcopa]", "stats.families: expected each of"),
        ("accuracy: 2.0", "accuracy: 0.0", "stats.margins.accuracy: expected greater than 0"),
        ("power: 0.8", "power: 0.2", "stats.power: expected greater than or equal to 0.5"),
    ],
)
def test_what_is_declared_is_checked(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert text.count(old) == 1
    (tmp_path / "params.yaml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        parameters.load(tmp_path / "params.yaml")


def test_every_statistic_s_table_exists() -> None:
    """docs/statistics.md names tables of the page."""
    rows = re.findall(r"^\| .*\| ([^|]+) \|$", (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8"), re.M)
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "tli" / "paper").glob("*.py"))
    named = {name for row in rows for name in re.findall(r"\b(controls|changes|gap|calibration|odds|trends)\b", row)}
    assert named == {"controls", "changes", "gap", "calibration", "odds", "trends"}
    assert all(f'"{name}",' in source for name in named)
