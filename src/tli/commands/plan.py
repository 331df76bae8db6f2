"""`tli plan`: predicts the cost of a run: bytes to fetch, to store and in memory, and operations, for each stage.

The prediction uses only params.yaml and the number of word pairs. It opens no model file, uses no network and does not
import torch. Sizes follow from shapes, with 4 bytes for a fetched weight (a checkpoint in bfloat16 has half). The
minutes of a stage are those of its last run on this machine.

    parameters of a block  = 2 d q + 2 d kv + 3 d f + 2 d    (q_proj, o_proj; k_proj, v_proj; MLP; two norms)
    bytes of 4-bit weight  = 1/2, and 4/64 for the scale
    FLOP, forward pass     = 2 x parameters x tokens; attention scores are left out, since the texts are short
    FLOP, LoRA training    = twice that: gradients pass through the frozen weights, but not to them
    FLOP, pre-training     = 6 x parameters x tokens
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tli.config.benchmarks import FileBenchmarks, GivenBenchmarks, HubBenchmarks, MicroworldBenchmarks
from tli.config.parameters import HubModel, MicroworldModel, PackagedModel, Params
from tli.data.benchmarks.prompts import COPA_TEST
from tli.data.words import lexicon
from tli.io.structured import read_json

FULL, HALF, PACKED = 4.0, 2.0, 0.5 + 4 / 64  # bytes per weight: as fetched, as loaded, in 4 bits
IMPORTS = 5e8  # bytes of memory for torch and transformers
TOKENIZER = 1.7e7  # bytes of tokenizer and configuration, which are fetched whole even for a partial model
SPARE = 1 << 25  # bytes between rows of the embeddings that are fetched without need (data/hub/ranges.py)
ROWS = 1.5  # distinct tokens per word form
ALONE, PADDED = 4, 6  # tokens per word form with BOS: in batches by length, and in padded training batches
# options, tokens per option, scored items, other items
BENCHMARKS = {"xcopa": (2, 25, 500, 100), COPA_TEST: (2, 25, 500, 0), "xnli": (3, 45, 2490, 5010)}
ITEM = 200.0  # bytes of a released item


class Cost(NamedTuple):
    """The cost of a stage: bytes fetched, bytes stored, peak memory in bytes, and floating-point operations."""

    stage: str
    fetch: float = 0
    disk: float = 0
    memory: float = 0
    flop: float = 0


class Sizes(NamedTuple):
    """Numbers of parameters of the model, as far as this run has it. A `tied` head is the embedding matrix."""

    block: float
    blocks: int
    embeddings: float
    head: float
    tied: bool

    @property
    def others(self) -> float:
        """Stored parameters outside the blocks."""
        return self.embeddings + (0 if self.tied else self.head)

    @property
    def packed(self) -> float:
        """Bytes of the model in one 4-bit type."""
        return self.block * self.blocks * PACKED + self.others * HALF

    @property
    def all(self) -> float:
        """All stored parameters."""
        return self.block * self.blocks + self.others


def sizes(params: Params, forms: int) -> Sizes:
    """Returns the numbers of parameters; of a partial model, of its blocks and word list.

    Args:
        params: the parameters.
        forms: the number of word forms.
    """
    model = params.active.model
    d, q, kv, f = model.hidden_size, model.query_width, model.kv_width, model.intermediate_size
    rows = model.vocab_size if model.whole else min(model.vocab_size, round(ROWS * forms))
    head = model.vocab_size * d if model.whole else 0
    block = 2 * d * q + 2 * d * kv + 3 * d * f + 2 * d
    return Sizes(block, model.held, rows * d + d, head, model.tied_embeddings)


def costs(params: Params, trained: int, control: int) -> Iterator[Cost]:
    """Yields the cost of every stage in the pipeline's order, with the runs of the sweep and of the study in one each.

    Args:
        params: the parameters.
        trained: the number of trained word pairs.
        control: the number of control pairs.
    """
    forms = 2 * (trained + control)
    size, model, train = sizes(params, forms), params.active.model, params.train
    runs = len(params.sweep.ranks) * len(params.sweep.seeds)
    forward = 2 * size.block * size.blocks * forms * ALONE
    cut = 2 * size.block * params.adapted_blocks
    training = 2 * cut * 2 * trained * train.epochs * PADDED
    scored = _scored(params)
    scoring, swept_scoring = (2 * (size.block * size.blocks + size.head) * n for n in (scored, _swept(params)))
    adapter = sum(sum(params.widths(target)) for target in params.lora.targets) * FULL
    loaded = IMPORTS + size.packed
    words = min(model.vocab_size, ROWS * forms) * model.hidden_size * HALF  # the embeddings that the words need
    weight = PACKED if params.active.compute.weights == "packed" else HALF
    loaded_cut = IMPORTS + words + size.block * params.adapted_blocks * weight
    states = forms * ALONE * model.hidden_size * HALF  # hidden states of all words, between two blocks
    author = params.adapter.source == "author"
    yield Cost("words", fetch=1e5 if params.pairs.source == "author" else 0, disk=1e5)
    yield _base(params, size)
    largest = max(size.embeddings * HALF, size.head * HALF, size.block * PACKED)  # the largest shard, as it is written
    yield Cost("quantize", disk=2 * size.packed, memory=IMPORTS + largest)
    yield Cost("benchmarks", fetch=_released(params))
    yield Cost("scan", memory=IMPORTS + words + size.block * HALF + states, flop=forward)
    yield Cost("base-rows", memory=loaded, flop=2 * forward + scoring)  # NF4 and FP4
    adapted = adapter * params.lora.rank * (model.blocks if author else params.adapted_blocks)
    if author:
        yield Cost("train", fetch=adapted, disk=adapted, memory=loaded_cut)
    else:
        yield Cost("train", disk=adapted, memory=loaded_cut, flop=training)
    yield Cost("similarity", memory=loaded, flop=2 * forward)
    trains_again = not author and params.active.compute.dtype != "bfloat16"  # else the stage writes no rows
    yield (
        Cost("bfloat16", memory=loaded_cut, flop=training + 2 * 2 * cut * forms * ALONE)
        if trains_again
        else Cost("bfloat16")
    )
    yield Cost("score", memory=loaded if scored else 0, flop=scoring)
    # tokens of each control word with each candidate
    translated = control * control * 2 * ALONE * (1 + params.translate.shots) if params.translates else 0
    yield Cost("translate", memory=loaded if translated else 0, flop=2 * 2 * size.block * size.blocks * translated)
    yield Cost("tsne", memory=loaded, flop=2 * forward * params.tsne.pairs / (trained + control))
    swept = adapter * sum(params.sweep.ranks) * len(params.sweep.seeds) * params.adapted_blocks
    yield Cost("sweep-train", disk=swept, memory=loaded_cut, flop=runs * training)
    yield Cost("sweep-score", memory=loaded, flop=runs * forward + swept_scoring)
    keys = [params.of_key(key) for key in params.keys]
    runs_of_key = [len(key.sweep.ranks) * len(key.sweep.seeds) for key in keys]
    trained_blocks = sum(n * 2 * size.block * key.adapted_blocks for n, key in zip(runs_of_key, keys, strict=True))
    training_of_keys = 2 * trained_blocks * 2 * trained * train.epochs * PADDED
    measuring = (sum(runs_of_key) + len(keys)) * (forward + scoring) + len(keys) * forward
    yield Cost("study", memory=loaded if keys else 0, flop=training_of_keys + measuring)


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


def _items(params: Params) -> Iterator[tuple[str, str, int]]:
    """Yields (task, language, number of scored items)."""
    settings = params.active.benchmarks
    if isinstance(settings, MicroworldBenchmarks):
        yield from ((task, language, settings.items.test) for task in ("xcopa", "xnli") for language in ("en", "sw"))
    elif isinstance(settings, GivenBenchmarks):
        paths: dict[str, Path] = {}
        if isinstance(settings, FileBenchmarks):
            scored = (file for file in settings.files if file.use == "score")
            paths = {f"{file.task}.{file.language}": Path(settings.folder) / file.path for file in scored}
        for set_ in sorted(settings.sets):
            task, _, language = set_.partition(".")
            path = paths.get(set_)
            items = len(path.read_bytes().splitlines()) if path and path.is_file() else BENCHMARKS[task][2]
            yield task, language, min(items, settings.limit.items) if settings.limit else items


def _tokens(task: str, items: int) -> int:
    """The tokens that a model reads to score so many items of a task."""
    options, tokens, _, _ = BENCHMARKS[task]
    return items * options * tokens


def _scored(params: Params) -> int:
    """The tokens that a model reads to score every set."""
    return sum(_tokens(task, items) for task, _, items in _items(params))


def _swept(params: Params) -> int:
    """The tokens of all runs of the sweep."""
    return sum(
        _tokens(task, items)
        for task, language, items in _items(params)
        for rank in params.sweep.ranks
        for seed in params.sweep.seeds
        if params.sweep_scores(f"{task}.{language}", rank, seed)
    )


def _released(params: Params) -> float:
    """Bytes of the released items in both splits. `limit` reduces what is scored, not what is fetched."""
    if not isinstance(params.active.benchmarks, HubBenchmarks):
        return 0
    return sum(ITEM * sum(BENCHMARKS[task][2:]) for task, _, _ in _items(params))


def minutes(results: Path) -> dict[str, float]:
    """Returns stage -> minutes of its last run by `results`/costs.json, with the runs of the sweep added up."""
    path, last = results / "costs.json", dict[str, float]()
    stages: dict[str, Any] = read_json(path)["stages"] if path.is_file() else {}
    for name, stage in stages.items():
        command = name.partition("@")[0]
        last[command] = last.get(command, 0.0) + stage["seconds"] / 60
    return last


def page(params: Params, pairs: Path, results: Path) -> str:
    """Returns the plan as text: a line for each stage, the total (of memory the maximum), and notes.

    Args:
        params: the parameters.
        pairs: the word list.
        results: the folder docs/costs/<model>.
    """
    listed = lexicon.read_pairs(pairs)
    count = {set_: sum(pair.set == set_ for pair in listed) for set_ in ("trained", "control")}
    stages, last = [*costs(params, count["trained"], count["control"])], minutes(results)
    total = Cost("total", *(sum(column) for column in [*zip(*(cost[1:] for cost in stages), strict=True)]))
    total = total._replace(memory=max(cost.memory for cost in stages))
    header = ("stage", "fetch", "disk", "memory", "GFLOP", "minutes")
    lines = [
        (c.stage, *map(_bytes, c[1:4]), f"{c.flop / 1e9:,.0f}" if c.flop else "-", _minutes(last, c.stage))
        for c in (*stages, total)
    ]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = ["  ".join([line[0].ljust(widths[0]), *_right(line[1:], widths[1:])]).rstrip() for line in (header, *lines)]
    return "\n".join([f"plan, {params.model}: {_describe(params)}", "", *rows, "", *_notes(params, len(listed))])


def _right(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]


def _bytes(value: float) -> str:
    if value < 1e5:
        return "-"
    return f"{value / 1e9:.2f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"


def _minutes(last: dict[str, float], stage: str) -> str:
    if stage == "total":
        return f"{sum(last.values()):.1f}" if last else "-"
    return f"{last[stage]:.1f}" if stage in last else "-"


def _describe(params: Params) -> str:
    """The model in a few words."""
    model = params.active.model
    blocks = f"{model.blocks} blocks" if model.whole else f"the first {model.held} of {model.blocks} blocks"
    return f"{model.title}, {blocks}" + ("" if isinstance(model, HubModel) else "; nothing of it is fetched")


def _notes(params: Params, pairs: int) -> list[str]:
    """The sources of the numbers, and what cannot be checked or is left out."""
    lines = [
        f"Computed from shapes and counts ({pairs} word pairs); formulas in src/tli/commands/plan.py. "
        "Minutes are those of the last run."
    ]
    if isinstance(params.active.model, HubModel):
        lines.append("A fetched weight counts as 4 bytes; files in the cache are not fetched again.")
    if not params.active.model.whole:
        lines.append(
            "Only parts of the weights are fetched, and the hub has no hash of a part. Config and tokenizer are "
            "checked by hash; a part by its range, its shard's header and size, and the hash noted at its first fetch."
        )
        lines.append("Left out: the higher blocks, the final norm, the head, and all benchmark scores.")
    if params.sweep.ranks != (params.lora.rank,):
        size = f"{len(params.sweep.ranks)} ranks and {len(params.sweep.seeds)} seeds"
        lines.append(f"The sweep has {size}; -S 'sweep.ranks=[{params.lora.rank}]' -S 'sweep.seeds=[0]' has one run.")
    return lines
