"""The full grid's tables from synthetic rows: what they compute, what they say, what they refuse, the same twice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from synthetic import fabricate_grid
from tiny import ROOT
from tli.config import parameters
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.files import sha256_of
from tli.io.rows import read_rows
from tli.io.structured import read_json
from tli.paper import grid

SMOKE = ROOT / "tests" / "smoke" / "params.yaml"
Given = dict[str, Any]
FEW = {"arms": ("2r", "shuffled")}  # of the arms, for speed


@pytest.fixture(scope="module")
def smoke() -> Params:
    return parameters.load(SMOKE)


@pytest.fixture(scope="module")
def each(smoke: Params) -> dict[str, Params]:
    return {name: parameters.load(SMOKE, arm=name) for name in (*smoke.sweep.arms, *smoke.sweep.bos_arms)}


def run(folder: Path, out: Path, smoke: Params, each: Mapping[str, Params]) -> Path:
    grid.run(folder, out / "tables", out / "figures", out / "full.json", smoke, each)
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, smoke: Params, each: dict[str, Params]) -> tuple[Path, Path]:
    """The rows of every arm, and what the stage made of them; read only."""
    folder = tmp_path_factory.mktemp("grid")
    return fabricate_grid(folder / "rows", smoke, each), run(folder / "rows", folder / "out", smoke, each)


def csv(out: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(out / "tables" / f"{name}.csv", na_values="-", keep_default_na=False)


def gains(rows: Path, smoke: Params, arm: str, rank: int, where: str = "plain") -> list[float]:
    """One a base: mean over seeds of the mean cosine of trained pairs at 2.mask.nf4, less the base's; by pandas."""
    found = []
    for base in smoke.sweep.base_seeds:
        at = rows / f"s{base}" / where / "rows"
        values = []
        for name in ("base", arm):
            frame = read_rows(at / name / "similarity.tsv")
            frame = frame[(frame["set"] == "trained") & (frame["view"] == "2.mask.nf4")]
            values.append(
                frame[(frame["measure"] == "cosine_mean") & (frame["rank"].astype(int) == (name != "base") * rank)]
            )
        found.append(values[1]["value"].astype(float).mean() - values[0]["value"].astype(float).mean())
    return found


def test_every_arm_and_rank_stands_beside_the_mean_of_its_bases(made: tuple[Path, Path], smoke: Params) -> None:
    rows, out = made
    table = csv(out, "arms")
    wanted = {(name, rank) for name in (*smoke.sweep.arms, *smoke.sweep.bos_arms) for rank in smoke.arms[name].ranks}
    assert {*zip(table["arm"], table["rank"], strict=True)} == wanted
    for name, rank in sorted(wanted):
        where = "bos" if name in smoke.sweep.bos_arms else "plain"
        row = table[(table["arm"] == name) & (table["rank"] == rank) & (table["view"] == "2.mask.nf4")]
        assert float(row["gain_trained"].iloc[0]) == pytest.approx(
            np.mean(gains(rows, smoke, name, rank, where)), abs=1e-7
        )


def test_the_controls_interval_is_student_s_over_bases(made: tuple[Path, Path], smoke: Params) -> None:
    _, out = made
    table = csv(out, "controls")
    assert table["control"].tolist()[0] == "as trained"
    first = table.iloc[0]
    assert first["left"] == pytest.approx(first["gain"] - first["random"], abs=1e-7)
    assert first["low"] < first["left"] < first["high"]
    half = (first["high"] - first["low"]) / 2
    bases = len(smoke.sweep.base_seeds)
    # t = mean / (half width / t quantile) gives back the p, which is then corrected over the rows
    halves = (table["high"] - table["low"]) / 2
    assert half == halves[0]
    t = table["left"] / (halves / scipy_stats.t.ppf(0.975, bases - 1))
    wanted = multipletests(2 * scipy_stats.t.sf(abs(t), bases - 1), method="holm")[1]
    assert table["p_holm"].to_numpy() == pytest.approx(wanted, rel=1e-4)
    shuffled = table[table["control"] == "arm shuffled"]
    assert shuffled["view"].tolist() == ["2.mask.nf4", "2.content.nf4"]
    assert (shuffled["left"].abs() < 0.3 * first["left"]).all(), "invented rows gain nothing from shuffled pairs"


def test_the_tests_of_the_first_arm_are_over_bases(made: tuple[Path, Path], smoke: Params) -> None:
    _, out = made
    table = csv(out, "trends")
    assert set(table["units"]) == {f"{len(smoke.sweep.base_seeds)} bases"}
    assert (table[table["outcome"].str.startswith("cosine, ")]["slope"] > 0).all()
    assert {"robustness", "robustness_alignment", "odds", "equivalence"} <= {
        path.stem for path in (out / "tables").glob("*.csv")
    }


def changes(rows: Path, smoke: Params, arm: str, rank: int, set_: str) -> list[float]:
    """One a base: change of a set's accuracy in points, by pandas."""
    found = []
    for base in smoke.sweep.base_seeds:
        parts = []
        for name, wanted in (("base", 0), (arm, rank)):
            frame = read_rows(rows / f"s{base}" / "plain" / "rows" / name / "score.tsv")
            frame = frame[(frame["set"] == set_) & (frame["measure"] == "correct") & (frame["rank"] == wanted)]
            frame = frame[frame["cell"] != "untrained"]  # stands beside the base, at rank 0 too
            parts.append(100 * frame["value"].astype(float).mean())
        found.append(parts[1] - parts[0])
    return found


def test_transfer_is_held_against_the_first_arm_base_by_base(made: tuple[Path, Path], smoke: Params) -> None:
    rows, out = made
    table = csv(out, "arms_transfer")
    assert table[table["arm"] == "2r"]["against"].isna().all()
    margin, names = smoke.stats.margins.accuracy, {"English": "en", "Swahili": "sw"}
    tests: dict[str, list[tuple[float, float]]] = {}  # task -> (p by SciPy, the corrected p that stands there)
    for _, row in table.iterrows():
        task, language = row["items"].split(", ")
        set_ = f"{task.removesuffix('-form').lower()}.{names[language]}"
        of_task = tests.setdefault(task, [])
        if row["base"] != "as it is":
            of_task.append((np.nan, row["p_holm"]))
            continue
        values = changes(rows, smoke, row["arm"], row["rank"], set_)
        assert row["change"] == pytest.approx(np.mean(values), abs=1e-6)
        of_task.append((p_of(values, 0, "two-sided"), row["p_holm"]))
        if not np.isnan(row["against"]):
            apart = np.subtract(values, changes(rows, smoke, "2r", row["rank"], set_))
            assert row["against"] == pytest.approx(apart.mean(), abs=1e-6)
            of_task.append((p_of(apart, 0, "two-sided"), row["against_p_holm"]))
            alike = max(p_of(apart, -margin, "greater"), p_of(apart, margin, "less"))
            of_task.append((alike, row["alike_p_holm"]))
    for some in tests.values():
        # The BOS arms' tests count too: a corrected p is at least the plain one, at most that times their number
        pairs = [(p, corrected) for p, corrected in some if not np.isnan(p)]
        assert all(p * (1 - 1e-6) <= corrected <= min(1.0, len(some) * p) * (1 + 1e-6) for p, corrected in pairs)
        assert len(pairs) >= 10


def p_of(values: Any, against: float, alternative: str) -> float:
    if np.ptp(values) < 1e-9:
        return float("nan")
    return float(scipy_stats.ttest_1samp(values, against, alternative=alternative).pvalue)


def test_training_in_the_bos_regime_stands_beside_the_base_as_it_is(made: tuple[Path, Path], smoke: Params) -> None:
    rows, out = made
    table = csv(out, "bos_trained")
    assert {*zip(table["base"], table["arm"], strict=True)} == {("as it is", "2r"), ("BOS massive", "bos")}
    assert len(table) == 2 * 2 * (smoke.active.model.blocks + 2)
    for arm, where in (("2r", "plain"), ("bos", "bos")):
        line = table[(table["arm"] == arm) & (table["view"] == "2.content.nf4")].iloc[0]
        for measure, key in (("cosine_mean", "cosine"), ("random_cosine_mean", "random"), ("p_at_1.sw_en", "p1")):
            values: dict[str, list[float]] = {"before": [], "after": []}
            for base in smoke.sweep.base_seeds:
                for when, name, rank in (("before", "base", 0), ("after", arm, 2)):
                    frame = read_rows(rows / f"s{base}" / where / "rows" / name / "similarity.tsv")
                    chosen = (frame["set"] == "all") & (frame["view"] == "2.content.nf4") & (frame["rank"] == rank)
                    values[when].append(frame[chosen & (frame["measure"] == measure)]["value"].astype(float).mean())
            for when, some in values.items():
                assert line[f"{key}_{when}"] == pytest.approx(np.mean(some), abs=1e-7)
        moved = [line[f"{key}_after"] - line[f"{key}_before"] for key in ("cosine", "random")]
        assert line["left"] == pytest.approx(moved[0] - moved[1], abs=1e-7)
        assert line["low"] < line["left"] < line["high"]
    text = (out / "tables" / "bos_trained.md").read_text(encoding="utf-8")
    assert "change of the cosine at the layer that the loss reads: 2r at 2.mask.nf4: translations +" in text


@pytest.mark.parametrize("effect", [0.0005, 0.05])
def test_a_known_effect_over_five_bases_is_what_the_tables_say(
    tmp_path: Path, smoke: Params, each: dict[str, Params], effect: float
) -> None:
    """Of invented rows: cosines gain `effect` a doubling, random pairs half of it; shuffled pairs train nothing."""

    def five(params: Params) -> Params:
        sweep = params.sweep.model_copy(update=FEW | {"base_seeds": (1, 2, 3, 4, 5)})
        return params.model_copy(update={"sweep": sweep})

    params, arms = five(smoke), {name: five(one) for name, one in each.items()}
    out = run(fabricate_grid(tmp_path / "rows", params, arms, effect), tmp_path / "out", params, arms)
    trend = csv(out, "trends").set_index("outcome")
    for name, slope in (("cosine, trained pairs", effect), ("cosine − random, trained pairs", effect / 2)):
        assert trend["slope"][name] == pytest.approx(slope, abs=0.01)
    table = csv(out, "verdicts").set_index("outcome")
    large = effect > 0.01
    words = {"differs"} if large else {"equivalent", "differs within margin"}
    assert set(table["rank_2r"][["cosine, trained pairs", "cosine, control pairs"]]) <= words
    assert not large or table["way_2r"]["cosine, trained pairs"] == "above"
    summary = pd.concat([csv(out, name) for name in ("robustness", "robustness_alignment")]).set_index("outcome")
    assert (summary["verdict"][table.index] == table["rank_2r"]).all()
    said = (out / "tables" / "verdicts.md").read_text(encoding="utf-8")
    assert "over 5 bases the rank has one verdict under every scaling in 10 of 10 outcomes (" in said
    control = csv(out, "controls").set_index(["control", "view"])
    left = control["left"]["as trained", "2.mask.nf4"]
    assert left == pytest.approx(effect, abs=0.005)  # half of two doublings at rank 2
    assert not large or control["p_holm"]["as trained", "2.mask.nf4"] < 0.05
    assert control["p_holm"]["arm shuffled", "2.mask.nf4"] > 0.05
    assert control["low"]["arm shuffled", "2.mask.nf4"] < 0 < control["high"]["arm shuffled", "2.mask.nf4"]
    text = (out / "tables" / "controls.md").read_text(encoding="utf-8")
    assert re.search(r"arm shuffled at 2.mask.nf4 [+−]0.00\d\d \(not told apart from 0\)", text)
    trained = csv(out, "bos_trained")
    assert trained["left"].to_numpy() == pytest.approx(effect, abs=0.005)


def test_the_same_rows_give_the_same_bytes(
    made: tuple[Path, Path], tmp_path: Path, smoke: Params, each: dict[str, Params]
) -> None:
    rows, out = made
    again = run(rows, tmp_path, smoke, each)
    files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    assert len(files) > 30
    assert {path: sha256_of(again / path) for path in files} == {path: sha256_of(out / path) for path in files}


def test_figures_are_svg_and_the_readme_shows_them(made: tuple[Path, Path]) -> None:
    _, out = made
    readme = (out / "tables" / "README.md").read_text(encoding="utf-8")
    drawn = sorted((out / "figures").glob("*.svg"))
    assert {path.stem for path in drawn} == {"rank_alignment", "rank_transfer", "arms", "bos"}
    for path in drawn:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert f"({Path('../figures') / path.name})" in readme


def test_numbers_are_finite_or_none(made: tuple[Path, Path]) -> None:
    values = read_json(made[1] / "full.json")
    assert len(values) > 300
    assert all(value is None or isinstance(value, str) or np.isfinite(value) for value in values.values())


def test_a_missing_arm_and_a_missing_seed_are_named(tmp_path: Path, smoke: Params, each: dict[str, Params]) -> None:
    rows = fabricate_grid(tmp_path / "rows", smoke, each)
    path = rows / "s2" / "plain" / "rows" / "content" / "similarity.tsv"
    kept = path.read_text(encoding="utf-8")
    path.write_text("".join(line for line in kept.splitlines(True) if not line.startswith("r2-s1")), encoding="utf-8")
    with pytest.raises(UserError, match=r"content/similarity.tsv: no rows of r2-s1, which arms.content lists"):
        run(rows, tmp_path / "out", smoke, each)
    path.unlink()
    with pytest.raises(UserError, match=r"content/similarity.tsv: expected the full grid's rows, found no file"):
        run(rows, tmp_path / "out", smoke, each)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["one of each", "one language", "all right"])
def test_a_tiny_grid_gives_defined_cells(tmp_path: Path, smoke: Params, each: dict[str, Params], kind: str) -> None:
    """One base, one seed, one rank; one language; every answer right: a note, never a crash, NaN or None in a table."""

    def tiny(params: Params) -> Params:
        sweep = params.sweep.model_copy(update=FEW | ({"base_seeds": (1,), "seeds": (0,)} if one else {}))
        arms = {name: arm.model_copy(update={"ranks": (2,)} if one else {}) for name, arm in params.arms.items()}
        return params.model_copy(update={"sweep": sweep, "arms": arms})

    one = kind == "one of each"
    params, arms = tiny(smoke), {name: tiny(own) for name, own in each.items()}
    rows = fabricate_grid(tmp_path / "rows", params, arms)
    for path in rows.rglob("score.tsv"):
        frame = read_rows(path)
        if kind == "one language":
            frame = frame[frame["set"] == "xnli.sw"]
        if kind == "all right":
            frame = frame.assign(value=frame["value"].where(frame["measure"] != "correct", 1.0))
        frame.to_csv(path, sep="\t", index=False)
    out = run(rows, tmp_path / "out", params, arms)
    for path in (out / "tables").iterdir():
        assert not re.search(r"(?i:\bnan\b|\binf\b)|\bNone\b", path.read_text(encoding="utf-8")), path.name
    text = (out / "tables" / "README.md").read_text(encoding="utf-8")
    said = {
        "one of each": "SD needs two values",
        "one language": "no items in en",
        "all right": "every answer is right",
    }
    assert said[kind] in text
