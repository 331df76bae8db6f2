"""The page of the benchmarks at the published model's size: every figure on it is out of the benchmarks' own JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts import script
from tli.io.errors import UserError

performance = script("performance")


def report(**changes: dict[str, Any]) -> dict[str, Any]:
    """What pytest-benchmark would write of three measurements and the machine, 1 TFLOP in each."""
    lines: dict[str, dict[str, Any]] = {
        "rates": {
            "table": "The machine",
            "line": "rates",
            "copy": 8e9,
            "matmul": {"bfloat16": {"96": 4e11, "384": 5e11}, "float32": {"96": 2e11}},
        },
        "imports": {"table": "Imports", "line": "imports", "peak_bytes": 4.2e8},
        "ours": {
            "table": "A step",
            "line": "this",
            "seconds": 2.5,
            "peak_bytes": 1.25e9,
            "flop": 1e12,
            "aims": {"times": {"theirs": 4}, "gb": 1.0, "floor": 0.7, "seconds": 3},
        },
        "theirs": {
            "table": "A step",
            "line": "that",
            "seconds": 10.0,
            "peak_bytes": 4e9,
            "flop": 1e12,
            "scaled": "2 timed",
        },
        "copies": {
            "table": "Bytes",
            "line": "copied",
            "seconds": 2.0,
            "copied_bytes": 8e9,
            "fetched_bytes": 3e9,
            "aims": {"fetched_gb": 2},
        },
        "single": {"table": "A step", "line": "float32", "seconds": 10.0, "flop": 1e12, "dtype": "float32"},
    }
    for name, change in changes.items():
        lines[name] |= change
    return {
        "datetime": "2026-01-31T12:00:00+00:00",
        "machine_info": {"node": "a-host", "cpu": {"brand_raw": "A processor", "count": 2}},
        "commit_info": {"id": "0123456789abcdef", "branch": "a-branch"},
        "benchmarks": [{"extra_info": {"name": name} | line} for name, line in lines.items()] + [{"extra_info": {}}],
    }


def page(folder: Path, content: dict[str, Any]) -> str:
    (folder / "bench.json").write_text(json.dumps(content))
    performance.write([folder / "bench.json"], folder / "page.md")
    return (folder / "page.md").read_text()


def test_the_page_says_what_was_measured_and_what_was_aimed_at(tmp_path: Path) -> None:
    text = page(tmp_path, report())
    assert "A processor, 2 cores; 2026-01-31 at commit 0123456789ab." in text
    assert "bfloat16 500 GFLOP/s (400 for 96 tokens, 500 for 384 tokens); float32 200 GFLOP/s" in text
    assert "Copying: 8.0 GB/s. Memory after imports: 0.42 GB." in text
    ours, theirs = (line for line in text.splitlines() if line.startswith(("| this", "| that")))
    assert ours.startswith("| this | 2.5 | 1.25 | 80% |"), "1 TFLOP at 500 GFLOP/s takes 2 s"
    assert "times as fast as “that”: 4 (aim 4: met)" in ours
    assert "peak GB 1.25 (aim 1: missed)" in ours
    assert "share of the floor 0.8 (aim 0.7: met)" in ours
    assert "seconds 2.5 (aim 3: met)" in ours
    assert theirs == "| that | 10 (2 timed, scaled) | 4.00 | 20% |  |"
    assert "| copied | 2 | – | 50% | GB fetched 3 (aim 2: missed) |" in text, "8 GB at 8 GB/s take 1 s"
    assert "| float32 | 10 | – | 50% |  |" in text, "1 TFLOP at 200 GFLOP/s takes 5 s"
    assert "Not measured yet" in text


def test_a_slower_run_misses_its_aims(tmp_path: Path) -> None:
    text = page(tmp_path, report(ours={"seconds": 5.0}))
    assert "times as fast as “that”: 2 (aim 4: missed)" in text
    assert "share of the floor 0.4 (aim 0.7: missed)" in text
    assert "seconds 5 (aim 3: missed)" in text


def test_the_page_names_no_host_and_no_branch(tmp_path: Path) -> None:
    text = page(tmp_path, report())
    assert "a-host" not in text
    assert "a-branch" not in text


def test_other_benchmarks_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the benchmarks of `make bench-8b`, got none"):
        page(tmp_path, report() | {"benchmarks": [{"extra_info": {}}]})


@pytest.mark.parametrize(("text", "message"), [("]", "column 1: not JSON"), ("[]", "expected"), ("{}", "expected")])
def test_a_file_that_is_no_report_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(UserError, match=rf"bench\.json: {message}"):
        performance.write([tmp_path / "bench.json"], tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()


def test_runs_of_two_machines_make_no_page(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(report()))
    (tmp_path / "b.json").write_text(
        json.dumps(report() | {"machine_info": {"cpu": {"brand_raw": "Another", "count": 2}}})
    )
    with pytest.raises(UserError, match="expected one machine, got"):
        performance.write([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()
