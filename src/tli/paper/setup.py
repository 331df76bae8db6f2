"""What was run: the setup table beside what the paper and the public scripts say, and the audit of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tli.analysis.render import Cell, Column, Made, Table
from tli.analysis.results import Measured, Rows, Value
from tli.analysis.scores import TASKS, item_name, language_name, notes, said_of_items
from tli.analysis.views import PAIR_SETS, left_out, trained_view
from tli.config.parameters import Params
from tli.paper.adapter import blocks
from tli.paper.by_rank import factor

NO_VIEW = "none (configuration and counts, no similarity)"
COMPARED = (
    "XCOPA's `question` is compared with English COPA's, item by item; where the labels show that the lists hold other "
    "items it is not. "
)
LOADED = {
    "quant_type": "type",
    "modules": "projections of that type",
    "blocksize": "weights a scale",
    "double_quant": "scales quantised too",
    "loaded_dtype": "dtype before quantisation",
    "compute_dtype": "compute dtype",
    "parameters": "parameters",
    "bytes": "bytes",
    "tensors_sha256": "SHA-256 over all tensors of the checkpoint",
}


HELD = {"blocks": "the first", "vocab_size": "the word list's tokens,"}  # what a cut model has of its shape


class Line(NamedTuple):
    """A line of the setup table; `origin` says where the value was read: on loaded objects, in rows, in params.yaml."""

    key: str
    title: str
    value: Value
    origin: str


def setup(
    base: Measured,
    quantize: Rows,
    train: Rows,
    align: Rows,
    transfer: Rows,
    reported: Mapping[str, Any],
    params: Params,
) -> Made:
    """Model, quantisation, LoRA and training of this run, with what the paper and the public scripts say of each.

    Args:
        base: the metrics of the stage of that name, which say whose choice the BOS token in front of a text is.
    """
    lines = [*_model(base, quantize, params), *_loaded(quantize), *_adapter(train, params), *_training(train, params)]
    lines += [
        Line(f"pairs.{set_}", f"{set_} pairs", len(align.each("base", set_, trained_view(params), "cosine")), "rows")
        for set_ in PAIR_SETS
    ]
    if transfer.has("base", "drift", "-", "padding_drift"):
        drift = transfer.one("base", "drift", "-", "padding_drift")
        lines.append(Line("padding_drift", "largest change of a log-likelihood by padding, nats", drift, "rows"))
    rows: list[dict[str, Cell]] = []
    for line in lines:
        published = reported["setup"].get(line.key, {})
        others: dict[str, Cell] = {column: published.get(column) for column in ("paper", "scripts")}
        rows.append({"what": line.title, "here": line.value, "origin": line.origin, **others})
    measured: Measured = {f"setup.{line.key}": line.value for line in lines if line.origin != "params.yaml"}
    measured["setup.model"] = lines[0].value
    table = Table(
        "setup",
        "Setup",
        f"This run (model `{params.model}`), what the paper says and what the public scripts do. Quantisation is "
        "read off the loaded modules; no software version, time or memory stands here.",
        (
            Column("what", "what"),
            Column("here", "this run", "number"),
            Column("origin", "read off"),
            Column("paper", "paper", "number"),
            Column("scripts", "public scripts", "number"),
        ),
        rows,
        view=NO_VIEW,
        notes=["`-`: not said", left_out(params)],
    )
    return Made(table, measured)


def _model(base: Measured, quantize: Rows, params: Params) -> Iterator[Line]:
    """Whose model it is by params.yaml, its shape as loaded, and what stands in front of a text."""
    model = params.active.model
    yield Line("model", "model", model.title, "params.yaml")
    for key, title in (
        ("class", "architecture"),
        ("blocks", "blocks"),
        ("hidden_size", "hidden size"),
        ("intermediate_size", "feed-forward size"),
        ("heads", "attention heads"),
        ("kv_heads", "key-value heads"),
        ("head_dim", "width of a head"),
        ("vocab_size", "vocabulary"),
        ("head", "language-model head"),
    ):
        value = _number(quantize.text("base", "nf4", "model", key))
        if model.whole or key not in HELD:
            yield Line(key, title, value, "loaded modules")
        else:  # under a key of its own: what was published is the whole
            yield Line(f"{key}_held", f"{title}: {HELD[key]} of {getattr(model, key):,}", value, "loaded modules")
    yield Line("bos", "BOS in front of every text", base["bos"], "tokenizer")


def _loaded(quantize: Rows) -> Iterator[Line]:
    """The evidence of both 4-bit types, of what stays unquantised, and all parameters together."""
    parts = [_number(quantize.text("base", "nf4", item, "parameters")) for item in ("projections", "others")]
    whole = sum(part for part in parts if isinstance(part, int))
    yield Line("parameters", "parameters", whole, "loaded modules")
    for kind in ("nf4", "fp4"):
        for measure, title in LOADED.items():
            found = quantize.text("base", kind, "projections", measure)
            yield Line(f"{kind}.{measure}", f"{kind.upper()}: {title}", _number(found), "loaded modules")
    for measure in ("dtype", "parameters", "bytes"):
        found = quantize.text("base", "nf4", "others", measure)
        title = f"embeddings, norms, head (beside NF4): {measure}"
        yield Line(f"others.{measure}", title, _number(found), "loaded modules")


def _adapter(train: Rows, params: Params) -> Iterator[Line]:
    lora = params.lora
    yield Line("rank", "LoRA rank r", lora.rank, "params.yaml")
    yield Line("factor", f"LoRA factor α ÷ r (scaling {lora.scaling})", factor(lora.rank, params), "params.yaml")
    yield Line("dropout", "LoRA dropout", lora.dropout, "params.yaml")
    yield Line("targets", "LoRA on", ", ".join(lora.targets), "params.yaml")
    yield Line("adapter", "adapter", params.adapter.source, "params.yaml")
    yield Line("adapted_blocks", "blocks with LoRA, from the first", blocks(train), "rows")
    trained = train.one("main", "trained", trained_view(params), "trainable_parameters")
    yield Line("train.trainable_parameters", "parameters of the adapter", int(trained), "rows")


def _training(train: Rows, params: Params) -> Iterator[Line]:
    chosen = params.train
    for key, title, value in (
        ("layer", "layer that the loss reads", chosen.layer),
        ("pooling", "pooling in the loss", chosen.pooling),
        ("margin", "margin", chosen.margin),
        ("optimiser", "optimiser", "AdamW, linear schedule"),
        ("lr", "learning rate", chosen.lr),
        ("weight_decay", "weight decay", chosen.weight_decay),
        ("warmup_steps", "warm-up steps", chosen.warmup_steps),
        ("epochs", "epochs", chosen.epochs),
        ("batch_size", "pairs a batch", chosen.batch_size),
        ("mask_duplicates", "equal forms masked as negatives", "yes" if chosen.mask_duplicates else "no"),
        ("seed", "seed", chosen.seed),
        ("evaluated_layer", "layer evaluated", "every layer"),
    ):
        yield Line(key, title, value, "params.yaml")
    view = trained_view(params)
    for key, title in (
        ("loss_first", "mean loss, first epoch"),
        ("loss_last", "mean loss, last epoch"),
        ("false_negatives", "negatives whose form is the positive's"),
    ):
        found: Value = None  # as where the adapter is the author's
        if train.has("main", "trained", view, key):
            number = train.one("main", "trained", view, key)
            found = int(number) if key == "false_negatives" else number
        yield Line(f"train.{key}", title, found, "rows")


def _number(text: str) -> Value:
    """A row's value as what it is: a whole number, a number, or text; None for `-`."""
    if text == "-":
        return None
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value == int(value) else value


def audit(parts: Mapping[str, Measured], params: Params) -> Made:
    """Counts of the word list, the corpus and the base model's training, as their stages wrote them.

    A count that the stage gives by set (key ending in all, trained or control) becomes one row.
    """
    rows: dict[tuple[str, str], dict[str, Cell]] = {}
    measured: Measured = {}
    for part, found in parts.items():
        for key, value in found.items():
            what, _, last = key.rpartition(".")
            what, column = (what, last) if what and last in ("all", *PAIR_SETS) else (key, "all")
            rows.setdefault((part, what), {"part": part, "what": _said(what)})[column] = value
            measured[f"audit.{part.replace(' ', '_')}.{key}"] = value
    table = Table(
        "audit",
        "Data audit",
        f"Counts of the word list (source `{params.pairs.source}`), and of what the base model was trained on.",
        (
            Column("part", "part"),
            Column("what", "what"),
            Column("all", "value", "number"),
            *(Column(set_, set_, "number") for set_ in PAIR_SETS),
        ),
        [*rows.values()],
        view=NO_VIEW,
    )
    return Made(table, measured)


def items(found: Measured, params: Params) -> Made:
    """The benchmarks' items a task, language and split: how many, their labels, and what would make one unfair.

    `found` holds flat keys task.language.split.NAME; accuracies stand in the baselines table.
    """
    measured: Measured = {}
    groups: dict[tuple[str, ...], dict[str, Cell]] = {}
    for key, value in found.items():
        parts = key.split(".")
        if len(parts) > 3 and parts[0] in TASKS and parts[3] not in ("accuracy", "label_share"):
            groups.setdefault(tuple(parts[:3]), {})[".".join(parts[3:])] = value
            measured[f"items.{key}"] = value
    kinds = dict.fromkeys(name for group in groups.values() for name in group)
    other = "dev" if params.active.benchmarks.source == "microworld" else "validation"
    rows: list[dict[str, Cell]] = []
    for (task, language, split), group in groups.items():
        named = language_name(f"{task}.{language}", params)
        rows.append({"task": item_name(task, params), "language": named, "split": split, **group})
    table = Table(
        "items",
        "Items",
        "The items of each task, language and split, as counts: how many with each right answer, options that are one "
        f"text, prompts that occur twice, test prompts that stand in {other}. "
        f"{COMPARED if other == 'validation' else ''}{said_of_items(params)}".rstrip(),
        (
            Column("task", "task"),
            Column("language", "language"),
            Column("split", "split"),
            *(Column(name, _said(name), "number") for name in kinds),
        ),
        rows,
        view=NO_VIEW,
        notes=notes((), found, params, *TASKS),
    )
    return Made(table, measured)


def _said(key: str) -> str:
    """A flat key in words."""
    return key.replace(".", ": ").replace("_", " ")
