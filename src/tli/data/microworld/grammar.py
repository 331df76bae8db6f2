"""A small grammar of English and Swahili over the vocabulary of data/world: nouns, predicates, clauses.

Swahili verbs agree with the noun class of their subject (Ashton, Swahili Grammar, 1944). People and animals take the
prefixes of the class M-WA, whatever their own class is; things take those of their class. Every sentence of the corpus
and the items is made by `say`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Language = Literal["en", "sw"]
Tense = Literal["past", "present", "future"]
VerbType = Literal["bantu", "arabic", "short"]
TENSES: tuple[Tense, ...] = ("past", "present", "future")

# Subject prefixes (affirmative, negative) by class. A noun of 5/6 takes those of 5 in the singular, of 6 in the plural.
PREFIXES = {
    "1": ("a", "ha"),
    "2": ("wa", "hawa"),
    "3": ("u", "hau"),
    "4": ("i", "hai"),
    "5": ("li", "hali"),
    "6": ("ya", "haya"),
    "7": ("ki", "haki"),
    "8": ("vi", "havi"),
    "9": ("i", "hai"),
    "10": ("zi", "hazi"),
}
MARKERS: dict[Tense, str] = {"past": "li", "present": "na", "future": "ta"}


class Noun(NamedTuple):
    """A noun in both languages.

    `kind` is person, animal or thing. `noun_class` is singular/plural, such as 7/8. `hypernym` is the Swahili form of a
    more general noun, or `-` if there is none.
    """

    kind: str
    swahili: str
    swahili_plural: str
    english: str
    english_plural: str
    noun_class: str
    hypernym: str

    def form(self, language: Language, plural: bool = False) -> str:
        """Returns the noun in a language, in the singular or plural."""
        if language == "en":
            return self.english_plural if plural else self.english
        return self.swahili_plural if plural else self.swahili

    def agreement(self, plural: bool = False) -> str:
        """Returns the class whose prefixes a verb takes: M-WA (1/2) for people and animals."""
        classes = self.noun_class.split("/") if self.kind == "thing" else ("1", "2")
        return classes[plural]


class Predicate(NamedTuple):
    """A verb in both languages, and the words after it (`english_rest`, `swahili_rest`).

    The rest is empty if nothing follows, or if an object noun follows. `third` and `past` are forms of the English
    verb. `verb_type`: bantu verbs end in -a and take -i in the negative present; arabic verbs keep their vowel; short
    verbs (one syllable, such as -la) keep ku- where the tense marker cannot bear the stress.
    """

    key: str
    english: str
    third: str
    past: str
    english_rest: str
    swahili: str
    verb_type: str
    swahili_rest: str


class Clause(NamedTuple):
    """A clause: subject, predicate, tense, whether it is affirmed (`holds`), and perhaps an object and a time.

    A generic noun is indefinite: `a fruit`, not `the fruit`. The generic subject of a negated clause is `some animal`
    (`mnyama fulani`), because `an animal does not sleep` would be about all animals.
    """

    subject: Noun
    predicate: Predicate
    tense: Tense
    holds: bool = True
    object: Noun | None = None
    generic_subject: bool = False
    generic_object: bool = False
    plural: bool = False
    time: tuple[str, str] = ("", "")


def conjugate(stem: str, verb_type: str, subject_class: str, tense: Tense, holds: bool) -> str:
    """Returns the Swahili verb: a-li-soma, ha-ku-soma, a-na-soma, ha-som-i, a-ta-soma, ha-ta-soma.

    Short stems: alikula, hakula, anakula, hali, atakula, hatakula.
    """
    prefix = PREFIXES[subject_class][0 if holds else 1]
    infix = "ku" if verb_type == "short" else ""
    if holds or tense == "future":
        return f"{prefix}{MARKERS[tense]}{infix}{stem}"
    if tense == "past":
        return f"{prefix}ku{stem}"
    return prefix + (f"{stem[:-1]}i" if verb_type != "arabic" and stem.endswith("a") else stem)


def english_verb(predicate: Predicate, plural: bool, tense: Tense, holds: bool) -> str:
    """Returns the English verb group: read, did not read; reads, does not read; will (not) read; is (not)."""
    if tense == "future":
        return f"will {predicate.english}" if holds else f"will not {predicate.english}"
    if predicate.english == "be":
        form = {"past": ("was", "were"), "present": ("is", "are")}[tense][plural]
        return form if holds else f"{form} not"
    if not holds:
        return f"{'did' if tense == 'past' else 'do' if plural else 'does'} not {predicate.english}"
    return predicate.past if tense == "past" else predicate.english if plural else predicate.third


def _english_noun(noun: Noun, generic: bool, plural: bool, nouns: Language, holds: bool = True) -> str:
    """The noun with its article: `the dog`; generic: `an animal`, `animals`, or in a negated clause `some animal`."""
    form = noun.form(nouns, plural)
    if not generic:
        return f"the {form}"
    if not holds:
        return f"some {form}"
    if plural:
        return form
    return f"{'an' if form[0] in 'aeiou' else 'a'} {form}"


def say(clause: Clause, language: Language, nouns: Language | None = None) -> str:
    """Returns the clause as a sentence.

    Args:
        clause: what to say.
        language: the sentence's language.
        nouns: the nouns' language, if it is another one: `The mwalimu bought the embe.`
    """
    nouns = nouns or language
    predicate = clause.predicate
    if language == "en":
        words = [
            _english_noun(clause.subject, clause.generic_subject, clause.plural, nouns, clause.holds),
            english_verb(predicate, clause.plural, clause.tense, clause.holds),
            _english_noun(clause.object, clause.generic_object, False, nouns) if clause.object else "",
            predicate.english_rest,
            clause.time[0],
        ]
    else:
        subject_class = clause.subject.agreement(clause.plural)
        words = [
            clause.subject.form(nouns, clause.plural),
            "fulani" if clause.generic_subject and not clause.holds else "",
            conjugate(predicate.swahili, predicate.verb_type, subject_class, clause.tense, clause.holds),
            clause.object.form(nouns) if clause.object else "",
            predicate.swahili_rest,
            clause.time[1],
        ]
    sentence = " ".join(word for word in words if word)
    return f"{sentence[0].upper()}{sentence[1:]}."
