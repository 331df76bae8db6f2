"""Stage `report-data`: collect what the report shows of one model, as JSON.

Tables and sentences are those of the paper. What the page draws comes from the tables and from the rows.
"""

from __future__ import annotations

import json
from pathlib import Path

from tli.config.parameters import Params
from tli.io.files import write_text
from tli.report import page_data


def run(
    *,
    tables: Path,
    verify: Path,
    pairs: Path,
    items: Path,
    base_rows: Path,
    similarity: Path,
    score: Path,
    out: Path,
    params: Params,
) -> None:
    """Writes the data.

    Args:
        tables: tables.json of the model.
        verify: verify.json of the model.
        pairs: the checked word list.
        items: the rendered benchmark items.
        base_rows: folder of the stage base-rows.
        similarity: rows of the stage similarity.
        score: rows of the stage score.
        out: the JSON file to write.

    Raises:
        UserError: a file is missing or broken.
    """
    sources = page_data.Sources(
        tables=tables,
        verify=verify,
        pairs=pairs,
        items=items,
        similarity=(base_rows / "similarity.tsv", similarity),
        score=(base_rows / "score.tsv", score),
    )
    data = page_data.collect(sources, params)
    write_text(out, json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")
