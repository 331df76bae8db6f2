"""The probe table: is a control word's translation the likeliest candidate after a prompt, before and after?"""

from __future__ import annotations

from tli.analysis.render import Cell, Column, Made, Table
from tli.analysis.results import Measured, Rows
from tli.analysis.views import MOMENTS
from tli.config.parameters import MicroworldModel, Params
from tli.stats import mcnemar
from tli.stats.descriptive import mean

SCORES = {"sum": "sum", "mean": "mean a token"}
TAUGHT = (
    "the micro-world's base was pre-trained on lines of the prompt's very form, one to a document, for every pair of "
    "data/pairs.tsv: with 0 examples it is asked what it was taught, unseen by the adapter alone; a prompt of several "
    "lines is of a length and form that it never read"
)


def table(probe: Rows, params: Params) -> Made:
    """P@1, MRR and mean rank by number of examples and by how a candidate is scored, with McNemar's test on P@1."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    notes = []
    for shots in (0, params.probe.shots):
        set_ = f"shots{shots}"
        if set_ not in probe.sets("rank.sum"):  # without a head nothing is asked
            continue
        tokens = probe.each("base", set_, "-", "candidate_tokens")
        for score, title in SCORES.items():
            ranks = dict(zip(MOMENTS, probe.matched(("base", "main"), set_, "-", f"rank.{score}"), strict=True))
            hits = {when: [rank == 1 for rank in some] for when, some in ranks.items()}
            test = mcnemar.exact(hits["before"], hits["after"])
            notes.append(test.note)
            row: dict[str, Cell] = {"shots": shots, "score": title, "n": len(hits["before"])}
            row |= {"candidates": len(tokens), "chance": 1 / len(tokens)}
            for when, some in ranks.items():
                found = {
                    "p1": mean([float(hit) for hit in hits[when]]),
                    "mrr": mean([1 / rank for rank in some]),
                    "rank": mean(some),
                }
                row |= {f"{key}_{when}": value for key, value in found.items()}
                measured |= {f"probe.{when}.{key}.{set_}.{score}": value for key, value in found.items()}
            rows.append(row | {"won": test.won, "lost": test.lost, "p": test.p})
            measured[f"probe.change.p1.{set_}.{score}"] = (test.won - test.lost) / len(hits["before"])
        notes.append("every candidate is one token here: both scores are one" if max(tokens.values()) == 1 else "")
    notes.append(TAUGHT if isinstance(params.active.model, MicroworldModel) else "")
    made = Table(
        "probe",
        "Translation by prompt",
        "Swahili words of the control set, whose English is asked for in a prompt of dictionary lines, "
        "`mbwa = mbwa, dog`, of trained pairs (examples) or of none. Candidates: the control set's English forms, "
        "scored by log-likelihood: its sum, the main score, favours short forms; its mean over their tokens does not. "
        "Right is every form that the list gives for the word; ties count against it. Before: the base; after: the "
        f"paper's cell (rank {params.lora.rank}, seed {params.train.seed}). Won and lost: words that only the one or "
        "only the other gets right, with exact McNemar's two-sided p, uncorrected. One draw of examples, seed "
        f"{params.probe.seed}. Nothing of this was published.",
        (
            Column("shots", "examples", "count"),
            Column("score", "score"),
            Column("n", "n", "count"),
            Column("candidates", "candidates", "count"),
            Column("chance", "chance", "score"),
            Column("p1_before", "P@1 before", "score"),
            Column("p1_after", "P@1 after", "score"),
            Column("won", "won", "count"),
            Column("lost", "lost", "count"),
            Column("p", "p", "p"),
            Column("mrr_before", "MRR before", "score"),
            Column("mrr_after", "MRR after", "score"),
            Column("rank_before", "mean rank before", "percent"),
            Column("rank_after", "mean rank after", "percent"),
        ),
        rows,
        view="log-likelihood of each candidate under NF4; no layer, no pooling",
        notes=notes,
    )
    return Made(made, measured)
