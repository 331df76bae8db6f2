"""Every number of the paper's text by its key, as a reader sees it (document.json and numbers.tex).

`MODEL/NAME/ROW/COLUMN` is a cell of a model's table NAME, with the decimals of the table. `MODEL/verify.` is a verdict
on a model and `MODEL/params.` a setting of one model. `params.` is a setting of all models, `published.` a value of the
published work, `study.` a count of the study's claims.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tli.analysis.render import ModelTables, tex_number, tex_text
from tli.analysis.results import Measured, Value, flat
from tli.analysis.table import Kind, is_negative, shown
from tli.config.parameters import Params
from tli.report.cells import texts_by_key


class ModelRun(NamedTuple):
    """What the stages `tables` and `verify` wrote of one model."""

    params: Params
    written: ModelTables
    verify: Mapping[str, Any]


def all_numbers(runs: Sequence[ModelRun], reported: Mapping[str, Any]) -> dict[str, str]:
    """Key -> text of every number.

    Args:
        reported: paper/reported.yaml.
    """
    settings = [_settings(run.params) for run in runs]
    shared = {key for key in settings[0] if all(other.get(key) == settings[0][key] for other in settings)}
    numbers = of_published(reported)
    numbers |= {key: plain(settings[0][key]) for key in shared}
    numbers |= {f"study.{key}": plain(runs[0].verify["claims"][key]) for key in ("number", "verified")}
    for run, own_settings in zip(runs, settings, strict=True):
        verdicts = flat({key: run.verify[key] for key in ("verdicts", "claims")}, "verify")
        of_model = {key: value for key, value in own_settings.items() if key not in shared} | verdicts
        of_model |= flat(run.params.active.model_dump(mode="json"), "params")
        texts = {key: plain(value) for key, value in of_model.items()} | texts_by_key(run.written.tables)
        numbers |= {f"{run.params.model}/{key}": text for key, text in texts.items()}
    return dict(sorted(numbers.items()))


def _settings(params: Params) -> Measured:
    """The parameters outside `profiles`. train.layer may be a word, which means another number for another model."""
    return flat(params.model_dump(mode="json", exclude={"profiles", "variants", "model"}), "params")


PUBLISHED_KINDS: Mapping[str, Kind] = {  # of published values that the text rounds as the tables do
    "before": "cosine",
    "before_sd": "cosine",
    "after": "cosine",
    "after_sd": "cosine",
    "gain": "cosine_change",
    "gain_sd": "cosine",
    "difference": "cosine_change",
    "t": "t",
    "d_z": "t",
}


def of_published(reported: Mapping[str, Any]) -> dict[str, str]:
    """The published values, and the numbers of the layers that the published text names."""
    last_but_one = int(reported["setup"]["blocks"]["paper"]) - 1
    values = flat({key: value for key, value in reported.items() if key not in ("claims", "examples")}, "published")
    values |= {"published.first_layer": 0, "published.last_but_one": last_but_one}
    values["published.pilot_last_but_one"] = reported["pilot"][last_but_one]
    return {key: _published(key, value) for key, value in values.items()}


def _published(key: str, value: Value) -> str:
    section, name = key.split(".")[1], key.split(".")[-1]
    if not isinstance(value, float) or section == "half_units":
        return plain(value)
    kind: Kind | None = "cosine" if section.startswith("pilot") else PUBLISHED_KINDS.get(name)
    return plain(value) if kind is None else _minus(shown(value, kind))


def plain(value: Value) -> str:
    """A number outside the tables: floats as they are written, with at most nine digits; `-` for an undefined one."""
    if isinstance(value, float):
        return _minus(re.sub(r"e(-?)\+?0*", r"e\1", f"{value:.9g}"))
    return _minus(shown(value, "count")) if isinstance(value, int) else shown(value, "text")


def _minus(text: str) -> str:
    return f"−{text[1:]}" if is_negative(text, "number") else text


MACROS = r"""% Every number as a macro, such as \tli{smollm2/gains/run,2.mask.nf4/difference}.
% Made by the stage `paper`. Needs amssymb. A key that does not exist is an error.
\newcommand{\tli}[1]{\ifcsname tli:#1\endcsname\csname tli:#1\endcsname\else
  \PackageError{tli}{no number #1}{The keys stand in numbers.tex.}\fi}
\newcommand{\tlinumber}[2]{\expandafter\gdef\csname tli:#1\endcsname{#2}}
"""


def macros(numbers: Mapping[str, str]) -> str:
    """numbers.tex: \\tli{KEY} for every key; a number in math mode, text as it is."""
    lines = [f"\\tlinumber{{{key}}}{{{_macro(text)}}}" for key, text in numbers.items()]
    return MACROS + "\n".join(lines) + "\n"


def _macro(text: str) -> str:
    number = text.replace("−", "-")
    return tex_number(number) if re.fullmatch(r"[+<≤-]?[\d.]+(e-?\d+)?", number) else tex_text(text)
