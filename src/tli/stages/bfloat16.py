"""Stage `bfloat16`: trains and measures the paper's configuration in bfloat16, the paper's compute dtype.

    y = round(W x),    W, x and y in bfloat16, the product in float32

This is what a processor with bfloat16 instructions computes, except for the order of sums, and it is fast on other
processors too. The other rows of a run are in float32.

Inputs: word pairs, the 4-bit checkpoints.
Output: rows of the runs `base-bfloat16` and `main-bfloat16`; sets trained and control; one view, that of the public
scripts (hidden_states[2], without BOS, FP4); measures cosine and random_cosine (measure/pair_rows.py).

Used by: two rows of the table `before_after`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from tli.config.parameters import Params
from tli.data.words.lexicon import Pair, read_pairs
from tli.io.rows import Row, write_rows
from tli.measure import embeddings, pair_rows
from tli.measure.views import BASE, RunId, View, main_run, names
from tli.model import checkpoint, lora
from tli.model.batched_lora import batched_lora
from tli.training import loop

DTYPE = "bfloat16"


class RoundedLinear(nn.Linear):
    """y = round(W x): the product and its gradient in float32; W, x and y are bfloat16 numbers."""

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return nn.functional.linear(x.float(), self.weight, self.bias).to(x.dtype)


def run(pairs_path: Path, quantized: Path, out: Path, params: Params) -> None:
    """Writes rows of each pair, for the base and for an adapter trained here, both in bfloat16.

    There are no rows if the run itself is in bfloat16, or if the adapter is the author's.
    """
    if params.active.compute.dtype == DTYPE or params.adapter.source == "author":
        return write_rows(out, [])
    pairs = read_pairs(pairs_path)
    view = names(params.active.model.blocks)["as_scripted"]
    blocks = max(int(view.layer), params.adapted_blocks)
    tokenizer = checkpoint.tokenizer(quantized / "nf4")
    vocabulary = embeddings.vocabulary(tokenizer, [form for pair in pairs for form in pair[:2]])

    def load(quantization: str) -> PreTrainedModel:
        return checkpoint.load(quantized / quantization, blocks=blocks, vocabulary=vocabulary, head=False, dtype=DTYPE)

    def rows(run_id: RunId, model: nn.Module) -> list[Row]:
        return measure(run_id, pairs, round_products(model), quantized / "nf4", view, params)

    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        adapter = Path(temporary) / "adapter"
        model = round_products(load("nf4"))
        with batched_lora(
            model, params.lora, params.adapted_blocks, [params.train.seed], params.train.layer
        ) as adapters:
            loop.train(adapters, tokenizer, [pair for pair in pairs if pair.set == "trained"], params.train)
            lora.save(adapters.tensors(0), params.lora, params.adapted_blocks, adapter, (quantized / "nf4").as_posix())
        base_rows = rows(_named_run(BASE), load(view.quantization))
        run_id = main_run(*lora.scaling_and_rank(adapter), params.train.seed)
        adapted_rows = rows(_named_run(run_id), lora.load(load(view.quantization), adapter, merge=True))
    write_rows(out, [*base_rows, *adapted_rows])


def measure(
    run_id: RunId, pairs: Sequence[Pair], model: nn.Module, folder: Path, view: View, params: Params
) -> list[Row]:
    """`cosine` and `random_cosine` of each pair at `view`."""
    tokenizer, size = checkpoint.tokenizer(folder), params.active.compute.batch_size
    swahili, english = (embeddings.embed(model, tokenizer, [pair[side] for pair in pairs], size) for side in (0, 1))
    return [*pair_rows.pair_cosine_rows(run_id, pairs, swahili, english, [view])]


def round_products(model: nn.Module) -> PreTrainedModel:
    """Replaces the 4-bit projections of `model`, in place, by `RoundedLinear` with the dequantised weights."""
    language_model: PreTrainedModel = model  # type: ignore[assignment]
    checkpoint.dequantize(language_model)
    for name, module in [*language_model.named_modules()]:
        if isinstance(module, checkpoint.Dequantized):
            rounded = RoundedLinear(
                module.in_features, module.out_features, bias=module.bias is not None, device="meta"
            )
            rounded.weight = nn.Parameter(module.weight.float(), requires_grad=False)
            if module.bias is not None:
                rounded.bias = nn.Parameter(module.bias.float(), requires_grad=False)
            language_model.set_submodule(name, rounded)
    return language_model


def _named_run(run_id: RunId) -> RunId:
    return run_id._replace(run=f"{run_id.run}-{DTYPE}")
