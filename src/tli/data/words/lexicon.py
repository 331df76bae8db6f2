"""Swahili-English word pairs: reads and checks a list, and names its pairs.

A list is a UTF-8 TSV file with the columns swahili, english, pos, domain and set; `-` stands for a missing label. In
the project's list, data/pairs.tsv, every form occurs once and is the dictionary form (checked by `citation_fault`):

- A verb is the Swahili infinitive and the bare English verb: kusoma / read, kwenda / go, not -soma or "to read".
- A noun is singular, unless the dictionary lists only a plural: maji / water, suruali / trousers.
- An adjective is the bare stem without a hyphen: zuri / good. Every stem in data/pairs.tsv that agrees begins with a
  consonant and has at least two syllables, so that it is also the word that agrees with class 5 (gari zuri), or with
  class 10 for the plural chache; the other adjectives never change (safi, tayari). So -pya, -eusi and others whose stem
  is not a word are not in the list.

English spelling is British. Two forms count as the same if their `key` is the same.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tli.io.errors import UserError


class Pair(NamedTuple):
    """A translation pair. `set` is trained or control; `pos` is the part of speech."""

    swahili: str
    english: str
    pos: str
    domain: str
    set: str


SETS = ("trained", "control")
SIDES = ("swahili", "english")
PARTS_OF_SPEECH = ("noun", "verb", "adjective", "adverb", "numeral", "pronoun", "conjunction", "preposition")


def key(form: str) -> str:
    """Returns the form in NFC, case folded, with ’ replaced by '. Two forms with the same key count as the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", form).casefold()).replace("’", "'")


def complaint(where: str, expected: str, got: str, advice: str) -> UserError:
    """Returns a UserError "where: expected X, got Y; what to do"."""
    got = got if len(got) <= 200 else f"{got[:198]} …"  # a cell may be a whole file
    return UserError(f"{where}: expected {expected}, got {got}; {advice}")


def read_pairs(path: Path | str) -> list[Pair]:
    """Reads a list of pairs, in NFC and in the file's order: pair i (from 0) is on line i + 2.

    Raises:
        UserError: the file is no such list; the message begins with path:line.
    """
    pairs: list[Pair] = []
    for number, line in enumerate(_lines(path) or [""], start=1):
        where = f"{path}:{number}"
        cells = line.split("\t")
        if number == 1:
            if cells != list(Pair._fields):
                header = " ".join(Pair._fields)
                raise complaint(
                    where, f"the header {header} with tabs between", f"{line[:80]!r}", "make it the first line"
                )
            continue
        if len(cells) != len(Pair._fields):
            advice = f"put one tab between {', '.join(Pair._fields)} and leave no line empty"
            raise complaint(where, f"{len(Pair._fields)} columns", str(len(cells)), advice)
        for column, cell in zip(Pair._fields, cells, strict=True):
            check_cell(cell, f"{where}: {column}")
        pair = Pair(*(unicodedata.normalize("NFC", cell) for cell in cells))
        if pair.set not in SETS:
            raise complaint(f"{where}: set", " or ".join(SETS), repr(pair.set), "correct the last column")
        pairs.append(pair)
    if not pairs:
        raise complaint(f"{path}:2", "at least one pair", "none", "add the word pairs")
    return pairs


def _lines(path: Path | str) -> list[str]:
    """The file's lines. Each must end in a line feed, since a last line without one may show a truncated file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise complaint(str(path), "a readable file", str(error.strerror), "check the path") from None
    if data.startswith(b"\xef\xbb\xbf"):
        raise complaint(f"{path}:1", "UTF-8 without a byte-order mark", "one", "save the file without it")
    lines = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        where = f"{path}:{number}"
        if b"\r" in line:
            raise complaint(where, "a line that ends in a line feed", "a carriage return", "save with Unix line ends")
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            got = f"byte 0x{line[error.start]:02x} in place {error.start + 1}"
            raise complaint(where, "UTF-8", got, "save the file as UTF-8") from None
    if lines.pop():
        raise complaint(
            f"{path}:{len(lines) + 1}", "a line feed after the last line", "none", "see whether the file was cut"
        )
    return lines


def check_cell(cell: str, where: str) -> None:
    """Raises UserError if a cell is empty or contains stray spaces or invisible characters."""
    if not cell.strip():
        raise complaint(where, "a value", "an empty cell", "fill it in or remove the line")
    if cell != " ".join(cell.split()) or not cell.isprintable():
        expected = "words with single spaces between them and none around them"
        raise complaint(where, expected, repr(cell), "remove stray spaces and invisible characters")


def citation_fault(pair: Pair, where: str = "") -> UserError | None:
    """Returns an error if the pair breaks the rules of data/pairs.tsv (see the module), else None.

    Checks what a program can see: the part of speech and the domain are valid; a Swahili verb begins with ku or kw, and
    its English side does not begin with "to"; no form begins or ends with a hyphen.

    Args:
        pair: the pair.
        where: its place, for the message.
    """
    if pair.pos not in PARTS_OF_SPEECH:
        return complaint(f"{where}: pos", f"one of {', '.join(PARTS_OF_SPEECH)}", repr(pair.pos), "correct the column")
    if not re.fullmatch("[a-z]+", pair.domain):
        return complaint(f"{where}: domain", "one word in lower case", repr(pair.domain), "correct the column")
    if pair.pos == "verb" and not re.match(r"k[uw]\w", pair.swahili):
        return complaint(
            f"{where}: swahili", "a verb's infinitive in ku- or kw-", repr(pair.swahili), "write it like kusoma"
        )
    if pair.pos == "verb" and key(pair.english).startswith("to "):
        return complaint(f"{where}: english", "a bare verb", repr(pair.english), "remove the 'to'")
    for side in SIDES:
        form: str = getattr(pair, side)
        if form.startswith("-") or form.endswith("-"):
            return complaint(
                f"{where}: {side}", "a form without a hyphen at its edge", repr(form), "write it like zuri"
            )
    return None


def refuse_repeats(pairs: Sequence[Pair], path: Path | str) -> None:
    """Raises UserError, with both lines, if a form occurs twice on one side of the list at `path`."""
    seen: dict[tuple[str, str], int] = {}
    for number, pair in enumerate(pairs, start=2):
        for side in SIDES:
            form: str = getattr(pair, side)
            first = seen.setdefault((side, key(form)), number)
            if first != number:
                got = f"{form!r} again, which is on line {first} ({pairs[first - 2].set})"
                raise complaint(f"{path}:{number}: {side}", "every form once", got, "remove or reword one of the two")


def item_names(pairs: Sequence[Pair]) -> list[str]:
    """Returns the unique name of each pair in row files.

    It is the Swahili form if only one pair has it, else `swahili/english`, or `swahili/english/2` and so on if that is
    taken, in the list's order.
    """
    count = Counter(pair.swahili for pair in pairs)
    taken = {form for form, times in count.items() if times == 1}
    names = []
    for pair in pairs:
        name = pair.swahili
        if count[name] > 1:
            name = next(name for name in _candidates(pair) if name not in taken)
            taken.add(name)
        names.append(name)
    return names


def _candidates(pair: Pair) -> Iterable[str]:
    yield (name := f"{pair.swahili}/{pair.english}")
    yield from (f"{name}/{number}" for number in itertools.count(2))
