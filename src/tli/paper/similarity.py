"""The lexical tables pair by pair: before and after, gains against controls, retrieval; and the names of views.

Each function takes rows and returns its table and the values of it that `verify` reads. What was published stands
beside what was measured, at both readings of the paper: the public scripts and the text name different views.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tli.config.parameters import Params
from tli.measure.views import POOLINGS, View, layers, named, names, per_pair
from tli.paper import published
from tli.paper.render import Cell, Column, Made, Table
from tli.paper.rows import Measured, Rows
from tli.stats import t_tests
from tli.stats.descriptive import mean

PAIR_SETS = ("trained", "control")
WAYS = {"sw_en": "sw→en", "en_sw": "en→sw"}
MOMENTS = {"before": "base", "after": "main"}
IN_BFLOAT16 = ", in bfloat16"  # ends the name of a row of the paper's cell in its compute dtype, beside the run's own
VIEW = (Column("view", "view"), Column("name", "name"))
PAIRED = ("n", "before", "before_sd", "after", "after_sd", "gain", "gain_sd", "low", "high", "t", "p", "d_z")


def trained_view(params: Params) -> str:
    """The view that the loss reads."""
    return str(View(str(params.train.layer), params.train.pooling, "nf4"))


def points(params: Params) -> dict[str, str]:
    """Every view that has a name, where it has its layer, but `pilot`, each layer under mask pooling and NF4."""
    views = named(params.active.model)
    return {"trained_on": trained_view(params)} | {key: str(view) for key, view in views.items()}


def left_out(params: Params) -> str:
    """What a run of a cut model does not measure; nothing to say of a whole one."""
    model = params.active.model
    if model.whole:
        return ""
    lost = " and ".join(f"`{name}`" for name in names(model.blocks) if name not in named(model))
    return (
        f"left out: this run has the first {model.held} of {model.blocks} blocks, so that layers {model.held + 1} to "
        f"{model.blocks} and norm, the views {lost}, and transfer, which needs the head, are not measured"
    )


def label(view: str, params: Params) -> str:
    """The names of a view; `neighbour` where it has none and stands beside one that has."""
    return ", ".join(key for key, value in points(params).items() if value == view) or "neighbour"


def at(view: str, params: Params) -> dict[str, Cell]:
    """The first cells of a row: the view and its names."""
    return {"view": view, "name": label(view, params)}


def grid(params: Params, *quantizations: str) -> list[str]:
    """The named views and their neighbours, by layer."""
    model, layer = params.active.model, params.train.layer
    views = [view for quantization in quantizations for view in per_pair(model, layer, quantization)]
    order = {name: index for index, name in enumerate(layers(model))}
    return [str(view) for view in sorted(views, key=lambda view: (order[view.layer], POOLINGS.index(view.pooling)))]


def interval(params: Params) -> tuple[Column, Column]:
    """The two ends of an interval of a change, titled with its coverage."""
    percent = f"{100 * params.stats.confidence:.9g} %"
    return Column("low", f"{percent} low", "change"), Column("high", f"{percent} high", "change")


def comparison(align: Rows, set_: str, view: str, params: Params, measure: str = "cosine") -> t_tests.Paired:
    """The paired test of the paper's cell against the base at one view."""
    before, after = align.matched(("base", "main"), set_, view, measure)
    return t_tests.paired(before, after, params.stats.confidence)


def before_after(align: Rows, bfloat16: Rows, reported: Mapping[str, Any], params: Params) -> Made:
    """Cosine of each pair before and after training, paired t-test, at the named views and neighbours; published.

    `bfloat16` holds the same of the paper's cell in that dtype, at the view of the public scripts, or nothing.
    """
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    notes = []
    for view in grid(params, "nf4", "fp4"):
        for when, which in MOMENTS.items():
            every = [value for set_ in PAIR_SETS for value in align.each(which, set_, view, "cosine").values()]
            measured[f"align.all.{when}.{view}"] = mean(every)
        for set_ in PAIR_SETS:
            test = comparison(align, set_, view, params)
            found = test._asdict()
            notes.append(test.note)
            rows.append({**at(view, params), "set": set_, **{key: found[key] for key in (*PAIRED, "decreased")}})
            kept = ("before", "after", "gain", "gain_sd", "t", "p", "d_z")
            measured |= {f"align.{set_}.{key}.{view}": found[key] for key in kept}
        for set_ in [set_ for set_ in PAIR_SETS if bfloat16.has("base-bfloat16", set_, view, "cosine")]:
            test = t_tests.paired(
                *bfloat16.matched(("base-bfloat16", "main-bfloat16"), set_, view, "cosine"), params.stats.confidence
            )
            found = test._asdict()
            name = f"{label(view, params)}{IN_BFLOAT16}"
            first: dict[str, Cell] = {"view": view, "name": name, "set": set_}
            rows.append(first | {key: found[key] for key in (*PAIRED, "decreased")})
            measured |= {f"bfloat16.{set_}.{key}.{view}": found[key] for key in ("before", "after", "gain")}
        for name in [name for name, reading in published.readings(params).items() if reading == view]:
            for set_ in PAIR_SETS:
                given = reported["before_after"][set_]
                row: dict[str, Cell] = {key: given[key] for key in (*PAIRED, "decreased") if key in given}
                row |= {"view": published.own_view(name, reported), "name": f"published, {name}", "set": set_}
                rows.append({**row, "p": float(given["p"])})
    low, high = interval(params)
    table = Table(
        "before_after",
        "Before and after training",
        "Mean cosine of the word pairs in the base model and in the paper's cell "
        f"(rank {params.lora.rank}, seed {params.train.seed}), trained and control pairs, with a two-sided paired "
        "t-test (df = n − 1), the interval of the mean gain and d_z = gain ÷ SD of the gain. "
        f"{published.said_of_fp4(params)} {published.READ_AS} {published.whose(params)}".rstrip(),
        (
            *VIEW,
            Column("set", "set"),
            Column("n", "n", "count"),
            Column("before", "before", "similarity"),
            Column("before_sd", "SD", "similarity"),
            Column("after", "after", "similarity"),
            Column("after_sd", "SD", "similarity"),
            Column("gain", "mean gain", "change"),
            Column("gain_sd", "SD of gain", "similarity"),
            low,
            high,
            Column("t", "t", "t"),
            Column("p", "p", "p"),
            Column("d_z", "d_z", "t"),
            Column("decreased", "pairs down", "count"),
        ),
        rows,
        notes=[*notes, left_out(params)],
    )
    return Made(table, measured)


def gains(align: Rows, reported: Mapping[str, Any], params: Params) -> Made:
    """Whether trained pairs gain more than control pairs, and translations more than random pairs."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    notes = []
    for view in grid(params, "nf4", "fp4"):
        row = at(view, params)
        changes = {}
        for set_ in PAIR_SETS:
            before, after = align.matched(("base", "main"), set_, view, "cosine")
            changes[set_] = [y - x for x, y in zip(before, after, strict=True)]
            gain = mean(changes[set_])
            random = comparison(align, set_, view, params, "random_cosine").gain or 0.0
            row |= {set_: gain, f"random_{set_}": random, f"left_{set_}": gain - random}
            measured[f"gains.random_{set_}.{view}"] = random
        test = t_tests.welch(changes["trained"], changes["control"], params.stats.confidence)
        notes.append(test.note)
        found = test._asdict()
        rows.append(row | {key: found[key] for key in ("difference", "low", "high", "t", "df", "p")})
        measured |= {f"gains.difference.{view}": test.difference, f"gains.welch_t.{view}": test.t}
        for name in [name for name, reading in published.readings(params).items() if reading == view]:
            given = reported["before_after"]
            found = published.difference(reported, params)._asdict()
            row = {"view": published.own_view(name, reported), "name": f"published, {name}"}
            row |= {set_: given[set_]["gain"] for set_ in PAIR_SETS}
            rows.append(row | {key: found[key] for key in ("difference", "low", "high", "t", "df", "p")})
    table = Table(
        "gains",
        "What the gain is compared with",
        "Mean gain in cosine of the paper's cell over the base: trained against control pairs by a two-sided Welch "
        "test with the interval of the difference, and beside it the gain of random pairs (the same Swahili forms, "
        "each with another pair's English form of its set). What is left after the random gain is what translations "
        f"gain more than any two words. {published.said_of_fp4(params)} {published.READ_AS} Their test "
        f"follows from the published n, means and SDs. {published.whose(params)}".rstrip(),
        (
            *VIEW,
            Column("trained", "trained", "change"),
            Column("control", "control", "change"),
            Column("difference", "trained − control", "change"),
            *interval(params),
            Column("t", "Welch t", "t"),
            Column("df", "df", "number"),
            Column("p", "p", "p"),
            Column("random_trained", "random, trained", "change"),
            Column("random_control", "random, control", "change"),
            Column("left_trained", "left, trained", "change"),
            Column("left_control", "left, control", "change"),
        ),
        rows,
        notes=[*notes, left_out(params)],
    )
    return Made(table, measured)


def retrieval(align: Rows, params: Params) -> Made:
    """P@1, P@5, MRR and CSLS in both directions, before and after, queries of all and of control pairs."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    scores = {"p1": ("P@1", "p_at_1"), "p5": ("P@5", "p_at_5"), "mrr": ("MRR", "mrr"), "csls": ("CSLS", "csls_at_1")}
    for view in grid(params, "nf4", "fp4"):
        for set_ in ("all", "control"):
            for way, arrow in WAYS.items():
                row = at(view, params) | {"set": set_, "direction": arrow}
                for short, (_, measure) in scores.items():
                    for when, which in MOMENTS.items():
                        value = align.one(which, set_, view, f"{measure}.{way}")
                        row[f"{short}_{when}"] = value
                        measured[f"retrieval.{set_}.{when}.{short}_{way}.{view}"] = value
                rows.append(row)
    table = Table(
        "retrieval",
        "Retrieval",
        "Finding a word's translation by cosine among the forms of all pairs of the other language, before and after "
        "training: precision at 1 and 5, mean reciprocal rank, and precision at 1 under CSLS. Queries: all pairs, "
        "or the control pairs alone, over the same candidates. Nothing of this was published. "
        f"{published.said_of_fp4(params)}",
        (
            *VIEW,
            Column("set", "queries"),
            Column("direction", "direction"),
            *(
                Column(f"{short}_{when}", f"{title} {when}", "score")
                for short, (title, _) in scores.items()
                for when in MOMENTS
            ),
        ),
        rows,
        notes=[left_out(params)],
    )
    return Made(table, measured)
