"""The command line: first the stages, in the order of the pipeline, then the commands for people.

Every stage is one command with its paths as arguments. dvc.yaml calls these commands; they can also be run by hand.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tli.commands.process import every_model, load_params, stage
from tli.commands.program import Tli
from tli.config import parameters
from tli.io.errors import UserError
from tli.io.files import MANIFEST

FILE = click.Path(path_type=Path)
F = TypeVar("F", bound=Callable[..., Any])


@click.group(cls=Tli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tli-artifact")
@click.option(
    "--set", "changes", metavar="KEY=VALUE", multiple=True, help="Change a value of params.yaml for this command."
)
@click.option("--model", metavar="NAME", help="A model of params.yaml.  [default: the first of `models`]")
@click.pass_context
def main(context: click.Context, changes: tuple[str, ...], model: str | None) -> None:
    """Targeted Lexical Injection and the LoRA-rank study. Each stage of dvc.yaml is a command."""
    context.obj = {"changes": dict(map(parameters.parse, changes)), "model": model}


out_option = click.option("--out", type=FILE, required=True, help="The output: a file or folder to write.")
metrics_option = click.option("--metrics", type=FILE, required=True, help="JSON file of metrics to write.")
rows_option = click.option("--rows", type=FILE, required=True, help="Row file (TSV) to write.")
rank_option = click.option("--rank", type=int, required=True, help="The LoRA rank.")


@main.command()
@click.option("--out", type=FILE, help="As a stage: check only params.yaml, and write a constant file.")
@click.option("--plan", type=FILE, help="With --out: folder to write, the keys of the study with their parameters.")
@click.option("--repair", is_flag=True, help="Restore damaged files that have a copy, and set the others aside.")
def check(out: Path | None, plan: Path | None, repair: bool) -> None:
    """Check params.yaml and, without --out, all files.

    With --out it is the stage `check`, which runs before all others. Without --out it reads every file in data/, in the
    outputs of the pipelines, in DVC's cache and in the remote inside the repository, and compares its hash. A line
    reports each damaged file, and the exit status is 1. After --repair, `dvc repro` makes what had no copy.
    """
    if out is not None:
        if repair:
            raise UserError("check: --repair: expected no --out, got one; give only one of the two")
        options = click.get_current_context().find_root().obj
        from tli.stages import check as module

        module.run(out, changes=options["changes"], model=options["model"], plan=plan)
        return
    if plan is not None:
        raise UserError("check: --plan: expected --out beside it, got none; give both or neither")
    from tli.commands import check_files

    load_params()
    check_files.run(repair)


@main.command()
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@out_option
@click.option("--audit", type=FILE, required=True, help="JSON file to write: the audit of the word list.")
@click.option("--words", type=FILE, help="File to write: the words whose embeddings a partial base needs.")
def words(pairs_path: Path, out: Path, audit: Path, words: Path | None) -> None:
    """Check and audit the word pairs; fetch the author's."""
    with stage(out, pairs_path, torch=False, fetches=lambda params: params.pairs.source == "author") as params:
        from tli.stages import words as module

        module.run(pairs_path, out, audit, params, words)


@main.command()
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("vocabulary", type=FILE)
@out_option
@metrics_option
def microworld(pairs_path: Path, vocabulary: Path, out: Path, metrics: Path) -> None:
    """Generate the micro-world's corpus and items."""
    from tli.stages import microworld as module

    with stage(out, pairs_path, torch=False) as params:
        module.run(pairs_path, vocabulary, out, metrics, params.active.benchmarks)


@main.command()
@click.argument("world_path", metavar="WORLD", type=FILE)
@out_option
@metrics_option
@click.option("--words", type=FILE, help="The words whose embeddings a partial base needs.")
def base(world_path: Path, out: Path, metrics: Path, words: Path | None) -> None:
    """Make the base: unpack, load, pre-train or fetch it."""
    with stage(
        out, world_path / "corpus.txt", world_path / "verbs.txt", fetches=lambda p: p.active.model.source == "hub"
    ) as params:
        from tli.stages import base as module

        module.run(world_path, words, out, metrics, params)


@main.command()
@click.argument("base_path", metavar="BASE", type=FILE)
@out_option
@rows_option
def quantize(base_path: Path, out: Path, rows: Path) -> None:
    """Quantise the base to NF4 and FP4, block by block."""
    with stage(out, base_path / "model.safetensors") as params:
        from tli.stages import quantize as module

        module.run(base_path, out, rows, params.quantize, params.active.compute.dtype)


@main.command()
@click.argument("world_path", metavar="WORLD", type=FILE)
@out_option
@metrics_option
def benchmarks(world_path: Path, out: Path, metrics: Path) -> None:
    """Render the items as lm-eval prompts; score baselines."""
    with stage(
        out, world_path / "items.jsonl", torch=False, fetches=lambda p: p.active.benchmarks.source == "hub"
    ) as params:
        from tli.stages import benchmarks as module

        module.run(world_path, out, metrics, params)


@main.command()
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("quantized", type=FILE)
@out_option
def scan(pairs_path: Path, quantized: Path, out: Path) -> None:
    """Measure similarity at every layer of the base."""
    with stage(out, pairs_path, quantized / MANIFEST) as params:
        from tli.stages import scan as module

        module.run(pairs_path, quantized, out, params)


@main.command()
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("quantized", type=FILE)
@out_option
@rows_option
@click.option("--log", type=FILE, required=True, help="Folder of the training curves.")
def train(pairs_path: Path, quantized: Path, out: Path, rows: Path, log: Path) -> None:
    """Train the main adapter, or fetch the author's."""
    inputs = (pairs_path, quantized / MANIFEST)
    with stage(out, *inputs, fetches=lambda params: params.adapter.source == "author") as params:
        from tli.stages import train as module

        module.run(pairs_path, quantized, out, rows, log, params)


@main.command("base-rows")
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("items", type=FILE)
@click.argument("quantized", type=FILE)
@out_option
def base_rows(pairs_path: Path, items: Path, quantized: Path, out: Path) -> None:
    """Measure the base: similarity and benchmark scores."""
    with stage(out, pairs_path, items, quantized / MANIFEST) as params:
        from tli.stages import base_rows as module

        module.run(pairs_path, items, quantized, out, params)


@main.command()
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("quantized", type=FILE)
@click.argument("adapter", type=FILE)
@out_option
def similarity(pairs_path: Path, quantized: Path, adapter: Path, out: Path) -> None:
    """Measure similarity before and after training."""
    with stage(out, pairs_path, quantized / MANIFEST, adapter / "adapter_model.safetensors") as params:
        from tli.stages import similarity as module

        module.run(pairs_path, quantized, adapter, out, params)


@main.command()
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("quantized", type=FILE)
@out_option
def bfloat16(pairs_path: Path, quantized: Path, out: Path) -> None:
    """Train and measure the main adapter in bfloat16."""
    with stage(out, pairs_path, quantized / MANIFEST) as params:
        from tli.stages import bfloat16 as module

        module.run(pairs_path, quantized, out, params)


@main.command()
@click.argument("items", type=FILE)
@click.argument("quantized", type=FILE)
@click.argument("adapter", type=FILE)
@out_option
def score(items: Path, quantized: Path, adapter: Path, out: Path) -> None:
    """Score the benchmarks before and after training."""
    with stage(out, items, quantized / MANIFEST, adapter / "adapter_model.safetensors") as params:
        from tli.stages import score as module

        module.run(items, quantized, adapter, out, params)


@main.command()
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("quantized", type=FILE)
@click.argument("adapter", type=FILE)
@out_option
def translate(pairs_path: Path, quantized: Path, adapter: Path, out: Path) -> None:
    """Measure word translation before and after training."""
    with stage(out, pairs_path, quantized / MANIFEST, adapter / "adapter_model.safetensors") as params:
        from tli.stages import translate as module

        module.run(pairs_path, quantized, adapter, out, params)


@main.command()
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("quantized", type=FILE)
@click.argument("adapter", type=FILE)
@out_option
def tsne(pairs_path: Path, quantized: Path, adapter: Path, out: Path) -> None:
    """Compute t-SNE and PCA plots before and after training."""
    with stage(out, pairs_path, quantized / MANIFEST, adapter / "adapter_model.safetensors") as params:
        from tli.stages import tsne as module

        module.run(pairs_path, quantized, adapter, out, params)


@main.command("sweep-train")
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("quantized", type=FILE)
@rank_option
@out_option
@rows_option
def sweep_train(pairs_path: Path, quantized: Path, rank: int, out: Path, rows: Path) -> None:
    """Train one rank of the sweep, with every seed."""
    with stage(out, pairs_path, quantized / MANIFEST) as params:
        from tli.stages import sweep_train

        sweep_train.run(pairs_path, quantized, {rank: "."}, out, rows, params)


@main.command("sweep-score")
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("items", type=FILE)
@click.argument("quantized", type=FILE)
@click.argument("adapters", type=FILE)
@rank_option
@out_option
def sweep_score(pairs_path: Path, items: Path, quantized: Path, adapters: Path, rank: int, out: Path) -> None:
    """Measure one rank of the sweep, with every seed."""
    with stage(out, pairs_path, items, quantized / MANIFEST) as params:
        from tli.stages import sweep_score

        sweep_score.run(pairs_path, items, quantized, adapters, {rank: "."}, out, params)


@main.command()
@click.argument("key")
@click.argument("plan", type=FILE)
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("vocabulary", type=FILE)
@out_option
def study(key: str, plan: Path, pairs_path: Path, vocabulary: Path, out: Path) -> None:
    """Run one key of the study: a variant on a further base.

    KEY is BASE-VARIANT, such as s1-2r. PLAN is its file of the plan, which the stage check writes.
    """
    with stage(out, plan, pairs_path, key=key) as params:
        from tli.stages import study as module

        module.run(params.key(key), plan, pairs_path, vocabulary, out, params)


REPORTED = click.option(
    "--reported", type=FILE, default=Path("paper/reported.yaml"), show_default=True, help="Published values."
)


def path_option(name: str, text: str) -> Callable[[F], F]:
    """Declares a required option that is a path."""
    return click.option(f"--{name}", type=FILE, required=True, help=text)


@main.command()
@click.argument("build", type=FILE)
@path_option("metrics", "Folder results/MODEL, with the metrics of the stages.")
@path_option("published", "paper/reported.yaml.")
@path_option("tolerances", "paper/tolerances.yaml, which decides the printed decimals.")
@path_option("figures-out", "Folder of figures to write.")
@path_option("plots-out", "Folder of curves to write, for `dvc plots`.")
@path_option("headline", "JSON file to write: a few important numbers.")
@out_option
def tables(out: Path, **paths: Path) -> None:
    """Compute all tables and figures of a model.

    BUILD is the folder build/MODEL, with the rows of every stage.
    """
    from tli.stages import tables as module

    with stage(out, torch=False) as params:
        module.run(out=out, params=params, **paths)


@main.command()
@path_option("results", "Folder with tables.json of each model in a folder.")
@path_option("figures", "Folder with the figures of each model in a folder.")
@out_option
def pages(out: Path, **paths: Path) -> None:
    """Write the tables of all models side by side.

    OUT gets each table as Markdown, CSV and LaTeX. It shows every model of the run, or that of --model.
    """
    from tli.stages import pages as module

    with stage(out, torch=False):
        module.run(out=out, models=every_model(), **paths)


@main.command()
@click.option("--tables", type=FILE, help="Tables of the run.  [default: results/<model>/tables.json]")
@REPORTED
@click.option(
    "--expected", type=FILE, default=Path("paper/expected"), show_default=True, help="Folder of the recorded runs."
)
@click.option(
    "--conclusions", type=FILE, default=Path("paper/conclusions.yaml"), show_default=True, help="Conclusions, margins."
)
@click.option(
    "--tolerances", type=FILE, default=Path("paper/tolerances.yaml"), show_default=True, help="Tolerances by kind."
)
@click.option("--out", type=FILE, help="As a stage: write the verdicts (JSON), and never fail.")
@click.option("--strict", is_flag=True, help="Exit with 1 if any value is outside its tolerance.")
@click.option("--all", "every", is_flag=True, help="Print all values, not only the published and the differing ones.")
@click.option("--against", type=FILE, metavar="FOLDER", help="Compare with the run in another checkout.")
def verify(
    tables: Path | None, out: Path | None, strict: bool, every: bool, against: Path | None, **paths: Path
) -> None:
    """Compare the run with published and recorded values.

    Exits with 1 if a conclusion changed, if more than 1 % of a kind's values are outside their tolerance, or if a value
    is five times its tolerance away. Compares every model of the run, or the one of --model.
    """
    from tli.stages import verify as module

    files, failures = module.Files(**paths), []
    for params in every_model():
        if against is not None:
            failures += module.against(against, files, params, strict, every)
            continue
        path = tables or Path("results") / params.model / "tables.json"
        failures += module.run(tables=path, files=files, params=params, out=out, strict=strict, every=every)
        if out is None:
            failures += module.base_weights(Path("build") / params.model, files, params)
    if out is None or strict:
        module.finish(failures, "verify")


@main.command()
@click.argument("source", type=FILE)
@path_option("results", "Folder with tables.json and verify.json of each model in a folder.")
@path_option("figures", "Folder with the figures of each model in a folder.")
@REPORTED
@path_option("numbers", "Folder to write: document.json and numbers.tex.")
@out_option
def paper(source: Path, out: Path, **paths: Path) -> None:
    """Write the paper (PDF) and its numbers for LaTeX.

    SOURCE contains main.typ, style.typ and references.bib. The paper shows every model of the run, or that of --model.
    """
    from tli.stages import paper as module

    with stage(out, source / "main.typ", torch=False):
        module.run(source=source, out=out, models=every_model(), **paths)


@main.command("report-data")
@path_option("tables", "tables.json of the model.")
@path_option("verify", "verify.json of the model.")
@path_option("pairs", "The checked word list.")
@path_option("items", "The rendered benchmark items.")
@path_option("base-rows", "Folder of the stage base-rows.")
@path_option("similarity", "Rows of the stage similarity.")
@path_option("score", "Rows of the stage score.")
@out_option
def report_data(out: Path, **paths: Path) -> None:
    """Collect the report's data of one model as JSON."""
    from tli.stages import report_data as module

    with stage(out, paths["tables"], paths["verify"], torch=False) as params:
        module.run(out=out, params=params, **paths)


@main.command()
@click.argument("source", type=FILE)
@path_option("folder", "Folder of the stage report-data.")
@path_option("pipeline", "dvc.yaml.")
@path_option("requirements", "The list of packages.")
@out_option
def report(source: Path, out: Path, **paths: Path) -> None:
    """Write the report: one HTML file that works offline.

    SOURCE contains report.html.j2, report.css and report.js. The page shows every model of the run, or that of --model.
    """
    from tli.stages import report as module

    with stage(out, source / "report.html.j2", torch=False):
        module.run(source=source, out=out, models=[params.model for params in every_model()], **paths)


@main.command()
@click.option("--results", type=FILE, help="Per-pair results in the author's format (CSV) to compare.")
@click.option("--pilot", type=FILE, help="Mean cosines by layer in the author's format (CSV) to compare.")
@click.option("--pairs", type=FILE, help="A word list to audit: TSV, or the author's JSON of the trained set.")
@click.option("--control", type=FILE, help="The author's JSON of the control set, with --pairs.")
@REPORTED
@click.option("--strict", is_flag=True, help="Exit with 1 if a published statistic does not follow from the file.")
def audit(strict: bool, reported: Path, **files: Path | None) -> None:
    """Recompute published statistics; audit a word list."""
    from tli.commands import audit as module

    batch_size = load_params().train.batch_size
    module.run(**files, reported=reported, batch_size=batch_size, strict=strict)


@main.command("export-results")
@click.argument("run", metavar="RUN")
@out_option
@click.option("--rows", type=FILE, help="Row file that contains RUN.  [default: where the pipeline writes it]")
@click.option(
    "--metrics", type=FILE, help="Metrics of the stage benchmarks.  [default: results/<model>/benchmarks.json]"
)
@click.option("--samples", type=FILE, help="Folder to write samples_TASK.jsonl to, one line for each item.")
def export_results(run: str, out: Path, rows: Path | None, metrics: Path | None, samples: Path | None) -> None:
    """Write a run's accuracies in lm-eval's format.

    RUN is base, untrained, main, or a run of the sweep such as r8-s0. The file is like the results JSON of
    lm-evaluation-harness; --samples writes its samples files too, with ids in place of the items' texts.
    """
    from tli.commands import export_results as module

    params = load_params()
    metrics = metrics or Path("results") / params.model / "benchmarks.json"
    module.write(rows or module.rows_of(run, Path("build") / params.model), metrics, run, out, samples, params)


@main.command()
@click.argument("what", type=click.Choice(["adapter", "tables"]), default="adapter")
@click.option("--rank", type=int, help="Of an adapter: a rank of the sweep.  [default: the main run]")
@click.option("--seed", type=int, help="Of an adapter: a seed of the sweep.  [default: the first]")
@click.option("--format", "form", type=click.Choice(["csv", "json"]), help="Of tables.  [default: csv]")
@click.option(
    "--out",
    type=FILE,
    help="The folder to write.  [default: build/<model>/export/r<rank>-s<seed>, .../main or .../tables]",
)
def export(what: str, rank: int | None, seed: int | None, form: str | None, out: Path | None) -> None:
    """Write an adapter for a hub, or tables in full precision.

    An adapter's folder contains the weights, PEFT's configuration, a model card with the results, and a manifest.
    Nothing is uploaded. `tli export tables` writes each table of a model with nine digits, as CSV or JSON.
    """
    params = load_params()
    build, results = Path("build") / params.model, Path("results") / params.model
    if what == "tables":
        from tli.commands import export_tables

        if rank is not None or seed is not None:
            raise UserError("export tables: expected no --rank and no --seed, got one; they choose an adapter")
        out = out or build / "export" / "tables"
        names = export_tables.run(results / "tables.json", form or "csv", out)
        click.echo(f"{out}: {len(names)} tables")
        return
    from tli.commands import export_adapter

    if form is not None:
        raise UserError("export adapter: expected no --format, got one; it is for `tli export tables`")
    first = params.sweep.seeds[0] if seed is None else seed
    out = out or build / "export" / ("main" if rank is None else f"r{rank}-s{first}")
    names = export_adapter.run(rank, seed, build, results, out, params)
    click.echo(f"{out}: {', '.join(names)}; nothing was uploaded")


@main.command()
@click.option("--pairs", type=FILE, default=Path("data/pairs.tsv"), show_default=True, help="The word list.")
@click.option(
    "--cluster", is_flag=True, help="Show the hours of the sweep and the study on 1, 8 and 64 workers instead."
)
@click.option(
    "--measured", type=FILE, multiple=True, help="With --cluster: JSON from `make bench-8b` or tests/bench/gpu.py."
)
def plan(pairs: Path, cluster: bool, measured: tuple[Path, ...]) -> None:
    """Predict what a run will cost.

    Prints for each stage the bytes to fetch, to store and in memory, and the operations; for each model of the run, or
    that of --model. It fetches nothing and writes no file.
    """
    from tli.cluster import workers
    from tli.commands import plan as module

    for params in every_model():
        costs_folder = Path("docs") / "costs" / params.model
        if cluster:
            click.echo(workers.page(params, pairs, costs_folder, measured))
        else:
            click.echo(module.page(params, pairs, costs_folder))


@main.command("study-keys")
@click.argument("patterns", nargs=-1)
def study_keys(patterns: tuple[str, ...]) -> None:
    """Print keys of the study, for `dvc exp run -S`.

    Prints `study=[...]` with every key, or with those that match a pattern such as 's1-*' or '*-shuffled'. So
    `dvc exp run -S "$(tli study-keys)"` runs the whole study.
    """
    from tli.config import study as module

    click.echo(f"study=[{','.join(map(str, module.keys(load_params(model=parameters.STUDIED), patterns)))}]")


@main.command()
@click.argument("targets", nargs=-1)
@click.option("--dry-run", "dry", is_flag=True, help="Only print what would be submitted, in order.")
@click.option("--detach", is_flag=True, help="Do not wait for Slurm. `tli submit` again shows the state.")
def submit(targets: tuple[str, ...], dry: bool, detach: bool) -> None:
    """Run the sweep and the study on a cluster, or on all cores.

    TARGETS are as for `dvc repro`; the default is dvc.yaml. The stages of the sweep and the study that DVC would run
    become jobs, with the settings `cluster` of params.yaml (docs/cluster.md). Ctrl-C cancels the jobs that it
    submitted.
    """
    from tli.cluster import submit as module

    module.run(targets or ("dvc.yaml",), load_params(), dry, detach)


@main.command()
@click.argument("targets", nargs=-1)
def collect(targets: tuple[str, ...]) -> None:
    """Take the outputs of `tli submit` into DVC.

    TARGETS are as for `tli submit`. It checks hashes and receipts. `dvc repro` then does the rest.
    """
    from tli.cluster import collect as module

    module.run(targets or ("dvc.yaml",), load_params())


@main.command()
def summary() -> None:
    """Show the results of the last run on one screen."""
    from tli.commands import summary as module

    click.echo("\n\n".join(module.page(params, Path()) for params in every_model()))


@main.command()
def costs() -> None:
    """Write the times of the last runs to docs/costs/<model>."""
    from tli.commands import costs as module

    for params in every_model():
        build, out = Path("build") / params.model, Path("docs") / "costs" / params.model
        click.echo(f"costs   {params.model}: {module.run(build, out)}")


def use_code_of_current_folder() -> None:
    """Restarts this program with the code of the current folder, if it runs the code of another checkout.

    An environment contains the path of the checkout that made it. But a queued experiment, `dvc exp run --temp`, a git
    worktree and a second clone have their own code, and DVC hashes that code.

    Raises:
        UserError: after the restart Python still finds the other code, for example because of a .pth file.
    """
    code = Path("src").absolute()
    if not (code / "tli" / "__main__.py").is_file() or (code / "tli").samefile(Path(__file__).parent):
        return
    if os.environ.get("TLI_CODE") == str(code):
        raise UserError(
            f"tli: expected the code of this folder ({code}), got that of {Path(__file__).parents[1]}; "
            "activate this checkout's own environment"
        )
    path = os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH"))))
    os.execve(
        sys.executable,
        [sys.executable, "-m", "tli", *sys.argv[1:]],
        os.environ | {"PYTHONPATH": path, "TLI_CODE": str(code)},
    )


def start() -> None:
    """Runs the program `tli`, also as `python -m tli`."""
    try:
        use_code_of_current_folder()
    except UserError as error:
        error.show()
        sys.exit(error.exit_code)
    main(prog_name="tli")
