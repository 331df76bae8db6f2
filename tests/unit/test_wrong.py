"""Wrong implementations: with each in the place of the real code a test must fail, and `verify` where a value changes.

They are the mistakes that a study like this one can make without any number looking odd. `WRONG` names the function
concerned, what is put in its place, and the test that must notice. `SEEN` names the run whose values change with it:
recorded with the right code and judged with the wrong one, it makes `verify` fail. The others change no value.
"""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import test_align
import test_backbone
import test_benchmarks
import test_bootstrap
import test_holm
import test_metrics
import test_nf4
import test_stack
import test_stats
import test_train
import test_transfer
import torch
from scipy import stats as scipy_stats
from test_transfer import float32 as float32
from torch import nn

from synthetic import fabricate, verdict_files
from tiny import ROOT, WORDS, write_base
from tli.analysis.cells import Cells
from tli.analysis.render import read_model
from tli.analysis.results import COLUMNS, Measured, Results, load_yaml
from tli.analysis.table import Column, Table
from tli.analysis.views import grid
from tli.config.parameters import Params
from tli.data.benchmarks import prompts
from tli.data.benchmarks.items import write_items
from tli.data.benchmarks.prompts import Source
from tli.data.words.lexicon import Pair
from tli.io.errors import CheckFailed
from tli.io.rows import Row, read_rows, write_rows
from tli.io.structured import write_tsv
from tli.measure import embeddings, pair_rows, scoring
from tli.measure import similarity as metrics
from tli.measure.views import BASE, View, main_run
from tli.model import backbone, batched_lora, checkpoint, four_bit, lora
from tli.stages import scan, score, tables, verify
from tli.stages import similarity as similarity_stage
from tli.stats import bootstrap, holm, mcnemar, t_tests
from tli.training import loop, objective
from tli.verify import expected, judge

FILES = verdict_files(ROOT)
Put = Callable[[ModuleType, str, Any], None]


class Wrong(NamedTuple):
    """`make(right)` in the place of `module.name`; `test`, called with `given` and its fixtures, must fail."""

    module: ModuleType
    name: str
    make: Callable[[Any], Any]
    test: Callable[..., None]
    given: Mapping[str, Any] = MappingProxyType({})


# Each takes the right implementation, which it may call, and returns the wrong one.


def padding_in_the_mean(_: Any) -> Any:
    return lambda states, chosen: states.float().mean(dim=1)


def padding_in_content(_: Any) -> Any:
    return lambda ids, real, tokenizer: ids != embeddings.first_token(tokenizer)


def bos_in_content(_: Any) -> Any:
    return lambda ids, real, tokenizer: real


def fp4_for_nf4(right: Any) -> Any:
    return lambda base, out, kind, settings, *more: right(base, out, "fp4", settings, *more)


def next_layer(right: Any) -> Any:
    """hidden_states[i + 1] under the name of i; the last twice."""

    def run(model: nn.Module, *batches: Any) -> Iterator[tuple[str, Any]]:
        names, states = zip(*right(model, *batches), strict=True)
        return zip(names, [*states[1:], states[-1]], strict=True)

    return run


def one_block_short(right: Any) -> Any:
    return lambda model, settings, blocks, seeds, last_block: right(model, settings, blocks, seeds, last_block - 1)


def unpaired(right: Any) -> Any:
    def paired(before: Any, after: Any, confidence: float = 0.95) -> t_tests.Paired:
        test = scipy_stats.ttest_ind(after, before)
        p = max(float(test.pvalue), 1e-300)
        return right(before, after, confidence)._replace(t=float(test.statistic), p=p)

    return paired


def concordant(_: Any) -> Any:
    """The cells of the table that McNemar's test leaves out."""

    def exact(before: Any, after: Any) -> mcnemar.McNemar:
        x, y = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
        both, neither = int((x & y).sum()), int((~x & ~y).sum())
        return mcnemar.McNemar(both, neither, mcnemar.p_value(both, neither), "")

    return exact


def mean_negative(_: Any) -> Any:
    """All negatives in the place of the hardest."""

    def triplet(anchors: Any, positives: Any, margin: float, masked: Any = None) -> Any:
        cosines = nn.functional.cosine_similarity(anchors.unsqueeze(-2), positives.unsqueeze(-3), dim=-1)
        positive = cosines.diagonal(dim1=-2, dim2=-1)
        others = (cosines.sum(dim=-1) - positive) / max(1, anchors.shape[-2] - 1)
        return torch.relu(margin + others - positive).mean(dim=-1), positive.mean(dim=-1), others.mean(dim=-1)

    return triplet


def context_scored_too(right: Any) -> Any:
    def requests(tokenizer: Any, item: Any) -> list[scoring.Request]:
        return [request._replace(scored=len(request.ids) - 1) for request in right(tokenizer, item)]

    return requests


WRONG = {
    "the mean takes padding in": Wrong(
        embeddings,
        "pool",
        padding_in_the_mean,
        test_backbone.test_mask_pooling_has_bos_in_and_content_pooling_has_it_out,
    ),
    "padding counts as content": Wrong(
        embeddings,
        "content",
        padding_in_content,
        test_backbone.test_mask_pooling_has_bos_in_and_content_pooling_has_it_out,
    ),
    "BOS is pooled in a content view": Wrong(
        embeddings, "content", bos_in_content, test_backbone.test_mask_pooling_has_bos_in_and_content_pooling_has_it_out
    ),
    "FP4 in the place of NF4": Wrong(
        four_bit,
        "write_checkpoint",
        fp4_for_nf4,
        test_nf4.test_same_bytes_as_transformers_own_quantisation,
        {"kind": "nf4", "double_quant": False},
    ),
    "a layer's number is one off": Wrong(
        backbone, "run_by_block", next_layer, test_align.test_what_a_view_is_is_read_off_the_loaded_model
    ),
    "the loss reads the layer before": Wrong(
        batched_lora,
        "batched_lora",
        one_block_short,
        test_stack.test_one_adapter_is_pefts_run_bit_for_bit,
        {"changes": {}, "weights": "dequantized"},
    ),
    "alpha / r is forgotten": Wrong(
        lora,
        "alpha",
        lambda _: lambda settings: settings.rank,
        test_train.test_scalings,
        {"scaling": "2r", "rank": 4, "factor": 2.0},
    ),
    "the loss takes every negative": Wrong(
        objective, "triplet_loss", mean_negative, test_train.test_loss_is_its_definition
    ),
    "shuffled pairs are the pairs": Wrong(
        loop,
        "shuffled_pairs",
        lambda _: lambda pairs, seed: [*pairs],
        test_train.test_shuffled_pairs_are_the_same_words_and_no_pair_as_it_was,
    ),
    "random pairs are the pairs": Wrong(
        metrics,
        "derangement",
        lambda _: lambda n, seed: np.arange(n),
        test_metrics.test_a_derangement_is_a_permutation_without_a_fixed_point,
    ),
    "a similarity is not normalised": Wrong(
        metrics,
        "unit",
        lambda _: lambda x: np.asarray(x, dtype=np.float64),
        test_metrics.test_cosine_agrees_with_scipy,
    ),
    "a tie counts as a hit": Wrong(
        metrics,
        "ranks",
        lambda _: lambda table, true: 1 + (table > table[np.arange(len(true)), true, None]).sum(1),
        test_metrics.test_ties_count_against_the_translation,
    ),
    "CSLS corrects one side": Wrong(
        metrics,
        "csls",
        lambda _: lambda table, k=10: 2 * table - np.sort(table, axis=1)[:, -k:].mean(1)[:, None],
        test_metrics.test_csls_on_a_worked_example,
    ),
    "the context is scored too": Wrong(
        scoring, "requests", context_scored_too, test_transfer.test_log_likelihoods_equal_the_harness
    ),
    "cause and effect change places": Wrong(
        prompts,
        "QUESTIONS",
        lambda right: right[::-1],
        test_benchmarks.test_prompts_are_the_harness_s_own,
        {"task": "xcopa", "language": "it"},
    ),
    "the t-test is unpaired": Wrong(t_tests, "paired", unpaired, test_stats.test_paired_test_follows_its_formula),
    "SD has n for n - 1": Wrong(
        t_tests,
        "spread",
        lambda right: lambda x: right(x)._replace(sd=float(np.std(x))),
        test_stats.test_paired_test_follows_its_formula,
    ),
    "McNemar counts what did not flip": Wrong(
        mcnemar, "exact", concordant, test_stats.test_mcnemar_is_the_binomial_test_of_the_flips
    ),
    "p is not corrected within its family": Wrong(
        holm,
        "holm",
        lambda right: lambda p, alpha=0.05: right(p, alpha)._replace(adjusted=tuple(p)),
        test_holm.test_a_published_example,
    ),
    "items of one premise are drawn apart": Wrong(
        bootstrap,
        "cluster_bootstrap",
        lambda right: lambda rows, groups=None, **how: right(rows, **how),
        test_bootstrap.test_groups_are_drawn_whole,
    ),
}


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Put:
    """Puts an implementation in the place of another wherever that is imported, in `tli` and in the tests."""

    def replace(module: ModuleType, name: str, new: Any) -> None:
        right = getattr(module, name)
        for other in [*sys.modules.values()]:
            if getattr(other, "__name__", "").startswith(("tli.", "test_")) and vars(other).get(name) is right:
                monkeypatch.setattr(other, name, new)

    return replace


def run(test: Callable[..., None], given: dict[str, Any]) -> None:
    """Calls a test; of one that hypothesis drives, up to 200 examples from seeded bytes, and none made smaller."""
    driven = getattr(test, "hypothesis", None)
    if driven is None:
        test(**given)
        return
    source = random.Random(0)
    for _ in range(200):
        driven.fuzz_one_input(source.randbytes(2000))


@pytest.mark.parametrize("code", ["right", "wrong"])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_implementation_fails_a_test(
    wrong: Wrong, code: str, put: Put, request: pytest.FixtureRequest, figures: Callable[[str, int], None]
) -> None:
    """The test that is there to notice a wrong implementation fails with it, and passes without."""
    names = [name for name in inspect.signature(wrong.test).parameters if name not in wrong.given]
    given = {name: request.getfixturevalue(name) for name in names} | dict(wrong.given)
    if code == "right":
        run(wrong.test, given)
        return
    put(wrong.module, wrong.name, wrong.make(getattr(wrong.module, wrong.name)))
    with pytest.raises(AssertionError):
        run(wrong.test, given)
    figures("wrong implementations caught by a test", 1)


# What `verify` says of them: the values of a run with the right code are recorded, those with the wrong one judged.

# A wrong implementation -> the run that has its part of the code, and the reason where it changes no value of that run:
# then its test alone can notice it.
SEEN: dict[str, tuple[str, str]] = {
    "the mean takes padding in": ("words", ""),
    "padding counts as content": ("words", ""),
    "BOS is pooled in a content view": ("words", ""),
    "FP4 in the place of NF4": ("words", ""),
    "a layer's number is one off": ("words", ""),
    "the loss reads the layer before": ("words", ""),
    "alpha / r is forgotten": ("words", ""),
    "the loss takes every negative": ("words", ""),
    "shuffled pairs are the pairs": ("words", "train.pairs is `translations` in every recorded run"),
    "random pairs are the pairs": ("words", ""),
    "a similarity is not normalised": ("words", ""),
    "a tie counts as a hit": ("retrieval", ""),
    "CSLS corrects one side": ("retrieval", ""),
    "the context is scored too": ("items", "the options of an item share their context: each sum moves by the same"),
    "cause and effect change places": ("items", ""),
    "the t-test is unpaired": ("tables", ""),
    "SD has n for n - 1": ("tables", ""),
    "McNemar counts what did not flip": ("tables", ""),
    "p is not corrected within its family": ("tables", "p and the verdicts that follow from it are shown, not judged"),
    "items of one premise are drawn apart": ("tables", ""),
}
Tables = Mapping[str, Table]


def computed(rows: Mapping[str, Sequence[Path]], metrics_: Measured, params: Params, *names: str) -> dict[str, Table]:
    """The tables of these names.

    Args:
        rows: stage -> its row files.
        metrics_: the metrics of the stage `benchmarks`.
    """
    parts = [
        read_rows(path).assign(model=params.model, base=0, stage=stage)[list(COLUMNS)]
        for stage, paths in rows.items()
        for path in paths
    ]
    frame = pd.concat(parts, ignore_index=True)
    results = Results(frame, {"benchmarks": metrics_}, load_yaml(FILES.reported), {})
    return {name: tables.compute(name, results, params, lambda *_: None) for name in names}


def counted(pairs: Sequence[Pair]) -> dict[str, Table]:
    """The numbers of pairs, as the setup table has them."""
    columns = (Column("setting", "setting", id=True), Column("here", "this run", "number"))
    rows = [
        {"setting": f"pairs.{set_}", "here": sum(pair.set == set_ for pair in pairs)} for set_ in ("trained", "control")
    ]
    return {"setup": Table("setup", "Setup", "", columns, rows, view="none")}


def lexical(base: Path, out: Path, pairs: Sequence[Pair], params: Params) -> dict[str, Table]:
    """Tables about word pairs of a base that is quantised, trained on twelve pairs, and measured before and after."""
    for kind, settings in (("nf4", params.quantize.nf4), ("fp4", params.quantize.fp4)):
        four_bit.write_checkpoint(base, out / "quantized" / kind, kind, settings, params.active.compute.dtype)
    write_tsv(out / "pairs.tsv", Pair._fields, pairs)
    cut, settings = checkpoint.load(out / "quantized" / "nf4", blocks=2), params.train
    hard = settings.model_copy(update={"lr": 5e-3, "epochs": 6})
    with batched_lora.batched_lora(cut, params.lora, 2, [0], last_block=settings.layer) as adapters:
        loop.train(adapters, checkpoint.tokenizer(out / "quantized" / "nf4"), pairs[:12], hard)
    lora.save(adapters.tensors(0), params.lora, 2, out / "adapter", base="base")
    scan.run(out / "pairs.tsv", out / "quantized", out / "scan.tsv", params)
    similarity_stage.run(out / "pairs.tsv", out / "quantized", out / "adapter", out / "similarity.tsv", params)
    of_base: list[Row] = []
    for kind in ("nf4", "fp4"):
        folder = out / "quantized" / kind
        model, tokenizer = checkpoint.load(folder, head=False), checkpoint.tokenizer(folder)
        of_base += pair_rows.measure(BASE, pairs, model, tokenizer, params, kind)
    write_rows(out / "base.tsv", of_base)
    write_rows(out / "bfloat16.tsv", [])
    rows = {
        "scan": [out / "scan.tsv"],
        "similarity": [out / "base.tsv", out / "similarity.tsv"],
        "bfloat16": [out / "bfloat16.tsv"],
    }
    return counted(pairs) | computed(rows, {}, params, "scan", "norms", "before_after", "gains", "retrieval")


def questions(prepared: Path, out: Path, params: Params) -> dict[str, Table]:
    """Accuracy by class on forty XCOPA items in the words of the tiny model, which `prepared` holds with an adapter."""
    draw = random.Random(0)
    words = [english for _, english in WORDS]
    source = []
    for number in range(40):
        texts = [f"The {draw.choice(words)} is {draw.choice(words)}." for _ in range(3)]
        named = dict(zip(("premise", "choice1", "choice2"), texts, strict=True))
        named["question"] = ("cause", "effect")[number % 2]
        source.append(Source(f"xcopa.en.test.{number:04d}", "xcopa", "en", "test", number // 2 % 2, named))
    write_items(out / "items.jsonl", (prompts.render(item, released=False) for item in source))
    score.run(out / "items.jsonl", prepared / "quantized", prepared / "adapter", out / "score.tsv", params)
    folder, size = prepared / "quantized" / "nf4", params.active.compute.batch_size
    exam = scoring.prepare(scoring.items_to_score(out / "items.jsonl", params), checkpoint.tokenizer(folder), size)
    write_rows(out / "base.tsv", scoring.measure(BASE, exam, checkpoint.load(folder)))
    counts: Measured = {"xcopa.en.scored": "test", "xcopa.en.test.items": 40}
    counts |= {f"xcopa.en.test.label.{label}": 20 for label in (0, 1)}
    return computed({"score": [out / "base.tsv", out / "score.tsv"]}, counts, params, "classes", "items")


def searched(out: Path, params: Params) -> dict[str, Table]:
    """Retrieval among 200 words in 16 dimensions: ten of them near all others, and forty that share their forms."""
    rng = np.random.default_rng(0)
    pairs = [Pair(f"neno{n}", f"word{n}", "noun", "any", "control" if n >= 150 else "trained") for n in range(200)]
    swahili = rng.normal(size=(200, 16)) + 0.5
    english = swahili + rng.normal(size=(200, 16))
    english[:10] = english.mean(axis=0) + 0.3 * rng.normal(size=(10, 16))  # near all others, so that CSLS matters
    english[20:40] = english[40:60]  # one form for two words: ties
    views = [View(*view.split(".")) for view in grid(params, "nf4", "fp4")]
    rows: list[Row] = []
    for cell, moved in (
        (BASE, english),
        (main_run(params.lora.scaling, params.lora.rank, params.train.seed), english + 0.2 * swahili),
    ):
        both = [
            embeddings.Embedded({(view.layer, view.pooling): words.astype(np.float32) for view in views}, {}, {}, {})
            for words in (swahili, moved)
        ]
        rows += pair_rows.aggregate_rows(cell, pairs, *both, views, params.measure.random_seeds)
    write_rows(out / "similarity.tsv", rows)
    return counted(pairs) | computed({"similarity": [out / "similarity.tsv"]}, {}, params, "retrieval")


Measure = Callable[[str, Path], Tables]


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair], params: Params) -> Measure:
    """Measures by the code as it is, wrong or right, what a run of that name gives; writes into an empty folder."""
    folder = tmp_path_factory.mktemp("right")
    write_base(folder / "base", blocks=4, hidden_size=64, intermediate_size=96, kv_heads=2)
    rows, prepared = fabricate(folder / "rows", params), folder / "prepared"
    lexical(folder / "base", prepared, pairs, params)

    def run_of(name: str, out: Path) -> Tables:
        out.mkdir(parents=True, exist_ok=True)
        if name == "words":
            return lexical(folder / "base", out, pairs, params)
        if name == "items":
            return questions(prepared, out, params)
        if name == "retrieval":
            return searched(out, params)
        tables.run(**rows | {"out": out / "tables.json"})
        return read_model(out / "tables.json").tables

    return run_of


@pytest.fixture(scope="module")
def judged(
    tmp_path_factory: pytest.TempPathFactory, measure: Measure, params: Params
) -> Callable[[str, Path], judge.Judged]:
    """Judges a run against the same one by the right code, recorded at the first call, by the committed rules."""
    rules = judge.rules(FILES.tolerances, FILES.conclusions, FILES.reported, params)
    under = expected.settings(params, "")
    recorded = {
        name: expected.Expected(params.model, under, {}, measure(name, tmp_path_factory.mktemp("recorded") / name))
        for name in ("words", "items", "retrieval", "tables")
    }

    def call(name: str, out: Path) -> judge.Judged:
        return judge.judge(Cells(measure(name, out)).values, under, recorded[name], rules, params)

    return call


def test_every_wrong_implementation_is_seen_or_its_test_is_named() -> None:
    assert SEEN.keys() == WRONG.keys()


@pytest.mark.parametrize("name", ["words", "items", "retrieval", "tables"])
def test_the_right_implementation_passes(
    name: str, judged: Callable[[str, Path], judge.Judged], tmp_path: Path
) -> None:
    again = judged(name, tmp_path)
    assert not again.failures
    assert again.counts[judge.DIFFERS] == again.counts[judge.NONE] == 0


@pytest.mark.filterwarnings("ignore:Precision loss occurred:RuntimeWarning")  # of the unpaired test on synthetic rows
@pytest.mark.parametrize("name", [name for name, (_, unseen) in SEEN.items() if not unseen])
def test_verify_sees_a_wrong_implementation(
    name: str,
    judged: Callable[[str, Path], judge.Judged],
    put: Put,
    tmp_path: Path,
    figures: Callable[[str, int], None],
) -> None:
    """Values that a wrong implementation gives make `verify` fail by the rule of its exit status."""
    wrong = WRONG[name]
    put(wrong.module, wrong.name, wrong.make(getattr(wrong.module, wrong.name)))
    failures = judged(SEEN[name][0], tmp_path).failures
    with pytest.raises(CheckFailed, match=r"^verify: "):
        verify.finish(failures, "verify")
    figures("wrong implementations that verify sees", 1)


@pytest.mark.parametrize("name", [name for name, (_, unseen) in SEEN.items() if unseen])
def test_what_changes_no_value_is_left_to_its_test(
    name: str, judged: Callable[[str, Path], judge.Judged], put: Put, tmp_path: Path
) -> None:
    """Where one of them changes a value after all, it belongs to the others."""
    wrong = WRONG[name]
    put(wrong.module, wrong.name, wrong.make(getattr(wrong.module, wrong.name)))
    assert judged(SEEN[name][0], tmp_path).counts[judge.DIFFERS] == 0
