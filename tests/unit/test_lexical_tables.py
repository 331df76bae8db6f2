"""The tables about word pairs, from synthetic rows: recomputed with SciPy and pandas, and what they refuse."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from synthetic import as_paper, fabricate, named, with_blocks
from tli.analysis import published
from tli.analysis.lora_factor import factor
from tli.analysis.massive import massive_activation
from tli.analysis.results import Results, load_yaml, read_results
from tli.analysis.table import Row, Table
from tli.config import parameters
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.rows import read_rows
from tli.stages import tables
from tli.tables.controls import SCALED

ROOT = Path(__file__).resolve().parents[2]
TABLES = (
    *("scan", "norms", "before_after", "gains", "lengths", "controls", "retrieval", "pools", "geometry", "projection"),
    "adapter",
)
RUNS = {"before": "base", "after": "main"}


@pytest.fixture(scope="module")
def smoke() -> Params:
    return parameters.load(ROOT / "tests" / "smoke" / "params.yaml")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, smoke: Params) -> dict[str, Any]:
    """Synthetic rows; read only."""
    return fabricate(tmp_path_factory.mktemp("synthetic"), smoke)


@pytest.fixture(scope="module")
def computed(made: dict[str, Any]) -> dict[str, Table]:
    results = read(made)
    return {name: compute(name, results, made["params"]) for name in TABLES}


@pytest.fixture
def fresh(tmp_path: Path, smoke: Params) -> dict[str, Any]:
    """A test's own synthetic rows, to break."""
    return fabricate(tmp_path, smoke, pairs=(6, 4), items=6)


def read(made: Mapping[str, Any]) -> Results:
    return read_results(made["build"], made["metrics"], made["published"], made["params"])


def compute(name: str, results: Results, params: Params) -> Table:
    return tables.compute(name, results, params, lambda *_: None)


def similarity(made: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of the base and of the paper's configuration, with numbers as values."""
    files = (made["build"] / "base-rows" / "similarity.tsv", made["build"] / "similarity.tsv")
    return pd.concat([read_rows(path) for path in files], ignore_index=True).astype({"value": float})


def by_pair(rows: pd.DataFrame, view: str, measure: str = "cosine", set_: str | None = None) -> pd.DataFrame:
    """A line per (set, item), a column per run."""
    chosen = rows[(rows["view"] == view) & (rows["measure"] == measure) & (rows["item"] != "-")]
    chosen = chosen if set_ in (None, "all") else chosen[chosen["set"] == set_]
    return chosen.pivot_table(index=["set", "item"], columns="run", values="value")


def of_run(table: Table) -> list[Row]:
    return table.matching(values="run")


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    """Changes the rows of a file as a data frame."""
    change(read_rows(path)).to_csv(path, sep="\t", index=False)


@pytest.mark.parametrize("name", TABLES)
def test_captions_and_names(computed: dict[str, Table], name: str) -> None:
    """Captions have at most 40 words and no open braces; every row has a name of its own; no cell is NaN."""
    table = computed[name]
    assert table.rows
    assert len(table.caption.split()) <= 40
    assert not set("{}") & set(table.caption)
    assert import_module(f"tli.tables.{name}").__doc__
    row_names = [table.row_name(row) for row in table.rows]
    assert len(set(row_names)) == len(row_names)
    for value in table.values().values():
        assert value is None or isinstance(value, str) or np.isfinite(value)


def test_keys(computed: dict[str, Table]) -> None:
    values = {key for table in computed.values() for key in table.values()}
    assert {
        "scan/2.mask.nf4/trained",
        "scan/2.mask.nf4/control",
        "norms/norm.-.nf4/ratio_after",
        "before_after/run,2.content.fp4,trained/gain",
        "before_after/run,2.mask.nf4,all/before",
        "before_after/run-in-bfloat16,2.content.fp4,control/after",
        "before_after/published,31.mask.nf4,trained/gain",
        "gains/run,2.mask.nf4/excess_trained",
        "lengths/2.mask.nf4,all/rho_gain",
        "lengths/2.mask.nf4,several/gain",
        "controls/2.mask.nf4,control,cosine/p1_sw_en_change",
        "controls/2.mask.nf4,trained,linear-CKA/excess",
        "retrieval/2.mask.nf4,all,sw-en/p1_after",
        "pools/2.mask.nf4,control,own,en-sw/mrr_before",
        "geometry/2.mask.nf4/excess_before",
        "projection/2.mask.nf4,t-SNE/ratio_after",
        "adapter/1,q_proj/norm_ba",
    } <= values


def test_scan_has_every_layer_under_both_poolings(computed: dict[str, Table], made: dict[str, Any]) -> None:
    lines = computed["scan"].rows
    expected = [f"{layer}.{pooling}.nf4" for layer in (0, 1, 2, 3, 4, "norm") for pooling in ("mask", "content")]
    assert [line["view"] for line in lines] == expected
    rows = read_rows(made["build"] / "scan.tsv")
    for line in lines:
        at = rows[rows["view"] == line["view"]]
        mean = at.groupby(["measure", "set"])["value"].apply(lambda values: values.astype(float).mean())
        assert line["cosine"] == pytest.approx(mean["cosine_mean", "all"])
        assert line["random"] == pytest.approx(mean["random_cosine_mean", "all"])
        assert line["difference"] == pytest.approx(line["cosine"] - line["random"])
        assert line["trained"] == pytest.approx(mean["cosine_mean", "trained"])
        assert line["control"] == pytest.approx(mean["cosine_mean", "control"])
        assert line["p1_sw_en"] == pytest.approx(mean["p_at_1.sw_en", "all"])
    names = {line["view"]: line["name"] for line in lines}
    assert names["2.mask.nf4"] == "pilot, trained_on"
    assert names["3.mask.nf4"] == "pilot, as_described"
    assert (names["norm.mask.nf4"], names["norm.content.nf4"]) == ("", "final")


def test_the_pilot_stands_beside_layers_whose_number_means_the_same(computed: dict[str, Table], smoke: Params) -> None:
    reported = load_yaml(ROOT / "paper" / "reported.yaml")
    pilot = reported["pilot"]
    beside = {line["view"]: line["published"] for line in computed["scan"].rows if line["published"] is not None}
    expected = {"0.mask.nf4": pilot[0], "1.mask.nf4": pilot[1], "2.mask.nf4": pilot[2], "3.mask.nf4": pilot[31]}
    assert beside == expected, "layer 3 is L - 1 of this model"
    assert any("another model than this run's" in note for note in computed["scan"].notes)
    itself = as_paper(smoke)
    assert published.pilot(reported, itself) == {str(layer): value for layer, value in pilot.items()}
    assert published.whose(itself) == ""
    shallow = published.pilot(reported, with_blocks(smoke, 3))
    assert shallow == {"0": pilot[0], "1": pilot[1], "2": pilot[2]}, "a layer keeps its number's value where L - 1 is 2"


def test_norms_before_and_after_and_their_ratio(computed: dict[str, Table], made: dict[str, Any]) -> None:
    rows = similarity(made)
    lines = computed["norms"].rows
    assert [line["view"] for line in lines] == [f"{layer}.-.nf4" for layer in (0, 1, 2, 3, 4, "norm")]
    for line in lines:
        for when, run in RUNS.items():
            chosen = rows[(rows["run"] == run) & (rows["view"] == line["view"])].set_index("measure")["value"]
            assert line[f"bos_norm_{when}"] == pytest.approx(chosen["bos_norm"])
            assert line[f"ratio_{when}"] == pytest.approx(chosen["bos_norm"] / chosen["content_norm"])
            assert line[f"times_{when}"] == pytest.approx(chosen["bos_peak"] / chosen["median_magnitude"])
            assert line[f"dimension_{when}"] == 7


@pytest.mark.parametrize(
    ("peak", "layer", "text"),
    [
        (30.0, None, "none; the largest relative to the median is at layer 1, dimension 7, magnitude 30,"),
        (100.0, None, "none; "),
        (101.0, 1, "first at layer 1, dimension 7, magnitude 101, 2525 times the median; in 4 of the layers 1 to 4"),
        (99999.0, 1, "in 4 of"),
    ],
)
def test_massive_activations(fresh: dict[str, Any], peak: float, layer: int | None, text: str) -> None:
    def raised(rows: Any) -> Any:
        rows.loc[(rows["measure"] == "bos_peak") & (rows["view"] != "0.-.nf4"), "value"] = str(peak)
        return rows.assign(value=rows["value"].where(rows["measure"] != "median_magnitude", "0.04"))

    rewrite(fresh["build"] / "scan.tsv", raised)
    results = read(fresh)
    assert any(text in note for note in compute("scan", results, fresh["params"]).notes)
    assert massive_activation(results.of("scan"), "base", fresh["params"]).layer == layer


def test_before_after_is_scipys_paired_test_on_the_rows(computed: dict[str, Table], made: dict[str, Any]) -> None:
    rows = similarity(made)
    lines = of_run(computed["before_after"])
    for line in lines:
        wide = by_pair(rows, line["view"], set_=line["set"])
        gain = wide["main"] - wide["base"]
        test = scipy_stats.ttest_rel(wide["main"], wide["base"])
        assert line["t"] == pytest.approx(test.statistic)
        assert line["p"] == pytest.approx(test.pvalue)
        assert line["low"] == pytest.approx(test.confidence_interval(0.95).low)
        assert line["high"] == pytest.approx(test.confidence_interval(0.95).high)
        assert line["n"] == len(wide)
        assert line["before"] == pytest.approx(wide["base"].mean())
        assert line["after_sd"] == pytest.approx(wide["main"].std())
        assert line["d_z"] == pytest.approx(gain.mean() / gain.std())
        assert line["decreased"] == (gain < 0).sum()
    assert [line["set"] for line in lines[:3]] == ["trained", "control", "all"]
    assert [line["n"] for line in lines[:3]] == [40, 12, 52]
    names = {line["view"]: line["name"] for line in lines}
    assert names["2.content.fp4"] == "as_scripted"
    assert names["norm.content.nf4"] == "final"
    assert names["2.mask.nf4"] == "trained_on"
    assert names["3.mask.nf4"] == "as_described"
    assert {"2.mask.fp4", "3.content.nf4"} <= names.keys(), "the named views stand beside their neighbours"


def test_before_after_has_the_paper_s_configuration_in_bfloat16_too(
    computed: dict[str, Table], made: dict[str, Any]
) -> None:
    rows = read_rows(made["build"] / "bfloat16.tsv").astype({"value": float})
    lines = computed["before_after"].matching(values="run in bfloat16")
    assert [line["set"] for line in lines] == ["trained", "control"]
    assert {line["view"] for line in lines} == {"2.content.fp4"}
    for line in lines:
        wide = by_pair(rows, line["view"], set_=line["set"])
        test = scipy_stats.ttest_rel(wide["main-bfloat16"], wide["base-bfloat16"])
        assert line["t"] == pytest.approx(test.statistic)
        assert line["after"] == pytest.approx(wide["main-bfloat16"].mean())


def test_the_published_result_stands_at_both_readings(computed: dict[str, Table]) -> None:
    reported = load_yaml(ROOT / "paper" / "reported.yaml")
    lines = computed["before_after"].matching(values="published")
    assert [(line["view"], line["name"], line["set"]) for line in lines] == [
        (view, name, set_)
        for view, name in (("2.content.fp4", "as_scripted"), ("31.mask.nf4", "as_described"))
        for set_ in ("trained", "control")
    ]
    for line in lines:
        values = reported["before_after"][line["set"]]
        for key in ("n", "before", "before_sd", "after", "after_sd", "gain", "gain_sd", "t", "d_z", "decreased"):
            assert line[key] == values[key], key
        assert "low" not in line, "no interval was published"
    assert {line["p"] for line in lines} == {1.332e-240, 7.1724e-27}
    for name in ("before_after", "gains"):
        notes = " ".join(computed[name].notes)
        assert "cast to float16 before packing and the adapter is merged into them, as in the public scripts" in notes
        assert "both of its readings" in notes
        assert "another model than this run's" in notes
    first, second = computed["gains"].matching(values="published")
    assert (first["view"], second["view"]) == ("2.content.fp4", "31.mask.nf4")
    assert first["difference"] == second["difference"] == pytest.approx(0.0011632)
    assert first["difference"] == pytest.approx(reported["gain_difference"]["difference"], abs=5e-5)
    assert first["t"] == pytest.approx(reported["gain_difference"]["t"], abs=5e-3)


def test_gains_are_scipys_welch_test_and_exceed_random_pairs(computed: dict[str, Table], made: dict[str, Any]) -> None:
    rows = similarity(made)
    lines = of_run(computed["gains"])
    assert {line["view"] for line in lines} == {line["view"] for line in of_run(computed["before_after"])}
    for line in lines:
        gains = {}
        for set_ in ("trained", "control"):
            wide, random = (by_pair(rows, line["view"], key, set_) for key in ("cosine", "random_cosine"))
            gains[set_] = wide["main"] - wide["base"]
            random_gain = (random["main"] - random["base"]).mean()
            assert line[set_] == pytest.approx(gains[set_].mean())
            assert line[f"random_{set_}"] == pytest.approx(random_gain)
            assert line[f"excess_{set_}"] == pytest.approx(gains[set_].mean() - random_gain)
        test = scipy_stats.ttest_ind(gains["trained"], gains["control"], equal_var=False)
        assert (line["t"], line["p"], line["df"]) == pytest.approx((test.statistic, test.pvalue, test.df))
        assert (line["low"], line["high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
        assert line["difference"] == pytest.approx(line["trained"] - line["control"])


def test_lengths_are_pandas_correlations(computed: dict[str, Table], made: dict[str, Any]) -> None:
    rows = similarity(made)
    train = read_rows(made["build"] / "train.tsv")
    counted = train[train["measure"].str.match("tokens|words")].astype({"value": float})
    counts = counted.pivot_table(index=["set", "item"], columns="measure", values="value")
    tokens = counts["tokens.swahili"] + counts["tokens.english"]
    several = counts[["words.swahili", "words.english"]].max(axis=1) > 1
    table = computed["lengths"]
    views = {line["view"] for line in table.rows}
    assert views == {line["view"] for line in of_run(computed["before_after"])}
    for view in views:
        wide = by_pair(rows, view)
        wide["gain"] = wide["main"] - wide["base"]
        (line,) = table.matching(view=view, **{"class": "all"})
        for key, column in (("before", "base"), ("after", "main"), ("gain", "gain")):
            assert line[f"r_{key}"] == pytest.approx(wide[column].corr(tokens))
            assert line[f"rho_{key}"] == pytest.approx(wide[column].corr(tokens, method="spearman"))
        classes = {"all": wide["gain"], "single": wide["gain"][~several], "several": wide["gain"][several]}
        for name, gain in classes.items():
            (line,) = table.matching(view=view, **{"class": name})
            assert (line["n"], line["gain"]) == (len(gain), pytest.approx(gain.mean()))


def test_a_length_that_does_not_vary_has_no_correlation(fresh: dict[str, Any]) -> None:
    def equal(rows: Any) -> Any:
        return rows.assign(value=rows["value"].where(~rows["measure"].str.match("tokens|words"), "1"))

    rewrite(fresh["build"] / "train.tsv", equal)
    table = compute("lengths", read(fresh), fresh["params"])
    assert {line["rho_after"] for line in table.matching(**{"class": "all"})} == {None}
    assert {(line["n"], line["gain"]) for line in table.matching(**{"class": "several"})} == {(0, None)}
    assert "one side does not vary: no correlation" in table.notes


def test_controls_are_the_gain_beyond_random_pairs(fresh: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)

    def noisy(rows: Any) -> Any:
        """In the synthetic rows random pairs gain exactly half of what translations do."""
        values = rows["value"].astype(float) + rng.normal(0, 0.02, len(rows))
        return rows.assign(value=rows["value"].where(rows["measure"] != "random_cosine", values))

    rewrite(fresh["build"] / "similarity.tsv", noisy)
    rows = similarity(fresh)
    of_set = rows[rows["item"] == "-"].set_index(["run", "set", "view", "measure"])["value"].sort_index()
    table = compute("controls", read(fresh), fresh["params"])
    for line in table.matching(measure="cosine"):
        parts = [by_pair(rows, line["view"], key, line["set"]) for key in ("cosine", "random_cosine")]
        gain, random = (part["main"] - part["base"] for part in parts)
        test = scipy_stats.ttest_1samp(gain - random, 0.0)
        assert (line["gain"], line["random"]) == pytest.approx((gain.mean(), random.mean()))
        assert (line["excess"], line["p"]) == pytest.approx(((gain - random).mean(), test.pvalue))
        assert (line["low"], line["high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
        for way in ("sw_en", "en_sw"):
            before, after = (of_set[run, line["set"], line["view"], f"p_at_1.{way}"] for run in ("base", "main"))
            assert (line[f"p1_{way}"], line[f"p1_{way}_change"]) == pytest.approx((before, after - before))
    scaled = [line for line in table.rows if line["measure"] != "cosine"]
    assert len(scaled) == 4 * len(SCALED)
    for line in scaled:
        gain, random = (
            of_set["main", line["set"], line["view"], key] - of_set["base", line["set"], line["view"], key]
            for key in SCALED[str(line["measure"])]
        )
        assert (line["gain"], line["random"], line["excess"]) == pytest.approx((gain, random, gain - random))
        assert not {"low", "high", "p"} & line.keys()
    names = [line["control"] for line in table.rows]
    assert names[:4] == ["as trained", "as trained, unseen pairs", "BOS out", "BOS out, unseen pairs"]
    assert {"centred", "standardised, BOS out", "linear CKA", "centred, BOS out, unseen pairs"} <= set(names)
    assert any("the variant `shuffled` of the full study" in note for note in table.notes)


def test_under_content_pooling_the_control_puts_bos_in(tmp_path: Path, smoke: Params) -> None:
    content = smoke.model_copy(update={"train": smoke.train.model_copy(update={"pooling": "content"})})
    made = fabricate(tmp_path, content, pairs=(6, 4), items=6)
    table = compute("controls", read(made), content)
    names = {line["view"]: line["control"] for line in table.matching(measure="cosine", set="trained")}
    assert names["2.content.nf4"] == "as trained"
    assert names["2.mask.nf4"] == "BOS in"


def test_retrieval_has_every_named_view(computed: dict[str, Table], made: dict[str, Any]) -> None:
    lines = computed["retrieval"].rows
    names = {line["view"]: line["name"] for line in lines}
    assert {"trained_on", "as_scripted", "as_described", "final"} <= set(names.values())
    assert {"2.mask.nf4", "2.content.nf4", "2.content.fp4", "3.content.nf4", "3.mask.nf4"} <= names.keys()
    keys = ["run", "set", "view", "measure", "item"]
    value = similarity(made).set_index(keys)["value"].sort_index()
    assert len(lines) == len(names) * 2 * 2
    for line in lines:
        way = str(line["direction"]).replace("→", "_")
        for key, measure in (("p1", "p_at_1"), ("p5", "p_at_5"), ("mrr", "mrr"), ("csls", "csls_at_1")):
            for when, run in RUNS.items():
                expected = value[run, line["set"], line["view"], f"{measure}.{way}", "-"]
                assert line[f"{key}_{when}"] == pytest.approx(expected)


def test_retrieval_and_geometry_of_every_layer_are_the_rows(
    computed: dict[str, Table], made: dict[str, Any], smoke: Params
) -> None:
    rows = similarity(made).set_index(["run", "set", "view", "measure", "item"])["value"].sort_index()
    views = 2 * (smoke.active.model.blocks + 2)
    lines = computed["pools"].rows
    assert len(lines) == views * 2 * 2 * 2
    for line in lines:
        for key, measure in (("p1", "p_at_1"), ("p5", "p_at_5"), ("mrr", "mrr"), ("csls", "csls_at_1")):
            name = f"{'own_' if line['pool'] == 'own' else ''}{measure}.{str(line['direction']).replace('→', '_')}"
            for when, run in RUNS.items():
                assert line[f"{key}_{when}"] == pytest.approx(rows[run, line["set"], line["view"], name, "-"])
    lines = computed["geometry"].rows
    assert len(lines) == views
    for line in lines:
        for when, run in RUNS.items():
            of = rows[run, "all", line["view"]].droplevel("item")
            for column, start in (("excess", ""), ("centred", "centred_"), ("standardised", "standardised_")):
                excess = of[f"{start}cosine_mean"] - of[f"{start}random_cosine_mean"]
                assert line[f"{column}_{when}"] == pytest.approx(excess)
            assert line[f"random_{when}"] == pytest.approx(of["random_cosine_mean"])
            assert line[f"cka_{when}"] == pytest.approx(of["cka"])
            assert line[f"random_cka_{when}"] == pytest.approx(of["random_cka"])
            for side in ("sw", "en"):
                assert line[f"participation_{side}_{when}"] == pytest.approx(of[f"participation_ratio.{side}"])


def test_adapter_has_the_scaled_update_and_the_blocks_without_a_gradient(
    computed: dict[str, Table], made: dict[str, Any], smoke: Params
) -> None:
    rows = read_rows(made["build"] / "train.tsv")
    value = rows[rows["set"] == "adapter"].astype({"value": float}).set_index(["item", "measure"])["value"]
    table = computed["adapter"]
    assert len(table.rows) == smoke.train.layer * len(smoke.lora.targets)
    for line in table.rows:
        item = f"{line['block']}.{line['projection']}"
        assert line["norm_a"] == value[item, "norm_a"]
        assert line["norm_b"] == value[item, "norm_b"]
        assert line["norm_ba"] == pytest.approx(2 * value[item, "norm_ba"])
        assert line["zero"] == ("yes" if line["block"] != 1 else "no")
    assert any(note.startswith("blocks with a B that is not zero: 1 of 2 adapted, of 4") for note in table.notes)
    assert any("has 6,144 parameters" in note for note in table.notes)
    assert "the adapter was trained in this run" in table.notes


def test_the_factor_of_each_scaling(smoke: Params) -> None:
    """alpha / r: 2 for every rank; alpha = 32; alpha / sqrt(r) with alpha = 8. All are 2 at rank 16."""
    for scaling, at_four in (("2r", 2.0), ("fixed32", 8.0), ("rslora", 4.0)):
        params = smoke.model_copy(update={"lora": smoke.lora.model_copy(update={"scaling": scaling})})
        assert (factor(4, params), factor(16, params)) == (at_four, 2.0)


def test_missing_rows_and_unequal_items_are_one_line(fresh: dict[str, Any]) -> None:
    base, main = fresh["build"] / "base-rows" / "similarity.tsv", fresh["build"] / "similarity.tsv"
    rewrite(main, lambda rows: rows[rows["item"] != "neno0"])
    for name in ("before_after", "gains", "lengths", "controls"):
        with pytest.raises(UserError, match="similarity: expected the items of base in trained for main, 1 differ"):
            compute(name, read(fresh), fresh["params"])
    rewrite(base, lambda rows: rows[rows["measure"] != "p_at_5.sw_en"])
    for name in ("retrieval", "pools"):
        with pytest.raises(UserError, match=r"expected rows of run base, .*, measure p_at_5\.sw_en, found none"):
            compute(name, read(fresh), fresh["params"])
    rewrite(fresh["build"] / "scan.tsv", lambda rows: rows[rows["measure"] != "bos_norm"])
    with pytest.raises(UserError, match=r"stage scan: .*view 0\.-\.nf4, measure bos_norm, found none"):
        compute("scan", read(fresh), fresh["params"])


def test_an_adapter_that_changes_nothing_gives_defined_cells(fresh: dict[str, Any]) -> None:
    """lr = 0: every gain is 0, t is undefined, and nothing is NaN or fails."""
    rows = read_rows(fresh["build"] / "base-rows" / "similarity.tsv")
    rows.assign(run="main").to_csv(fresh["build"] / "similarity.tsv", sep="\t", index=False)
    results = read(fresh)
    table = compute("before_after", results, fresh["params"])
    assert {(line["gain"], line["t"], line["p"]) for line in of_run(table)} == {(0.0, None, None)}
    undefined = "every pair changes alike: t, p, d_z and the interval are undefined"
    assert undefined in table.notes
    table = compute("gains", results, fresh["params"])
    assert {(line["difference"], line["t"], line["p"]) for line in of_run(table)} == {(0.0, None, None)}
    assert "one side does not vary" in table.notes
    table = compute("controls", results, fresh["params"])
    assert {line["excess"] for line in table.rows} == {0.0}
    assert undefined in table.notes
    table = compute("lengths", results, fresh["params"])
    assert {line["rho_gain"] for line in table.matching(**{"class": "all"})} == {None}


def test_a_changed_target_layer_moves_the_trained_view(tmp_path: Path, smoke: Params) -> None:
    moved = smoke.model_copy(update={"train": smoke.train.model_copy(update={"layer": 1})})
    made = fabricate(tmp_path, moved, pairs=(6, 4), items=6)
    names = {line["view"]: line["name"] for line in compute("before_after", read(made), moved).rows}
    assert names["1.mask.nf4"] == "trained_on"
    assert names["2.mask.nf4"] == "neighbour"


def test_the_published_model_needs_no_note_on_whose_values_stand_there(tmp_path: Path, smoke: Params) -> None:
    paper = as_paper(smoke)
    made = fabricate(tmp_path, paper, pairs=(6, 4), items=6)
    results = read(made)
    for name in ("scan", "before_after", "gains"):
        assert not any("another model" in note for note in compute(name, results, paper).notes)
    other = fabricate(tmp_path / "other", named(smoke, "another"), pairs=(6, 4), items=6)
    notes = compute("gains", read(other), other["params"]).notes
    assert sum(bool(re.search("another model than this run's", note)) for note in notes) == 1
