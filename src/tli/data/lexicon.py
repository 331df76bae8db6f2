"""Swahili–English word pairs: read, check, audit (stage: pairs). Feeds the data-audit table and every alignment table.

A list is a UTF-8 TSV file with the columns swahili, english, pos, domain, set. Forms are those a dictionary lists:
- a verb is the Swahili infinitive against the bare English verb: kusoma / read, kwenda / go, never -soma or "to read";
- a noun is singular, or what the dictionary lists where there is no singular: maji / water, suruali / trousers;
- an adjective is its bare stem without a hyphen: zuri / good. In data/pairs.tsv every stem that agrees begins with a
  consonant and has two syllables or more, and so is also the word that agrees with class 5 (gari zuri; for chache,
  which is plural, with class 10); the others never change (safi, tayari). This leaves out -pya, -eusi and the like,
  whose stem is not a word of running text.
English spelling is British. Two forms are the same if their `key` is.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tli import store


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
SINGLE_WORDS = 0.9  # the least share of single words on either side
DEVIATION = 2.0  # pairs: how far the control set may be from the trained set's proportions, in any pos or domain


def key(form: str) -> str:
    """What makes two forms the same: NFC, case folded, ’ taken as '."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", form).casefold()).replace("’", "'")


def _error(where: str, expected: str, got: str, advice: str) -> store.UserError:
    return store.UserError(f"{where}: expected {expected}, got {got}; {advice}")


def read_pairs(path: Path | str) -> list[Pair]:
    """The pairs of `path` in the file's order, in NFC: pair i stands on line i + 2. UserError (path:line) if broken."""
    pairs: list[Pair] = []
    seen: dict[tuple[str, str], int] = {}
    for number, line in enumerate(_lines(path) or [""], start=1):
        where = f"{path}:{number}"
        cells = line.split("\t")
        if number == 1:
            if cells != list(Pair._fields):
                header = " ".join(Pair._fields)
                raise _error(where, f"the header {header}, a tab between", f"{line[:80]!r}", "make it the first line")
            continue
        if len(cells) != len(Pair._fields):
            advice = f"put one tab between {', '.join(Pair._fields)} and leave no line empty"
            raise _error(where, f"{len(Pair._fields)} columns", str(len(cells)), advice)
        for column, cell in zip(Pair._fields, cells, strict=True):
            _check_cell(cell, f"{where}: {column}")
        pair = Pair(*(unicodedata.normalize("NFC", cell) for cell in cells))
        if pair.set not in SETS:
            raise _error(f"{where}: set", " or ".join(SETS), repr(pair.set), "correct the last column")
        for side in SIDES:
            form: str = getattr(pair, side)
            first = seen.setdefault((side, key(form)), number)
            if first != number:
                again = f"{form!r} again, which stands on line {first} ({pairs[first - 2].set})"
                raise _error(f"{where}: {side}", "every form once", again, "remove or reword one of the two")
        pairs.append(pair)
    if not pairs:
        raise _error(f"{path}:2", "at least one pair", "none", "add the word pairs")
    return pairs


def _lines(path: Path | str) -> list[str]:
    """The file's lines, each ended by a bare line feed; a last line without one may be the rest of a cut file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise _error(str(path), "a readable file", str(error.strerror), "check the path") from None
    if data.startswith(b"\xef\xbb\xbf"):
        raise _error(f"{path}:1", "UTF-8 without a byte-order mark", "one", "save the file without it")
    lines = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        where = f"{path}:{number}"
        if b"\r" in line:
            raise _error(where, "a line that ends in a line feed", "a carriage return", "save with Unix line ends")
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            got = f"byte 0x{line[error.start]:02x} in place {error.start + 1}"
            raise _error(where, "UTF-8", got, "save the file as UTF-8") from None
    if lines.pop():
        raise _error(
            f"{path}:{len(lines) + 1}", "a line feed after the last line", "none", "see whether the file was cut"
        )
    return lines


def _check_cell(cell: str, where: str) -> None:
    if not cell.strip():
        raise _error(where, "a value", "an empty cell", "fill it in or remove the line")
    if cell != " ".join(cell.split()) or not cell.isprintable():
        expected = "words with one plain space between them and none around"
        raise _error(where, expected, repr(cell), "remove stray spaces and invisible characters")


def citation_fault(pair: Pair, where: str = "") -> store.UserError | None:
    """What is wrong with the pair's labels and dictionary forms, as far as a program can see it (the module's rules).

    A verb is ku or kw and more letters, its English side does not begin with "to"; no form is a stem with its hyphen.
    """
    if pair.pos not in PARTS_OF_SPEECH:
        return _error(f"{where}: pos", f"one of {', '.join(PARTS_OF_SPEECH)}", repr(pair.pos), "correct the column")
    if not re.fullmatch("[a-z]+", pair.domain):
        return _error(f"{where}: domain", "one word in small letters", repr(pair.domain), "correct the column")
    if pair.pos == "verb" and not re.match(r"k[uw]\w", pair.swahili):
        return _error(
            f"{where}: swahili", "a verb's infinitive in ku- or kw-", repr(pair.swahili), "write it like kusoma"
        )
    if pair.pos == "verb" and key(pair.english).startswith("to "):
        return _error(f"{where}: english", "a bare verb", repr(pair.english), "remove the 'to'")
    for side in SIDES:
        form: str = getattr(pair, side)
        if form.startswith("-") or form.endswith("-"):
            return _error(f"{where}: {side}", "a form without a hyphen at its edge", repr(form), "write it like zuri")
    return None


def _counts(pairs: Sequence[Pair], group: Callable[[Pair], object]) -> dict[object, dict[str, int]]:
    """Per value of `group`, the most frequent first: how many pairs of each set."""
    order = sorted(Counter(map(group, pairs)).items(), key=lambda item: (-item[1], str(item[0])))
    cells = Counter((group(pair), pair.set) for pair in pairs)
    return {value: {name: cells[value, name] for name in SETS} for value, _ in order}


def deviations(counts: dict[object, dict[str, int]]) -> dict[object, float]:
    """Per group g: |c_g − C t_g / T|, in pairs; c, t: control and trained counts, C, T their sums (T at least 1)."""
    trained, control = (sum(count[name] for count in counts.values()) for name in SETS)
    return {g: abs(count["control"] - control * count["trained"] / max(trained, 1)) for g, count in counts.items()}


def audit(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Counts and shares of a list, for the data-audit table; shares lie in [0, 1], deviations are in pairs."""
    sizes: dict[str, dict[str, Any]] = {"single_word_share": {}, "duplicates": {}, "in_both_sets": {}}
    for side in SIDES:
        forms: list[str] = [getattr(pair, side) for pair in pairs]
        trained, control = ({key(form) for form, pair in zip(forms, pairs, strict=True) if pair.set == s} for s in SETS)
        sizes["single_word_share"][side] = sum(" " not in form for form in forms) / max(len(forms), 1)
        sizes["duplicates"][side] = len(forms) - len({key(form) for form in forms})
        sizes["in_both_sets"][side] = len(trained & control)
    pos, domain = _counts(pairs, lambda pair: pair.pos), _counts(pairs, lambda pair: pair.domain)
    both = _counts(pairs, lambda pair: (pair.pos, pair.domain))
    swahili = {key(pair.swahili) for pair in pairs}
    return {
        "pairs": {"all": len(pairs)} | {name: sum(pair.set == name for pair in pairs) for name in SETS},
        **sizes,
        "same_on_both_sides": sum(key(pair.swahili) == key(pair.english) for pair in pairs),
        "forms_on_both_sides": len(swahili & {key(pair.english) for pair in pairs}),
        "verbs": sum(pair.pos == "verb" for pair in pairs),
        "not_in_citation_form": sum(citation_fault(pair) is not None for pair in pairs),
        "largest_deviation": {
            name: max(deviations(counts).values(), default=0.0)
            for name, counts in {"pos": pos, "domain": domain, "pos_and_domain": both}.items()
        },
        "pos": pos,
        "domain": domain,
    }


def check(pairs: Sequence[Pair], path: Path | str) -> dict[str, Any]:
    """The audit of a list that keeps every rule; UserError, with the line where one line is at fault, for another."""
    for number, pair in enumerate(pairs, start=2):
        if fault := citation_fault(pair, f"{path}:{number}"):
            raise fault
    result = audit(pairs)
    for name in SETS:
        if not result["pairs"][name]:
            raise _error(f"{path}: set", f"pairs of the set {name}", "none", "add some")
    for side, share in result["single_word_share"].items():
        if share < SINGLE_WORDS:
            expected = f"at least {SINGLE_WORDS:.0%} single words"
            raise _error(f"{path}: {side}", expected, f"{share:.2%}", "replace some phrases by words")
    for group in ("pos", "domain"):
        if result["largest_deviation"][group] > DEVIATION:
            worst, off = max(deviations(result[group]).items(), key=lambda item: item[1])
            expected = f"the control set within {DEVIATION:g} pairs of the trained set's proportions"
            raise _error(f"{path}: {group}", expected, f"{off:.2f} for {worst}", "move pairs between the sets")
    return result


def run(pairs_path: Path, out: Path, audit_path: Path) -> None:
    """Reads and checks the list; only if all is well, writes it in NFC to `out` and its audit to `audit_path`."""
    pairs = read_pairs(pairs_path)
    result = check(pairs, pairs_path)
    store.write_tsv(out, Pair._fields, pairs)
    store.write_json(audit_path, result)
