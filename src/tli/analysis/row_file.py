"""Single row files as look-ups, for what needs only a few of a model's files (report, `tli export-results`)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tli.analysis.results import Rows, check_unique
from tli.io.rows import read_rows


def read_files(*paths: Path) -> Rows:
    """The rows of one file, or of several of the same stage. Error messages name the first file.

    Raises:
        UserError: a file is missing or broken, or two rows are the same.
    """
    frames = [read_rows(path) for path in paths]
    frame = pd.concat(frames, ignore_index=True)
    check_unique(paths[0], frame)
    rows = Rows(frame, paths[0].stem)
    rows.path = str(paths[0])
    return rows
