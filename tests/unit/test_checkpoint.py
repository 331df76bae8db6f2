"""What is read of a checkpoint: only what is asked for, and the same numbers as transformers reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from tiny import MODEL_TYPES, write_model
from tli.config.parameters import Params
from tli.io.errors import CheckFailed, UserError
from tli.io.structured import read_json, write_json
from tli.model import backbone, checkpoint, lora
from tli.model.checkpoint import Dequantized, EmbeddingRows
from tli.stages import quantize

IDS = torch.tensor([[1, 8, 9, 40], [1, 30, 3, 3]])
BLOCKS = 4


@pytest.fixture(scope="module", params=MODEL_TYPES)
def quantized(
    request: pytest.FixtureRequest, tiny_quantized: Path, tmp_path_factory: pytest.TempPathFactory, params: Params
) -> Path:
    """The 4-bit caches of the tiny Llama, and of a model of each other type: biases, tied heads, norms of queries and
    keys, heads wider than hidden_size / heads, attention to a window, scaled embeddings.
    """
    if request.param == "llama":
        return tiny_quantized
    folder = tmp_path_factory.mktemp(request.param)
    write_model(folder / "base", request.param)
    quantize.run(
        folder / "base", folder / "quantized", folder / "rows.tsv", params.quantize, params.active.compute.dtype
    )
    return folder / "quantized"


def by_transformers(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    checkpoint.disable_repacking(model)
    return model.eval()


@torch.no_grad()
def states(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Every layer's states of IDS, and the logits where there is a head."""
    seen: dict[str, torch.Tensor] = {}
    backbone.forward(model, IDS, seen.__setitem__)
    if not isinstance(model.lm_head, checkpoint.NoHead):
        seen["logits"] = model(IDS).logits
    return seen


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in expected)


WAYS: list[dict[str, Any]] = [
    {},
    {"weights": "dequantized"},
    {"vocabulary": IDS.flatten().tolist()},
    {"resident": 0},
    {"resident": 2, "weights": "dequantized", "vocabulary": range(100)},
]


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: ", ".join(way) or "plain")
def test_however_it_is_read_the_states_are_transformers_own(quantized: Path, kind: str, way: dict[str, Any]) -> None:
    """Bit for bit: every hidden state and every logit, in bfloat16."""
    expected = states(by_transformers(quantized / kind))
    assert len(expected) == BLOCKS + 3
    assert same(states(checkpoint.load(quantized / kind, **way)), expected)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: ", ".join(way) or "plain")
def test_block_after_block_gives_what_a_pass_a_batch_gives(quantized: Path, way: dict[str, Any]) -> None:
    """`run` against transformers itself, for batches of several shapes; layers come in order."""
    batches = [IDS, IDS[:1, :3], IDS.flip(0)]
    expected = [by_transformers(quantized / "nf4")(ids, output_hidden_states=True).hidden_states for ids in batches]
    model = checkpoint.load(quantized / "nf4", **way)
    seen = dict(backbone.run_by_block(model, batches))
    assert list(seen) == ["0", "1", "2", "3", "4", "norm"]
    for number, hidden in enumerate(expected):
        assert all(torch.equal(seen[str(layer)][number], hidden[layer]) for layer in range(BLOCKS))
        assert torch.equal(seen["norm"][number], hidden[BLOCKS])
    by_batch = {name: tensor for name, tensor in states(model).items() if name != "logits"}
    assert same({layer: own[0] for layer, own in seen.items()}, by_batch)
    assert len(model.model.layers) == BLOCKS


@pytest.mark.parametrize("way", WAYS, ids=lambda way: ", ".join(way) or "plain")
def test_a_checkpoint_that_is_not_quantised_is_read_the_same_ways(tiny_base: Path, way: dict[str, Any]) -> None:
    model = checkpoint.load(tiny_base, **way)
    assert not any(isinstance(module, Linear4bit | Dequantized) for module in model.modules())
    assert same(states(model), states(by_transformers(tiny_base)))


def test_everything_but_the_weights_is_as_transformers_has_it(quantized: Path) -> None:
    ours, theirs = checkpoint.load(quantized / "nf4"), by_transformers(quantized / "nf4")
    assert {name: type(module) for name, module in ours.named_modules()} == {
        name: type(module) for name, module in theirs.named_modules()
    }
    found, expected = ours.state_dict(), theirs.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(a.dtype == b.dtype for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    for (name, a), (_, b) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        assert torch.equal(a, b), name
    for flag in ("is_loaded_in_4bit", "is_quantized", "quantization_method", "name_or_path"):
        assert getattr(ours, flag) == getattr(theirs, flag)
    assert ours.num_parameters() == theirs.num_parameters()
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_only_what_is_asked_for_is_read(quantized: Path, tmp_path: Path) -> None:
    """The files of the other blocks and of the head are not even there."""
    folder = tmp_path / "nf4"
    shutil.copytree(quantized / "nf4", folder)
    whole = states(checkpoint.load(folder))
    for name in ("block-002", "block-003", "head"):
        (folder / f"{name}.safetensors").unlink()
    cut = states(checkpoint.load(folder, blocks=2, head=False))
    assert same(cut, {layer: whole[layer] for layer in ("0", "1", "2")})
    with pytest.raises(UserError, match=r"got no model\.layers\.2\.\S+ \(\d+ missing\); remove the folder"):
        checkpoint.load(folder, head=False)


def test_a_model_without_its_head_gives_no_score(tiny_quantized: Path) -> None:
    with pytest.raises(UserError, match="loaded without its head"):
        checkpoint.load(tiny_quantized / "nf4", head=False)(IDS)


def test_embeddings_are_the_rows_of_the_tokens_in_use_and_no_others(tiny_quantized: Path) -> None:
    model = checkpoint.load(tiny_quantized / "nf4", vocabulary=[9, 5, 7, 5])
    embeddings = model.model.embed_tokens
    assert isinstance(embeddings, EmbeddingRows)
    whole = checkpoint.load(tiny_quantized / "nf4").model.embed_tokens.weight
    assert torch.equal(embeddings.weight, whole[[5, 7, 9]])
    ids = torch.tensor([[9, 5], [7, 7]])
    assert torch.equal(checkpoint.embedding_rows(embeddings, ids), whole[ids])
    for token in (0, 6, 10, 158):
        with pytest.raises(CheckFailed, match=f"expected one of the 3 tokens that were loaded, got {token};"):
            model(torch.tensor([[5, token]]))


def test_a_token_past_the_embeddings_is_one_clear_line(tiny_quantized: Path) -> None:
    n = checkpoint.load(tiny_quantized / "nf4").config.vocab_size
    with pytest.raises(CheckFailed, match=f"embed_tokens.*expected tokens below {n}, got {n}"):
        checkpoint.load(tiny_quantized / "nf4", vocabulary=[5, n])


def test_one_block_at_a_time_is_in_memory(tiny_quantized: Path) -> None:
    model = checkpoint.load(tiny_quantized / "nf4", resident=0, weights="dequantized", head=False)
    held = {}
    for layer, _ in backbone.run_by_block(model, [IDS, IDS[:1]]):
        blocks = enumerate(model.model.layers, start=1)
        held[layer] = [number for number, block in blocks if any(not p.is_meta for p in block.parameters())]
    assert held == {"0": [], "1": [1], "2": [2], "3": [3], "4": [4], "norm": [4]}


def test_packed_weights_let_go_of_their_scales_too(tiny_quantized: Path) -> None:
    model = checkpoint.load(tiny_quantized / "nf4", resident=0)
    first = [module for module in model.model.layers[0].modules() if isinstance(module, Linear4bit)]
    with torch.no_grad():
        model(IDS)
    assert all(module.weight.is_meta and module.weight.quant_state is None for module in first)
    assert all(module.quant_state is None for module in first)


def test_adapters_sit_on_the_blocks_that_stay(tiny_quantized: Path, params: Params, tmp_path: Path) -> None:
    """Block 1 and 2 in memory, the others on demand: with an adapter on the former, the same states."""
    found = []
    for resident in (None, 2):
        model = checkpoint.load(tiny_quantized / "nf4", resident=resident)
        adapted = lora.attach(model, params.lora, blocks=2, seed=0).eval()
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.01)
        found.append(states(adapted))
    assert same(*found)


def test_another_shape_than_the_configuration_s_is_refused(tiny_quantized: Path, tmp_path: Path) -> None:
    for number, (key, value, name) in enumerate(
        [("vocab_size", 320, "lm_head.weight|model.embed_tokens.weight"), ("intermediate_size", 192, "mlp")]
    ):
        folder = tmp_path / str(number)
        shutil.copytree(tiny_quantized / "nf4", folder)
        write_json(folder / "config.json", read_json(folder / "config.json") | {key: value})
        with pytest.raises(UserError, match=rf"({name}).*: expected the shape \[.*{value}.*\] of config\.json"):
            checkpoint.load(folder)


def test_a_projection_that_is_not_packed_is_refused(tiny_quantized: Path, tmp_path: Path) -> None:
    folder, name = tmp_path / "nf4", "model.layers.1.self_attn.q_proj.weight"
    shutil.copytree(tiny_quantized / "nf4", folder)
    tensors = load_file(folder / "block-001.safetensors")
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith(name)}
    save_file(kept | {name: torch.zeros(64, 64, dtype=torch.bfloat16)}, folder / "block-001.safetensors")
    with pytest.raises(UserError, match=f"got no {name} \\(1 missing\\)"):
        checkpoint.load(folder)


def test_no_tensors_at_all_is_one_clear_line(tiny_quantized: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_quantized / "nf4" / "config.json", tmp_path)
    with pytest.raises(UserError, match="expected a checkpoint in safetensors files, found none"):
        checkpoint.load(tmp_path)
