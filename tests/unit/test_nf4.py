"""The 4-bit cache: bytes equal bitsandbytes' own, the evidence is read off what is loaded, gradients survive."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tiny import changed_files
from tli.config.parameters import FourBit, Params
from tli.io.errors import CheckFailed, UserError
from tli.io.files import manifest_of
from tli.io.rows import Row, read_rows
from tli.io.structured import read_json, write_json
from tli.model import backbone, checkpoint, four_bit, lora, shards
from tli.stages import quantize


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [False, True])
def test_same_bytes_as_transformers_own_quantisation(
    tiny_base: Path, tmp_path: Path, kind: str, double_quant: bool
) -> None:
    settings = FourBit(load_dtype="bfloat16", double_quant=double_quant)
    four_bit.write_checkpoint(tiny_base, tmp_path / "ours", kind, settings, "bfloat16")
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


def test_in_float32_the_codes_are_the_same_and_what_is_not_packed_is_rounded_alike(
    tiny_base: Path, tmp_path: Path
) -> None:
    """`compute.dtype` changes no weight: embeddings and norms are the bfloat16 numbers, stored in float32."""
    settings = FourBit(load_dtype="bfloat16", double_quant=False)
    found: dict[str, dict[str, torch.Tensor]] = {"bfloat16": {}, "float32": {}}
    for dtype, tensors in found.items():
        four_bit.write_checkpoint(tiny_base, tmp_path / dtype, "nf4", settings, dtype)
        for shard in (tmp_path / dtype).glob("*.safetensors"):
            tensors |= load_file(shard)
    for name, tensor in found["bfloat16"].items():
        if not any(part in name for part in ("quant_state", "nested")):
            assert torch.equal(found["float32"][name].to(tensor.dtype), tensor), name
    assert found["float32"]["model.norm.weight"].dtype == torch.float32


def test_twice_gives_the_same_bytes(tiny_base: Path, tiny_quantized: Path, tmp_path: Path, params: Params) -> None:
    """Of every shard, its header included: six of each kind, so that an order of chance shows."""
    quantize.run(tiny_base, tmp_path / "q", tmp_path / "rows.tsv", params.quantize, params.active.compute.dtype)
    assert manifest_of(tmp_path / "q") == manifest_of(tiny_quantized)


def test_one_shard_a_block(tiny_quantized: Path) -> None:
    names = sorted(file.name for file in (tiny_quantized / "nf4").glob("*.safetensors"))
    blocks = [f"block-{number:03d}.safetensors" for number in range(4)]
    assert names == [*blocks, "embeddings.safetensors", "head.safetensors"]
    assert not changed_files(tiny_quantized)


def test_a_changed_byte_is_found(tiny_base: Path, tmp_path: Path, params: Params) -> None:
    quantize.run(tiny_base, tmp_path / "q", tmp_path / "rows.tsv", params.quantize, params.active.compute.dtype)
    shard = tmp_path / "q" / "nf4" / "block-001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert changed_files(tmp_path / "q") == "nf4/block-001.safetensors: FAILED\n"


def test_evidence_is_read_off_the_loaded_modules(tiny_quantized: Path) -> None:
    rows = read_rows(tiny_quantized.parent / "rows.tsv").set_index(["set", "item", "measure"])["value"]
    assert rows["nf4", "projections", "quant_type"] == "nf4"
    assert rows["fp4", "projections", "quant_type"] == "fp4"
    assert rows["nf4", "projections", "loaded_dtype"] == "bfloat16"
    assert rows["fp4", "projections", "loaded_dtype"] == "float16"
    assert rows["nf4", "projections", "compute_dtype"] == rows["nf4", "others", "dtype"] == "float32"
    per_block = 64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 96
    assert int(rows["nf4", "projections", "parameters"]) == 4 * per_block
    assert int(rows["nf4", "projections", "bytes"]) == 4 * per_block // 2


def test_the_wrong_type_is_refused(tiny_quantized: Path) -> None:
    with pytest.raises(CheckFailed, match=r"expected 28 projections of type nf4, got 28 of fp4"):
        four_bit.inspect(tiny_quantized / "fp4", "nf4")


def test_gradients_survive_an_evaluation_pass(tiny_quantized: Path, params: Params) -> None:
    """On AVX512_BF16 processors a pass without gradients would repack 4-bit weights, after which gradients are None."""
    model = checkpoint.load(tiny_quantized / "nf4")
    assert all(not m.support_avx512bf16_for_cpu for m in model.modules() if isinstance(m, Linear4bit))
    adapted = lora.attach(model, params.lora, blocks=2, seed=0)
    ids = torch.arange(4, 12)[None, :]
    with torch.no_grad():
        adapted.eval()(ids)
    adapted.train()(ids).logits.float().sum().backward()
    gradients = [parameter.grad for name, parameter in adapted.named_parameters() if "lora_B" in name]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_unpacked_once_computes_the_same_bits(tiny_quantized: Path, params: Params, kind: str) -> None:
    """Every logit, and every gradient of an adapter around the projections, as with the packed weights."""
    found = []
    for unpack in (False, True):
        adapted = lora.attach(checkpoint.load(tiny_quantized / kind), params.lora, blocks=2, seed=0).eval()
        if unpack:
            checkpoint.dequantize(adapted)
        logits = adapted(torch.arange(4, 28).reshape(3, 8)).logits
        logits.float().square().sum().backward()
        found.append((logits, [p.grad for p in adapted.parameters() if p.requires_grad], adapted))
    (packed, expected, _), (dense, gradients, unpacked) = found
    assert not any(isinstance(module, Linear4bit) for module in unpacked.modules())
    assert torch.equal(packed, dense)
    assert len(gradients) == 8
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_unpacking_is_one_product_rounded_once(kind: str, dtype: torch.dtype) -> None:
    """Whichever way bitsandbytes takes on this processor: both have only one product and one rounding to get wrong."""
    torch.manual_seed(0)
    weight = torch.randn(128, 256) * torch.logspace(-4, 1, 128)[:, None]
    packed, state = quantize_4bit(weight, blocksize=64, quant_type=kind)
    state.dtype = dtype
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten().long()
    expected = (state.code[codes].reshape(-1, 64) * state.absmax[:, None]).to(dtype).reshape(weight.shape)
    assert torch.equal(dequantize_4bit(packed, state), expected)


@pytest.mark.parametrize("double_quant", [False, True])
def test_unpacking_knows_packed_scales_and_biases(double_quant: bool) -> None:
    torch.manual_seed(0)
    packed = Linear4bit(64, 32, compute_dtype=torch.bfloat16, compress_statistics=double_quant, quant_type="nf4")
    model = torch.nn.Sequential(packed.to("cpu"))
    checkpoint.disable_repacking(model)
    x = torch.randn(5, 64, dtype=torch.float16)
    expected = model(x)
    checkpoint.dequantize(model)
    assert torch.equal(model(x), expected)
    assert type(model[0]) is checkpoint.Dequantized


def test_no_checkpoint_is_one_clear_line(tmp_path: Path, params: Params) -> None:
    with pytest.raises(UserError, match="expected a checkpoint in safetensors files, found none"):
        quantize.run(tmp_path, tmp_path / "out", tmp_path / "rows.tsv", params.quantize, params.active.compute.dtype)
    assert list(tmp_path.iterdir()) == []


def test_a_classifier_s_checkpoint_with_an_old_index_loads_whole(
    tiny_base: Path, tmp_path: Path, params: Params
) -> None:
    """The published model's defect: architecture and index of a classifier, the head in a shard all the same."""
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    config = read_json(base / "config.json") | {"architectures": ["LlamaForSequenceClassification"]}
    write_json(base / "config.json", config)
    tensors = load_file(base / "model.safetensors")
    save_file(tensors | {"score.weight": torch.zeros(2, 64)}, base / "model.safetensors", metadata={"format": "pt"})
    listed = dict.fromkeys([name for name in tensors if name != "lm_head.weight"], "model.safetensors")
    write_json(base / "model.safetensors.index.json", {"metadata": {}, "weight_map": listed})
    four_bit.write_checkpoint(base, tmp_path / "nf4", "nf4", params.quantize.nf4, "bfloat16")
    checkpoint.require_head(tmp_path / "nf4")
    model = checkpoint.load(tmp_path / "nf4")
    assert type(model) is LlamaForCausalLM
    assert torch.equal(model.lm_head.weight, tensors["lm_head.weight"].to(torch.bfloat16))


def test_no_head_means_no_score(tiny_base: Path, tmp_path: Path, params: Params) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    tensors = load_file(base / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    quantize.run(base, tmp_path / "q", tmp_path / "rows.tsv", params.quantize, params.active.compute.dtype)
    folder = tmp_path / "q" / "nf4"
    with pytest.raises(UserError, match=r"expected lm_head\.weight.*set model\.head_from"):
        checkpoint.require_head(folder)
    model = checkpoint.load(folder)
    backbone.forward(model, torch.tensor([[1, 5]]), lambda _name, _state: None)
    with pytest.raises(UserError, match="holds no lm_head"):
        model(torch.tensor([[1, 5]]))
    assert "head\t-\tmodel" not in (tmp_path / "rows.tsv").read_text()
    assert "\tmodel\t-\thead\tabsent\n" in (tmp_path / "rows.tsv").read_text()


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.q_proj.weight", "model.norm.weight"])
def test_any_other_missing_tensor_is_refused(tiny_base: Path, tmp_path: Path, params: Params, name: str) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    tensors = load_file(base / "model.safetensors")
    del tensors[name]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"{re.escape(name)}"):
        quantize.run(base, tmp_path / "q", tmp_path / "rows.tsv", params.quantize, params.active.compute.dtype)
    assert not (tmp_path / "q").exists()


def test_another_architecture_with_llama_s_module_names(tmp_path: Path, params: Params) -> None:
    """Qwen2: biases on q, k and v, and the head tied to the embeddings, which is no missing head."""
    config = Qwen2Config(
        vocab_size=160,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "base")
    quantize.run(tmp_path / "base", tmp_path / "q", tmp_path / "rows.tsv", params.quantize, params.active.compute.dtype)
    folder = tmp_path / "q" / "nf4"
    checkpoint.require_head(folder)
    ids = torch.tensor([[5, 9, 23]])
    whole, cut = checkpoint.load(folder), checkpoint.load(folder, blocks=2)
    assert type(whole) is Qwen2ForCausalLM
    assert whole.lm_head.weight.data_ptr() == whole.model.embed_tokens.weight.data_ptr()
    with torch.no_grad():
        expected = whole(ids, output_hidden_states=True).hidden_states[2]
        seen: dict[str, torch.Tensor] = {}
        backbone.forward(cut, ids, seen.__setitem__)
    assert torch.equal(seen["2"], expected)


@pytest.mark.parametrize("shape", [(64, 64), (256, 64), (700, 192), (1000, 4096)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [False, True])
def test_a_matrix_packed_in_parts_is_bitsandbytes_own_on_any_threads(
    tmp_path: Path, shape: tuple[int, int], dtype: torch.dtype, kind: str, double_quant: bool
) -> None:
    """The largest is four parts of 256 rows, and its scales are enough for two threads to share their mean."""
    name, compute = "model.layers.0.mlp.up_proj.weight", "bfloat16"
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_file({name: weight}, tmp_path / "model.safetensors")
    info = shards.headers(tmp_path)[name]
    packed, state = quantize_4bit(weight.half(), quant_type=kind, compress_statistics=double_quant)
    state.dtype = getattr(torch, compute)
    expected = {name: packed} | {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}
    settings = FourBit(load_dtype="float16", double_quant=double_quant)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            found = four_bit._stored(name, info, kind, settings, compute)
        finally:
            torch.set_num_threads(1)
        assert list(found) == list(expected) == list(four_bit._stored_keys(name, kind, settings, compute))
        assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("after", [0, 1, 5, 6, 9, 12])
def test_a_run_that_is_cut_off_goes_on_where_it_was(
    tiny_base: Path, tiny_quantized: Path, tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Six shards of each kind; the run is cut off before it writes the next one, or (12) as it reads what it wrote."""
    out, rows, written = tmp_path / "q", tmp_path / "rows.tsv", list[Path]()
    save, inspect = four_bit.save_file, four_bit.inspect

    def save_until(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(path)
        save(tensors, path, metadata=metadata)

    def inspect_until(folder: Path, kind: str) -> list[Row]:
        if len(written) == after and kind == "fp4":
            raise KeyboardInterrupt
        return inspect(folder, kind)

    monkeypatch.setattr(four_bit, "save_file", save_until)
    monkeypatch.setattr(quantize, "inspect", inspect_until)
    with pytest.raises(KeyboardInterrupt):
        quantize.run(tiny_base, out, rows, params.quantize, params.active.compute.dtype)
    assert [path.name for path in tmp_path.iterdir()] == [".kept"]
    after = 99
    quantize.run(tiny_base, out, rows, params.quantize, params.active.compute.dtype)
    assert len(written) == 12, "a shard was written twice"
    assert manifest_of(out) == manifest_of(tiny_quantized)
    assert rows.read_bytes() == (tiny_quantized.parent / "rows.tsv").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"q", "rows.tsv"}
