"""Stage `words`: the word pairs of a run.

The project's list is checked against its rules (`check`). The author's two lists are fetched and used unchanged; the
audit describes them. Nothing is computed but counts (data/words/audit.py).

Inputs: data/pairs.tsv, or the author's lists (`pairs.source: author`).
Outputs: pairs.tsv (columns swahili, english, pos, domain, set), words.json (the audit), and the words whose
embeddings a partial base model needs.

Used by: the table `audit`, and through the pairs by every similarity table.
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

SINGLE_WORDS = 0.9  # the least share of single words in each language
DEVIATION = 2.0  # pairs: the largest deviation from the trained set's proportions, per part of speech or domain


def run(pairs_path: Path, out: Path, audit_path: Path, params: Params, words: Path | None = None) -> None:
    """Writes the pairs of `pairs.source` to `out`, in NFC, and their audit to `audit_path`.

    `words` gets the words whose embeddings the base must have, one per line: the words of the list if only a part of
    the model is fetched. Otherwise the file is empty, so that a change of the list does not change the base.

    Raises:
        UserError: the list breaks a rule (see `check`).
    """
    if params.pairs.source == "author":
        pairs = fetch_author_pairs(params.author)
    else:
        pairs = lexicon.read_pairs(pairs_path)
        check(pairs, pairs_path)
    counts = audit.audit(pairs, params.train.batch_size)
    write_tsv(out, Pair._fields, pairs)
    write_json(audit_path, counts)
    if words is not None:
        forms = sorted({form for pair in pairs for form in (pair.swahili, pair.english)})
        write_text(words, "".join(f"{form}\n" for form in forms if not params.active.model.whole))


def check(pairs: Sequence[Pair], path: Path | str) -> None:
    """Checks the rules of the project's list at `path`.

    - No form occurs twice in a language.
    - All forms are dictionary forms (`lexicon.citation_fault`).
    - Both sets have pairs.
    - At least nine tenths of the forms are single words.
    - The control set has the trained set's proportions of parts of speech and domains.

    Raises:
        UserError: a rule is broken; the message names the line if one line is at fault.
    """
    lexicon.refuse_repeats(pairs, path)
    for number, pair in enumerate(pairs, start=2):
        if fault := lexicon.citation_fault(pair, f"{path}:{number}"):
            raise fault
    counts = audit.audit(pairs, batch_size=2)
    for name in SETS:
        if not counts["pairs"][name]:
            raise complaint(f"{path}: set", f"pairs of the set {name}", "none", "add some")
    for side, share in counts["single_word_share"].items():
        if share < SINGLE_WORDS:
            expected = f"at least {SINGLE_WORDS:.0%} single words"
            raise complaint(f"{path}: {side}", expected, f"{share:.2%}", "replace some phrases by words")
    for group in ("pos", "domain"):
        if counts["largest_deviation"][group] > DEVIATION:
            group_name, deviation = max(audit.deviations(counts[group]).items(), key=lambda item: item[1])
            expected = f"the control set within {DEVIATION:g} pairs of the trained set's proportions"
            raise complaint(
                f"{path}: {group}", expected, f"{deviation:.2f} for {group_name}", "move pairs between the sets"
            )


def fetch_author_pairs(author: Author) -> list[Pair]:
    """The author's trained and control pairs, fetched by URL and SHA-256, in the order of their files."""
    pairs: list[Pair] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, source in zip(SETS, (author.trained, author.control), strict=True):
            file = Path(folder) / PurePosixPath(source.path).name
            fetch_url(f"{author.url}/{source.path}", file, sha256=source.sha256)
            pairs += read_author_list(file, name)
    return pairs
