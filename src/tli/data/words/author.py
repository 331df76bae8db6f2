"""Reads the word lists that the paper's author published."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from tli.data.words import lexicon
from tli.data.words.lexicon import Pair, complaint
from tli.io.structured import read_json


def read_author_list(path: Path, set_: str) -> list[Pair]:
    """Reads a JSON list of {"swahili": ..., "english": ...} as pairs without part of speech and domain, in NFC.

    Args:
        path: the file.
        set_: the set of all its pairs: trained or control.

    Raises:
        UserError: the file is no such list; the message gives the number of the bad entry, from 1.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise complaint(str(path), "a list of pairs", f"{entries!r:.40}", "name a file of word pairs")
    pairs = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict) or sorted(entry) != ["english", "swahili"]:
            raise complaint(where, "the keys swahili and english", f"{entry!r:.60}", "correct the entry")
        for side in lexicon.SIDES:
            if not isinstance(entry[side], str):
                raise complaint(f"{where}: {side}", "a text", f"{entry[side]!r:.40}", "correct the entry")
            lexicon.check_cell(entry[side], f"{where}: {side}")
        swahili, english = (unicodedata.normalize("NFC", entry[side]) for side in lexicon.SIDES)
        pairs.append(Pair(swahili, english, "-", "-", set_))
    return pairs
