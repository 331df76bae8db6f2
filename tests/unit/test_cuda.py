"""The same on a GPU, where there is one: what is packed, unpacked, streamed, trained and scored there.

Skipped on a machine without one. What is compared with the processor's may differ by rounding, and by no more than the
processor's own batches do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from torch import Tensor

from tli.config.parameters import Params
from tli.data.words.lexicon import Pair
from tli.measure import embeddings, scoring
from tli.measure.scoring import Request
from tli.model import backbone, checkpoint
from tli.model.batched_lora import batched_lora
from tli.training import loop

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as every stage sets it (tli.cli)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

WORDS = ["mbwa", "kusoma", "jua", "hospitali", "mwalimu", "mbwa mwalimu", "a"]
LOGITS = 0.25  # nats: a bfloat16 state a last digit off, times a head drawn at 0.2
STATES = 2**-7  # of a state's length: bfloat16's last digit, after four blocks that were drawn large


@pytest.fixture
def gpu() -> Iterator[None]:
    backbone.setup(threads=1, device="cuda")
    yield
    backbone.setup(threads=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_packs_alike_there_but_for_weights_as_near_to_two_numbers(kind: str, dtype: torch.dtype) -> None:
    """Why a stage packs on the processor always: of a tie the GPU takes the other number, now and then.

    In NF4, from 16 bits, there is none in four million, and the bytes differ only where a whole chunk is zero, which
    the GPU packs as another code for the same number.
    """
    weight = torch.randn(1024, 4096, generator=torch.Generator().manual_seed(0)).mul_(0.02)
    weight[0], weight[1], weight[2] = 0, weight[1] * 1e-4, weight[2] * 1e4
    weight = weight.to(dtype)
    here, own = quantize_4bit(weight, quant_type=kind)
    there, state = quantize_4bit(weight.cuda(), quant_type=kind)
    assert torch.equal(state.absmax.cpu(), own.absmax)
    if kind == "nf4" and dtype != torch.float32:
        chunk = own.absmax.repeat_interleave(32)[:, None]  # 64 codes, two a byte
        assert torch.equal(there.cpu()[chunk > 0], here[chunk > 0])
    own.dtype = state.dtype = torch.float32
    ours, theirs = dequantize_4bit(here, own), dequantize_4bit(there, state).cpu()
    apart = (ours != theirs).nonzero(as_tuple=True)
    scale = own.absmax.repeat_interleave(64).view_as(ours)[apart]
    exact, mine, other = weight.float()[apart], ours[apart], theirs[apart]
    assert ((((exact - mine).abs() - (exact - other).abs()) / scale).abs() < 1e-6).all()
    assert len(exact) < weight.numel() / 100


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_the_same_bytes_are_unpacked_there_to_the_same_numbers(kind: str, dtype: torch.dtype) -> None:
    weight = torch.randn(256, 4096, generator=torch.Generator().manual_seed(0))
    codes, state = quantize_4bit(weight, quant_type=kind)
    _, there = quantize_4bit(weight.cuda(), quant_type=kind)
    state.dtype = there.dtype = dtype
    assert torch.equal(dequantize_4bit(codes.cuda(), there).cpu(), dequantize_4bit(codes, state))


@pytest.mark.usefixtures("gpu")
def test_streamed_resident_packed_and_unpacked_agree_bit_for_bit(tiny_quantized: Path) -> None:
    folder = tiny_quantized / "nf4"
    tokenizer = checkpoint.tokenizer(folder)
    resident = embeddings.embed(checkpoint.load(folder), tokenizer, WORDS, batch_size=4)
    for settings in ({"weights": "dequantized"}, {"resident": 0}, {"weights": "dequantized", "resident": 0}):
        other = embeddings.embed(checkpoint.load(folder, **settings), tokenizer, WORDS, batch_size=4)  # type: ignore[arg-type]
        for view, values in resident.pooled.items():
            np.testing.assert_array_equal(other.pooled[view], values)
        assert other[1:] == resident[1:]


@pytest.mark.usefixtures("gpu")
def test_embeddings_are_the_processor_s_but_for_rounding(tiny_quantized: Path) -> None:
    folder = tiny_quantized / "nf4"
    tokenizer = checkpoint.tokenizer(folder)
    there = embeddings.embed(checkpoint.load(folder), tokenizer, WORDS, batch_size=4).pooled
    backbone.setup(threads=1)
    here = embeddings.embed(checkpoint.load(folder), tokenizer, WORDS, batch_size=4).pooled
    for view, values in here.items():
        apart = np.linalg.norm(there[view] - values, axis=1) / np.linalg.norm(values, axis=1)
        assert apart.max() < STATES, view


def _trained(folder: Path, pairs: list[Pair], params: Params) -> tuple[list[float], dict[str, Tensor]]:
    settings = params.train.model_copy(update={"lr": 5e-3, "epochs": 3, "batch_size": 5})
    model = loop.load_frozen(folder, params, pairs)
    with batched_lora(model, params.lora, params.adapted_blocks, [0, 1], settings.layer) as adapters:
        first, _ = loop.train(adapters, checkpoint.tokenizer(folder), pairs, settings)
        return [step.loss for step in first.steps], adapters.tensors(0)


@pytest.mark.usefixtures("gpu")
def test_training_there_is_the_same_twice_and_the_processor_s_but_for_rounding(
    tiny_quantized: Path, pairs: list[Pair], params: Params
) -> None:
    folder = tiny_quantized / "nf4"
    losses, tensors = _trained(folder, pairs, params)
    again, same = _trained(folder, pairs, params)
    assert again == losses
    assert all(torch.equal(same[name], tensor) for name, tensor in tensors.items())
    backbone.setup(threads=1)
    here, _ = _trained(folder, pairs, params)
    assert here[-1] < here[0]
    assert losses == pytest.approx(here, abs=0.02)


@pytest.mark.usefixtures("gpu")
def test_scores_are_the_processor_s_but_for_rounding(tiny_quantized: Path) -> None:
    folder = tiny_quantized / "nf4"
    draw = torch.Generator().manual_seed(0)
    starts = [torch.randint(4, 100, (5,), generator=draw).tolist() for _ in range(4)]
    ends = [torch.randint(4, 100, (3,), generator=draw).tolist() for _ in range(3)]
    planned = scoring.plan([Request([1, *start, *end], 3) for start in starts for end in ends], 3, 6)
    there, again = (scoring.log_likelihoods(checkpoint.load(folder), planned) for _ in range(2))
    assert again == there
    backbone.setup(threads=1)
    here = scoring.log_likelihoods(checkpoint.load(folder), planned)
    assert there == pytest.approx(here, abs=LOGITS)
