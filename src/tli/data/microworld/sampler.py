"""Draws random clauses, causal statements and sentence pairs of the micro-world.

`World` assigns combinations of nouns to the corpus or to the items, so that items contain only combinations that the
corpus lacks. `Sampler` draws from the combinations of one split.
"""

from __future__ import annotations

import random

from tli.data.microworld.grammar import TENSES, Clause, Noun, Tense
from tli.data.microworld.vocabulary import KINDS, Cause, Vocabulary

WEIGHTS = (0.7, 0.15, 0.15)  # of past, present, future: XCOPA's sentences are mostly in the past


class World:
    """The vocabulary, with its combinations assigned to the splits `corpus`, `dev` and `test`.

    Args:
        vocabulary: the words.
        held_out: the share of each noun's themes, and of each person's things, that the corpus does not use.
        rng: chooses them.
    """

    def __init__(self, vocabulary: Vocabulary, held_out: float, rng: random.Random) -> None:
        self.vocabulary = vocabulary
        self.entities = {kind: vocabulary.entities(kind) for kind in KINDS}
        self.split: dict[str, str] = {}
        self.held_themes: dict[str, list[str]] = {}
        self.held_things: dict[str, list[Noun]] = {}
        for kind, nouns in self.entities.items():
            themes = list(vocabulary.themes(kind))
            for index, noun in enumerate(rng.sample(nouns, len(nouns))):
                self.split[noun.swahili] = "dev" if index % 3 == 0 else "test"
                self.held_themes[noun.swahili] = rng.sample(themes, max(2, round(held_out * len(themes))))
                if kind == "person":
                    things = self.entities["thing"]
                    self.held_things[noun.swahili] = rng.sample(things, max(2, round(held_out * len(things))))

    def themes(self, noun: Noun, split: str) -> list[list[Cause]]:
        """Returns the themes that `split` may use with `noun`, each as its two causes."""
        held_out = self.held_themes[noun.swahili]
        themes = self.vocabulary.themes(noun.kind)
        return [pair for theme, pair in themes.items() if (theme in held_out) == (split != "corpus")]

    def things(self, noun: Noun, split: str) -> list[Noun]:
        """Returns the things that `split` may use as objects of the person `noun`."""
        held_out = self.held_things[noun.swahili]
        return [thing for thing in self.entities["thing"] if (thing in held_out) == (split != "corpus")]

    def subjects(self, kind: str, split: str) -> list[Noun]:
        """Returns the nouns of a kind that `split` may use as subjects; the corpus uses all."""
        return [noun for noun in self.entities[kind] if split in ("corpus", self.split[noun.swahili])]

    @property
    def held_out_share(self) -> float:
        """The share of noun x theme and person x thing combinations that the corpus lacks."""
        held_out = sum(map(len, self.held_themes.values())) + sum(map(len, self.held_things.values()))
        total = sum(len(nouns) * len(self.vocabulary.themes(kind)) for kind, nouns in self.entities.items())
        return held_out / (total + len(self.entities["person"]) * len(self.entities["thing"]))


class Sampler:
    """Draws clauses, causal statements and sentence pairs of one split, with the random generator `rng`."""

    def __init__(self, world: World, split: str, rng: random.Random) -> None:
        self.world, self.split, self.rng = world, split, rng
        self.subjects = {kind: world.subjects(kind, split) for kind in KINDS}
        nouns = [noun for of_kind in self.subjects.values() for noun in of_kind]
        self.themes = {noun.swahili: world.themes(noun, split) for noun in nouns}
        self.things = {noun.swahili: world.things(noun, split) for noun in self.subjects["person"]}

    def tense(self) -> Tense:
        """Draws a tense."""
        return self.rng.choices(TENSES, WEIGHTS)[0]

    def clause(self, like: Clause | None = None) -> Clause:
        """Draws a clause.

        With `like`, the clause has the same subject and tense, but an unrelated verb, object or theme. If `like` has no
        object, its subject must have an unrelated theme (see `strangers`).
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
        """Returns the causes that this split may use with the clause's subject and that are unrelated to its event."""
        causes = [cause for pair in self.themes[clause.subject.swahili] for cause in pair]
        same_kind = (c for c in self.world.vocabulary.causes if c.subject == clause.subject.kind)
        clause_cause = next(c for c in same_kind if clause.predicate in (c.cause, c.effect))
        return [cause for cause in causes if self.world.vocabulary.unrelated(clause_cause, cause)]

    def causal(self, swahili: bool) -> tuple[Cause, Cause, Clause, Clause]:
        """Draws a causal statement.

        Args:
            swahili: draw only causes that pure Swahili text may state (Cause.swahili).

        Returns:
            The cause; the cause whose effect happened (itself, or its rival); the clauses of the cause and the effect.
        """
        rng = self.rng
        while True:
            subject = rng.choice(self.subjects[rng.choices(KINDS, (0.6, 0.2, 0.2))[0]])
            cause = rng.choice(rng.choice(self.themes[subject.swahili]))
            if cause.swahili or not swahili:
                break
        rival = self.world.vocabulary.rival(cause)
        actual = cause if rng.random() < cause.probability else rival
        tense = self.tense()
        premise = Clause(subject, cause.cause, tense, cause.cause_holds)
        return cause, actual, premise, Clause(subject, actual.effect, tense)

    def relation(self, label: int) -> tuple[Clause, Clause]:
        """Draws premise and hypothesis with a relation: 0 entailment, 1 neutral, 2 contradiction."""
        rng = self.rng
        clause = self.clause()
        while label == 1 and not clause.object and not self.strangers(clause):
            clause = self.clause()
        candidates: list[tuple[Clause, Clause]] = []
        if label == 0:
            candidates.append((clause, clause._replace(generic_subject=True)))
            if clause.holds and clause.object:
                candidates.append((clause, clause._replace(generic_object=True)))
                candidates.append((clause, clause._replace(generic_subject=True, generic_object=True)))
            if clause.holds and clause.time[0]:
                candidates.append((clause, clause._replace(time=("", ""))))
        elif label == 2:
            candidates.append((clause, clause._replace(holds=not clause.holds)))
            if clause.holds and clause.time[0] and clause.predicate.english in self.world.vocabulary.once:
                times = [time for time in self.world.vocabulary.times if time != clause.time]
                candidates.append((clause, clause._replace(time=rng.choice(times))))
        else:
            other = self.clause(like=clause)
            candidates.append((clause, other))
            candidates.append((clause, other._replace(generic_subject=True)))
            if clause.holds:
                candidates.append((clause._replace(generic_subject=True), clause))
            if clause.holds and clause.object and other.object:
                if other.object.hypernym != clause.object.hypernym:
                    candidates.append((clause, other._replace(generic_object=True)))
                candidates.append((clause._replace(generic_object=True), clause))
                if not clause.time[0]:
                    candidates.append((clause, clause._replace(time=rng.choice(self.world.vocabulary.times))))
        return rng.choice(candidates)


def generic(clause: Clause, vocabulary: Vocabulary) -> Clause:
    """Returns the clause with each generic noun replaced by its hypernym."""
    if clause.generic_subject:
        clause = clause._replace(subject=vocabulary.above(clause.subject))
    if clause.object and clause.generic_object:
        clause = clause._replace(object=vocabulary.above(clause.object))
    return clause
