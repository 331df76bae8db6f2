"""The keys of the study: which there are, and the parameters on which the rows of each depend."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from tli.config.parameters import Key, Params
from tli.io.errors import UserError


def settings(key: Key, params: Params) -> dict[str, Any]:
    """Everything in params.yaml that the rows of a key depend on, as JSON: the key's file of the plan.

    Args:
        params: the parameters of the key (`Params.of_key`).
    """
    chosen = params.model_dump(
        mode="json",
        include={"quantize": True, "lora": True, "train": True, "measure": True, "score": True, "sweep": True},
        exclude={"lora": {"rank"}, "train": {"seed"}},  # the study has the ranks and the seeds of its sweep
    )
    sink = params.sink.model_dump(mode="json") if params.variants[key.variant].sink else None
    return {"base": key.base, "variant": key.variant, **chosen, "sink": sink, **params.active.model_dump(mode="json")}


def keys(params: Params, patterns: Sequence[str] = ()) -> list[Key]:
    """Every key, base by base; or those that match a pattern such as `s1-*` or `*-shuffled`.

    Raises:
        UserError: no key matches one of the patterns.
    """
    known = [Key(base, variant) for base in params.bases for variant in params.variants]
    for pattern in patterns:
        if not any(fnmatchcase(str(key), pattern) for key in known):
            raise UserError(
                f"tli study-keys: expected patterns of keys such as {known[0] if known else 's1-2r'} or '*-shuffled', "
                f"got {pattern!r}, which matches none; see bases and variants in params.yaml"
            )
    return [key for key in known if not patterns or any(fnmatchcase(str(key), pattern) for pattern in patterns)]
