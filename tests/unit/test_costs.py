"""Costs: from receipts, kept where a stage was not run again, refused where there is nothing to tell."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from scripts import script
from tli.commands import costs
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.receipts import write_receipt
from tli.io.structured import read_json, write_json

checklist = script("checklist")


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for command, out in ((["scan", "--out", "x"], "scan.tsv"), (["sweep-train", "--rank", "4"], "sweep/r4")):
        (tmp_path / "build" / out).parent.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(sys, "argv", ["tli", *command])
        with write_receipt(tmp_path / "build" / out):
            pass
    return tmp_path / "build"


def test_every_stage_and_rank_is_listed(build: Path, tmp_path: Path) -> None:
    said = costs.run(build, tmp_path / "costs")
    assert said.endswith("GiB at most")
    assert list(read_json(tmp_path / "costs" / "costs.json")["stages"]) == ["scan", "sweep-train@4"]
    assert "| sweep-train@4 |" in (tmp_path / "costs" / "costs.md").read_text()


def test_a_stage_without_a_receipt_keeps_its_last_cost(build: Path, tmp_path: Path) -> None:
    costs.run(build, tmp_path / "costs")
    (build / "scan.tsv.receipt.json").unlink()
    costs.run(build, tmp_path / "costs")
    assert "scan" in read_json(tmp_path / "costs" / "costs.json")["stages"]


def test_nothing_to_tell_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected receipts of a run, got none"):
        costs.run(tmp_path, tmp_path / "costs")


def test_the_checklist_answers_from_receipts_and_params(build: Path, tmp_path: Path, params: Params) -> None:
    """Runtime, parameters, number of runs and hardware are this run's; what was not measured is said to be so."""
    costs.run(build, tmp_path / "costs")
    found = read_json(tmp_path / "costs" / "costs.json")
    page = checklist.page(params, found, {}, "tables")
    runs = 1 + len(params.sweep.ranks) * len(params.sweep.seeds)
    assert f"| {runs} trainings:" in page
    assert f"Python {sys.version.split()[0]}, torch {torch.__version__}" in page
    assert "| number of parameters | not measured parameters" in page
    page = checklist.page(params, found, {"setup/parameters/here": 12345}, "tables")
    assert "| number of parameters | 12,345 parameters" in page


def test_the_study_is_summed_apart(build: Path, tmp_path: Path) -> None:
    (build / "study").mkdir(parents=True)
    receipt = read_json(build / "scan.tsv.receipt.json")
    command = ["--model", "microworld", "study", "s1-2r"]
    write_json(
        build / "study" / "s1-2r.receipt.json", receipt | {"command": command, "seconds": 600.0, "cpu_seconds": 1200.0}
    )
    summary = costs.run(build, tmp_path / "costs")
    assert summary.endswith("; study: 10 minutes for 1 keys, 20 CPU minutes")
    assert list(read_json(tmp_path / "costs" / "costs.json")["stages"]) == ["scan", "sweep-train@4"]
