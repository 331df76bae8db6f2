"""The page of drift between runs: equal ones have none; every change of a cell, a word or a file is found and named."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tiny import ROOT
from tli import store
from tli.__main__ import main
from tli.ops import compared, drift, runs
from tli.paper import expected
from tli.params import load

PAGE = ROOT / "docs" / "reproducibility.md"
RANKS = "view,rank,gain,sd\n2.mask.nf4,0,-,-\n2.mask.nf4,1,-0.5,0.25\n"
CLAIMS = 'id,here,verdict\n1,0.7856 at 0.mask.nf4,holds\n2,"2,5 of 3",fails\n'
NOTES = "# Ranks\n\n- the cosine falls by −0.5\n- one base\n"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """A checkout with two tables, a few values and files, as a whole run leaves them; `changes` go into params.yaml."""

    def make(name: str, *changes: tuple[str, str], gain: float = -0.5) -> Path:
        root = tmp_path / name
        tables = root / "paper" / "tables" / "embedded"
        for folder in (tables, root / "build" / "embedded" / "base", root / "results" / "embedded"):
            folder.mkdir(parents=True)
        text = (ROOT / "tests" / "smoke" / "params.yaml").read_text(encoding="utf-8")
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (root / "params.yaml").write_text(text, encoding="utf-8")
        (tables / "ranks.csv").write_text(RANKS.replace("-0.5", str(gain)))
        (tables / "ranks.md").write_text(NOTES)
        (tables / "claims.csv").write_text(CLAIMS)
        values = {"inputs.pairs": "0" * 64, "rank.gain": gain, "setup.class": "Llama", "setup.blocks": 2}
        (root / "results" / "embedded" / "measured.json").write_text(json.dumps(values))
        (root / "build" / "embedded" / "base" / "model.safetensors").write_bytes(b"weights")
        receipt = {"threads": 1, "cpu_capability": "AVX512", "packages": {"torch": "2"}, "revision": "a" * 40 + "+"}
        (root / "build" / "embedded" / "base.receipt.json").write_text(json.dumps(receipt))
        store.receipt_of(tables).write_text("{}")
        return root

    return make


def page(folder: Path, first: Path, *others: Path, seeds: tuple[Path, ...] = ()) -> str:
    known = folder / "expected.yaml"
    if not known.exists():
        known.write_text("profiles: {}\n")
    drift.run(first, [(other.name, other) for other in others], seeds, known, folder / "p.md")
    return (folder / "p.md").read_text(encoding="utf-8")


def lines(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "p.csv").open(encoding="utf-8") as file:
        return {line["key"]: line for line in csv.DictReader(file)}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_equal_runs_have_no_drift(tmp_path: Path, run: Callable[..., Path]) -> None:
    text = page(tmp_path, run("first"), run("again"))
    assert "- again: every cell has the reference's digits." in text
    assert "| again | 14 | 6 | 2 of 2 | - | - |" in text
    assert "None changes." in text
    assert re.findall(r"^\| (?:tables|base model|PDF) \| .*", text, re.M) == [
        "| base model | 1 | 1 of 1 |",
        "| tables | 3 | 3 of 3 |",
        "| PDF | - | - |",
    ]
    assert "| **again** | 0 | 0 |" in text
    assert {line["again"] for line in lines(tmp_path).values()} == {"0"}


def test_a_changed_number_is_measured_where_it_stands(tmp_path: Path, run: Callable[..., Path]) -> None:
    other = run("other", gain=-0.375)
    (other / "build" / "embedded" / "base" / "model.safetensors").write_bytes(b"another")
    text = page(tmp_path, run("first"), other)
    assert "| other | 13 | 5 | 2 of 2 |" in text
    assert "| 2.mask.nf4 · 1 | 0.12 | 0 |" in text
    assert "| base model | 1 | 0 of 1 |" in text
    assert lines(tmp_path)["rank.gain"]["other"] == "0.125"
    assert lines(tmp_path)["setup.blocks"]["other"] == "0"
    assert "base seeds would tell" in text


def test_the_scale_is_the_sd_over_base_seeds(tmp_path: Path, run: Callable[..., Path]) -> None:
    """-0.5, -0.25, -0.75 have the SD 0.25; a drift of 0.1 is 0.4 of it, less than another seed's 1."""
    seed = "      seed: 0\n      blocks"
    seeds = tuple(
        run(f"s{n}", (seed, seed.replace("0", str(n))), gain=gain) for n, gain in enumerate((-0.25, -0.75), start=1)
    )
    text = page(tmp_path, run("first"), run("near", gain=-0.4), run("far", gain=-1.0), seeds=seeds)
    assert "near: moves a number by 0.4 SDs in the median, another base seed by 1: less than any" in text
    assert "far: moves a number by 2 SDs in the median, another base seed by 1: as far as another" in text
    assert "| base seed 2 | 13 | 5 | 2 of 2 | 1 | 1 |" in text
    assert lines(tmp_path)["rank.gain"]["SD over base seeds"] == "0.25"
    assert "| **SD** | 0.25 | 0 |" in text


def test_a_verdict_and_a_sentence_that_change_are_named(tmp_path: Path, run: Callable[..., Path]) -> None:
    other = run("other")
    tables = other / "paper" / "tables" / "embedded"
    edit(tables / "claims.csv", "fails", "holds")
    edit(tables / "claims.csv", "0.7856 at", "0.7857 at")
    edit(tables / "ranks.md", "falls by −0.5", "rises by +0.5")
    text = page(tmp_path, run("first"), other)
    assert "| claims, 2: verdict | fails | holds |" in text
    assert "1 of 2" in text
    assert "  - reference: the cosine falls by −0.5\n  - other: the cosine rises by +0.5" in text
    assert "claims, 1: here" not in text, "a figure within words"
    assert "one base" not in text


@pytest.mark.parametrize(("old", "new"), [("0.25\n", "-\n"), ("2.mask.nf4,1,-0.5,0.25\n", ""), (RANKS, "")])
def test_a_number_that_is_not_there_any_more_is_said(
    tmp_path: Path, run: Callable[..., Path], old: str, new: str
) -> None:
    other = run("other")
    path = other / "paper" / "tables" / "embedded" / "ranks.csv"
    path.write_text(path.read_text().replace(old, new))
    if not path.read_text():
        path.unlink()
    text = page(tmp_path, run("first"), other)
    (line,) = re.findall(r"^\| 2\.mask\.nf4 · 1 \|.*", text, re.M)
    assert line.endswith("≠ |")
    assert re.search(r"^\| \*\*other\*\* .*≠ \|$", text, re.M)


def test_a_missing_value_and_a_changed_word(tmp_path: Path, run: Callable[..., Path]) -> None:
    other = run("other")
    edit(other / "results" / "embedded" / "measured.json", '"rank.gain": -0.5, ', "")
    edit(other / "results" / "embedded" / "measured.json", "Llama", "Other")
    page(tmp_path, run("first"), other)
    assert (lines(tmp_path)["rank.gain"]["other"], lines(tmp_path)["setup.class"]["other"]) == ("missing", "Other")


def test_tolerances_and_their_reasons_are_the_expected_ones(tmp_path: Path, run: Callable[..., Path]) -> None:
    first, near, far = run("first"), run("near", gain=-0.4), run("far", gain=-0.2)
    loaded = runs.load("first", first)
    entry = {"value": -0.5, "tolerance": 0.2, "why": "8.61 x 0.5 x SD 0.0465 over 5 base seeds"}
    under = expected.settings(loaded.params, loaded.measured)
    section = {"recorded_under": {"sha256": expected.digest(under), "params": under}, "keys": {"rank.gain": entry}}
    (tmp_path / "expected.yaml").write_text(json.dumps({"profiles": {"embedded": section}}))
    text = page(tmp_path, first, near, far)
    assert "| … x … x SD … over … base seeds | 1 |\n" in text
    for name, counts in (("reference", "1 | 0"), ("near", "1 | 0"), ("far", "0 | 1")):
        assert f"| {name} | {counts} | 3 |" in text
    assert re.findall(r"^- (\w+): `rank\.gain` ", text, re.M) == ["far"]
    assert "| rank.gain | 1 | 0.1 | 0.3 | - | 0.2 |" in text
    assert lines(tmp_path)["rank.gain"] | {"near": "0.1"} == {
        "key": "rank.gain", "reference": "-0.5", "near": "0.1", "far": "0.3", "SD over base seeds": "-",
        "tolerance": "0.2", "why": entry["why"]}  # fmt: skip


def test_conditions_are_read_from_receipts(tmp_path: Path, run: Callable[..., Path]) -> None:
    threads = ("threads: 1\n", "threads: 2\n")
    other = run("other", threads)
    edit(other / "build" / "embedded" / "base.receipt.json", '"threads": 1', '"threads": 2')
    edit(other / "build" / "embedded" / "base.receipt.json", "AVX512", "AVX2")
    text = page(tmp_path, run("first"), other)
    assert "| threads | 1 | 2 |" in text
    assert "| instruction set of torch | AVX512 | AVX2 |" in text
    assert "In all: torch 2, commit aaaaaaaaaaaa." in text


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("margin: 0.4", "margin: 0.3"), "train.margin"),
        (("seed: 0\n      blocks", "seed: 1\n      blocks"), "model.seed"),
    ],
)
def test_a_run_of_other_parameters_is_one_line(
    tmp_path: Path, run: Callable[..., Path], change: tuple[str, str], named: str
) -> None:
    words = ["drift", str(run("first")), "--run", f"other={run('other', change)}", "--out", str(tmp_path / "p.md")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert re.fullmatch(rf"Error: \S+: {named}: expected \S+ as in \S+, got \S+; [^\n]+\n", done.output)
    assert not (tmp_path / "p.md").exists()


def test_runs_that_cannot_be_compared_are_one_line(tmp_path: Path, run: Callable[..., Path]) -> None:
    first, other = run("first"), run("other")
    known = tmp_path / "expected.yaml"
    with pytest.raises(store.UserError, match=r"model\.seed"):
        compared.Compared(first, [], [other], known)
    with pytest.raises(store.UserError, match="'a' twice"):
        compared.Compared(first, [("a", other), ("a", other)], [], known)
    store.receipt_of(other / "paper" / "tables" / "embedded").unlink()
    with pytest.raises(store.UserError, match=r"other: expected a whole run.*dvc repro"):
        compared.Compared(first, [("a", other)], [], known)
    edit(first / "paper" / "tables" / "embedded" / "ranks.csv", "0.25", "0.25,1")
    with pytest.raises(store.UserError, match=r"ranks\.csv:3: expected 4 cells, got 5"):
        runs.load("reference", first)
    done = CliRunner().invoke(main, ["drift", str(first), "--run", "folder"])
    assert done.exit_code == 2
    assert "expected NAME=FOLDER, got 'folder'" in done.output


@pytest.mark.parametrize("name", ["ranks", "other"])
def test_a_cell_that_the_reference_lacks_is_one_line(tmp_path: Path, run: Callable[..., Path], name: str) -> None:
    first, other = run("first"), run("other")
    (other / "paper" / "tables" / "embedded" / f"{name}.csv").write_text(RANKS + "2.mask.nf4,2,0,0\n")
    with pytest.raises(store.UserError, match=rf"other: table {name}: expected no cell that .*first lacks, got 3 rows"):
        page(tmp_path, first, other)


def test_a_file_of_git_counts_where_the_run_made_it(tmp_path: Path, run: Callable[..., Path]) -> None:
    """A clone holds the committed PDF before it runs anything: only its receipt says that it is this run's."""
    first, other = run("first"), run("other")
    for root in (first, other):
        (root / "paper" / "artifact.pdf").write_bytes(b"%PDF")
    assert runs.files(runs.load("first", first))["PDF"] == {}
    (first / "paper" / "artifact.pdf.receipt.json").write_text("{}")
    assert [*runs.files(runs.load("first", first))["PDF"]] == ["paper/artifact.pdf"]
    assert "| PDF | 1 | - |" in page(tmp_path, first, other)


def test_every_file_of_a_run_is_of_one_kind(tmp_path: Path, run: Callable[..., Path]) -> None:
    root = run("first")
    names = ("pairs.tsv", "words.txt", "align.tsv", "world/corpus.txt", "benchmarks/baselines.tsv",
             "quantized/nf4/head.safetensors", "sweep/adapters/r1/s0/adapter_model.safetensors",
             "sweep/rows/r1/align.tsv")  # fmt: skip
    for name in names:
        (root / "build" / "embedded" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "build" / "embedded" / name).write_text(name)
    found = [path for own in runs.files(runs.load("first", root)).values() for path in own]
    assert len(found) == len(set(found))
    assert {f"build/embedded/{name}" for name in (*names, "base/model.safetensors")} <= set(found)
    assert not [path for path in found if "receipt" in path]


def test_the_committed_page_is_of_the_committed_values_and_tolerances() -> None:
    measured = store.read_json(ROOT / "results" / "embedded" / "measured.json")
    section = expected.load(ROOT / "paper" / "expected.yaml", load(ROOT / "params.yaml"))["keys"]
    with PAGE.with_suffix(".csv").open(encoding="utf-8") as file:
        found = [*csv.DictReader(file)]
    said = {line["key"]: line["reference"] for line in found}
    assert said == {key: "-" if value is None else store.number(value) for key, value in measured.items()}
    for line in found:
        tolerance = section.get(line["key"], {}).get("tolerance")
        assert line["tolerance"] == ("-" if tolerance is None else store.number(tolerance))
    text = PAGE.read_text(encoding="utf-8")
    for table in (ROOT / "paper" / "tables" / "embedded").glob("*.csv"):
        assert f"<summary>{table.stem}: " in text
