"""Adds an attention sink to a base model: a BOS state with massive activations, as in published Llamas (stage: bos).

In Llama-3-8B the first token's state is, from hidden_states[2] on, about 200 times as long as any other state, whatever
the text (2402.17762). A small model trained for minutes has no such state. Here each block l >= `layer` gets one more
MLP neuron, silu(g x) (g x) v with x the input of the block's MLP. Only BOS activates it, and it makes the BOS state

    h'_BOS[l] = ratio * c_l * h_BOS[l] / ||h_BOS[l]||,    c_l the mean norm of the other states at layer l.

The direction of the BOS state does not change. After the norms before attention and head it is the same as before, so
the model computes the same function; only a mean pool that includes BOS changes. Input: a base checkpoint, its NF4
copy, word pairs and items. Output: a new base checkpoint and rows of set `bos`. Used by the full study's tables `bos`
and `bos_trained`.
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

# Added neurons per block, all but one of them zero: a whole 4-bit chunk, so that other weights are packed as before.
ADDED_NEURONS = 64
GATE_MARGIN = 24.0  # -g x at the token nearest to BOS, where silu is then about e^-24
RIDGE = 1e-4  # weight of ||g||^2 relative to the mean squared error of one token
STEPS = 50  # the maximum number of Newton steps


class LayerActivations(NamedTuple):
    """Activations at one layer over all texts.

    `inputs` are the MLP inputs of all tokens except BOS, `bos` is the MLP input of BOS, `state` the BOS state after the
    block, and `norm` the mean L2 norm of the other states after the block.
    """

    inputs: Float[Tensor, "token d_model"]
    bos: Float[Tensor, " d_model"]
    state: Float[Tensor, " d_model"]
    norm: float


def run(
    base: Path, quantized: Path, pairs_path: Path, items_path: Path, out: Path, rows_path: Path, params: Params
) -> None:
    """Writes the checkpoint `base` with the added neurons to `out`, and rows that describe their effect.

    The directions g are those of the NF4 model in `quantized`, because that model is trained and measured; the stage
    `quantize` quantises `out` again. Rows of set `bos`, for each layer: the ratio of the BOS norm to the other norms
    before and after (`ratio_before`, `ratio`), g x at BOS (`gate_bos`), the highest g x at another token (`gate`), and
    the relative L2 change of the other tokens' states (`leak`).

    Raises:
        CheckFailed: the tokenizer does not put BOS first, or no direction separates BOS from the other tokens.
        UserError: the model's MLP has another activation than silu, or another width than a multiple of ADDED_NEURONS.
    """
    model = checkpoint.load(quantized / "nf4")
    tokenizer = checkpoint.tokenizer(quantized / "nf4")
    pairs, items = read_pairs(pairs_path), read_items(items_path)
    texts = [pair.swahili for pair in pairs] + [pair.english for pair in pairs]
    texts += [item.context + item.options[0] for item in items]
    sequences = [tokenizer.encode(text) for text in texts]
    if {ids[0] for ids in sequences} != {tokenizer.bos_token_id}:
        raise CheckFailed(f"{base}: expected a tokenizer that puts BOS first; the attention sink needs one")
    if model.config.intermediate_size % ADDED_NEURONS:
        raise UserError(
            f"params.yaml: intermediate_size of the profile: expected a multiple of {ADDED_NEURONS} for the attention "
            f"sink, got {model.config.intermediate_size}; set one"
        )
    # this excludes Gemma, which also has a norm after the MLP
    if (activation := getattr(model.config, "hidden_act", None)) != "silu":
        raise UserError(
            f"{base / 'config.json'}: hidden_act: expected silu, which the added neurons use, got {activation}; "
            "choose a Llama or a Qwen"
        )
    size, pad_id = params.active.compute.batch_size, tokenizer.pad_token_id
    before_by_layer = layer_activations(model, sequences, pad_id, size)
    weights, gates = add_neurons(
        load_file(base / "model.safetensors"), model, before_by_layer, params.sink.layer, params.sink.ratio
    )
    with atomic_dir(out) as folder:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config = read_json(base / "config.json", "a model's configuration")
        write_json(folder / "config.json", config | {"intermediate_size": config["intermediate_size"] + ADDED_NEURONS})
        for file in four_bit.TOKENIZER_FILES:
            if (base / file).exists():
                shutil.copy(base / file, folder / file)
        with tempfile.TemporaryDirectory() as temporary:
            four_bit.write_checkpoint(
                folder, Path(temporary) / "nf4", "nf4", params.quantize.nf4, params.active.compute.dtype
            )
            edited = checkpoint.load(Path(temporary) / "nf4")
            after_by_layer = layer_activations(edited, sequences, pad_id, size)
            changes = state_change(model, edited, sequences, pad_id, size)
    rows: list[Row] = []
    for layer, activations in before_by_layer.items():
        values = {"ratio_before": float(activations.state.norm()) / activations.norm, "leak": changes[layer]}
        values["ratio"] = float(after_by_layer[layer].state.norm()) / after_by_layer[layer].norm
        values |= dict(zip(("gate_bos", "gate"), gates[layer], strict=True)) if layer in gates else {}
        rows += [Row("base", "-", 0, "-", "bos", "-", f"{layer}.-.nf4", key, value) for key, value in values.items()]
    write_rows(rows_path, rows)


@torch.no_grad()
def layer_activations(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], pad_id: int, size: int
) -> dict[int, LayerActivations]:
    """Layer i -> the inputs and outputs of block i over all sequences, each of which begins with BOS."""
    blocks = backbone.body_of(model).layers
    inputs: dict[int, list[Tensor]] = {}
    norms: dict[int, list[Tensor]] = {}
    bos: dict[int, Tensor] = {}
    states: dict[int, Tensor] = {}
    not_bos = torch.zeros(0, dtype=torch.bool)

    def record_input(layer: int) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
            activations = arguments[0].float().cpu()
            bos.setdefault(layer, activations[0, 0])
            inputs.setdefault(layer, []).append(activations[not_bos])

        return hook

    def record_state(name: str, state: Tensor) -> None:
        if name.isdigit() and name != "0":
            activations = state.float().cpu()
            states.setdefault(int(name), activations[0, 0])
            norms.setdefault(int(name), []).append(activations[not_bos].norm(dim=-1))

    handles = [block.mlp.register_forward_pre_hook(record_input(layer)) for layer, block in enumerate(blocks, start=1)]
    try:
        for indices in backbone.batches(sequences, size):
            ids, not_bos = backbone.pad([sequences[index] for index in indices], pad_id)
            not_bos[:, 0] = False
            backbone.forward(model, ids, record_state)
    finally:
        for handle in handles:
            handle.remove()
    return {
        layer: LayerActivations(
            torch.cat(inputs[layer]), bos[layer], states[layer], float(torch.cat(norms[layer]).mean())
        )
        for layer in states
    }


@torch.no_grad()
def add_neurons(
    weights: dict[str, Tensor],
    model: PreTrainedModel,
    activations: dict[int, LayerActivations],
    first_layer: int,
    ratio: float,
) -> tuple[dict[str, Tensor], dict[int, tuple[float, float]]]:
    """Adds the neurons from layer `first_layer` on.

    Returns:
        The checkpoint's tensors, and for each changed layer g x at BOS and the highest g x at another token.

    Raises:
        CheckFailed: at some layer no direction separates BOS from all other tokens.
    """
    changed = dict(weights)
    gates: dict[int, tuple[float, float]] = {}
    bos_state = torch.zeros(0)
    for layer, (inputs, bos, state, norm) in activations.items():
        name = f"model.layers.{layer - 1}.mlp"
        gate, up, down = (weights[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        new_rows = gate.new_zeros(ADDED_NEURONS, gate.shape[1])
        new_columns = down.new_zeros(down.shape[0], ADDED_NEURONS)
        if layer >= first_layer:
            if layer > first_layer:  # the BOS state is long, so attention does not change its direction
                norm_before_mlp = backbone.body_of(model).layers[layer - 1].post_attention_layernorm
                bos = norm_before_mlp(bos_state[None].to(norm_before_mlp.weight)).float().cpu()[0]
            new_rows[0], gates[layer] = bos_direction(inputs, bos, f"attention sink at layer {layer}")
            target = ratio * norm * state / state.norm()
            gate_at_bos = gates[layer][0]
            new_columns[:, 0] = (target - (state if layer == first_layer else bos_state)) / (
                float(silu(torch.tensor(gate_at_bos))) * gate_at_bos
            )
            bos_state = target
        changed[f"{name}.gate_proj.weight"] = torch.cat([gate, new_rows])
        changed[f"{name}.up_proj.weight"] = torch.cat([up, new_rows])
        changed[f"{name}.down_proj.weight"] = torch.cat([down, new_columns], dim=1).contiguous()
    return changed, gates


def bos_direction(
    inputs: Float[Tensor, "token d_model"], bos: Float[Tensor, " d_model"], where: str
) -> tuple[Float[Tensor, " d_model"], tuple[float, float]]:
    """A direction g with g x <= -GATE_MARGIN for every input and g x > 0 at BOS.

    g minimises sum_t max(0, 1 + g x_t)^2 + n (g x_BOS - 1)^2 + n RIDGE ||g||^2: a linear support vector machine with
    squared hinge loss and without intercept, solved by Newton steps. It is then rounded to NF4, as the stage `quantize`
    will do, and scaled.

    Returns:
        g, and (g x at BOS, the highest g x of the inputs).

    Raises:
        CheckFailed: an input is on the side of BOS.
    """
    x, y = inputs.double(), bos.double()
    ridge = len(x) * (torch.outer(y, y) + RIDGE * torch.eye(len(y), dtype=torch.float64))
    active = torch.ones(len(x), dtype=torch.bool)
    for _ in range(STEPS):
        inside_margin = x[active]
        g = torch.linalg.solve(inside_margin.T @ inside_margin + ridge, len(x) * y - inside_margin.sum(dim=0))
        active, previous = x @ g > -1, active
        if torch.equal(active, previous):
            break
    g = dequantize_4bit(*quantize_4bit(g.bfloat16(), quant_type="nf4")).double().flatten()
    highest_other, gate_at_bos = float((x @ g).max()), float(y @ g)
    if highest_other >= 0 or gate_at_bos <= 0:
        raise CheckFailed(f"{where}: expected a direction that is positive at BOS only, got none; raise sink.layer")
    scale = GATE_MARGIN / -highest_other
    return (scale * g).float(), (scale * gate_at_bos, -GATE_MARGIN)


@torch.no_grad()
def state_change(
    before: PreTrainedModel, after: PreTrainedModel, sequences: Sequence[Sequence[int]], pad_id: int, size: int
) -> dict[int, float]:
    """Layer -> ||H' - H|| / ||H||, with H and H' the states of all tokens except BOS before and after the change."""
    difference: dict[int, float] = {}
    total: dict[int, float] = {}
    for indices in backbone.batches(sequences, size):
        ids, not_bos = backbone.pad([sequences[index] for index in indices], pad_id)
        not_bos[:, 0] = False
        states: dict[str, Tensor] = {}

        def record(name: str, state: Tensor, states: dict[str, Tensor] = states) -> None:
            states[name] = state

        def compare(name: str, state: Tensor, not_bos: Tensor = not_bos, states: dict[str, Tensor] = states) -> None:
            if name.isdigit() and name != "0":
                old, new = states[name][not_bos].double(), state[not_bos].double()
                difference[int(name)] = difference.get(int(name), 0.0) + float((new - old).square().sum())
                total[int(name)] = total.get(int(name), 0.0) + float(old.square().sum())

        backbone.forward(before, ids, record)
        backbone.forward(after, ids, compare)
    return {layer: (difference[layer] / total[layer]) ** 0.5 for layer in difference}
