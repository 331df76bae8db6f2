"""Transfer: the log-likelihood of each option of XCOPA- and XNLI-formed items, before and after (stage: transfer).

log p(option | context) = sum over the option's tokens of log p(token | all before it); the option with the highest sum
is the prediction (lm-evaluation-harness 0.4.13, metric acc). Feeds the transfer, baseline and sweep tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from tli import store
from tli.data.items import read_items
from tli.data.prompts import Item
from tli.model import backbone, lora
from tli.params import EmbeddedModel, Params
from tli.store import Row
from tli.study.views import BASE, Cell, main_cell


class Request(NamedTuple):
    """A token sequence and how many of its last tokens are scored."""

    ids: list[int]
    scored: int


def run(items_path: Path, quantized: Path, adapter: Path, out: Path, params: Params) -> None:
    """The `transfer` stage: per-item rows of the base, the paper's cell and, for our own base, an untrained model."""
    items, folder = asked_items(items_path, params), quantized / "nf4"
    if not items:
        return store.write_rows(out, [])
    backbone.require_head(folder)
    tokenizer = backbone.tokenizer(folder)
    size = params.active.compute.batch_size
    base = backbone.load(folder)
    found = measure(BASE, items, base, tokenizer, size)
    found.append(drift(items, base, tokenizer, size))
    found += measure(main_cell(params), items, lora.load(base, adapter), tokenizer, size)
    if isinstance(params.active.model, EmbeddedModel):
        random: nn.Module = _untrained(folder, params.active.model.seed)
        untrained = Cell("untrained", "-", 0, str(params.active.model.seed))
        found += measure(untrained, items, random.to(base.device), tokenizer, size)
    store.write_rows(out, found)


def asked_items(path: Path, params: Params) -> list[Item]:
    """The items to score: those of the file, and none where the profile has no benchmarks."""
    return [] if params.active.benchmarks.source == "none" else read_items(path)


def _untrained(folder: Path, seed: int) -> LlamaForCausalLM:
    """A model of the same configuration with random weights: a baseline that is named so wherever it is shown."""
    config = LlamaConfig.from_pretrained(folder, local_files_only=True)
    del config.quantization_config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    model.eval()
    return model


def requests(tokenizer: PreTrainedTokenizerBase, item: Item) -> list[Request]:
    """One token sequence an option, cut where lm-evaluation-harness cuts it.

    With a context, context + option is tokenised as one text and what exceeds the context's own tokens is scored;
    without one, BOS (EOS where the tokenizer has no BOS) stands for it and every token of the option is scored.
    """
    if not item.context:
        start_id = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        plain = [tokenizer.encode(option, add_special_tokens=False) for option in item.options]
        return [Request([start_id, *ids], len(ids)) for ids in plain]
    start = len(tokenizer.encode(item.context))
    whole = [tokenizer.encode(item.context + option) for option in item.options]
    return [Request(ids, len(ids) - start) for ids in whole]


@torch.no_grad()
def log_likelihoods(model: nn.Module, asked: Sequence[Request], pad_id: int, batch_size: int) -> list[float]:
    """Sum of log p of each request's scored tokens, in nats: log-softmax in float32, the sum in float64, where a
    thousand nats leave every digit of float32. Padding never enters.

    The head is applied to the scored positions alone.
    """
    scores = [0.0] * len(asked)
    body, head, device = backbone.body_of(model), backbone.head_of(model), next(model.parameters()).device
    for indices in backbone.batches([request.ids for request in asked], batch_size):
        ids = backbone.pad([asked[index].ids for index in indices], pad_id)[0].to(device)
        states = body(input_ids=ids, use_cache=False).last_hidden_state
        places = [
            (row, position)
            for row, index in enumerate(indices)
            for position in range(len(asked[index].ids) - asked[index].scored, len(asked[index].ids))
        ]
        rows, positions = (torch.tensor(column, device=device) for column in zip(*places, strict=True))
        logits = head(states[rows, positions - 1]).float()
        chosen = torch.log_softmax(logits, dim=-1).gather(1, ids[rows, positions][:, None])[:, 0]
        sums = torch.zeros(len(indices), dtype=torch.float64).index_add(0, rows.cpu(), chosen.double().cpu())
        for index, value in zip(indices, sums.tolist(), strict=True):
            scores[index] = value
    return scores


def measure(
    cell: Cell, items: Sequence[Item], model: nn.Module, tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> list[Row]:
    """Per item: every option's log-likelihood, the prediction, whether it is right, and the margin

    margin = log p(right option) - max over the others of log p(option).
    """
    asked = [requests(tokenizer, item) for item in items]
    flat = [request for options in asked for request in options]
    scores = iter(log_likelihoods(model, flat, tokenizer.pad_token_id, batch_size))
    return [row for item in items for row in _item_rows(cell, item, [next(scores) for _ in item.options])]


def _item_rows(cell: Cell, item: Item, scores: Sequence[float]) -> Iterator[Row]:
    predicted = max(range(len(scores)), key=lambda option: scores[option])
    others = [score for option, score in enumerate(scores) if option != item.label]
    values = {f"loglik.{option}": score for option, score in enumerate(scores)}
    values |= {
        "label": item.label,
        "pred": predicted,
        "correct": int(predicted == item.label),
        "margin": scores[item.label] - max(others),
    }
    for name, value in values.items():
        yield Row(*cell, f"{item.task}.{item.language}", item.id, "-", name, value)


def drift(
    items: Sequence[Item], model: nn.Module, tokenizer: PreTrainedTokenizerBase, batch_size: int, sample: int = 64
) -> Row:
    """Largest |change| of a log-likelihood when a sequence is scored alone rather than in its padded batch, in nats.

    In float32 it is rounding of the last digits; in bfloat16 it bounds what a margin can mean. The sample is spread
    evenly over the items.
    """
    spread = items[:: max(1, len(items) // sample)]
    asked = [request for item in spread for request in requests(tokenizer, item)]
    batched = log_likelihoods(model, asked, tokenizer.pad_token_id, batch_size)
    alone = log_likelihoods(model, asked, tokenizer.pad_token_id, 1)
    largest = max(abs(a - b) for a, b in zip(batched, alone, strict=True))
    return Row(*BASE, "drift", "-", "-", "padding_drift", largest)
