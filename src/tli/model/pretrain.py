"""Trains the micro-world's base model: a BPE tokenizer and a small Llama (stage: base, `model.source: pretrain`).

    loss = mean over positions t of -log p(token t | tokens before t), in nats

A document is `<s> text </s>`. The documents of a batch have the same length, so there is no padding, and no position
attends to another document.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tli.config.parameters import MicroworldModel
from tli.io import progress, resume
from tli.io.errors import CheckFailed, UserError
from tli.io.files import atomic_dir, read_text
from tli.io.structured import read_json, write_json
from tli.model import shards
from tli.model.tokenizer import put_bos_first

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")
PREFIXES = "(?:ha)?(?:a|wa|u|i|li|ya|ki|vi|zi)"
CHUNK = 5000  # documents tokenised at a time; the tokenizer's records of all documents would take 0.5 GB
STATE = "state"  # the name of the checkpoint that an interrupted run resumes from
STEPS_PER_CHECKPOINT = 50  # a checkpoint takes 0.13 s, in all 1 % of the training time
MOMENTS = ("exp_avg", "exp_avg_sq")
CONTEXT = 128  # positions; the longest document of the micro-world has about 50 tokens


def make_tokenizer(documents: Sequence[str], verbs: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A BPE tokenizer for lowercased words, each with its leading space, so a word has the same tokens in a sentence.

    If the stem of a Swahili verb is in `verbs`, its subject and tense prefix (`ali`, `haku`, `kita`) is split from the
    stem, so that a small model does not have to learn each verb's twenty forms separately. `<s>` is always first.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    stems = "|".join(sorted(verbs, key=lambda verb: (-len(verb), verb)))
    prefix = Regex(f"^▁(?:{PREFIXES}(?:na|li|ta)(?:ku)?|{PREFIXES}(?:ku)?|ku)(?=(?:{stems})$)")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[.,?=]"), "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Split(prefix, "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def batches(
    documents: Sequence[Sequence[int]], batch_tokens: int, rng: random.Random
) -> Iterator[Int[Tensor, "batch position"]]:
    """Yields batches of documents of equal length without end; each pass shuffles the documents and the batches."""
    while True:
        by_length: dict[int, list[Sequence[int]]] = {}
        for document in rng.sample(documents, len(documents)):
            by_length.setdefault(len(document), []).append(document)
        batches = [
            same_length[start : start + max(1, batch_tokens // length)]
            for length, same_length in sorted(by_length.items())
            for start in range(0, len(same_length), max(1, batch_tokens // length))
        ]
        rng.shuffle(batches)
        yield from (torch.tensor(batch) for batch in batches)


def make_model(settings: MicroworldModel, vocabulary: int) -> LlamaForCausalLM:
    """A Llama with random weights drawn from `settings.seed`."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.blocks,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        head_dim=settings.head_dim,
        max_position_embeddings=CONTEXT,
        bos_token_id=SPECIAL.index("<s>"),
        eos_token_id=SPECIAL.index("</s>"),
        pad_token_id=SPECIAL.index("<pad>"),
        tie_word_embeddings=settings.tied_embeddings,
    )
    config._attn_implementation = "eager"  # on two cores, 1.6 times as fast as sdpa at these sizes
    torch.manual_seed(settings.seed)
    return LlamaForCausalLM(config)


def rate(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: linear to 1 over `warmup` steps, then 0.55 + 0.45 cos from 1 down to 0.1."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def pretrain(
    model: LlamaForCausalLM,
    documents: Sequence[Sequence[int]],
    settings: MicroworldModel,
    finished: resume.Checkpoints | None = None,
) -> Iterator[tuple[int, int, float]]:
    """Trains `model` in place and yields (step, tokens predicted, mean cross-entropy in nats) after each step.

    Training is in float32: bfloat16 takes half the time on processors with AVX512_BF16, but eight times as long on
    others. With `finished` the state is saved there every STEPS_PER_CHECKPOINT steps. If there is a saved state, its
    steps are yielded again and training continues from it, bit for bit as without the interruption.
    """
    schedule = settings.pretraining
    decayed = [p for p in model.parameters() if p.ndim > 1]
    not_decayed = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": not_decayed, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.lr, betas=(0.9, 0.95), fused=True)
    batch_stream = batches(documents, schedule.batch_tokens, random.Random(f"{settings.seed}:order"))
    model.train()
    state = finished.get(STATE) if finished else None
    log = restore(state, model, optimizer) if state else []
    yield from ((step, tokens, loss) for step, (tokens, loss) in enumerate(log, start=1))
    for step, batch in enumerate(islice(batch_stream, len(log), schedule.steps), start=len(log) + 1):
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr * rate(step - 1, schedule.steps, schedule.warmup_steps)
        logits = model(input_ids=batch, use_cache=False).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss_value = loss.item()
        if not math.isfinite(loss_value):
            raise CheckFailed(f"base: step {step}: the loss is {loss_value}; lower model.pretraining.lr")
        log.append((batch[:, 1:].numel(), loss_value))
        if finished and step % STEPS_PER_CHECKPOINT == 0 and step < schedule.steps:
            finished.put(STATE, lambda folder: save(folder, model, optimizer, log))
        yield step, *log[-1]


def save(
    folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, log: Sequence[tuple[int, float]]
) -> None:
    """Writes the training state: weights, AdamW's moments, and (tokens, loss) of each step so far.

    Learning rate and batches follow from the number of steps; training draws no other random numbers.
    """
    tensors = {f"weight.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        tensors |= {f"{moment}.{name}": optimizer.state[parameter][moment] for moment in MOMENTS}
    folder.mkdir()
    save_file(tensors, folder / "state.safetensors")
    (folder / "past.json").write_text(json.dumps(log), encoding="utf-8")  # json keeps all digits of the losses


@torch.no_grad()
def restore(folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer) -> list[tuple[int, float]]:
    """Loads the state written by `save` into model and optimiser; returns (tokens, loss) of each step so far."""
    log = [(tokens, loss) for tokens, loss in read_json(folder / "past.json")]
    with safe_open(folder / "state.safetensors", framework="pt") as tensors:
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors.get_tensor(f"weight.{name}"))
            # copy into memory that torch allocates: the order of sums may depend on its alignment
            optimizer.state[parameter] = {"step": torch.tensor(float(len(log)))} | {
                moment: torch.empty_like(parameter).copy_(tensors.get_tensor(f"{moment}.{name}")) for moment in MOMENTS
            }
    return log


def run(world_path: Path, out: Path, metrics: Path, settings: MicroworldModel) -> None:
    """Trains tokenizer and model, and writes the checkpoint to `out` and the training log to `metrics` (JSON)."""
    texts = read_text(world_path / "corpus.txt").splitlines()
    verbs = read_text(world_path / "verbs.txt").splitlines()
    if not any(texts) or not any(verbs):
        name = "verbs.txt" if any(texts) else "corpus.txt"
        raise UserError(f"{world_path / name}: expected lines, got none; run `dvc repro microworld`")
    tokenizer = make_tokenizer(texts, verbs, settings.vocab_size)
    end = SPECIAL.index("</s>")
    chunks = (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))
    documents = [[*ids, end] for chunk in chunks for ids in tokenizer(chunk)["input_ids"]]
    if (longest := max(map(len, documents))) > CONTEXT:
        raise UserError(
            f"{world_path / 'corpus.txt'}: expected documents of at most {CONTEXT} tokens, got one of {longest}; "
            "shorten it"
        )
    model = make_model(settings, settings.vocab_size)
    steps = settings.pretraining.steps
    log: list[tuple[int, float]] = []
    tokens, recent_losses = 0, list[float]()
    inputs = (world_path / "corpus.txt", world_path / "verbs.txt")
    with resume.checkpoints(out, inputs, model=settings) as finished:
        for step, step_tokens, loss in progress.track(pretrain(model, documents, settings, finished), "base", steps):
            tokens += step_tokens
            recent_losses.append(loss)
            if step % max(1, steps // 50) == 0 or step == steps:
                log.append((step, sum(recent_losses) / len(recent_losses)))
                recent_losses.clear()
        with atomic_dir(out) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            digest = shards.digest_of_all(folder)
        write_json(
            metrics,
            {
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "blocks": settings.blocks,
                "bos": put_bos_first(out),
                "documents": len(documents),
                "tokens_a_pass": sum(map(len, documents)),
                "tokens_seen": tokens,
                "steps": steps,
                "loss": log[-1][1],
                "tensors_sha256": digest,
                "log": [{"step": step, "loss": loss} for step, loss in log],
            },
        )
