"""The embedded micro-world: a bilingual corpus to pre-train on, and benchmark items held out of it (stage: world).

Whole entity x theme combinations (and person x thing combinations) are kept out of the corpus; items are built from
them alone, the same items in both languages; two thirds of the entities serve test alone, the others dev. Feeds the
benchmark tables (items, ceiling) and, through the base model, every other table of the embedded profile.

Effects are noisy: a cause brings its own effect with probability q and its rival's effect otherwise. The ceiling is
the accuracy that knowing the generator allows: the mean over items of the largest p(option), where p is proportional
to what the generator gives each option (`world_p`): q or 1 - q for effects; by Bayes' rule, with causes equally
likely, q_i or 1 - q_j for causes; 1 and 0 against an event of another theme; 1 for the true relation of a pair of
sentences. `ceiling_drawn` is the accuracy of the same rule on the labels that were drawn.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tli.config.parameters import MicroworldBenchmarks
from tli.data.microworld.grammar import Clause, Language, say
from tli.data.microworld.teller import Teller, World, generic
from tli.data.words import lexicon
from tli.io.structured import nine_digits

LANGUAGES: tuple[Language, Language] = ("en", "sw")
CONNECTORS = {"en": {"cause": "because", "effect": "therefore"}, "sw": {"cause": "kwa sababu", "effect": "kwa hiyo"}}
RELATIONS = {"en": ("right", "Yes", "Also", "No"), "sw": ("sahihi", "Ndiyo", "Hivyo", "Hapana")}


def lowered(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def joined(premise: str, connector: str, choice: str) -> str:
    """A causal statement as the standard harness joins it: the premise without its full stop, the choice lowercased."""
    return f"{premise[:-1]} {connector} {lowered(choice)}"


def related(premise: str, hypothesis: str, label: int, language: Language) -> str:
    """A pair of sentences as the standard harness joins it."""
    tag, *words = RELATIONS[language]
    return f"{premise}, {tag}? {words[label]}, {hypothesis}"


def corpus(
    world: World, pairs: Sequence[lexicon.Pair], settings: MicroworldBenchmarks, rng: random.Random
) -> Iterator[tuple[str, str]]:
    """Yields (kind, document), `settings.documents` times.

    Dictionary lines take each word of each pair in turn; the entry is the same from either side: `dog = mbwa, dog`.
    """
    teller = Teller(world, "corpus", rng)
    kinds = ("dictionary", "parallel", "switched", "causal", "entailment")
    weights = [getattr(settings.mix, kind) for kind in kinds]
    shares = (settings.languages.english, settings.languages.switched, settings.languages.swahili)
    entries: list[tuple[str, lexicon.Pair]] = []
    for kind in rng.choices(kinds, weights, k=settings.documents):
        if kind == "dictionary":
            if not entries:
                entries = [(word, pair) for pair in pairs for word in (pair.swahili, pair.english)]
                rng.shuffle(entries)
            word, pair = entries.pop()
            yield kind, f"{word} = {pair.swahili}, {pair.english}"
            continue
        one, other = rng.sample(LANGUAGES, 2)
        if kind in ("parallel", "switched"):
            clause = teller.clause()
            clause = clause._replace(plural=rng.random() < 0.15)
            yield kind, f"{say(clause, one)} = {say(clause, other)}" if kind == "parallel" else say(clause, one, other)
            continue
        language = rng.choices(("en", "switched", "sw"), shares)[0]
        within = language == "switched" and rng.random() < 0.5  # the nouns switch, else the second clause does
        first: Language = "en" if language == "en" else "sw" if language == "sw" else one
        second = other if language == "switched" and not within else first
        nouns = (other, other) if within else (first, second)
        if kind == "causal":
            _, _, premise, conclusion = teller.causal(swahili=language == "sw")
            question = rng.choice(("cause", "effect"))
            if question == "cause":
                premise, conclusion = conclusion, premise
            text = joined(say(premise, first, nouns[0]), CONNECTORS[first][question], say(conclusion, second, nouns[1]))
        else:
            label = rng.randrange(3)
            premise, conclusion = (generic(clause, world.vocabulary) for clause in teller.relation(label))
            text = related(say(premise, first, nouns[0]), say(conclusion, second, nouns[1]), label, first)
        yield f"{kind}_{language}", text


class Item(NamedTuple):
    """One item before it is said in a language: XCOPA's premise and two choices, or XNLI's premise and hypothesis."""

    premise: Clause
    options: tuple[Clause, ...]
    question: str
    label: int
    p: tuple[float, ...]
    private: dict[str, Any]


def xcopa(teller: Teller, label: int, question: str, rivals: float) -> Item:
    """Premise, what came of it, and an alternative: the theme's rival (share `rivals`) or another theme's event."""
    rng = teller.rng
    cause, came, premise, answer = teller.causal(swahili=False)
    rival = teller.world.vocabulary.rival(cause)
    if question == "effect":
        p = cause.probability if came is cause else 1 - cause.probability
        weights = (p, 1 - p)
        wrong = answer._replace(predicate=(rival if came is cause else cause).effect)
    else:
        premise, answer = answer, premise
        mine = cause.probability if came is cause else 1 - cause.probability
        weights = (mine, rival.probability if came is rival else 1 - rival.probability)
        wrong = answer._replace(predicate=rival.cause, holds=rival.cause_holds)
    strangers = teller.strangers(premise)
    near = rng.random() < rivals or not strangers
    if not near:
        far = rng.choice(strangers)
        part = far.effect if question == "effect" else far.cause
        wrong = answer._replace(predicate=part, holds=question == "effect" or far.cause_holds)
        weights = (1.0, 0.0)
    p_answer = weights[0] / sum(weights)
    options, p_all = (answer, wrong), (p_answer, 1 - p_answer)
    private: dict[str, Any] = {"world_alternative": "rival" if near else "other", "world_swahili": cause.swahili}
    private["world_theme"] = f"{cause.subject}.{cause.theme}"
    return Item(premise, options[::-1] if label else options, question, label, p_all[::-1] if label else p_all, private)


def xnli(teller: Teller, label: int) -> Item:
    premise, hypothesis = teller.relation(label)
    p = tuple(float(other == label) for other in range(3))
    return Item(premise, (hypothesis,), "", label, p, {"world_kind": premise.subject.kind})


def items(world: World, settings: MicroworldBenchmarks) -> Iterator[dict[str, Any]]:
    """Yields the items of both tasks, languages and splits; labels and questions take turns, hence are balanced."""
    for task in ("xcopa", "xnli"):
        for split in ("dev", "test"):
            rng = random.Random(f"{settings.seed}:items:{task}:{split}")
            teller, seen, made = Teller(world, split, rng), set[tuple[str, ...]](), list[Item]()
            while len(made) < getattr(settings.items, split):
                turn = len(made)
                if task == "xcopa":
                    item = xcopa(teller, turn % 2, ("cause", "effect")[turn // 2 % 2], settings.rivals)
                else:
                    item = xnli(teller, turn % 3)
                clauses = [generic(clause, world.vocabulary) for clause in (item.premise, *item.options)]
                key = (say(clauses[0], "en"), *sorted(say(clause, "en") for clause in clauses[1:]))
                if key not in seen:
                    seen.add(key)
                    made.append(item._replace(premise=clauses[0], options=tuple(clauses[1:])))
            rng.shuffle(made)
            for language in LANGUAGES:
                for number, item in enumerate(made, start=1):
                    yield _record(f"{task}.{language}.{split}.{number:04d}", task, language, split, item)


def _record(name: str, task: str, language: Language, split: str, item: Item) -> dict[str, Any]:
    record: dict[str, Any] = {"id": name, "task": task, "language": language, "split": split}
    record["premise"] = say(item.premise, language)
    said = [say(clause, language) for clause in item.options]
    record |= (
        {"choice1": said[0], "choice2": said[1], "question": item.question}
        if task == "xcopa"
        else {"hypothesis": said[0]}
    )
    return record | {"label": item.label, "world_p": [float(nine_digits(p)) for p in item.p], **item.private}


def ceiling(records: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """(expected, drawn) accuracy of the rule that takes the likeliest option, the first of equals."""
    best = [max(range(len(r["world_p"])), key=r["world_p"].__getitem__) for r in records]
    expected = sum(r["world_p"][k] for r, k in zip(records, best, strict=True)) / len(records)
    return expected, sum(r["label"] == k for r, k in zip(records, best, strict=True)) / len(records)


def summary(world: World, documents: Sequence[tuple[str, str]], records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sizes, held-out share, ceilings and label balance."""
    words = [word for _, text in documents for word in text.split()]
    result: dict[str, Any] = {
        "documents": dict(sorted(Counter(kind for kind, _ in documents).items())),
        "words": len(words),
        "distinct_documents": len({text for _, text in documents}),
        "held_out_share": world.held_out_share,
        "items": {},
    }
    for task in ("xcopa", "xnli"):
        for split in ("dev", "test"):
            for language in LANGUAGES:
                chosen = [r for r in records if (r["task"], r["split"], r["language"]) == (task, split, language)]
                expected, drawn = ceiling(chosen)
                labels = Counter(r["label"] for r in chosen)
                balance = {str(label): labels[label] / len(chosen) for label in sorted(labels)}
                result["items"][f"{task}.{language}.{split}"] = {
                    "n": len(chosen),
                    "ceiling": expected,
                    "ceiling_drawn": drawn,
                    "label_share": balance,
                }
    return result
