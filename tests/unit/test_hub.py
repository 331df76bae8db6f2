"""Published checkpoints: headers that are true or lie, indices that miss tensors, heads that are not there.

The real client fetches from the loopback hub in this process.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import hub as loopback
from hub import Content, Hub
from tli.config.parameters import HubModel
from tli.data.hub import fetch
from tli.data.hub.fetch import Repo
from tli.io.errors import CheckFailed, UserError
from tli.io.files import atomic_dir
from tli.io.structured import read_json
from tli.model import hub, shards, supported

# Headers.

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
TENSORS = st.dictionaries(
    st.text("abc.é", min_size=1, max_size=6), st.tuples(SHAPES, st.sampled_from(DTYPES)), min_size=1
)


@given(TENSORS, TENSORS)
def test_headers_are_what_the_library_wrote(
    tmp_path_factory: pytest.TempPathFactory,
    first: dict[str, tuple[tuple[int, ...], torch.dtype]],
    second: dict[str, tuple[tuple[int, ...], torch.dtype]],
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    generator = torch.Generator().manual_seed(0)
    written: dict[str, torch.Tensor] = {}
    for file, described in (("a", first), ("b", second)):
        tensors = {
            f"{file}.{name}": torch.randint(0, 2, shape, generator=generator).to(dtype)
            for name, (shape, dtype) in described.items()
        }
        save_file(tensors, folder / f"{file}.safetensors")
        written |= tensors
    found = shards.headers(folder)
    assert found.keys() == written.keys()
    for name, tensor in written.items():
        info = found[name]
        assert info.shape == tuple(tensor.shape)
        assert info.nbytes == tensor.nbytes
        raw = info.file.read_bytes()[info.start : info.start + info.nbytes]
        assert raw == tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        assert shards.same_bytes(info, info)


def file_of(header: object, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(start: int, end: int, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


LIES = {
    "past the file": file_of({"a": entry(0, 8), "b": entry(8, 16)}, b"\0" * 12),
    "less than the file": file_of({"a": entry(0, 8)}, b"\0" * 12),
    "overlap": file_of({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12),
    "hole": file_of({"a": entry(0, 8), "b": entry(12, 20)}, b"\0" * 20),
    "backwards": file_of({"a": entry(8, 0)}, b"\0" * 8),
    "other size": file_of({"a": entry(0, 8, shape=(3,))}, b"\0" * 8),
    "unknown type": file_of({"a": entry(0, 8, dtype="F31")}, b"\0" * 8),
    "more elements than can be counted": file_of({"a": entry(0, 8, shape=(2**62, 2**62))}, b"\0" * 8),
    "header past the file": file_of({"a": entry(0, 8)}, b"\0" * 8, length=10_000),
    "huge header": file_of({"a": entry(0, 8)}, b"\0" * 8, length=2**40),
    "no JSON": file_of(b"{'a'}", b"\0" * 8),
    "no object": file_of([], b""),
    "not one entry": file_of({"a": 3}, b""),
    "empty": b"",
    "a pickle": pickle.dumps({"a": [0.0] * 1000}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused_in_one_line(tmp_path: Path, lie: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(LIES[lie])
    with pytest.raises(UserError, match=r"model\.safetensors: expected a safetensors file, got: .*fetch it again") as e:
        shards.headers(tmp_path)
    assert "\n" not in e.value.message


def test_a_tensor_in_two_files_and_no_tensor_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected tensors in \*\.safetensors files, got none"):
        shards.headers(tmp_path)
    for name in ("a", "b"):
        save_file({"x": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match=r"b\.safetensors: expected each tensor once, got x here and in a\.safeten"):
        shards.headers(tmp_path)


def test_the_index_is_held_against_the_shards(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2), "y": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert shards.missing_from_index(tmp_path) == ([], [])
    index = tmp_path / shards.INDEX
    index.write_text(json.dumps({"weight_map": {"y": "model.safetensors", "z": "model.safetensors"}}))
    assert shards.missing_from_index(tmp_path) == (["x"], ["z"])
    for text, line in (
        ("{", "column 2: not JSON"),
        ("[]", "expected an index of shards"),
        ("{}", "expected a mapping weight_map"),
    ):
        index.write_text(text)
        with pytest.raises(UserError, match=line):
            shards.missing_from_index(tmp_path)


# Checkpoints.

LLAMA, QWEN, HEADLESS = (
    Repo("model", name, str(n) * 40) for n, name in enumerate(("o/llama", "o/qwen", "o/headless"), 1)
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Repo, Path]:
    """The three checkpoints as folders."""
    folder = tmp_path_factory.mktemp("published")
    loopback.write_llama(folder / "llama")
    loopback.write_llama(folder / "headless", head=False)
    loopback.write_qwen(folder / "qwen")
    return {LLAMA: folder / "llama", HEADLESS: folder / "headless", QWEN: folder / "qwen"}


@pytest.fixture
def world(written: dict[Repo, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub that holds the checkpoints, a manifest, and fetch(repo, head_from): the summary and the folder."""
    manifest = tmp_path / "fetched.sha256"
    manifest.write_text("# fetched\n")

    def call(repo: Repo, head_from: Repo | None = None, name: str = "out") -> tuple[dict[str, object], Path]:
        with atomic_dir(tmp_path / name) as out:
            summary = hub.fetch_checkpoint(repo, out, manifest, head_from)
        return summary, tmp_path / name

    with Hub() as server:
        for repo, folder in written.items():
            extra: dict[str, Content] = {"pytorch_model.bin": b"pickle", "modeling.py": b"1 / 0", "README.md": b"read"}
            server.add("model", repo.name, {**loopback.files(folder), **extra}, repo.revision)
        server.take_over(monkeypatch, tmp_path / "home")
        yield SimpleNamespace(hub=server, fetch=call, manifest=manifest, folder=tmp_path, home=tmp_path / "home")


def publish(
    world: SimpleNamespace, folder: Path, name: str, revision: str = "9" * 40, **changed: Content | None
) -> Repo:
    """Puts `folder` on the hub under another name, with files `changed`; None leaves one out."""
    files = {**loopback.files(folder), **{key.replace("__", "."): value for key, value in changed.items()}}
    world.hub.add("model", name, {key: value for key, value in files.items() if value is not None}, revision)
    return Repo("model", name, revision)


def test_the_published_defect_is_reported_and_the_head_is_loaded(
    world: SimpleNamespace, written: dict[Repo, Path]
) -> None:
    summary, out = world.fetch(LLAMA)
    original = {
        name: tensor for file in written[LLAMA].glob("*.safetensors") for name, tensor in load_file(file).items()
    }
    assert summary["head"] == "own"
    assert summary["missing_from_index"] == ["lm_head.weight"]
    assert summary["missing_from_shards"] == []
    assert summary["unused"] == ["score.weight"]
    assert summary["dtypes"] == {"F32": len(original)}
    assert summary["tensors"] == len(original)
    model, loading = AutoModelForCausalLM.from_pretrained(out, local_files_only=True, output_loading_info=True)
    assert not loading["missing_keys"]
    assert loading["unexpected_keys"] == {"score.weight"}
    assert torch.equal(model.lm_head.weight, original["lm_head.weight"])
    assert summary["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert shards.missing_from_index(out) == ([], [])
    assert hub.head_kind(out) == "own"
    assert AutoTokenizer.from_pretrained(out, local_files_only=True)("mbwa").input_ids[0] == 1


def test_nothing_that_could_run_is_fetched_and_nothing_is_stored_twice(world: SimpleNamespace) -> None:
    summary, out = world.fetch(LLAMA)
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        shards.INDEX,
        *(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)),
    }
    assert not world.hub.requests(r"resolve/.*\.(bin|py|md)")
    assert summary["files"] == 8 == len(fetch.manifest_files(LLAMA, world.manifest))
    inodes = {path.stat().st_ino for path in world.home.rglob("blobs/*")}
    assert {path.stat().st_ino for path in out.glob("*.safetensors")} <= inodes
    assert (out / shards.INDEX).stat().st_ino not in inodes, "the hub's own file must stay as it is"


def test_a_second_fetch_asks_for_nothing_and_gives_the_same(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, first = world.fetch(LLAMA)
    asked = len(world.hub.requests())
    again, second = world.fetch(LLAMA, name="again")
    monkeypatch.setattr(fetch.constants, "HF_HUB_OFFLINE", True)
    offline, third = world.fetch(LLAMA, name="offline")
    assert summary == again == offline
    assert len(world.hub.requests()) == asked
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes() == (third / path.name).read_bytes()


def test_a_checkpoint_that_was_not_all_fetched_is_refused_offline(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted fetch leaves no name of a weight in the manifest, so that no part can pass for the whole."""
    world.hub.fail("GET /large/", loopback.Fault(flip=200), times=1)
    with pytest.raises(CheckFailed, match="removed from the cache"):
        world.fetch(LLAMA)
    assert not (world.folder / "out").exists()
    monkeypatch.setattr(fetch.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set and .* names none of its \*\.safetensors"):
        world.fetch(LLAMA)


def test_tied_embeddings_are_a_head(world: SimpleNamespace) -> None:
    summary, out = world.fetch(QWEN)
    assert (summary["head"], summary["missing_from_index"], summary["unused"]) == ("tied", [], [])
    assert set(summary["dtypes"]) == {"BF16"}
    model = AutoModelForCausalLM.from_pretrained(out, local_files_only=True)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert summary["parameters"] == model.num_parameters()
    assert model.model.layers[0].self_attn.q_proj.bias.abs().sum() > 0
    tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True)
    assert (tokenizer.bos_token, tokenizer.eos_token) == (None, "<|endoftext|>")
    assert tokenizer.decode(tokenizer("kitabu, book").input_ids) == "kitabu, book"


def test_an_absent_head_is_said_and_taken_from_a_sibling_with_the_same_weights(
    world: SimpleNamespace, written: dict[Repo, Path]
) -> None:
    summary, out = world.fetch(HEADLESS)
    assert summary["head"] == hub.head_kind(out) == "absent"
    asked = len(world.hub.requests())
    summary, out = world.fetch(HEADLESS, LLAMA)
    assert not [served for served in world.hub.requests()[asked:] if "config" in served.path], "only weights are needed"
    assert summary["head"] == f"from models/o/llama@{LLAMA.revision}"
    assert hub.head_kind(out) == "own"
    assert load_file(out / hub.HEAD_FILE).keys() == {hub.HEAD}
    model, loading = AutoModelForCausalLM.from_pretrained(out, local_files_only=True, output_loading_info=True)
    assert not loading["missing_keys"]
    whole = AutoModelForCausalLM.from_pretrained(written[LLAMA], local_files_only=True)
    assert torch.equal(model.lm_head.weight, whole.lm_head.weight)
    world.fetch(LLAMA)  # the manifest names its weights by now, and not yet its tokenizer


def test_a_head_beside_a_single_file_is_loaded_too(
    world: SimpleNamespace, written: dict[Repo, Path], tmp_path: Path
) -> None:
    """A loader that finds model.safetensors looks no further."""
    single = tmp_path / "single"
    shutil.copytree(written[HEADLESS], single)
    tensors = {}
    for file in sorted(single.glob("*.safetensors")):
        tensors |= load_file(file)
        file.unlink()
    (single / shards.INDEX).unlink()
    save_file(tensors, single / "model.safetensors", metadata={"format": "pt"})
    _, out = world.fetch(publish(world, single, "o/single"), LLAMA)
    _, loading = AutoModelForCausalLM.from_pretrained(out, local_files_only=True, output_loading_info=True)
    assert not loading["missing_keys"]


def changed_weights(
    folder: Path, out: Path, change: Callable[[dict[str, torch.Tensor]], None], shard: int = 1
) -> bytes:
    """The bytes of a shard of `folder` after `change`."""
    tensors = load_file(folder / f"model-0000{shard}-of-00003.safetensors")
    change(tensors)
    save_file(tensors, out / "changed.safetensors", metadata={"format": "pt"})
    return (out / "changed.safetensors").read_bytes()


def flip_last_bit(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.0.mlp.up_proj.weight"].view(torch.uint8)[-1, 0] ^= 1


def drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.layers.0.mlp.up_proj.weight"]


def halve(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        tensors[name] = tensors[name].to(torch.float16)


def narrow(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(95, 64)


UP = r"model\.layers\.0\.mlp\.up_proj\.weight"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            flip_last_bit,
            rf"{UP}: expected the same bytes, got different ones; set head_from to a repository with the same",
        ),
        (halve, r"model\.embed_tokens\.weight: expected the same bytes, got different ones"),
        (drop, rf"{UP}: expected shape \(96, 64\), got none"),
        (narrow, rf"{UP}: expected shape \(96, 64\), got \(95, 64\)"),
    ],
)
def test_a_sibling_that_differs_in_a_bit_gives_no_head(
    world: SimpleNamespace, written: dict[Repo, Path], tmp_path: Path, change: Callable[..., None], line: str
) -> None:
    shard = {"model-00001-of-00003__safetensors": changed_weights(written[LLAMA], tmp_path, change)}
    sibling = publish(world, written[LLAMA], "o/sibling", **shard)
    with pytest.raises(CheckFailed, match=rf"head_from: models/o/sibling@9{{40}}/: {line}"):
        world.fetch(HEADLESS, sibling)
    assert not (world.folder / "out").exists()


def test_a_sibling_without_a_head_or_for_one_that_has_a_head_is_refused(world: SimpleNamespace) -> None:
    with pytest.raises(CheckFailed, match=r"head_from: .*headless.*: lm_head\.weight: expected shape .*, got none"):
        world.fetch(HEADLESS, HEADLESS)
    for repo, where in ((LLAMA, "own"), (QWEN, "tied")):
        with pytest.raises(UserError, match=rf"head_from: .* has a head \({where}\), got o/llama; set it to null"):
            world.fetch(repo, LLAMA)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (drop, rf"models/o/broken@9{{40}}/: expected the tensor {UP}, no shard has it; choose a complete checkpoint"),
        (narrow, rf"{UP}: expected the shape \(96, 64\) of config\.json, got \(95, 64\)"),
    ],
)
def test_a_checkpoint_that_would_load_with_random_weights_is_refused(
    world: SimpleNamespace, written: dict[Repo, Path], tmp_path: Path, change: Callable[..., None], line: str
) -> None:
    shard = {"model-00001-of-00003__safetensors": changed_weights(written[LLAMA], tmp_path, change)}
    with pytest.raises(CheckFailed, match=line):
        world.fetch(publish(world, written[LLAMA], "o/broken", **shard))


@pytest.mark.parametrize(
    ("absent", "line"),
    [
        (
            r"model-00002.*",
            r"expected 3 shards, model-00002-of-00003\.safetensors is missing; choose a complete checkpoint",
        ),
        (r"config\.json", r"config\.json: no such file; choose a repository with config and tokenizer"),
        (r"tokenizer\.json", r"tokenizer\.json: no such file"),
        (r".*safetensors", r"expected \*\.safetensors files, got pytorch_model\.bin; choose .* \(a pickle runs code"),
    ],
)
def test_a_repository_without_what_is_needed_is_refused_before_a_byte_of_it(
    world: SimpleNamespace, written: dict[Repo, Path], absent: str, line: str
) -> None:
    leave_out = {name.replace(".", "__"): None for name in loopback.files(written[LLAMA]) if re.fullmatch(absent, name)}
    repo = publish(world, written[LLAMA], "o/partial", pytorch_model__bin=b"pickle", **leave_out)
    with pytest.raises(UserError, match=line):
        world.fetch(repo)
    assert not world.hub.requests("resolve|large")


@pytest.mark.parametrize("kind", ["made_up", "t5", None])
def test_a_model_that_transformers_does_not_have_is_refused(
    world: SimpleNamespace, written: dict[Repo, Path], kind: str | None
) -> None:
    config = json.dumps({"model_type": kind, "auto_map": {"AutoConfig": "modeling.Config"}}).encode()
    repo = publish(world, written[LLAMA], "o/other", config__json=config, modeling__py=b"1 / 0")
    with pytest.raises(UserError, match=rf"config\.json: model_type: expected one of llama, .*, got {kind!r}; choose"):
        world.fetch(repo)


def shape_of(folder: Path, **changed: Any) -> HubModel:
    """The shape of the checkpoint in `folder` as params.yaml would give it."""
    shape = supported.shape(AutoConfig.from_pretrained(folder, local_files_only=True))
    source = {"source": "hub", "repo": LLAMA.name, "revision": LLAMA.revision, "head_from": None, "span": None}
    return HubModel.model_validate(source | shape | changed)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"head_dim": 32},
            r"params\.yaml: model\.head_dim of the profile: expected 16, as in models/o/llama@\w+/config",
        ),
        (
            {"tied_embeddings": True},
            r"model\.tied_embeddings of the profile: expected false, as in .*, got true; set the expected value",
        ),
        (
            {"vocab_size": 161},
            r"model\.vocab_size of the profile: expected \d+, as in .*, got 161; set the expected value",
        ),
    ],
)
def test_another_shape_is_refused_before_a_weight_is_asked_for(
    world: SimpleNamespace, written: dict[Repo, Path], changed: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError, match=line):
        hub.run(world.folder / "out", world.folder / "base.json", shape_of(written[LLAMA], **changed), world.manifest)
    assert not world.hub.requests(r"safetensors$|/large/")
    hub.run(world.folder / "out", world.folder / "base.json", shape_of(written[LLAMA]), world.manifest)
    assert read_json(world.folder / "base.json")["bos"] == "the tokenizer's own"
    assert world.hub.requests(r"safetensors$")


def test_an_unsupported_model_is_refused_before_a_weight_is_asked_for(
    world: SimpleNamespace, written: dict[Repo, Path]
) -> None:
    """Mistral has Llama's module names, and would be read without a complaint."""
    config = json.loads((written[LLAMA] / "config.json").read_text()) | {"model_type": "mistral"}
    repo = publish(world, written[LLAMA], "o/mistral", config__json=json.dumps(config).encode())
    with pytest.raises(UserError, match=r"models/o/mistral@9+/config\.json: model_type: expected one of llama"):
        world.fetch(repo)
    assert not world.hub.requests(r"safetensors$|/large/")


def test_bos_is_prepended_in_the_checkpoint_and_not_in_the_cache(
    world: SimpleNamespace, written: dict[Repo, Path]
) -> None:
    tokenizer = json.loads((written[LLAMA] / "tokenizer.json").read_text())
    content = json.dumps(tokenizer | {"post_processor": None}).encode()
    repo = publish(world, written[LLAMA], "o/bare", tokenizer__json=content)
    summary, out = world.fetch(repo)
    assert summary["bos"] == "prepended by us"
    assert AutoTokenizer.from_pretrained(out, local_files_only=True)("mbwa").input_ids[0] == 1
    again, _ = world.fetch(repo, name="again")
    assert again == summary, "the cache is as it was fetched"


def test_where_links_cannot_be_made_files_are_copied_if_there_is_room(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    _, linked = world.fetch(LLAMA)
    monkeypatch.setattr(os, "link", refuse)
    _, copied = world.fetch(LLAMA, name="copied")
    for path in linked.iterdir():
        assert (copied / path.name).read_bytes() == path.read_bytes()
        assert not path.samefile(copied / path.name)
    usage = shutil.disk_usage(world.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"expected \S+ GB of free space, got 1e-06 GB; free some, or put HF_HOME on"):
        world.fetch(LLAMA, name="full")
    assert not (world.folder / "full").exists()


def test_the_free_space_is_checked_before_the_first_byte_of_a_weight(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(world.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(UserError, match="free some, or set HF_HOME to a folder on a larger disk"):
        world.fetch(LLAMA)
    assert not world.hub.requests("GET /large")
    assert not list(world.folder.rglob("*.safetensors"))
