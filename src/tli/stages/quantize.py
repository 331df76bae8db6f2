"""Packs the base's projections in NF4 and in FP4, block by block (stage: quantize)."""

from __future__ import annotations

from pathlib import Path

from tli.config.parameters import Quantize
from tli.io import resume
from tli.io.files import atomic_dir, write_manifest
from tli.io.rows import Row, write_rows
from tli.model.four_bit import Dtype, inspect, layout, write_checkpoint


def run(base: Path, out: Path, rows: Path, quantize: Quantize, compute: Dtype) -> None:
    """The `quantize` stage: OUT/nf4 and OUT/fp4 with a manifest, and the evidence of both as rows."""
    evidence: list[Row] = []
    layout(base)  # refused before anything is kept
    with resume.checkpoints(out, [base], quantize=quantize, compute=compute) as finished:
        with atomic_dir(out) as folder:
            for kind, settings in (("nf4", quantize.nf4), ("fp4", quantize.fp4)):
                write_checkpoint(base, folder / kind, kind, settings, compute, finished)
                evidence += inspect(folder / kind, kind)
            write_manifest(folder)
        write_rows(rows, evidence)
