"""The default run as its users meet it: from nothing, once more, and with another rank.

The lines of `make repro` after the installation, in a clone. What is asserted is what each of the three must have run.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from checkout import Checkout, clone
from tiny import ROOT

TABLE = "The default run, installation not counted"
RUNS = {"`make repro`, from nothing": 600, "`make repro`, once more": 3, "`dvc exp run -S lora.rank=8`": 60}  # seconds


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    copy = clone(tmp_path_factory.mktemp("whole") / "project")
    shutil.copyfile(ROOT / "params.yaml", copy.root / "params.yaml")
    copy("git", "commit", "-q", "-a", "-m", "the committed parameters")
    copy("dvc", "pull", "-q", "data.dvc")
    return copy


def recipe() -> str:
    """What make runs for `repro` once the environment and data/ are there."""
    _, lines = re.split(r"^repro:.*\n", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    own = lines.partition("\n\n")[0].splitlines()
    return "\n".join(line.strip() for line in own if "$(enter)" not in line).replace("$$", "$")


@pytest.mark.parametrize("name", RUNS)
def test_the_default_run(
    benchmark: BenchmarkFixture, checkout: Checkout, noted: Callable[..., None], name: str
) -> None:
    def make_repro() -> set[str]:
        return checkout.ran(checkout("bash", "-euo", "pipefail", "-c", recipe()))

    def experiment() -> set[str]:
        return checkout.ran(checkout("dvc", "exp", "run", "-S", "lora.rank=8"))

    ran = benchmark.pedantic(experiment if "exp" in name else make_repro, rounds=1)
    noted(TABLE, name, aims={"seconds": RUNS[name]})
    expected = {
        "`make repro`, from nothing": lambda: {"base", "sweep-score", "paper"} <= ran,
        "`make repro`, once more": lambda: not ran,
        "`dvc exp run -S lora.rank=8`": lambda: "train" in ran and not ran & {"base", "sweep-train"},
    }
    assert expected[name]()
