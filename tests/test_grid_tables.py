"""The full grid's tables from synthetic rows: what they compute, what they say, what they refuse, the same twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from synthetic import fabricate_grid
from tiny import ROOT
from tli import params as parameters
from tli import store
from tli.paper import grid
from tli.params import Params

SMOKE = ROOT / "tests" / "smoke" / "params.yaml"
Given = dict[str, Any]


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
            frame = store.read_rows(at / name / "align.tsv")
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
    # t = mean / (half width / t quantile) gives back the p that stands there
    t = first["left"] / (half / scipy_stats.t.ppf(0.975, bases - 1))
    assert 10 ** first["log10_p"] == pytest.approx(2 * scipy_stats.t.sf(abs(t), bases - 1), rel=1e-5)
    shuffled = table[table["control"] == "arm shuffled"]
    assert (shuffled["left"].abs() < 0.3 * first["left"]).all(), "invented rows gain nothing from shuffled pairs"


def test_the_tests_of_the_first_arm_are_over_bases(made: tuple[Path, Path], smoke: Params) -> None:
    _, out = made
    table = csv(out, "trends")
    assert set(table["units"]) == {f"{len(smoke.sweep.base_seeds)} bases"}
    assert (table[table["outcome"].str.startswith("cosine, ")]["slope"] > 0).all()
    assert {"robustness", "robustness_alignment", "odds", "equivalence"} <= {
        path.stem for path in (out / "tables").glob("*.csv")
    }


def test_transfer_is_held_against_the_first_arm_base_by_base(made: tuple[Path, Path]) -> None:
    _, out = made
    table = csv(out, "arms_transfer")
    first = table[table["arm"] == "2r"]
    assert first["against"].isna().all()
    for _, row in table[(table["arm"] == "content")].iterrows():
        beside = first[(first["rank"] == row["rank"]) & (first["items"] == row["items"])]["change"].iloc[0]
        assert row["against"] == pytest.approx(row["change"] - beside, abs=1e-6)


def test_the_same_rows_give_the_same_bytes(
    made: tuple[Path, Path], tmp_path: Path, smoke: Params, each: dict[str, Params]
) -> None:
    rows, out = made
    again = run(rows, tmp_path, smoke, each)
    files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    assert len(files) > 30
    assert {path: store.sha256(again / path) for path in files} == {path: store.sha256(out / path) for path in files}


def test_figures_are_svg_and_the_readme_shows_them(made: tuple[Path, Path]) -> None:
    _, out = made
    readme = (out / "tables" / "README.md").read_text(encoding="utf-8")
    drawn = sorted((out / "figures").glob("*.svg"))
    assert {path.stem for path in drawn} == {"rank_alignment", "rank_transfer", "arms", "bos"}
    for path in drawn:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert f"({Path('../figures') / path.name})" in readme


def test_numbers_are_finite_or_none(made: tuple[Path, Path]) -> None:
    values = store.read_json(made[1] / "full.json")
    assert len(values) > 300
    assert all(value is None or isinstance(value, str) or np.isfinite(value) for value in values.values())


def test_a_missing_arm_and_a_missing_seed_are_named(tmp_path: Path, smoke: Params, each: dict[str, Params]) -> None:
    rows = fabricate_grid(tmp_path / "rows", smoke, each)
    path = rows / "s2" / "plain" / "rows" / "content" / "align.tsv"
    kept = path.read_text(encoding="utf-8")
    path.write_text("".join(line for line in kept.splitlines(True) if not line.startswith("r2-s1")), encoding="utf-8")
    with pytest.raises(store.UserError, match=r"content/align.tsv: no rows of r2-s1, which arms.content lists"):
        run(rows, tmp_path / "out", smoke, each)
    path.unlink()
    with pytest.raises(store.UserError, match=r"content/align.tsv: expected the full grid's rows, found no file"):
        run(rows, tmp_path / "out", smoke, each)
    assert not (tmp_path / "out").exists()
