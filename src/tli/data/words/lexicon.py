"""Swahili–English word pairs: what a list is, and what names each of its pairs. Feeds every lexical table.

A list is a UTF-8 TSV file with the columns swahili, english, pos, domain, set; `-` is a label not given. In the
project's own list, data/pairs.tsv, every form occurs once and is the one that a dictionary lists (`citation_fault`):
- a verb is the Swahili infinitive against the bare English verb: kusoma / read, kwenda / go, never -soma or "to read";
- a noun is singular, or what the dictionary lists where there is no singular: maji / water, suruali / trousers;
- an adjective is its bare stem without a hyphen: zuri / good. In data/pairs.tsv every stem that agrees begins with a
  consonant and has two syllables or more, and so is also the word that agrees with class 5 (gari zuri; for chache,
  which is plural, with class 10); the others never change (safi, tayari). This leaves out -pya, -eusi and the like,
  whose stem is not a word of running text.
English spelling is British. Two forms are the same if their `key` is.
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
    """One translation pair; `set` is trained or control."""

    swahili: str
    english: str
    pos: str
    domain: str
    set: str


SETS = ("trained", "control")
SIDES = ("swahili", "english")
PARTS_OF_SPEECH = ("noun", "verb", "adjective", "adverb", "numeral", "pronoun", "conjunction", "preposition")


def key(form: str) -> str:
    """What makes two forms the same: NFC, case folded, ’ taken as '."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", form).casefold()).replace("’", "'")


def complaint(where: str, expected: str, got: str, advice: str) -> UserError:
    got = got if len(got) <= 200 else f"{got[:198]} …"  # a cell may be a whole file
    return UserError(f"{where}: expected {expected}, got {got}; {advice}")


def read_pairs(path: Path | str) -> list[Pair]:
    """The pairs of `path` in the file's order, in NFC: pair i stands on line i + 2. UserError (path:line) if broken."""
    pairs: list[Pair] = []
    for number, line in enumerate(_lines(path) or [""], start=1):
        where = f"{path}:{number}"
        cells = line.split("\t")
        if number == 1:
            if cells != list(Pair._fields):
                header = " ".join(Pair._fields)
                raise complaint(
                    where, f"the header {header}, a tab between", f"{line[:80]!r}", "make it the first line"
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
    """The file's lines, each ended by a bare line feed; a last line without one may be the rest of a cut file."""
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
    if not cell.strip():
        raise complaint(where, "a value", "an empty cell", "fill it in or remove the line")
    if cell != " ".join(cell.split()) or not cell.isprintable():
        expected = "words with one plain space between them and none around"
        raise complaint(where, expected, repr(cell), "remove stray spaces and invisible characters")


def citation_fault(pair: Pair, where: str = "") -> UserError | None:
    """What is wrong with the pair's labels and dictionary forms, as far as a program can see it (the module's rules).

    A verb is ku or kw and more letters, its English side does not begin with "to"; no form is a stem with its hyphen.
    """
    if pair.pos not in PARTS_OF_SPEECH:
        return complaint(f"{where}: pos", f"one of {', '.join(PARTS_OF_SPEECH)}", repr(pair.pos), "correct the column")
    if not re.fullmatch("[a-z]+", pair.domain):
        return complaint(f"{where}: domain", "one word in small letters", repr(pair.domain), "correct the column")
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
    """UserError, with both lines, where a form stands twice on one side of the list at `path`."""
    seen: dict[tuple[str, str], int] = {}
    for number, pair in enumerate(pairs, start=2):
        for side in SIDES:
            form: str = getattr(pair, side)
            first = seen.setdefault((side, key(form)), number)
            if first != number:
                again = f"{form!r} again, which stands on line {first} ({pairs[first - 2].set})"
                raise complaint(f"{path}:{number}: {side}", "every form once", again, "remove or reword one of the two")


def item_names(pairs: Sequence[Pair]) -> list[str]:
    """What each pair is called in rows, each name once: its Swahili form, where only one pair of the list has it.

    Else `swahili/english`, and where that is taken too, `swahili/english/2` and so on, in the list's order.
    """
    count = Counter(pair.swahili for pair in pairs)
    taken = {form for form, times in count.items() if times == 1}
    found = []
    for pair in pairs:
        name = pair.swahili
        if count[name] > 1:
            name = next(name for name in _candidates(pair) if name not in taken)
            taken.add(name)
        found.append(name)
    return found


def _candidates(pair: Pair) -> Iterable[str]:
    yield (name := f"{pair.swahili}/{pair.english}")
    yield from (f"{name}/{number}" for number in itertools.count(2))
