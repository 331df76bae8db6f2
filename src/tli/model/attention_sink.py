"""The BOS regime: a base whose BOS state is massive, as in published Llamas, and all else as before (stage: bos).

In Llama-3-8B the first token's state is, from hidden_states[2] on, about 200 times as long as any other, whatever
follows (2402.17762); a small model trained for minutes has nothing of the kind. Here each block l >= `layer` gets one
more MLP neuron, silu(g x) (g x) v with x the block's MLP input, that only BOS excites and that makes the BOS state

    h'_BOS[l] = ratio * c_l * h_BOS[l] / ||h_BOS[l]||,    c_l the mean norm of the other states at layer l.

Its direction stays what it was, so that after the norms in front of attention and head it is the same to every token:
the model remains the function that it was, and what changes is a mean pool that holds BOS. Feeds the controls table.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import silu
from transformers import PreTrainedModel

from tli.config.parameters import Params
from tli.data.benchmarks.items import read_items
from tli.data.words.lexicon import read_pairs
from tli.io.errors import CheckFailed, UserError
from tli.io.files import atomic_dir
from tli.io.rows import Row, write_rows
from tli.io.structured import read_json, write_json
from tli.model import backbone, checkpoint, four_bit

ADDED = 64  # neurons a block, all but one zero: a whole chunk of the 4-bit types, so that no other weight packs anew
QUIET = 24.0  # -g x of the token nearest to BOS: silu there is e^-24 of what it is at BOS
PENALTY = 1e-4  # of ||g||^2, against the mean squared error of one token
STEPS = 50


class Seen(NamedTuple):
    """What a forward pass over all texts gives at one layer: the MLP inputs of its block, and norms.

    `inputs` are those of every token but BOS, `bos` that of BOS, `state` the BOS state after the block, `norm` the mean
    norm of the other states there.
    """

    inputs: Float[Tensor, "token d_model"]
    bos: Float[Tensor, " d_model"]
    state: Float[Tensor, " d_model"]
    norm: float


def run(
    base: Path, quantized: Path, pairs_path: Path, items_path: Path, out: Path, rows_path: Path, params: Params
) -> None:
    """The `bos` stage: the checkpoint `base` with the added neurons in `out`, and what they do as rows.

    Directions are those of the NF4 model in `quantized`, which is what is trained and measured; OUT is quantised again
    by the stage `quantize`. Rows of set `bos`, a layer each: the ratio before and after, g x at BOS (`gate_bos`) and
    the highest of the other tokens (`gate`), and by how much their states change (`leak`, relative L2).
    """
    model = checkpoint.load(quantized / "nf4")
    tokenizer = checkpoint.tokenizer(quantized / "nf4")
    pairs, items = read_pairs(pairs_path), read_items(items_path)
    texts = [pair.swahili for pair in pairs] + [pair.english for pair in pairs]
    texts += [item.context + item.options[0] for item in items]
    sequences = [tokenizer.encode(text) for text in texts]
    if {ids[0] for ids in sequences} != {tokenizer.bos_token_id}:
        raise CheckFailed(f"{base}: expected a tokenizer that puts BOS first; the BOS regime needs one")
    if model.config.intermediate_size % ADDED:
        raise UserError(
            f"params.yaml: intermediate_size of the profile: expected a multiple of {ADDED} for the BOS regime, "
            f"got {model.config.intermediate_size}; set one"
        )
    if (activation := getattr(model.config, "hidden_act", None)) != "silu":  # and Gemma's MLP stands between two norms
        raise UserError(
            f"{base / 'config.json'}: hidden_act: expected silu, which the BOS regime's neurons use, got {activation}; "
            "choose a Llama or a Qwen"
        )
    size, pad = params.active.compute.batch_size, tokenizer.pad_token_id
    seen = look(model, sequences, pad, size)
    weights, gates = edit(load_file(base / "model.safetensors"), model, seen, params.bos.layer, params.bos.ratio)
    with atomic_dir(out) as folder:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config = read_json(base / "config.json", "a model's configuration")
        write_json(folder / "config.json", config | {"intermediate_size": config["intermediate_size"] + ADDED})
        for file in four_bit.TOKENIZER_FILES:
            if (base / file).exists():
                shutil.copy(base / file, folder / file)
        with tempfile.TemporaryDirectory() as temporary:
            four_bit.write_checkpoint(
                folder, Path(temporary) / "nf4", "nf4", params.quantize.nf4, params.active.compute.dtype
            )
            edited = checkpoint.load(Path(temporary) / "nf4")
            after, changed = look(edited, sequences, pad, size), leak(model, edited, sequences, pad, size)
    found: list[Row] = []
    for layer, before in seen.items():
        values = {"ratio_before": float(before.state.norm()) / before.norm, "leak": changed[layer]}
        values["ratio"] = float(after[layer].state.norm()) / after[layer].norm
        values |= dict(zip(("gate_bos", "gate"), gates[layer], strict=True)) if layer in gates else {}
        found += [Row("base", "-", 0, "-", "bos", "-", f"{layer}.-.nf4", key, value) for key, value in values.items()]
    write_rows(rows_path, found)


@torch.no_grad()
def look(model: PreTrainedModel, sequences: Sequence[Sequence[int]], pad_id: int, size: int) -> dict[int, Seen]:
    """Layer i -> what block i sees and gives over all sequences, BOS at the front of each."""
    blocks = backbone.body_of(model).layers
    inputs: dict[int, list[Tensor]] = {}
    norms: dict[int, list[Tensor]] = {}
    bos: dict[int, Tensor] = {}
    states: dict[int, Tensor] = {}
    own = torch.zeros(0, dtype=torch.bool)

    def enter(layer: int) -> Callable[..., None]:
        def call(_module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
            given = arguments[0].float().cpu()
            bos.setdefault(layer, given[0, 0])
            inputs.setdefault(layer, []).append(given[own])

        return call

    def visit(name: str, state: Tensor) -> None:
        if name.isdigit() and name != "0":
            given = state.float().cpu()
            states.setdefault(int(name), given[0, 0])
            norms.setdefault(int(name), []).append(given[own].norm(dim=-1))

    handles = [block.mlp.register_forward_pre_hook(enter(layer)) for layer, block in enumerate(blocks, start=1)]
    try:
        for indices in backbone.batches(sequences, size):
            ids, own = backbone.pad([sequences[index] for index in indices], pad_id)
            own[:, 0] = False
            backbone.forward(model, ids, visit)
    finally:
        for handle in handles:
            handle.remove()
    return {
        layer: Seen(torch.cat(inputs[layer]), bos[layer], states[layer], float(torch.cat(norms[layer]).mean()))
        for layer in states
    }


@torch.no_grad()
def edit(
    weights: dict[str, Tensor], model: PreTrainedModel, seen: dict[int, Seen], first: int, ratio: float
) -> tuple[dict[str, Tensor], dict[int, tuple[float, float]]]:
    """The checkpoint's tensors with the added neurons from layer `first` on, and layer -> g x at BOS, its next highest.

    Raises:
        CheckFailed: at some layer no direction tells BOS from every other token.
    """
    changed = dict(weights)
    gates: dict[int, tuple[float, float]] = {}
    reached = torch.zeros(0)
    for layer, (inputs, bos, state, norm) in seen.items():
        name = f"model.layers.{layer - 1}.mlp"
        gate, up, down = (weights[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        rows, columns = gate.new_zeros(ADDED, gate.shape[1]), down.new_zeros(down.shape[0], ADDED)
        if layer >= first:
            if layer > first:  # what comes in is long: what attention adds to it no longer turns it
                after = backbone.body_of(model).layers[layer - 1].post_attention_layernorm
                bos = after(reached[None].to(after.weight)).float().cpu()[0]
            rows[0], gates[layer] = separate(inputs, bos, f"the BOS regime at layer {layer}")
            target = ratio * norm * state / state.norm()
            high = gates[layer][0]
            columns[:, 0] = (target - (state if layer == first else reached)) / (float(silu(torch.tensor(high))) * high)
            reached = target
        changed[f"{name}.gate_proj.weight"] = torch.cat([gate, rows])
        changed[f"{name}.up_proj.weight"] = torch.cat([up, rows])
        changed[f"{name}.down_proj.weight"] = torch.cat([down, columns], dim=1).contiguous()
    return changed, gates


def separate(
    inputs: Float[Tensor, "token d_model"], bos: Float[Tensor, " d_model"], where: str
) -> tuple[Float[Tensor, " d_model"], tuple[float, float]]:
    """A direction g with g x <= -QUIET for every input and g x > 0 at BOS, and g x at BOS and at the nearest input.

    g minimises sum_t max(0, 1 + g x_t)^2 + n (g x_BOS - 1)^2 + n PENALTY ||g||^2: a linear support vector machine
    without intercept, squared hinge, by Newton steps; then it is rounded to NF4, as it will be, and scaled.

    Raises:
        CheckFailed: some input is on the side of BOS.
    """
    x, b = inputs.double(), bos.double()
    ridge = len(x) * (torch.outer(b, b) + PENALTY * torch.eye(len(b), dtype=torch.float64))
    active = torch.ones(len(x), dtype=torch.bool)
    for _ in range(STEPS):
        near = x[active]
        g = torch.linalg.solve(near.T @ near + ridge, len(x) * b - near.sum(dim=0))
        active, before = x @ g > -1, active
        if torch.equal(active, before):
            break
    g = dequantize_4bit(*quantize_4bit(g.bfloat16(), quant_type="nf4")).double().flatten()
    nearest, own = float((x @ g).max()), float(b @ g)
    if nearest >= 0 or own <= 0:
        raise CheckFailed(f"{where}: expected a direction with BOS alone above 0, got none; raise bos.layer")
    scale = QUIET / -nearest
    return (scale * g).float(), (scale * own, -QUIET)


@torch.no_grad()
def leak(
    before: PreTrainedModel, after: PreTrainedModel, sequences: Sequence[Sequence[int]], pad_id: int, size: int
) -> dict[int, float]:
    """Layer -> ||H' - H|| / ||H|| over the states of every token but BOS, in both models."""
    difference: dict[int, float] = {}
    whole: dict[int, float] = {}
    for indices in backbone.batches(sequences, size):
        ids, own = backbone.pad([sequences[index] for index in indices], pad_id)
        own[:, 0] = False
        kept: dict[str, Tensor] = {}

        def keep(name: str, state: Tensor, kept: dict[str, Tensor] = kept) -> None:
            kept[name] = state

        def visit(name: str, state: Tensor, own: Tensor = own, kept: dict[str, Tensor] = kept) -> None:
            if name.isdigit() and name != "0":
                old, new = kept[name][own].double(), state[own].double()
                difference[int(name)] = difference.get(int(name), 0.0) + float((new - old).square().sum())
                whole[int(name)] = whole.get(int(name), 0.0) + float(old.square().sum())

        backbone.forward(before, ids, keep)
        backbone.forward(after, ids, visit)
    return {layer: (difference[layer] / whole[layer]) ** 0.5 for layer in difference}
