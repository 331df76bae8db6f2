"""Costs: from receipts, kept where a stage was not run again, refused where there is nothing to tell."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tli import store
from tli.ops import costs


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for command, out in ((["scan", "--out", "x"], "scan.tsv"), (["sweep-train", "--rank", "4"], "sweep/r4")):
        (tmp_path / "build" / out).parent.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(sys, "argv", ["tli", *command])
        with store.receipt(tmp_path / "build" / out):
            pass
    return tmp_path / "build"


def test_every_stage_and_rank_is_listed(build: Path, tmp_path: Path) -> None:
    said = costs.run(build, tmp_path / "results")
    assert said.endswith("GiB at most")
    assert list(store.read_json(tmp_path / "results" / "costs.json")["stages"]) == ["scan", "sweep-train@4"]
    assert "| sweep-train@4 |" in (tmp_path / "results" / "costs.md").read_text()


def test_a_stage_without_a_receipt_keeps_its_last_cost(build: Path, tmp_path: Path) -> None:
    costs.run(build, tmp_path / "results")
    (build / "scan.tsv.receipt.json").unlink()
    costs.run(build, tmp_path / "results")
    assert "scan" in store.read_json(tmp_path / "results" / "costs.json")["stages"]


def test_nothing_to_tell_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(store.UserError, match="expected receipts of a run, found none"):
        costs.run(tmp_path, tmp_path / "results")
