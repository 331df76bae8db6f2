"""Scan and align: rows agree with a computation by hand, and the same view has the same number in both."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_transfer import ITEMS
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from tiny import ROOT
from tli.config import parameters
from tli.config.parameters import Params
from tli.data.benchmarks.items import write_items
from tli.data.words.lexicon import Pair
from tli.io.errors import CheckFailed, UserError
from tli.io.rows import read_rows
from tli.io.structured import write_tsv
from tli.measure import embeddings, pair_rows, views
from tli.model import backbone, checkpoint, lora
from tli.model.batched_lora import batched_lora
from tli.stages import base_rows, scan, similarity
from tli.training import loop


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_quantized: Path, pairs: list[Pair], params: Params) -> Path:
    """Scan and align rows of the tiny model, with an adapter trained hard enough to move it."""
    folder = tmp_path_factory.mktemp("study")
    write_tsv(folder / "pairs.tsv", Pair._fields, pairs)
    settings = params.train.model_copy(update={"lr": 5e-3, "epochs": 6})
    cut = checkpoint.load(tiny_quantized / "nf4", blocks=2)
    with batched_lora(cut, params.lora, 2, [0], last_block=2) as adapters:
        loop.train(adapters, checkpoint.tokenizer(tiny_quantized / "nf4"), pairs[:12], settings)
    lora.save(adapters.tensors(0), params.lora, 2, folder / "adapter", base="base")
    scan.run(folder / "pairs.tsv", tiny_quantized, folder / "scan.tsv", params)
    similarity.run(folder / "pairs.tsv", tiny_quantized, folder / "adapter", folder / "similarity.tsv", params)
    write_items(folder / "items.jsonl", ITEMS)
    base_rows.run(folder / "pairs.tsv", folder / "items.jsonl", tiny_quantized, folder / "base-rows", params)
    return folder


def aligned(files: Path) -> pd.DataFrame:
    """The rows of the base and those of the adapter."""
    paths = (files / "base-rows" / "similarity.tsv", files / "similarity.tsv")
    return pd.concat([read_rows(path) for path in paths], ignore_index=True)


def _value(frame, **where) -> float:  # type: ignore[no-untyped-def]
    for column, wanted in where.items():
        frame = frame[frame[column] == wanted]
    assert len(frame) == 1, f"{len(frame)} rows for {where}"
    return float(frame["value"].iloc[0])


def test_scan_covers_every_layer_both_poolings_and_the_norms(files: Path) -> None:
    frame = read_rows(files / "scan.tsv")
    layers = ["0", "1", "2", "3", "4", "norm"]
    expected = {f"{layer}.{pooling}.nf4" for layer in layers for pooling in ("mask", "content", "-")}
    assert set(frame["view"]) == expected | {"-"}
    norms = frame[frame["view"].isin([f"{layer}.-.nf4" for layer in layers])]
    assert len(norms) == 5 * len(layers)
    size = norms[norms["measure"] != "bos_peak_dimension"]["value"].astype(float)
    assert (size > 0).all()
    place = norms[norms["measure"] == "bos_peak_dimension"]["value"].astype(int)
    assert place.between(0, 63).all()
    bound = norms.pivot_table(
        index="view", columns="measure", values="value", aggfunc=lambda cells: float(cells.iloc[0])
    )
    assert (bound["bos_peak"] <= bound["bos_norm"] * 1.01).all(), "no entry of a vector is longer than the vector"


def test_the_scan_s_rows_are_the_same_with_the_whole_model_in_memory(
    files: Path, tiny_quantized: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte: packed weights, whole embeddings and all blocks resident, a batch after another."""

    def batch_by_batch(model: nn.Module, batches: Any, _real: Any) -> Any:
        seen: dict[str, list[torch.Tensor]] = {}
        for ids in batches:
            backbone.forward(model, ids, lambda layer, states: seen.setdefault(layer, []).append(states))
        return seen.items()

    load = checkpoint.load
    monkeypatch.setattr(checkpoint, "load", lambda folder, **_how: load(folder))
    monkeypatch.setattr(backbone, "run_by_block", batch_by_batch)
    scan.run(files / "pairs.tsv", tiny_quantized, tmp_path / "scan.tsv", params)
    assert (tmp_path / "scan.tsv").read_bytes() == (files / "scan.tsv").read_bytes()


def test_before_is_what_the_scan_saw(files: Path) -> None:
    scanned, measured = read_rows(files / "scan.tsv"), aligned(files)
    for view in scanned[scanned["measure"] == "cosine_mean"]["view"].unique():
        for set_ in ("trained", "control", "all"):
            where = {"set": set_, "view": view, "measure": "cosine_mean", "run": "base"}
            assert _value(scanned, **where) == _value(measured, **where)


def test_one_cosine_by_hand(files: Path, tiny_quantized: Path) -> None:
    """transformers alone, one word a time: the cosine of mkate and bread at hidden_states[2], BOS left out."""
    model, tokenizer = checkpoint.load(tiny_quantized / "nf4"), checkpoint.tokenizer(tiny_quantized / "nf4")
    vectors = []
    for word in ("mkate", "bread"):
        with torch.no_grad():
            states = model(**tokenizer(word, return_tensors="pt"), output_hidden_states=True).hidden_states[2]
        vectors.append(states[0, 1:].float().mean(dim=0))
    expected = float(torch.nn.functional.cosine_similarity(*vectors, dim=0))
    found = _value(aligned(files), run="base", item="mkate", view="2.content.nf4", measure="cosine")
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("view", ["2.mask.nf4", "2.content.fp4"])
def test_means_are_means_of_the_pairs(files: Path, view: str) -> None:
    frame = aligned(files)
    for cell in ("base", "main"):
        for set_ in ("trained", "control"):
            where = (frame["run"] == cell) & (frame["set"] == set_) & (frame["view"] == view)
            each = frame[where & (frame["measure"] == "cosine")]["value"]
            mean = _value(frame[where], measure="cosine_mean")
            assert mean == pytest.approx(float(np.mean(each)), abs=1e-8)


def test_norms_before_are_what_the_scan_saw_and_layer_zero_keeps_its_own(files: Path) -> None:
    scanned, measured = read_rows(files / "scan.tsv"), aligned(files)
    for measure in ("bos_norm", "content_norm", "bos_peak", "bos_peak_dimension", "median_magnitude"):
        for layer in ("0", "2", "norm"):
            where = {"view": f"{layer}.-.nf4", "measure": measure}
            before = _value(measured, run="base", **where)
            assert before == _value(scanned, **where)
            after = _value(measured, run="main", **where)
            assert layer != "0" or after == before
    assert _value(measured, run="main", view="2.-.nf4", measure="content_norm") != _value(
        measured, run="base", view="2.-.nf4", measure="content_norm"
    )


def test_measures_without_the_shared_direction_and_in_small_pools(
    files: Path, tiny_quantized: Path, pairs: list[Pair], params: Params
) -> None:
    """Each from the embeddings by another way than the stage's: numpy's corrcoef, and a search one query a time."""
    model, tokenizer = checkpoint.load(tiny_quantized / "nf4"), checkpoint.tokenizer(tiny_quantized / "nf4")
    x, y = (
        embeddings.embed(model, tokenizer, [getattr(pair, side) for pair in pairs], params.active.compute.batch_size)
        .pooled["2", "mask"]
        .astype(np.float64)
        for side in ("swahili", "english")
    )
    frame = aligned(files)
    where = {"run": "base", "view": "2.mask.nf4"}
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    own = [float(u @ v / np.sqrt(u @ u * (v @ v))) for u, v in zip(a, b, strict=True)]
    found = _value(frame, set="control", measure="centred_cosine_mean", **where)
    assert found == pytest.approx(np.mean(own[12:]), abs=1e-6)
    grams = [(z @ z.T).ravel() for z in (a, b)]
    alike = grams[0] @ grams[1] / np.sqrt((grams[0] @ grams[0]) * (grams[1] @ grams[1]))
    assert _value(frame, set="all", measure="cka", **where) == pytest.approx(alike, abs=1e-6)
    hits = []
    for i in range(12, 16):
        near = [float(x[i] @ y[j] / np.linalg.norm(x[i]) / np.linalg.norm(y[j])) for j in range(12, 16)]
        hits.append(int(np.argmax(near)) == i - 12)
    assert _value(frame, set="control", measure="own_p_at_1.sw_en", **where) == pytest.approx(np.mean(hits))
    shares = frame[frame["measure"].str.contains(r"p_at|mrr|csls|cka")]["value"]
    assert shares.between(0, 1 + 1e-9).all()
    assert (frame[frame["measure"].str.startswith("participation")]["value"] >= 0).all()
    own_pool, full = (
        frame[frame["measure"] == name].set_index(["run", "set", "view"])["value"]
        for name in ("own_p_at_1.sw_en", "p_at_1.sw_en")
    )
    assert (own_pool >= full[own_pool.index]).all(), "fewer candidates, no fewer hits"


def test_every_named_view_and_neighbour_has_rows_per_pair(files: Path, pairs: list[Pair]) -> None:
    frame = aligned(files)
    each = frame[frame["measure"] == "cosine"]
    expected = {f"{i}.{p}.{q}" for i in ("2", "3", "norm") for p in ("mask", "content") for q in ("nf4", "fp4")}
    assert set(each["view"]) == expected
    assert {str(view) for view in views.names(4).values()} <= expected
    assert (each.groupby(["run", "view"]).size() == len(pairs)).all()


def test_the_base_and_the_adapter_stand_in_files_of_their_own(files: Path) -> None:
    """Another rank measures the adapter anew, and not the base."""
    assert {*read_rows(files / "similarity.tsv")["run"]} == {"main"}
    assert {*read_rows(files / "base-rows" / "similarity.tsv")["run"]} == {"base"}
    scored = read_rows(files / "base-rows" / "score.tsv")
    assert {*scored["run"]} == {"base", "untrained"}
    right = scored[scored["measure"] == "correct"]
    assert (right.groupby("run").size() == len(ITEMS)).all()
    assert (scored["measure"] == "padding_drift").sum() == 1


def test_training_moved_the_trained_view(files: Path) -> None:
    frame = aligned(files)
    view = frame[(frame["view"] == "2.mask.nf4") & (frame["set"] == "trained")]
    gap = {
        cell: _value(view, run=cell, measure="cosine_mean") - _value(view, run=cell, measure="random_cosine_mean")
        for cell in ("base", "main")
    }
    assert gap["main"] > gap["base"]


def test_layer_zero_cannot_move(files: Path) -> None:
    frame = aligned(files)
    view = frame[(frame["view"] == "0.content.nf4") & (frame["set"] == "all") & (frame["measure"] == "mrr.sw_en")]
    assert view["value"].nunique() == 1


def test_a_set_of_one_is_one_clear_line(pairs: list[Pair]) -> None:
    with pytest.raises(UserError, match="expected 2 or more in the set control, got 1"):
        pair_rows.members(pairs[:13], "control")


def _said(rows: Any) -> dict[str, float | str]:
    return {row.measure: row.value for row in rows}


def test_what_a_view_is_is_read_off_the_loaded_model(tiny: SimpleNamespace, pairs: list[Pair]) -> None:
    words = [pair.swahili for pair in pairs]
    embedded = embeddings.embed(tiny.model, tiny.tokenizer, words, 8)
    as_it_is = {
        "architecture": "llama, rope default",
        "hidden_states": 5,
        "final_hidden_state": 4,
        "layer_0": "embeddings",
        "mask_pooling": "mean of all tokens",
        "content_pooling": "mean of the word's own tokens",
        "cosine": "dot product at length 1",
    }
    assert _said(scan.evidence(tiny.model, tiny.tokenizer, words, 8, embedded)) == as_it_is


def test_a_view_that_is_not_what_it_says_reads_no(
    tiny: SimpleNamespace, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [pair.swahili for pair in pairs]
    embedded = embeddings.embed(tiny.model, tiny.tokenizer, words, 8)
    swapped = {
        (layer, "content" if pooling == "mask" else "mask"): x for (layer, pooling), x in embedded.pooled.items()
    }
    monkeypatch.setattr(scan.similarity, "cosine", lambda x, y: (x * y).sum(axis=-1))
    tiny.model.model.embed_tokens.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    said = _said(scan.evidence(tiny.model, tiny.tokenizer, words, 8, embedded._replace(pooled=swapped)))
    assert {name for name, value in said.items() if value == "no"} == {
        "layer_0",
        "mask_pooling",
        "content_pooling",
        "cosine",
    }


# A body of two blocks in which every state is known: no library's model, no quantisation.


class Shift(nn.Module):
    """A block that adds `height` to dimension `place` of the first token, and nothing to the others."""

    def __init__(self, height: float, place: int) -> None:
        super().__init__()
        self.height, self.place = height, place

    def forward(self, states: torch.Tensor, **_given: Any) -> torch.Tensor:
        moved = states.clone()
        moved[:, 0, self.place] += self.height
        return moved


class Known(nn.Module):
    """What `backbone.forward` needs of a causal LM: a body with embeddings, blocks and a norm."""

    def __init__(self, blocks: list[Shift]) -> None:
        super().__init__()
        self.model = self
        self.embed_tokens = nn.Embedding(12, 8)
        self.layers, self.norm = nn.ModuleList(blocks), nn.Identity()
        self.config = SimpleNamespace(_attn_implementation="sdpa")

    def forward(self, input_ids: torch.Tensor, **_how: Any) -> None:
        states = self.embed_tokens(input_ids)
        for block in self.layers:
            states = block(states)


def _tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that adds no special token by itself, as Qwen2.5's."""
    vocabulary = {word: number for number, word in enumerate(["</s>", "<pad>", "chini", "ya", "jua", "<s>"])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", **special)


def test_without_bos_the_first_token_is_eos_and_content_leaves_it_out() -> None:
    tokenizer = _tokenizer(eos_token="</s>")
    ids = embeddings.tokens(tokenizer, ["jua", "chini ya"])
    assert ids == [[0, 4], [0, 2, 3]]
    padded, real = backbone.pad(ids, tokenizer.pad_token_id)
    assert embeddings.content(padded, real, tokenizer).tolist() == [[False, True, False], [False, True, True]]


def test_a_bos_that_is_not_put_first_is_refused_whatever_eos_is() -> None:
    with pytest.raises(CheckFailed, match=r"expected BOS \(5\) .* got \[4\]"):
        embeddings.tokens(_tokenizer(bos_token="<s>", eos_token="</s>"), ["jua"])
    with pytest.raises(CheckFailed, match="expected a BOS or an EOS token, got neither"):
        embeddings.tokens(_tokenizer(), ["jua"])


def test_a_planted_massive_activation_is_found_where_it_is() -> None:
    tokenizer, model = _tokenizer(eos_token="</s>"), Known([Shift(0.0, 0), Shift(-300.0, 5)])
    found = embeddings.embed(model, tokenizer, ["jua", "chini ya", "jua jua ya"], 2).massive
    plain = model.embed_tokens.weight.detach().numpy()
    assert found["0"] == found["1"]
    assert found["1"].magnitude == pytest.approx(np.abs(plain[0]).max())
    assert found["1"].dimension == int(np.abs(plain[0]).argmax())
    assert found["2"].dimension == 5
    assert found["2"].magnitude == pytest.approx(abs(plain[0, 5] - 300))
    middle = [np.sort(np.abs(plain[ids]).ravel())[(8 * len(ids) - 1) // 2] for ids in ([0, 4], [0, 2, 3], [0, 4, 4, 3])]
    assert found["0"].median == pytest.approx(float(np.median(middle))), "no padding in it, whatever the batch"
    again = embeddings.embed(model, tokenizer, ["jua", "chini ya", "jua jua ya"], 3).massive
    assert again == found


def test_a_cut_model_has_the_views_of_its_layers_and_no_others() -> None:
    model = parameters.load(ROOT / "params.yaml").profiles["lugha_llama_early"].model
    assert views.layers(model) == ["0", "1", "2"]
    assert {name: str(view) for name, view in views.named(model).items()} == {"as_scripted": "2.content.fp4"}
    assert [str(view) for view in views.per_pair(model, 1, "nf4")] == [
        f"{layer}.{pooling}.nf4" for layer in (1, 2) for pooling in ("mask", "content")
    ]


def test_views_of_the_paper_at_its_own_depth() -> None:
    model = parameters.load(ROOT / "params.yaml").profiles["lugha_llama"].model
    named = {name: str(view) for name, view in views.named(model).items()}
    assert named == {"as_described": "31.mask.nf4", "as_scripted": "2.content.fp4", "final": "norm.content.nf4"}
    assert views.layers(model)[0] == "0"
    assert views.layers(model)[-2:] == ["32", "norm"]
    assert len({str(view) for view in views.per_pair(model, 5, "nf4")}) == 8
    assert len({str(view) for view in views.per_pair(model, 5, "fp4")}) == 6
