"""The factor of the LoRA update (tables: setup, adapter, ranks)."""

from __future__ import annotations

import math

from tli.config.parameters import Params


def factor(rank: int, params: Params) -> float:
    """The alpha / r that LoRA multiplies B A with: 2 (`2r`), 32 / r (`fixed32`), 8 / sqrt(r) (`rslora`)."""
    return {"2r": 2.0, "fixed32": 32 / rank, "rslora": 8 / math.sqrt(rank)}[params.lora.scaling]
