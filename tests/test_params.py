"""params.yaml: every mistake is one line that names the key; the committed file is valid."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny import ROOT
from tli import params, store

COMMITTED = (ROOT / "params.yaml").read_text(encoding="utf-8")


def _refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(store.UserError) as caught:
        params.load(path)
    assert caught.value.exit_code == 2
    message = caught.value.format_message()
    assert "\n" not in message
    return message.removeprefix(f"{path}")


def test_the_committed_file_is_valid() -> None:
    loaded = params.load(ROOT / "params.yaml")
    assert (loaded.profile, loaded.lora.rank, loaded.lora.scaling, loaded.train.layer) == ("embedded", 16, "2r", 2)
    assert (loaded.train.margin, loaded.train.lr, loaded.train.warmup_steps) == (0.4, 2e-4, 50)
    assert (loaded.train.epochs, loaded.train.batch_size, loaded.lora.dropout) == (5, 8, 0.05)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("rank: 16", "rank: 4096", "lora.rank: expected at most"),
        ("rank: 16", "rank: 0", "lora.rank: expected greater than or equal to 1, got 0"),
        ("rank: 16", "rank: sixteen", "lora.rank: expected a valid integer, got 'sixteen'"),
        ("rank: 16", "rank: 16.5", "lora.rank: expected a valid integer, got 16.5"),
        ("rank: 16", "rank: true", "lora.rank: expected a valid integer, got True"),
        ("rank: 16", "rnak: 16", "lora.rank: missing"),
        ("layer: 2", "layer: 99", "train.layer: expected 1 to"),
        ("layer: 2", "layer: 0", "train.layer: expected greater than or equal to 1"),
        ("scaling: 2r", "scaling: 3r", "lora.scaling: expected '2r', 'fixed32' or 'rslora', got '3r'"),
        ("margin: 0.4", "margin: .nan", "train.margin: expected a finite number"),
        ("lr: 2.0e-4", "lr: -1.0", "train.lr: expected greater than or equal to 0"),
        ("profile: embedded", "profile: huge", "profile: expected one of"),
        ("ranks: [1, 2,", "ranks: [1, 1,", "sweep.ranks: expected each value once"),
        ("ranks: [1, 2,", "ranks: [1, 4096,", "sweep.ranks: expected at most"),
        ("confidence: 0.95", "confidence: 95", "stats.confidence: expected less than 1, got 95"),
    ],
)
def test_a_bad_value_names_its_key(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert COMMITTED.count(old) >= 1, f"{old!r} is no longer in params.yaml"
    assert expected in _refused(tmp_path, COMMITTED.replace(old, new, 1))


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    assert "epoch: unknown key, got 3" in _refused(tmp_path, COMMITTED + "\nepoch: 3\n")


def test_a_key_twice_names_its_line(tmp_path: Path) -> None:
    line = COMMITTED.count("\n") + 1
    assert f":{line}: not valid YAML: found duplicate key" in _refused(tmp_path, COMMITTED + "profile: embedded\n")


@pytest.mark.parametrize("text", ["", "[]", "42", "profile"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "the whole file" in _refused(tmp_path, text)


def test_a_missing_file_and_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(store.UserError, match="no such file"):
        params.load(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"profile: \xff\n")
    with pytest.raises(store.UserError, match="not UTF-8"):
        params.load(tmp_path / "bytes.yaml")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(store.UserError) as caught:
        params.load(path)
    assert "\n" not in caught.value.format_message()


def test_nothing_can_be_changed_after_loading() -> None:
    loaded = params.load(ROOT / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        loaded.lora.rank = 8  # type: ignore[misc]
