"""XCOPA and XNLI items and how lm-evaluation-harness 0.4.13 asks them: every language's words, context, continuations.

The words are facts of the package `lm_eval`: tasks/xcopa/utils.py (connectors), tasks/super_glue/copa/utils.py (English
COPA) and tasks/xnli/utils.py (question and answer words, kept as they stand there). Feeds every transfer table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

LABELS = {"xcopa": 2, "xnli": 3}
CORRECTED = "-corrected"  # ends the task of an XCOPA item asked a second time, with English COPA's `question`

# Language -> what joins premise and choice where the question asks for the cause, for the effect. English is COPA's.
CONNECTORS = {
    "en": ("because", "therefore"),
    "et": ("sest", "seetõttu"),
    "ht": ("poukisa", "donk sa"),
    "id": ("karena", "maka"),
    "it": ("perché", "quindi"),
    "qu": ("imataq", "chaymi"),
    "sw": ("kwa sababu", "kwa hiyo"),
    "ta": ("காரணமாக", "எனவே"),
    "th": ("เพราะ", "ดังนั้น"),
    "tr": ("çünkü", "bu yüzden"),
    "vi": ("bởi vì", "vì vậy"),
    "zh": ("因为", "所以"),
}
QUESTIONS = ("cause", "effect")

# Language -> the question word, then the answers for entailment, neutral, contradiction.
ANSWERS = {
    "ar": ("صحيح", "نعم", "لذا", "رقم"),
    "bg": ("правилно", "да", "така", "не"),
    "de": ("richtig", "Ja", "Auch", "Nein"),
    "el": ("σωστός", "Ναί", "Έτσι", "όχι"),
    "en": ("right", "Yes", "Also", "No"),
    "es": ("correcto", "Sí", "Asi que", "No"),
    "fr": ("correct", "Oui", "Aussi", "Non"),
    "hi": ("सही", "हाँ", "इसलिए", "नहीं"),
    "ru": ("правильно", "Да", "Так", "Нет"),
    "sw": ("sahihi", "Ndiyo", "Hivyo", "Hapana"),
    "th": ("ถูกต้อง", "ใช่", "ดังนั้น", "ไม่"),
    "tr": ("doğru", "Evet", "Böylece", "Hayır"),
    "ur": ("صحیح", "جی ہاں", "اس لئے", "نہیں"),
    "vi": ("đúng", "Vâng", "Vì vậy", "Không"),
    "zh": ("正确", "是的", "所以", "不是的"),
}
LANGUAGES: dict[str, Mapping[str, object]] = {"xcopa": CONNECTORS, "xnli": ANSWERS}
TEXTS = {"xcopa": ("premise", "choice1", "choice2", "question"), "xnli": ("premise", "hypothesis")}


class Item(NamedTuple):
    """One scored question: log p(option | context) for each option, `label` the index of the right one."""

    id: str
    task: str
    language: str
    split: str
    label: int
    context: str
    options: tuple[str, ...]


class Source(NamedTuple):
    """An item as its benchmark releases it: `texts` by field name, XCOPA's or XNLI's; label -1 is one kept back."""

    id: str
    task: str
    language: str
    split: str
    label: int
    texts: dict[str, str]

    @property
    def candidates(self) -> tuple[str, ...]:
        """What a reader sees who is not shown the premise: both choices, or the hypothesis."""
        names = ("choice1", "choice2") if self.task == "xcopa" else ("hypothesis",)
        return tuple(self.texts[name] for name in names)


def render(source: Source, released: bool) -> Item:
    """The item as the harness's default prompt asks it: (context, option) are the two strings handed to a model.

    XCOPA: context = premise, stripped, without its last character, + " " + connector; options = " " + choice with its
    first character in lower case. XNLI: no context; options = " " + "{premise}, right? Yes|Also|No, {hypothesis}", the
    whole sentence. The leading space is the harness's `target_delimiter`.

    Args:
        released: the item is of a released benchmark. Then English, which is COPA, has a second space before its
            options: the harness's task `copa` puts one there and the delimiter another. The micro-world's English is
            asked as XCOPA's other languages are, with one.
    """
    texts = source.texts
    if source.task == "xcopa":
        connector = CONNECTORS[source.language][QUESTIONS.index(texts["question"])]
        context = f"{texts['premise'].strip()[:-1]} {connector}"
        joint = "  " if released and source.language == "en" else " "
        options = tuple(f"{joint}{choice[0].lower()}{choice[1:]}" for choice in source.candidates)
    else:
        asked, *answers = ANSWERS[source.language]
        context = ""
        options = tuple(f" {texts['premise']}, {asked}? {answer}, {texts['hypothesis']}" for answer in answers)
    return Item(source.id, source.task, source.language, source.split, source.label, context, options)


def corrected(source: Source, question: str) -> Item:
    """An XCOPA item with the connector of `question` in place of the released one, under a task of its own."""
    item = render(source._replace(texts=source.texts | {"question": question}), released=True)
    return item._replace(task=f"{source.task}{CORRECTED}")
