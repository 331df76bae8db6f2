"""The micro-world: the grammar's forms, and that no item stands in the corpus that the base model reads."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tli.config import parameters
from tli.data.microworld import world
from tli.data.microworld.grammar import TENSES, Clause, Noun, Predicate, conjugate, say
from tli.data.microworld.sampler import Sampler, World
from tli.data.microworld.vocabulary import KINDS, Vocabulary, read_vocabulary
from tli.io.errors import UserError
from tli.io.structured import read_json
from tli.stages import microworld

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY, PAIRS = ROOT / "data/world", ROOT / "data/pairs.tsv"

# Stem, type, class of the subject: past, not past, present, not present, future, not future. Written by hand.
FORMS = """
soma    bantu   1   alisoma hakusoma anasoma hasomi atasoma hatasoma
soma    bantu   2   walisoma hawakusoma wanasoma hawasomi watasoma hawatasoma
nunua   bantu   1   alinunua hakununua ananunua hanunui atanunua hatanunua
la      short   1   alikula hakula anakula hali atakula hatakula
nywa    short   2   walikunywa hawakunywa wanakunywa hawanywi watakunywa hawatakunywa
fa      short   1   alikufa hakufa anakufa hafi atakufa hatakufa
jibu    arabic  1   alijibu hakujibu anajibu hajibu atajibu hatajibu
sahau   arabic  2   walisahau hawakusahau wanasahau hawasahau watasahau hawatasahau
anguka  bantu   7   kilianguka hakikuanguka kinaanguka hakianguki kitaanguka hakitaanguka
vunjika bantu   8   vilivunjika havikuvunjika vinavunjika havivunjiki vitavunjika havitavunjika
potea   bantu   9   ilipotea haikupotea inapotea haipotei itapotea haitapotea
potea   bantu   10  zilipotea hazikupotea zinapotea hazipotei zitapotea hazitapotea
uzwa    bantu   3   uliuzwa haukuuzwa unauzwa hauuzwi utauzwa hautauzwa
uzwa    bantu   4   iliuzwa haikuuzwa inauzwa haiuzwi itauzwa haitauzwa
oza     bantu   5   lilioza halikuoza linaoza haliozi litaoza halitaoza
oza     bantu   6   yalioza hayakuoza yanaoza hayaozi yataoza hayataoza
"""

# Noun, plural: the affirmative and the negative past of -anguka, fall.
AGREEMENT = {
    ("mwalimu", False): "Mwalimu alianguka. Mwalimu hakuanguka.",
    ("mwalimu", True): "Walimu walianguka. Walimu hawakuanguka.",
    ("daktari", False): "Daktari alianguka. Daktari hakuanguka.",
    ("daktari", True): "Madaktari walianguka. Madaktari hawakuanguka.",
    ("mbwa", False): "Mbwa alianguka. Mbwa hakuanguka.",
    ("mbwa", True): "Mbwa walianguka. Mbwa hawakuanguka.",
    ("kiboko", False): "Kiboko alianguka. Kiboko hakuanguka.",
    ("kiboko", True): "Viboko walianguka. Viboko hawakuanguka.",
    ("kitabu", False): "Kitabu kilianguka. Kitabu hakikuanguka.",
    ("kitabu", True): "Vitabu vilianguka. Vitabu havikuanguka.",
    ("meza", False): "Meza ilianguka. Meza haikuanguka.",
    ("meza", True): "Meza zilianguka. Meza hazikuanguka.",
    ("embe", False): "Embe lilianguka. Embe halikuanguka.",
    ("embe", True): "Maembe yalianguka. Maembe hayakuanguka.",
    ("msumeno", False): "Msumeno ulianguka. Msumeno haukuanguka.",
    ("msumeno", True): "Misumeno ilianguka. Misumeno haikuanguka.",
}


@pytest.fixture(scope="module")
def settings() -> Any:
    return parameters.load(ROOT / "params.yaml").profiles["microworld"].benchmarks


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return read_vocabulary(VOCABULARY)


@pytest.fixture(scope="module")
def built(settings: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed default, whole."""
    out = tmp_path_factory.mktemp("world")
    microworld.run(PAIRS, VOCABULARY, out / "world", out / "world.json", settings)
    return out


@pytest.fixture(scope="module")
def items(built: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (built / "world/items.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("line", FORMS.strip().splitlines(), ids=lambda line: "-".join(line.split()[:3]))
def test_swahili_verbs_agree_in_tense_and_polarity(line: str) -> None:
    stem, verb_type, subject_class, *forms = line.split()
    got = [conjugate(stem, verb_type, subject_class, tense, holds) for tense in TENSES for holds in (True, False)]
    assert got == forms


@pytest.mark.parametrize(("noun", "plural"), AGREEMENT)
def test_people_and_animals_take_the_prefixes_of_m_wa_and_things_their_own(
    noun: str, plural: bool, vocabulary: Vocabulary
) -> None:
    fall = Predicate("fall", "fall", "falls", "fell", "", "anguka", "bantu", "")
    clauses = [Clause(vocabulary.nouns[noun], fall, "past", holds, plural=plural) for holds in (True, False)]
    assert " ".join(say(clause, "sw") for clause in clauses) == AGREEMENT[noun, plural]


def test_english_verbs_agree_and_negate(vocabulary: Vocabulary) -> None:
    read = Predicate("read", "read", "reads", "read", "", "soma", "bantu", "")
    sold = Predicate("sold", "be", "is", "was", "sold", "uzwa", "bantu", "")
    teacher, orange, book = (vocabulary.nouns[noun] for noun in ("mwalimu", "chungwa", "kitabu"))
    assert say(Clause(teacher, read, "present", True, book), "en") == "The teacher reads the book."
    assert say(Clause(teacher, read, "past", False, book, plural=True), "en") == "The teachers did not read the book."
    assert say(Clause(teacher, read, "present", False, plural=True), "en") == "The teachers do not read."
    assert say(Clause(orange, sold, "past", True, generic_subject=True), "en") == "An orange was sold."
    assert say(Clause(orange, sold, "past", False, generic_subject=True), "en") == "Some orange was not sold."
    assert say(Clause(orange, sold, "past", False, generic_subject=True), "sw") == "Chungwa fulani halikuuzwa."
    assert say(Clause(orange, sold, "future", False), "en") == "The orange will not be sold."
    assert say(Clause(orange, sold, "present", plural=True), "en") == "The oranges are sold."
    at_night = Clause(teacher, read, "past", True, book, time=("at night", "usiku"))
    assert say(at_night, "sw") == "Mwalimu alisoma kitabu usiku."
    assert say(at_night, "en") == "The teacher read the book at night."
    assert say(Clause(teacher, read, "past", True, book), "en", "sw") == "The mwalimu read the kitabu."
    assert say(Clause(teacher, read, "future", False, book), "sw", "en") == "Teacher hatasoma book."


def _theme(vocabulary: Vocabulary, clause: Clause) -> Any:
    causes = [cause for cause in vocabulary.causes if cause.subject == clause.subject.kind]
    return next(cause for cause in causes if clause.predicate in (cause.cause, cause.effect))


def test_a_neutral_hypothesis_has_nothing_to_do_with_its_premise(vocabulary: Vocabulary) -> None:
    """Related themes, and a noun above the premise's own object, would entail or contradict at times."""
    sampler = Sampler(World(vocabulary, 0.2, random.Random(0)), "corpus", random.Random(1))
    others = 0
    for _ in range(4000):
        premise, hypothesis = sampler.relation(1)
        if premise.predicate == hypothesis.predicate:
            continue
        others += 1
        if premise.object and hypothesis.object:
            assert not hypothesis.generic_object or premise.object.hypernym != hypothesis.object.hypernym
        else:
            assert vocabulary.unrelated(_theme(vocabulary, premise), _theme(vocabulary, hypothesis))
    assert others > 1000


def test_another_time_contradicts_only_what_happens_once(vocabulary: Vocabulary) -> None:
    sampler = Sampler(World(vocabulary, 0.2, random.Random(0)), "corpus", random.Random(2))
    pairs = [sampler.relation(2) for _ in range(4000)]
    moved = [premise for premise, hypothesis in pairs if premise.time != hypothesis.time]
    assert {premise.predicate.english for premise in moved} == set(vocabulary.once)


def test_the_other_option_of_an_item_is_a_rival_or_unrelated(vocabulary: Vocabulary) -> None:
    sampler = Sampler(World(vocabulary, 0.2, random.Random(0)), "test", random.Random(3))
    kinds = Counter()
    for turn in range(2000):
        item = world.xcopa(sampler, 0, ("cause", "effect")[turn % 2], 0.5)
        causes = [_theme(vocabulary, option) for option in item.options]
        kinds[item.private["world_alternative"]] += 1
        if item.private["world_alternative"] == "rival":
            assert causes[0].theme == causes[1].theme
        else:
            assert vocabulary.unrelated(*causes)
    assert min(kinds.values()) > 500


def test_statements_are_worded_as_the_harness_words_them() -> None:
    assert world.joined("The cup fell.", "therefore", "The cup broke.") == "The cup fell therefore the cup broke."
    assert world.related("Mtoto alilala.", "Mtu alilala.", 0, "sw") == "Mtoto alilala., sahihi? Ndiyo, Mtu alilala."
    assert world.related("A b.", "C d.", 2, "en") == "A b., right? No, C d."


def test_no_item_and_no_option_occurs_in_the_corpus(built: Path, items: list[dict[str, Any]]) -> None:
    """Searched as lowercase text from a word's start: choices, premises joined with either, all three relations."""
    corpus = (" " + (built / "world/corpus.txt").read_text()).lower().replace("\n", "\n ")
    wanted: set[str] = set()
    for item in items:
        language = item["language"]
        if item["task"] == "xcopa":
            connectors = world.CONNECTORS[language]
            told = (item["premise"], item["choice1"], item["choice2"])
            wanted |= {*told, *(f"{sentence[:-1]} {word} " for sentence in told for word in connectors.values())}
            wanted |= {world.joined(told[0], connectors[item["question"]], choice) for choice in told[1:]}
        else:
            wanted |= {world.related(item["premise"], item["hypothesis"], label, language) for label in range(3)}
    found = [text for text in wanted if f" {text.lower()}" in corpus]
    assert len(wanted) > 4000
    assert not found


def test_the_corpus_tells_nothing_of_a_held_out_combination(vocabulary: Vocabulary) -> None:
    dealt = World(vocabulary, 0.2, random.Random(0))
    assert 0.15 < dealt.held_out_share < 0.3
    for kind in KINDS:
        for noun in dealt.entities[kind]:
            split = dealt.split[noun.swahili]
            told, held = ({c for pair in dealt.themes(noun, name) for c in pair} for name in ("corpus", split))
            assert told
            assert len(held) >= 4  # two themes, so that an alternative from another theme exists
            assert told.isdisjoint(held)
            if kind == "person":
                things: list[set[Noun]] = [set(dealt.things(noun, name)) for name in ("corpus", split)]
                assert things[0].isdisjoint(things[1])
    test, dev = (Sampler(dealt, name, random.Random(0)) for name in ("test", "dev"))
    assert all(set(test.subjects[kind]).isdisjoint(dev.subjects[kind]) for kind in KINDS)


def test_part_of_the_causes_is_never_told_in_pure_swahili(vocabulary: Vocabulary) -> None:
    sampler = Sampler(World(vocabulary, 0.2, random.Random(0)), "corpus", random.Random(1))
    told = {sampler.causal(swahili=True)[0] for _ in range(3000)}
    assert told == {cause for cause in vocabulary.causes if cause.swahili}
    assert 0.15 < sum(not cause.swahili for cause in vocabulary.causes) / len(vocabulary.causes) < 0.4


def test_items_are_enough_balanced_and_aligned_across_languages(settings: Any, items: list[dict[str, Any]]) -> None:
    by_set: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for item in items:
        by_set.setdefault((item["task"], item["split"], item["language"]), []).append(item)
    for (task, split, language), chosen in by_set.items():
        assert len(chosen) == getattr(settings.items, split) >= {"test": 400, "dev": 200}[split]
        labels = Counter(item["label"] for item in chosen)
        assert set(labels) == set(range(2 if task == "xcopa" else 3))
        assert max(labels.values()) - min(labels.values()) <= 1
        other = by_set[task, split, "sw" if language == "en" else "en"]
        same = [key for key in chosen[0] if key in ("label", "question") or key.startswith("world_")]
        assert [[item[key] for key in same] for item in chosen] == [[item[key] for key in same] for item in other]
    assert len({item["id"] for item in items}) == len(items)
    assert all(abs(sum(item["world_p"]) - 1) < 1e-8 for item in items)
    assert Counter(item["question"] for item in by_set["xcopa", "test", "en"]) == {"cause": 200, "effect": 200}


def test_pure_swahili_and_english_do_not_mix_in_items(vocabulary: Vocabulary, items: list[dict[str, Any]]) -> None:
    """Every Swahili item begins with a Swahili noun, every English one with an article and an English noun."""
    nouns = {noun.swahili for noun in vocabulary.nouns.values()}
    for item in items:
        first = item["premise"].split()[0].lower()
        assert first in nouns if item["language"] == "sw" else first in ("the", "a", "an")


def test_ceilings_lie_between_chance_and_one(built: Path, items: list[dict[str, Any]]) -> None:
    record = read_json(built / "world.json")
    for name, entry in record["items"].items():
        chance = 1 / 2 if name.startswith("xcopa") else 1 / 3
        assert chance <= entry["ceiling"] <= 1
        assert chance <= entry["ceiling_drawn"] <= 1
    assert 0.8 < record["items"]["xcopa.sw.test"]["ceiling"] < 1
    assert world.ceiling([{"world_p": [0.25, 0.75], "label": 0}, {"world_p": [1.0, 0.0], "label": 0}]) == (0.875, 0.5)


def test_a_seed_gives_the_same_bytes_and_another_seed_others(settings: Any, tmp_path: Path) -> None:
    small = settings.model_copy(update={"documents": 500})
    for name, chosen in (("a", small), ("b", small), ("c", small.model_copy(update={"seed": 1}))):
        microworld.run(PAIRS, VOCABULARY, tmp_path / name, tmp_path / f"{name}.json", chosen)
    for file in ("corpus.txt", "items.jsonl"):
        first, again, other = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert first == again
        assert first != other


def test_dictionary_lines_hold_every_pair_in_both_directions(built: Path) -> None:
    lines = set((built / "world/corpus.txt").read_text().splitlines())
    for line in PAIRS.read_text().splitlines()[1:]:
        swahili, english = line.split("\t")[:2]
        assert {f"{word} = {swahili}, {english}" for word in (swahili, english)} <= lines


@pytest.mark.parametrize(
    ("file", "line", "broken", "message"),
    [
        ("nouns.tsv", 3, "person\tdaktari\tmadaktari\tdoctor\tdoctors\t5/6", "nouns.tsv:3: expected 7 trimmed"),
        (
            "nouns.tsv",
            3,
            "person\tdaktari\tmadaktari\tdoctor\tdoctors\t5-6\tmtu",
            "nouns.tsv:3: class: expected one of",
        ),
        (
            "nouns.tsv",
            3,
            "person\tdaktari\tmadaktari\tdoctor\tdoctors\t5/6\tmt",
            "nouns.tsv:3: hypernym: expected one of",
        ),
        ("causes.tsv", 2, "person\tfood\tfly\tcry\t0.9\tyes", "causes.tsv:2: cause: expected one of"),
        ("causes.tsv", 2, "person\tfood\tslip\tcry\t1.9\tyes", "causes.tsv:2: probability: expected a number"),
        ("causes.tsv", 2, "person\tfoods\tslip\tcry\t0.9\tyes", "theme foods of person: expected 2 lines, got 1"),
        ("verbs.tsv", 1, "english", "verbs.tsv:1: expected the columns"),
    ],
)
def test_a_broken_vocabulary_line_is_named(file: str, line: int, broken: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    shutil.copytree(VOCABULARY, folder, copy_function=shutil.copyfile)  # not its read-only mode, which DVC may set
    lines = (folder / file).read_text().splitlines()
    lines[line - 1] = broken
    (folder / file).write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r".") as error:
        read_vocabulary(folder)
    assert message in error.value.message
    assert "\n" not in error.value.message
