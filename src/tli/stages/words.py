"""The word pairs of a run: the project's list, checked, or the author's two, fetched and audited (stage: pairs).

The rules that `check` holds a list to are the project's own; the author's lists are taken as they are, and their audit
says what they are like. Feeds the data-audit table and every lexical table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tli.config.parameters import Author, Params
from tli.data.hub.fetch import fetch_url
from tli.data.words import audit, lexicon
from tli.data.words.author import read_author_list
from tli.data.words.lexicon import SETS, Pair, complaint
from tli.io.files import write_text
from tli.io.structured import write_json, write_tsv

SINGLE_WORDS = 0.9  # the least share of single words on either side
DEVIATION = 2.0  # pairs: how far the control set may be from the trained set's proportions, in any pos or domain


def run(pairs_path: Path, out: Path, audit_path: Path, params: Params, words: Path | None = None) -> None:
    """The `pairs` stage: the list of `pairs.source` to `out`, in NFC, its audit to `audit_path`; both or neither.

    `words` gets the words that the base must have embeddings of, one a line: the list's where only a part of the model
    is fetched, none where the base has them all, so that it stays as it is whatever the list.
    """
    if params.pairs.source == "author":
        pairs = of_author(params.author)
    else:
        pairs = lexicon.read_pairs(pairs_path)
        check(pairs, pairs_path)
    result = audit.audit(pairs, params.train.batch_size)
    write_tsv(out, Pair._fields, pairs)
    write_json(audit_path, result)
    if words is not None:
        forms = sorted({form for pair in pairs for form in (pair.swahili, pair.english)})
        write_text(words, "".join(f"{form}\n" for form in forms if not params.active.model.whole))


def check(pairs: Sequence[Pair], path: Path | str) -> None:
    """UserError, with the line where one line is at fault, unless the list at `path` keeps the project's rules.

    No form twice on a side, dictionary forms (`lexicon.citation_fault`), both sets there, nine tenths of single words,
    the control set in the trained set's proportions of parts of speech and domains.
    """
    lexicon.refuse_repeats(pairs, path)
    for number, pair in enumerate(pairs, start=2):
        if fault := lexicon.citation_fault(pair, f"{path}:{number}"):
            raise fault
    found = audit.audit(pairs, batch_size=2)
    for name in SETS:
        if not found["pairs"][name]:
            raise complaint(f"{path}: set", f"pairs of the set {name}", "none", "add some")
    for side, share in found["single_word_share"].items():
        if share < SINGLE_WORDS:
            expected = f"at least {SINGLE_WORDS:.0%} single words"
            raise complaint(f"{path}: {side}", expected, f"{share:.2%}", "replace some phrases by words")
    for group in ("pos", "domain"):
        if found["largest_deviation"][group] > DEVIATION:
            worst, off = max(audit.deviations(found[group]).items(), key=lambda item: item[1])
            expected = f"the control set within {DEVIATION:g} pairs of the trained set's proportions"
            raise complaint(f"{path}: {group}", expected, f"{off:.2f} for {worst}", "move pairs between the sets")


def of_author(author: Author) -> list[Pair]:
    """The author's trained and control pairs, fetched by address and SHA-256, in their files' order."""
    pairs: list[Pair] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, listed in zip(SETS, (author.trained, author.control), strict=True):
            file = Path(folder) / PurePosixPath(listed.path).name
            fetch_url(f"{author.url}/{listed.path}", file, sha256=listed.sha256)
            pairs += read_author_list(file, name)
    return pairs
