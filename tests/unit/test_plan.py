"""The plan: shapes as published, sums that add up, and neither torch nor a connection for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML
from transformers import LlamaConfig, LlamaForCausalLM

from tiny import ROOT
from tli.cli import main
from tli.commands import plan
from tli.config import parameters
from tli.data.words import lexicon
from tli.io.structured import write_json, write_tsv

MODELS = tuple(parameters.load(ROOT / "params.yaml").profiles)


def loaded(model: str, **changes: object) -> parameters.Params:
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return parameters.load(ROOT / "params.yaml", dotted, model=model)


def of(params: parameters.Params) -> dict[str, plan.Cost]:
    return {one.stage: one for one in plan.costs(params, 623, 63)}


def test_the_shapes_are_transformers_own() -> None:
    """A Llama's parameters but for the head, and the published size of a block."""
    params = loaded("microworld")
    model = params.active.model
    config = LlamaConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_hidden_layers=model.blocks,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        tie_word_embeddings=False,
    )
    assert plan.sizes(params, 1372).all == LlamaForCausalLM(config).num_parameters()
    assert plan.sizes(loaded("lugha_llama"), 1372).block == pytest.approx(218.1e6, rel=1e-3)


def test_the_published_model_costs_what_it_is_known_to_cost() -> None:
    """32 GB fetched whole, two at most in part; a training step of the paper's batch is about 165 GFLOP."""
    paper, headline = of(loaded("lugha_llama")), of(loaded("lugha_llama_early"))
    assert paper["base"].fetch == pytest.approx(32.14e9, rel=0.01)
    assert 1.74e9 < headline["base"].fetch <= 2.0e9
    assert headline["score"].flop == headline["benchmarks"].fetch == 0
    assert headline["train"].flop / (5 * 623 / 8) == pytest.approx(165e9, rel=0.05)
    assert paper["train"].flop == headline["train"].flop, "training runs two blocks in both"
    assert paper["scan"].flop == 16 * headline["scan"].flop
    for weights, measured, within in (("packed", 0.92e9, 0.25), ("dequantized", 1.39e9, 0.05)):
        cut = of(loaded("lugha_llama_early", profiles__lugha_llama_early__compute__weights=weights))["train"]
        assert cut.memory == pytest.approx(measured, rel=within)
    assert paper["train"].memory == headline["train"].memory, "training reads two blocks and the words' embeddings"
    blocks = 32 * plan.sizes(loaded("lugha_llama"), 1372).block
    assert blocks * plan.PACKED == pytest.approx(3.93e9, rel=0.01)


@pytest.mark.parametrize("model", MODELS)
def test_every_stage_of_the_pipeline_that_computes_is_planned(model: str) -> None:
    stages = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    quick = ("check", "microworld", "tables", "pages", "verify", "paper", "report-data", "report")
    assert [*of(loaded(model))] == [name for name in stages if name not in quick]


def test_the_study_is_planned_by_its_keys() -> None:
    without, sweep = of(loaded("microworld")), of(loaded("microworld"))["sweep-train"]
    assert without["study"].flop == without["study"].memory == 0
    two = of(loaded("microworld", study=["s1-2r", "s2-2r"]))["study"]
    one = of(loaded("microworld", study=["s1-2r"]))["study"]
    assert two.flop == 2 * one.flop > 2 * (sweep.flop + without["sweep-score"].flop)
    assert of(loaded("smollm2", study=["s1-2r"]))["study"].flop == 0


def test_what_is_changed_changes_the_plan() -> None:
    before = of(loaded("lugha_llama_early"))
    after = of(loaded("lugha_llama_early", sweep__ranks=[16], sweep__seeds=[0], train__epochs=10))
    assert after["train"].flop == 2 * before["train"].flop
    assert after["sweep-train"].flop == after["train"].flop
    assert before["sweep-train"].flop == 30 * before["train"].flop
    author = of(loaded("lugha_llama_early", pairs__source="author", adapter__source="author"))
    assert author["train"].flop == 0
    assert author["train"].fetch == pytest.approx(4 * 6_815_744)
    assert author["words"].fetch > 0


def test_the_page_has_a_line_a_stage_and_says_what_cannot_be_checked(tmp_path: Path) -> None:
    write_json(tmp_path / "costs.json", {"stages": {f"sweep-train@{rank}": {"seconds": 90} for rank in (1, 2)}})
    said = plan.page(loaded("lugha_llama_early"), ROOT / "data" / "pairs.tsv", tmp_path)
    lines = {line.split()[0]: line.split() for line in said.splitlines() if line}
    assert lines["sweep-train"][-1] == lines["total"][-1] == "3.0"
    assert lines["base"][1:3] == lines["total"][1:3] == ["1.83", "GB"]
    assert "the hub has no hash of a part" in said
    assert "Left out: the higher blocks, the final norm, the head" in said
    assert "hash of a part" not in plan.page(loaded("lugha_llama"), ROOT / "data" / "pairs.tsv", tmp_path)


def test_the_word_list_is_counted(tmp_path: Path) -> None:
    pairs = lexicon.read_pairs(ROOT / "data" / "pairs.tsv")
    write_tsv(tmp_path / "pairs.tsv", lexicon.Pair._fields, pairs[:100])
    result = CliRunner().invoke(main, ["plan", "--pairs", str(tmp_path / "pairs.tsv")])
    assert "(100 word pairs)" in result.output
    assert "plan, microworld: a small bilingual Llama, versioned, 8 blocks" in result.output


def test_it_imports_no_torch_and_opens_no_socket() -> None:
    """So that it answers at once, and before anything moves."""
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('a connection')\n"
        "socket.socket.connect = refuse\n"
        "from tli.cli import main\n"
        "main(['--model', 'lugha_llama_early', 'plan'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'numpy', 'pandas'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    call = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert call.returncode == 0, call.stderr
    assert "1.83 GB" in call.stdout
