"""The paper's cell once more in bfloat16, its compute dtype, beside the run's float32 (stage: bfloat16).

Each product of a projection is taken in float32 of bfloat16 numbers and rounded to bfloat16 after, which is what a
processor with such instructions does but for the order of sums, and is fast on every other. Trained and measured is
what the public scripts read: hidden_states[2], BOS left out of the mean, FP4. Feeds two rows of the table before_after.
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
from tli.measure.views import BASE, Cell, View, main_cell, names
from tli.model import checkpoint, lora
from tli.model.batched_lora import stacked
from tli.training import loop

DTYPE = "bfloat16"


class Rounded(nn.Linear):
    """y = round(W x), the product and its gradient in float32, W, x and y in bfloat16."""

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return nn.functional.linear(x.float(), self.weight, self.bias).to(x.dtype)


def run(pairs_path: Path, quantized: Path, out: Path, params: Params) -> None:
    """The `bfloat16` stage: rows of base and paper's cell in bfloat16, per pair, at the view of the public scripts.

    No rows where the run is in bfloat16 itself, or where the adapter is the author's.
    """
    if params.active.compute.dtype == DTYPE or params.adapter.source == "author":
        return write_rows(out, [])
    pairs = read_pairs(pairs_path)
    view = names(params.active.model.blocks)["as_scripted"]
    blocks = max(int(view.layer), params.adapted_blocks)
    tokenizer = checkpoint.tokenizer(quantized / "nf4")
    vocabulary = embeddings.vocabulary(tokenizer, [form for pair in pairs for form in pair[:2]])

    def loaded(quantization: str) -> PreTrainedModel:
        return checkpoint.load(quantized / quantization, blocks=blocks, vocabulary=vocabulary, head=False, dtype=DTYPE)

    def rows(cell: Cell, model: nn.Module) -> list[Row]:
        return measure(cell, pairs, rounded(model), quantized / "nf4", view, params)

    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        adapter = Path(temporary) / "adapter"
        model = rounded(loaded("nf4"))
        with stacked(model, params.lora, params.adapted_blocks, [params.train.seed], params.train.layer) as stack:
            loop.train(stack, tokenizer, [pair for pair in pairs if pair.set == "trained"], params.train)
            lora.save(stack.tensors(0), params.lora, params.adapted_blocks, adapter, (quantized / "nf4").as_posix())
        base = rows(_named(BASE), loaded(view.quantization))
        main = main_cell(*lora.scaling_and_rank(adapter), params.train.seed)
        tuned = rows(_named(main), lora.load(loaded(view.quantization), adapter, merge=True))
    write_rows(out, [*base, *tuned])


def measure(cell: Cell, pairs: Sequence[Pair], model: nn.Module, folder: Path, view: View, params: Params) -> list[Row]:
    """cosine and random_cosine of each pair at `view`."""
    tokenizer, size = checkpoint.tokenizer(folder), params.active.compute.batch_size
    swahili, english = (embeddings.embed(model, tokenizer, [pair[side] for pair in pairs], size) for side in (0, 1))
    return [*pair_rows.each_pair(cell, pairs, swahili, english, [view])]


def rounded(model: nn.Module) -> PreTrainedModel:
    """`model`, its 4-bit projections unpacked and their products taken as `Rounded` takes them; changed in place."""
    inner: PreTrainedModel = model  # type: ignore[assignment]
    checkpoint.dequantized(inner)
    for name, module in [*inner.named_modules()]:
        if isinstance(module, checkpoint.Dequantized):
            product = Rounded(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
            product.weight = nn.Parameter(module.weight.float(), requires_grad=False)
            if module.bias is not None:
                product.bias = nn.Parameter(module.bias.float(), requires_grad=False)
            inner.set_submodule(name, product)
    return inner


def _named(cell: Cell) -> Cell:
    return cell._replace(cell=f"{cell.cell}-{DTYPE}")
