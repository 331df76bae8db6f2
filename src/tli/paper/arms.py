"""Arms over several bases: rank by arm on alignment and on transfer.

An arm changes one thing of the paper's cell. Every number is the mean over bases of the mean over seeds; SD, t and
intervals are over bases (n = number of bases), so that they speak of bases like these. Feeds the full grid's tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tli.analysis.outcomes import Source
from tli.analysis.render import Cell, Column, Made, Table
from tli.analysis.results import Measured, Rows, cell
from tli.analysis.scores import SCORING, TASKS, accuracy, item_name, language_name, languages, said_of_items
from tli.analysis.views import PAIR_SETS, WAYS, interval, trained_view
from tli.config.parameters import Params
from tli.measure.views import View
from tli.paper.regime import NAMES
from tli.stats import t_tests
from tli.stats.descriptive import mean, spread
from tli.stats.equivalence import tost
from tli.stats.holm import holm

# measure: how the mean of translations and that of random pairs are called in the rows
AGAINST_RANDOM = {
    "cosine": ("cosine_mean", "random_cosine_mean"),
    "centred": ("centred_cosine_mean", "centred_random_cosine_mean"),
    "standardised": ("standardised_cosine_mean", "standardised_random_cosine_mean"),
    "cka": ("cka", "random_cka"),
}


class Arm(NamedTuple):
    """An arm's changes against rank 0 of the same base, means over seeds: key -> one value a base."""

    name: str
    regime: str
    view: str  # that its loss reads
    ranks: tuple[int, ...]
    alignment: Mapping[tuple[int, str, str, str], list[float]]  # (rank, set, view, measure or measure.random)
    transfer: Mapping[tuple[int, str], list[float]]  # (rank, set): points of accuracy

    def gain(self, rank: int, set_: str, view: str, measure: str) -> list[float]:
        """One value a base."""
        return self.alignment[rank, set_, view, measure]

    def left(self, rank: int, set_: str, view: str, measure: str) -> list[float]:
        """The gain less that of random pairs."""
        pairs, random = self.gain(rank, set_, view, measure), self.gain(rank, set_, view, f"{measure}.random")
        return [a - b for a, b in zip(pairs, random, strict=True)]


def changed(params: Params, name: str) -> str:
    """What an arm changes, as text."""
    found = [f"`{key}`: {value}" for key, value in params.arms[name].changes.items()]
    return "; ".join(found) or "-"


def summarise(found: Sequence[Source], name: str, regime: str, params: Params) -> Arm:
    """Reads an arm's means out of its rows: at the view of its loss and at layer 2, under both poolings."""
    own = trained_view(params)
    read = dict.fromkeys([own, *(str(View("2", pooling, "nf4")) for pooling in ("mask", "content"))])
    read |= dict.fromkeys([str(View(str(params.train.layer), pooling, "nf4")) for pooling in ("mask", "content")])
    aligned: dict[tuple[int, str, str, str], list[float]] = {}
    scored: dict[tuple[int, str], list[float]] = {}
    sets = [f"{task}.{language}" for task in TASKS for language in languages(found[0].transfer, task)]
    for rank in params.sweep.ranks:
        for view in read:
            for set_ in PAIR_SETS:
                for measure, pair in AGAINST_RANDOM.items():
                    for key, row in zip((measure, f"{measure}.random"), pair, strict=True):
                        aligned[rank, set_, view, key] = [
                            _change(one.align, one.sweep.align[rank], rank, set_, view, row, params) for one in found
                        ]
            for way in WAYS:
                aligned[rank, "all", view, way] = [
                    _change(one.align, one.sweep.align[rank], rank, "all", view, f"p_at_1.{way}", params)
                    for one in found
                ]
        for set_ in sets:
            scored[rank, set_] = [
                mean([accuracy(one.sweep.transfer[rank], cell(rank, seed), set_) for seed in params.sweep.seeds])
                - accuracy(one.transfer, "base", set_)
                for one in found
            ]
    return Arm(name, regime, own, params.sweep.ranks, aligned, scored)


def _change(base: Rows, rows: Rows, rank: int, set_: str, view: str, measure: str, params: Params) -> float:
    """Mean over seeds less rank 0; a measure with several items (random pairings) is their mean."""
    after = [mean([*rows.each(cell(rank, seed), set_, view, measure).values()]) for seed in params.sweep.seeds]
    return mean(after) - mean([*base.each("base", set_, view, measure).values()])


def alignment(found: Sequence[Arm], params: Params) -> Made:
    """Rank by arm: gain, gain of random pairs, what is left, P@1; at the loss's own view and at layer 2."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    for one in found:
        for rank in one.ranks:
            for view in dict.fromkeys([one.view, "2.mask.nf4", "2.content.nf4"]):
                row: dict[str, Cell] = {"base": NAMES[one.regime], "arm": one.name, "rank": rank, "view": view}
                for set_ in PAIR_SETS:
                    gain, left = one.gain(rank, set_, view, "cosine"), one.left(rank, set_, view, "cosine")
                    over = spread(left)
                    row |= {f"gain_{set_}": mean(gain), f"left_{set_}": over.mean, f"sd_{set_}": over.sd}
                    measured[f"arms.{one.name}.r{rank}.left.{set_}.{view}"] = over.mean
                    measured[f"arms.{one.name}.r{rank}.gain.{set_}.{view}"] = mean(gain)
                for way in WAYS:
                    hits = spread(one.gain(rank, "all", view, way))
                    row |= {f"p1_{way}": hits.mean, f"p1_{way}_sd": hits.sd}
                    measured[f"arms.{one.name}.r{rank}.p1_{way}.{view}"] = hits.mean
                rows.append(row)
    table = Table(
        "arms",
        "Rank by arm, alignment",
        "Change against rank 0 of the same base: cosine of translations (gain), the same less that of random pairs "
        f"(left), and P@1 among all pairs; mean over {len(params.sweep.base_seeds)} bases of the mean over "
        f"{len(params.sweep.seeds)} seeds, SD over bases. At the view that the arm's loss reads and at layer 2 under "
        "both poolings.",
        (
            Column("base", "base"),
            Column("arm", "arm"),
            Column("rank", "rank", "count"),
            Column("view", "view"),
            *(
                column
                for set_ in PAIR_SETS
                for column in (
                    Column(f"gain_{set_}", f"{set_} gain", "change"),
                    Column(f"left_{set_}", f"{set_} left", "change"),
                    Column(f"sd_{set_}", "SD", "similarity"),
                )
            ),
            *(
                column
                for way, arrow in WAYS.items()
                for column in (Column(f"p1_{way}", f"P@1 {arrow}", "change"), Column(f"p1_{way}_sd", "SD", "score"))
            ),
        ),
        rows,
    )
    return Made(table, measured)


def transfer(found: Sequence[Arm], params: Params) -> Made:
    """Rank by arm: change of each set's accuracy, and its difference from the first arm at the same rank.

    Holm's correction is within the table and a task, over all its p: of changes, of differences, of equivalence.
    """
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    notes = []
    tasks: list[str] = []
    reference = found[0]
    for one in found:
        for rank in one.ranks:
            for (_, set_), values in ((key, value) for key, value in one.transfer.items() if key[0] == rank):
                test = over_bases(values, params)
                task, language = item_name(set_.partition(".")[0], params), language_name(set_, params)
                row: dict[str, Cell] = {"base": NAMES[one.regime], "arm": one.name, "rank": rank}
                row |= {"items": f"{task}, {language}", "change": test.gain, "sd": test.gain_sd}
                row |= {"low": test.low, "high": test.high, "p_holm": test.p}
                if one is not reference and one.regime == reference.regime and rank in reference.ranks:
                    beside = reference.transfer[rank, set_]
                    apart = [a - b for a, b in zip(values, beside, strict=True)]
                    against = over_bases(apart, params)
                    alike = tost(apart, params.stats.margins.accuracy, params.stats.alpha)
                    row |= {"against": against.gain, "against_low": alike.low, "against_high": alike.high}
                    row |= {"against_p_holm": against.p, "alike_p_holm": alike.p}
                    notes += [against.note, alike.note]
                rows.append(row)
                tasks.append(task)
                notes.append(test.note)
                measured[f"arms.{one.name}.r{rank}.change.{set_}"] = test.gain
    for task in dict.fromkeys(tasks):
        correct([row for row, of in zip(rows, tasks, strict=True) if of == task], P_VALUES, params)
    low, high = (column._replace(kind="points") for column in interval(params))
    level = f"{100 * (1 - 2 * params.stats.alpha):.9g} %"
    table = Table(
        "arms_transfer",
        "Rank by arm, transfer",
        "Change of accuracy against rank 0 of the same base, in points: mean over bases of the mean over seeds, SD, "
        f"Student's interval and p over {len(params.sweep.base_seeds)} bases; and the difference from the arm "
        f"`{reference.name}` at the same rank, base by base, with its {level} interval, the p that it is 0, and the p "
        f"that it is {params.stats.margins.accuracy:g} points or more (two one-sided tests, the declared margin). "
        "Every p is corrected by Holm over those of its task in this table; intervals are not. "
        f"{said_of_items(params)}".rstrip(),
        (
            Column("base", "base"),
            Column("arm", "arm"),
            Column("rank", "rank", "count"),
            Column("items", "items"),
            Column("change", "change", "points"),
            Column("sd", "SD", "percent"),
            low,
            high,
            Column("p_holm", "p, Holm", "p"),
            Column("against", f"less that of {reference.name}", "points"),
            Column("against_low", f"{level} low", "points"),
            Column("against_high", f"{level} high", "points"),
            Column("against_p_holm", "p, Holm", "p"),
            Column("alike_p_holm", "p of equivalence, Holm", "p"),
        ),
        rows,
        view=SCORING,
        notes=notes,
    )
    return Made(table, measured)


def common_rank(params: Params) -> int:
    """The rank at which arms are held against each other: the paper's, or else the highest that every arm has, or else
    the last of the first arm."""
    each = [params.arms[name].ranks for name in (*params.sweep.arms, *params.sweep.bos_arms)]
    shared = set(each[0]).intersection(*each)
    return params.lora.rank if params.lora.rank in shared else max(shared, default=each[0][-1])


def over_bases(values: Sequence[float], params: Params) -> t_tests.Paired:
    """Student's t of the mean of one value a base."""
    return t_tests.paired([0.0] * len(values), values, params.stats.confidence)


P_VALUES = ("p_holm", "against_p_holm", "alike_p_holm")


def correct(rows: Sequence[dict[str, Cell]], keys: Sequence[str], params: Params) -> None:
    """Replaces the p-values of these rows by those that Holm corrects; all of them are one family."""
    places = [(row, key) for row in rows for key in keys if key in row]
    given = [value if isinstance(value := row[key], float) else None for row, key in places]
    for (row, key), value in zip(places, holm(given, params.stats.alpha).adjusted, strict=True):
        row[key] = value
