"""The section `benchmarks` of a model's profile: where the items come from, and what of them is scored."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tli.config.section import Count, HubRepo, Section, Seed, Sha256, Share, Shares

Text = Annotated[str, Field(min_length=1)]


class Mix(Shares):
    """Shares of the corpus documents by kind; they sum to 1."""

    dictionary: Share
    parallel: Share
    switched: Share
    causal: Share
    entailment: Share


class Languages(Shares):
    """Shares of the causal and entailment statements by language, or switching between both; they sum to 1."""

    english: Share
    switched: Share
    swahili: Share


class Items(Section):
    """The number of items per task and language in each split. The bounds keep the items distinct."""

    test: Annotated[int, Field(ge=6, le=800)]
    dev: Annotated[int, Field(ge=6, le=400)]


class MicroworldBenchmarks(Section):
    """The micro-world: a generated corpus and benchmark items.

    `documents`: the size of the corpus. `held_out`: the share of combinations that only the items use. `rivals`: the
    share of XCOPA items whose wrong choice is the rival of the right one (data/microworld/world.py).
    """

    source: Literal["microworld"]
    seed: Seed
    documents: Count
    held_out: Annotated[float, Field(gt=0, lt=1)]
    rivals: Share
    mix: Mix
    languages: Languages
    items: Items


class HubTask(HubRepo):
    """A benchmark's repository and the languages to score."""

    languages: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]


class Limit(Section):
    """At most so many items of each task and language: whole premises, chosen with the seed; null is all items."""

    items: Annotated[int, Field(ge=10)]
    seed: Seed


class Swept(Section):
    """What the rank sweep scores; null is everything. The base and the paper's configuration score every item.

    `sets` (TASK.LANGUAGE) are scored at every rank, with the first `seeds` of sweep.seeds. The other sets are scored
    only at the ranks in `others`, with the same seeds.
    """

    seeds: Count
    sets: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    others: Annotated[tuple[int, ...], Field(strict=False)]


class GivenBenchmarks(Section):
    """Items that are not made here but read, from the hub or from files."""

    limit: Limit | None
    sweep: Swept | None

    @property
    def sets(self) -> set[str]:
        """The sets (TASK.LANGUAGE) that are scored."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _swept_sets_are_scored(self) -> Self:
        if self.sweep and (unknown := [name for name in self.sweep.sets if name not in self.sets]):
            raise ValueError(f"sweep.sets: expected some of {', '.join(sorted(self.sets))}, got {unknown[0]}")
        return self


class HubBenchmarks(GivenBenchmarks):
    """XCOPA, English COPA and XNLI as released, fetched from the Hugging Face hub."""

    source: Literal["hub"]
    xcopa: HubTask
    copa: HubRepo
    xnli: HubTask

    @property
    def sets(self) -> set[str]:
        """English COPA counts as XCOPA's `en`."""
        translated = {f"xcopa.{language}" for language in self.xcopa.languages}
        return {"xcopa.en"} | translated | {f"xnli.{language}" for language in self.xnli.languages}


class ItemFile(Section):
    """A file of items in one language, as JSON Lines with the fields of XCOPA or XNLI (data/benchmarks/files.py).

    `task: copa_test` is English COPA's test split, which lm-eval does not score. `use: score` are items to score,
    `use: fit` items on which only the choice-only baseline is fitted. `origin` and `commit` say where it is published.
    """

    task: Literal["xcopa", "copa_test", "xnli"]
    language: Text
    split: Literal["validation", "test"]
    use: Literal["score", "fit"]
    path: Text
    sha256: Sha256
    origin: Text
    commit: Text | None


class FileBenchmarks(GivenBenchmarks):
    """Items from local files in `folder`, each identified by its hash.

    `items_of: project` marks items that were written for this artifact, so that no table calls them XCOPA or XNLI.
    """

    source: Literal["files"]
    folder: Text
    items_of: Literal["project", "released"]
    files: Annotated[tuple[ItemFile, ...], Field(min_length=1, strict=False)]

    @property
    def sets(self) -> set[str]:
        return {f"{file.task}.{file.language}" for file in self.files if file.use == "score"}

    @model_validator(mode="after")
    def _once(self) -> Self:
        seen: set[tuple[str, str, str]] = set()
        for file in self.files:
            key = (file.task, file.language, file.split)
            if key in seen:
                raise ValueError(f"expected one file of each task, language and split, got two of {', '.join(key)}")
            seen.add(key)
        return self


class NoBenchmarks(Section):
    """No benchmarks: nothing is scored, and tables of scores are left out."""

    source: Literal["none"]


Benchmarks = MicroworldBenchmarks | HubBenchmarks | FileBenchmarks | NoBenchmarks
