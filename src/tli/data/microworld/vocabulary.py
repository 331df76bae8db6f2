"""The micro-world's vocabulary: reads and checks the tables of data/world.

- nouns.tsv: people, animals, things and their hypernyms, with noun classes
- verbs.tsv: what people do to things
- events.tsv: what people, animals and things do by themselves
- causes.tsv: which event causes which, and with what probability
- times.tsv: times of day that exclude each other
- related.tsv: pairs of themes where one may imply, exclude or explain the other, so that they are not unrelated
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tli.data.microworld.grammar import Noun, Predicate, conjugate
from tli.io.errors import UserError
from tli.io.files import read_text

KINDS = ("person", "animal", "thing")


class Cause(NamedTuple):
    """`cause` (negated if `cause_holds` is false) has `effect` with `probability`, else the effect of its rival.

    The two causes of a theme are each other's rival. `swahili`: whether pure Swahili text may state it.
    """

    subject: str
    theme: str
    cause: Predicate
    cause_holds: bool
    effect: Predicate
    probability: float
    swahili: bool


class Vocabulary(NamedTuple):
    """Nouns by Swahili form, transitive verbs, causes (two per theme), and times of day as (English, Swahili).

    `once`: verbs that happen to a thing only once, so that another time of day is a contradiction. `related`: pairs of
    themes that are not independent, as (kind of subject, theme, other theme), in both orders.
    """

    nouns: dict[str, Noun]
    verbs: list[Predicate]
    causes: list[Cause]
    times: list[tuple[str, str]]
    once: frozenset[str]
    related: frozenset[tuple[str, str, str]]

    def entities(self, kind: str) -> list[Noun]:
        """Returns the nouns of a kind that have a hypernym."""
        return [noun for noun in self.nouns.values() if noun.kind == kind and noun.hypernym != "-"]

    def above(self, noun: Noun) -> Noun:
        """Returns the hypernym of a noun."""
        return self.nouns[noun.hypernym]

    def rival(self, cause: Cause) -> Cause:
        """Returns the other cause of the theme."""
        return next(other for other in self.themes(cause.subject)[cause.theme] if other is not cause)

    def themes(self, kind: str) -> dict[str, list[Cause]]:
        """Returns theme -> its causes, for subjects of a kind."""
        themes: dict[str, list[Cause]] = {}
        for cause in self.causes:
            if cause.subject == kind:
                themes.setdefault(cause.theme, []).append(cause)
        return themes

    def unrelated(self, cause: Cause, other: Cause) -> bool:
        """Whether the themes of two causes are independent."""
        return cause.theme != other.theme and (cause.subject, cause.theme, other.theme) not in self.related

    def verb_forms(self) -> list[str]:
        """Returns every verb stem in its two forms: as listed, and as in the negative present."""
        predicates = [*self.verbs, *(part for cause in self.causes for part in (cause.cause, cause.effect))]
        forms = {conjugate(p.swahili, p.verb_type, "1", "present", False).removeprefix("ha") for p in predicates}
        return sorted(forms | {p.swahili for p in predicates})


def _table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields ("path:line", cells) of a TSV file after its header."""
    lines = read_text(path).splitlines()
    if not lines or lines[0].split("\t") != list(columns):
        raise UserError(f"{path}:1: expected the columns {' '.join(columns)}; restore the header")
    if len(lines) < 2 and path.name != "related.tsv":
        raise UserError(f"{path}:2: expected lines under the header, got none; restore the file")
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(columns) or not all(cell.strip() == cell and cell for cell in cells):
            raise UserError(
                f"{path}:{number}: expected {len(columns)} trimmed, non-empty cells, got {line!r}; fix the line"
            )
        yield f"{path}:{number}", cells


def _known(where: str, column: str, value: str, allowed: Sequence[str]) -> str:
    """Returns `value` if it is one of `allowed`, else raises UserError."""
    if value not in allowed:
        shown = ", ".join(allowed[:12]) + (", …" if len(allowed) > 12 else "")
        raise UserError(f"{where}: {column}: expected one of {shown}, got {value!r}; correct the cell")
    return value


def _predicate(where: str, cells: Sequence[str]) -> Predicate:
    english, third, past, english_rest, swahili, verb_type, swahili_rest = (
        "" if cell == "-" else cell for cell in cells[1:]
    )
    _known(where, "type", verb_type, ("bantu", "arabic", "short"))
    return Predicate(cells[0], english, third, past, english_rest, swahili, verb_type, swahili_rest)


def read_vocabulary(folder: Path) -> Vocabulary:
    """Reads and checks the six tables in `folder` (data/world).

    Raises:
        UserError: a bad table; the message names file:line, column, the expected and the actual value.
    """
    nouns: dict[str, Noun] = {}
    for where, cells in _table(folder / "nouns.tsv", ("kind", *Noun._fields[1:5], "class", "hypernym")):
        noun = Noun(*cells)
        _known(where, "kind", noun.kind, KINDS)
        singular, _, plural = noun.noun_class.partition("/")
        _known(where, "class", singular, ("1", "3", "5", "7", "9"))
        _known(where, "class", plural, ("2", "4", "6", "8", "10"))
        if noun.swahili in nouns:
            raise UserError(f"{where}: swahili: {noun.swahili!r} occurs in a line above; remove one")
        nouns[noun.swahili] = noun
    tops = [noun.swahili for noun in nouns.values() if noun.hypernym == "-"]
    for row, noun in enumerate(nouns.values(), start=2):
        _known(f"{folder / 'nouns.tsv'}:{row}", "hypernym", noun.hypernym, ("-", *tops))
    verbs, once = [], set()
    for where, cells in _table(folder / "verbs.tsv", ("english", "third", "past", "swahili", "type", "once")):
        verbs.append(_predicate(where, (cells[0], *cells[:3], "-", *cells[3:5], "-")))
        if _known(where, "once", cells[5], ("yes", "no")) == "yes":
            once.add(cells[0])
    columns = ("key", "english", "third", "past", "english_rest", "swahili", "type", "swahili_rest")
    events = {cells[0]: _predicate(where, cells) for where, cells in _table(folder / "events.tsv", columns)}
    header = ("subject", "theme", "cause", "effect", "probability", "swahili")
    causes = [_cause(where, cells, events) for where, cells in _table(folder / "causes.tsv", header)]
    times = [(cells[0], cells[1]) for _, cells in _table(folder / "times.tsv", ("english", "swahili"))]
    themes = {kind: sorted({cause.theme for cause in causes if cause.subject == kind}) for kind in KINDS}
    related = set()
    for where, (kind, theme, other) in _table(folder / "related.tsv", ("subject", "theme", "other")):
        known = themes[_known(where, "subject", kind, KINDS)]
        _known(where, "theme", theme, known)
        _known(where, "other", other, known)
        related |= {(kind, theme, other), (kind, other, theme)}
    vocabulary = Vocabulary(nouns, verbs, causes, times, frozenset(once), frozenset(related))
    _check_causes(vocabulary, folder / "causes.tsv")
    return vocabulary


def _cause(where: str, cells: Sequence[str], events: dict[str, Predicate]) -> Cause:
    subject, theme, cause, effect, probability, swahili = cells
    _known(where, "subject", subject, KINDS)
    key = _known(where, "cause", cause.removeprefix("not "), list(events))
    _known(where, "effect", effect, list(events))
    _known(where, "swahili", swahili, ("yes", "no"))
    try:
        chance = float(probability)
    except ValueError:
        chance = math.nan
    if not 0 < chance < 1:
        expected = "probability: expected a number between 0 and 1"
        raise UserError(f"{where}: {expected}, got {probability!r}; correct the cell")
    return Cause(subject, theme, events[key], key == cause, events[effect], chance, swahili == "yes")


def _check_causes(vocabulary: Vocabulary, path: Path) -> None:
    """Raises UserError unless every theme has two causes and no event occurs twice for a kind of subject."""
    for kind in KINDS:
        for theme, pair in vocabulary.themes(kind).items():
            if len(pair) != 2:
                raise UserError(f"{path}: theme {theme} of {kind}: expected 2 lines, got {len(pair)}; pair it up")
        causes = [cause for cause in vocabulary.causes if cause.subject == kind]
        counts = Counter(part.key for cause in causes for part in (cause.cause, cause.effect))
        if repeated := sorted(key for key, count in counts.items() if count > 1):
            key = repeated[0]
            raise UserError(f"{path}: {key} of {kind}: expected in one line, got {counts[key]}; rename one")
