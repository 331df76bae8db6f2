"""Stage `quantize`: packs the base's projection matrices in 4 bits, as NF4 and as FP4.

    w ~ c q,    c = max |w| of a chunk of 64 values, q one of the 16 values of the type (2305.14314, section 3)

Details: model/four_bit.py.

Input: the base checkpoint.
Outputs: OUT/nf4 and OUT/fp4 (transformers checkpoints) with a manifest of hashes, and rows of run `base`; sets nf4 and
fp4; items model, projections and others; measures such as quant_type, parameters, bytes.

Used by: the table `setup`, and through the 4-bit models by every other table.
"""

from __future__ import annotations

from pathlib import Path

from tli.config.parameters import Quantize
from tli.io import resume
from tli.io.files import atomic_dir, write_manifest
from tli.io.rows import Row, write_rows
from tli.model.four_bit import Dtype, inspect, layout, write_checkpoint


def run(base: Path, out: Path, rows: Path, quantize: Quantize, compute: Dtype) -> None:
    """Writes OUT/nf4 and OUT/fp4 with a manifest, and rows that describe both as loaded.

    Raises:
        UserError: the base checkpoint is not complete.
        CheckFailed: a loaded projection is not of the expected type.
    """
    description: list[Row] = []
    layout(base)  # check the checkpoint before writing anything
    with resume.checkpoints(out, [base], quantize=quantize, compute=compute) as finished:
        with atomic_dir(out) as folder:
            for kind, settings in (("nf4", quantize.nf4), ("fp4", quantize.fp4)):
                write_checkpoint(base, folder / kind, kind, settings, compute, finished)
                description += inspect(folder / kind, kind)
            write_manifest(folder)
        write_rows(rows, description)
