"""The commands: first the stages, in the order of the pipeline, then what people run around it.

Every stage is one command with its paths as arguments; dvc.yaml calls them, and so may you.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from tli.config import parameters
from tli.io import faults, progress, resume
from tli.io.errors import UserError
from tli.io.files import MANIFEST
from tli.io.receipts import last_receipt, write_receipt

# What imports make stays for good: not looked through again and again meanwhile, nor at the end, torch, transformers
# and PEFT are there, and gone, in two thirds of the time.
COLLECTED = gc.get_threshold()
gc.set_threshold(100_000, *COLLECTED[1:])
atexit.register(gc.freeze)

# One code path for float32 products on every processor with AVX2: MKL, PyTorch, oneDNN and OpenBLAS would each choose
# another by the instruction set, and add in another order. It costs nothing on AMD and a fifth of the time on Intel
# processors with AVX512. A variable that is set already stays; an empty one
# leaves the choice to the library.
PORTABLE = {
    "MKL_CBWR": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}

FILE = click.Path(path_type=Path)
SECTIONS = {  # of the help, after the stages; the stages check and verify are for people too
    "Results": ("summary", "audit", "export", "export-results"),
    "Maintenance": ("plan", "costs"),
    "Cluster": ("submit", "collect"),
}
FOR_PEOPLE = {name for names in SECTIONS.values() for name in names}
F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def one_line(path: str) -> Iterator[None]:
    """Says a mistake in the command line `path` as every other mistake is said, in one line."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        said = " ".join(error.format_message().split()).rstrip(".")
        where = error.ctx.command_path if error.ctx else path
        raise UserError(f"{where}: {said[:1].lower()}{said[1:]}; see `{where} --help`") from None


class Command(click.Command):
    def make_context(self, info_name: str | None, *args: Any, **kwargs: Any) -> click.Context:
        with one_line(f"tli {info_name}"):
            return super().make_context(info_name, *args, **kwargs)


class InOrder(click.Group):
    """A group whose help lists commands as they are written here, and whose commands end in one line, not a traceback,
    where the machine refuses something."""

    command_class = Command

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands in sections, the stages first."""
        for title, names in {"Stages": [n for n in self.commands if n not in FOR_PEOPLE], **SECTIONS}.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(limit=60)) for name in names])

    def make_context(self, info_name: str | None, *args: Any, **kwargs: Any) -> click.Context:
        with one_line("tli"):
            return super().make_context(info_name, *args, **kwargs)

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        with one_line("tli"):
            return super().resolve_command(context, args)

    def invoke(self, context: click.Context) -> Any:
        faults.open_streams()
        try:
            return super().invoke(context)
        except Exception as error:
            line = faults.explain(error, context.invoked_subcommand or "tli")
            if line is None:
                raise
            raise UserError(line) from error


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tli-artifact")
@click.option(
    "--set", "changes", metavar="KEY=VALUE", multiple=True, help="Change a value of params.yaml for this command."
)
@click.option("--model", metavar="NAME", help="A model of params.yaml.  [default: the first of `models`]")
@click.pass_context
def main(context: click.Context, changes: tuple[str, ...], model: str | None) -> None:
    """Targeted Lexical Injection and the LoRA-rank study: the stages of dvc.yaml, each a command."""
    context.obj = {"changes": dict(map(parameters.parse, changes)), "model": model}


def loaded(arm: str | None = None, model: str | None = None) -> parameters.Params:
    """params.yaml with what --set changes and what `arm` does, for `model` or the one that --model names."""
    given = click.get_current_context().find_root().obj
    return parameters.load(changes=given["changes"], arm=arm, model=model or given["model"])


def every_model() -> list[parameters.Params]:
    """The parameters of each model of the run, or of the one that --model names."""
    first = loaded()
    named = click.get_current_context().find_root().obj["model"]
    return [first] if named else [loaded(model=model) for model in first.models]


@contextmanager
def stage(
    out: Path,
    *inputs: Path,
    torch: bool = True,
    fetches: Callable[[parameters.Params], bool] = lambda _: False,
    arm: str | None = None,
) -> Iterator[parameters.Params]:
    """Loads the parameters, fixes what a process must fix before it computes, and leaves a receipt beside `out`.

    Meanwhile no other process writes `out`, and the stage ends when the dvc that runs it ends.
    No stage reaches the network but where `fetches` says that the parameters name a source there.
    """
    resume.end_with_dvc()
    params = loaded(arm)
    threads = str(params.active.compute.threads)
    # threads that wait spin for a moment, then sleep: without the first, two are no faster than one; without the second
    # they take the cores from whatever else runs, and every small layer waits
    os.environ |= {"OMP_NUM_THREADS": threads, "GOMP_SPINCOUNT": "1000", "TOKENIZERS_PARALLELISM": "false"}
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy's: its matrices are small, and its waiting threads never sleep
    if params.active.compute.dtype == "float32" and params.active.compute.device == "cpu":
        for name, value in PORTABLE.items():
            if os.environ.setdefault(name, value) == "":
                del os.environ[name]
    os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' own bars, beside the stage's
    os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1"} | ({} if fetches(params) else {"HF_HUB_OFFLINE": "1"})
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms need on a GPU
    # bitsandbytes warns that the package `kernels`, which would ask the network for native code, is not there
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if torch:
        from tli.model import backbone

        gc.freeze()
        gc.set_threshold(*COLLECTED)  # for what may hold tensors
        backbone.setup(params.active.compute.threads, params.active.compute.device)
    with resume.lock(out), progress.stage(_name(), last_receipt(out)) as told, write_receipt(out, inputs, told.pace):
        yield params


def _name() -> str:
    """The running command as `tli costs` lists it: with its rank or arm where it has one."""
    context = click.get_current_context()
    cell = context.params.get("rank") or context.params.get("arm")
    return f"{context.info_name}@{cell}" if cell else str(context.info_name)


out_option = click.option("--out", type=FILE, required=True, help="What the stage writes.")
metrics_option = click.option("--metrics", type=FILE, required=True, help="Small JSON of metrics.")
rows_option = click.option("--rows", type=FILE, required=True, help="Rows (TSV) that the stage writes.")
rank_option = click.option("--rank", type=int, help="The cell's LoRA rank.")
arm_option = click.option("--arm", help="Or the arm of params.yaml: its changes, every rank of it.")


@main.command()
@click.option("--out", type=FILE, help="As the stage: check params.yaml alone, and write a constant there.")
@click.option("--repair", is_flag=True, help="Put back what has a copy; set the rest aside, for `dvc repro`.")
def check(out: Path | None, repair: bool) -> None:
    """Check params.yaml; without --out every file too.

    Every stage depends on the stage of this name, which is given --out. Without it every file of data/, of the
    pipelines' outputs, of DVC's cache and of the remote in the repository is read to its last byte and held against
    its hash; each that is not as it was written is told in a line, and the exit status is 1.
    """
    if out is not None:
        if repair:
            raise UserError("check: --repair: expected no --out beside it, got one; leave one of the two out")
        given = click.get_current_context().find_root().obj
        from tli.stages import check as module

        module.run(out, changes=given["changes"], model=given["model"])
        return
    from tli.commands import check_files

    loaded()
    check_files.run(repair)


@main.command()
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@out_option
@click.option("--audit", type=FILE, required=True, help="JSON of the word list's audit.")
@click.option("--words", type=FILE, help="Also: the words whose embeddings a partial base needs.")
def words(pairs_path: Path, out: Path, audit: Path, words: Path | None) -> None:
    """Check our word pairs, or fetch and audit the author's."""
    with stage(out, pairs_path, torch=False, fetches=lambda params: params.pairs.source == "author") as params:
        from tli.stages import words as module

        module.run(pairs_path, out, audit, params, words)


@main.command()
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("vocabulary", type=FILE)
@out_option
@metrics_option
def microworld(pairs_path: Path, vocabulary: Path, out: Path, metrics: Path) -> None:
    """Generate the micro-world: a corpus and its items."""
    from tli.stages import microworld as module

    with stage(out, pairs_path, torch=False) as params:
        module.run(pairs_path, vocabulary, out, metrics, params.active.benchmarks)


@main.command()
@click.argument("world_path", metavar="WORLD", type=FILE)
@out_option
@metrics_option
@click.option("--words", type=FILE, help="The words to have, where only a part of a model is fetched.")
def base(world_path: Path, out: Path, metrics: Path, words: Path | None) -> None:
    """Make the base model: packaged, versioned, pre-trained or fetched."""
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
    """Ask the items as the harness would; score baselines."""
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
    """Measure every layer of the base."""
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
    """Train the paper's cell, or fetch the author's adapter."""
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
    """Measure the base: similarity and item scores."""
    with stage(out, pairs_path, items, quantized / MANIFEST) as params:
        from tli.stages import base_rows as module

        module.run(pairs_path, items, quantized, out, params)


@main.command()
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("quantized", type=FILE)
@click.argument("adapter", type=FILE)
@out_option
def similarity(pairs_path: Path, quantized: Path, adapter: Path, out: Path) -> None:
    """Measure alignment before and after, pair by pair."""
    with stage(out, pairs_path, quantized / MANIFEST, adapter / "adapter_model.safetensors") as params:
        from tli.stages import similarity as module

        module.run(pairs_path, quantized, adapter, out, params)


@main.command()
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("quantized", type=FILE)
@out_option
def bfloat16(pairs_path: Path, quantized: Path, out: Path) -> None:
    """Train and measure the paper's cell in bfloat16."""
    with stage(out, pairs_path, quantized / MANIFEST) as params:
        from tli.stages import bfloat16 as module

        module.run(pairs_path, quantized, out, params)


@main.command()
@click.argument("items", type=FILE)
@click.argument("quantized", type=FILE)
@click.argument("adapter", type=FILE)
@out_option
def score(items: Path, quantized: Path, adapter: Path, out: Path) -> None:
    """Score the benchmarks' items before and after."""
    with stage(out, items, quantized / MANIFEST, adapter / "adapter_model.safetensors") as params:
        from tli.stages import score as module

        module.run(items, quantized, adapter, out, params)


@main.command()
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("quantized", type=FILE)
@click.argument("adapter", type=FILE)
@out_option
def translate(pairs_path: Path, quantized: Path, adapter: Path, out: Path) -> None:
    """Ask for translations by prompt, before and after."""
    with stage(out, pairs_path, quantized / MANIFEST, adapter / "adapter_model.safetensors") as params:
        from tli.stages import translate as module

        module.run(pairs_path, quantized, adapter, out, params)


@main.command()
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("quantized", type=FILE)
@click.argument("adapter", type=FILE)
@out_option
def tsne(pairs_path: Path, quantized: Path, adapter: Path, out: Path) -> None:
    """Lay pairs out in two dimensions, before and after."""
    with stage(out, pairs_path, quantized / MANIFEST, adapter / "adapter_model.safetensors") as params:
        from tli.stages import tsne as module

        module.run(pairs_path, quantized, adapter, out, params)


def adapter_folders(params: parameters.Params, rank: int | None, arm: str | None) -> dict[int, str]:
    """Rank -> folder of its adapters inside the stage's output: the output itself for one rank, rR for an arm's.

    Raises:
        UserError: neither or both of a rank and an arm are given.
    """
    if (rank is None) == (arm is None):
        raise UserError(f"expected --rank or --arm, got {'neither' if rank is None else 'both'}; give one")
    return {rank: "."} if rank is not None else {each: f"r{each}" for each in params.arms[str(arm)].ranks}


@main.command("sweep-train")
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("quantized", type=FILE)
@rank_option
@arm_option
@out_option
@rows_option
def sweep_train(pairs_path: Path, quantized: Path, rank: int | None, arm: str | None, out: Path, rows: Path) -> None:
    """Train one rank of the sweep, or one arm of the grid."""
    with stage(out, pairs_path, quantized / MANIFEST, arm=arm) as params:
        from tli.stages import sweep_train

        sweep_train.run(pairs_path, quantized, adapter_folders(params, rank, arm), out, rows, params, arm)


@main.command("sweep-score")
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("items", type=FILE)
@click.argument("quantized", type=FILE)
@click.argument("adapters", type=FILE)
@rank_option
@arm_option
@out_option
def sweep_score(
    pairs_path: Path, items: Path, quantized: Path, adapters: Path, rank: int | None, arm: str | None, out: Path
) -> None:
    """Measure one rank of the sweep, or one arm of the grid."""
    with stage(out, pairs_path, items, quantized / MANIFEST, arm=arm) as params:
        from tli.stages import sweep_score

        ranks = adapter_folders(params, rank, arm)
        sweep_score.run(pairs_path, items, quantized, adapters, ranks, out, params, arm)


@main.command()
@click.argument("base_path", metavar="BASE", type=FILE)
@click.argument("quantized", type=FILE)
@click.argument("pairs_path", metavar="PAIRS", type=FILE)
@click.argument("items", type=FILE)
@out_option
@rows_option
def bos(base_path: Path, quantized: Path, pairs_path: Path, items: Path, out: Path, rows: Path) -> None:
    """Make the base's BOS state massive, the rest left as is."""
    with stage(out, base_path / "model.safetensors", quantized / MANIFEST, pairs_path, items) as params:
        from tli.model import attention_sink as module

        module.run(base_path, quantized, pairs_path, items, out, rows, params)


REPORTED = click.option(
    "--reported", type=FILE, default=Path("paper/reported.yaml"), show_default=True, help="Published values."
)


def given(name: str, text: str) -> Callable[[F], F]:
    """A required path of the `tables` command."""
    return click.option(f"--{name}", type=FILE, required=True, help=text)


@main.command()
@given("pairs", "The checked word list.")
@given("pairs-audit", "Metrics of the stage words.")
@given("world", "Metrics of the stage microworld.")
@given("base", "Metrics of the stage base.")
@given("benchmarks", "Metrics of the stage benchmarks.")
@given("quantize", "Rows of the stage quantize.")
@given("base-rows", "Folder of the stage base-rows.")
@given("scan", "Rows of the stage scan.")
@given("train", "Rows of the stage train.")
@given("align", "Rows of the stage similarity.")
@given("bfloat16", "Rows of the stage bfloat16.")
@given("transfer", "Rows of the stage score.")
@given("probe", "Rows of the stage translate.")
@given("project", "Rows of the stage tsne.")
@given("baselines", "Rows of the baselines without a model.")
@given("items", "The items, as every model is asked them.")
@given("sweep", "Folder of the sweep.")
@REPORTED
@given("tables", "Folder of tables to write.")
@given("figures-out", "Folder of figures to write.")
@given("plots-out", "Folder of curves to write, for dvc plots.")
@given("headline", "JSON of a few numbers to write.")
@given("measured", "JSON of every number to write.")
def tables(tables: Path, **paths: Path) -> None:
    """Turn the rows into every table and figure."""
    from tli.paper import tables as module

    with stage(tables, torch=False) as params:
        module.run(tables=tables, params=params, **paths)


@main.command("tables-full")
@click.argument("folder", type=FILE)
@given("tables", "Folder of tables to write.")
@given("figures-out", "Folder of figures to write.")
@given("measured", "JSON of every number to write.")
def tables_full(folder: Path, tables: Path, figures_out: Path, measured: Path) -> None:
    """Make the tables and figures of the full grid.

    FOLDER holds the rows that full/dvc.yaml writes, a folder a base.
    """
    from tli.paper import grid

    with stage(tables, torch=False) as params:
        arms = {name: loaded(name) for name in (*params.sweep.arms, *params.sweep.bos_arms)}
        grid.run(folder, tables, figures_out, measured, params, arms)


@main.command()
@click.option("--measured", type=FILE, help="Measured values.  [default: results/<model>/measured.json]")
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
@click.option("--out", type=FILE, help="As the stage: write the verdicts there (JSON) and fail for none.")
@click.option("--strict", is_flag=True, help="Exit 1 where any value lies outside its tolerance.")
@click.option(
    "--all", "every", is_flag=True, help="Print every value, not only the published ones and those that differ."
)
@click.option("--against", type=FILE, metavar="FOLDER", help="Compare with the run in another checkout instead.")
def verify(
    measured: Path | None, out: Path | None, strict: bool, every: bool, against: Path | None, **paths: Path
) -> None:
    """Compare with published and with recorded values.

    Exit status 1 where a conclusion changes, more than 1 % of a kind's values leave their tolerance, or one leaves it
    fivefold. Without --model for every model of the run.
    """
    from tli.paper import verify as module

    check_files, failures = module.Files(**paths), []
    for params in every_model():
        if against is not None:
            failures += module.against(against, check_files, params, strict, every)
            continue
        path = measured or Path("results") / params.model / "measured.json"
        failures += module.run(measured=path, files=check_files, params=params, out=out, strict=strict, every=every)
        if out is None:
            failures += module.base_weights(Path("build") / params.model, check_files, params)
    if out is None or strict:
        module.finish(failures, "verify")


@main.command()
@click.argument("source", type=FILE)
@given("tables", "Folder with a folder of tables for each model.")
@given("figures", "Folder with a folder of figures for each model.")
@given("results", "Folder with measured.json and verify.json of each model, in a folder each.")
@REPORTED
@given("numbers", "Folder to write: document.json and numbers.tex.")
@out_option
def paper(source: Path, out: Path, **paths: Path) -> None:
    """Write the paper as PDF, and its numbers for LaTeX.

    SOURCE holds main.typ, style.typ and references.bib. The paper shows every model of the run, or the one of --model.
    """
    from tli.paper import document

    with stage(out, source / "main.typ", torch=False):
        document.run(source=source, out=out, models=every_model(), **paths)


@main.command("report-data")
@given("tables", "Folder with a folder of tables for each model.")
@given("verify", "JSON of the verdicts.")
@given("pairs", "The checked word list.")
@given("items", "The scored items.")
@given("base-rows", "Folder of the stage base-rows.")
@given("align", "Rows of the stage similarity.")
@given("transfer", "Rows of the stage score.")
@out_option
def report_data(out: Path, **paths: Path) -> None:
    """Gather what the report shows of one model, as JSON."""
    from tli.paper import report_data

    with stage(out, paths["verify"], torch=False) as params:
        report_data.run(out=out, params=params, **paths)


@main.command()
@click.argument("source", type=FILE)
@given("folder", "Folder of the stage report-data.")
@given("pipeline", "dvc.yaml.")
@given("requirements", "The list of packages.")
@out_option
def report(source: Path, out: Path, **paths: Path) -> None:
    """Write the report: one HTML file that needs no network.

    SOURCE holds report.html.j2, report.css and report.js. The page shows every model of the run, or the one of --model.
    """
    from tli.paper import report as module

    with stage(out, source / "report.html.j2", torch=False):
        module.run(source=source, out=out, models=[params.model for params in every_model()], **paths)


@main.command()
@click.option("--results", type=FILE, help="Per-pair results in the author's format (CSV), held against the published.")
@click.option("--pilot", type=FILE, help="Mean cosine by layer in the author's format (CSV), likewise.")
@click.option("--pairs", type=FILE, help="A word list to count: TSV, or the author's JSON (the trained set).")
@click.option("--control", type=FILE, help="The control set's JSON, beside --pairs.")
@REPORTED
@click.option("--strict", is_flag=True, help="Exit 1 where a published statistic does not follow from the file.")
def audit(strict: bool, reported: Path, **files: Path | None) -> None:
    """Recompute published statistics; audit a word list."""
    from tli.commands import audit as module

    batch_size = loaded().train.batch_size
    module.run(**files, reported=reported, batch_size=batch_size, strict=strict)


@main.command("export-results")
@click.argument("cell")
@out_option
@click.option("--rows", type=FILE, help="Row file that holds CELL.  [default: where the pipeline writes it]")
@click.option("--metrics", type=FILE, help="Of benchmarks.  [default: results/<model>/benchmarks.json]")
def export_results(cell: str, out: Path, rows: Path | None, metrics: Path | None) -> None:
    """Write a cell's accuracies in the harness's form.

    CELL is base, untrained, main or a cell of the sweep such as r8-s0; the file is lm-evaluation-harness's results
    JSON.
    """
    from tli.commands import export_results as module

    params = loaded()
    metrics = metrics or Path("results") / params.model / "benchmarks.json"
    module.run(rows or module.rows_of(cell, Path("build") / params.model), metrics, cell, out, params)


@main.command()
@click.option("--rank", type=int, help="A rank of the sweep.  [default: the paper's cell]")
@click.option("--seed", type=int, help="A seed of the sweep.  [default: its first]")
@click.option("--out", type=FILE, help="The folder.  [default: build/<model>/export/r<rank>-s<seed>, or .../main]")
def export(rank: int | None, seed: int | None, out: Path | None) -> None:
    """Make an adapter's folder ready for a hub.

    Weights, PEFT's configuration, a model card with the results, a manifest. Nothing is uploaded.
    """
    from tli.commands import export_adapter

    params = loaded()
    build, tables = Path("build") / params.model, Path("paper") / "tables" / params.model
    first = params.sweep.seeds[0] if seed is None else seed
    out = out or build / "export" / ("main" if rank is None else f"r{rank}-s{first}")
    names = export_adapter.run(rank, seed, build, tables, Path("results") / params.model / "base.json", out, params)
    click.echo(f"{out}: {', '.join(names)}; nothing was uploaded")


@main.command()
@click.option(
    "--pairs", type=FILE, default=Path("data/pairs.tsv"), show_default=True, help="The word list that is counted."
)
@click.option("--cluster", is_flag=True, help="Instead: the full grid's cells, and their hours on 1, 8 and 64 workers.")
@click.option(
    "--measured", type=FILE, multiple=True, help="With --cluster: JSON of `make bench-8b` or of tests/bench/gpu.py."
)
def plan(pairs: Path, cluster: bool, measured: tuple[Path, ...]) -> None:
    """Say beforehand what a run will cost.

    For each model of the run, or the one of --model, by stage: bytes fetched, stored and held in memory, operations.
    Nothing is fetched for it, and no file written.
    """
    from tli.cluster import workers
    from tli.commands import plan as module

    for params in every_model():
        costs_of = Path("docs") / "costs" / params.model
        if cluster:
            arms = {name: loaded(name, params.model) for name in workers.arms(params)}
            click.echo(workers.page(params, arms, pairs, costs_of, measured))
        else:
            click.echo(module.page(params, pairs, costs_of))


@main.command()
@click.argument("targets", nargs=-1)
@click.option("--dry-run", "dry", is_flag=True, help="Say what would be submitted, in which order; do nothing.")
@click.option("--detach", is_flag=True, help="Leave Slurm to it; `tli submit` again says how far it is.")
def submit(targets: tuple[str, ...], dry: bool, detach: bool) -> None:
    """Run the sweep's cells on a cluster, or on all cores.

    TARGETS: as for `dvc repro`; dvc.yaml if none is given. What dvc would have to run of the sweep becomes jobs, under
    `cluster` of params.yaml (docs/cluster.md). Interrupted, it cancels the jobs that it submitted.
    """
    from tli.cluster import submit as module

    module.run(targets or ("dvc.yaml",), loaded(), dry, detach)


@main.command()
@click.argument("targets", nargs=-1)
def collect(targets: tuple[str, ...]) -> None:
    """Take what `tli submit` had made into DVC.

    TARGETS: as for `tli submit`. Checks hashes and receipts; `dvc repro` then does the rest.
    """
    from tli.cluster import collect as module

    module.run(targets or ("dvc.yaml",), loaded())


@main.command()
def summary() -> None:
    """Say on one screen what the last run found."""
    from tli.commands import summary as module

    click.echo("\n\n".join(module.page(params, Path()) for params in every_model()))


@main.command()
def costs() -> None:
    """Collect what the last runs took, in docs/costs/<model>."""
    from tli.commands import costs as module

    for params in every_model():
        build, out = Path("build") / params.model, Path("docs") / "costs" / params.model
        click.echo(f"costs   {params.model}: {module.run(build, out)}")


def use_code_of_current_folder() -> None:
    """Starts again with the code of the checkout in the current folder, where this process runs another checkout's.

    An environment holds the path of the checkout that made it. A queued experiment, `dvc exp run --temp`, a git
    worktree and a second clone have code of their own, which is what DVC hashes for them.

    Raises:
        UserError: Python still finds the other code, for instance under a .pth file that comes first.
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
    """The program `tli`, also as `python -m tli`."""
    try:
        use_code_of_current_folder()
    except UserError as error:
        error.show()
        sys.exit(error.exit_code)
    main(prog_name="tli")
