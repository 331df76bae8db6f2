"""Word translation by prompt: how often a control word's translation is the likeliest candidate, before and after."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results
from tli.analysis.table import Column
from tli.analysis.views import MOMENTS
from tli.config.parameters import MicroworldModel, Params
from tli.stats import mcnemar
from tli.stats.descriptive import mean

TITLE = "Translation by prompt"
CAPTION = (
    "Swahili control words whose English is asked for in a prompt of dictionary lines, `mbwa = mbwa, dog`; the "
    "candidates are the control set's English forms. Before: the base; after: the paper's configuration (rank "
    "{params.lora.rank}, seed {params.train.seed})."
)
SOURCE = ("translate",)
VIEW = "log-likelihood of each candidate under NF4; no layer, no pooling"
SCORES = {"sum": "sum", "mean": "mean a token"}
COLUMNS = (
    Column("shots", "examples", "count", id=True),
    Column("score", "score", id=True),
    Column("n", "n", "count"),
    Column("candidates", "candidates", "count"),
    Column("chance", "chance", "share"),
    Column("p1_before", "P@1 before", "share"),
    Column("p1_after", "P@1 after", "share"),
    Column("p1_change", "change", "share_change"),
    Column("won", "won", "flips"),
    Column("lost", "lost", "flips"),
    Column("p", "p", "p"),
    Column("mrr_before", "MRR before", "share"),
    Column("mrr_after", "MRR after", "share"),
    Column("rank_before", "mean rank before", "number"),
    Column("rank_after", "mean rank after", "number"),
)
TAUGHT = (
    "the micro-world's base was pre-trained on lines of exactly the prompt's form, one per document, for every pair of "
    "data/pairs.tsv: with 0 examples it is asked what it was taught, though the adapter never saw it; it never read a "
    "text as long as a prompt of several lines"
)


def rows(results: Results, params: Params) -> Iterator[dict[str, object]]:
    """Per number of examples and score of a candidate; without a head nothing is asked."""
    translate = results.of("translate")
    for shots in (0, params.translate.shots):
        set_ = f"shots{shots}"
        if set_ not in translate.sets("rank.sum"):
            continue
        tokens = translate.each("base", set_, "-", "candidate_tokens")
        for score, title in SCORES.items():
            ranks = dict(zip(MOMENTS, translate.matched(("base", "main"), set_, "-", f"rank.{score}"), strict=True))
            hits = {when: [rank == 1 for rank in of_words] for when, of_words in ranks.items()}
            test = mcnemar.exact(hits["before"], hits["after"])
            row: dict[str, object] = {"shots": shots, "score": title, "n": len(hits["before"])}
            row |= {"candidates": len(tokens), "chance": 1 / len(tokens)}
            for when, of_words in ranks.items():
                row[f"p1_{when}"] = mean([float(hit) for hit in hits[when]])
                row[f"mrr_{when}"] = mean([1 / rank for rank in of_words])
                row[f"rank_{when}"] = mean(of_words)
            row |= {"won": test.won, "lost": test.lost, "p": test.p}
            row["p1_change"] = (test.won - test.lost) / len(hits["before"])
            one_token = (
                "every candidate is a single token here: both scores are equal" if max(tokens.values()) == 1 else ""
            )
            yield {**row, "note": [test.note, one_token]}


def notes(results: Results, params: Params) -> list[str]:
    """How candidates are scored, what is right, how the test is made."""
    return [
        "score: the candidate's log-likelihood. The sum, the main score, favours short forms; the mean over the "
        "candidate's tokens does not",
        "right: every form that the list gives for the word; ties count against it",
        "won, lost: words that only the model after, or only the one before, gets right, with the two-sided p of the "
        "exact McNemar test, uncorrected",
        f"examples: trained pairs, drawn once (seed {params.translate.seed})",
        "nothing of this was published",
        TAUGHT if isinstance(params.active.model, MicroworldModel) else "",
    ]
