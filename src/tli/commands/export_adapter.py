"""An adapter as a folder that a hub would take: weights, configuration, card with results, manifest. Uploads nothing.

The card is the one that training wrote (model/card.py), its results read from the tables as shown there. Feeds no
table.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tli.config.parameters import HubModel, Params
from tli.io.errors import UserError
from tli.io.files import atomic_dir, read_text, sha256_of, write_manifest, write_text
from tli.io.structured import read_json
from tli.model import card, lora
from tli.paper import collected
from tli.paper.collected import Collected

TABLES = ("ranks", "xcopa", "xnli")


def source(rank: int | None, seed: int | None, build: Path, params: Params) -> Path:
    """Where the adapter lies: without a rank the paper's cell, else the sweep's, of its first seed unless one is given.

    Raises:
        UserError: the sweep has no such cell, or the author's adapter is asked for, which is not ours to pass on.
    """
    if rank is None:
        if params.adapter.source == "author":
            raise UserError(
                "params.yaml: adapter.source: expected trained, got author, whose adapter has no licence to pass it "
                "on; name a rank of the sweep with --rank"
            )
        return build / "adapter"
    sweep, chosen = params.sweep, params.sweep.seeds[0] if seed is None else seed
    for name, value, known in (("rank", rank, sweep.ranks), ("seed", chosen, sweep.seeds)):
        if value not in known:
            listed = ", ".join(map(str, known))
            raise UserError(
                f"--{name}: expected one of the sweep's, {listed}, got {value}; add it to sweep.{name}s and run "
                "`dvc repro`"
            )
    return build / "sweep" / "adapters" / f"r{rank}" / f"s{chosen}"


def results(tables: Path, rank: int, params: Params) -> str:
    """The lines of `rank` and of rank 0 in the tables by rank, as Markdown; a caption says what they are means of."""
    page = collected.read(tables)
    known = [page.tables[name] for name in TABLES if name in page.tables]
    parts = [f"Of the run with this adapter, profile `{params.model}`; rank 0 is the base without it."]
    for table in known:
        lines = [*_lines(table, rank)]
        if lines:
            parts.append(f"**{table.title}.** {table.caption}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _lines(table: Collected, rank: int) -> Iterator[str]:
    at = [column.key for column in table.columns].index("rank")
    chosen = [line for line in table.lines if line[at] in ("0", str(rank))]
    if any(line[at] != "0" for line in chosen):
        yield f"| {' | '.join(column.title for column in table.columns)} |"
        yield f"| {' | '.join('--:' if column.number else ':--' for column in table.columns)} |"
        yield from (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in chosen)


def run(
    rank: int | None, seed: int | None, build: Path, tables: Path, fetched: Path, out: Path, params: Params
) -> list[str]:
    """Writes the folder `out`, which is replaced as a whole, and returns the names of its files.

    Args:
        build, tables: the profile's folders. fetched: metrics of the stage `base`; of a fetched model, its revision.

    Raises:
        UserError: the adapter is not there, or was trained on another word list than the tables are of.
    """
    folder = source(rank, seed, build, params)
    for file in (lora.WEIGHTS, lora.SETTINGS, lora.CARD):
        if not (folder / file).is_file():
            raise UserError(f"{folder / file}: no such file; run `dvc repro`, which trains the adapter")
    said = read_text(folder / lora.CARD)
    listed = sha256_of(build / "pairs.tsv")
    if listed not in said:
        raise UserError(
            f"{folder / lora.CARD}: expected training on {build / 'pairs.tsv'} ({listed}), got another list; "
            "run `dvc repro`"
        )
    settings = read_json(folder / lora.SETTINGS)
    measured = results(tables, int(settings["r"]), params)
    said = re.sub(rf"(?<=^{card.RESULTS}\n\n)[^\n]*", lambda _: measured, said, count=1, flags=re.M)
    model, revision = params.active.model, None
    with atomic_dir(out) as temporary:
        shutil.copyfile(folder / lora.WEIGHTS, temporary / lora.WEIGHTS)
        shutil.copyfile(folder / lora.SETTINGS, temporary / lora.SETTINGS)
        base = str(settings["base_model_name_or_path"])
        if isinstance(model, HubModel):
            base, revision = model.repo, str(read_json(fetched)["revision"])
            said = said.replace(f"revision `{model.revision}`", f"revision `{revision}`")
            said = said.replace(f'revision="{model.revision}"', f'revision="{revision}"')
            said = said.replace(f"revision={model.revision}", f"revision={revision}")
            said = said.replace("; `first` is the one noted in fetched.sha256", "")
        lora.write_settings(temporary, base, revision)
        write_text(temporary / lora.CARD, said)
        write_manifest(temporary)
    return sorted(file.name for file in out.iterdir())
