"""What the tests share: a tiny Llama with random weights in the real formats, a short word list, real parameters.

The tiny model stands in for a checkpoint where only shapes and code paths matter; its parameter count is asserted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings
from ruamel.yaml import YAML

from checkout import Checkout, clone
from stages import Stages
from tiny import ROOT, WORDS, write_base
from tli.config import parameters
from tli.data.words.lexicon import Pair
from tli.model import backbone, checkpoint
from tli.stages import quantize

# No deadlines, which only measure the machine; the same examples in CI each time, new ones elsewhere.
settings.register_profile("tli", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tli")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Groups the tests for `-n`: those of one module, and all that need the finished run, share one process.

    Under TLI_SOAK (`make soak`) only the tests that count what they try run, those with the fixture `figures`.
    """
    for item in items:
        group = "finished run" if "done" in getattr(item, "fixturenames", ()) else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))
    if "TLI_SOAK" in os.environ:
        others = [item for item in items if "figures" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


@pytest.fixture(scope="session", autouse=True)
def _process() -> None:
    """One thread and deterministic algorithms, as every stage sets them."""
    backbone.setup(threads=1)


@pytest.fixture(scope="session")
def pairs() -> list[Pair]:
    """Sixteen word pairs, the last four a control set."""
    return [Pair(sw, en, "noun", "any", "control" if i >= 12 else "trained") for i, (sw, en) in enumerate(WORDS)]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a four-block Llama with random weights."""
    folder = tmp_path_factory.mktemp("base")
    model = write_base(folder, blocks=4, hidden_size=64, intermediate_size=96, kv_heads=2)
    assert model.num_parameters() < 200_000, "the tiny model is not tiny"
    return folder


@pytest.fixture(scope="session")
def params() -> parameters.Params:
    """The smoke parameters, with the tiny model's shape in the profile."""
    loaded = parameters.load(ROOT / "tests" / "smoke" / "params.yaml")
    profile = loaded.active
    model = profile.model.model_copy(
        update={"blocks": 4, "hidden_size": 64, "intermediate_size": 96, "heads": 4, "kv_heads": 2, "head_dim": 16}
    )
    return loaded.model_copy(update={"profiles": {loaded.model: profile.model_copy(update={"model": model})}})


@pytest.fixture(scope="session")
def tiny_quantized(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, params: parameters.Params) -> Path:
    """The tiny checkpoint's 4-bit cache, as the stage writes it: nf4, fp4, manifest; evidence in rows.tsv beside."""
    folder = tmp_path_factory.mktemp("cache")
    quantize.run(tiny_base, folder / "quantized", folder / "rows.tsv", params.quantize, params.active.compute.dtype)
    return folder / "quantized"


@pytest.fixture
def tiny(tiny_quantized: Path) -> SimpleNamespace:
    """The tiny NF4 model and its tokenizer, freshly loaded."""
    folder = tiny_quantized / "nf4"
    return SimpleNamespace(model=checkpoint.load(folder), tokenizer=checkpoint.tokenizer(folder), folder=folder)


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout after `dvc pull data.dvc`, `dvc repro` and a commit. Tests that change something copy it."""
    checkout = clone(tmp_path_factory.mktemp("first") / "project")
    checkout("dvc", "pull", "-q", "data.dvc")
    output = checkout("dvc", "repro")
    stages = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert checkout.ran(output) == set(stages) - {"study"}, "the study has no keys"
    checkout("git", "add", "-A")
    checkout("git", "commit", "-q", "-m", "one run")
    return checkout


@pytest.fixture(scope="session")
def stages(done: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """A copy of that checkout whose stages can be run one by one. Tests leave its outputs as they found them."""
    made = Stages(done, tmp_path_factory.mktemp("stages"))
    yield made
    made.forks.close()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Records a count under a name, for docs/reliability.md; into the void unless TLI_FIGURES names a file.

    Each record appends one JSON object on one line to that file: `promise` is the test's node id without parameters,
    `figure` the name, `value` the count. Lines of one promise and figure add up, so that a parametrised test gives 1
    at a time; a new file is a new count.
    """
    promise = request.node.nodeid.partition("[")[0]

    def record(name: str, value: int) -> None:
        if path := os.environ.get("TLI_FIGURES"):
            line = json.dumps({"promise": promise, "figure": name, "value": value}, ensure_ascii=False)
            with open(path, "a", encoding="utf-8") as file:  # one write in append mode: processes do not mix lines
                file.write(f"{line}\n")

    return record
