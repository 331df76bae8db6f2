"""The tables of the rank study, setup and audit: recomputed with SciPy and NumPy, and what is undefined in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from synthetic import fabricate
from tiny import ROOT
from tli.analysis import outcomes, render, robustness
from tli.analysis.effects import (
    COSINE,
    ITEMS,
    TESTS,
    WORDS,
    Effect,
    effects,
    is_borderline,
    processor_shift,
    verdict,
)
from tli.analysis.outcomes import Outcome, Values
from tli.analysis.results import Results, read_results, run_name
from tli.analysis.table import Table
from tli.analysis.tolerances import load
from tli.config import parameters
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.stages import tables
from tli.tables import equivalence, odds, trends

SMOKE = parameters.load(ROOT / "tests" / "smoke" / "params.yaml")
TESTED = ("robustness", "robustness_alignment", "trends", "equivalence", "odds")
NAMES = (*TESTED, "ranks", "setup", "audit")
VIEW = "2.mask.nf4"


def sweep(ranks: tuple[int, ...], seeds: tuple[int, ...]) -> Params:
    return SMOKE.model_copy(update={"sweep": SMOKE.sweep.model_copy(update={"ranks": ranks, "seeds": seeds})})


PARAMS = sweep((2, 4), (0, 1, 2))
LONG = sweep((1, 2, 4, 8, 16, 32), (0, 1, 2, 3, 4))


def read(made: dict[str, Any], params: Params) -> Results:
    return read_results(made["build"], made["metrics"], made["published"], params)


def compute(name: str, results: Results, params: Params) -> Table:
    return tables.compute(name, results, params, lambda *_: None)


def changed(results: Results, change: Callable[[Any], Any]) -> Results:
    """The same results with another frame of rows."""
    return Results(change(results.frame.copy()), results.metrics, results.published, results.premises)


def text(table: Table) -> str:
    return render.to_md(table) + render.to_csv(table) + render.to_tex(table)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Synthetic results, read only."""
    return read(fabricate(tmp_path_factory.mktemp("synthetic"), PARAMS), PARAMS)


@pytest.fixture(scope="module")
def made(results: Results) -> dict[str, Table]:
    return {name: compute(name, results, PARAMS) for name in NAMES}


def values(results: Results, stage: str, run: str, set_: str, measure: str, view: str = "-") -> NDArray[np.float64]:
    """The values of a run in the order of the items, straight from the frame."""
    frame = results.frame
    chosen = frame[(frame["stage"] == stage) & (frame["run"] == run) & (frame["set"] == set_)]
    chosen = chosen[(chosen["measure"] == measure) & (chosen["view"] == view)]
    assert len(chosen)
    return chosen.sort_values("item")["value"].to_numpy(float)


def of_outcome(results: Results, key: str, run: str) -> NDArray[np.float64]:
    """An outcome's values in a run, without tli.analysis.outcomes."""
    kind, _, rest = key.partition(".")
    if kind in ("xcopa", "xnli"):
        return 100 * values(results, "score", run, key, "correct")
    if kind == "p1":
        return values(results, "similarity", run, "all", f"p_at_1.{rest}", VIEW)
    cosine = values(results, "similarity", run, rest, "cosine", VIEW)
    return cosine - values(results, "similarity", run, rest, "random_cosine", VIEW) if kind == "excess" else cosine


KEYS = (
    *("cosine.trained", "cosine.control", "excess.trained", "excess.control", "p1.sw_en", "p1.en_sw"),
    *("xcopa.en", "xcopa.sw", "xnli.en", "xnli.sw"),
)


def means(results: Results, key: str, rank: int) -> list[float]:
    """The mean of each seed at a rank."""
    return [float(of_outcome(results, key, run_name(rank, seed)).mean()) for seed in PARAMS.sweep.seeds]


def test_every_table_has_its_outcomes_and_no_undefined_text(made: dict[str, Table]) -> None:
    keys = {name: [row["key"] for row in made[name].rows] for name in TESTED}
    assert keys["robustness"] == keys["odds"] == [*KEYS[6:]]
    assert keys["robustness_alignment"] == [*KEYS[:6]]
    assert keys["trends"] == keys["equivalence"] == [*KEYS]
    assert "robustness/xcopa.sw/change" in made["robustness"].values()
    assert "trends/excess.control/slope" in made["trends"].values()
    for table in made.values():
        assert len(table.caption.split()) <= 40, table.name
        assert not re.search(r"(?i:\bnan\b|\binf\b)|\bNone\b", text(table)), table.name


def test_summaries_are_means_over_ranks_and_seeds(results: Results, made: dict[str, Table]) -> None:
    for name in ("robustness", "robustness_alignment"):
        for row in made[name].rows:
            key = str(row["key"])
            start = of_outcome(results, key, "base").mean()
            by_rank = {rank: np.mean(means(results, key, rank)) - start for rank in (2, 4)}
            worst = min(by_rank, key=lambda rank: by_rank[rank])
            assert row["start"] == pytest.approx(start, rel=1e-8)
            assert row["change"] == pytest.approx(np.mean([*by_rank.values()]), abs=1e-8)
            assert row["range"] == pytest.approx(max(by_rank.values()) - min(by_rank.values()), abs=1e-8)
            assert row["worst_change"] == pytest.approx(by_rank[worst], abs=1e-8)
            assert by_rank[int(str(row["worst"]))] == pytest.approx(by_rank[worst], abs=1e-12)
            if key.startswith("cosine"):
                run_changes = [
                    of_outcome(results, key, run_name(rank, seed)) - of_outcome(results, key, "base")
                    for rank in (2, 4)
                    for seed in (0, 1, 2)
                ]
                assert row["p"] == pytest.approx(scipy_stats.ttest_1samp(np.mean(run_changes, axis=0), 0).pvalue)


def test_trend_and_equivalence_are_scipys_over_the_seeds_slopes(results: Results, made: dict[str, Table]) -> None:
    spans = {row["key"]: row for name in ("robustness", "robustness_alignment") for row in made[name].rows}
    margins = {row["key"]: row for row in made["equivalence"].rows}
    checked = 0
    for row in made["trends"].rows:
        key = str(row["key"])
        slopes = np.array(means(results, key, 4)) - np.array(means(results, key, 2))
        slope, margin = float(str(row["slope"])), margins[key]["margin"]
        assert slope == pytest.approx(slopes.mean(), abs=1e-8)
        assert spans[key]["span"] == pytest.approx(slopes.mean(), abs=1e-8), "one doubling from 2 to 4"
        if row["t"] is None or abs(float(str(row["t"]))) > 1e6:
            continue  # the invented differences to random pairs are constants
        assert row["t"] == pytest.approx(scipy_stats.ttest_1samp(slopes, 0).statistic, rel=1e-5)
        low, high = scipy_stats.ttest_1samp(slopes, 0).confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx((low, high), rel=1e-5)
        below = scipy_stats.ttest_1samp(slopes, margin, alternative="less").pvalue
        above = scipy_stats.ttest_1samp(slopes, -float(str(margin)), alternative="greater").pvalue
        assert margins[key]["p"] == pytest.approx(max(below, above), rel=1e-5)
        checked += 1
    assert checked >= 6


def test_a_family_s_tests_are_corrected_together(results: Results) -> None:
    computed = robustness.effects_of(results, PARAMS)
    assert robustness.effects_of(results, PARAMS) is computed, "computed once"
    for family in PARAMS.stats.families:
        members = [effect for effect in computed if effect.outcome.family == family]
        pairs = [(effect.p[test], effect.p_holm[test]) for effect in members for test in effect.p]
        plain = [1.0 if p is None else p for p, _ in pairs]  # a test without a p counts, and is never rejected
        expected = multipletests(plain, method="holm")[1]
        for (p, adjusted), value in zip(pairs, expected, strict=True):
            assert (p is None) == (adjusted is None)
            assert adjusted is None or adjusted == pytest.approx(min(1.0, value), rel=1e-6)
    assert {test for effect in computed for test in effect.p} == set(TESTS)
    assert [len(effect.p) for effect in computed if effect.outcome.answers] == [4] * 4


def test_odds_have_the_sign_of_the_change_in_accuracy(results: Results, made: dict[str, Table]) -> None:
    changes = {row["key"]: float(str(row["change"])) for row in made["robustness"].rows}
    for row in made["odds"].rows:
        items = of_outcome(results, str(row["key"]), "base")
        assert row["n"] == items.size
        assert row["cells"] == 7, "the base, and two ranks with three seeds"
        assert row["clusters"] == items.size - items.size // 10, "every tenth item has the premise of the one before"
        assert float(str(row["any_low"])) <= float(str(row["any"])) <= float(str(row["any_high"]))
        if abs(changes[row["key"]]) > 1:
            assert (float(str(row["any"])) > 1) == (changes[row["key"]] > 0)


def outcome(
    slope: float, change: float, noise: float, params: Params, *, bases: int = 1, answers: bool = False
) -> Outcome:
    """Three hundred items in points, with a known change against rank 0 and a known slope per doubling."""
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
    return Outcome("xcopa.sw", "xcopa", "accuracy", "view", 2.0, Values(start, tuned), answers)


@pytest.mark.parametrize(
    ("slope", "change", "noise", "word", "pattern"),
    [
        (0.0, 0.0, 0.1, "equivalent", r"not told apart from rank 0.*changes by less than the margin of 2.0"),
        (0.0, -5.0, 0.1, "equivalent", r"(4\.9|5\.0)\d+ below rank 0.*changes by less than"),
        (0.2, 3.0, 0.05, "differs within margin", r"above rank 0.*rises by .* less than the margin"),
        (-2.0, 0.0, 0.1, "differs", r"below rank 0.*falls by .* more than the margin of 2.0"),
        (0.0, 0.0, 20.0, "cannot tell", r"these data cannot tell: .* smallest detectable before correction \d"),
    ],
)
@pytest.mark.parametrize("bases", [1, 6])
def test_a_known_effect_has_its_verdict_and_sentence(
    slope: float, change: float, noise: float, word: str, pattern: str, bases: int
) -> None:
    (effect,) = effects([outcome(slope, change, noise, LONG, bases=bases)], LONG)
    assert robustness.VERDICTS[verdict(effect, 0.05)] == word
    assert re.search(pattern, robustness.sentence(effect, LONG)), robustness.sentence(effect, LONG)
    assert effect.trend.unit == ("base" if bases > 1 else "seed")
    assert effect.change == pytest.approx(change + 2.5 * slope, abs=1.0 if noise < 1 else 15)
    assert effect.span is not None
    assert effect.span.estimate == pytest.approx(5 * slope, abs=0.5 if noise < 1 else 60)


@pytest.mark.parametrize("slope", [0.0, 0.2, -2.0])
def test_a_verdict_is_borderline_where_a_shift_changes_it(slope: float) -> None:
    """No shift changes nothing; one that carries the fitted change over the margin, or over 0, does."""
    (effect,) = effects([outcome(slope, 0.0, 0.1, LONG, bases=6)], LONG)
    assert effect.span is not None
    assert effect.span.estimate is not None
    assert is_borderline(effect, 0.0, 0.05) is False
    assert is_borderline(effect, abs(abs(effect.span.estimate) - effect.outcome.margin) + 1.0, 0.05) is True


def test_a_verdict_that_is_clear_is_stable_and_none_has_no_mark() -> None:
    (clear,) = effects([outcome(-2.0, 0.0, 0.1, LONG, bases=6)], LONG)
    assert is_borderline(clear, processor_shift(clear.outcome, words=686), 0.05) is False
    (chance,) = effects([outcome(-2.0, 0.0, 0.1, LONG, bases=6)._replace(at_chance=True)], LONG)
    assert is_borderline(chance, 1.0, 0.05) is None


def test_what_a_processor_may_shift_is_the_floor_of_the_tolerances() -> None:
    floors = {name: measure.floor for name, measure in load(ROOT / "paper" / "tolerances.yaml").measures.items()}
    assert (floors["scores"], floors["retrieval"], floors["cosines"]) == (ITEMS, WORDS, COSINE)
    items = outcome(0.0, 0.0, 0.1, LONG)._replace(answers=True)
    n = next(iter(items.values.start.values())).size
    assert processor_shift(items, words=686) == pytest.approx(100 * ITEMS / n)
    assert processor_shift(items._replace(key="p1.sw_en", answers=False), words=686) == pytest.approx(WORDS / 686)
    assert processor_shift(items._replace(key="cosine.trained", answers=False), words=686) == COSINE


def test_a_hump_that_a_line_does_not_see_is_reported() -> None:
    flat = outcome(0.0, 0.0, 0.05, LONG)
    humped = {key: x + 8.0 * (key[2] in (4, 8)) for key, x in flat.values.tuned.items()}
    (effect,) = effects([flat._replace(values=Values(flat.values.start, humped))], LONG)
    assert robustness.VERDICTS[verdict(effect, 0.05)] == "equivalent"
    assert "apart, which a line does not see" in robustness.sentence(effect, LONG)


def test_several_bases_are_the_unit(tmp_path: Path) -> None:
    params = sweep((2, 4), (0, 1))
    bases = []
    for number in range(3):
        base = read(fabricate(tmp_path / str(number), params, seed=number, pairs=(8, 4), items=20), params)
        frame = base.frame.assign(base=number)
        bases.append(Results(frame, base.metrics, base.published, base.premises))
    measured = effects(outcomes.outcomes(bases, params), params)
    assert {row["units"] for row in trends.rows_of(measured)} == {"3 bases"}
    assert [effect.outcome.key for effect in measured] == [*KEYS]
    notes = "\n".join(
        [
            *robustness.summary_notes(measured, params),
            *trends.notes_on(measured, params),
            *equivalence.notes_on(measured, params),
            *odds.notes_on([effect for effect in measured if effect.outcome.answers], params),
        ]
    )
    assert "over 3 bases" in notes
    assert "for these 3 bases" in notes
    assert "one base" not in notes
    change = next(effect.change for effect in measured if effect.outcome.key == "xnli.sw")
    by_base = []
    for base in bases:
        runs = [of_outcome(base, "xnli.sw", run_name(rank, seed)).mean() for rank in (2, 4) for seed in (0, 1)]
        by_base.append(np.mean(runs) - of_outcome(base, "xnli.sw", "base").mean())
    assert change == pytest.approx(np.mean(by_base))


def without(pattern: str) -> Callable[[Any], Any]:
    return lambda frame: frame[~frame["set"].str.contains(pattern, regex=True)]


def all_right(frame: Any) -> Any:
    return frame.assign(value=frame["value"].where(frame["measure"] != "correct", 1.0))


@pytest.mark.parametrize(
    ("ranks", "seeds", "change", "note"),
    [
        ((2,), (1,), None, "no two ranks above 0"),
        ((2, 4), (1,), None, "one seed: the slope has no error estimate"),
        ((2,), (0, 1), None, "no two ranks above 0"),
        ((2, 4), (0, 1), all_right, "every answer is right"),
        ((2, 4), (0, 1), without("xnli"), "one base"),
        ((2, 4), (0, 1), without("xnli|xcopa"), "one base"),
    ],
)
def test_what_is_undefined_is_a_cell_and_a_note(
    tmp_path: Path, ranks: tuple[int, ...], seeds: tuple[int, ...], change: Callable[[Any], Any] | None, note: str
) -> None:
    params = sweep(ranks, seeds)
    results = read(fabricate(tmp_path, params, pairs=(6, 4), items=8), params)
    results = changed(results, change) if change else results
    computed = [compute(name, results, params) for name in (*TESTED, "ranks")]
    written = "\n".join(text(table) for table in computed)
    assert note in written
    assert not re.search(r"(?i:\bnan\b|\binf\b)|\bNone\b", written)
    verdicts = {row["verdict"] for table in computed[:2] for row in table.rows}
    assert verdicts <= {*robustness.VERDICTS.values()}


@settings(max_examples=25, deadline=None)
@given(
    ranks=st.sets(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=3),
    seeds=st.integers(1, 3),
    bases=st.integers(1, 3),
    items=st.integers(1, 6),
    answers=st.booleans(),
    numbers=st.integers(0, 2**32 - 1),
)
def test_any_small_sweep_has_a_verdict_and_no_crash(
    ranks: set[int], seeds: int, bases: int, items: int, answers: bool, numbers: int
) -> None:
    """Over few values, so that ties, constants and separated answers are common. Seeds' names change nothing."""
    rng = np.random.default_rng(numbers)
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
    (effect,) = effects([first], params)
    for row in all_rows(effect, params):
        assert all(value is None or isinstance(value, str) or np.isfinite(value) for value in row.values())
    notes = [*robustness.summary_notes([effect], params), *trends.notes_on([effect], params)]
    notes += [*equivalence.notes_on([effect], params), *odds.notes_on([effect], params)]
    assert not re.search(r"(?i:\bnan\b|\binf\b)|\bNone\b", "\n".join(notes))
    renamed = {(base, seeds - seed, rank): x for (base, seed, rank), x in reversed(tuned.items())}
    (again,) = effects([first._replace(values=Values(start, renamed))], params)
    assert again.change == pytest.approx(effect.change)
    assert verdict(again, params.stats.alpha) == verdict(effect, params.stats.alpha)


def all_rows(effect: Effect, params: Params) -> list[dict[str, Any]]:
    """The rows of an effect in every table."""
    return [
        *robustness.summary_rows([effect], params),
        *trends.rows_of([effect]),
        *equivalence.rows_of([effect], params),
        *odds.rows_of([effect]),
    ]


def test_other_items_than_the_base_s_are_one_line(results: Results) -> None:
    fewer = changed(results, lambda frame: frame[(frame["run"] != "r4-s1") | ~frame["item"].str.endswith("0007")])
    with pytest.raises(UserError, match=r"rows of the stage score: expected the base's items, 1 differ"):
        outcomes.by_item(fewer, "xcopa.sw", "correct", PARAMS)
    fewer = changed(results, lambda frame: frame[(frame["run"] != "r4-s1") | (frame["item"] != "neno0")])
    with pytest.raises(UserError, match=r"rows of the stage similarity: expected the base's items, 1 differ"):
        outcomes.by_pair(fewer, "trained", VIEW, "cosine", PARAMS)


def test_ranks_are_means_and_sds_over_seeds(results: Results, made: dict[str, Table]) -> None:
    rows = made["ranks"].rows
    views = {row["view"]: row["name"] for row in rows}
    assert views == {"2.mask.nf4": "trained_on", "2.content.nf4": "neighbour"} | {
        view: name for view, name in views.items() if name in ("as_described", "final")
    }
    assert [row["rank"] for row in rows] == [0, 2, 4] * len(views)
    for row in rows:
        rank, view = int(str(row["rank"])), str(row["view"])
        runs = [run_name(rank, seed) for seed in (0, 1, 2)] if rank else ["base"]
        for set_ in ("trained", "control"):
            after = [values(results, "similarity", run, set_, "cosine_mean", view).item() for run in runs]
            start = values(results, "similarity", "base", set_, "cosine_mean", view).item()
            assert row[set_] == pytest.approx(np.mean(after), rel=1e-8)
            if rank:
                assert row[f"gain_{set_}"] == pytest.approx(np.mean(after) - start, abs=1e-8)
                assert row[f"gain_sd_{set_}"] == pytest.approx(np.std(after, ddof=1), abs=1e-8)
        for way in ("sw_en", "en_sw"):
            hits = [values(results, "similarity", run, "all", f"p_at_1.{way}", view).item() for run in runs]
            assert row[f"p1_{way}"] == pytest.approx(np.mean(hits), rel=1e-8)
        if rank:
            assert row["factor"] == {"2r": 2, "fixed32": 32 / rank, "rslora": 8 / rank**0.5}[PARAMS.lora.scaling]
            assert row["parameters"] == 416 * rank
            assert row["share_v_proj"] == rank / PARAMS.active.model.kv_width


def test_exactly_the_sweep_of_params_is_read(tmp_path: Path) -> None:
    files = fabricate(tmp_path, PARAMS, pairs=(6, 4), items=6)
    (files["build"] / "sweep" / "rows" / "r64").mkdir()
    (files["build"] / "sweep" / "rows" / "r64" / "similarity.tsv").write_text("left over from another sweep")
    params = sweep((2,), (1,))
    table = compute("ranks", read(files, params), params)
    assert {row["rank"] for row in table.rows} == {0, 2}
    assert {row.get("gain_sd_trained") for row in table.rows} == {None}, "no SD over one seed"
    assert any("SD needs two values" in note for note in table.notes)


def test_setup_is_what_was_loaded_and_counted(results: Results, made: dict[str, Table]) -> None:
    rows = {str(row["setting"]): row for row in made["setup"].rows}
    frame = results.frame
    pairs = frame[(frame["stage"] == "similarity") & (frame["run"] == "base") & (frame["measure"] == "cosine")]
    for set_ in ("trained", "control"):
        assert rows[f"pairs.{set_}"]["here"] == pairs[pairs["set"] == set_]["item"].nunique()
    here = {name: row["here"] for name, row in rows.items()}
    assert (here["nf4.quant_type"], here["fp4.quant_type"], here["nf4.compute_dtype"]) == ("nf4", "fp4", "bfloat16")
    assert (here["parameters"], here["padding_drift"], here["pooling"]) == (4096 + 1024, 0.0625, "mask")
    assert (rows["nf4.quant_type"]["paper"], rows["rank"]["paper"]) == ("nf4", 16)
    scan = frame[(frame["stage"] == "scan") & (frame["set"] == "trained") & (frame["measure"] == "cosine_mean")]
    cosines = scan.set_index("view")["value"].astype(float)
    assert here["peak_layer"] == max(range(4), key=lambda layer: cosines[f"{layer}.mask.nf4"])
    assert here["massive_layer"] is None, "the invented peaks are 30"
    assert here["scanned"] == "0 to 4, norm"
    assert here["poolings"] == "mask, content"
    assert (here["layer_0"], here["hidden_states"], here["final_hidden_state"]) == ("embeddings", 5, 4)
    assert "setup/nf4.quant_type/here" in made["setup"].values()
    assert set(results.published["setup"]) <= here.keys(), "every published setting has a row"


def test_setup_of_an_author_s_adapter(results: Results) -> None:
    losses = ("loss_first", "loss_last", "false_negatives")
    untrained = changed(results, lambda frame: frame[~((frame["run"] == "main") & frame["measure"].isin(losses))])
    here = {row["setting"]: row["here"] for row in compute("setup", untrained, PARAMS).rows}
    assert {here[f"train.{name}"] for name in losses} == {None}


def test_setup_of_a_cut_model(tmp_path: Path) -> None:
    params = parameters.load(ROOT / "params.yaml", model="lugha_llama_early")
    params = params.model_copy(update={"sweep": params.sweep.model_copy(update={"ranks": (1,), "seeds": (0,)})})
    table = compute("setup", read(fabricate(tmp_path, params, pairs=(6, 4)), params), params)
    rows = {row["setting"]: row for row in table.rows}
    assert {"blocks", "vocab_size"}.isdisjoint(rows), "what was published is the whole model's"
    assert "the first of 32" in str(rows["blocks_held"]["what"])
    assert rows["peak_layer"]["here"] is None, "which only a scan of all layers shows"
    assert any(note.startswith("left out: this run has the first 2 of 32 blocks") for note in table.notes)


def test_audit_holds_the_stages_counts(results: Results, made: dict[str, Table]) -> None:
    rows = {(row["part"], row["what"]): row for row in made["audit"].rows}
    pairs = rows["word pairs", "pairs"]
    assert pairs["all"] == float(str(pairs["trained"])) + float(str(pairs["control"]))
    assert rows["word pairs", "verbs"]["all"] == 7
    assert rows["corpus", "words"]["all"] == 1234
    assert rows["base", "tokens seen"]["all"] == 98765
    assert ("base", "bos") not in rows
    assert not any("ceiling" in str(what) for _, what in rows)
    for side in ("swahili", "english"):
        row = rows["word pairs", f"tokens a form: {side}"]
        by_set = {set_: values(results, "train", "base", set_, f"tokens.{side}") for set_ in ("trained", "control")}
        assert row["trained"] == pytest.approx(by_set["trained"].mean())
        assert row["all"] == pytest.approx(np.concatenate([*by_set.values()]).mean())
    assert made["audit"].values()["audit/base,tokens-seen/all"] == 98765


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "xnli: [xnli]",
            "xnli: []",
            "stats.families: expected each of cosine, excess, p1, xcopa, copa_test, xnli in one family",
        ),
        ("xnli: [xnli]", "xnli: [xnli, xcopa]", "stats.families: expected each of"),
        ("accuracy: 2.0", "accuracy: 0.0", "stats.margins.accuracy: expected greater than 0"),
        ("power: 0.8", "power: 0.2", "stats.power: expected greater than or equal to 0.5"),
    ],
)
def test_what_is_declared_is_checked(tmp_path: Path, old: str, new: str, message: str) -> None:
    content = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert content.count(old) == 1
    (tmp_path / "params.yaml").write_text(content.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        parameters.load(tmp_path / "params.yaml")


def test_every_statistic_s_table_exists() -> None:
    """docs/statistics.md names tables."""
    cells = re.findall(r"^\| .*\| ([^|]+) \|$", (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8"), re.M)
    named = {name for cell in cells for name in re.findall(r"\b(controls|changes|gap|calibration|odds|trends)\b", cell)}
    assert named == {"controls", "changes", "gap", "calibration", "odds", "trends"}
    assert named <= set(tables.ORDER)
