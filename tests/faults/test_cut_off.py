"""Long stages that are cut off between two pieces of work: the next run does the rest and gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from test_transfer import ITEMS

from tli.config.parameters import Params
from tli.data.benchmarks.items import write_items
from tli.data.words.lexicon import Pair
from tli.io.files import sha256_of
from tli.io.resume import Checkpoints
from tli.io.structured import write_tsv
from tli.measure import scoring
from tli.stages import base_rows, score, similarity, sweep_score, sweep_train, train

Run = Callable[[Path], None]  # a stage, given the folder that it writes to


@pytest.fixture(scope="module")
def stages(
    tmp_path_factory: pytest.TempPathFactory, tiny_quantized: Path, pairs: list[Pair], params: Params
) -> dict[str, Run]:
    """Each long stage of the study on the tiny model, and an adapter for those that need one."""
    given = tmp_path_factory.mktemp("given")
    words, items = given / "pairs.tsv", given / "items.jsonl"
    write_tsv(words, Pair._fields, pairs)
    write_items(items, ITEMS)
    train.run(words, tiny_quantized, given / "adapter", given / "train.tsv", given / "log", params)
    ranks = {2: "r2", 4: "r4"}
    profile = params.active
    profile_of_few = profile.model_copy(update={"compute": profile.compute.model_copy(update={"batch_size": 2})})
    few = params.model_copy(update={"profiles": {params.model: profile_of_few}})  # a batch of two is one piece
    sweep_train.run(words, tiny_quantized, ranks, given / "adapters", given / "sweep.tsv", params)
    return {
        "base-rows": lambda out: base_rows.run(words, items, tiny_quantized, out / "base-rows", params),
        "similarity": lambda out: similarity.run(
            words, tiny_quantized, given / "adapter", out / "similarity.tsv", params
        ),
        "score": lambda out: score.run(items, tiny_quantized, given / "adapter", out / "score.tsv", few),
        "sweep-train": lambda out: sweep_train.run(words, tiny_quantized, ranks, out / "r", out / "r.tsv", params),
        "sweep-score": lambda out: sweep_score.run(
            words, items, tiny_quantized, given / "adapters", ranks, out / "rows", params
        ),
    }


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pieces that were made."""
    made: list[str] = []
    put = Checkpoints.put

    def counted(self: Checkpoints, name: str, write: Callable[[Path], object]) -> Path:
        made.append(name)
        return put(self, name, write)

    monkeypatch.setattr(Checkpoints, "put", counted)
    return made


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["base-rows", "similarity", "score", "sweep-train", "sweep-score"])
def test_what_was_finished_is_not_done_again(
    stages: dict[str, Run],
    name: str,
    puts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    figures: Callable[[str, int], None],
) -> None:
    """Cut off between two pieces, a stage does the rest of its work in the next run, and none of it twice."""
    monkeypatch.setattr(scoring, "BATCHES_PER_CHECKPOINT", 1)
    run, whole, cut = stages[name], tmp_path / "whole", tmp_path / "cut"
    run(whole)
    every = [*puts]
    assert len(every) >= 2, "one piece cannot be cut between"
    puts.clear()
    with monkeypatch.context() as patch:
        put = Checkpoints.put

        def interrupted(self: Checkpoints, piece: str, write: Callable[[Path], object]) -> Path:
            if piece == every[1]:
                raise KeyboardInterrupt
            return put(self, piece, write)

        patch.setattr(Checkpoints, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(cut)
    assert puts == every[:1]
    run(cut)
    assert puts == every
    assert digests(cut) == digests(whole)
    figures("pieces made once", len(every))
