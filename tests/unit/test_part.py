"""Partial fetching: which bytes move, what they become, and what each fault of a server that sends ranges does."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_hub import LIES
from transformers import AutoConfig

import hub as loopback
from hub import Fault, Hub
from tiny import MODEL_TYPES, ROOT, WORDS, write_model
from tli.config import parameters
from tli.config.parameters import HubModel
from tli.data.hub import fetch, pins, ranges, server
from tli.data.hub.fetch import Repo
from tli.data.hub.ranges import Range
from tli.io.errors import CheckFailed, UserError
from tli.io.files import atomic_dir
from tli.measure import embeddings, views
from tli.model import checkpoint, four_bit, lora, part, shards, supported
from tli.model.hub import fetch_checkpoint

LLAMA = Repo("model", "o/llama", "1" * 40)
FORMS = sorted(word for pair in WORDS[:8] for word in pair)
RANGED = "GET /large/"


# Ranges.

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=12)


@given(SPANS, st.integers(0, 100), st.integers(1, 40))
def test_merged_ranges_hold_what_is_wanted_and_spare_bytes_at_most(
    spans: list[tuple[int, int]], spare: int, gap: int
) -> None:
    wanted, at = [], 0
    for before, size in spans:
        wanted.append(Range(at + before, at + before + size))
        at = wanted[-1].stop
    found = ranges.merged(reversed(wanted), spare)
    assert all(any(one.start <= each.start and each.stop <= one.stop for one in found) for each in wanted)
    assert all(one.stop <= later.start for one, later in pairwise(found))
    brought = sum(one.size for one in found) - sum(each.size for each in wanted)
    assert 0 <= brought <= spare
    gaps = sorted(later.start - one.stop for one, later in pairwise(wanted))
    closable = next((n for n in range(len(gaps), 0, -1) if sum(gaps[:n]) <= spare), 0)
    assert len(found) == len(wanted) - closable, "no other choice of gaps makes fewer requests"


@given(SPANS, st.integers(0, 30), st.integers(1, 17))
def test_what_is_read_is_what_was_wanted(spans: list[tuple[int, int]], spare: int, piece: int) -> None:
    content = bytes(range(256)) * 8
    wanted, at = [], 0
    for before, size in spans:
        wanted.append(Range(at + before, at + before + size))
        at = wanted[-1].stop
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "PIECE", piece)
        patch.setattr(ranges.Remote, "_piece", lambda _self, one: content[one.start : one.stop])
        remote = ranges.Remote(LLAMA, "x", Path("none"))
        assert b"".join(remote.read(wanted)) == b"".join(content[one.start : one.stop] for one in wanted)
        assert all(one.size <= piece for one in ranges.pieces(wanted))


# Checkpoints.


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published checkpoint of four blocks in three shards."""
    folder = tmp_path_factory.mktemp("published")
    loopback.write_llama(folder)
    return folder


def settings(folder: Path, **changed: Any) -> HubModel:
    """The shape of the checkpoint in `folder`, its first two blocks."""
    shape = supported.shape(AutoConfig.from_pretrained(folder, local_files_only=True))
    source = {"source": "hub", "repo": LLAMA.name, "revision": LLAMA.revision, "head_from": None, "span": 2}
    return HubModel.model_validate(source | shape | changed)


@pytest.fixture
def world(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub with the checkpoint, a manifest, and fetch(words): the summary and the folder."""
    manifest = tmp_path / "fetched.sha256"
    manifest.write_text("# fetched\n")

    def call(
        words: list[str] = FORMS, name: str = "out", repo: Repo = LLAMA, shape: HubModel | None = None
    ) -> tuple[dict[str, Any], Path]:
        with atomic_dir(tmp_path / name) as out:
            summary = part.fetch_part(repo, out, manifest, settings(written) if shape is None else shape, words)
        return summary, tmp_path / name

    monkeypatch.setattr(server, "WAIT", 0.0)
    with Hub() as served:
        served.add("model", LLAMA.name, loopback.files(written), LLAMA.revision)
        served.take_over(monkeypatch, tmp_path / "home")
        yield SimpleNamespace(hub=served, fetch=call, manifest=manifest, folder=tmp_path)


def original(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_the_part_holds_the_span_the_words_rows_and_the_norm_and_nothing_else(
    world: SimpleNamespace, written: Path
) -> None:
    summary, out = world.fetch()
    whole, held = original(written), original(out)
    assert {name.split(".")[2] for name in held if ".layers." in name} == {"0", "1"}
    assert held.keys() == {name for name in whole if name.startswith(("model.layers.0.", "model.layers.1."))} | {
        "model.embed_tokens.weight",
        "model.norm.weight",
    }
    config = json.loads((out / "config.json").read_text())
    rows = config["token_rows"]
    assert config["part_of"] == {"num_hidden_layers": 4, "vocab_size": len(whole["model.embed_tokens.weight"])}
    assert (config["num_hidden_layers"], config["vocab_size"]) == (2, len(rows))
    for name, tensor in held.items():
        assert torch.equal(tensor, whole[name][rows] if name == "model.embed_tokens.weight" else whole[name])
    assert rows == sorted(rows)
    assert 8 < len(rows) < len(whole["model.embed_tokens.weight"])
    assert summary["embedding_rows"] == f"{len(rows)} of {len(whole['model.embed_tokens.weight'])}"
    assert summary["missing_from_index"] == ["lm_head.weight"]
    assert summary["head"] == "left out"


def test_only_the_ranges_move_and_every_one_is_recorded(world: SimpleNamespace) -> None:
    summary, _ = world.fetch()
    sent = world.hub.requests(RANGED)
    assert all(one.status == 206 and one.range for one in sent)
    tensors = sum(one["bytes_asked_for"] for one in summary["parts"])
    headers = sum(one.sent for one in sent) - tensors
    assert 0 < headers < 10_000, "8 bytes and the header of each shard, beside the tensors"
    assert summary["shard_sizes"] == [
        {"file": f"model-0000{n}-of-00003.safetensors", "bytes": size} for n, size in enumerate(sizes(world), start=1)
    ]
    assert len(sent) == 3 * 2 + sum(one["requests"] for one in summary["parts"])


def test_another_shape_is_refused_before_a_byte_of_a_shard(world: SimpleNamespace, written: Path) -> None:
    with pytest.raises(
        UserError, match=r"model\.head_dim of the profile: expected 16, as in .*, got 32; set the expected value"
    ):
        world.fetch(shape=settings(written, head_dim=32))
    assert not world.hub.requests(r"safetensors$|/large/")


def sizes(world: SimpleNamespace) -> list[int]:
    files = world.hub.repositories["model", LLAMA.name].revisions[LLAMA.revision]
    return [loopback.size(content) for name, content in sorted(files.items()) if name.endswith(".safetensors")]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_cut_model_has_the_whole_model_s_states(
    world: SimpleNamespace, written: Path, tmp_path: Path, model_type: str
) -> None:
    """Bit for bit at each layer of the span; through the 4-bit cache too."""
    repo = LLAMA
    if model_type != "llama":
        written, repo = tmp_path / model_type, Repo("model", f"o/{model_type}", "2" * 40)
        write_model(written, model_type)
        world.hub.add("model", repo.name, loopback.files(written), repo.revision)
    _, out = world.fetch(repo=repo, shape=settings(written))
    folders = {"part": out, "whole": written}
    by_kind = parameters.load(ROOT / "params.yaml").quantize
    for name, kind in itertools.product([*folders], ("nf4", "fp4")):
        folders[f"{name}-{kind}"] = world.folder / f"{name}-{kind}"
        four_bit.write_checkpoint(folders[name], folders[f"{name}-{kind}"], kind, getattr(by_kind, kind), "bfloat16")
    for kind in ("", "-nf4", "-fp4"):
        cut, whole = (checkpoint.load(folders[f"{name}{kind}"]) for name in ("part", "whole"))
        tokenizer = checkpoint.tokenizer(folders[f"part{kind}"])
        ours, theirs = (embeddings.embed(model, tokenizer, FORMS, 4) for model in (cut, whole))
        model = settings(written)
        assert views.layers(model) == ["0", "1", "2"] == [*dict.fromkeys(layer for layer, _ in ours.pooled)]
        for key, states in ours.pooled.items():
            assert (states == theirs.pooled[key]).all()
        with pytest.raises(UserError, match=r"scoring: the checkpoint holds no lm_head\.weight"):
            cut.lm_head(torch.zeros(1, 64))


def test_an_adapter_of_the_whole_model_is_adopted_whole_and_acts_on_the_span(
    world: SimpleNamespace, written: Path
) -> None:
    """As the author's is: on all blocks. Every tensor stays in its table; the cut model uses those of its own."""
    _, out = world.fetch()
    settings_ = parameters.load(ROOT / "params.yaml").lora
    named = lora.shapes(written, settings_)
    assert lora.shapes(out, settings_) == named
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) / 8 for name, shape in named.items()}
    save_file(tensors, world.folder / "author.safetensors")
    pooled = []
    for base in (out, written):
        adapter = world.folder / f"adapter-{base.name}"
        lora.import_adapter(world.folder / "author.safetensors", base, settings_, adapter)
        assert {block for block, _ in lora.norms(adapter)} == {1, 2, 3, 4}
        tuned = lora.load(checkpoint.load(base), adapter)
        pooled.append(embeddings.embed(tuned, checkpoint.tokenizer(base), FORMS, 4).pooled)
    for key, states in pooled[0].items():
        assert (states == pooled[1][key]).all()


def test_a_word_without_its_rows_is_refused(world: SimpleNamespace) -> None:
    _, out = world.fetch()
    model, tokenizer = checkpoint.load(out), checkpoint.tokenizer(out)
    with pytest.raises(CheckFailed, match=r"expected one of the \d+ tokens that were loaded, got \d+; run `dvc"):
        embeddings.embed(model, tokenizer, ["hospitali"], 1)


def test_a_second_fetch_asks_for_nothing_and_other_words_for_their_rows(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, first = world.fetch()
    asked = len(world.hub.requests())
    with monkeypatch.context() as patch:
        patch.setattr(fetch.constants, "HF_HUB_OFFLINE", True)
        again, second = world.fetch(name="again")
    assert again == summary
    assert len(world.hub.requests()) == asked
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
    monkeypatch.setattr(ranges, "SPARE", 0)
    more, _ = world.fetch([*FORMS, "hospitali"], name="more")
    rows = int(more["embedding_rows"].split()[0])
    assert rows > int(summary["embedding_rows"].split()[0])
    assert sum(one.sent for one in world.hub.requests()[asked:]) == rows * 64 * 4, "rows of the embeddings, no block"


def test_where_the_cache_has_a_shard_whole_it_is_read_there(world: SimpleNamespace) -> None:
    """Hash-checked, so that its tensors are as good; what the manifest then notes of them is the same."""
    names = ["config.json", *(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))]
    summary, first = world.fetch()
    notes = world.manifest.read_text()
    world.manifest.write_text("")
    fetch.fetch(LLAMA, names, world.manifest)
    asked = len(world.hub.requests(RANGED))
    again, second = world.fetch(name="again")
    assert again == summary
    assert len(world.hub.requests(RANGED)) == asked
    assert set(notes.splitlines()) - {"# fetched"} <= set(world.manifest.read_text().splitlines())
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_offline_with_words_that_were_not_fetched(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fetch()
    monkeypatch.setattr(fetch.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"a part of it is not in the cache, and HF_HUB_OFFLINE is set; unset it"):
        world.fetch([*FORMS, "hospitali"], name="more")


# Faults.


def lines(error: pytest.ExceptionInfo[Any]) -> str:
    assert "\n" not in error.value.message
    return str(error.value.message)


REFUSED = {
    "a range that is ignored": (Fault(headers={"Content-Range": None}), "the server sends HTTP 206, no range"),
    "another range": (Fault(headers={"Content-Range": "bytes 5-12/100"}), r"expected bytes 0-7/\d+, .* bytes 5-12/100"),
    "a whole that passes for a part": (
        Fault(status=200),
        r"sends HTTP 200, no range; a proxy may drop the header Range: fix",
    ),
    "more than was asked for": (Fault(body=b"\0" * 20), r"expected 8 bytes of a range, got more|expected bytes 0-7"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_server_that_sends_no_range_is_refused_and_nothing_falls_back_to_the_whole(
    world: SimpleNamespace, fault: str
) -> None:
    world.hub.fail(RANGED, REFUSED[fault][0], times=99)
    with pytest.raises(UserError, match=REFUSED[fault][1]) as error:
        world.fetch()
    assert lines(error).startswith(LLAMA.key("model-00001-of-00003.safetensors"))
    assert len(world.hub.requests(RANGED)) <= 1, "not asked again, nor for another shard"
    assert "#" not in world.manifest.read_text().replace("# fetched", "")
    assert not (world.folder / "out").exists()


@pytest.mark.parametrize("reset", [False, True])
def test_a_truncated_answer_goes_on_where_it_stopped(world: SimpleNamespace, written: Path, reset: bool) -> None:
    """Three breaks in one range: what came stays, and no byte is asked for twice."""
    summary, out = world.fetch(name="smooth")
    smooth = sum(one.sent for one in world.hub.requests(RANGED))
    shutil.rmtree(fetch.constants.HF_ASSETS_CACHE)
    before = len(world.hub.requests(RANGED))
    for _ in range(6 + 1):
        world.hub.fail(RANGED, Fault(), times=1)
    world.hub.fail(RANGED, Fault(stop_after=1500, reset=reset), times=3)
    again, rough = world.fetch(name="rough")
    assert again == summary
    for path in out.iterdir():
        assert path.read_bytes() == (rough / path.name).read_bytes()
    if not reset:  # a reset may take bytes along that were sent
        assert sum(one.sent for one in world.hub.requests(RANGED)[before:]) == smooth


def test_a_server_that_is_busy_is_asked_again_and_one_that_stays_so_is_given_up(world: SimpleNamespace) -> None:
    world.hub.fail(RANGED, Fault(status=503), times=2)
    world.fetch()
    shutil.rmtree(fetch.constants.HF_ASSETS_CACHE)
    world.hub.fail(RANGED, Fault(status=503), times=99)
    with pytest.raises(UserError, match=r"HTTP 503 Service Unavailable, in 5 tries; run again later") as error:
        world.fetch(name="again")
    lines(error)


def test_an_address_that_has_expired_is_asked_for_anew(world: SimpleNamespace) -> None:
    for _ in range(3):
        world.hub.fail(RANGED, Fault(), times=1)
    world.hub.fail(RANGED, Fault(status=403), times=1)
    world.fetch()
    world.hub.fail(RANGED, Fault(status=403), times=99)
    with pytest.raises(UserError, match=r"HTTP 403 Forbidden; set HF_TOKEN"):
        world.fetch([*FORMS, "hospitali"], name="more")


@pytest.mark.parametrize("lie", [name for name in LIES if name not in ("no object", "not one entry", "other size")])
def test_a_header_that_lies_is_refused_before_any_tensor_comes(world: SimpleNamespace, written: Path, lie: str) -> None:
    files = {**loopback.files(written), "model-00002-of-00003.safetensors": LIES[lie]}
    world.hub.add("model", "o/lying", files, "2" * 40)
    with pytest.raises((CheckFailed, UserError)) as error:
        world.fetch(repo=Repo("model", "o/lying", "2" * 40))
    assert "model-00002-of-00003.safetensors" in lines(error)
    assert sum(one.sent for one in world.hub.requests(RANGED)) < 10_000


def test_a_byte_that_changes_on_the_way_is_found_by_the_note_of_the_first_fetch(world: SimpleNamespace) -> None:
    world.fetch()
    shutil.rmtree(fetch.constants.HF_ASSETS_CACHE)
    world.hub.fail(RANGED, Fault(), times=7)
    world.hub.fail(RANGED, Fault(flip=9), times=1)
    with pytest.raises(CheckFailed, match=r"#model\.layers\.0\..*: expected SHA-256 \w{64}, got \w{64}") as error:
        world.fetch(name="again")
    lines(error)
    assert world.fetch(name="again")[0]["revision"] == LLAMA.revision


def test_a_byte_that_changes_in_the_cache_is_found(world: SimpleNamespace) -> None:
    world.fetch()
    (cached,) = Path(fetch.constants.HF_ASSETS_CACHE).rglob("block-001.safetensors")
    with cached.open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)
        file.seek(-5, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(
        CheckFailed, match=r"block-001\.safetensors: expected the SHA-256 recorded in .*, got another; it was removed"
    ):
        world.fetch(name="again")
    world.fetch(name="again")


def test_a_shard_that_the_manifest_knows_otherwise_is_refused(world: SimpleNamespace) -> None:
    key = LLAMA.key("model-00001-of-00003.safetensors")
    world.manifest.write_text(f"{'0' * 64}  {key}\n")
    with pytest.raises(CheckFailed, match=r"expected SHA-256 0{64}, the hub gives \w{64}; remove") as error:
        world.fetch()
    lines(error)


def test_a_part_says_what_stands_behind_it(world: SimpleNamespace) -> None:
    summary, _ = world.fetch()
    known = pins.read(world.manifest)
    for one in summary["parts"]:
        (key,) = [key for key in known if key.startswith(f"{LLAMA.key(one['file'])}#{one['tensor']}")]
        assert known[key] == one["sha256"]
    assert "no hash of the hub's stands behind" in summary["checked"]
    assert fetch.manifest_files(LLAMA, world.manifest) == [
        "config.json",
        "generation_config.json",
        shards.INDEX,
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_whole_fetch_later_checks_what_came_in_parts(world: SimpleNamespace) -> None:
    """The whole file has a hash of the hub's: what the parts were trusted with at first is then known."""
    world.fetch()
    with atomic_dir(world.folder / "whole") as out:
        fetch_checkpoint(LLAMA, out, world.manifest)
    (line,) = [line for line in world.manifest.read_text().splitlines() if line.endswith("0.mlp.up_proj.weight")]
    world.manifest.write_text(world.manifest.read_text().replace(line, "0" * 64 + line[64:]))
    with (
        pytest.raises(CheckFailed, match=r"up_proj.*: expected SHA-256 0{64}, as fetched in part, got \w{64}"),
        atomic_dir(world.folder / "again") as out,
    ):
        fetch_checkpoint(LLAMA, out, world.manifest)


def test_without_words_a_part_is_refused(world: SimpleNamespace, written: Path) -> None:
    with pytest.raises(UserError, match="base: expected --words FILE"):
        part.run(None, world.folder / "out", world.folder / "base.json", settings(written), world.manifest)
