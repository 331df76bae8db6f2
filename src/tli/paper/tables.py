"""Rows become every table and figure, and the numbers that the text and `verify` quote (stage: tables)."""

from __future__ import annotations

import os
from pathlib import Path

from tli.analysis import effects, premises, render, scores
from tli.analysis import outcomes as cells
from tli.analysis import views as similarity
from tli.analysis.results import Measured, Rows, Value, flat, load_yaml, read_sweep
from tli.config.parameters import Params
from tli.figures import plots
from tli.figures import write as figures
from tli.io.files import sha256_of
from tli.io.structured import read_json, write_json
from tli.paper import (
    accuracy,
    adapter,
    by_rank,
    changes,
    classes,
    controls,
    geometry,
    layers,
    lengths,
    projection,
    setup,
    summary,
)
from tli.paper import probe as probing
from tli.verify import claims


def run(
    *,
    pairs: Path,
    pairs_audit: Path,
    world: Path,
    base: Path,
    benchmarks: Path,
    quantize: Path,
    base_rows: Path,
    scan: Path,
    train: Path,
    align: Path,
    bfloat16: Path,
    transfer: Path,
    probe: Path,
    project: Path,
    baselines: Path,
    items: Path,
    sweep: Path,
    reported: Path,
    tables: Path,
    figures_out: Path,
    plots_out: Path,
    headline: Path,
    measured: Path,
    params: Params,
) -> None:
    """The `tables` stage.

    Args:
        pairs: the checked word list; its SHA-256 becomes `inputs.pairs`, so that `verify` knows another list.
        pairs_audit, world, base, benchmarks: the metrics (JSON) of the stages of that name.
        quantize, scan, train, align, bfloat16, transfer, probe, project, baselines: row files; train holds the cell
            `main`.
        base_rows: the folder with the base's similarity.tsv and score.tsv.
        items: items.jsonl of the stage `benchmarks`; which of them share a premise.
        sweep: the folder with rows/rR/{align,transfer}.tsv and train/rR.tsv; exactly params.sweep's cells are read.
        reported: paper/reported.yaml.
        tables, figures_out, plots_out: folders to write, replaced as wholes; the last for `dvc plots`.
        headline, measured: JSON files to write: a few numbers for `dvc exp show`; flat key -> value for `verify`.
    """
    published = load_yaml(reported)
    found = {name: Rows(path) for name, path in {"scan": scan, "train": train, "project": project}.items()}
    found["align"] = Rows(base_rows / "similarity.tsv", align)
    found["transfer"] = Rows(base_rows / "score.tsv", transfer)
    by_seed = read_sweep(sweep, params)
    worlds, counts = flat(read_json(world)), flat(read_json(benchmarks))
    ceilings = _ceilings(worlds, counts)
    of_base = flat(read_json(base))
    parts = {
        "word pairs": flat(read_json(pairs_audit)) | lengths.means(found["train"]),
        "corpus": {key: value for key, value in worlds.items() if not key.startswith("items.")},
        "base": {key: value for key, value in of_base.items() if key != "bos"},  # which the setup table shows
    }
    shared = {} if params.active.benchmarks.source == "none" else premises.read_premises(items)
    own = cells.Source(cells.main_base(params), found["align"], found["transfer"], by_seed, shared)
    bases = [own]
    tasks = changes.tasks(bases, params)
    drawn = changes.drawn(tasks, params)
    made = [
        setup.setup(of_base, Rows(quantize), found["train"], found["align"], found["transfer"], published, params),
        layers.scan_table(found["scan"], published, params),
        layers.norms(found["align"], params),
        similarity.before_after(found["align"], Rows(bfloat16), published, params),
        similarity.gains(found["align"], published, params),
        lengths.table(found["train"], found["align"], params),
        controls.table(found["align"], params),
        similarity.retrieval(found["align"], params),
        geometry.pools(found["align"], params),
        geometry.geometry(found["align"], params),
        projection.table(found["project"], params),
        adapter.table(found["train"], params),
        by_rank.ranks(found["align"], by_seed, params),
        *(
            by_rank.transfer_by_rank(task, own, counts, params)
            for task in scores.TASKS
            if scores.languages(found["transfer"], task)
        ),
        changes.changes(tasks, drawn, params),
        changes.gap(tasks, params),
        changes.calibration(tasks, params),
        classes.table(tasks, bases, params),
        *summary.tables(effects.effects(cells.outcomes(bases, params), params), params),
        probing.table(Rows(probe), params),
        accuracy.per_class(found["transfer"], counts, params),
        accuracy.baselines(found["transfer"], Rows(baselines), ceilings, counts, params),
        setup.audit(parts, params),
        setup.items(counts, params),
    ]
    made = [one for one in made if one.table.rows]  # those of scores have none where there are no benchmarks
    values: Measured = {"inputs.pairs": sha256_of(pairs)}
    for one in made:
        values |= one.measured
    shown = [*(one.table for one in made), claims.table(claims.study_claims(values, published, params))]
    figured = figures.write(figures_out, found, by_seed, drawn, published, params)
    page = render.Page(intro(params), {table.name: table for table in shown}, figured)
    render.write(tables, page, os.path.relpath(figures_out, tables))
    plots.write(plots_out, shown, params)
    write_json(measured, values)
    write_json(headline, _headline(values, params))


def _ceilings(world: Measured, counts: Measured) -> Measured:
    """Set -> the highest accuracy that the noise of its scored items allows, from the world's metrics."""
    sets = {key.removesuffix(".scored"): split for key, split in counts.items() if key.endswith(".scored")}
    keys = {set_: f"items.{set_}.{split}.ceiling" for set_, split in sets.items()}
    return {set_: world[key] for set_, key in keys.items() if key in world}


def _headline(values: Measured, params: Params) -> dict[str, Value]:
    """Seven numbers with names so short that `dvc exp show` fits a terminal: cosine gains, P@1, accuracies."""
    view = similarity.trained_view(params)
    wanted = {
        "gain": f"align.trained.gain.{view}",
        "random": f"gains.random_trained.{view}",
        "p1": f"retrieval.all.after.p1_sw_en.{view}",
    }
    for task, short in (("xcopa", "copa"), ("xnli", "nli")):
        wanted |= {f"{short}_{language}": f"transfer.{task}.{language}.main.accuracy" for language in ("en", "sw")}
    kept = {name: values[key] for name, key in wanted.items() if key in values}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in kept.items()}


def intro(params: Params) -> list[str]:
    """The README's opening: what this folder is, what it was made with, how to read it."""
    lora, train, sweep = params.lora, params.train, params.sweep
    left_out = similarity.left_out(params)
    names = "\n".join(f"| `{name}` | `{view}` |" for name, view in similarity.points(params).items())
    return [
        f"# Tables, model `{params.model}`",
        "Generated by the stage `tables` from measured rows; do not edit. `dvc repro` writes them again. The .csv "
        "files hold nine significant digits; here and in the .tex files numbers are rounded, and `-` is a value that "
        f"is not defined or not given. {scores.said_of_items(params)}".rstrip(),
        f"Made with rank {lora.rank}, scaling `{lora.scaling}`, LoRA on {', '.join(lora.targets)} of the first "
        f"{train.layer} blocks, loss at layer {train.layer} under {train.pooling} pooling, margin {train.margin:g}, "
        f"learning rate {train.lr:g}, {train.epochs} epochs, batch {train.batch_size}, seed {train.seed}; sweep over "
        f"ranks {', '.join(map(str, sweep.ranks))} with seeds {', '.join(map(str, sweep.seeds))}; word pairs: "
        f"`{params.pairs.source}`.",
        *([f"{left_out[0].upper()}{left_out[1:]}."] if left_out else []),
        "A similarity is read at a view, `layer.pooling.quantisation`: layer 0 is the embeddings, i the raw output of "
        f"block i of {params.active.model.blocks}, `norm` what follows the final norm; `mask` pooling averages over "
        "every token that is not padding, BOS included, `content` leaves BOS and EOS out. `pilot` is every layer under "
        "mask pooling and NF4; `as_described` follows the paper's text, `as_scripted` the public scripts.",
        f"| name | view |\n| :-- | :-- |\n{names}",
    ]
