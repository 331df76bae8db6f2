"""What a pair's length has to do with its similarity (tables: lengths, data audit).

The mean of more token states lies closer to any other mean, so that cosine may follow length whatever the meaning.
"""

from __future__ import annotations

from tli.analysis.render import Cell, Column, Made, Table
from tli.analysis.results import Measured, Rows
from tli.analysis.views import PAIR_SETS, VIEW, at, grid
from tli.config.parameters import Params
from tli.stats.descriptive import correlation, mean, spread

SIDES = ("swahili", "english")
CLASSES = {"single": "two single words", "several": "several words on a side"}


def means(train: Rows) -> Measured:
    """Mean number of tokens of a form, by side and set, for the data audit; BOS and EOS are not counted."""
    found: Measured = {}
    for side in SIDES:
        by_set = {set_: [*train.each("base", set_, "-", f"tokens.{side}").values()] for set_ in PAIR_SETS}
        by_set = {"all": [value for values in by_set.values() for value in values]} | by_set
        found |= {f"tokens_a_form.{side}.{set_}": mean(values) for set_, values in by_set.items()}
    return found


def _of_pairs(train: Rows, measure: str) -> dict[tuple[str, str], tuple[float, float]]:
    """(set, item) -> the measure of the Swahili and of the English form."""
    sides = [
        {(set_, item): value for set_ in PAIR_SETS for item, value in train.each("base", set_, "-", name).items()}
        for name in (f"{measure}.{side}" for side in SIDES)
    ]
    return {where: (sides[0][where], sides[1][where]) for where in sides[0]}


def table(train: Rows, align: Rows, params: Params) -> Made:
    """Correlation of a pair's tokens with its cosine before and after and with its gain; mean gain by length class."""
    tokens = {where: sum(both) for where, both in _of_pairs(train, "tokens").items()}
    several = {where for where, both in _of_pairs(train, "words").items() if max(both) > 1}
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    notes = []
    for view in grid(params, "nf4", "fp4"):
        before, after = (
            {(set_, item): v for set_ in PAIR_SETS for item, v in align.each(cell, set_, view, "cosine").items()}
            for cell in ("base", "main")
        )
        length = [tokens[where] for where in before]
        gain = {where: after[where] - value for where, value in before.items()}
        row = at(view, params)
        for name, values in (("before", before), ("after", after), ("gain", gain)):
            found = correlation(length, [values[where] for where in before])
            row |= {f"r_{name}": found.pearson, f"rho_{name}": found.spearman}
            notes.append(found.note)
        for name, chosen in (("single", gain.keys() - several), ("several", gain.keys() & several)):
            over = spread([value for where, value in gain.items() if where in chosen])
            row |= {f"n_{name}": over.n, f"gain_{name}": over.mean}
        rows.append(row)
        measured |= {f"lengths.{key}.{view}": row[key] for key in row if key.startswith(("r_", "rho_", "gain_"))}
    made = Table(
        "lengths",
        "Length and similarity",
        "Pearson's r and Spearman's ρ between a pair's number of tokens, both sides together, and its cosine before "
        "training, its cosine after, and its gain; and the mean gain of pairs of two single words beside that of pairs "
        "with several words on a side. All pairs.",
        (
            *VIEW,
            *(
                Column(f"{short}_{name}", f"{symbol} {name}", "score")
                for name in ("before", "after", "gain")
                for short, symbol in (("r", "r"), ("rho", "ρ"))
            ),
            *(
                column
                for name, title in CLASSES.items()
                for column in (
                    Column(f"n_{name}", f"n, {title}", "count"),
                    Column(f"gain_{name}", f"gain, {title}", "change"),
                )
            ),
        ),
        rows,
        notes=notes,
    )
    return Made(made, measured)
