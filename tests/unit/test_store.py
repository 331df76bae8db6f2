"""Files: whole or not at all; rows survive the round trip; manifests find changes; receipts say what ran."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny import changed_files
from tli.io.errors import UserError
from tli.io.files import atomic_dir, atomic_write, sha256_of, write_manifest
from tli.io.receipts import write_receipt
from tli.io.rows import Row, read_rows, write_rows
from tli.io.structured import write_json

names = st.text(st.characters(whitelist_categories=("L", "N"), whitelist_characters=" '-.@"), min_size=1, max_size=12)


@given(st.lists(st.tuples(names, names, st.integers(0, 64), names, st.floats(-1e6, 1e6)), min_size=1, max_size=20))
def test_rows_survive_the_round_trip(tmp_path_factory: pytest.TempPathFactory, values: list[tuple]) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.tsv"
    rows = [Row(cell, "-", rank, "0", "trained", item, "2.mask.nf4", name, v) for cell, item, rank, name, v in values]
    write_rows(path, rows)
    frame = read_rows(path)
    assert list(frame["run"]) == [row.run for row in rows]
    assert list(frame["rank"]) == [row.rank for row in rows]
    assert list(frame["value"]) == pytest.approx([row.value for row in rows], rel=1e-8)


def test_text_values_stay_text(tmp_path: Path) -> None:
    write_rows(tmp_path / "r.tsv", [Row("base", "-", 0, "-", "nf4", "a", "-", "quant_type", "nf4")])
    assert list(read_rows(tmp_path / "r.tsv")["value"]) == ["nf4"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_never_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        write_rows(tmp_path / "r.tsv", [Row("c", "-", 0, "-", "s", "i", "v", "m", value)])
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.write("new" + 1)  # type: ignore[operator]
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with atomic_dir(path) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(TypeError), atomic_dir(path) as temporary:
        (temporary / "b").write_text(2)  # type: ignore[arg-type]
    assert [p.name for p in path.iterdir()] == ["a"]
    with atomic_dir(path) as temporary:
        (temporary / "c").write_text("3")
    assert [p.name for p in path.iterdir()] == ["c"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_json_rounds_floats_and_keeps_order(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1 / 3, "a": [2, 0.1 + 0.2], "c": "ndizi"})
    assert (tmp_path / "a.json").read_text() == (
        '{\n  "b": 0.333333333,\n  "a": [\n    2,\n    0.3\n  ],\n  "c": "ndizi"\n}\n'
    )


@pytest.mark.parametrize("change", ["flip", "truncate", "remove"])
def test_a_manifest_finds_what_changed(tmp_path: Path, change: str) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("one", "sub/two"):
        (tmp_path / name).write_bytes(name.encode() * 10)
    write_manifest(tmp_path)
    assert not changed_files(tmp_path)
    target = tmp_path / "sub" / "two"
    if change == "flip":
        target.write_bytes(target.read_bytes()[:-1] + b"x")
    elif change == "truncate":
        target.write_bytes(target.read_bytes()[:-1])
    else:
        target.unlink()
    assert changed_files(tmp_path).startswith("sub/two: FAILED")


def test_a_receipt_names_versions_inputs_and_costs(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("x")
    with write_receipt(tmp_path / "out", [tmp_path / "in"]):
        pass
    receipt = json.loads((tmp_path / "out.receipt.json").read_text())
    assert receipt["inputs"] == {str(tmp_path / "in"): sha256_of(tmp_path / "in")}
    assert receipt["packages"]["torch"]
    assert receipt["peak_memory_bytes"] > 0


def test_a_failed_stage_leaves_no_receipt(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), write_receipt(tmp_path / "out"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_missing_or_foreign_rows_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dvc repro"):
        read_rows(tmp_path / "none.tsv")
    (tmp_path / "other.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(UserError, match=r"other\.tsv:1: expected the columns run variant"):
        read_rows(tmp_path / "other.tsv")


@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "out"
    (tmp_path / ".out.abc_1234").mkdir()
    (tmp_path / ".out.abc_1234" / "half").touch()
    (tmp_path / ".out.5678xyz_").touch()
    others = {".out.tsv", ".out.tsv.abcdefgh", ".other.abcdefgh"}
    for name in others:
        (tmp_path / name).touch()
    write = atomic_dir if folder else atomic_write
    with write(path):
        first = {file.name for file in tmp_path.iterdir()} - others
        assert len(first) == 1
        with write(path):
            assert first < {file.name for file in tmp_path.iterdir()} - others
    assert {file.name for file in tmp_path.iterdir()} == {"out", *others}
