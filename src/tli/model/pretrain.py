"""The base model of the embedded profile: a tokenizer and a small Llama, both trained on the micro-world (stage: base).

Minimises the mean next-token cross-entropy over batches of documents of one length, `<s> document </s>`, so that no
position is padding and none sees another document. Feeds every table of the embedded profile.
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
CHUNK = 5000  # documents tokenised at a time: the tokenizer's own records of all of them would take 0.5 GB
STATE = "state"  # the piece that outlives a run that is cut off
KEEP = 50  # steps from one kept state to the next: 0.13 s each, 1 % of the embedded profile's training
MOMENTS = ("exp_avg", "exp_avg_sq")
CONTEXT = 128  # positions; the longest document of the micro-world has about 50 tokens


def make_tokenizer(documents: Sequence[str], verbs: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """BPE over lowercased words, each with its leading space, so that a word alone and inside a sentence is the same.

    The subject and tense prefix of a Swahili verb (`ali`, `haku`, `kita`) stands apart from its stem, where the stem is
    one of `verbs`: a small model then need not learn each verb's twenty forms one by one. `<s>` is always put first.
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
    """Yields batches of equally long documents for ever: each pass shuffles the documents and then the batches."""
    while True:
        by_length: dict[int, list[Sequence[int]]] = {}
        for document in rng.sample(documents, len(documents)):
            by_length.setdefault(len(document), []).append(document)
        ready = [
            alike[start : start + max(1, batch_tokens // length)]
            for length, alike in sorted(by_length.items())
            for start in range(0, len(alike), max(1, batch_tokens // length))
        ]
        rng.shuffle(ready)
        yield from (torch.tensor(batch) for batch in ready)


def make_model(settings: MicroworldModel, vocabulary: int) -> LlamaForCausalLM:
    """A Llama with random weights from `settings.seed`."""
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
    config._attn_implementation = "eager"  # on two cores 1.6 times as fast as sdpa at these widths and lengths
    torch.manual_seed(settings.seed)
    return LlamaForCausalLM(config)


def rate(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: linear to 1 over `warmup` steps, then a cosine down to 0.1."""
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

    In float32: bfloat16 is half the time on processors with AVX512_BF16 and eight times as long on those without.
    With `finished` the state is kept there every KEEP steps; where one is kept already, its steps are yielded as they
    were and training goes on behind them, bit for bit as if it had never stopped.
    """
    plan = settings.pretraining
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=plan.lr, betas=(0.9, 0.95), fused=True)
    stream = batches(documents, plan.batch_tokens, random.Random(f"{settings.seed}:order"))
    model.train()
    state = finished.get(STATE) if finished else None
    past = restore(state, model, optimizer) if state else []
    yield from ((step, tokens, loss) for step, (tokens, loss) in enumerate(past, start=1))
    for step, batch in enumerate(islice(stream, len(past), plan.steps), start=len(past) + 1):
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * rate(step - 1, plan.steps, plan.warmup_steps)
        logits = model(input_ids=batch, use_cache=False).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        if not math.isfinite(value):
            raise CheckFailed(f"base: step {step}: the loss is {value}; lower model.pretraining.lr")
        past.append((batch[:, 1:].numel(), value))
        if finished and step % KEEP == 0 and step < plan.steps:
            finished.put(STATE, lambda folder: save(folder, model, optimizer, past))
        yield step, *past[-1]


def save(
    folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, past: Sequence[tuple[int, float]]
) -> None:
    """Writes all that a training step depends on, weights and AdamW's moments, and (tokens, loss) of the steps so far.

    Rate and batches follow from the number of steps; nothing draws random numbers on the way.
    """
    tensors = {f"weight.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        tensors |= {f"{moment}.{name}": optimizer.state[parameter][moment] for moment in MOMENTS}
    folder.mkdir()
    save_file(tensors, folder / "state.safetensors")
    (folder / "past.json").write_text(json.dumps(past), encoding="utf-8")  # every digit of the losses


@torch.no_grad()
def restore(folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer) -> list[tuple[int, float]]:
    """Puts what `save` wrote into model and optimiser; returns (tokens, loss) of the steps so far."""
    past = [(tokens, loss) for tokens, loss in read_json(folder / "past.json")]
    with safe_open(folder / "state.safetensors", framework="pt") as tensors:
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors.get_tensor(f"weight.{name}"))
            # copies into memory of torch's own alignment, on which the order of sums may depend
            optimizer.state[parameter] = {"step": torch.tensor(float(len(past)))} | {
                moment: torch.empty_like(parameter).copy_(tensors.get_tensor(f"{moment}.{name}")) for moment in MOMENTS
            }
    return past


def run(world_path: Path, out: Path, metrics: Path, settings: MicroworldModel) -> None:
    """The `base` stage: writes the checkpoint and its tokenizer to `out`, the training log to `metrics`."""
    texts = read_text(world_path / "corpus.txt").splitlines()
    verbs = read_text(world_path / "verbs.txt").splitlines()
    if not any(texts) or not any(verbs):
        name = "verbs.txt" if any(texts) else "corpus.txt"
        raise UserError(f"{world_path / name}: expected lines, got none; run `dvc repro world`")
    tokenizer = make_tokenizer(texts, verbs, settings.vocab_size)
    end = SPECIAL.index("</s>")
    chunks = (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))
    documents = [[*ids, end] for chunk in chunks for ids in tokenizer(chunk)["input_ids"]]
    if (longest := max(map(len, documents))) > CONTEXT:
        raise UserError(
            f"{world_path / 'corpus.txt'}: a document of {longest} tokens, expected {CONTEXT} at most; cut it"
        )
    model = make_model(settings, settings.vocab_size)
    steps = settings.pretraining.steps
    log: list[tuple[int, float]] = []
    tokens, recent = 0, list[float]()
    inputs = (world_path / "corpus.txt", world_path / "verbs.txt")
    with resume.checkpoints(out, inputs, model=settings) as finished:
        for step, seen, loss in progress.track(pretrain(model, documents, settings, finished), "base", steps):
            tokens += seen
            recent.append(loss)
            if step % max(1, steps // 50) == 0 or step == steps:
                log.append((step, sum(recent) / len(recent)))
                recent.clear()
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
