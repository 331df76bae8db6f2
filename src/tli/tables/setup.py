"""What was run: model, quantisation, LoRA, training and views, beside the paper and the public scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tli.analysis.lora_factor import factor
from tli.analysis.massive import massive_activation
from tli.analysis.results import Results, Rows, Value
from tli.analysis.table import Cell, Column
from tli.analysis.views import PAIR_SETS, left_out, trained_view
from tli.config.parameters import Params

TITLE = "Setup"
CAPTION = (
    "This run (model `{params.model}`), what the paper says and what the public scripts do. Quantisation is read off "
    "the loaded modules; software versions, time and memory are not listed."
)
SOURCE = ("base", "quantize", "scan", "train", "base-rows")
VIEW = "none (configuration and counts, no similarity)"
COLUMNS = (
    Column("setting", "setting", id=True),
    Column("what", "what"),
    Column("here", "this run", "number"),
    Column("origin", "read off"),
    Column("paper", "paper", "number"),
    Column("scripts", "public scripts", "number"),
)
MODEL = {
    "class": "architecture",
    "blocks": "blocks",
    "hidden_size": "hidden size",
    "intermediate_size": "feed-forward size",
    "heads": "attention heads",
    "kv_heads": "key-value heads",
    "head_dim": "width of a head",
    "vocab_size": "vocabulary",
    "head": "language-model head",
}
CUT = {"blocks": "the first", "vocab_size": "the word list's tokens,"}  # what a cut model has of its shape
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
SCANNED = {  # checked by the scan on the loaded model
    "architecture": "model type and rotary embedding",
    "layer_0": "layer 0",
    "mask_pooling": "mask pooling",
    "content_pooling": "content pooling",
    "cosine": "cosine",
    "hidden_states": "hidden states",
    "final_hidden_state": "hidden state that is the final output",
}


class Line(NamedTuple):
    """A row; `origin` is where the value was read: loaded modules, tokenizer, rows, params.yaml, or the scan's rows."""

    setting: str
    what: str
    here: Value
    origin: str


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per setting; the published values stand in paper/reported.yaml under the same key."""
    train, similarity = results.of("train"), results.of("similarity")
    lines = [
        *_model(results, params),
        *_loaded(results.of("quantize")),
        *_adapter(train, params),
        *_training(train, params),
        *_counts(similarity, results.of("score"), params),
        *_scanned(results.of("scan"), params),
    ]
    for line in lines:
        published = results.published["setup"].get(line.setting, {})
        yield {**line._asdict(), **{column: published.get(column) for column in ("paper", "scripts")}}


def _model(results: Results, params: Params) -> Iterator[Line]:
    """The model's name in params.yaml, its shape as loaded, and who puts BOS in front of a text."""
    model, quantize = params.active.model, results.of("quantize")
    yield Line("model", "model", model.title, "params.yaml")
    for key, title in MODEL.items():
        value = _number(quantize.text("base", "nf4", "model", key))
        if model.whole or key not in CUT:
            yield Line(key, title, value, "loaded modules")
        else:  # another key, because the published value is that of the whole model
            yield Line(f"{key}_held", f"{title}: {CUT[key]} of {getattr(model, key):,}", value, "loaded modules")
    yield Line("bos", "BOS in front of every text", results.metrics["base"]["bos"], "tokenizer")


def _loaded(quantize: Rows) -> Iterator[Line]:
    """All parameters, both 4-bit types as loaded, and what stays unquantised."""
    parts = [_number(quantize.text("base", "nf4", item, "parameters")) for item in ("projections", "others")]
    parameters = sum(part for part in parts if isinstance(part, int))
    yield Line("parameters", "parameters", parameters, "loaded modules")
    for kind in ("nf4", "fp4"):
        for measure, title in LOADED.items():
            value = _number(quantize.text("base", kind, "projections", measure))
            yield Line(f"{kind}.{measure}", f"{kind.upper()}: {title}", value, "loaded modules")
    for measure in ("dtype", "parameters", "bytes"):
        value = _number(quantize.text("base", "nf4", "others", measure))
        title = f"embeddings, norms, head (beside NF4): {measure}"
        yield Line(f"others.{measure}", title, value, "loaded modules")


def _adapter(train: Rows, params: Params) -> Iterator[Line]:
    lora = params.lora
    yield Line("rank", "LoRA rank r", lora.rank, "params.yaml")
    yield Line("factor", f"LoRA factor α ÷ r (scaling {lora.scaling})", factor(lora.rank, params), "params.yaml")
    yield Line("dropout", "LoRA dropout", lora.dropout, "params.yaml")
    yield Line("targets", "LoRA on", ", ".join(lora.targets), "params.yaml")
    yield Line("adapter", "adapter", params.adapter.source, "params.yaml")
    blocks = int(train.one("main", "adapter", "-", "blocks"))
    yield Line("adapted_blocks", "blocks with LoRA, from the first", blocks, "rows")
    parameters = int(train.one("main", "trained", trained_view(params), "trainable_parameters"))
    yield Line("train.trainable_parameters", "parameters of the adapter", parameters, "rows")


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
        here: Value = None  # of the author's adapter, which was not trained here
        if train.has("main", "trained", view, key):
            number = train.one("main", "trained", view, key)
            here = int(number) if key == "false_negatives" else number
        yield Line(f"train.{key}", title, here, "rows")


def _counts(similarity: Rows, score: Rows, params: Params) -> Iterator[Line]:
    for set_ in PAIR_SETS:
        pairs = similarity.each("base", set_, trained_view(params), "cosine")
        yield Line(f"pairs.{set_}", f"{set_} pairs", len(pairs), "rows")
    if score.has("base", "drift", "-", "padding_drift"):
        drift = score.one("base", "drift", "-", "padding_drift")
        yield Line("padding_drift", "largest change of a log-likelihood by padding, nats", drift, "rows")


def _scanned(scan: Rows, params: Params) -> Iterator[Line]:
    """What the scan checked on the loaded model (stages/scan.py, `evidence`), and what its rows show."""
    for key, title in SCANNED.items():
        yield Line(key, title, _number(scan.text("base", "model", "-", key)), "scan")
    views = [view.split(".") for view in scan.views("base", "all", "cosine_mean")]
    numbers = [int(layer) for layer, *_ in views if layer.isdigit()]
    norm = ", norm" if any(layer == "norm" for layer, *_ in views) else ""
    yield Line("scanned", "layers scanned", f"{min(numbers)} to {max(numbers)}{norm}", "scan")
    yield Line("poolings", "poolings scanned", ", ".join(dict.fromkeys(view[1] for view in views)), "scan")
    yield Line("measure", "primary measure", "cosine", "scan")
    peak = None
    if params.active.model.whole:
        layers = range(params.active.model.blocks)  # those that the published pilot reads
        peak = max(layers, key=lambda layer: scan.one("base", "trained", f"{layer}.mask.nf4", "cosine_mean"))
    title = "layer of the highest mean cosine of trained pairs, mask pooling, 0 to L − 1"
    yield Line("peak_layer", title, peak, "scan")
    massive = massive_activation(scan, "base", params)
    yield Line("massive_layer", "first layer with a massive activation of BOS", massive.layer, "scan")


def _number(text: str) -> Value:
    """A row's value as a whole number, a number, or text; None for `-`."""
    if text == "-":
        return None
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value == int(value) else value


def notes(results: Results, params: Params) -> list[str]:
    """What an empty cell means, and what a cut model lacks."""
    return ["`-`: not stated", left_out(params)]
