"""Scan and align: rows agree with a computation by hand, and the same view has the same number in both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tli import store
from tli.data.lexicon import Pair
from tli.model import backbone, lora
from tli.params import Params
from tli.study import align, scan, train, views


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_quantized: Path, pairs: list[Pair], params: Params) -> Path:
    """Scan and align rows of the tiny model, with an adapter trained hard enough to move it."""
    folder = tmp_path_factory.mktemp("study")
    store.write_tsv(folder / "pairs.tsv", Pair._fields, pairs)
    settings = params.train.model_copy(update={"lr": 5e-3, "epochs": 6})
    cut = backbone.load(tiny_quantized / "nf4", blocks=2)
    adapted = lora.attach(cut, params.lora, 2, seed=0)
    train.train(adapted, backbone.tokenizer(tiny_quantized / "nf4"), pairs[:12], settings, seed=0)
    lora.save(adapted, folder / "adapter", base="base")
    scan.run(folder / "pairs.tsv", tiny_quantized, folder / "scan.tsv", params)
    align.run(folder / "pairs.tsv", tiny_quantized, folder / "adapter", folder / "align.tsv", params)
    return folder


def _value(frame, **where) -> float:  # type: ignore[no-untyped-def]
    for column, wanted in where.items():
        frame = frame[frame[column] == wanted]
    assert len(frame) == 1, f"{len(frame)} rows for {where}"
    return float(frame["value"].iloc[0])


def test_scan_covers_every_layer_both_poolings_and_the_norms(files: Path) -> None:
    frame = store.read_rows(files / "scan.tsv")
    layers = ["0", "1", "2", "3", "4", "norm"]
    expected = {f"{layer}.{pooling}.nf4" for layer in layers for pooling in ("mask", "content", "-")}
    assert set(frame["view"]) == expected
    norms = frame[frame["measure"].isin(["bos_norm", "content_norm"])]
    assert len(norms) == 2 * len(layers)
    assert (norms["value"] > 0).all()


def test_before_is_what_the_scan_saw(files: Path) -> None:
    scanned, aligned = store.read_rows(files / "scan.tsv"), store.read_rows(files / "align.tsv")
    for view in scanned[scanned["measure"] == "cosine_mean"]["view"].unique():
        for set_ in ("trained", "control", "all"):
            where = {"set": set_, "view": view, "measure": "cosine_mean", "cell": "base"}
            assert _value(scanned, **where) == _value(aligned, **where)


def test_one_cosine_by_hand(files: Path, tiny_quantized: Path) -> None:
    """transformers alone, one word a time: the cosine of mkate and bread at hidden_states[2], BOS left out."""
    model, tokenizer = backbone.load(tiny_quantized / "nf4"), backbone.tokenizer(tiny_quantized / "nf4")
    vectors = []
    for word in ("mkate", "bread"):
        with torch.no_grad():
            states = model(**tokenizer(word, return_tensors="pt"), output_hidden_states=True).hidden_states[2]
        vectors.append(states[0, 1:].float().mean(dim=0))
    expected = float(torch.nn.functional.cosine_similarity(*vectors, dim=0))
    found = _value(
        store.read_rows(files / "align.tsv"), cell="base", item="mkate", view="2.content.nf4", measure="cosine"
    )
    assert found == pytest.approx(expected, abs=2e-3)  # bfloat16: one word alone rounds otherwise than a batch


def test_means_are_means_of_the_pairs(files: Path) -> None:
    frame = store.read_rows(files / "align.tsv")
    for cell in ("base", "main"):
        for set_ in ("trained", "control"):
            where = (frame["cell"] == cell) & (frame["set"] == set_) & (frame["view"] == "2.mask.nf4")
            each = frame[where & (frame["measure"] == "cosine")]["value"]
            mean = _value(frame[where], measure="cosine_mean")
            assert mean == pytest.approx(float(np.mean(each)), abs=1e-8)


def test_every_named_view_and_neighbour_has_rows_per_pair(files: Path, pairs: list[Pair]) -> None:
    frame = store.read_rows(files / "align.tsv")
    each = frame[frame["measure"] == "cosine"]
    expected = {f"{i}.{p}.{q}" for i in ("2", "3", "norm") for p in ("mask", "content") for q in ("nf4", "fp4")}
    assert set(each["view"]) == expected
    assert {str(view) for view in views.named(4).values()} <= expected
    assert (each.groupby(["cell", "view"]).size() == len(pairs)).all()


def test_training_moved_the_trained_view(files: Path) -> None:
    frame = store.read_rows(files / "align.tsv")
    view = frame[(frame["view"] == "2.mask.nf4") & (frame["set"] == "trained")]
    gap = {
        cell: _value(view, cell=cell, measure="cosine_mean") - _value(view, cell=cell, measure="random_cosine_mean")
        for cell in ("base", "main")
    }
    assert gap["main"] > gap["base"]


def test_layer_zero_cannot_move(files: Path) -> None:
    frame = store.read_rows(files / "align.tsv")
    view = frame[(frame["view"] == "0.content.nf4") & (frame["set"] == "all") & (frame["measure"] == "mrr.sw_en")]
    assert view["value"].nunique() == 1


def test_a_set_of_one_is_one_clear_line(pairs: list[Pair]) -> None:
    with pytest.raises(store.UserError, match="expected 2 or more in the set control, got 1"):
        scan.members(pairs[:13], "control")


def test_views_of_the_paper_at_its_own_depth() -> None:
    named = {name: str(view) for name, view in views.named(32).items()}
    assert named == {"as_described": "31.mask.nf4", "as_scripted": "2.content.fp4", "final": "norm.content.nf4"}
    assert views.layers(32)[0] == "0"
    assert views.layers(32)[-2:] == ["32", "norm"]
    assert len({str(view) for view in views.per_pair(32, 5, "nf4")}) == 8
    assert len({str(view) for view in views.per_pair(32, 5, "fp4")}) == 6
