"""Word translation by prompt: no control word in a prompt, ranks by hand, the stage and the table on rigged models."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from statsmodels.stats.contingency_tables import mcnemar

from tiny import ROOT
from tli.analysis.results import COLUMNS, Results
from tli.analysis.table import Table
from tli.config.parameters import Params, Translate
from tli.data.words.lexicon import Pair, read_pairs
from tli.io.errors import UserError
from tli.io.rows import Row, read_rows, write_rows
from tli.io.structured import write_tsv
from tli.measure.scoring import Request
from tli.measure.views import BASE, main_run
from tli.model import checkpoint, lora
from tli.stages import tables, translate


def listed(*lines: str) -> list[Pair]:
    """Pairs of `swahili/english/set`."""
    return [Pair(*line.split("/")[:2], "noun", "any", line.split("/")[2]) for line in lines]


DOUBLE = listed(
    "shule/school/trained",
    "kali/fierce/trained",
    "kali/sharp/control",
    "Kali/strict/control",
    "moto/hot/control",
    "joto/hot/control",
    "moto wa/fire/trained",
    "jua kali/strong sun/trained",
    "maji/hot water/trained",
)


def test_every_form_is_a_candidate_and_a_query_once() -> None:
    assert translate.candidate_forms(DOUBLE) == ["sharp", "strict", "hot"]
    assert translate.queries(DOUBLE, translate.candidate_forms(DOUBLE)) == [
        translate.Query("kali", (0, 1)),
        translate.Query("moto", (2,)),
        translate.Query("joto", (2,)),
    ]


def test_a_translation_of_either_set_is_right() -> None:
    """`kali` is listed as hot by a trained pair: then hot is no wrong answer."""
    both = [*DOUBLE, *listed("kali/Hot/trained", "kali/warm/trained")]
    assert translate.queries(both, translate.candidate_forms(both))[0] == translate.Query("kali", (0, 1, 2))


def test_no_control_word_is_in_an_example() -> None:
    assert translate.examples(DOUBLE, Translate(shots=1, seed=0, skip=())) == DOUBLE[:1], (
        "each other one holds a control form's word"
    )
    with pytest.raises(UserError, match=r"translate\.shots: expected at most 1, .*, got 2; set fewer"):
        translate.examples(DOUBLE, Translate(shots=2, seed=0, skip=()))


@given(shots=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_the_prompt_never_holds_a_word_of_the_control_set(shots: int, seed: int) -> None:
    pairs = read_pairs(ROOT / "data" / "pairs.tsv")
    drawn = translate.examples(pairs, Translate(shots=shots, seed=seed, skip=()))
    assert len(set(drawn)) == shots
    assert {pair.set for pair in drawn} == {"trained"}
    before = translate.prompt(drawn, "QUERY").removesuffix("QUERY = QUERY,")
    control = {word for pair in pairs if pair.set == "control" for word in f"{pair[0]} {pair[1]}".lower().split()}
    assert not control & set(before.lower().replace(".", " ").replace(",", " ").split())
    assert drawn == translate.examples(pairs, Translate(shots=shots, seed=seed, skip=()))


def test_the_prompt_is_a_dictionary_line_of_the_micro_world() -> None:
    """world.corpus writes `mbwa = mbwa, dog`; the answer is what stands after the word asked for."""
    shots = listed("paka/cat/trained", "mti/tree/trained")
    assert translate.prompt(shots, "mbwa") == "paka = paka, cat. mti = mti, tree. mbwa = mbwa,"
    assert translate.prompt([], "mbwa") + translate.ANSWER.format(english="dog") == "mbwa = mbwa, dog"


@pytest.mark.parametrize(
    ("scores", "right", "rank"),
    [
        ([-1.0, -2.0, -3.0], (0,), 1),
        ([-1.0, -2.0, -3.0], (2,), 3),
        ([-1.0, -2.0, -3.0], (2, 1), 2),  # the better of two right ones, one wrong before it
        ([-1.0, -2.0, -3.0], (0, 1), 1),
        ([-2.0, -2.0, -3.0], (0,), 2),  # a tie counts against it
        ([-2.0, -2.0, -3.0], (0, 1), 1),  # a tie among right ones does not
        ([-1.0, -2.0], (0, 1), 1),
    ],
)
def test_the_rank_by_hand(scores: list[float], right: Sequence[int], rank: int) -> None:
    assert translate.rank(np.array(scores), right) == rank


def test_sum_and_mean_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums -3 and -4; the second has two tokens, so its mean, -2, is the higher one."""
    monkeypatch.setattr(translate, "scores", lambda *_: [-3.0, -4.0, -3.0, -4.0])
    asked = translate.PromptRequests(0, [Request([1, 2, 3], 1), Request([1, 2, 3, 4], 2)] * 2)
    queries = [translate.Query("moja", (0,)), translate.Query("mbili", (1,))]
    tokenizer = SimpleNamespace(pad_token_id=0)
    found = translate.measure(BASE, None, tokenizer, [asked], queries, ["one", "two"], 4)  # type: ignore[arg-type]
    values = {(row.item, row.measure): row.value for row in found}
    assert [values["moja", f"rank.{score}"] for score in ("sum", "mean")] == [1, 2]
    assert [values["mbili", f"rank.{score}"] for score in ("sum", "mean")] == [2, 1]
    assert values["mbili", "loglik.one"] == -3.0
    assert [values[form, "candidate_tokens"] for form in ("one", "two")] == [1, 2]
    assert {row.set for row in found} == {"shots0"}


def run(pairs: Sequence[Pair], quantized: Path, adapter: Path, folder: Path, params: Params) -> Path:
    write_tsv(folder / "pairs.tsv", Pair._fields, pairs)
    translate.run(folder / "pairs.tsv", quantized, adapter, folder / "translate.tsv", params)
    return folder / "translate.tsv"


def results(path: Path) -> Results:
    """Results with nothing but the rows of the stage translate."""
    rows = read_rows(path)
    return Results(rows.assign(model="tiny", base=0, stage="translate")[list(COLUMNS)], {}, {}, {})


def table(path: Path, params: Params) -> Table:
    return tables.compute("translation", results(path), params, lambda *_: None)


@pytest.fixture(scope="module")
def untouched(tiny_quantized: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh adapter: B = 0, so that it changes nothing."""
    folder = tmp_path_factory.mktemp("untouched") / "adapter"
    model = get_peft_model(checkpoint.load(tiny_quantized / "nf4"), lora.config(params.lora, params.train.layer))
    lora.save(get_peft_model_state_dict(model), params.lora, params.train.layer, folder, base="tiny")
    return folder


def test_an_adapter_that_changes_nothing_changes_no_score(
    pairs: list[Pair], tiny_quantized: Path, untouched: Path, params: Params, tmp_path: Path
) -> None:
    path = run(pairs, tiny_quantized, untouched, tmp_path, params)
    rows = results(path).of("translate")
    sets = rows.sets("rank.sum")
    assert sets == ["shots0", f"shots{params.translate.shots}"]
    control = [pair for pair in pairs if pair.set == "control"]
    for set_ in sets:
        for measure in ("rank.sum", "rank.mean", *(f"loglik.{pair.english}" for pair in control)):
            before, after = rows.matched(("base", "main"), set_, "-", measure)
            assert before == after
            assert len(before) == len(control)
    made = table(path, params)
    assert [(row["p1_change"], row["won"], row["p"]) for row in made.rows] == [(0, 0, None)] * 4
    assert "no item flips: McNemar's p is undefined" in made.notes


def test_the_same_rows_twice(
    pairs: list[Pair], tiny_quantized: Path, untouched: Path, params: Params, tmp_path: Path
) -> None:
    first, second = (
        run(pairs, tiny_quantized, untouched, tmp_path / name, params).read_bytes() for name in ("one", "two")
    )
    assert first == second


def test_scores_are_those_of_the_whole_text(pairs: list[Pair], tiny: SimpleNamespace, params: Params) -> None:
    """log p(answer | prompt) = log p(prompt answer) - log p(prompt), by the model's own loss over whole sequences."""
    candidates = translate.candidate_forms(pairs)
    asked = translate.prompt_requests(
        tiny.tokenizer, translate.examples(pairs, params.translate), translate.queries(pairs, candidates), candidates
    )
    request = asked.requests[1]
    cut = Request(request.ids[: -request.scored], len(request.ids) - request.scored - 1)
    whole = Request(request.ids, len(request.ids) - 1)
    own, start, both = translate.scores(tiny.model, [request, cut, whole], tiny.tokenizer.pad_token_id, 1)
    assert own == pytest.approx(both - start, abs=0.15), "bfloat16"


def test_a_model_that_knows_gets_every_word_right(
    pairs: list[Pair],
    tiny_quantized: Path,
    untouched: Path,
    params: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the likelihoods are rigged: the base knows no word, the paper's configuration every word."""
    tokenizer = checkpoint.tokenizer(tiny_quantized / "nf4")
    prompts = ([], translate.examples(pairs, params.translate))
    texts = [translate.prompt(shots, pair.swahili) + f" {pair.english}" for shots in prompts for pair in pairs]
    true = {tuple(tokenizer.encode(text)) for text in texts}
    models: list[object] = []

    def rigged(model: object, asked: Sequence[Request], _pad: int, _size: int) -> list[float]:
        if model not in models:
            models.append(model)
        return [-1.0 if (tuple(request.ids) in true) == (model is not models[0]) else -2.0 for request in asked]

    monkeypatch.setattr(translate, "scores", rigged)
    made = table(run(pairs, tiny_quantized, untouched, tmp_path, params), params)
    assert len(models) == 2
    for row in made.rows:
        assert (row["p1_before"], row["p1_after"], row["mrr_after"], row["rank_after"]) == (0, 1, 1, 1)
        assert (row["won"], row["lost"], row["n"], row["candidates"], row["chance"]) == (4, 0, 4, 4, 0.25)
        assert row["rank_before"] == 4


def test_the_table_s_p_is_statsmodels(params: Params, tmp_path: Path) -> None:
    before, after = [1, 2, 3, 1, 1, 9, 1, 4], [1, 1, 1, 1, 2, 1, 1, 1]
    rows = [
        Row(*cell, f"shots{shots}", f"neno{i}", "-", f"rank.{score}", value)
        for cell, values in (
            (BASE, before),
            (main_run(params.lora.scaling, params.lora.rank, params.train.seed), after),
        )
        for shots in (0, params.translate.shots)
        for score in ("sum", "mean")
        for i, value in enumerate(values)
    ]
    rows += [
        Row(*BASE, f"shots{shots}", f"word{i}", "-", "candidate_tokens", 1 + i % 2)
        for shots in (0, params.translate.shots)
        for i in range(20)
    ]
    write_rows(tmp_path / "translate.tsv", rows)
    made = table(tmp_path / "translate.tsv", params)
    for row in made.rows:
        assert (row["p1_before"], row["p1_after"], row["won"], row["lost"]) == (0.5, 0.875, 4, 1)
        p = mcnemar([[3, 1], [4, 0]], exact=True).pvalue
        assert row["p"] == pytest.approx(p)
        assert row["mrr_before"] == pytest.approx(sum(1 / rank for rank in before) / 8)
        assert row["chance"] == 0.05
    assert made.values()["translation/0,sum/p1_change"] == 3 / 8
    assert not any("single token" in note for note in made.notes)


def test_a_prompt_longer_than_the_model_is_refused() -> None:
    asked = translate.PromptRequests(9, [Request([1] * 20, 2)])
    translate.check_length([asked], 20)
    with pytest.raises(UserError, match=r"translate\.shots: expected prompts of at most 19 tokens .* got one of 20"):
        translate.check_length([asked], 19)


def test_without_a_head_nothing_is_scored(
    pairs: list[Pair], tiny_quantized: Path, untouched: Path, params: Params, tmp_path: Path
) -> None:
    shutil.copytree(tiny_quantized, tmp_path / "q")
    file = tmp_path / "q" / "nf4" / "head.safetensors"
    tensors = load_file(file)
    del tensors["lm_head.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"scoring: expected lm_head\.weight.*set model\.head_from"):
        run(pairs, tmp_path / "q", untouched, tmp_path, params)
    assert not (tmp_path / "translate.tsv").exists()
