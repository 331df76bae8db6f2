"""Draws the micro-world's clauses: which split may tell what of whom, and what follows from what (for the world stage).

Feeds every table by way of the corpus and the items.
"""

from __future__ import annotations

import random

from tli.data.microworld.grammar import TENSES, Clause, Noun, Tense
from tli.data.microworld.vocabulary import KINDS, Cause, Vocabulary

WEIGHTS = (0.7, 0.15, 0.15)  # of past, present, future: XCOPA's sentences are mostly past


class World:
    """The vocabulary with its combinations dealt to `corpus`, `dev` and `test`, drawn from `rng`."""

    def __init__(self, vocabulary: Vocabulary, held_out: float, rng: random.Random) -> None:
        self.vocabulary = vocabulary
        self.entities = {kind: vocabulary.entities(kind) for kind in KINDS}
        self.split: dict[str, str] = {}
        self.held_themes: dict[str, list[str]] = {}
        self.held_things: dict[str, list[Noun]] = {}
        for kind, nouns in self.entities.items():
            themes = list(vocabulary.themes(kind))
            for place, noun in enumerate(rng.sample(nouns, len(nouns))):
                self.split[noun.swahili] = "dev" if place % 3 == 0 else "test"
                self.held_themes[noun.swahili] = rng.sample(themes, max(2, round(held_out * len(themes))))
                if kind == "person":
                    things = self.entities["thing"]
                    self.held_things[noun.swahili] = rng.sample(things, max(2, round(held_out * len(things))))

    def themes(self, noun: Noun, split: str) -> list[list[Cause]]:
        """The themes that `split` may tell of `noun`."""
        held = self.held_themes[noun.swahili]
        themes = self.vocabulary.themes(noun.kind)
        return [pair for theme, pair in themes.items() if (theme in held) == (split != "corpus")]

    def things(self, noun: Noun, split: str) -> list[Noun]:
        """The things that `split` may have the person `noun` act on."""
        held = self.held_things[noun.swahili]
        return [thing for thing in self.entities["thing"] if (thing in held) == (split != "corpus")]

    def subjects(self, kind: str, split: str) -> list[Noun]:
        return [noun for noun in self.entities[kind] if split in ("corpus", self.split[noun.swahili])]

    @property
    def held_out_share(self) -> float:
        """Share of entity x theme and person x thing combinations that the corpus lacks."""
        held = sum(map(len, self.held_themes.values())) + sum(map(len, self.held_things.values()))
        every = sum(len(nouns) * len(self.vocabulary.themes(kind)) for kind, nouns in self.entities.items())
        return held / (every + len(self.entities["person"]) * len(self.entities["thing"]))


class Teller:
    """Draws clauses, causal statements and sentence pairs of one split."""

    def __init__(self, world: World, split: str, rng: random.Random) -> None:
        self.world, self.split, self.rng = world, split, rng
        self.subjects = {kind: world.subjects(kind, split) for kind in KINDS}
        nouns = [noun for of_kind in self.subjects.values() for noun in of_kind]
        self.themes = {noun.swahili: world.themes(noun, split) for noun in nouns}
        self.things = {noun.swahili: world.things(noun, split) for noun in self.subjects["person"]}

    def tense(self) -> Tense:
        return self.rng.choices(TENSES, WEIGHTS)[0]

    def clause(self, like: Clause | None = None) -> Clause:
        """A random clause; or one unrelated to `like`: same subject and tense, another verb, object and theme.

        `like` without an object has an unrelated theme among its subject's; `relation` sees to that.
        """
        rng, vocabulary = self.rng, self.world.vocabulary
        tense, holds = like.tense if like else self.tense(), rng.random() < 0.75
        if like.object if like else rng.random() < 0.5:
            subject = like.subject if like else rng.choice(self.subjects["person"])
            verb = rng.choice([verb for verb in vocabulary.verbs if not like or verb != like.predicate])
            thing = rng.choice([thing for thing in self.things[subject.swahili] if not like or thing != like.object])
            time = rng.choice(vocabulary.times) if not like and rng.random() < 0.35 else ("", "")
            return Clause(subject, verb, tense, holds, thing, time=time)
        subject = like.subject if like else rng.choice(self.subjects[rng.choice(KINDS)])
        causes = [cause for pair in self.themes[subject.swahili] for cause in pair]
        if like:
            causes = self.strangers(like)
        return Clause(subject, rng.choice([part for c in causes for part in (c.cause, c.effect)]), tense, holds)

    def strangers(self, clause: Clause) -> list[Cause]:
        """The causes that this split may tell of the clause's subject and that have nothing to do with its event."""
        causes = [cause for pair in self.themes[clause.subject.swahili] for cause in pair]
        told = (c for c in self.world.vocabulary.causes if c.subject == clause.subject.kind)
        own = next(c for c in told if clause.predicate in (c.cause, c.effect))
        return [cause for cause in causes if self.world.vocabulary.unrelated(own, cause)]

    def causal(self, swahili: bool) -> tuple[Cause, Cause, Clause, Clause]:
        """(cause, the one whose effect came, two clauses); with `swahili`, only what pure Swahili may state."""
        rng = self.rng
        while True:
            subject = rng.choice(self.subjects[rng.choices(KINDS, (0.6, 0.2, 0.2))[0]])
            cause = rng.choice(rng.choice(self.themes[subject.swahili]))
            if cause.swahili or not swahili:
                break
        rival = self.world.vocabulary.rival(cause)
        came = cause if rng.random() < cause.probability else rival
        tense = self.tense()
        return cause, came, Clause(subject, cause.cause, tense, cause.cause_holds), Clause(subject, came.effect, tense)

    def relation(self, label: int) -> tuple[Clause, Clause]:
        """Premise and hypothesis: 0 entailed, 1 neutral, 2 contradicted."""
        rng = self.rng
        clause = self.clause()
        while label == 1 and not clause.object and not self.strangers(clause):
            clause = self.clause()
        ways: list[tuple[Clause, Clause]] = []
        if label == 0:
            ways.append((clause, clause._replace(generic_subject=True)))
            if clause.holds and clause.object:
                ways.append((clause, clause._replace(generic_object=True)))
                ways.append((clause, clause._replace(generic_subject=True, generic_object=True)))
            if clause.holds and clause.time[0]:
                ways.append((clause, clause._replace(time=("", ""))))
        elif label == 2:
            ways.append((clause, clause._replace(holds=not clause.holds)))
            if clause.holds and clause.time[0] and clause.predicate.english in self.world.vocabulary.once:
                times = [time for time in self.world.vocabulary.times if time != clause.time]
                ways.append((clause, clause._replace(time=rng.choice(times))))
        else:
            other = self.clause(like=clause)
            ways.append((clause, other))
            ways.append((clause, other._replace(generic_subject=True)))
            if clause.holds:
                ways.append((clause._replace(generic_subject=True), clause))
            if clause.holds and clause.object and other.object:
                if other.object.hypernym != clause.object.hypernym:
                    ways.append((clause, other._replace(generic_object=True)))
                ways.append((clause._replace(generic_object=True), clause))
                if not clause.time[0]:
                    ways.append((clause, clause._replace(time=rng.choice(self.world.vocabulary.times))))
        return rng.choice(ways)


def generic(clause: Clause, vocabulary: Vocabulary) -> Clause:
    """The clause with each generic noun replaced by its hypernym."""
    if clause.generic_subject:
        clause = clause._replace(subject=vocabulary.above(clause.subject))
    if clause.object and clause.generic_object:
        clause = clause._replace(object=vocabulary.above(clause.object))
    return clause
