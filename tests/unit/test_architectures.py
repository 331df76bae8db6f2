"""The four supported architectures: states, losses, scores, counts are transformers' and PEFT's; others are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from transformers import AutoModelForCausalLM, MistralConfig, PreTrainedModel
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

import peft_run
from tiny import MODEL_TYPES, ROOT, configuration, write_model
from tli.config import parameters
from tli.config.parameters import Params
from tli.data.benchmarks.items import write_items
from tli.data.benchmarks.prompts import Item
from tli.data.words.lexicon import Pair
from tli.io.errors import CheckFailed, UserError
from tli.io.structured import read_json, write_json, write_tsv
from tli.measure import embeddings, scoring
from tli.model import attention_sink, backbone, checkpoint, four_bit, hub, lora, supported
from tli.model.batched_lora import batched_lora, window_mask
from tli.stages import scan
from tli.training import loop

IDS = torch.tensor([[1, 8, 9, 40, 17, 5], [1, 30, 12, 6, 3, 3]])
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.fixture(scope="module", params=MODEL_TYPES)
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, params: Params
) -> SimpleNamespace:
    """A tiny model of each type: its folder in float32, its NF4 cache, the model itself."""
    folder = tmp_path_factory.mktemp(request.param)
    model = write_model(folder / "base", request.param)
    four_bit.write_checkpoint(folder / "base", folder / "nf4", "nf4", params.quantize.nf4, "bfloat16")
    return SimpleNamespace(type=request.param, base=folder / "base", nf4=folder / "nf4", model=model)


def same_shape(params: Params, model: PreTrainedModel) -> Params:
    """`params` with the shape of `model`, as that of a model from the hub."""
    shape = parameters.HubModel(
        source="hub", repo="a/b", revision="first", head_from=None, span=None, **supported.shape(model.config)
    )
    active = params.active.model_copy(update={"model": shape})
    return params.model_copy(update={"profiles": dict.fromkeys(params.profiles, active)})


# Hidden states.


@pytest.mark.parametrize("blocks", [None, 1, 2, 3])
def test_states_of_the_whole_and_of_a_cut_model_are_transformers_own(
    written: SimpleNamespace, blocks: int | None
) -> None:
    """In float32, with the embeddings of the words in use alone: every hidden state is the whole model's."""
    with torch.no_grad():
        expected = written.model(IDS, output_hidden_states=True).hidden_states
    model = checkpoint.load(written.base, blocks, vocabulary=IDS.flatten().tolist(), head=False)
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        backbone.forward(model, IDS, seen.__setitem__)
    for number in range((blocks or 3) + 1):
        assert torch.equal(seen[str(number)], expected[number]), number
    if blocks is None:
        assert torch.equal(seen["norm"], expected[-1])
    for layer, (states,) in backbone.run_by_block(model, [IDS]):
        torch.testing.assert_close(states, seen[layer], rtol=1e-5, atol=1e-5)


def test_words_that_share_a_beginning_keep_their_states(written: SimpleNamespace) -> None:
    """`run` shares beginnings between words, also past the window of Gemma 3 and Qwen2."""
    sequences = [[1, 8, 9, 40, 17, 5], [1, 8, 9, 7], [1, 8], [1, 30, 9, 40, 5]]
    ids, real = backbone.pad(sequences, 3)
    with torch.no_grad():
        expected = written.model(ids, output_hidden_states=True).hidden_states
    states = dict(backbone.run_by_block(checkpoint.load(written.base), [ids], [real]))
    for number, name in enumerate(["0", "1", "2", "3", "norm"]):
        torch.testing.assert_close(states[name][0][real], expected[number][real], rtol=1e-5, atol=1e-5)


def test_the_rows_of_the_embeddings_have_the_models_scale(written: SimpleNamespace) -> None:
    for vocabulary in (None, IDS.flatten().tolist()):
        table = checkpoint.load(written.base, vocabulary=vocabulary).model.embed_tokens
        expected = written.model.model.embed_tokens(IDS)
        assert torch.equal(checkpoint.embedding_rows(table, IDS), expected)
        assert torch.equal(table(IDS), expected)
    plain = written.model.model.embed_tokens.weight[IDS]
    assert (written.type == "gemma3_text") != torch.equal(plain, expected)


def test_the_scan_reads_the_loaded_model_as_it_is(written: SimpleNamespace, pairs: list[Pair]) -> None:
    model, tokenizer = checkpoint.load(written.nf4), checkpoint.tokenizer(written.nf4)
    words = [pair.english for pair in pairs]
    rows = scan.evidence(model, tokenizer, words, 8, embeddings.embed(model, tokenizer, words, 8))
    evidence = {row.measure: row.value for row in rows}
    rope = "full_attention default, sliding_attention default" if written.type == "gemma3_text" else "default"
    assert evidence.pop("architecture") == f"{written.type}, rope {rope}"
    assert (evidence.pop("hidden_states"), evidence.pop("final_hidden_state")) == (5, 4)
    assert "no" not in evidence.values(), evidence


# Training.


@pytest.mark.parametrize("layer", [2, 3])
def test_training_is_pefts_own_run(written: SimpleNamespace, pairs: list[Pair], params: Params, layer: int) -> None:
    """All four projections, all blocks up to the layer: every loss, gradient norm and tensor, in bfloat16."""
    settings = params.train.model_copy(
        update={"layer": layer, "lr": 5e-3, "epochs": 2, "batch_size": 5, "warmup_steps": 1, "weight_decay": 0.1}
    )
    rank = params.lora.model_copy(update={"targets": TARGETS, "rank": 4})
    model = checkpoint.load(written.nf4, layer)
    checkpoint.dequantize(model)
    with batched_lora(model, rank, layer, [3], layer) as adapters:
        (trained,) = loop.train(adapters, checkpoint.tokenizer(written.nf4), pairs[:13], settings)
        adapter = adapters.tensors(0)
    expected = peft_run.run(written.nf4, pairs[:13], rank, settings, layer, seed=3)
    assert [step.loss for step in trained.steps] == expected.losses
    assert [step.gradient_norm for step in trained.steps] == pytest.approx(expected.gradients, rel=1e-6)
    assert adapter.keys() == expected.adapter.keys()
    assert all(torch.equal(adapter[name], expected.adapter[name]) for name in adapter)


@pytest.mark.parametrize(("length", "window"), [(3, None), (3, 4), (3, 3), (6, 3), (6, 1)])
def test_the_window_is_the_one_of_transformers(length: int, window: int | None) -> None:
    from transformers.masking_utils import create_sliding_window_causal_mask

    mask = window_mask(length, window, torch.device("cpu"))
    if window is None:
        assert mask is None
        return
    config = configuration("gemma3_text", sliding_window=window)
    config._attn_implementation = "sdpa"
    expected = create_sliding_window_causal_mask(
        config=config, inputs_embeds=torch.zeros(1, length, 64), attention_mask=None, past_key_values=None
    )
    assert (mask is None) == (expected is None)
    assert mask is None or torch.equal(mask, expected)


# Scores.


def test_scores_are_those_of_transformers_logits(tmp_path: Path, written: SimpleNamespace) -> None:
    """Within the window of Gemma 3 and Qwen2; past it scoring is refused, see below."""
    changes = {} if written.model.config.to_dict().get("sliding_window") is None else {"sliding_window": 64}
    expected_model = write_model(tmp_path, written.type, **changes)
    tokenizer = checkpoint.tokenizer(tmp_path)
    items = [
        Item(str(number), "xcopa", "en", "test", number % 3, f"{context} is", (" here", " right", " the dog"))
        for number, context in enumerate(("the dog", "the cat", "mbwa", "the book"))
    ]
    exam = scoring.prepare(items, tokenizer, 64)
    scores = iter(scoring.log_likelihoods(checkpoint.load(tmp_path), exam.batches))
    for item in items:
        for option in item.options:
            request = tokenizer(item.context + option, return_tensors="pt").input_ids
            start = len(tokenizer(item.context).input_ids)
            with torch.no_grad():
                logits = torch.log_softmax(expected_model(request).logits[0].float(), dim=-1)
            chosen = logits[range(start - 1, request.shape[1] - 1), request[0, start:]]
            assert next(scores) == pytest.approx(float(chosen.double().sum()), rel=1e-5)


@pytest.mark.parametrize("model_type", ["qwen2", "gemma3_text"])
def test_an_item_past_the_window_is_refused(tmp_path: Path, model_type: str) -> None:
    write_model(tmp_path, model_type)
    item = Item("0", "xcopa", "en", "test", 0, "the dog is here , the cat is", (" here", " right"))
    exam = scoring.prepare([item], checkpoint.tokenizer(tmp_path), 64)
    with pytest.raises(CheckFailed, match="attention window of 3 tokens"):
        scoring.log_likelihoods(checkpoint.load(tmp_path), exam.batches)


def test_the_bos_regime_is_refused_where_its_neurons_would_not_fit(
    tmp_path: Path, pairs: list[Pair], params: Params
) -> None:
    write_model(tmp_path / "base", "gemma3_text", intermediate_size=128)
    four_bit.write_checkpoint(tmp_path / "base", tmp_path / "nf4", "nf4", params.quantize.nf4, "bfloat16")
    write_tsv(tmp_path / "pairs.tsv", Pair._fields, pairs)
    write_items(tmp_path / "items.jsonl", [Item("0", "xcopa", "en", "test", 0, "the dog", (" here", " right"))])
    with pytest.raises(UserError, match=r"config\.json: hidden_act: expected silu, .*, got None; choose"):
        attention_sink.run(
            tmp_path / "base",
            tmp_path,
            tmp_path / "pairs.tsv",
            tmp_path / "items.jsonl",
            tmp_path / "out",
            tmp_path / "rows.tsv",
            params,
        )


# Counts.


def test_counts_are_pefts(written: SimpleNamespace, params: Params) -> None:
    """The adapter's size on any targets, and each projection's own width: r over it is what the tables show."""
    shaped = same_shape(params, written.model)
    attention = checkpoint.load(written.nf4).model.layers[0].self_attn
    for target in TARGETS:
        module = getattr(attention, target)
        assert shaped.widths(target) == (module.in_features, module.out_features), target
    for targets in (("q_proj", "v_proj"), ("o_proj",), TARGETS):
        rank = params.lora.model_copy(update={"targets": targets, "rank": 8})
        adapted = lora.attach(checkpoint.load(written.nf4), rank, 2, seed=0)
        expected = sum(tensor.numel() for tensor in get_peft_model_state_dict(adapted).values())
        assert lora.parameter_count(shaped.model_copy(update={"lora": rank}), 2) == expected, targets


QWEN3 = {"blocks": 4, "hidden_size": 64, "intermediate_size": 96, "heads": 4, "kv_heads": 2, "vocab_size": 160}


def load_shape(head_dim: int, **changes: object) -> Params:
    """The committed parameters of a whole model from the hub, in another shape."""
    path = ROOT / "params.yaml"
    profiles = parameters.load(path).profiles.items()
    name = next(name for name, one in profiles if one.model.source == "hub" and one.model.whole)
    prefix = f"profiles.{name}.model."
    shape = {f"{prefix}{key}": value for key, value in (QWEN3 | {"head_dim": head_dim}).items()}
    return parameters.load(path, {"sink.layer": 2} | shape | changes, model=name)


@pytest.mark.parametrize(
    ("head_dim", "targets", "highest"),
    [(32, ["q_proj", "v_proj"], 64), (32, ["q_proj"], 64), (32, ["o_proj"], 64), (16, ["q_proj", "v_proj"], 32)],
)
def test_a_rank_is_accepted_up_to_the_smallest_true_width(head_dim: int, targets: list[str], highest: int) -> None:
    given = {"lora.targets": targets, "sweep.ranks": [1, highest]}
    loaded = load_shape(head_dim, **{"lora.rank": highest, **given})
    assert loaded.highest_rank == loaded.lora.rank == highest
    if "v_proj" in targets:
        assert loaded.lora.rank / min(loaded.widths("v_proj")) == 1
    with pytest.raises(UserError, match=f"lora.rank: expected at most {highest} "):
        load_shape(head_dim, **{"lora.rank": highest + 1, **given})


def test_widths_that_four_bit_layers_cannot_have_are_refused() -> None:
    with pytest.raises(UserError, match=r"heads x head_dim and kv_heads x head_dim multiples of 32, .*head_dim 8"):
        load_shape(8)


# What is refused before a weight is fetched.


def refused(folder: Path, **changes: Any) -> str:
    path = folder / "config.json"
    write_json(path, read_json(path) | changes)
    with pytest.raises(UserError) as raised:
        hub.prepare(folder, "models/a/b@1/config.json")
    line = raised.value.format_message()
    assert "\n" not in line
    assert raised.value.exit_code == 2
    with pytest.raises(UserError, match=re.escape(line.split("config.json: ")[1].split(":")[0])):
        checkpoint.load(folder)
    return line


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    """Mistral has Llama's module names and would be read; it is refused since no test compares it."""
    write_model(tmp_path, "llama")
    MistralConfig(hidden_size=64, num_hidden_layers=4).save_pretrained(tmp_path)
    line = refused(tmp_path)
    assert "config.json: model_type: expected one of llama, qwen2, qwen3, gemma3_text, got 'mistral'; choose" in line


@pytest.mark.parametrize(
    ("key", "value"),
    [("use_bidirectional_attention", True), ("final_logit_softcapping", 30.0), ("attn_logit_softcapping", 50.0)],
)
def test_what_the_cut_model_would_not_follow_is_refused(tmp_path: Path, key: str, value: object) -> None:
    write_model(tmp_path, "gemma3_text")
    assert f"config.json: {key}: expected " in refused(tmp_path, **{key: value})


def test_an_embedding_or_a_buffer_that_would_be_lost_is_refused(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(configuration("llama"))
    supported.check_modules(model, "config.json")
    model.model.layers[1].register_buffer("bias", torch.zeros(1))
    with pytest.raises(UserError, match=r"config\.json: model\.layers\.1\.bias: expected no buffer"):
        supported.check_modules(model, "config.json")
    model = AutoModelForCausalLM.from_config(configuration("llama"))
    model.model.embed_tokens = type("Shifted", (Gemma3TextScaledWordEmbedding,), {})(160, 64, 3)
    with pytest.raises(UserError, match=r"expected an embedding module of .*, got Shifted"):
        supported.check_modules(model, "config.json")


FIELDS = [*supported.shape(configuration("llama"))]


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_the_shape_is_compared(tmp_path: Path, params: Params, field: str) -> None:
    model = write_model(tmp_path, "qwen3")
    shape = same_shape(params, model).active.model
    hub.check_shape(shape, tmp_path, "config.json")
    value = getattr(shape, field)
    other = shape.model_copy(update={field: not value if isinstance(value, bool) else 2 * value})
    line = (
        rf"model\.{field} of the profile: expected {json.dumps(value)}, as in config\.json, got \w+; set the expected"
    )
    with pytest.raises(UserError, match=line):
        hub.prepare(tmp_path, "config.json", other)
    assert set(FIELDS) == parameters.Shape.model_fields.keys()
