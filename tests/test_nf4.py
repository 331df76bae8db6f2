"""The 4-bit cache: bytes equal bitsandbytes' own, the evidence is read off what is loaded, gradients survive."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file
from transformers import BitsAndBytesConfig, LlamaForCausalLM

from tli import store
from tli.model import backbone, lora, nf4
from tli.params import FourBit, Params


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [False, True])
def test_same_bytes_as_transformers_own_quantisation(
    tiny_base: Path, tmp_path: Path, kind: str, double_quant: bool
) -> None:
    settings = FourBit(load_dtype="bfloat16", double_quant=double_quant)
    nf4.write_checkpoint(tiny_base, tmp_path / "ours", kind, settings)
    theirs = LlamaForCausalLM.from_pretrained(
        tiny_base,
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=kind,
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_use_double_quant=double_quant,
        ),
    )
    expected = theirs.state_dict()
    found = {}
    for shard in (tmp_path / "ours").glob("*.safetensors"):
        found |= load_file(shard)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name].flatten(), tensor.flatten()), name


def test_one_shard_a_block(tiny_quantized: Path) -> None:
    names = sorted(file.name for file in (tiny_quantized / "nf4").glob("*.safetensors"))
    blocks = [f"block-{number:03d}.safetensors" for number in range(4)]
    assert names == [*blocks, "embeddings.safetensors", "head.safetensors"]
    store.check_manifest(tiny_quantized)


def test_a_changed_byte_is_found(tiny_base: Path, tmp_path: Path, params: Params) -> None:
    nf4.run(tiny_base, tmp_path / "q", tmp_path / "rows.tsv", params.quantize)
    shard = tmp_path / "q" / "nf4" / "block-001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(store.CheckFailed, match=r"block-001\.safetensors"):
        store.check_manifest(tmp_path / "q")


def test_evidence_is_read_off_the_loaded_modules(tiny_quantized: Path) -> None:
    rows = store.read_rows(tiny_quantized.parent / "rows.tsv").set_index(["set", "item", "measure"])["value"]
    assert rows["nf4", "projections", "quant_type"] == "nf4"
    assert rows["fp4", "projections", "quant_type"] == "fp4"
    assert rows["nf4", "projections", "loaded_dtype"] == "bfloat16"
    assert rows["fp4", "projections", "loaded_dtype"] == "float16"
    assert rows["nf4", "projections", "compute_dtype"] == "bfloat16"
    per_block = 64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 96
    assert int(rows["nf4", "projections", "parameters"]) == 4 * per_block
    assert int(rows["nf4", "projections", "bytes"]) == 4 * per_block // 2


def test_the_wrong_type_is_refused(tiny_quantized: Path) -> None:
    with pytest.raises(store.CheckFailed, match=r"expected 28 projections of type nf4, got 28 of fp4"):
        nf4.inspect(tiny_quantized / "fp4", "nf4")


def test_gradients_survive_an_evaluation_pass(tiny_quantized: Path, params: Params) -> None:
    """On AVX512_BF16 processors a pass without gradients would repack 4-bit weights, after which gradients are None."""
    model = backbone.load(tiny_quantized / "nf4")
    assert all(not m.support_avx512bf16_for_cpu for m in model.modules() if isinstance(m, Linear4bit))
    adapted = lora.attach(model, params.lora, blocks=2, seed=0)
    ids = torch.arange(4, 12)[None, :]
    with torch.no_grad():
        adapted.eval()(ids)
    adapted.train()(ids).logits.float().sum().backward()
    gradients = [parameter.grad for name, parameter in adapted.named_parameters() if "lora_B" in name]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_no_checkpoint_is_one_clear_line(tmp_path: Path, params: Params) -> None:
    with pytest.raises(store.UserError, match="expected a checkpoint in safetensors files, found none"):
        nf4.run(tmp_path, tmp_path / "out", tmp_path / "rows.tsv", params.quantize)
    assert list(tmp_path.iterdir()) == []
