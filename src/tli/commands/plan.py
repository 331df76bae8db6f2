"""What a run would cost, said before it begins: per stage what is fetched, stored, held in memory and computed.

Everything follows from params.yaml and the number of word pairs: no file of a model is opened, nothing is asked of a
network, nothing imports torch. Sizes are by shape, as if every fetched weight had 4 bytes: a checkpoint in bfloat16 has
half. What a stage took when it last ran here stands beside. Feeds no table.

    parameters of a block  = 2 d q + 2 d kv + 3 d f + 2 d            (q, o; k, v; the MLP's three; two norms)
    a 4-bit weight         = 1/2 byte, and 4 bytes a 64 for the scale
    FLOP, forward          = 2 x parameters x tokens; attention's own, small at these lengths, is left out
    FLOP, training LoRA    = twice that: gradients go back through frozen weights, which get none of their own
    FLOP, pre-training     = 6 x parameters x tokens
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tli.config.parameters import HubBenchmarks, HubModel, MicroworldBenchmarks, MicroworldModel, PackagedModel, Params
from tli.data.words import lexicon
from tli.io.structured import read_json

FULL, HALF, PACKED = 4.0, 2.0, 0.5 + 4 / 64  # bytes a weight: as fetched, as loaded, in 4 bits
IMPORTS = 5e8  # bytes of memory that torch and transformers take
TOKENIZER = 1.7e7  # bytes: tokenizer and configuration, the only files fetched whole where weights come in parts
SPARE = 1 << 25  # bytes between rows of the embeddings that come along (data/hub/ranges.py)
ROWS = 1.5  # rows of the embeddings a word form, different tokens counted once
ALONE, PADDED = 4, 6  # tokens a word form, BOS counted: batches by length, and as training draws them
ASKED = {"xcopa": (2, 25, 500, 100), "xnli": (3, 45, 2490, 5010)}  # options; tokens of one; items scored, and others
ITEM = 200.0  # bytes of an item as released


class Cost(NamedTuple):
    """A stage's bytes fetched, stored and held at most, and its floating-point operations."""

    stage: str
    fetch: float = 0
    disk: float = 0
    memory: float = 0
    flop: float = 0


class Sizes(NamedTuple):
    """Parameters of the model as this run has it; a `tied` head is the embeddings, and stored once."""

    block: float
    blocks: int
    embeddings: float
    head: float
    tied: bool

    @property
    def others(self) -> float:
        """Parameters outside the blocks that are stored."""
        return self.embeddings + (0 if self.tied else self.head)

    @property
    def packed(self) -> float:
        """Bytes of the whole under one 4-bit type."""
        return self.block * self.blocks * PACKED + self.others * HALF

    @property
    def all(self) -> float:
        return self.block * self.blocks + self.others


def sizes(params: Params, forms: int) -> Sizes:
    """The shapes of params.yaml, cut to what the profile has of them."""
    model = params.active.model
    d, q, kv, f = model.hidden_size, model.query_width, model.kv_width, model.intermediate_size
    rows = model.vocab_size if model.whole else min(model.vocab_size, round(ROWS * forms))
    head = model.vocab_size * d if model.whole else 0
    block = 2 * d * q + 2 * d * kv + 3 * d * f + 2 * d
    return Sizes(block, model.held, rows * d + d, head, model.tied_embeddings)


def costs(params: Params, trained: int, control: int) -> Iterator[Cost]:
    """Every stage in the pipeline's order, the cells of the sweep together.

    Args:
        trained, control: word pairs of each set.
    """
    forms = 2 * (trained + control)
    size, model, train = sizes(params, forms), params.active.model, params.train
    runs = len(params.sweep.ranks) * len(params.sweep.seeds)
    forward = 2 * size.block * size.blocks * forms * ALONE
    cut = 2 * size.block * params.adapted_blocks
    training = 2 * cut * 2 * trained * train.epochs * PADDED
    scored = sum(_scored(params))
    scoring = 2 * (size.block * size.blocks + size.head) * scored
    adapter = sum(sum(params.widths(target)) for target in params.lora.targets) * FULL
    held = IMPORTS + size.packed
    words = min(model.vocab_size, ROWS * forms) * model.hidden_size * HALF  # of the embeddings what the words need
    weight = PACKED if params.active.compute.weights == "packed" else HALF
    held_cut = IMPORTS + words + size.block * params.adapted_blocks * weight
    states = forms * ALONE * model.hidden_size * HALF  # of all words, between two blocks
    author = params.adapter.source == "author"
    yield Cost("words", fetch=1e5 if params.pairs.source == "author" else 0, disk=1e5)
    yield _base(params, size)
    largest = max(size.embeddings * HALF, size.head * HALF, size.block * PACKED)  # one shard as it is written
    yield Cost("quantize", disk=2 * size.packed, memory=IMPORTS + largest)
    yield Cost("benchmarks", fetch=_released(params))
    yield Cost("scan", memory=IMPORTS + words + size.block * HALF + states, flop=forward)
    yield Cost("base-rows", memory=held, flop=2 * forward + scoring)  # NF4 and FP4
    adapted = adapter * params.lora.rank * (model.blocks if author else params.adapted_blocks)
    if author:
        yield Cost("train", fetch=adapted, disk=adapted, memory=held_cut)
    else:
        yield Cost("train", disk=adapted, memory=held_cut, flop=training)
    yield Cost("similarity", memory=held, flop=2 * forward)
    again = not author and params.active.compute.dtype != "bfloat16"  # else the stage writes no rows
    yield Cost("bfloat16", memory=held_cut, flop=training + 2 * 2 * cut * forms * ALONE) if again else Cost("bfloat16")
    yield Cost("score", memory=held if scored else 0, flop=scoring)
    asked = control * control * 2 * ALONE * (1 + params.probe.shots) if scored else 0  # each word with each candidate
    yield Cost("translate", memory=held if scored else 0, flop=2 * 2 * size.block * size.blocks * asked)
    yield Cost("tsne", memory=held, flop=2 * forward * params.project.pairs / (trained + control))
    swept = adapter * sum(params.sweep.ranks) * len(params.sweep.seeds) * params.adapted_blocks
    yield Cost("sweep-train", disk=swept, memory=held_cut, flop=runs * training)
    yield Cost("sweep-score", memory=held, flop=runs * (forward + scoring))


def _base(params: Params, size: Sizes) -> Cost:
    model = params.active.model
    if isinstance(model, PackagedModel):
        return Cost("base", disk=size.all * FULL, memory=IMPORTS + 2 * size.all * FULL)
    if isinstance(model, MicroworldModel) and model.source == "versioned":
        return Cost("base", disk=size.all * HALF, memory=IMPORTS)
    if isinstance(model, MicroworldModel):
        tokens = model.pretraining.steps * model.pretraining.batch_tokens
        # weights, gradients and AdamW's two moments
        return Cost("base", disk=size.all * FULL, memory=IMPORTS + 4 * size.all * FULL, flop=6 * size.all * tokens)
    weights = size.all * FULL
    if model.whole:
        return Cost("base", fetch=weights + TOKENIZER, disk=weights + TOKENIZER, memory=IMPORTS)
    return Cost("base", fetch=weights + SPARE + TOKENIZER, disk=weights + TOKENIZER, memory=IMPORTS)


def _items(params: Params) -> Iterator[tuple[str, int]]:
    """Task and number of items scored, language by language."""
    found = params.active.benchmarks
    if isinstance(found, MicroworldBenchmarks):
        yield from ((task, found.items.test) for task in ASKED for _ in ("english", "swahili"))
    elif isinstance(found, HubBenchmarks):
        languages = {"xcopa": len(found.xcopa.languages) + 1, "xnli": len(found.xnli.languages)}  # COPA is XCOPA's en
        for task, count in languages.items():
            items = ASKED[task][2]
            yield from ((task, min(items, found.limit or items)) for _ in range(count))


def _scored(params: Params) -> Iterator[int]:
    """Tokens that a model reads to score each language of a task."""
    for task, items in _items(params):
        options, tokens, _, _ = ASKED[task]
        yield items * options * tokens


def _released(params: Params) -> float:
    """Bytes of the released items, both splits; the limit cuts what is scored, not what is fetched."""
    if not isinstance(params.active.benchmarks, HubBenchmarks):
        return 0
    return sum(ITEM * sum(ASKED[task][2:]) for task, _ in _items(params))


def minutes(results: Path) -> dict[str, float]:
    """Stage -> minutes of its last run here (`tli costs`), the cells of the sweep together."""
    path, found = results / "costs.json", dict[str, float]()
    known: dict[str, Any] = read_json(path)["stages"] if path.is_file() else {}
    for name, stage in known.items():
        short = name.partition("@")[0]
        found[short] = found.get(short, 0.0) + stage["seconds"] / 60
    return found


def page(params: Params, pairs: Path, results: Path) -> str:
    """The plan as plain text: a line a stage, their sum (of memory the most), and what the numbers rest on."""
    listed = lexicon.read_pairs(pairs)
    count = {set_: sum(pair.set == set_ for pair in listed) for set_ in ("trained", "control")}
    found, last = [*costs(params, count["trained"], count["control"])], minutes(results)
    together = Cost("together", *(sum(column) for column in [*zip(*(one[1:] for one in found), strict=True)]))
    together = together._replace(memory=max(one.memory for one in found))
    header = ("stage", "fetch", "disk", "memory", "GFLOP", "minutes")
    lines = [
        (one.stage, *map(_bytes, one[1:4]), f"{one.flop / 1e9:,.0f}" if one.flop else "-", _minutes(last, one.stage))
        for one in (*found, together)
    ]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = ["  ".join([line[0].ljust(widths[0]), *_right(line[1:], widths[1:])]).rstrip() for line in (header, *lines)]
    return "\n".join([f"plan, {params.model}: {_what(params)}", "", *rows, "", *_said(params, len(listed))])


def _right(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]


def _bytes(value: float) -> str:
    if value < 1e5:
        return "-"
    return f"{value / 1e9:.2f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"


def _minutes(last: dict[str, float], stage: str) -> str:
    if stage == "together":
        return f"{sum(last.values()):.1f}" if last else "-"
    return f"{last[stage]:.1f}" if stage in last else "-"


def _what(params: Params) -> str:
    model = params.active.model
    held = f"{model.blocks} blocks" if model.whole else f"the first {model.held} of {model.blocks} blocks"
    return f"{model.title}, {held}" + ("" if isinstance(model, HubModel) else "; nothing of it is fetched")


def _said(params: Params, pairs: int) -> list[str]:
    """What the numbers rest on, and what cannot be checked or is left out."""
    lines = [f"By shape and count ({pairs} word pairs), formulas in src/tli/commands/plan.py. Minutes: the last run's."]
    if isinstance(params.active.model, HubModel):
        lines.append("Fetched weights are counted at 4 bytes; what the cache has is not fetched again.")
    if not params.active.model.whole:
        lines.append(
            "Of the weights only parts come, and the hub has no hash of a part: config and tokenizer are hash-checked, "
            "a part is held to its range, its shard's header and size, and to the hash that its first fetch noted."
        )
        lines.append("Left out: the blocks above, norm, the head, and transfer with every table of scores.")
    if params.sweep.ranks != (params.lora.rank,):
        cells = f"{len(params.sweep.ranks)} ranks and {len(params.sweep.seeds)} seeds"
        lines.append(f"The sweep has {cells}; -S 'sweep.ranks=[{params.lora.rank}]' -S 'sweep.seeds=[0]' has one cell.")
    return lines
