"""Renders XCOPA and XNLI items as the prompts of lm-evaluation-harness 0.4.13.

The words of each language are those of the package `lm_eval`: tasks/xcopa/utils.py (connectors),
tasks/super_glue/copa/utils.py (English COPA) and tasks/xnli/utils.py (question and answer words, with its spelling).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

LABELS = {"xcopa": 2, "copa_test": 2, "xnli": 3}  # task -> number of choices
COPA_TEST = "copa_test"  # English COPA's test split: items like XCOPA's, which lm-eval does not score
CORRECTED = "-corrected"  # ends the task of an XCOPA item that is asked again with English COPA's `question`

# Language -> the connectors of premise and choice, for the questions cause and effect. English is COPA.
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

# Language -> the question word, and the answers for entailment, neutral and contradiction.
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
LANGUAGES: dict[str, Mapping[str, object]] = {
    "xcopa": CONNECTORS,
    "copa_test": {"en": CONNECTORS["en"]},
    "xnli": ANSWERS,
}
_XCOPA = ("premise", "choice1", "choice2", "question")
TEXTS = {"xcopa": _XCOPA, "copa_test": _XCOPA, "xnli": ("premise", "hypothesis")}


class Item(NamedTuple):
    """A rendered item. A model scores log p(option | context) of each option; `label` is the index of the right one."""

    id: str
    task: str
    language: str
    split: str
    label: int
    context: str
    options: tuple[str, ...]

    @property
    def set(self) -> str:
        """`xcopa.en`: the items of one task and language, whose scores are one number."""
        return f"{self.task}.{self.language}"


class Source(NamedTuple):
    """An item as released. `texts` has the fields of XCOPA or XNLI by name; label -1 means that it is not public."""

    id: str
    task: str
    language: str
    split: str
    label: int
    texts: dict[str, str]

    @property
    def candidates(self) -> tuple[str, ...]:
        """The item without its premise: both choices, or the hypothesis."""
        names = ("hypothesis",) if self.task == "xnli" else ("choice1", "choice2")
        return tuple(self.texts[name] for name in names)


def render(source: Source, released: bool) -> Item:
    """Renders an item with the default prompt of lm-evaluation-harness.

    XCOPA: the context is the stripped premise without its last character, a space and the connector. An option is a
    space and the choice, with its first character in lower case. XNLI: the context is empty. An option is a space and
    the whole sentence "{premise}, right? Yes|Also|No, {hypothesis}". The space is the harness's `target_delimiter`.

    Args:
        source: the item.
        released: whether the item is of a released benchmark. Then English is COPA, whose options have two spaces: one
            from the harness's task `copa`, one the delimiter. English micro-world items have one, as the other
            languages.
    """
    texts = source.texts
    if source.task != "xnli":
        connector = CONNECTORS[source.language][QUESTIONS.index(texts["question"])]
        context = f"{texts['premise'].strip()[:-1]} {connector}"
        space = "  " if released and source.language == "en" else " "
        options = tuple(f"{space}{choice[0].lower()}{choice[1:]}" for choice in source.candidates)
    else:
        question, *answers = ANSWERS[source.language]
        context = ""
        options = tuple(f" {texts['premise']}, {question}? {answer}, {texts['hypothesis']}" for answer in answers)
    return Item(source.id, source.task, source.language, source.split, source.label, context, options)


def corrected(source: Source, question: str) -> Item:
    """Renders an XCOPA item with another `question` than the released one, as a task `xcopa-corrected`."""
    item = render(source._replace(texts=source.texts | {"question": question}), released=True)
    return item._replace(task=f"{source.task}{CORRECTED}")
