"""Massive activations of the BOS state, by the criterion of Sun et al. 2024 (2402.17762).

An activation is massive if its magnitude exceeds 100 and is at least 1,000 times the median magnitude of its layer.
"""

from __future__ import annotations

from typing import NamedTuple

from tli.analysis.results import Rows
from tli.analysis.table import shown
from tli.config.parameters import Params

NORMS = ("bos_norm", "content_norm", "bos_peak", "bos_peak_dimension", "median_magnitude")
LEAST, TIMES = 100, 1000


class Massive(NamedTuple):
    """The first layer with a massive activation, or None; and a sentence that says so."""

    layer: int | None
    note: str


def ratio(above: float, below: float) -> float | None:
    """above / below; None where below is 0."""
    return above / below if below else None


def massive_activation(rows: Rows, run: str, params: Params) -> Massive:
    """Looks at the layers 1 to L of a run: rows of the stage scan or similarity, view `layer.-.nf4`."""
    peaks = {}
    for layer in range(1, params.active.model.held + 1):
        peak, dimension, median = (rows.one(run, "all", f"{layer}.-.nf4", key) for key in NORMS[2:])
        peaks[layer] = (peak, int(dimension), ratio(peak, median) or 0.0)
    massive = [layer for layer, (peak, _, times) in peaks.items() if peak > LEAST and times >= TIMES]
    layer = massive[0] if massive else max(peaks, key=lambda layer: peaks[layer][2])
    peak, dimension, times = peaks[layer]
    place = f"layer {layer}, dimension {dimension}, magnitude {shown(peak, 'magnitude')}, "
    place += f"{shown(times, 'magnitude')} times the median"
    criterion = (
        f"massive activation of the BOS state (Sun et al. 2024, 2402.17762: magnitude above {LEAST} and at least "
        f"{TIMES:,} times the layer's median)"
    )
    if not massive:
        return Massive(None, f"{criterion}: none; the largest relative to the median is at {place}")
    return Massive(layer, f"{criterion}: first at {place}; in {len(massive)} of the layers 1 to {len(peaks)}")
