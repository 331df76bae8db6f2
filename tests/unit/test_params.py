"""params.yaml: every mistake is one line that names the key; the committed file is valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny import ROOT
from tli.config import parameters, study
from tli.config.benchmarks import MicroworldBenchmarks
from tli.io.errors import UserError

COMMITTED = (ROOT / "params.yaml").read_text(encoding="utf-8")


def _refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        parameters.load(path)
    assert caught.value.exit_code == 2
    message = caught.value.format_message()
    assert "\n" not in message
    return message.removeprefix(f"{path}")


def test_the_committed_file_is_valid() -> None:
    loaded = parameters.load(ROOT / "params.yaml")
    assert (loaded.models, loaded.model) == (("smollm2", "microworld"), "smollm2")
    assert (loaded.lora.rank, loaded.lora.scaling, loaded.train.layer) == (16, "2r", 2)
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
        ("[smollm2, microworld]", "[smollm3]", "models: expected names of models (smollm2, microworld, "),
        ("[smollm2, microworld]", "[]", "models: expected a list of one model or more"),
        ("[smollm2, microworld]", "smollm2", "models: expected a list of one model or more"),
        ("[smollm2, microworld]", "[microworld, microworld]", "models: expected each value once"),
        ("models: [smollm2, microworld]", "model: smollm2", "model: unknown key"),
        ("ranks: [1, 2,", "ranks: [1, 1,", "sweep.ranks: expected each value once"),
        ("ranks: [1, 2,", "ranks: [1, 4096,", "sweep.ranks: expected at most"),
        ("confidence: 0.95", "confidence: 95", "stats.confidence: expected less than 1, got 95"),
    ],
)
def test_a_bad_value_names_its_key(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert COMMITTED.count(old) >= 1, f"{old!r} is no longer in params.yaml"
    assert expected in _refused(tmp_path, COMMITTED.replace(old, new, 1))


EARLY = COMMITTED.replace("[smollm2, microworld]", "[lugha_llama_early]", 1)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("span: 2", "span: 1", "profiles.lugha_llama_early.model.span: expected greater than or equal to 2, got 1"),
        ("span: 2", "span: 32", "profiles.lugha_llama_early.model: expected span null or below blocks (32), got 32"),
        ("span: 2", "span: null", ""),
        ("{source: none} #", "{source: all} #", "profiles.lugha_llama_early.benchmarks: expected"),
        ("  layer: 2   ", "  layer: 3   ", "train.layer: expected a value within the first 2 of 32 blocks"),
        ("  layer: 2   ", "  layer: last", "train.layer: expected a value within the first 2 of 32 blocks"),
        (
            "blocks: reached",
            "blocks: all",
            "lora.blocks: expected a value within the first 2 of 32 blocks, .*, got all",
        ),
        ("study: []", "study: [s1-2r]", r"study: expected \[\] without the model microworld, got \['s1-2r'\]"),
    ],
)
def test_what_a_span_cannot_give_is_refused(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert EARLY.count(old) >= 1, f"{old!r} is no longer in params.yaml"
    (tmp_path / "params.yaml").write_text(EARLY.replace(old, new, 1), encoding="utf-8")
    if not expected:
        assert parameters.load(tmp_path / "params.yaml").active.model.whole
        return
    said = _refused(tmp_path, EARLY.replace(old, new, 1))
    assert re.search(expected if "\\" in expected or ".*" in expected else re.escape(expected), said), said


def test_a_span_with_benchmarks_is_refused_and_variants_do_not_matter_to_it() -> None:
    loaded = parameters.load(ROOT / "params.yaml", model="lugha_llama_early")
    assert (loaded.active.model.held, loaded.active.model.blocks, loaded.adapted_blocks) == (2, 32, 2)
    expected = r"profiles\.lugha_llama: expected benchmarks\.source none with model\.span"
    with pytest.raises(UserError, match=expected):
        parameters.load(ROOT / "params.yaml", {"profiles.lugha_llama.model.span": 2})


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    assert "epoch: unknown key, got 3" in _refused(tmp_path, COMMITTED + "\nepoch: 3\n")


def test_a_key_twice_names_its_line(tmp_path: Path) -> None:
    line = COMMITTED.count("\n") + 1
    assert f":{line}: not valid YAML: found duplicate key" in _refused(tmp_path, COMMITTED + "models: [smollm2]\n")


@pytest.mark.parametrize("text", ["", "[]", "42", "profile"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "the whole file" in _refused(tmp_path, text)


def test_a_missing_file_and_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        parameters.load(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"profile: \xff\n")
    with pytest.raises(UserError, match="not UTF-8"):
        parameters.load(tmp_path / "bytes.yaml")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        parameters.load(path)
    assert "\n" not in caught.value.format_message()


def test_nothing_can_be_changed_after_loading() -> None:
    loaded = parameters.load(ROOT / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        loaded.lora.rank = 8  # type: ignore[misc]


def test_changes_come_before_the_checks() -> None:
    changes = {"lora.rank": 8, "profiles.microworld.model.seed": 3}
    changed = parameters.load(ROOT / "params.yaml", changes, model="microworld")
    assert (changed.lora.rank, changed.active.model.seed) == (8, 3)  # type: ignore[union-attr]
    assert parameters.load(ROOT / "params.yaml", {}) == parameters.load(ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("lora.rnak", 8, "lora.rnak: unknown key, cannot be set to 8"),
        ("lora.rank.of", 8, "lora.rank.of: unknown key"),
        ("lora.rank", "8", "lora.rank: expected a valid integer, got '8'"),
        ("train.layer", "top", "train.layer: expected a valid integer, got 'top'"),
        ("sink.layer", 30, "sink.layer: expected 2 to 7"),
        ("study", ["s9-2r"], "study: expected keys BASE-VARIANT with the base one of s1, s2, s3, s4, s5, got 's9-2r'"),
        ("study", ["s1-3r"], "study: expected keys BASE-VARIANT with the variant one of 2r, fixed32, rslora, "),
        ("study", ["s1"], "study: expected keys BASE-VARIANT with the variant one of"),
        ("study", ["s1-2r", "s1-2r"], "study: expected each value once"),
        ("study", ["2r-s1"], "study: expected keys BASE-VARIANT with the base one of"),
        ("bases", [1, 1], "bases: expected each value once"),
        ("variants.lr-4x.ranks", [4096], "variants.lr-4x.ranks: expected at most"),
        ("variants.lr-4x.changes", {"train.lr": "much"}, "variants.lr-4x: train.lr: expected a valid number, got"),
        ("variants.lr-4x.changes", {"train.rate": 1.0}, "variants.lr-4x: train.rate: unknown key"),
        ("variants.lr-4x.changes", {"sweep.seeds": 1}, "variants.lr-4x.changes.sweep.seeds"),
        ("variants.lr-4x", {"ranks": [1], "changes": {}, "sinks": True}, "variants.lr-4x.sinks: unknown key"),
        ("variants", {"LR": {"ranks": [1], "changes": {}}}, "variants.LR"),
    ],
)
def test_a_bad_change_names_its_key(key: str, value: object, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parameters.load(ROOT / "params.yaml", {key: value}, model="microworld")
    message = caught.value.format_message()
    assert expected in message
    assert "\n" not in message


def test_a_variant_changes_what_it_says_and_nothing_else() -> None:
    plain = parameters.load(ROOT / "params.yaml", model="microworld")
    for name, variant in plain.variants.items():
        changed = plain.of_variant(name)
        before, after = (loaded.model_dump(include={"lora", "train"}) for loaded in (plain, changed))
        moved = {f"{part}.{key}" for part in before for key in before[part] if before[part][key] != after[part][key]}
        assert moved == {key for key in variant.changes if key != "lora.scaling" or name != "2r"}, name
        assert changed.sweep.ranks == variant.ranks
        assert changed.sweep.seeds == plain.sweep.seeds
        others = {"lora", "train", "sweep"}
        assert changed.model_dump(exclude=others) == plain.model_dump(exclude=others)


def test_a_key_is_a_variant_on_the_corpus_items_and_weights_of_its_base() -> None:
    plain = parameters.load(ROOT / "params.yaml", model="microworld")
    changed, variant = parameters.load(ROOT / "params.yaml", key="s2-sink-content"), plain.of_variant("sink-content")
    model, benchmarks = changed.active.model, changed.active.benchmarks
    assert isinstance(model, parameters.MicroworldModel)
    assert isinstance(benchmarks, MicroworldBenchmarks)
    assert (changed.model, model.seed, benchmarks.seed) == ("microworld", 2, 2)
    assert model.weights == "data/weights/microworld-s2"
    assert changed.model_dump(exclude={"profiles"}) == variant.model_dump(exclude={"profiles"})
    assert (changed.variants["sink-content"].sink, changed.variants["content"].sink) == (True, False)


def test_only_the_micro_world_has_keys() -> None:
    changes = {"study": ["s1-2r", "s2-sink"]}
    assert parameters.load(ROOT / "params.yaml", changes, model="smollm2").keys == ()
    keys = parameters.load(ROOT / "params.yaml", changes, model="microworld").keys
    assert [(key.base, key.variant, str(key)) for key in keys] == [(1, "2r", "s1-2r"), (2, "sink", "s2-sink")]


def test_patterns_choose_keys() -> None:
    params = parameters.load(ROOT / "params.yaml", model="microworld")
    every = [str(key) for key in study.keys(params)]
    assert len(every) == len(params.bases) * len(params.variants) == 70
    assert parameters.load(ROOT / "params.yaml", {"study": every}, model="microworld").study == tuple(every)
    assert list(map(str, study.keys(params, ["s2-2r", "s1-lr-*"]))) == ["s1-lr-quarter", "s1-lr-4x", "s2-2r"]
    with pytest.raises(UserError, match=r"got 's7-\*', which matches none"):
        study.keys(params, ["s1-*", "s7-*"])


def test_layers_in_words_are_those_of_the_model() -> None:
    for model, blocks in (("microworld", 8), ("smollm2", 30), ("lugha_llama", 32)):
        for word, layer in (("middle", blocks // 2), ("last", blocks)):
            changed = parameters.load(ROOT / "params.yaml", {"train.layer": word}, model=model)
            assert changed.train.layer == changed.adapted_blocks == layer
        assert parameters.load(ROOT / "params.yaml", {"lora.blocks": "all"}, model=model).adapted_blocks == blocks


def test_a_key_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(UserError, match=r"study: expected keys BASE-VARIANT with the variant one of .* got 's1-lr-2x'"):
        parameters.load(ROOT / "params.yaml", key="s1-lr-2x")


@pytest.mark.parametrize("text", ["lora.rank", "=8", "lora.rank=", "lora.rank=[8"])
def test_a_change_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="--set: expected KEY=VALUE"):
        parameters.parse(text)
    assert parameters.parse("a.b=[1, x]") == ("a.b", [1, "x"])
