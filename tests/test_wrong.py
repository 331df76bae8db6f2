"""Wrong implementations: each is put into the real code, and a test of this suite, or `verify`, must then fail.

They are the mistakes that a study like this one can make without any number looking odd. `WRONG` names the function
concerned, what is put in its place, and the test that must notice. Where a lexical table changes with it, the values of
tiny models, recorded as those of paper/expected.yaml are, are held against the wrong ones by `verify` too.
"""

from __future__ import annotations

import inspect
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from torch import nn

import test_align
import test_backbone
import test_benchmarks
import test_families
import test_metrics
import test_nf4
import test_resample
import test_stack
import test_stats
import test_train
import test_transfer
from test_transfer import float32 as float32
from tiny import ROOT, write_base
from tli import store
from tli.data import prompts
from tli.data.lexicon import Pair
from tli.model import backbone, lora, nf4, stack
from tli.paper import expected, families, layers, resample, similarity, stats
from tli.paper.rows import Measured, Rows, load_yaml
from tli.params import Params
from tli.study import align, embed, metrics, scan, train, transfer

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
    return lambda ids, real, tokenizer: ids != embed.first_token(tokenizer)


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
    return lambda model, settings, blocks, seeds, reached: right(model, settings, blocks, seeds, reached - 1)


def unpaired(right: Any) -> Any:
    def paired(before: Any, after: Any, confidence: float = 0.95) -> stats.Paired:
        test = scipy_stats.ttest_ind(after, before)
        p = math.log10(max(test.pvalue, 1e-300))
        return right(before, after, confidence)._replace(t=float(test.statistic), log10_p=p)

    return paired


def concordant(_: Any) -> Any:
    """The cells of the table that McNemar's test leaves out."""

    def mcnemar(before: Any, after: Any) -> stats.McNemar:
        x, y = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
        both, neither = int((x & y).sum()), int((~x & ~y).sum())
        return stats.McNemar(both, neither, stats.log10_p_mcnemar(both, neither), "")

    return mcnemar


def mean_negative(_: Any) -> Any:
    """All negatives in the place of the hardest."""

    def triplet(anchors: Any, positives: Any, margin: float, masked: Any = None) -> Any:
        similarity = nn.functional.cosine_similarity(anchors.unsqueeze(-2), positives.unsqueeze(-3), dim=-1)
        positive = similarity.diagonal(dim1=-2, dim2=-1)
        others = (similarity.sum(dim=-1) - positive) / max(1, anchors.shape[-2] - 1)
        return torch.relu(margin + others - positive).mean(dim=-1), positive.mean(dim=-1), others.mean(dim=-1)

    return triplet


def context_scored_too(right: Any) -> Any:
    def requests(tokenizer: Any, item: Any) -> list[transfer.Request]:
        return [request._replace(scored=len(request.ids) - 1) for request in right(tokenizer, item)]

    return requests


WRONG = {
    "the mean takes padding in": Wrong(
        embed, "pool", padding_in_the_mean, test_backbone.test_mask_pooling_has_bos_in_and_content_pooling_has_it_out
    ),
    "padding counts as content": Wrong(
        embed, "content", padding_in_content, test_backbone.test_mask_pooling_has_bos_in_and_content_pooling_has_it_out
    ),
    "BOS is pooled in a content view": Wrong(
        embed, "content", bos_in_content, test_backbone.test_mask_pooling_has_bos_in_and_content_pooling_has_it_out
    ),
    "FP4 in the place of NF4": Wrong(
        nf4, "write_checkpoint", fp4_for_nf4, test_nf4.test_same_bytes_as_transformers_own_quantisation,
        {"kind": "nf4", "double_quant": False},
    ),
    "a layer's number is one off": Wrong(
        backbone, "run", next_layer, test_align.test_what_a_view_is_is_read_off_the_loaded_model
    ),
    "the loss reads the layer before": Wrong(
        stack, "stacked", one_block_short, test_stack.test_one_adapter_is_pefts_run_bit_for_bit,
        {"changes": {}, "weights": "dequantized"},
    ),
    "alpha / r is forgotten": Wrong(
        lora, "alpha", lambda _: lambda settings: settings.rank, test_train.test_scalings,
        {"scaling": "2r", "rank": 4, "factor": 2.0},
    ),
    "the loss takes every negative": Wrong(train, "triplet", mean_negative, test_train.test_loss_is_its_definition),
    "shuffled pairs are the pairs": Wrong(
        train, "shuffled", lambda _: lambda pairs, seed: [*pairs],
        test_train.test_shuffled_pairs_are_the_same_words_and_no_pair_as_it_was,
    ),
    "random pairs are the pairs": Wrong(
        metrics, "derangement", lambda _: lambda n, seed: np.arange(n),
        test_metrics.test_a_derangement_is_a_permutation_without_a_fixed_point,
    ),
    "a similarity is not normalised": Wrong(
        metrics, "unit", lambda _: lambda x: np.asarray(x, dtype=np.float64),
        test_metrics.test_cosine_agrees_with_scipy,
    ),
    "a tie counts as a hit": Wrong(
        metrics, "ranks", lambda _: lambda table, true: 1 + (table > table[np.arange(len(true)), true, None]).sum(1),
        test_metrics.test_ties_count_against_the_translation,
    ),
    "CSLS corrects one side": Wrong(
        metrics, "csls", lambda _: lambda table, k=10: 2 * table - np.sort(table, axis=1)[:, -k:].mean(1)[:, None],
        test_metrics.test_csls_on_a_worked_example,
    ),
    "the context is scored too": Wrong(
        transfer, "requests", context_scored_too, test_transfer.test_log_likelihoods_equal_the_harness
    ),
    "cause and effect change places": Wrong(
        prompts, "QUESTIONS", lambda right: right[::-1], test_benchmarks.test_prompts_are_the_harness_s_own,
        {"task": "xcopa", "language": "it"},
    ),
    "the t-test is unpaired": Wrong(stats, "paired", unpaired, test_stats.test_paired_test_follows_its_formula),
    "SD has n for n - 1": Wrong(
        stats, "spread", lambda right: lambda x: right(x)._replace(sd=float(np.std(x))),
        test_stats.test_paired_test_follows_its_formula,
    ),
    "McNemar counts what did not flip": Wrong(
        stats, "mcnemar", concordant, test_stats.test_mcnemar_is_the_binomial_test_of_the_flips
    ),
    "p is not corrected within its family": Wrong(
        families, "holm", lambda right: lambda p, alpha=0.05: right(p, alpha)._replace(adjusted=tuple(p)),
        test_families.test_a_published_example,
    ),
    "items of one premise are drawn apart": Wrong(
        resample, "cluster_bootstrap", lambda right: lambda rows, groups=None, **how: right(rows, **how),
        test_resample.test_groups_are_drawn_whole,
    ),
}  # fmt: skip


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


# What `verify` says of those that no table shows as odd.

LEXICAL = (
    "the mean takes padding in", "BOS is pooled in a content view", "FP4 in the place of NF4",
    "a layer's number is one off", "the t-test is unpaired",
)  # fmt: skip


def lexical(base: Path, out: Path, pairs: Sequence[Pair], params: Params, reported: Mapping[str, Any]) -> Measured:
    """What the lexical tables say of a base that is quantised, trained on twelve pairs, scanned and aligned."""
    for kind, settings in (("nf4", params.quantize.nf4), ("fp4", params.quantize.fp4)):
        nf4.write_checkpoint(base, out / "quantized" / kind, kind, settings)
    store.write_tsv(out / "pairs.tsv", Pair._fields, pairs)
    cut, settings = backbone.load(out / "quantized" / "nf4", blocks=2), params.train
    hard = settings.model_copy(update={"lr": 5e-3, "epochs": 6})
    with stack.stacked(cut, params.lora, 2, [0], reached=settings.layer) as adapters:
        train.train(adapters, backbone.tokenizer(out / "quantized" / "nf4"), pairs[:12], hard)
    lora.save(adapters.tensors(0), params.lora, 2, out / "adapter", base="base")
    scan.run(out / "pairs.tsv", out / "quantized", out / "scan.tsv", params)
    align.run(out / "pairs.tsv", out / "quantized", out / "adapter", out / "align.tsv", params)
    scanned, aligned = Rows(out / "scan.tsv"), Rows(out / "align.tsv")
    measured: Measured = {}
    for made in (
        layers.scan_table(scanned, reported, params), layers.norms(aligned, params),
        similarity.before_after(aligned, reported, params), similarity.gains(aligned, reported, params),
        similarity.retrieval(aligned, params),
    ):  # fmt: skip
        measured |= made.measured
    return measured


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair], params: Params) -> Callable[[Path], list[str]]:
    """Measures again what is expected of a base by the right code; gives the values whose verdict is `differs`.

    Recorded as in paper/expected.yaml: of five bases, and of the first in batches of three words, which moves the last
    digits of bfloat16 as another processor does.
    """
    folder, reported = tmp_path_factory.mktemp("judged"), load_yaml(ROOT / "paper" / "reported.yaml")
    compute = params.active.compute.model_copy(update={"batch_size": 3})
    profiles = {params.model: params.active.model_copy(update={"compute": compute})}
    moved = params.model_copy(update={"profiles": profiles})
    runs = []
    for seed, how in [*((seed, params) for seed in range(5)), (0, moved)]:
        base, out = folder / f"base{seed}", folder / f"{len(runs)}"
        if how is params:
            write_base(base, blocks=4, hidden_size=64, intermediate_size=96, kv_heads=2, seed=seed)
        runs.append(folder / f"{len(runs)}.json")
        store.write_json(runs[-1], lexical(base, out, pairs, how, reported))
    expected.record(runs=runs[:5], drifted=[runs[5]], out=folder / "expected.yaml", params=params)
    section = expected.load(folder / "expected.yaml", params)

    def differing(out: Path) -> list[str]:
        checks = expected.judge(lexical(folder / "base0", out, pairs, params, reported), section, params)
        assert expected.NONE not in {check.verdict for check in checks}
        return [check.key for check in checks if check.verdict == expected.DIFFERS]

    return differing


def test_the_right_implementation_agrees(judged: Callable[[Path], list[str]], tmp_path: Path) -> None:
    assert judged(tmp_path) == []


@pytest.mark.parametrize("name", LEXICAL)
def test_verify_sees_a_wrong_implementation(
    name: str, judged: Callable[[Path], list[str]], put: Put, tmp_path: Path, figures: Callable[[str, int], None]
) -> None:
    """Values of the lexical tables that a wrong implementation gives differ from those that are expected."""
    wrong = WRONG[name]
    put(wrong.module, wrong.name, wrong.make(getattr(wrong.module, wrong.name)))
    found = judged(tmp_path)
    assert len(found) > 20, found
    figures("wrong implementations that verify sees", 1)
