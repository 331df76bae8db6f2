"""The rank study in one table: what every scaling's verdict on the rank is, outcome by outcome, over bases.

A claim about rank that holds under one scaling alone is a claim about the scaling: alpha = 2r raises nothing but the
rank, alpha = 32 and rsLoRA lower the factor as the rank grows. Feeds the full grid's table `verdicts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tli.analysis.effects import Effect, verdict
from tli.analysis.outcomes import scope, tidy
from tli.analysis.render import Cell, Column, Made, Table
from tli.analysis.results import Measured
from tli.analysis.scores import said_of_items
from tli.config.parameters import Params
from tli.paper.inference import count_bases, ends
from tli.paper.summary import SHORT, way

POINTS = "points"


def table(found: Mapping[str, Sequence[Effect]], params: Params) -> Made:
    """One row an outcome, in points or in its own unit: mean of ranks and fitted change by arm, with the verdicts.

    `found` are the effects of every arm with several ranks, the same outcomes in each.
    """
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    first = next(iter(found.values()), [])
    for place, one in enumerate(first):
        row: dict[str, Cell] = {"outcome": one.outcome.name, "margin": one.outcome.margin}
        row["unit"] = POINTS if one.outcome.answers else "share" if one.outcome.key.startswith("p1") else "cosine"
        for arm, effects in found.items():
            effect = effects[place]
            word = SHORT[verdict(effect, params.stats.alpha)]
            row |= {f"change_{arm}": tidy(effect.change), f"way_{arm}": way(effect, params) or "undefined"}
            row |= {f"span_{arm}": None if effect.span is None else tidy(effect.span.estimate), f"rank_{arm}": word}
            measured[f"verdicts.{arm}.{one.outcome.key}"] = word
        rows.append(row)
    bases = count_bases(first)
    made = Table(
        "verdicts",
        "Verdicts on the rank by scaling",
        f"For every outcome and scaling, over {bases} bases: the mean of the ranks {ends(params)} against rank 0 and "
        "where it lies, the fitted change from the lowest to the highest rank and the verdict on it, by tests "
        "corrected by Holm within each scaling's declared families; accuracies in points, P@1 as a share. A verdict "
        "that differs between scalings is one on the scaling, which changes the factor of B A with the rank. "
        f"{said_of_items(params)}".rstrip(),
        (
            Column("outcome", "outcome"),
            Column("unit", "unit"),
            Column("margin", "margin", "number"),
            *(
                column
                for arm in found
                for column in (
                    Column(f"change_{arm}", f"{arm}: mean − rank 0", "number"),
                    Column(f"way_{arm}", "lies"),
                    Column(f"span_{arm}", f"{ends(params)}, fitted", "number"),
                    Column(f"rank_{arm}", "the rank"),
                )
            ),
        ),
        rows,
        view="as in the robustness tables: the view that the loss reads; scores under NF4",
        notes=[said(rows, [*found], bases), *dict.fromkeys(part for one in first for part in scope(one.note))],
    )
    return Made(made, measured)


def said(rows: Sequence[Mapping[str, Cell]], arms: Sequence[str], bases: int) -> str:
    """The verdicts on the rank over all outcomes in one sentence: where the scalings agree, and on what."""
    alike = [row for row in rows if len({row[f"rank_{arm}"] for arm in arms}) == 1]
    words = Counter(str(row[f"rank_{arms[0]}"]) for row in alike)
    agreed = ", ".join(f"{word} in {words[word]}" for word in SHORT.values() if words[word])
    text = f"over {bases} bases the rank has one verdict under every scaling in {len(alike)} of {len(rows)} outcomes"
    text += f" ({agreed})" if agreed else ""
    others = [row for row in rows if row not in alike]
    named = "; ".join(
        f"{row['outcome']}: " + ", ".join(f"{arm} {row['rank_' + arm]}" for arm in arms) for row in others
    )
    return f"{text}; it depends on the scaling in {len(others)} ({named})" if others else text
