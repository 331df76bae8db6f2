"""What the paper reports, beside what was measured: at which layers and views its values may stand, and whose they are.

The values themselves stand in paper/reported.yaml. Feeds the layer scan, before and after, the gains, and `verify`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tli.paper import stats
from tli.params import Params
from tli.study.views import named


def is_published_model(params: Params) -> bool:
    """Whether this run's model is the one whose values were published."""
    return params.profile == "paper"


def whose(params: Params) -> str:
    """The sentence that says whose the published values are, where this run's model is another."""
    if is_published_model(params):
        return ""
    return "Published values are those of Lugha-Llama-8B-wura, another model than this run's."


def pilot(reported: Mapping[str, Any], params: Params) -> dict[str, float]:
    """Layer -> the pilot's published mean cosine of the trained pairs, under mask pooling and NF4.

    For another model than the published one only layers whose number means the same: 0, 1, 2, and L - 1 for 31 of 32.
    """
    values: dict[int, float] = reported["pilot"]
    if is_published_model(params):
        return {str(layer): value for layer, value in values.items()}
    same = {**{number: number for number in (0, 1, 2)}, 31: params.active.model.blocks - 1}
    return {str(place): values[layer] for layer, place in reversed(same.items())}


def readings(params: Params) -> dict[str, str]:
    """The two views at which the one published before/after value may be read: of the text, of the public scripts."""
    views = named(params.active.model.blocks)
    return {name: str(views[name]) for name in ("as_described", "as_scripted")}


READ_AS = (
    "Rows named published hold the paper's one set of values at both of its readings: its text says layer 31 and a "
    "mean over the attention mask; the public scripts evaluate hidden_states[2] under FP4 with BOS left out."
)


def said_of_fp4(params: Params) -> str:
    """How FP4 was made, and that the adapter is merged into it: `as_scripted` and its neighbours."""
    dtype = params.quantize.fp4.load_dtype
    here = ", as in the public scripts" if dtype == "float16" else "; the public scripts have float16"
    return f"Under FP4 the weights are cast to {dtype} before packing and the adapter is merged into them{here}."


def log10_of(p: str) -> float:
    """log10 of a p written as 1.33e-240, which may be too small for a float."""
    mantissa, _, exponent = p.partition("e")
    return math.log10(float(mantissa)) + int(exponent or 0)


def difference(reported: Mapping[str, Any], params: Params) -> stats.Welch:
    """Trained against control gain from the published summaries."""
    given = [reported["before_after"][set_] for set_ in ("trained", "control")]
    first, second = ((one["n"], one["gain"], one["gain_sd"]) for one in given)
    return stats.welch_from_summary(first, second, params.stats.confidence)
