"""Stage `report-data`: collect what the report shows of one model, as JSON.

Tables and sentences are those of the paper. What the page draws comes from the tables and from the rows.
"""

from __future__ import annotations

import json
from pathlib import Path

from tli.config.parameters import Params
from tli.io.files import write_text
from tli.report import page_data


def run(*, results: Path, build: Path, out: Path, params: Params) -> None:
    """Writes the data.

    Args:
        results: results/MODEL, with tables.json and verify.json.
        build: build/MODEL, with the word list, the items, and the rows of the base and of the paper's configuration.
        out: the JSON file to write.

    Raises:
        UserError: a file is missing or broken.
    """
    data = page_data.collect(results, build, params)
    write_text(out, json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")
