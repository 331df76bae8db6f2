"""`tli audit`: published statistics follow from a file that holds them, no other; broken files are one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import optimize

from tiny import ROOT, SHARED
from tli.analysis.results import load_yaml
from tli.cli import main
from tli.commands import audit
from tli.stats import p_values, t_tests

REPORTED = load_yaml(ROOT / "paper" / "reported.yaml")
AUTHORS = SHARED / "authors"
needs_authors = pytest.mark.skipif(not AUTHORS.is_dir(), reason=f"the author's results are not in {AUTHORS}")
SEVERAL = {"trained": 192, "control": 22}  # of the 214 pairs with several words on a side


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command reads params.yaml and paper/reported.yaml where it is called."""
    monkeypatch.chdir(ROOT)


# INVENTED results with the published statistics: no measurement. Random numbers, moved so that every moment is exact.


def summary(set_: str) -> tuple[int, float, float, float, float, float]:
    """(n, before, its SD, SD after, gain, its SD) that round to the published digits and give the published p."""
    said = REPORTED["before_after"][set_]
    n, goal = said["n"], math.log10(float(said["p"]))
    t = optimize.brentq(lambda t: math.log10(p_values.student(t, n - 1)) - goal, 1, 100, xtol=1e-12)
    excess = said["before"] + said["gain"] - said["after"]  # what rounding left over
    before, gain = said["before"] - 0.4 * excess, said["gain"] - 0.3 * excess
    return n, before, said["before_sd"], said["after_sd"], gain, gain * math.sqrt(n) / t


def gains(set_: str, noise: np.ndarray, several: np.ndarray, fixed: np.ndarray, effect: float) -> np.ndarray:
    """Gains of the published mean and SD; the first are `fixed`, those of several words lie higher by `effect`."""
    n, _, _, _, mean, sd = summary(set_)
    free = noise[len(fixed) :] + effect * several[len(fixed) :]
    free = free - free.mean()
    shift = (n * mean - fixed.sum()) / free.size
    squares = (n - 1) * sd**2 + n * mean**2 - (fixed**2).sum()
    scale = math.sqrt((squares - free.size * shift**2) / (free**2).sum())
    return np.concatenate([fixed, shift + scale * free])


def befores(set_: str, gain: np.ndarray, noise: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Cosines before of the published mean and SD, so correlated with the gains that the SD after is right too."""
    _, mean, sd, after_sd, _, _ = summary(set_)
    free = gain[len(fixed) :] - gain.mean()

    def made(x: np.ndarray) -> np.ndarray:
        return np.concatenate([fixed, x[0] + x[1] * free + x[2] * noise[len(fixed) :]])

    def off(x: np.ndarray) -> list[float]:
        before = made(x)
        return [before.mean() - mean, before.std(ddof=1) - sd, (before + gain).std(ddof=1) - after_sd]

    return made(optimize.fsolve(off, [mean, 0.0, sd], xtol=1e-14))


def fabricate() -> list[dict[str, Any]]:
    """686 invented rows in the author's format from which every published statistic follows."""
    rng = np.random.default_rng(0)
    examples = REPORTED["examples"]
    moved = {"trained": np.array([e["after"] - e["before"] for e in examples]), "control": np.zeros(0)}
    noise, several = {}, {}
    for set_, count in SEVERAL.items():
        n = REPORTED["before_after"][set_]["n"]
        several[set_] = np.arange(n) >= n - count
        noise[set_] = rng.uniform(-0.05, 0.05, n)
        down = REPORTED["before_after"][set_]["decreased"] - (moved[set_] < 0).sum()
        noise[set_][len(moved[set_]) : len(moved[set_]) + down] = -0.11

    def every(effect: float) -> dict[str, np.ndarray]:
        return {set_: gains(set_, noise[set_], several[set_], moved[set_], effect) for set_ in SEVERAL}

    def off(effect: float) -> float:
        found = every(effect)
        chosen = np.concatenate([found[set_][several[set_]] for set_ in SEVERAL])
        return float(chosen.mean()) - REPORTED["length_classes"]["several"]["gain"]

    gained = every(optimize.brentq(off, 0.0, 0.2))
    rows = []
    for set_, gain in gained.items():
        known = examples if set_ == "trained" else []
        fixed = np.array([e["before"] for e in known])
        before = befores(set_, gain, rng.normal(0, 1, gain.size), fixed)
        for index, (pre, d) in enumerate(zip(before.tolist(), gain.tolist(), strict=True)):
            words = f"neno la {set_}{index}" if several[set_][index] else f"neno{set_}{index}"
            pair = (known[index]["swahili"], known[index]["english"]) if index < len(known) else (words, f"word{index}")
            values = (*pair, pre, pre + d, set_, pre + d - pre)
            rows.append(dict(zip(audit.RESULTS, values, strict=True)))
    return rows


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    lines = [",".join(audit.RESULTS), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def full() -> list[dict[str, Any]]:
    return fabricate()


def call(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["audit", *map(str, arguments)])


def test_a_file_with_the_published_statistics_agrees_everywhere(tmp_path: Path, full: list[dict[str, Any]]) -> None:
    result = call("--results", write(tmp_path / "full.csv", full), "--strict")
    lines = result.output.splitlines()
    assert result.exit_code == 0, result.output
    assert lines[0].split() == ["statistic", "published", "recomputed", "agrees"]
    assert all(line.endswith("  yes") for line in lines[1:-1]), result.output
    assert lines[-1].endswith(f"{len(lines) - 2} of {len(lines) - 2} published statistics agree")
    assert len(lines) - 2 == 2 * 11 + 2 + 4 + 12
    shown = {line.partition("  ")[0]: line.split()[-3:-1] for line in lines}
    assert shown["trained: p"] == ["1.3320e-240", "1.3320e-240"]
    assert shown["control: paired t"] == ["18.45250", "18.45250"]
    assert shown["several words on a side: mean gain"] == ["0.1244", "0.1244"]


def test_one_changed_pair_is_seen(tmp_path: Path, full: list[dict[str, Any]]) -> None:
    post = full[100]["sim_post_tli"] + 0.002
    changed = {**full[100], "sim_post_tli": post, "improvement": post - full[100]["sim_pre_tli"]}
    path = write(tmp_path / "changed.csv", [*full[:100], changed, *full[101:]])
    plain, strict = call("--results", path), call("--results", path, "--strict")
    assert plain.exit_code == 0
    assert strict.exit_code == 1
    assert strict.output.startswith(plain.output)
    wrong = [line.partition("  ")[0] for line in plain.output.splitlines() if line.endswith("  no")]
    assert "trained: mean gain" in wrong
    assert "trained: paired t" in wrong
    assert not [line for line in wrong if line.startswith("control")]
    assert f"Error: {path}: trained: after: expected 0.4113073 (published), got 0.411310" in strict.output


def test_a_sample_is_told_apart_and_fails_only_when_strict(tmp_path: Path, full: list[dict[str, Any]]) -> None:
    path = write(tmp_path / "sample.csv", full[::17])
    assert call("--results", path).exit_code == 0
    strict = call("--results", path, "--strict")
    assert strict.exit_code == 1
    assert "trained: n: expected 623 (published), got 37" in strict.output
    assert "a file that contains a sample cannot agree" in strict.output
    one = call("--results", write(tmp_path / "one.csv", full[:1]))
    assert one.exit_code == 0
    assert "control: n" in one.output
    assert "not in the file" in one.output


def _with(column: str, value: str) -> dict[str, str]:
    good = ("mkate", "bread", "0.25", "0.35", "trained", "0.1")
    return {**dict(zip(audit.RESULTS, good, strict=True)), column: value}


BROKEN = {
    "no number": (_with("sim_pre_tli", "x"), ":3: sim_pre_tli: expected a number from -1 to 1, got 'x'"),
    "nan": (_with("sim_post_tli", "nan"), ":3: sim_post_tli: expected a number from -1 to 1, got 'nan'"),
    "no cosine": (_with("sim_post_tli", "1.35"), ":3: sim_post_tli: expected a number from -1 to 1, got '1.35'"),
    "another improvement": (_with("improvement", "0.2"), ":3: improvement: expected post - pre = 0.1, got 0.2"),
    "another group": (_with("group", "test"), ":3: group: expected trained or control, got 'test'"),
    "an unclosed quote": (_with("swahili", '"mkate'), ": expected CSV, got unexpected end of data"),
    "a comma": (_with("english", "bread, loaf"), ":3: expected 6 columns, got 7"),
}


@pytest.mark.parametrize(("row", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_line(tmp_path: Path, row: dict[str, str], said: str) -> None:
    path = write(tmp_path / "results.csv", [_with("group", "control"), row])
    result = call("--results", path)
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert str(path) in result.output
    assert said in result.output


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    for text, said in (
        ("", f"{path}:2: expected at least one line of values, got none"),
        (",".join(audit.RESULTS) + "\n", f"{path}:2: expected at least one line of values, got none"),
        ("layer,cosine\n1,2\n", f"{path}:1: expected the columns swahili,english,sim_pre_tli"),
    ):
        path.write_text(text, encoding="utf-8")
        result = call("--results", path)
        assert (result.exit_code, said in result.output) == (2, True), result.output
    for arguments, said in (
        ((), "give --results, --pilot or --pairs"),
        (("--control", path), "--control: expected --pairs too"),
        (("--results", tmp_path / "none.csv"), "no such file"),
        (("--pairs", "data/pairs.tsv", "--control", path), "--control: expected none with a list"),
    ):
        result = call(*arguments)
        assert (result.exit_code, said in result.output) == (2, True), result.output


def test_the_pilot_is_held_against_the_published_layers(tmp_path: Path) -> None:
    path = tmp_path / "pilot.csv"
    lines = [f"{layer},{value + 4e-7:.9f}" for layer, value in REPORTED["pilot"].items()]
    path.write_text("\n".join([",".join(audit.PILOT), *lines]) + "\n", encoding="utf-8")
    assert call("--pilot", path, "--strict").exit_code == 0
    path.write_text("\n".join([",".join(audit.PILOT), *lines[1:], "0,0.32"]) + "\n", encoding="utf-8")
    wrong = call("--pilot", path)
    assert [line.split()[2] for line in wrong.output.splitlines() if line.endswith("  no")] == ["0"]
    path.write_text("\n".join([",".join(audit.PILOT), *lines, lines[0]]) + "\n", encoding="utf-8")
    assert f"{path}:{len(lines) + 2}: layer: expected a whole number, each once" in call("--pilot", path).output


def test_the_audit_of_the_shipped_list_is_printed() -> None:
    result = call("--pairs", "data/pairs.tsv")
    assert result.exit_code == 0
    lines = {line.partition("  ")[0]: line.split()[-3:] for line in result.output.splitlines()}
    assert lines["pairs"] == ["686", "623", "63"]
    assert "swahili forms in both sets: none" in result.output


def test_published_t_and_p_follow_from_the_published_summary() -> None:
    """As far as the rounding of the published mean and SD allows; a p too small for a float is clipped."""
    half = REPORTED["before_after"]["half_unit"]
    for set_ in ("trained", "control"):
        said = REPORTED["before_after"][set_]
        n, gain, sd = said["n"], said["gain"], said["gain_sd"]
        ends = sorted(t_tests.paired_from_summary(n, gain + k * half, sd - k * half)[:2] for k in (-1, 1))
        assert ends[0][0] <= said["t"] <= ends[1][0]
        assert ends[1][1] <= float(said["p"]) <= ends[0][1]
        assert said["d_z"] == pytest.approx(gain / sd, abs=5e-3)
    t, p, _ = t_tests.paired_from_summary(623, 0.09, 0.02)
    assert (t > 100, p) == (True, p_values.SMALLEST)


# The author's own files.


@needs_authors
def test_the_authors_sample_reads_and_cannot_agree() -> None:
    path = AUTHORS / "quantitative_results.sample.csv"
    found = audit.read_results(path)
    assert len(found) == 40
    compared = {one.statistic: one for one in audit.compare_results(found, REPORTED)}
    assert compared["trained: n"].recomputed == "36"
    assert compared["control: mean gain"].recomputed.startswith("0.089")
    assert compared["kitabu / book: before"].agrees
    assert compared["mkate / bread: before"].agrees is None
    assert call("--results", path, "--strict").exit_code == 1


@needs_authors
def test_the_authors_pilot_agrees_and_their_lists_are_counted() -> None:
    result = call(
        "--pilot",
        AUTHORS / "layer_alignment_results.csv",
        "--strict",
        "--pairs",
        AUTHORS / "word_pairs.json",
        "--control",
        AUTHORS / "control_word_pairs.json",
    )
    assert result.exit_code == 0, result.output
    assert "swahili forms in both sets: kioo, kufunga\n" in result.output
    assert "english forms in both sets: bad, good, small, well\n" in result.output
    assert result.output.endswith("16 of 16 published statistics agree\n")
