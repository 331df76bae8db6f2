"""Pairs in two dimensions: the draw, t-SNE and PCA against their definitions, the figure's bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import style

from tiny import ROOT
from tli.analysis.results import COLUMNS, Results, Rows
from tli.config.parameters import Params, Tsne, load
from tli.data.words.lexicon import Pair, read_pairs
from tli.figures import projection
from tli.figures.drawing import STYLE, svg
from tli.io.errors import UserError
from tli.io.rows import Row, read_rows, write_rows
from tli.io.structured import write_tsv
from tli.measure.views import BASE, main_run
from tli.stages import tables, tsne
from tli.tables.projection import views


@given(count=st.integers(2, 60), seed=st.integers(0, 2**32 - 1))
def test_the_draw_is_of_trained_pairs_each_once(count: int, seed: int) -> None:
    pairs = read_pairs(ROOT / "data" / "pairs.tsv")
    settings = Tsne(pairs=count, perplexity=1.5, seed=seed)
    chosen = tsne.draw(pairs, settings)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == count
    assert {pairs[index].set for index in chosen} == {"trained"}
    assert chosen == tsne.draw(pairs, settings)


def test_a_word_of_two_pairs_is_not_drawn() -> None:
    lines = [("kali", "fierce"), ("Kali", "sharp"), ("moto", "hot"), ("joto", "hot"), ("mti", "tree"), ("jua", "sun")]
    pairs = [Pair(sw, en, "noun", "any", "trained") for sw, en in lines]
    assert tsne.draw(pairs, Tsne(pairs=2, perplexity=1, seed=0)) == [4, 5]
    with pytest.raises(UserError, match=r"tsne\.pairs: expected at most 2, .*, got 3; set fewer"):
        tsne.draw(pairs, Tsne(pairs=3, perplexity=1, seed=0))


def test_a_perplexity_that_cannot_be_is_refused_with_its_key(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("perplexity: 15", "perplexity: 50")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="tsne: expected a perplexity below the number of words, 50, got 50"):
        load(tmp_path / "params.yaml")


def cloud(seed: int = 0, n: int = 24, d: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def test_pca_is_the_singular_value_decomposition() -> None:
    points = cloud()
    u, s, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    assert np.abs(tsne.pca(points)) == pytest.approx(np.abs(u[:, :2] * s[:2]))


def test_tsne_keeps_neighbours_and_is_the_same_twice() -> None:
    """Two far clusters stay apart, each word nearer to its own; the same bytes whatever the number of threads."""
    settings = Tsne(pairs=12, perplexity=5, seed=3)
    points = cloud() * 0.1
    points[::2] += 5
    threads = torch.get_num_threads()
    try:
        laid = []
        for number in (1, 2):
            torch.set_num_threads(number)
            laid.append(tsne.tsne(points, settings))
    finally:
        torch.set_num_threads(threads)
    assert laid[0].tobytes() == laid[1].tobytes()
    apart = np.linalg.norm(laid[0][:, None] - laid[0][None], axis=-1) + 1e9 * np.eye(len(points))
    assert all(nearest % 2 == index % 2 for index, nearest in enumerate(apart.argmin(axis=1)))


def test_distances_by_hand() -> None:
    """Translations 1 apart, the others 1 and 3: (0, 1) and (2, 3) on a line."""
    found = tsne.distances(np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]]))
    assert found == {"distance": 1.0, "random_distance": 2.0, "p_at_1": 0.5}, "2 is as near to 1 as to 3: a tie"


def test_distances_of_identical_halves() -> None:
    points = cloud()
    found = tsne.distances(points, points)
    assert (found["distance"], found["p_at_1"]) == (0.0, 1.0)
    assert found["random_distance"] > 0


def results(path: Path) -> Results:
    """The results of a model of which only the stage tsne has rows."""
    frame = read_rows(path)
    return Results(frame.assign(model="tiny", base=0, stage="tsne")[list(COLUMNS)], {}, {}, {})


def tsne_rows(path: Path) -> Rows:
    return results(path).of("tsne")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, tiny_quantized: Path, pairs: list[Pair], params: Params) -> Path:
    """The stage on the tiny model with an adapter that changes it."""
    from peft import get_peft_model_state_dict

    from tli.model import checkpoint, lora

    folder = tmp_path_factory.mktemp("project")
    adapted = lora.attach(checkpoint.load(tiny_quantized / "nf4"), params.lora, params.train.layer, seed=0)
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    state = get_peft_model_state_dict(adapted)
    lora.save(state, params.lora, params.train.layer, folder / "adapter", base="tiny")
    write_tsv(folder / "pairs.tsv", Pair._fields, pairs)
    tsne.run(folder / "pairs.tsv", tiny_quantized, folder / "adapter", folder / "one.tsv", params)
    tsne.run(folder / "pairs.tsv", tiny_quantized, folder / "adapter", folder / "two.tsv", params)
    return folder


def test_the_same_rows_twice(rows: Path) -> None:
    assert (rows / "one.tsv").read_bytes() == (rows / "two.tsv").read_bytes()


def test_rows_hold_every_pair_at_both_poolings_and_in_both_layouts(rows: Path, params: Params) -> None:
    measured = tsne_rows(rows / "one.tsv")
    assert measured.runs == ["base", main_run(params.lora.scaling, params.lora.rank, params.train.seed).run]
    for run in measured.runs:
        for view in ("2.mask.nf4", "2.content.nf4"):
            for space in ("pca", "tsne"):
                for axis in ("x.sw", "y.sw", "x.en", "y.en"):
                    assert len(measured.each(run, "trained", view, f"{space}.{axis}")) == params.tsne.pairs
            # what the stage measured in a layout is what the coordinates give
            laid = [
                np.column_stack(
                    [[*measured.each(run, "trained", view, f"tsne.{axis}.{side}").values()] for axis in ("x", "y")]
                )
                for side in ("sw", "en")
            ]
            again = tsne.distances(*laid)
            for name, value in again.items():
                assert measured.one(run, "trained", view, f"{name}.tsne") == pytest.approx(value, rel=1e-6)
    moved = [measured.one(run, "trained", "2.mask.nf4", "distance.original") for run in measured.runs]
    assert moved[0] != moved[1], "the adapter does something"


def test_the_embeddings_own_distance_follows_the_cosine(
    rows: Path, tiny: SimpleNamespace, pairs: list[Pair], params: Params
) -> None:
    """Of vectors of length 1, |x - y|^2 = 2 - 2 cos(x, y)."""
    from tli.measure import similarity
    from tli.measure.embeddings import embed

    drawn = [pairs[index] for index in tsne.draw(pairs, params.tsne)]
    x, y = (embed(tiny.model, tiny.tokenizer, [pair[side] for pair in drawn], 8).pooled["2", "mask"] for side in (0, 1))
    expected = np.sqrt(2 - 2 * similarity.cosine(x, y)).mean()
    got = tsne_rows(rows / "one.tsv").one("base", "trained", "2.mask.nf4", "distance.original")
    assert got == pytest.approx(expected, rel=0.02), "bfloat16, batches of another shape"


def fabricated(folder: Path, params: Params, shift: float, at: Sequence[str]) -> Results:
    """Invented rows; translations are 1 + `shift` apart, other pairs 2."""
    rng = np.random.default_rng(0)
    invented = []
    for run in (BASE, main_run(params.lora.scaling, params.lora.rank, params.train.seed)):
        for view in at:
            for space in ("original", "pca", "tsne"):
                for name, value in (("distance", 1 + shift), ("random_distance", 2), ("p_at_1", 0.4)):
                    invented.append(Row(*run, "trained", "-", view, f"{name}.{space}", value))
            for space in ("pca", "tsne"):
                for axis in ("x.sw", "y.sw", "x.en", "y.en"):
                    for number in range(params.tsne.pairs):
                        item = f"neno{number}"
                        invented.append(Row(*run, "trained", item, view, f"{space}.{axis}", float(rng.normal())))
    write_rows(folder / f"{shift}.tsv", invented)
    return results(folder / f"{shift}.tsv")


def drawn(measured: Results, params: Params) -> tuple[str, str, str]:
    with style.context(["default", STYLE]):
        canvas, caption, alt = projection.figure(measured, params)
        return svg(canvas), caption, alt


def test_the_figure_is_the_same_to_the_byte_and_describes_its_rows(tmp_path: Path, params: Params) -> None:
    at = views(params)
    assert at == ["2.mask.nf4", "2.content.nf4"]
    near, far = (fabricated(tmp_path, params, shift, at) for shift in (0.0, 0.5))
    first, caption, alt = drawn(near, params)
    assert first == drawn(near, params)[0]
    ElementTree.fromstring(first)
    assert caption.startswith(f"{params.tsne.pairs} trained pairs at the layer of the loss, by t-SNE")
    assert len(caption.split()) <= 40
    assert "van der Maaten" in caption
    assert "Wattenberg" in caption
    assert "t-SNE at 2.mask.nf4 0.500 before" in alt
    assert "t-SNE at 2.mask.nf4 0.750 before" in drawn(far, params)[2]


def test_the_table_has_the_distance_ratio_in_every_space(tmp_path: Path, params: Params) -> None:
    measured = fabricated(tmp_path, params, 0.0, views(params))
    table = tables.compute("projection", measured, params, lambda *_: None)
    assert [row["space"] for row in table.rows] == 2 * ["embeddings", "PCA", "t-SNE"]
    assert {row["ratio_before"] for row in table.rows} == {0.5}
    assert table.values()["projection/2.content.nf4,embeddings/p1_after"] == 0.4
    assert {row["name"] for row in table.rows} == {"trained_on", "neighbour"}
    assert len(table.caption.split()) <= 40
    assert f"{1 / params.tsne.pairs:.3g} by chance" in " ".join(table.notes)
