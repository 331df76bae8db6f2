"""The full grid, command by command as dvc would run it: every arm of the smoke parameters on two further bases."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from checkout import Checkout, clone
from tli.cli import main
from tli.config.parameters import Params, load
from tli.data.words.lexicon import read_pairs
from tli.io.files import sha256_of
from tli.io.rows import read_rows
from tli.model import lora

BASES = (1, 2)
IN_ORDER = """
import networkx
from dvc.repo import Repo
graph = Repo(".").index.graph
grid = [stage for stage in graph if stage.addressing.startswith("full/")]
needed = set(grid).union(*(networkx.descendants(graph, stage) for stage in grid))
for stage in networkx.dfs_postorder_nodes(graph.subgraph(needed)):
    if stage.cmd:
        print(stage.cmd)
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout after every command that `dvc repro full/dvc.yaml` would run, in such an order, in this one process.

    A process a stage, as dvc has it, would import torch fifty times. The outputs are committed to dvc afterwards.
    """
    checkout = clone(tmp_path_factory.mktemp("grid") / "project")
    checkout("dvc", "pull", "-q", "data.dvc")
    checkout.edit("grid: []", "grid: [full]")
    planned = checkout("python", "-c", IN_ORDER).splitlines()
    outside = [line for line in planned if "/full" not in line]
    assert [line.removeprefix("python -m tli ").split()[:3] for line in outside] == [
        ["check", "--out", "build/checked"],
        ["--model", "microworld", "words"],
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout.root)
        for line in planned:
            main.main(shlex.split(line)[3:], prog_name="tli", standalone_mode=False)
    checkout("dvc", "commit", "-q", "-f", "full/dvc.yaml")
    return checkout


@pytest.fixture(scope="module")
def chosen(grid: Checkout) -> Params:
    return load(grid.root / "params.yaml")


def folder(grid: Checkout, base: int) -> Path:
    return grid.root / "build" / grid.model / "full" / f"s{base}"


def test_every_stage_wrote_what_it_says(grid: Checkout) -> None:
    assert grid("dvc", "status", "--json", "full/dvc.yaml").strip() == "{}"


def test_every_arm_has_its_ranks_and_seeds_on_every_base(grid: Checkout, chosen: Params) -> None:
    for base in BASES:
        for regime, names in (("plain", chosen.sweep.arms), ("bos", chosen.sweep.bos_arms)):
            rows = folder(grid, base) / regime / "rows"
            assert {path.name for path in rows.iterdir()} - {"base.receipt.json"} >= {"base", *names}
            for name in names:
                cells = {f"r{rank}-s{seed}" for rank in chosen.arms[name].ranks for seed in chosen.sweep.seeds}
                for kind in ("similarity", "score"):
                    frame = read_rows(rows / name / f"{kind}.tsv")
                    assert set(frame["cell"]) == cells
                    assert set(frame["arm"]) == {name}
                    base_rows = read_rows(rows / "base" / f"{kind}.tsv")
                    assert {*frame["measure"]} == {*base_rows["measure"]} - {"padding_drift"}


def test_bases_differ_in_corpus_items_and_weights(grid: Checkout) -> None:
    for path in (
        "microworld/corpus.txt",
        "benchmarks/items.jsonl",
        "plain/base/model.safetensors",
        "plain/rows/2r/similarity.tsv",
    ):
        assert len({sha256_of(folder(grid, base) / path) for base in BASES}) == len(BASES), path


def test_no_two_arms_trained_the_same_adapter(grid: Checkout, chosen: Params) -> None:
    """At rank 2 and one seed, each arm's change reached the weights."""
    plain = folder(grid, 1) / "plain" / "adapters"
    found = {sha256_of(plain / arm / "r2" / "s0" / lora.WEIGHTS) for arm in chosen.sweep.arms}
    assert len(found) == len(chosen.sweep.arms)


def test_lora_on_all_blocks_learns_in_those_that_the_loss_reaches(grid: Checkout, chosen: Params) -> None:
    adapters = folder(grid, 1) / "plain" / "adapters"
    zero = {where: norm.b_is_zero for where, norm in lora.norms(adapters / "all_blocks" / "r2" / "s0").items()}
    assert {block for block, _ in zero} == set(range(1, chosen.active.model.blocks + 1))
    assert {block for (block, _), is_zero in zero.items() if not is_zero} == set(range(1, chosen.train.layer + 1))
    last = lora.norms(adapters / "layer_last" / "r2" / "s0")
    assert not any(norm.b_is_zero for norm in last.values())


def measured(path: Path, view: str, measure: str) -> float:
    frame = read_rows(path)
    value = frame[(frame["view"] == view) & (frame["measure"] == measure) & (frame["set"] == "all")]["value"]
    return float(value.astype(float).mean())


def test_in_the_bos_regime_words_are_as_before_and_any_two_look_alike_with_bos_in(
    grid: Checkout, chosen: Params
) -> None:
    pairs = read_pairs(grid.root / "build" / grid.model / "pairs.tsv")
    assert len(pairs) > 600
    for base in BASES:
        plain, bos = folder(grid, base) / "plain", folder(grid, base) / "bos"
        for layer in ("1", "2"):
            for measure in ("cosine_mean", "random_cosine_mean", "p_at_1.sw_en"):
                found = [measured(regime / "scan.tsv", f"{layer}.content.nf4", measure) for regime in (plain, bos)]
                assert found[0] == pytest.approx(found[1], abs=0.02), (layer, measure)
        rows = read_rows(bos / "bos.tsv").pivot_table(index="view", columns="measure", values="value")
        assert rows["ratio_before"].max() < 20
        np.testing.assert_allclose(rows["ratio"][1:], chosen.bos.ratio, rtol=0.1)
        assert rows["leak"].max() < 0.05
        assert measured(plain / "scan.tsv", "2.mask.nf4", "random_cosine_mean") < 0.999
        assert measured(bos / "scan.tsv", "2.mask.nf4", "random_cosine_mean") > 0.9999


def test_the_bos_regime_adds_neurons_and_leaves_every_weight(grid: Checkout) -> None:
    before, after = (load_file(folder(grid, 1) / kind / "base" / "model.safetensors") for kind in ("plain", "bos"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        kept = after[name][tuple(slice(size) for size in tensor.shape)]
        assert (kept == tensor).all(), name
        assert (after[name].shape != tensor.shape) == ("mlp" in name)
