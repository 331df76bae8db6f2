"""What the model `lugha_llama_early` fetches, counted on the wire, beside what `tli plan` says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import hub as loopback
from tiny import ROOT
from tli.commands import plan
from tli.config import parameters
from tli.config.parameters import HubModel
from tli.data.hub.fetch import Repo
from tli.data.words import lexicon
from tli.io.files import atomic_dir
from tli.model import part


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that goes when the test ends: gigabytes lie in it."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_lugha_llama_early_fetches_two_gigabytes_at_most_and_what_the_plan_says(
    benchmark: BenchmarkFixture, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = parameters.load(ROOT / "params.yaml", model="lugha_llama_early")
    model = params.active.model
    assert isinstance(model, HubModel)
    pairs = lexicon.read_pairs(ROOT / "data" / "pairs.tsv")
    words = sorted({form for pair in pairs for form in (pair.swahili, pair.english)})
    manifest = folder / "fetched.sha256"
    manifest.write_text("")
    (folder / "published").mkdir()
    files = loopback.write_real_shape(folder / "published", words)
    whole = sum(loopback.size(content) for content in files.values())

    def fetch() -> dict[str, object]:
        with atomic_dir(folder / "base") as out:
            return part.fetch_part(Repo("model", model.repo, model.revision), out, manifest, model, words)

    with loopback.Hub() as hub:
        hub.add("model", model.repo, files, model.revision)
        hub.take_over(monkeypatch, folder / "home")
        summary = benchmark.pedantic(fetch, rounds=1)
        served, requests = hub.sent(), len(hub.requests("GET"))
    trained = sum(pair.set == "trained" for pair in pairs)
    (planned,) = [one for one in plan.costs(params, trained, len(pairs) - trained) if one.stage == "base"]
    print(
        f"served {served:,} bytes in {requests} requests, planned {planned.fetch:,.0f}; the whole has {whole:,}; "
        f"embedding rows: {summary['embedding_rows']}"
    )
    benchmark.extra_info |= {
        "table": "What the model `lugha_llama_early` fetches, from a server on this machine",
        "name": "fetch",
        "line": f"stage `base`: {served / 1e9:.2f} of {whole / 1e9:.1f} GB, {requests} requests",
        "seconds": benchmark.stats["median"],
        "fetched_bytes": served,
        "aims": {"fetched_gb": 2.0},
    }
    assert served <= 2.0e9
    assert planned.fetch == pytest.approx(served, rel=0.02)
    assert whole > 32e9
