"""The word pairs: the shipped list keeps what it promises, and no broken list gets past the stage."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import math
import os
import re
import statistics
import subprocess
import sys
import threading
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiny import ROOT, SHARED
from tli.cli import main
from tli.config import parameters
from tli.data.words import audit as audits
from tli.data.words import lexicon
from tli.data.words.lexicon import Pair
from tli.io.errors import CheckFailed, UserError
from tli.io.structured import read_json
from tli.stages import words as stage

SHIPPED = ROOT / "data" / "pairs.tsv"
PARAMS = parameters.load(ROOT / "tests" / "smoke" / "params.yaml")
HEADER = "swahili\tenglish\tpos\tdomain\tset\n"
GOOD = (
    HEADER
    + "mkate\tbread\tnoun\tfood\ttrained\n"
    + "kusoma\tread\tverb\tschool\ttrained\n"
    + "zuri\tgood\tadjective\tquality\ttrained\n"
    + "kitabu\tbook\tnoun\tschool\tcontrol\n"
)


def run(folder: Path, content: bytes | str) -> tuple[Path, Path]:
    """Runs the stage on a list of this content; returns where its two files would lie."""
    path, out, audit = folder / "pairs.tsv", folder / "out" / "pairs.tsv", folder / "out" / "audit.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    stage.run(path, out, audit, PARAMS)
    return out, audit


BROKEN = {
    # name: (replaced, by, line at fault or None for the whole list, said in the message)
    "too few columns": ("kusoma\tread\tverb\tschool\ttrained", "kusoma\tread\tverb\tschool", 3, "5 columns, got 4"),
    "too many columns": ("\tfood\t", "\tfood\tfood\t", 2, "5 columns, got 6"),
    "empty line": ("zuri\tgood", "\nzuri\tgood", 4, "5 columns, got 1"),
    "wrong header": ("english\tpos", "english\tPOS", 1, "expected the header"),
    "columns in another order": ("swahili\tenglish", "english\tswahili", 1, "expected the header"),
    "empty cell": ("\tbread\t", "\t\t", 2, "english: expected a value, got an empty cell"),
    "blank cell": ("\tbread\t", "\t \t", 2, "got an empty cell"),
    "space before": ("kusoma\t", " kusoma\t", 3, "stray spaces"),
    "space after": ("\tread\t", "\tread \t", 3, "stray spaces"),
    "two spaces": ("\tread\t", "\tread  out\t", 3, "stray spaces"),
    "no-break space": ("\tread\t", "\tread\u00a0out\t", 3, "stray spaces"),
    "zero-width space": ("kitabu", "kita\u200bbu", 5, "invisible characters"),
    "bad UTF-8": (b"zuri", b"zur\xe9", 4, "byte 0xe9 in place 4"),
    "byte-order mark": (b"swahili", b"\xef\xbb\xbfswahili", 1, "byte-order mark"),
    "Windows line end": ("\ttrained\nkusoma", "\ttrained\r\nkusoma", 2, "carriage return"),
    "no last line feed": ("\tcontrol\n", "\tcontrol", 5, "line feed after the last line"),
    "cut in the last line": ("\tschool\tcontrol\n", "\tsch", 5, "line feed after the last line"),
    "unknown set": ("\tcontrol\n", "\ttest\n", 5, "set: expected trained or control, got 'test'"),
    "set in capitals": ("\tcontrol\n", "\tControl\n", 5, "set: expected trained or control"),
    "Swahili twice in a set": ("kusoma\tread\tverb", "mkate\tloaf\tnoun", 3, "swahili: expected every form once"),
    "Swahili in both sets": ("kitabu\tbook", "mkate\tloaf", 5, "is on line 2 (trained)"),
    "English in both sets": ("kitabu\tbook", "boflo\tBread", 5, "got 'Bread' again, which is on line 2"),
    "same in another normal form": ("kusoma\tread", "e\u0301\tA\tnoun\tx\ttrained\n\u00e9\tB", 4, "is on line 3"),
    "same with another apostrophe": ("kusoma\tread", "ng'oa\tA\tnoun\tx\ttrained\nng’oa\tB", 4, "is on line 3"),
    "verb without ku": ("kusoma", "soma", 3, "infinitive"),
    "verb with to": ("\tread\t", "\tto read\t", 3, "remove the 'to'"),
    "stem with hyphen": ("zuri", "-zuri", 4, "hyphen"),
    "unknown part of speech": ("\tadjective\t", "\tadjectiv\t", 4, "pos: expected one of noun"),
    "domain of two words": ("\tquality\t", "\tgood quality\t", 4, "domain: expected one word"),
    "no control set": ("\tcontrol\n", "\ttrained\n", None, "set: expected pairs of the set control, got none"),
    "phrases": ("\tgood\t", "\tvery good\t", None, "english: expected at least 90% single words, got 75.00%"),
    "no pairs": (GOOD.removeprefix(HEADER), "", 2, "at least one pair"),
    "empty file": (GOOD, "", 1, "expected the header"),
}


def test_the_list_the_cases_break_is_good(tmp_path: Path) -> None:
    out, _ = run(tmp_path, GOOD)
    assert out.read_text(encoding="utf-8") == GOOD


@pytest.mark.parametrize(("old", "new", "line", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_list_is_one_line_and_nothing_is_written(
    tmp_path: Path, old: str | bytes, new: str | bytes, line: int | None, said: str
) -> None:
    old, new = (part.encode() if isinstance(part, str) else part for part in (old, new))
    content = GOOD.encode().replace(old, new, 1)
    assert content != GOOD.encode()
    with pytest.raises(UserError) as caught:
        run(tmp_path, content)
    message = caught.value.message
    assert message.startswith(f"{tmp_path}/pairs.tsv:" + ("" if line is None else f"{line}:")), message
    assert said in message
    assert "\n" not in message
    assert re.search(r"expected .+, got .+; .+", message)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "pairs.tsv"]


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a readable file, got No such file"):
        lexicon.read_pairs(tmp_path / "none.tsv")


def test_a_lopsided_control_set_is_refused(tmp_path: Path) -> None:
    """Trained half nouns, half adverbs; control 8 nouns: 4 off in either part of speech."""
    rows = [("noun" if i % 2 else "adverb", "trained") for i in range(40)] + [("noun", "control")] * 8
    lines = (f"sw{i}\ten{i}\t{pos}\tfood\t{group}\n" for i, (pos, group) in enumerate(rows))
    with pytest.raises(UserError, match=r"pos: expected the control set within 2 pairs .+ got 4\.00 for noun"):
        run(tmp_path, HEADER + "".join(lines))
    assert not (tmp_path / "out").exists()


def test_the_command_exits_2_with_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SHIPPED.parents[1])
    path = tmp_path / "pairs.tsv"
    path.write_text(GOOD.replace("kusoma", "soma"), encoding="utf-8")
    out, audit = tmp_path / "out.tsv", tmp_path / "audit.json"
    result = CliRunner().invoke(main, ["words", str(path), "--out", str(out), "--audit", str(audit)])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert f"{path}:3: swahili: expected a verb's infinitive" in result.output
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.tsv"]


def test_reading_pairs_does_not_import_torch() -> None:
    """The stage must stay quick, and `align` and `tables` read pairs where there is no model."""
    code = "import sys; import tli.stages.words; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(SHIPPED.parents[1] / "src")})


word = st.text(st.characters(codec="utf-8", categories=["L", "M", "N", "P"]), min_size=1, max_size=8).filter(
    lambda text: text == text.strip() and text.isprintable() and not text.startswith("-") and not text.endswith("-")
)
label = st.sampled_from(["food", "house", "mind"])


@st.composite
def lists(draw: st.DrawFn) -> list[Pair]:
    """Lists that keep the rules: every (pos, domain) of the control set has its like in the trained set."""
    sides = [draw(st.lists(word, min_size=8, max_size=8, unique_by=lexicon.key)) for _ in lexicon.SIDES]
    labels = [(draw(st.sampled_from(["noun", "adverb"])), draw(label)) for _ in range(4)] * 2
    groups = ["trained"] * 4 + ["control"] * 4
    return [Pair(sw, en, *both, group) for sw, en, both, group in zip(*sides, labels, groups, strict=True)]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=lists())
def test_what_is_written_reads_back_in_nfc(tmp_path: Path, pairs: list[Pair]) -> None:
    text = HEADER + "".join("\t".join(pair) + "\n" for pair in pairs)
    out, audit = run(tmp_path, text)
    expected = [Pair(*(unicodedata.normalize("NFC", cell) for cell in pair)) for pair in pairs]
    assert lexicon.read_pairs(out) == expected
    again = out.read_bytes()
    assert run(tmp_path, again)[0].read_bytes() == again == unicodedata.normalize("NFC", text).encode()
    assert json.loads(audit.read_text(encoding="utf-8"))["pairs"] == {"all": 8, "trained": 4, "control": 4}


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_corrupted_line_is_refused_by_its_number_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """One line of the shipped list loses, gains or swaps bytes, or takes another line's place."""
    lines = SHIPPED.read_bytes().split(b"\n")[:-1]
    number = data.draw(st.integers(0, len(lines) - 1), label="line")
    line = bytearray(lines[number])
    at = data.draw(st.integers(0, len(line) - 1), label="at")
    match data.draw(st.sampled_from(["delete", "insert", "replace", "cut", "repeat"]), label="how"):
        case "delete":
            del line[at]
        case "insert":
            line[at:at] = data.draw(st.binary(min_size=1, max_size=2))
        case "replace":
            line[at] = data.draw(st.sampled_from(b"\t\n\r -'aku\xc3\xff"))
        case "cut":
            del line[at:]
        case "repeat":
            line = bytearray(data.draw(st.sampled_from(lines)))
    content = b"\n".join([*lines[:number], bytes(line), *lines[number + 1 :]]) + b"\n"
    folder = tmp_path / "out"
    for file in folder.glob("*"):
        file.unlink()
    try:
        out, _ = run(tmp_path, content)
    except UserError as error:
        message = error.message
    else:
        result = audits.audit(lexicon.read_pairs(out), 8)
        assert 685 <= result["pairs"]["all"] <= 687
        assert not any((*result["duplicates"].values(), *result["in_both_sets"].values()))
        assert result["not_in_citation_form"] == 0
        return
    place = re.match(re.escape(f"{tmp_path}/pairs.tsv:") + r"(\d+): .+", message)
    assert place, message
    # A form that another line below has too is reported there, with the number of this line.
    assert number + 1 <= int(place[1]) <= number + 3 or f"on line {number + 1} " in message, message
    assert "\n" not in message
    assert not list(folder.glob("*"))


@pytest.fixture(scope="module")
def shipped() -> list[Pair]:
    return lexicon.read_pairs(SHIPPED)


def test_the_shipped_list_is_as_promised(tmp_path: Path, shipped: list[Pair]) -> None:
    out, audit_path = run(tmp_path, SHIPPED.read_bytes())
    assert out.read_bytes() == SHIPPED.read_bytes()
    result = read_json(audit_path)
    assert result["pairs"] == {"all": 686, "trained": 623, "control": 63}
    assert all(share > 0.97 for share in result["single_word_share"].values())
    assert result["duplicates"] == result["in_both_sets"] == {"swahili": 0, "english": 0}
    assert result["same_on_both_sides"] == result["forms_on_both_sides"] == result["not_in_citation_form"] == 0
    assert set(result["pos"]) == set(lexicon.PARTS_OF_SPEECH)
    assert 12 <= len(result["domain"]) <= 18
    assert {("mkate", "bread"), ("kitabu", "book"), ("hospitali", "hospital"), ("mbwa", "dog"), ("maji", "water")} <= {
        pair[:2] for pair in shipped
    }


def test_the_shipped_control_set_is_stratified(shipped: list[Pair]) -> None:
    """Every stratum gets its quota rounded down or up: the mark of a largest-remainder allocation."""
    everything = Counter((pair.pos, pair.domain) for pair in shipped)
    control = Counter((pair.pos, pair.domain) for pair in shipped if pair.set == "control")
    assert all(abs(control[stratum] - 63 * size / 686) < 1 for stratum, size in everything.items())
    assert max(audits.audit(shipped, 8)["largest_deviation"].values()) < 1.5


def test_the_shipped_spelling_is_plain(shipped: list[Pair]) -> None:
    """Swahili has neither q nor x, nor c outside ch; its words end in a vowel; no adjective is a stem such as eusi."""
    for pair in shipped:
        assert re.fullmatch(r"[A-Za-z' ]+", pair.swahili + pair.english), pair
        assert not re.search(r"[qx]|c(?!h)", pair.swahili.casefold()), pair
        assert all(part[-1] in "aeiou" for part in pair.swahili.split()) or pair.swahili == "rais", pair
        if pair.pos == "adjective":
            assert not re.match("[eo]|pya$", pair.swahili), pair
        if pair.pos == "noun" and pair.english not in ("scissors", "trousers", "news", "mathematics", "rhinoceros"):
            plural = pair.english.endswith("s") and not pair.english.endswith(("ss", "us"))
            assert not plural, f"{pair.english}: nouns are singular"


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=6), times=st.integers(1, 5))
def test_a_proportional_control_set_deviates_by_nothing(counts: list[int], times: int) -> None:
    exact = {index: {"trained": times * count, "control": count} for index, count in enumerate(counts)}
    assert max(audits.deviations(exact).values()) == pytest.approx(0, abs=1e-9)
    more = exact | {0: {"trained": times * counts[0], "control": counts[0] + 1}}
    assert max(audits.deviations(more).values()) <= 1


# What a pair is called in rows.

few = st.sampled_from(["a", "b", "a/b", "a/b/2", "b/a"])


@given(st.lists(st.tuples(few, few), max_size=12))
def test_every_pair_has_a_name_of_its_own(forms: list[tuple[str, str]]) -> None:
    pairs = [Pair(sw, en, "-", "-", "trained") for sw, en in forms]
    names = lexicon.item_names(pairs)
    assert len(set(names)) == len(pairs)
    count = Counter(pair.swahili for pair in pairs)
    for name, pair in zip(names, pairs, strict=True):
        assert name == pair.swahili if count[pair.swahili] == 1 else name.startswith(f"{pair.swahili}/{pair.english}")


def test_the_shipped_pairs_are_called_by_their_swahili_forms(shipped: list[Pair]) -> None:
    assert lexicon.item_names(shipped) == [pair.swahili for pair in shipped]


# The audit of any list.


@settings(max_examples=12)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=5, max_size=30), st.integers(2, 8), st.integers(0, 99))
def test_expected_false_negatives_are_what_a_long_training_counts(labels: list[str], size: int, seed: int) -> None:
    """Within five standard errors over 300 epochs, counted as the training loop does."""
    from tli.training import loop, objective

    counted = []
    for epoch in range(300):
        batches = loop.epoch_batches(len(labels), size, 1, seed=1000 * seed + epoch)
        counted.append(sum(int(objective.duplicate_mask([labels[i] for i in batch]).sum()) for batch in batches))
    error = statistics.stdev(counted) / math.sqrt(len(counted))
    assert audits.false_negatives(labels, size) == pytest.approx(statistics.fmean(counted), abs=5 * error + 1e-9)


@given(st.integers(2, 60), st.integers(2, 60))
def test_the_chance_of_sharing_a_batch_is_a_chance(n: int, size: int) -> None:
    chance = audits.same_batch(n, size)
    assert 0 <= chance <= 1
    assert (chance == 1) == (size >= n)
    assert audits.same_batch(1, size) == 0


def test_the_audit_counts_what_a_list_breaks() -> None:
    rows = [("a", "x y", "trained"), ("A", "z", "trained"), ("a", "z", "control"), ("b c", "q", "control")]
    found = audits.audit([Pair(sw, en, "-", "-", set_) for sw, en, set_ in rows], 2)
    assert found["multi_word"]["either"] == {"all": 2, "trained": 1, "control": 1}
    assert found["duplicates"] == {"swahili": 2, "english": 1}
    assert found["repeated_within"] == {
        "swahili": {"trained": 1, "control": 0},
        "english": {"trained": 0, "control": 0},
    }
    assert found["in_both_sets"] == {"swahili": 1, "english": 1}
    assert found["expected_false_negatives_an_epoch"] == {"same_english": 0, "same_swahili": 2, "either": 2}
    assert "pos" not in found, "no labels, no counts of labels"


# The author's lists: fetched by hash, audited, never refused for what they hold.


def author(
    folder: Path, monkeypatch: pytest.MonkeyPatch, trained: str, control: str, digest: str | None = None
) -> parameters.Params:
    """Parameters whose `author` section names two lists of this text, which a mirror in `folder` holds."""
    monkeypatch.setenv("TLI_MIRROR", str(folder))
    lists = {}
    for name, text in (("trained", trained), ("control", control)):
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
        found = hashlib.sha256(text.encode()).hexdigest()
        lists[name] = parameters.Listed(path=f"data/{name}.json", sha256=digest or found)
    pairs = PARAMS.pairs.model_copy(update={"source": "author"})
    return PARAMS.model_copy(update={"pairs": pairs, "author": PARAMS.author.model_copy(update=lists)})


def entries(*forms: tuple[str, str]) -> str:
    return json.dumps([{"swahili": sw, "english": en} for sw, en in forms])


def test_the_authors_lists_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = entries(("-zuri", "good"), ("toa", "to give"), ("toa", "to remove"), ("e\u0301", "well"))
    params = author(tmp_path, monkeypatch, trained, entries(("toa", "offer"), ("vema", "well")))
    out, audit = tmp_path / "out" / "pairs.tsv", tmp_path / "out" / "audit.json"
    stage.run(tmp_path / "no such list", out, audit, params)
    pairs = lexicon.read_pairs(out)
    assert [pair.swahili for pair in pairs] == ["-zuri", "toa", "toa", "\u00e9", "toa", "vema"]
    assert {pair[2:] for pair in pairs} == {("-", "-", "trained"), ("-", "-", "control")}
    assert read_json(audit)["in_both_sets"] == {"swahili": 1, "english": 1}
    assert len(set(lexicon.item_names(pairs))) == 6


WRONG = {
    "another file": (entries(("a", "b")), "0" * 64, CheckFailed, "0000"),
    "not JSON": ('[{"swahili": "a"\n', None, UserError, "trained.json:2: column 1: not JSON: Expecting"),
    "no list": ("{}", None, UserError, "expected a list of pairs, got {}"),
    "empty": ("[]", None, UserError, "expected a list of pairs"),
    "another key": ('[{"swahili": "a", "en": "b"}]', None, UserError, "entry 1: expected the keys swahili and"),
    "a number": ('[{"swahili": "a", "english": 1}]', None, UserError, "entry 1: english: expected a text, got 1"),
    "a tab": (entries(("a", "b"), ("a\tb", "c")), None, UserError, "entry 2: swahili: expected words with single"),
}


@pytest.mark.parametrize(("text", "digest", "kind", "said"), WRONG.values(), ids=WRONG)
def test_a_list_that_is_not_the_authors_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, digest: str | None, kind: type[Exception], said: str
) -> None:
    params = author(tmp_path, monkeypatch, text, entries(("c", "d")), digest)
    with pytest.raises(kind) as caught:
        stage.run(SHIPPED, tmp_path / "out" / "pairs.tsv", tmp_path / "out" / "audit.json", params)
    assert said in caught.value.message  # type: ignore[attr-defined]
    assert "\n" not in caught.value.message  # type: ignore[attr-defined]
    assert not (tmp_path / "out").exists()


def test_the_command_fetches_from_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages keep the libraries offline, but this one must reach the lists' address where its source says so."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    made = author(mirror, monkeypatch, entries(("a", "b"), ("a", "c")), entries(("d", "e")))
    settings = (ROOT / "tests" / "smoke" / "params.yaml").read_text(encoding="utf-8").replace("project", "author", 1)
    for name in ("trained", "control"):
        digest = getattr(made.author, name).sha256
        settings = re.sub(rf"  {name}: {{path.*", f"  {name}: {{path: data/{name}.json, sha256: {digest}}}", settings)
    (tmp_path / "params.yaml").write_text(settings, encoding="utf-8")
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=mirror)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
        call = subprocess.run(
            [sys.executable, "-m", "tli", "words", "none.tsv", "--out", "pairs.tsv", "--audit", "audit.json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=environment | {"PYTHONPATH": str(ROOT / "src"), "TLI_MIRROR": f"http://127.0.0.1:{server.server_port}"},
        )
        server.shutdown()
    assert call.returncode == 0, call.stderr
    assert [pair.english for pair in lexicon.read_pairs(tmp_path / "pairs.tsv")] == ["b", "c", "e"]


AUTHORS = SHARED / "authors"
needs_authors = pytest.mark.skipif(not AUTHORS.is_dir(), reason=f"the author's lists are not in {AUTHORS}")


@needs_authors
def test_the_audit_finds_what_the_authors_lists_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLI_MIRROR", str(AUTHORS))
    pinned = parameters.load(ROOT / "params.yaml")
    params = pinned.model_copy(update={"pairs": pinned.pairs.model_copy(update={"source": "author"})})
    stage.run(SHIPPED, tmp_path / "pairs.tsv", tmp_path / "audit.json", params)
    pairs, found = lexicon.read_pairs(tmp_path / "pairs.tsv"), read_json(tmp_path / "audit.json")
    assert found["pairs"] == {"all": 686, "trained": 623, "control": 63}
    assert {side: found["repeated_within"][side] for side in lexicon.SIDES} == {
        "swahili": {"trained": 61, "control": 0},
        "english": {"trained": 26, "control": 0},
    }
    assert audits.in_both_sets(pairs, "swahili") == ["kioo", "kufunga"]
    assert audits.in_both_sets(pairs, "english") == ["bad", "good", "small", "well"]
    assert found["multi_word"]["either"]["all"] == 214
    assert found["pairs"]["all"] - found["multi_word"]["either"]["all"] == 472
    assert len(set(lexicon.item_names(pairs))) == 686
    couples = found["expected_false_negatives_an_epoch"]
    assert 0 < couples["same_english"] < couples["same_swahili"] < couples["either"] < 5
