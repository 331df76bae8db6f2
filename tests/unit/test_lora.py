"""LoRA: on all blocks as nominally configured it is LoRA on the blocks that get gradient; adapters made elsewhere."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiny import ROOT
from tli.analysis.row_file import read_files
from tli.config import parameters
from tli.config.parameters import Params
from tli.data.words.lexicon import Pair, read_pairs
from tli.io.errors import CheckFailed, UserError
from tli.io.rows import write_rows
from tli.io.structured import write_tsv
from tli.measure import pair_rows
from tli.measure.views import BASE
from tli.model import checkpoint, lora
from tli.model.batched_lora import batched_lora
from tli.stages import similarity
from tli.stages import train as train_stage
from tli.training import loop

Tensors = dict[str, Tensor]


# All blocks, or those that the loss can reach.


@pytest.fixture
def without_dropout(params: Params) -> Params:
    return params.model_copy(update={"lora": params.lora.model_copy(update={"dropout": 0.0})})


def trained(folder: Path, pairs: list[Pair], params: Params, blocks: int | None) -> tuple[Tensors, Tensors, Any]:
    """The adapter before and after some steps, and the run, on the whole model or cut to `blocks`."""
    model, tokenizer = checkpoint.load(folder, blocks=blocks), checkpoint.tokenizer(folder)
    settings = params.train.model_copy(update={"lr": 5e-3, "epochs": 3, "batch_size": 4})
    with batched_lora(model, params.lora, blocks or model.config.num_hidden_layers, [0], settings.layer) as adapters:
        before = adapters.tensors(0)
        run = loop.train(adapters, tokenizer, pairs, settings)
    return before, adapters.tensors(0), run


def test_beyond_the_target_layer_nothing_is_trained_and_nothing_else_changes(
    tiny: SimpleNamespace, pairs: list[Pair], without_dropout: Params
) -> None:
    """On NF4: B stays 0 beyond block 2; losses, gradient norms, common tensors are the cut model's, bit for bit."""
    start, whole, nominal = trained(tiny.folder, pairs, without_dropout, None)
    cut_start, cut, effective = trained(tiny.folder, pairs, without_dropout, 2)
    assert nominal[0].steps == effective[0].steps
    assert len(whole) == 2 * len(cut) == 16
    assert all(torch.equal(start[name], cut_start[name]) for name in cut)
    assert all(torch.equal(whole[name], cut[name]) for name in cut)
    for name, tensor in whole.items():
        at = lora.place(name)
        assert torch.equal(tensor, start[name]) == (at.block > 2), name
        if at.matrix == "B":
            assert bool(tensor.any()) == (at.block <= 2), name


def test_parameters_nominal_and_effective_are_the_published_ones() -> None:
    """At the published model's shape: r x 13,312 a block, on 32 blocks or on the 2 that get gradient."""
    loaded = parameters.load(ROOT / "params.yaml")
    paper = loaded.model_copy(update={"model": "lugha_llama"})
    assert lora.parameter_count(paper, 1) == 16 * 13_312
    assert lora.parameter_count(paper, paper.active.model.blocks) == 6_815_744
    assert lora.parameter_count(paper, paper.train.layer) == 425_984


def test_the_size_is_what_peft_counts(tiny: SimpleNamespace, params: Params) -> None:
    for blocks in (1, 2, 4):
        adapted = lora.attach(checkpoint.load(tiny.folder), params.lora, blocks, seed=0)
        assert lora.parameter_count(params, blocks) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


# Norms.


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_the_norm_of_the_product_needs_no_product(r: int, d_in: int, d_out: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(r, d_in, generator=generator, dtype=torch.float64)
    b = torch.randn(d_out, r, generator=generator, dtype=torch.float64)
    found = lora._norms(a, b)
    assert found[:3] == pytest.approx((float(a.norm()), float(b.norm()), float((b @ a).norm())))
    assert lora._norms(a, 0 * b) == (float(a.norm()), 0.0, 0.0, True)


# An adapter made elsewhere.


@pytest.fixture
def theirs(tiny: SimpleNamespace, params: Params) -> Tensors:
    """An adapter on all four blocks, B not zero on the first two only, as training elsewhere would leave it."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, shape in lora.shapes(tiny.folder, params.lora).items():
        at = lora.place(name)
        tensors[name] = torch.randn(shape, generator=generator) * (0.1 if at.matrix == "A" or at.block <= 2 else 0)
    return tensors


def blob_id(data: bytes) -> str:
    """git's name for a file: SHA-1 of a header and the bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: SimpleNamespace, params: Params, pairs: list[Pair]
) -> Callable[..., SimpleNamespace]:
    """Runs the stage with `adapter.source: author` on the bytes that a mirror holds; returns where its outputs lie."""

    def run(data: bytes, blob: str | None = None, **changes: object) -> SimpleNamespace:
        mirror = tmp_path / "mirror"
        mirror.mkdir()
        (mirror / "adapter_model.safetensors").write_bytes(data)
        monkeypatch.setenv("TLI_MIRROR", str(mirror))
        adapter = parameters.Blob(path="somewhere/adapter_model.safetensors", git_blob=blob or blob_id(data))
        changed = params.model_copy(
            update={
                "adapter": params.adapter.model_copy(update={"source": "author"}),
                "author": params.author.model_copy(update={"adapter": adapter}),
                "lora": params.lora.model_copy(update=changes),
            }
        )
        made = SimpleNamespace(
            pairs=tmp_path / "pairs.tsv",
            out=tmp_path / "out" / "adapter",
            rows=tmp_path / "out" / "train.tsv",
            log=tmp_path / "out" / "log",
            params=changed,
        )
        write_tsv(made.pairs, Pair._fields, pairs)
        train_stage.fetch_author(made.pairs, tiny.folder.parent, made.out, made.rows, made.log, changed)
        return made

    return run


def serialised(tensors: Tensors, folder: Path) -> bytes:
    save_file(tensors, folder / "made.safetensors", metadata={"format": "pt"})
    return (folder / "made.safetensors").read_bytes()


def test_the_authors_adapter_is_loaded_as_one_trained_here(
    fetched: Callable[..., SimpleNamespace], theirs: Tensors, tmp_path: Path, tiny: SimpleNamespace
) -> None:
    made = fetched(serialised(theirs, tmp_path))
    saved = load_file(made.out / lora.WEIGHTS)
    assert saved.keys() == theirs.keys()
    assert all(torch.equal(saved[name], theirs[name]) for name in theirs)
    settings = json.loads((made.out / lora.SETTINGS).read_text())
    assert (settings["r"], settings["lora_alpha"], settings["layers_to_transform"]) == (16, 32, [0, 1, 2, 3])
    loaded = lora.load(checkpoint.load(tiny.folder), made.out)
    state = get_peft_model_state_dict(loaded)
    assert all(torch.equal(state[name], theirs[name]) for name in theirs)
    similarity.run(made.pairs, tiny.folder.parent, made.out, tmp_path / "similarity.tsv", made.params)
    base = checkpoint.load(tiny.folder, head=False)
    measured = pair_rows.measure(BASE, read_pairs(made.pairs), base, tiny.tokenizer, made.params, "nf4")
    write_rows(tmp_path / "base.tsv", measured)
    rows = read_files(tmp_path / "base.tsv", tmp_path / "similarity.tsv")
    before, after = rows.matched(("base", "main"), "trained", "2.content.nf4", "cosine")
    assert before != after
    assert made.log.is_dir(), "the stage's plots must exist"


def test_rows_say_of_every_block_whether_its_b_is_zero(
    fetched: Callable[..., SimpleNamespace], theirs: Tensors, tmp_path: Path, params: Params, pairs: list[Pair]
) -> None:
    rows = read_files(fetched(serialised(theirs, tmp_path)).rows)
    zero = rows.each("main", "adapter", "-", "b_is_zero")
    expected = {f"{block}.{target}": float(block > 2) for block in (1, 2, 3, 4) for target in ("q_proj", "v_proj")}
    assert zero == expected
    a, b = (theirs[f"base_model.model.model.layers.1.self_attn.q_proj.lora_{matrix}.weight"] for matrix in "AB")
    assert rows.one("main", "adapter", "-", "norm_ba", "2.q_proj") == pytest.approx(float((b @ a).norm()), rel=1e-5)
    assert rows.one("main", "adapter", "-", "blocks") == 4
    count = sum(tensor.numel() for tensor in theirs.values())
    assert rows.one("main", "trained", "2.mask.nf4", "trainable_parameters") == count
    assert rows.one("main", "adapter", "-", "nominal_parameters") == count
    assert not rows.has("main", "trained", "2.mask.nf4", "loss_first")
    tokens = rows.each("base", "trained", "-", "tokens.swahili")
    assert [*tokens] == [pair.swahili for pair in pairs if pair.set == "trained"]
    assert all(count >= 1 for count in tokens.values())


def _pickled(tensors: Tensors, folder: Path) -> bytes:
    torch.save(tensors, folder / "made.bin")
    return (folder / "made.bin").read_bytes()


def _changed(change: Callable[[Tensors], object]) -> Callable[[Tensors, Path], bytes]:
    def make(tensors: Tensors, folder: Path) -> bytes:
        change(tensors)
        return serialised(tensors, folder)

    return make


NAME = "base_model.model.model.layers.{}.self_attn.{}_proj.lora_{}.weight"
REFUSED = {
    "a shape": (
        _changed(lambda t: t.update({NAME.format(0, "v", "B"): torch.zeros(64, 16)})),
        r"layers\.0\.self_attn\.v_proj\.lora_B\.weight: expected \[32, 16\] \(LoRA of rank 16 .*, got \[64, 16\]; set",
    ),
    "another rank": (
        _changed(lambda t: t.update({name: x[:8] if "A" in name else x[:, :8].clone() for name, x in t.items()})),
        r"expected \[16, 64\] .*, got \[8, 64\]; set lora\.rank",
    ),
    "an extra tensor": (
        _changed(lambda t: t.update({"base_model.model.lm_head.weight": torch.zeros(2, 2)})),
        r"base_model\.model\.lm_head\.weight: expected no such tensor .*, got \[2, 2\]",
    ),
    "a block too many": (
        _changed(lambda t: t.update({NAME.format(4, "q", "A"): torch.zeros(16, 64)})),
        r"layers\.4\..*expected no such tensor",
    ),
    "a missing block": (
        _changed(lambda t: [t.pop(name) for name in [*t] if ".layers.3." in name]),
        r"layers\.3\.self_attn\.q_proj\.lora_A\.weight: expected \[16, 64\] .*, got none",
    ),
    "a value that is not finite": (
        _changed(lambda t: t[NAME.format(1, "q", "B")].fill_(float("nan"))),
        r"layers\.1\.self_attn\.q_proj\.lora_B\.weight: expected finite numbers",
    ),
    "whole numbers": (
        _changed(lambda t: t.update({name: x.int() for name, x in t.items()})),
        r"expected finite numbers, got others \(int32\)",
    ),
    "torch's pickle": (_pickled, r"expected a safetensors file, got something else .* \(a pickle is never loaded\)"),
    "a plain pickle": (lambda t, _: pickle.dumps([*t]), "a pickle is never loaded"),
    "nothing": (lambda *_: b"", "expected a safetensors file"),
    "a cut file": (lambda t, folder: serialised(t, folder)[:-100], "expected a safetensors file"),
}


@pytest.mark.parametrize(("make", "said"), REFUSED.values(), ids=REFUSED)
def test_an_adapter_that_is_not_the_models_is_refused_in_one_line(
    fetched: Callable[..., SimpleNamespace], theirs: Tensors, tmp_path: Path, make: Callable[..., bytes], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        fetched(make(theirs, tmp_path))
    assert "\n" not in caught.value.message
    assert not (tmp_path / "out").exists()


def test_another_blob_is_refused_before_it_is_read(
    fetched: Callable[..., SimpleNamespace], theirs: Tensors, tmp_path: Path
) -> None:
    with pytest.raises(CheckFailed, match="0" * 40):
        fetched(serialised(theirs, tmp_path), blob="0" * 40)
    assert not (tmp_path / "out").exists()


def test_another_rank_in_the_parameters_is_refused(
    fetched: Callable[..., SimpleNamespace], theirs: Tensors, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"expected \[8, 64\] \(LoRA of rank 8 on q_proj, v_proj"):
        fetched(serialised(theirs, tmp_path), rank=8)
