"""SYNTHETIC rows: invented numbers in the exact schema of every file that the `tables` stage reads. No measurement.

The tests of tables, figures and verdicts run on these; a seed makes them the same every time. Shapes are plausible:
cosines grow with training, and with rank; accuracy moves a little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tli.config.parameters import HubModel, Params
from tli.data.benchmarks.items import write_items
from tli.data.benchmarks.prompts import Item, Source, render
from tli.io.rows import Row, write_rows
from tli.io.structured import write_json, write_tsv
from tli.measure import views as reading
from tli.measure.views import POOLINGS, layers, per_pair
from tli.stages import verify

Cell = tuple[str, str, int, str]
BASE: Cell = ("base", "-", 0, "-")
SETS = ("xcopa.en", "xcopa.sw", "xnli.en", "xnli.sw")


def fabricate(
    folder: Path,
    params: Params,
    seed: int = 0,
    pairs: tuple[int, int] = (40, 12),
    items: int = 60,
    gain: float = 0.09,
) -> dict[str, Any]:
    """Writes every input of the stage `tables` under `folder`; returns its keyword arguments, outputs included.

    Row files stand in folder/build/MODEL, metrics in folder/results/MODEL, outputs in folder/out.

    Args:
        seed: of the invented numbers; another one stands in for another base model.
        pairs: number of trained and of control pairs.
        items: test items a task and language; none where the model has no benchmarks.
        gain: of the paper's configuration in cosine; random pairs gain half of it.
    """
    rng = np.random.default_rng(seed)
    blocks, main = params.active.model.blocks, ("main", params.lora.scaling, params.lora.rank, str(params.train.seed))
    build, metrics = folder / "build" / params.model, folder / "results" / params.model
    forms = {"trained": [f"neno{i}" for i in range(pairs[0])], "control": [f"jaribio{i}" for i in range(pairs[1])]}
    lines = [(form, f"word-{form}", "noun", "any", set_) for set_, names in forms.items() for form in names]
    write_tsv(build / "pairs.tsv", ("swahili", "english", "pos", "domain", "set"), lines)
    write_rows(build / "quantize.tsv", _quantize(blocks))
    write_rows(build / "scan.tsv", _scan(rng, params))
    write_rows(build / "train.tsv", [*_train(main, params), *_adapter(main, params), *_lengths(forms)])
    base_rows, both = build / "base-rows", ("nf4", "fp4")
    write_rows(base_rows / "similarity.tsv", _align(rng, BASE, 0.0, forms, params, both))
    write_rows(build / "similarity.tsv", _align(rng, main, gain, forms, params, both))
    write_rows(build / "bfloat16.tsv", _in_bfloat16({BASE: 0.0, main: gain}, forms, params, seed))
    sets = () if params.active.benchmarks.source == "none" else SETS
    labels = {set_: rng.integers(0, 2 if set_.startswith("xcopa") else 3, items) for set_ in sets}
    write_rows(base_rows / "score.tsv", _scores_of_base(rng, labels))
    write_rows(build / "score.tsv", _transfer(rng, main, 1.1, labels))
    own, drawn = np.random.default_rng(seed + 1), forms["trained"][: params.tsne.pairs]
    cells = (BASE, main)
    asked = forms["control"] if sets else []  # as in a run: without items nothing is asked by prompt
    write_rows(build / "translate.tsv", [row for cell in cells for row in _probe(own, cell, asked, params)])
    write_rows(build / "tsne.tsv", [row for cell in cells for row in _project(own, cell, drawn, params)])
    baselines = [row for name in ("choice-only", "ngram") for row in _baseline(rng, name, labels)]
    write_rows(build / "benchmarks" / "baselines.tsv", baselines)
    for rank in params.sweep.ranks:
        swept = [(f"r{rank}-s{s}", params.lora.scaling, rank, str(s)) for s in params.sweep.seeds]
        more = 0.02 * np.log2(2 * rank)
        rows = build / "sweep" / "rows" / f"r{rank}"
        write_rows(rows / "similarity.tsv", [r for c in swept for r in _align(rng, c, more, forms, params, ("nf4",))])
        write_rows(rows / "score.tsv", [r for c in swept for r in _transfer(rng, c, 1 + more / 4, labels)])
        write_rows(build / "sweep" / "train" / f"r{rank}.tsv", [r for c in swept for r in _train(c, params)])
    write_items(build / "benchmarks" / "items.jsonl", _items(labels))
    counts: dict[str, dict[str, Any]] = {
        "words": {"pairs": {"all": sum(pairs), "trained": pairs[0], "control": pairs[1]}, "verbs": 7},
        "microworld": {"words": 1234, "items": {f"{set_}.test": {"n": items, "ceiling": 0.875} for set_ in sets}},
        "base": {
            "tokens_seen": 98765,
            "loss": float(rng.normal(2.0, 0.1)),
            "log": [{"step": 1, "loss": 3.0}],
            "bos": "the tokenizer's own",
        },
        "benchmarks": {f"{set_}.test.{key}": items for set_ in sets for key in ("items", "accuracy.ngram")}
        | {f"{set_}.scored": "test" for set_ in sets}
        | {f"{s}.test.label.{k}": gold.tolist().count(k) for s, gold in labels.items() for k in set(gold.tolist())},
    }
    if isinstance(model := params.active.model, HubModel):
        counts["base"] |= {"repository": model.repo, "revision": model.revision}
    for name, value in counts.items():
        write_json(metrics / f"{name}.json", value)
    paper, out = Path(__file__).resolve().parents[1] / "paper", folder / "out"
    return {
        "build": build,
        "metrics": metrics,
        "published": paper / "reported.yaml",
        "tolerances": paper / "tolerances.yaml",
        "out": out / "tables.json",
        "figures_out": out / "figures",
        "plots_out": out / "plots",
        "headline": out / "headline.json",
        "params": params,
    }


def with_blocks(params: Params, blocks: int) -> Params:
    """The same parameters for a model of another depth."""
    model = params.active.model.model_copy(update={"blocks": blocks})
    profile = params.active.model_copy(update={"model": model})
    return params.model_copy(update={"profiles": {**params.profiles, params.model: profile}})


def verdict_files(root: Path | None = None) -> verify.Files:
    """The project's files that `verify` reads, in the folder `root`."""
    root = Path(__file__).resolve().parents[1] if root is None else root
    return verify.Files(*(root / path for path in verify.Files()))


def named(params: Params, model: str) -> Params:
    """The same parameters for a model of another name."""
    return params.model_copy(update={"model": model, "models": (model,), "profiles": {model: params.active}})


def as_paper(params: Params) -> Params:
    """The same parameters under the name of the published model: synthetic values judged as if they were its.

    Tests only. The word lists are said to be the author's, on whom the published values were measured.
    """
    return params.model_copy(
        update={
            "model": "lugha_llama",
            "models": ("lugha_llama",),
            "profiles": {"lugha_llama": params.active},
            "pairs": params.pairs.model_copy(update={"source": "author"}),
        }
    )


def _quantize(blocks: int) -> Iterator[Row]:
    for kind, before in (("nf4", "bfloat16"), ("fp4", "float16")):
        for item, measure, value in (
            ("model", "class", "LlamaForCausalLM"),
            ("model", "blocks", blocks),
            ("model", "hidden_size", 64),
            ("model", "intermediate_size", 96),
            ("model", "heads", 4),
            ("model", "kv_heads", 2),
            ("model", "head_dim", 16),
            ("model", "vocab_size", 160),
            ("model", "head", "loaded"),
            ("projections", "quant_type", kind),
            ("projections", "modules", 7 * blocks),
            ("projections", "bytes", 2048),
            ("projections", "parameters", 4096),
            ("projections", "blocksize", 64),
            ("projections", "double_quant", "false"),
            ("projections", "loaded_dtype", before),
            ("projections", "compute_dtype", "bfloat16"),
            ("others", "dtype", before),
            ("others", "parameters", 1024),
            ("others", "bytes", 2048),
        ):
            yield Row(*BASE, kind, item, "-", measure, value)


def _scan(rng: np.random.Generator, params: Params) -> Iterator[Row]:
    for index, layer in enumerate(layers(params.active.model)):
        for pooling in POOLINGS:
            view = f"{layer}.{pooling}.nf4"
            high = 0.3 if not index else 0.97 if pooling == "mask" else 0.4 - 0.01 * index
            for set_ in ("trained", "control", "all"):
                yield Row(*BASE, set_, "-", view, "cosine_mean", high + rng.normal(0, 0.005))
                for seed in params.measure.random_seeds:
                    yield Row(
                        *BASE, set_, f"random{seed}", view, "random_cosine_mean", high - 0.1 + rng.normal(0, 0.005)
                    )
            for way in ("sw_en", "en_sw"):
                yield Row(*BASE, "all", "-", view, f"p_at_1.{way}", abs(rng.normal(0.1, 0.02)))
    yield from _norms(BASE, params)
    for name, said in MODEL.items():
        yield Row(*BASE, "model", "-", "-", name, said)


MODEL = {
    "architecture": "llama, rope default",
    "hidden_states": 5,
    "final_hidden_state": 4,
    "layer_0": "embeddings",
    "mask_pooling": "mean of all tokens",
    "content_pooling": "mean of the word's own tokens",
    "cosine": "dot product at length 1",
}


def _norms(cell: Cell, params: Params) -> Iterator[Row]:
    for index, layer in enumerate(layers(params.active.model)):
        start = not index
        values = {"bos_norm": 1.0 if start else 40.0 + index, "content_norm": 1.0 + 0.3 * index + cell[2] / 100}
        values |= {"bos_peak": 0.5 if start else 30.0, "bos_peak_dimension": 7, "median_magnitude": 0.02 * (index + 1)}
        for name, value in values.items():
            yield Row(*cell, "all", "-", f"{layer}.-.nf4", name, value)


def _align(
    rng: np.random.Generator,
    cell: Cell,
    gain: float,
    forms: dict[str, list[str]],
    params: Params,
    kinds: tuple[str, ...],
) -> Iterator[Row]:
    own = np.random.default_rng(99)  # the pairs' similarity, alike in all cells
    for kind in kinds:
        for view in per_pair(params.active.model, params.train.layer, kind):
            for set_, names in forms.items():
                start = own.normal(0.35, 0.1, len(names))
                moved = start + gain + (rng.normal(0, 0.02, len(names)) if gain else 0.0)
                for form, value in zip(names, moved, strict=True):
                    yield Row(*cell, set_, form, str(view), "cosine", float(value))
                for form, value in zip(names, moved - 0.1 - gain / 2, strict=True):
                    yield Row(*cell, set_, form, str(view), "random_cosine", float(value))
    yield from _norms(cell, params)
    views = [f"{layer}.{pooling}.nf4" for layer in layers(params.active.model) for pooling in POOLINGS]
    if "fp4" in kinds:
        views += [str(view) for view in per_pair(params.active.model, params.train.layer, "fp4")]
    for view in views:
        for set_ in ("trained", "control", "all"):
            values = {"cosine_mean": 0.35 + gain, "random_cosine_mean": 0.25 + gain / 2}
            for scaled in ("centred", "standardised"):
                values |= {f"{scaled}_cosine_mean": 0.2 + gain / 2, f"{scaled}_random_cosine_mean": 0.01}
            values |= {"cka": 0.5 + gain, "random_cka": 0.04}
            values |= {"participation_ratio.sw": 20 - 9 * gain, "participation_ratio.en": 25 - 9 * gain}
            for way in ("sw_en", "en_sw"):
                hits = abs(rng.normal(0.1 + gain, 0.01))
                values |= {f"p_at_1.{way}": hits, f"p_at_5.{way}": 2 * hits}
                values |= {f"mrr.{way}": 1.5 * hits, f"csls_at_1.{way}": 1.1 * hits}
                values |= {} if set_ == "all" else {f"own_{name}": 1.4 * values[name] for name in _hits(way)}
            for name, value in values.items():
                yield Row(*cell, set_, "-", view, name, float(value + rng.normal(0, 0.001)))


def _in_bfloat16(gains: Mapping[Cell, float], forms: dict[str, list[str]], params: Params, seed: int) -> Iterator[Row]:
    """What the stage bfloat16 writes: base and cell at the view of the public scripts, unless in bfloat16 itself."""
    if params.active.compute.dtype == "bfloat16":
        return
    rng, view = np.random.default_rng(seed + 2), str(reading.names(params.active.model.blocks)["as_scripted"])
    for cell, gain in gains.items():
        for row in _align(rng, (f"{cell[0]}-bfloat16", *cell[1:]), gain, forms, params, ("fp4",)):
            if row.view == view and row.measure in ("cosine", "random_cosine"):
                yield row


def _hits(way: str) -> list[str]:
    return [f"{measure}.{way}" for measure in ("p_at_1", "p_at_5", "mrr", "csls_at_1")]


def fabricate_study(folder: Path, params: Params, effect: float = 0.02) -> Path:
    """Writes what the stage `study` leaves of every key of params.study in `folder`, and returns the folder.

    Args:
        effect: gain in cosine per doubling of the rank; a variant with shuffled pairs gains nothing.
    """
    forms = {"trained": [f"neno{i}" for i in range(30)], "control": [f"jaribio{i}" for i in range(10)]}
    for key in params.keys:
        variant, of_variant, out = params.variants[key.variant], params.of_variant(key.variant), folder / str(key)
        rng = np.random.default_rng([key.base, int(variant.sink)])  # bases of one kind and seed are alike
        labels = {set_: rng.integers(0, 2 if set_.startswith("xcopa") else 3, 40) for set_ in SETS}
        similarity = [*_align(rng, BASE, 0.0, forms, params, ("nf4", "fp4"))]
        scores = [*_scores_of_base(rng, labels)]
        rng = np.random.default_rng([key.base, *key.variant.encode()])
        runs = [(f"r{r}-s{s}", key.variant, r, str(s)) for r in variant.ranks for s in params.sweep.seeds]
        for run in runs:
            gain = 0.0 if "shuffled" in key.variant else effect * np.log2(2 * run[2])
            similarity += _align(rng, run, gain, forms, of_variant, ("nf4",))
            scores += _transfer(rng, run, 1 + gain, labels)
        write_rows(out / "similarity.tsv", similarity)
        write_rows(out / "score.tsv", scores)
        write_rows(out / "train.tsv", [row for run in runs for row in _train(run, of_variant)])
        write_items(out / "items.jsonl", _items(labels))
        write_json(out / "benchmarks.json", {f"{set_}.scored": "test" for set_ in SETS})
    return folder


def _items(labels: Mapping[str, Any]) -> Iterator[Item]:
    """The items in the harness's words; every tenth has the premise of the one before."""
    for set_, gold in labels.items():
        task, _, language = set_.partition(".")
        for number, label in enumerate(gold.tolist()):
            premise = f"Something happened {number - (number % 10 == 9)}."
            texts = {"premise": premise, "hypothesis": f"It was {number}."}
            if task == "xcopa":
                question = ("cause", "effect")[number % 2]
                texts = {"premise": premise, "choice1": "One.", "choice2": "Two.", "question": question}
            source = Source(f"{set_}.test.{number:04d}", task, language, "test", label, texts)
            yield render(source, released=False)


def _transfer(rng: np.random.Generator, cell: Cell, skill: float, labels: dict[str, Any]) -> Iterator[Row]:
    for set_, gold in labels.items():
        options = 2 if set_.startswith("xcopa") else 3
        own = np.random.default_rng(7).normal(-20, 1, (len(gold), options))  # the items' difficulty, alike in all cells
        for number, label in enumerate(gold.tolist()):
            scores = own[number] + rng.normal(0, 0.2, options)
            scores[label] += skill
            pred = int(scores.argmax())
            values = {f"loglik.{k}": float(score) for k, score in enumerate(scores)}
            values |= {"label": label, "pred": pred, "correct": int(pred == label)}
            values["margin"] = float(scores[label] - max(s for k, s in enumerate(scores) if k != label))
            for name, value in values.items():
                yield Row(*cell, set_, f"{set_}.test.{number:04d}", "-", name, value)


def _scores_of_base(rng: np.random.Generator, labels: dict[str, Any]) -> Iterator[Row]:
    """What base-rows writes: the base and its drift by padding, and an untrained model; nothing without items."""
    if labels:
        yield from _transfer(rng, BASE, 1.0, labels)
        yield from _transfer(rng, ("untrained", "-", 0, "0"), 0.0, labels)
        yield Row(*BASE, "drift", "-", "-", "padding_drift", 0.0625)


def _probe(rng: np.random.Generator, cell: Cell, names: list[str], params: Params) -> Iterator[Row]:
    for shots in (0, params.translate.shots):
        for name in names:
            yield Row(*cell, f"shots{shots}", f"word-{name}", "-", "candidate_tokens", 1 + len(name) % 2)
            for score in ("sum", "mean"):
                yield Row(*cell, f"shots{shots}", name, "-", f"rank.{score}", int(rng.integers(1, 4)))


def _project(rng: np.random.Generator, cell: Cell, names: list[str], params: Params) -> Iterator[Row]:
    for pooling in POOLINGS:
        view = f"{params.train.layer}.{pooling}.nf4"
        for space in ("original", "pca", "tsne"):
            for name, value in (("distance", 1.0), ("random_distance", 1.5), ("p_at_1", 0.4)):
                yield Row(*cell, "trained", "-", view, f"{name}.{space}", float(value + rng.normal(0, 0.01)))
        for measure in [
            f"{space}.{axis}.{side}" for space in ("pca", "tsne") for axis in "xy" for side in ("sw", "en")
        ]:
            for name in names:
                yield Row(*cell, "trained", name, view, measure, float(rng.normal()))


def _baseline(rng: np.random.Generator, cell: str, labels: dict[str, Any]) -> Iterator[Row]:
    for set_, gold in labels.items():
        for number, label in enumerate(gold.tolist()):
            pred = int(rng.integers(0, 2 if set_.startswith("xcopa") else 3))
            for name, value in (("label", label), ("pred", pred), ("correct", int(pred == label))):
                yield Row(cell, "-", 0, "-", set_, f"{set_}.test.{number:04d}", "-", name, value)


def _train(cell: Cell, params: Params) -> Iterator[Row]:
    view = f"{params.train.layer}.{params.train.pooling}.nf4"
    values = {"loss_first": 0.3, "loss_last": 0.1, "trainable_parameters": 416 * cell[2], "false_negatives": 0}
    for name, value in values.items():
        yield Row(*cell, "trained", "-", view, name, value)


def _adapter(cell: Cell, params: Params) -> Iterator[Row]:
    for block in range(1, params.train.layer + 1):
        for projection in params.lora.targets:
            values = {"norm_a": 1.5, "norm_b": 0.25 * (block == 1), "norm_ba": 0.125, "b_is_zero": int(block > 1)}
            for name, value in values.items():
                yield Row(*cell, "adapter", f"{block}.{projection}", "-", name, value)
    for name, value in (("nominal_parameters", 6144), ("blocks", params.train.layer)):
        yield Row(*cell, "adapter", "-", "-", name, value)


def _lengths(forms: dict[str, list[str]]) -> Iterator[Row]:
    for set_, names in forms.items():
        for side in ("swahili", "english"):
            for number, form in enumerate(names):
                yield Row(*BASE, set_, form, "-", f"tokens.{side}", 1 + number % 3)
                yield Row(*BASE, set_, form, "-", f"words.{side}", 1 + (number % 4 == 0))
