"""One adapter by transformers, PEFT and bitsandbytes as a user would train it: the whole model, one seed, not batched.

The reference for batched LoRA, in tests and benchmarks. Only the data order and the objective are the
project's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from peft import get_peft_model, get_peft_model_state_dict
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup

from tli.config.parameters import Lora, Train
from tli.data.words.lexicon import Pair
from tli.measure import embeddings
from tli.model import checkpoint, lora
from tli.training import loop, objective


class Run(NamedTuple):
    """Losses and gradient norms of every step, and the adapter under the names that PEFT saves it by."""

    losses: list[float]
    gradients: list[float]
    adapter: dict[str, Tensor]


def run(folder: Path, pairs: Sequence[Pair], settings: Lora, training: Train, blocks: int, seed: int) -> Run:
    """Trains LoRA on the first `blocks` blocks of the whole 4-bit model in `folder`."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(seed)
    adapted = get_peft_model(model, lora.config(settings, blocks))
    checkpoint.disable_repacking(adapted)
    adapted.train()
    pairs = loop.shuffled_pairs(pairs, seed) if training.pairs == "shuffled" else pairs
    trainable = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=training.lr, weight_decay=training.weight_decay)
    batches = [*loop.epoch_batches(len(pairs), training.batch_size, training.epochs, seed)]
    schedule = get_linear_schedule_with_warmup(optimizer, training.warmup_steps, len(batches))
    torch.manual_seed(seed)
    losses, gradients = [], []
    states: list[Tensor] = []
    block = adapted.get_base_model().model.layers[training.layer - 1]
    block.register_forward_hook(lambda _module, _inputs, output: states.append(output))
    for batch in batches:
        chosen = [pairs[index] for index in batch]
        words = [pair.swahili for pair in chosen] + [pair.english for pair in chosen]
        ids = tokenizer(words, padding=True, padding_side="right", return_tensors="pt")
        mask = ids["attention_mask"].bool()
        adapted(input_ids=ids["input_ids"], use_cache=False)
        if training.pooling == "content":
            mask = embeddings.content(ids["input_ids"], mask, tokenizer)
        anchors, positives = embeddings.pool(states.pop(), mask).chunk(2)
        same = objective.duplicate_mask([pair.english for pair in chosen]) if training.mask_duplicates else None
        loss = objective.triplet_loss(anchors, positives, training.margin, same)[0]
        optimizer.zero_grad()
        loss.backward()
        norms = [parameter.grad.norm() for parameter in trainable if parameter.grad is not None]
        gradients.append(float(torch.stack(norms).norm()))
        losses.append(loss.item())
        optimizer.step()
        schedule.step()
    return Run(losses, gradients, {name: tensor.clone() for name, tensor in get_peft_model_state_dict(adapted).items()})
