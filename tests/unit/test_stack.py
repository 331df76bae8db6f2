"""Adapters side by side: alone each is PEFT's own run bit for bit, together each is what it is alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from peft import get_peft_model_state_dict
from torch import Tensor, nn

import peft_run
from tli.config.parameters import Params
from tli.data.words.lexicon import Pair
from tli.model import checkpoint, lora
from tli.model.batched_lora import Batch, LoraProducts, StepInputs, batched_lora
from tli.training import loop

# What together and alone may differ by. Nothing where a row of W x is the same bits whatever rows stand beside it, as
# measured (docs/decisions/training.md); but no library promises that, and a bfloat16 state may round the other way.
LOSS, WEIGHTS = 1e-3, 1e-3


def _params(params: Params, **changes: object) -> Params:
    """Nine steps at rates that move everything, and `changes` by dotted key."""
    update: dict[str, dict[str, object]] = {
        "train": {"lr": 5e-3, "epochs": 3, "batch_size": 5, "warmup_steps": 1, "weight_decay": 0.1},
        "lora": {},
    }
    for key, value in changes.items():
        section, name = key.split("_", 1)
        update[section][name] = value
    return params.model_copy(
        update={section: getattr(params, section).model_copy(update=values) for section, values in update.items()}
    )


def _train(
    folder: Path, pairs: list[Pair], params: Params, seeds: list[int], unpack: bool = True
) -> tuple[list[loop.TrainingLog], list[dict[str, Tensor]]]:
    model, blocks = checkpoint.load(folder, blocks=params.adapted_blocks), params.adapted_blocks
    if unpack:
        checkpoint.dequantize(model)
    with batched_lora(model, params.lora, blocks, seeds, params.train.layer) as adapters:
        trained = loop.train(adapters, checkpoint.tokenizer(folder), pairs, params.train)
    return trained, [adapters.tensors(adapter) for adapter in range(len(seeds))]


CASES: dict[str, dict[str, object]] = {
    "the paper's configuration": {},
    "rank 1": {"lora_rank": 1, "lora_scaling": "fixed32"},
    "rank 32": {"lora_rank": 32, "lora_scaling": "rslora"},
    "four projections": {"lora_targets": ("q_proj", "k_proj", "v_proj", "o_proj")},
    "no dropout": {"lora_dropout": 0.0},
    "all blocks": {"lora_blocks": "all"},
    "layer 1": {"train_layer": 1},
    "last layer": {"train_layer": 4},
    "content pooling": {"train_pooling": "content"},
    "shuffled pairs": {"train_pairs": "shuffled"},
    "duplicates masked": {"train_mask_duplicates": True},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
@pytest.mark.parametrize("weights", ["dequantized", "packed"])
def test_one_adapter_is_pefts_run_bit_for_bit(
    tiny: SimpleNamespace, pairs: list[Pair], params: Params, changes: dict[str, object], weights: str
) -> None:
    """Every loss, every gradient norm and the adapter equal those of PEFT on the whole 4-bit model."""
    twice = [pair._replace(english="dog") if i < 4 else pair for i, pair in enumerate(pairs[:13])]
    changed = _params(params, **changes)
    (trained,), (adapter,) = _train(tiny.folder, twice, changed, [3], unpack=weights == "dequantized")
    plain = peft_run.run(tiny.folder, twice, changed.lora, changed.train, changed.adapted_blocks, seed=3)
    assert [step.loss for step in trained.steps] == plain.losses
    assert [step.gradient_norm for step in trained.steps] == pytest.approx(plain.gradients, rel=1e-6)
    assert adapter.keys() == plain.adapter.keys()
    assert all(torch.equal(adapter[name], plain.adapter[name]) for name in adapter)
    assert trained.parameters == sum(tensor.numel() for tensor in adapter.values())


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_together_each_adapter_is_what_it_is_alone(
    tiny: SimpleNamespace, pairs: list[Pair], params: Params, changes: dict[str, object]
) -> None:
    changed, seeds = _params(params, **changes), [0, 1, 2, 3, 4]
    together, adapters = _train(tiny.folder, pairs[:13], changed, seeds)
    assert len({run.steps[0].loss for run in together}) == len(seeds)
    for seed, run, adapter in zip(seeds, together, adapters, strict=True):
        (alone,), (expected,) = _train(tiny.folder, pairs[:13], changed, [seed])
        for step, other in zip(run.steps, alone.steps, strict=True):
            assert step == pytest.approx(other, rel=1e-3, abs=LOSS)
        for name, tensor in adapter.items():
            assert float((tensor - expected[name]).norm()) <= WEIGHTS * float(expected[name].norm()), name


def test_adapters_do_not_touch_one_another(tiny: SimpleNamespace, pairs: list[Pair], params: Params) -> None:
    """Three times one adapter's A: its own run is another, the runs beside it are the same to the last bit."""
    changed, found = _params(params), []
    for factor in (1.0, 3.0):
        with batched_lora(tiny.model, changed.lora, 2, [0, 1, 2], last_block=2) as adapters:
            with torch.no_grad():
                for layer in adapters.layers.values():
                    layer.a[1] *= factor
            runs = loop.train(adapters, tiny.tokenizer, pairs, changed.train)
        found.append([(run, adapters.tensors(adapter)) for adapter, run in enumerate(runs)])
    for adapter, ((run, tensors), (other, moved)) in enumerate(zip(*found, strict=True)):
        assert (run == other) == (adapter != 1)
        assert all(torch.equal(tensors[name], moved[name]) == (adapter != 1) for name in tensors)


def test_adapters_start_as_peft_draws_them(tiny: SimpleNamespace, params: Params) -> None:
    seeds = [0, 5]
    with batched_lora(tiny.model, params.lora, 4, seeds, last_block=2) as adapters:
        started = [adapters.tensors(adapter) for adapter in range(2)]
    for seed, tensors in zip(seeds, started, strict=True):
        drawn = get_peft_model_state_dict(lora.attach(checkpoint.load(tiny.folder), params.lora, 4, seed))
        assert tensors.keys() == drawn.keys()
        assert all(torch.equal(tensors[name], drawn[name]) for name in drawn)


def test_the_model_comes_back_as_it_was(tiny: SimpleNamespace, pairs: list[Pair], params: Params) -> None:
    ids = torch.arange(4, 28).reshape(3, 8)
    before, modules = tiny.model(ids).logits, [(name, id(module)) for name, module in tiny.model.named_modules()]
    with batched_lora(tiny.model, params.lora, 4, [0, 1], last_block=2) as adapters:
        loop.train(adapters, tiny.tokenizer, pairs, params.train)
    assert [(name, id(module)) for name, module in tiny.model.named_modules()] == modules
    assert torch.equal(tiny.model(ids).logits, before)


LENGTHS = st.lists(st.integers(1, 9), min_size=2, max_size=3)  # of an adapter's sequences


def _batch(lengths: list[int]) -> Batch:
    real = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return Batch(real.long(), real.flatten().nonzero()[:, 0])


@pytest.mark.parametrize("device", ["cpu", "meta"])
@given(st.floats(0.01, 0.9), st.integers(0, 99), st.lists(st.tuples(LENGTHS, LENGTHS), min_size=1, max_size=4))
def test_masks_are_those_of_dropout(
    device: str, rate: float, seed: int, lengths: list[tuple[list[int], list[int]]]
) -> None:
    """Each adapter's masks are nn.Dropout's under its seed, layer after layer and step after step, whatever the other
    draws, padding in; drawn ahead, too, as for any device but the processor.
    """
    step, batches = StepInputs(rate, [seed, seed + 1]), [[*map(_batch, own)] for own in lengths]
    found = []
    for number, own in enumerate(batches):
        step.begin(own, *batches[number + 1 : number + 2], device=torch.device(device))
        found.append([step.masks(width, torch.device("cpu")) for width in (33, 5, 33)])
    step.close()
    assert bool(step._drawn) == (device != "cpu" and len(batches) > 1)
    for k in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + k)
            for own, layers in zip(batches, found, strict=True):
                for width, masks in zip((33, 5, 33), layers, strict=True):
                    assert masks is not None
                    expected = nn.functional.dropout(torch.ones(*own[k].ids.shape, width), rate)
                    assert torch.equal(masks[k], expected.flatten(0, 1))


@hypothesis_settings(max_examples=20)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_products_have_their_gradients(tokens: list[int], rank: int, dropped: bool, seed: int) -> None:
    """Values by the definition, gradients by finite differences, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    n = len(tokens)
    x, a, b = draw(1, sum(tokens), 5), draw(n, rank, 5), draw(n, 4, rank)
    masks = [(draw(count, 5) > 0) * 2.0 for count in tokens] if dropped else None
    out = LoraProducts.apply(x, a, b, 0.5, tokens, masks)
    for k, (own, got) in enumerate(zip(x[0].split(tokens), out[0].split(tokens), strict=True)):
        seen = own if masks is None else own * masks[k]
        torch.testing.assert_close(got, 0.5 * seen @ a[k].T @ b[k].T)
    assert torch.autograd.gradcheck(lambda *given: LoraProducts.apply(*given, 0.5, tokens, masks), (x, a, b))


def test_saved_as_peft_saves_byte_for_byte(tiny: SimpleNamespace, params: Params, tmp_path: Path) -> None:
    adapted = lora.attach(checkpoint.load(tiny.folder, blocks=2), params.lora, 2, seed=1)
    adapted.save_pretrained(str(tmp_path / "peft"))
    lora.write_settings(tmp_path / "peft", base="base")
    for name in ("a", "b"):
        lora.save(get_peft_model_state_dict(adapted), params.lora, 2, tmp_path / name, base="base")
    for file in (lora.WEIGHTS, lora.SETTINGS):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "peft" / file).read_bytes()
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
