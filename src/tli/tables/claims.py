"""The study's claims: as published, with the values of this run that bear on them, and a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tli.analysis.claims import OTHERWISE, study_claims
from tli.analysis.results import Results
from tli.analysis.table import Cell, Column
from tli.config.parameters import Params

TITLE = "The study's claims"
CAPTION = (
    "The claims of the study's table, marked there as verified in their source (✓) or not (×), each with its "
    "confidence and published value, and what this run can say of it."
)
SOURCE = ()  # values of the tables before it
VIEW = "stated in the column `measured here`, as layer.pooling.quantisation, wherever it shows a similarity"
COLUMNS = (
    Column("id", "no.", "count", id=True),
    Column("claim", "claim"),
    Column("source", "source"),
    Column("confidence", "confidence", "number"),
    Column("published", "published", "number"),
    Column("evidence", "evidence"),
    Column("here", "measured here"),
    Column("tolerance", "tolerance", "number"),
    Column("verdict", "verdict"),
    Column("reason", "reason"),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per claim."""
    for claim in study_claims(results.values, results.published, params):
        row: dict[str, Cell] = {key: value for key, value in claim._asdict().items() if key != "verified"}
        yield {**row, "published": str(claim.published), "source": "✓" if claim.verified else "×"}


def notes(results: Results, params: Params) -> list[str]:
    """The verdicts counted, and what they mean."""
    claims = study_claims(results.values, results.published, params)
    verdicts = Counter(claim.verdict for claim in claims)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    verified = sum(claim.verified for claim in claims)
    return [
        f"The {len(claims)} claims, {verified} of them verified in their source; this run: {counts}.",
        "measured: a value of the published model on the author's lists, judged under `models=[lugha_llama]` with "
        "`pairs.source=author` only; the value shown is this run's",
        "configuration: read off what this run loaded and measured; `implemented so` says nothing of the paper's run",
        *(["implemented otherwise: a parameter of this run is not the paper's"] if OTHERWISE in verdicts else []),
    ]
