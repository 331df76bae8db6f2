"""The paper's configuration once more in bfloat16: its product, its rows, and that they are those of a bfloat16 run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from peft.tuners.lora.layer import LoraLayer
from torch import nn

from tli.config.parameters import Params
from tli.data.words.lexicon import Pair
from tli.io.rows import read_rows
from tli.io.structured import write_tsv
from tli.measure import pair_rows
from tli.measure.views import BASE
from tli.model import checkpoint, four_bit, lora
from tli.stages import bfloat16

VIEW = "2.content.fp4"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny_quantized: Path, pairs: list[Pair], params: Params) -> Path:
    """A folder with pairs.tsv and the stage's rows, bfloat16.tsv."""
    folder = tmp_path_factory.mktemp("bfloat16")
    write_tsv(folder / "pairs.tsv", Pair._fields, pairs)
    hard = params.train.model_copy(update={"lr": 5e-3, "epochs": 6})  # moves the tiny model further than FP4 rounds
    trained_hard = params.model_copy(update={"train": hard})
    bfloat16.run(folder / "pairs.tsv", tiny_quantized, folder / "bfloat16.tsv", trained_hard)
    return folder


def test_the_product_is_rounded_once() -> None:
    """Of bfloat16 numbers, in float32: the exact sum to within float32, rounded to bfloat16; gradients flow."""
    torch.manual_seed(0)
    dense = checkpoint.Dequantized(64, 32, dtype=torch.bfloat16)
    dense.requires_grad_(False)
    x = torch.randn(5, 64, dtype=torch.bfloat16, requires_grad=True)
    holder: nn.Module = nn.Sequential(dense)
    product = bfloat16.round_products(holder)(x)
    assert product.dtype == torch.bfloat16
    exact = (x.double() @ dense.weight.double().T + dense.bias.double()).detach()
    step = torch.finfo(torch.bfloat16).eps * exact.abs() / 2  # half of the distance to the next number
    assert ((product.double() - exact).abs() <= 1.001 * step + 1e-6).all()
    product.sum().backward()
    assert x.grad is not None
    expected = dense.weight.float().sum(dim=0).bfloat16()
    assert torch.equal(x.grad, expected.expand_as(x))


def test_rows_are_those_of_every_pair_at_the_view_of_the_public_scripts(
    measured: Path, pairs: list[Pair], params: Params
) -> None:
    rows = read_rows(measured / "bfloat16.tsv")
    assert {*rows["view"]} == {VIEW}
    assert {*rows["measure"]} == {"cosine", "random_cosine"}
    assert rows.groupby(["run", "measure"]).size().to_dict() == {
        (cell, measure): len(pairs)
        for cell in ("base-bfloat16", "main-bfloat16")
        for measure in ("cosine", "random_cosine")
    }
    main = rows[rows["run"] == "main-bfloat16"]
    assert {*main["rank"]} == {params.lora.rank}
    assert {path.name for path in measured.iterdir()} == {"pairs.tsv", "bfloat16.tsv"}, "the adapter does not stay"


def cosines(rows: pd.DataFrame, cell: str) -> pd.Series:
    chosen = rows[(rows["run"] == cell) & (rows["measure"] == "cosine") & (rows["view"] == VIEW)]
    return chosen.set_index("item")["value"].astype(float)


def test_the_base_is_a_checkpoint_in_bfloat16(
    measured: Path, tiny_base: Path, pairs: list[Pair], params: Params, tmp_path: Path
) -> None:
    """The rows are, but for the order of sums, those of the 4-bit checkpoint whose compute dtype is bfloat16."""
    four_bit.write_checkpoint(tiny_base, tmp_path / "fp4", "fp4", params.quantize.fp4, "bfloat16")
    model, tokenizer = checkpoint.load(tmp_path / "fp4", head=False), checkpoint.tokenizer(tmp_path / "fp4")
    expected = pd.DataFrame(pair_rows.measure(BASE, pairs, model, tokenizer, params, "fp4"))
    found = cosines(read_rows(measured / "bfloat16.tsv"), "base-bfloat16")
    assert (found - cosines(expected, "base")).abs().max() < 0.01
    assert found.std() > 0.05, "pairs differ by more than that"


def test_training_moves_the_pairs(measured: Path) -> None:
    rows = read_rows(measured / "bfloat16.tsv")
    assert not cosines(rows, "main-bfloat16").equals(cosines(rows, "base-bfloat16"))


def test_an_adapter_fits_around_the_product(tiny_quantized: Path, params: Params) -> None:
    """PEFT takes it for the dense layer that it is."""
    model = bfloat16.round_products(checkpoint.load(tiny_quantized / "nf4", dtype="bfloat16"))
    adapted = lora.attach(model, params.lora, blocks=2, seed=0)
    around = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
    assert len(around) == 2 * len(params.lora.targets)
    assert all(isinstance(module.get_base_layer(), bfloat16.RoundedLinear) for module in around)
    assert all(isinstance(module.get_base_layer(), nn.Linear) for module in around)


def test_a_run_in_bfloat16_or_of_the_author_s_adapter_has_no_rows(
    measured: Path, tiny_quantized: Path, params: Params, tmp_path: Path
) -> None:
    compute = params.active.compute.model_copy(update={"dtype": "bfloat16"})
    profile = params.active.model_copy(update={"compute": compute})
    in_bfloat16 = params.model_copy(update={"profiles": {params.model: profile}})
    author = params.model_copy(update={"adapter": params.adapter.model_copy(update={"source": "author"})})
    for name, changed in (("a", in_bfloat16), ("b", author)):
        bfloat16.run(measured / "pairs.tsv", tiny_quantized, tmp_path / name, changed)
        assert read_rows(tmp_path / name).empty
