"""`tli export adapter`: writes an adapter as a folder for a hub: weights, configuration, model card and manifest.

The card is the one that training wrote (model/card.py), with results from the tables added. Nothing is uploaded.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tli.analysis.render import read_model
from tli.analysis.table import Table
from tli.config.parameters import HubModel, Params
from tli.io.errors import UserError
from tli.io.files import atomic_dir, read_text, sha256_of, write_manifest, write_text
from tli.io.structured import read_json
from tli.model import card, lora

TABLES = ("ranks", "accuracy_by_rank")


def source(rank: int | None, seed: int | None, build: Path, params: Params) -> Path:
    """Returns the folder of an adapter.

    Args:
        rank: a rank of the sweep; None is the main run.
        seed: a seed of the sweep; None is the first.
        build: the folder build/<model>.
        params: the parameters.

    Raises:
        UserError: the sweep has no such run, or the main adapter is the author's, whose licence does not allow copies.
    """
    if rank is None:
        if params.adapter.source == "author":
            raise UserError(
                "params.yaml: adapter.source: expected trained, got author, whose adapter has no licence that "
                "allows copies; give a rank of the sweep with --rank"
            )
        return build / "adapter"
    sweep, chosen = params.sweep, params.sweep.seeds[0] if seed is None else seed
    for name, value, allowed in (("rank", rank, sweep.ranks), ("seed", chosen, sweep.seeds)):
        if value not in allowed:
            listed = ", ".join(map(str, allowed))
            raise UserError(
                f"--{name}: expected one of the sweep's, {listed}, got {value}; add it to sweep.{name}s and run "
                "`dvc repro`"
            )
    return build / "sweep" / "adapters" / f"r{rank}" / f"s{chosen}"


def results_by_rank(path: Path, rank: int, params: Params) -> str:
    """Returns the rows of `rank` and of rank 0 in the tables by rank, as Markdown.

    Args:
        path: results/<model>/tables.json.
        rank: the adapter's rank.
        params: the parameters.
    """
    tables = read_model(path).tables
    present = [tables[name] for name in TABLES if name in tables]
    parts = [f"Results of the run with this adapter, model `{params.model}`. Rank 0 is the base without an adapter."]
    for table in present:
        lines = [*_lines(table, rank)]
        if lines:
            parts.append(f"**{table.title}.** {table.full_caption}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _lines(table: Table, rank: int) -> Iterator[str]:
    """The rows of `rank` and of rank 0 as a Markdown table; nothing if the table has no row of `rank`."""
    chosen = [line for row, line in zip(table.rows, table.text, strict=True) if row["rank"] in (0, rank)]
    if table.matching(rank=rank):
        yield f"| {' | '.join(column.title for column in table.columns)} |"
        yield f"| {' | '.join(':--' if column.kind == 'text' else '--:' for column in table.columns)} |"
        yield from (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in chosen)


def run(rank: int | None, seed: int | None, build: Path, results: Path, out: Path, params: Params) -> list[str]:
    """Writes the folder `out`, replacing what is there, and returns the names of its files.

    Args:
        rank: a rank of the sweep; None is the main run.
        seed: a seed of the sweep; None is the first.
        build: the folder build/<model>.
        results: the folder results/<model>, with tables.json, and base.json with the revision of a fetched model.
        out: the folder to write.
        params: the parameters.

    Raises:
        UserError: there is no such adapter, or it was trained on another word list than that of the tables.
    """
    folder = source(rank, seed, build, params)
    for file in (lora.WEIGHTS, lora.SETTINGS, lora.CARD):
        if not (folder / file).is_file():
            raise UserError(f"{folder / file}: no such file; run `dvc repro`, which trains the adapter")
    text = read_text(folder / lora.CARD)
    pairs_hash = sha256_of(build / "pairs.tsv")
    if pairs_hash not in text:
        raise UserError(
            f"{folder / lora.CARD}: expected training on {build / 'pairs.tsv'} ({pairs_hash}), got another list; "
            "run `dvc repro`"
        )
    settings = read_json(folder / lora.SETTINGS)
    measured = results_by_rank(results / "tables.json", int(settings["r"]), params)
    text = re.sub(rf"(?<=^{card.RESULTS}\n\n)[^\n]*", lambda _: measured, text, count=1, flags=re.M)
    model, revision = params.active.model, None
    with atomic_dir(out) as temporary:
        shutil.copyfile(folder / lora.WEIGHTS, temporary / lora.WEIGHTS)
        shutil.copyfile(folder / lora.SETTINGS, temporary / lora.SETTINGS)
        base = str(settings["base_model_name_or_path"])
        if isinstance(model, HubModel):
            base, revision = model.repo, str(read_json(results / "base.json")["revision"])
            text = text.replace(f"revision `{model.revision}`", f"revision `{revision}`")
            text = text.replace(f'revision="{model.revision}"', f'revision="{revision}"')
            text = text.replace(f"revision={model.revision}", f"revision={revision}")
            text = text.replace("; `first` is the one noted in fetched.sha256", "")
        lora.write_settings(temporary, base, revision)
        write_text(temporary / lora.CARD, text)
        write_manifest(temporary)
    return sorted(file.name for file in out.iterdir())
