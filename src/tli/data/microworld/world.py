"""The micro-world: generates a bilingual corpus for pre-training, and benchmark items with held-out combinations.

The corpus lacks certain noun x theme combinations and person x thing combinations. The items contain only these, and
are the same in both languages. Two thirds of the nouns occur only in test items, the others only in dev items.

Effects are noisy: a cause has its own effect with probability q, and its rival's effect otherwise. The ceiling is the
accuracy of a reader who knows the generator: the mean over items of max p(choice). Here p(choice) is proportional to
the probability that the generator gives each choice (`world_p`):

- effects: q or 1 - q
- causes: q_i or 1 - q_j, by Bayes' rule with equally likely causes
- against an event of another theme: 1 and 0
- the relation of two sentences: 1 for the true one

`ceiling_drawn` is the accuracy of the same rule on the labels that were drawn.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tli.config.benchmarks import MicroworldBenchmarks
from tli.data.microworld.grammar import Clause, Language, say
from tli.data.microworld.sampler import Sampler, World, generic
from tli.data.words import lexicon
from tli.io.structured import nine_digits

LANGUAGES: tuple[Language, Language] = ("en", "sw")
CONNECTORS = {"en": {"cause": "because", "effect": "therefore"}, "sw": {"cause": "kwa sababu", "effect": "kwa hiyo"}}
RELATIONS = {"en": ("right", "Yes", "Also", "No"), "sw": ("sahihi", "Ndiyo", "Hivyo", "Hapana")}


def lowered(sentence: str) -> str:
    """Returns the sentence with its first letter in lower case."""
    return sentence[0].lower() + sentence[1:]


def joined(premise: str, connector: str, choice: str) -> str:
    """Joins a causal statement as lm-eval does: the premise without its full stop, the connector, the choice."""
    return f"{premise[:-1]} {connector} {lowered(choice)}"


def related(premise: str, hypothesis: str, label: int, language: Language) -> str:
    """Joins two sentences with the word for their relation, as lm-eval does."""
    tag, *words = RELATIONS[language]
    return f"{premise}, {tag}? {words[label]}, {hypothesis}"


def corpus(
    world: World, pairs: Sequence[lexicon.Pair], settings: MicroworldBenchmarks, rng: random.Random
) -> Iterator[tuple[str, str]]:
    """Yields (kind, document), `settings.documents` times.

    Kinds: a dictionary line, parallel sentences, a sentence that switches language, a causal statement, and two
    sentences with their relation. Dictionary lines take each word of each pair once before any word again; the right
    side is the same for both words of a pair: `dog = mbwa, dog`.

    Args:
        world: the vocabulary and its splits.
        pairs: the word list, for the dictionary lines.
        settings: the number of documents, and the shares of kinds and languages.
        rng: draws the documents.
    """
    sampler = Sampler(world, "corpus", rng)
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
        main, other = rng.sample(LANGUAGES, 2)
        if kind in ("parallel", "switched"):
            clause = sampler.clause()
            clause = clause._replace(plural=rng.random() < 0.15)
            parallel = kind == "parallel"
            yield kind, f"{say(clause, main)} = {say(clause, other)}" if parallel else say(clause, main, other)
            continue
        language = rng.choices(("en", "switched", "sw"), shares)[0]
        within = language == "switched" and rng.random() < 0.5  # the nouns switch language, else the second clause
        first: Language = "en" if language == "en" else "sw" if language == "sw" else main
        second = other if language == "switched" and not within else first
        nouns = (other, other) if within else (first, second)
        if kind == "causal":
            _, _, premise, conclusion = sampler.causal(swahili=language == "sw")
            question = rng.choice(("cause", "effect"))
            if question == "cause":
                premise, conclusion = conclusion, premise
            text = joined(say(premise, first, nouns[0]), CONNECTORS[first][question], say(conclusion, second, nouns[1]))
        else:
            label = rng.randrange(3)
            premise, conclusion = (generic(clause, world.vocabulary) for clause in sampler.relation(label))
            text = related(say(premise, first, nouns[0]), say(conclusion, second, nouns[1]), label, first)
        yield f"{kind}_{language}", text


class Item(NamedTuple):
    """An item independent of language: a premise with two choices (XCOPA), or a premise and a hypothesis (XNLI).

    `p` is the probability of each label under the generator; `private` holds fields that no model is shown.
    """

    premise: Clause
    options: tuple[Clause, ...]
    question: str
    label: int
    p: tuple[float, ...]
    private: dict[str, Any]


def xcopa(sampler: Sampler, label: int, question: str, rivals: float) -> Item:
    """Draws an item in XCOPA's form.

    Args:
        sampler: draws the clauses.
        label: the index of the right choice.
        question: "cause" or "effect": which of the two the choices are.
        rivals: the probability that the wrong choice comes from the rival cause; else it comes from another theme.
    """
    rng = sampler.rng
    cause, actual, premise, answer = sampler.causal(swahili=False)
    rival = sampler.world.vocabulary.rival(cause)
    if question == "effect":
        p = cause.probability if actual is cause else 1 - cause.probability
        weights = (p, 1 - p)
        wrong = answer._replace(predicate=(rival if actual is cause else cause).effect)
    else:
        premise, answer = answer, premise
        p = cause.probability if actual is cause else 1 - cause.probability
        weights = (p, rival.probability if actual is rival else 1 - rival.probability)
        wrong = answer._replace(predicate=rival.cause, holds=rival.cause_holds)
    strangers = sampler.strangers(premise)
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


def xnli(sampler: Sampler, label: int) -> Item:
    """Draws an item in XNLI's form with the given label: 0 entailment, 1 neutral, 2 contradiction."""
    premise, hypothesis = sampler.relation(label)
    p = tuple(float(other == label) for other in range(3))
    return Item(premise, (hypothesis,), "", label, p, {"world_kind": premise.subject.kind})


def items(world: World, settings: MicroworldBenchmarks) -> Iterator[dict[str, Any]]:
    """Yields the items of both tasks, splits and languages. Labels and questions alternate, so they are balanced."""
    for task in ("xcopa", "xnli"):
        for split in ("dev", "test"):
            rng = random.Random(f"{settings.seed}:items:{task}:{split}")
            sampler, seen, made = Sampler(world, split, rng), set[tuple[str, ...]](), list[Item]()
            while len(made) < getattr(settings.items, split):
                number = len(made)
                if task == "xcopa":
                    item = xcopa(sampler, number % 2, ("cause", "effect")[number // 2 % 2], settings.rivals)
                else:
                    item = xnli(sampler, number % 3)
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
    texts = [say(clause, language) for clause in item.options]
    record |= (
        {"choice1": texts[0], "choice2": texts[1], "question": item.question}
        if task == "xcopa"
        else {"hypothesis": texts[0]}
    )
    return record | {"label": item.label, "world_p": [float(nine_digits(p)) for p in item.p], **item.private}


def ceiling(records: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Returns the ceiling and the drawn ceiling (see the module): the accuracy of always choosing the likeliest label.

    Of equally likely labels the first is chosen.
    """
    best = [max(range(len(r["world_p"])), key=r["world_p"].__getitem__) for r in records]
    expected = sum(r["world_p"][k] for r, k in zip(records, best, strict=True)) / len(records)
    return expected, sum(r["label"] == k for r, k in zip(records, best, strict=True)) / len(records)


def summary(world: World, documents: Sequence[tuple[str, str]], records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the sizes of corpus and items, the held-out share, the ceilings and the share of each label."""
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
