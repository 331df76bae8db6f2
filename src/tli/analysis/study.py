"""The study: variants of the training over further bases of the micro-world (the tables `study_...`).

A value of a run is compared with the base of the same key:

    change(variant, rank, base) = mean over seeds of the value - the value of the base
    excess = change of the translations - change of random pairs

Means, SDs, t and intervals are over bases, one value per base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import pandas as pd

from tli.analysis.effects import Effect, effects
from tli.analysis.outcomes import not_at_every_rank, outcomes
from tli.analysis.premises import read_premises
from tli.analysis.results import COLUMNS, Results, Rows, check_unique, flat, run_name
from tli.analysis.robustness import notes_of
from tli.analysis.scores import at_chance
from tli.analysis.table import Cell, Column
from tli.config.parameters import Key, Params
from tli.io.errors import UserError
from tli.io.rows import read_rows
from tli.io.structured import read_json
from tli.stats import t_tests
from tli.stats.holm import holm

VARIANT = Column("variant", "variant", id=True)
BASE = {False: "as it is", True: "attention sink"}  # whether the base has a sink -> its name in the tables
RANDOM = {  # measure -> its rows for translations and for random pairs
    "cosine": ("cosine_mean", "random_cosine_mean"),
    "centred": ("centred_cosine_mean", "centred_random_cosine_mean"),
    "standardised": ("standardised_cosine_mean", "standardised_random_cosine_mean"),
    "cka": ("cka", "random_cka"),
}
STAGES = ("similarity", "score", "train")  # whose rows a key has
LEVELS = ["variant", "rank", "set", "view", "measure", "base"]


class Change(NamedTuple):
    """A measure before and after training: one value per base each, in one order."""

    before: list[float]
    after: list[float]

    @property
    def values(self) -> list[float]:
        """After minus before."""
        return [after - before for before, after in zip(self.before, self.after, strict=True)]


class Read(NamedTuple):
    """What one reading of the rows of every variant gives.

    Attributes:
        means: the means of every measure, by LEVELS.
        effects: variant with several ranks -> the effect of the rank on each outcome.
        untested: a note for each of these variants with sets that were not scored at each rank.
        at_chance: (variant, set) of each set on which the variant's bases are at chance.
    """

    means: pd.DataFrame
    effects: dict[str, list[Effect]]
    untested: list[str]
    at_chance: set[tuple[str, str]]


class Study:
    """The keys of one run.

    Attributes:
        bases: variant -> its bases, in the order of params.yaml.
        params: variant -> its parameters, with the variant's ranks as those of the sweep.
    """

    def __init__(self, folder: Path | None, params: Params) -> None:
        keys = [] if folder is None else sorted(params.keys)
        self._folder = folder or Path()
        self.bases = {
            name: bases for name in params.variants if (bases := [key.base for key in keys if key.variant == name])
        }
        self.params = {name: params.of_variant(name) for name in self.bases}

    def sink(self, variant: str) -> bool:
        """Whether the variant runs on bases with an attention sink."""
        return self.params[variant].variants[variant].sink

    @property
    def reference(self) -> str | None:
        """The variant that others are compared with: the first on bases as they are."""
        return next((name for name in self.bases if not self.sink(name)), None)

    @property
    def common_rank(self) -> int | None:
        """The rank at which variants are compared: the paper's, or else the highest that each of them has."""
        ranks = [set(params.sweep.ranks) for params in self.params.values()]
        common = set.intersection(*ranks) if ranks else set()
        paper = next((params.lora.rank for params in self.params.values()), None)
        return paper if paper in common else max(common, default=None)

    def reference_rows(
        self, rows: Callable[[list[Results], Params], Iterable[dict[str, Any]]]
    ) -> Iterator[dict[str, Any]]:
        """The rows that another table's `rows` gives for the reference variant; none where the run has no reference."""
        if self.reference is not None:
            for row in rows(self.results(self.reference), self.params[self.reference]):
                yield {"variant": self.reference, **row}

    def reference_notes(self, notes: Callable[[list[Results], Params], list[str]]) -> list[str]:
        """The notes that another table's `notes` gives for the reference variant; none where it is missing."""
        if self.reference is None:
            return []
        return notes(self.results(self.reference), self.params[self.reference])

    def results(self, variant: str) -> list[Results]:
        """The rows of a variant, one `Results` per base, read anew: all variants would not fit in memory."""
        params = self.params[variant]
        return [read_key(self._folder / str(key), key, params) for key in self._keys(variant)]

    def _keys(self, variant: str) -> list[Key]:
        return [Key(base, variant) for base in self.bases[variant]]

    @cached_property
    def _read(self) -> Read:
        frames, effects_of, untested, chance = [], {}, [], set()
        for variant, params in self.params.items():
            results = self.results(variant)
            frames += [means(of_base, variant) for of_base in results]
            answers = [_answers_of_base(of_base) for of_base in results]
            chance |= {(variant, set_) for set_ in answers[0].sets("correct") if at_chance(answers, set_, params)}
            if len(params.sweep.ranks) > 1:
                effects_of[variant] = effects(outcomes(results, params), params)
                if note := not_at_every_rank(results, params):
                    untested.append(f"{variant}: {note}")
        return Read(pd.concat(frames).sort_index(), effects_of, untested, chance)

    @property
    def effects(self) -> dict[str, list[Effect]]:
        """Variant with several ranks -> the effect of the rank on each outcome, over bases."""
        return self._read.effects if self.bases else {}

    @property
    def untested(self) -> list[str]:
        """Of each variant with several ranks: which sets have no verdict, because they were not scored at each rank."""
        return self._read.untested if self.bases else []

    def at_chance(self, variant: str, set_: str) -> bool:
        """Whether the bases of a variant are at chance on a set, all their items pooled."""
        return (variant, set_) in self._read.at_chance

    def effects_on(self, *, answers: bool) -> dict[str, list[Effect]]:
        """The effects on accuracies (`answers`), or those on cosines and retrieval."""
        return {
            variant: [effect for effect in of_variant if effect.outcome.answers == answers]
            for variant, of_variant in self.effects.items()
        }

    def notes_on(self, effects: Mapping[str, Sequence[Effect]]) -> list[str]:
        """Over which bases these effects are, which tests are corrected together, and the statistics' own notes."""
        return [
            f"{variant}: {note}"
            for variant, of_variant in effects.items()
            for note in (
                f"over the bases {', '.join(f's{base}' for base in self.bases[variant])}; tests are corrected by Holm "
                "within the variant's families",
                *notes_of(of_variant),
            )
        ]

    @property
    def means(self) -> pd.DataFrame:
        """Every measure before and after training: the columns before and after, by LEVELS."""
        return self._read.means

    @cached_property
    def _changes(self) -> dict[tuple[str, int, str, str, str], Change]:
        changes: dict[tuple[str, int, str, str, str], Change] = {}
        columns = (self.means[column].tolist() for column in ("before", "after"))
        for (*key, _), before, after in zip(self.means.index.tolist(), *columns, strict=True):
            change = changes.setdefault((key[0], key[1], key[2], key[3], key[4]), Change([], []))
            change.before.append(before)
            change.after.append(after)
        return changes

    def change(self, variant: str, rank: int, set_: str, view: str, measure: str) -> Change:
        """A measure of a variant at one rank, by base. Raises UserError where the rows do not have it."""
        key = (variant, rank, set_, view, measure)
        if key not in self._changes:
            raise UserError(
                f"{self._folder}: expected rows of variant {variant}, rank {rank}, set {set_}, view {view}, measure "
                f"{measure}, got none; run `dvc repro`, which measures them"
            )
        return self._changes[key]

    def random(self, variant: str, rank: int, set_: str, view: str, measure: str = "cosine") -> list[float]:
        """The change of random pairs."""
        return self.change(variant, rank, set_, view, RANDOM[measure][1]).values

    def gain(self, variant: str, rank: int, set_: str, view: str, measure: str = "cosine") -> list[float]:
        """The change of translations."""
        return self.change(variant, rank, set_, view, RANDOM[measure][0]).values

    def excess(self, variant: str, rank: int, set_: str, view: str, measure: str = "cosine") -> list[float]:
        """The change of translations minus that of random pairs."""
        pairs = (of(variant, rank, set_, view, measure) for of in (self.gain, self.random))
        return [gain - random for gain, random in zip(*pairs, strict=True)]

    def against_reference(self, variant: str, rank: int, set_: str, view: str, measure: str) -> list[float]:
        """The change minus that of the reference variant at the same rank, on the bases that both have.

        Empty for the reference itself, for a variant on bases with a sink, and where the reference has no such rows.
        """
        first = self.reference
        where = (rank, set_, view, measure)
        if first is None or first == variant or self.sink(variant) or (first, *where) not in self._changes:
            return []
        change, other = (
            dict(zip(self.bases[name], self.change(name, *where).values, strict=True)) for name in (variant, first)
        )
        return [value - other[base] for base, value in change.items() if base in other]

    def sets(self, variant: str) -> list[str]:
        """The benchmark sets that were scored at a rank above 0, in the order of the tasks and languages."""
        names = self.means.index[self.means.index.get_level_values("measure") == "accuracy"]
        return sorted({set_ for name, _, set_, *_ in names if name == variant})

    def ranks(self, variant: str, set_: str) -> list[int]:
        """The ranks of a variant at which a set was scored."""
        ranks = self.params[variant].sweep.ranks
        return [rank for rank in ranks if (variant, rank, set_, "-", "accuracy") in self._changes]


_studies: WeakKeyDictionary[Results, tuple[Params, Study]] = WeakKeyDictionary()


def study_of(results: Results, params: Params) -> Study:
    """The study of a model. Its rows are read once: every table of the study reads them."""
    known, study = _studies.get(results, (None, None))
    if study is None or known is not params:
        study = Study(results.study, params)
        _studies[results] = (params, study)
    return study


def read_key(folder: Path, key: Key, params: Params) -> Results:
    """The rows of one key.

    Args:
        params: the parameters of its variant.

    Raises:
        UserError: a file is missing or broken, or a run has no rows.
    """
    parts = []
    for stage in STAGES:
        path = folder / f"{stage}.tsv"
        rows = read_rows(path)
        check_unique(path, rows)
        runs = set(rows["run"])
        for name in (run_name(rank, seed) for rank in params.sweep.ranks for seed in params.sweep.seeds):
            if name not in runs:
                raise UserError(f"{path}: no rows of {name}, which variants.{key.variant} lists; run `dvc repro`")
        parts.append(rows.assign(model=params.model, base=key.base, stage=stage)[list(COLUMNS)])
    frame = pd.concat(parts, ignore_index=True)
    texts = [column for column in COLUMNS if column not in ("base", "rank", "value")]
    frame[texts] = frame[texts].astype("category")  # a twentieth of the memory
    counts = flat(read_json(folder / "benchmarks.json", "metrics of a stage"))
    return Results(frame, {"benchmarks": counts}, {}, read_premises(folder / "items.jsonl"))


def _answers_of_base(results: Results) -> Rows:
    """Whether the base answers each item rightly; reads less than `Results.of`, which takes the rows of every run."""
    frame = results.frame
    return Rows(frame[(frame["measure"] == "correct") & (frame["run"] == "base")], "score")


def means(results: Results, variant: str) -> pd.DataFrame:
    """Every measure of a key before and after training, by LEVELS: the mean over items, then over seeds.

    The answers to items become `accuracy`, in percent.
    """
    frame, by = results.frame, ["set", "view", "measure"]
    frame = frame[(frame["stage"] == "similarity") | (frame["measure"] == "correct")]
    frame = frame[frame["run"] != "untrained"].astype(dict.fromkeys(["run", *by], "str"))
    answers = frame["measure"] == "correct"
    frame = frame.assign(
        value=frame["value"].astype(float).where(~answers, 100 * frame["value"].astype(float)),
        measure=frame["measure"].where(~answers, "accuracy"),
    )
    of_runs = frame.groupby(["rank", "run", *by])["value"].mean()
    of_ranks = of_runs.groupby(["rank", *by]).mean().reset_index("rank")
    before = of_ranks.loc[of_ranks["rank"] == 0, "value"].rename("before")
    after = of_ranks[of_ranks["rank"] > 0].rename(columns={"value": "after"})
    both = after.join(before, how="inner").reset_index()
    return both.assign(variant=variant, base=int(results.frame["base"].iloc[0])).set_index(LEVELS)[["before", "after"]]


def over_bases(values: Sequence[float], params: Params) -> t_tests.Paired:
    """Student's t of the mean of one value per base."""
    return t_tests.paired([0.0] * len(values), values, params.stats.confidence)


def correct(rows: Sequence[dict[str, Cell]], keys: Sequence[str], params: Params) -> None:
    """Replaces the p-values of these rows by those that Holm corrects; all of them are one family."""
    places = [(row, key) for row in rows for key in keys if key in row]
    given = [value if isinstance(value := row[key], float) else None for row, key in places]
    for (row, key), value in zip(places, holm(given, params.stats.alpha).adjusted, strict=True):
        row[key] = value
