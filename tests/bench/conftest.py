"""What the benchmarks share: the micro-world model's shape with random weights, and how a ratio is told.

A claim of speed is a ratio of medians measured in one run, against what a user would run instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tiny import ROOT, write_base
from tli.config import parameters
from tli.stages import quantize

ratios: list[str] = []


@pytest.fixture(scope="session")
def committed() -> parameters.Params:
    return parameters.load(ROOT / "params.yaml", model="microworld")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, committed: parameters.Params) -> Path:
    """An NF4 checkpoint of the micro-world model's depth and widths."""
    folder, model = tmp_path_factory.mktemp("bench"), committed.active.model
    write_base(folder / "base", model.blocks, model.hidden_size, model.intermediate_size, model.kv_heads)
    compute_dtype = committed.active.compute.dtype
    quantize.run(folder / "base", folder / "quantized", folder / "rows.tsv", committed.quantize, compute_dtype)
    return folder / "quantized" / "nf4"


@pytest.fixture(scope="session")
def medians() -> dict[str, float]:
    return {}


@pytest.fixture
def noted(benchmark: BenchmarkFixture, medians: dict[str, float]) -> Callable[..., None]:
    """Keeps what was just measured as a line of a table of docs/performance.md."""

    def call(table: str, name: str, **more: object) -> None:
        medians[name] = benchmark.stats["median"]
        benchmark.extra_info |= {"table": table, "name": name, "line": name, "seconds": medians[name]} | more

    return call


@pytest.fixture
def tell(medians: dict[str, float]) -> Callable[[str, str, str], None]:
    """Keeps the sentence with the ratio of two medians for the end of the run."""

    def call(what: str, slow: str, fast: str) -> None:
        ratios.append(f"{what}: {medians[slow] / medians[fast]:.2f}x ({slow} / {fast}, medians of this run)")

    return call


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None] | None:
    for line in ratios:
        terminalreporter.write_line(line)
    return None
