"""An adapter for others: its card says what made it, its code runs, the harness loads it, the export is whole."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import PeftModel, get_peft_model_state_dict
from ruamel.yaml import YAML
from safetensors.torch import load_file

import harness
from synthetic import fabricate
from tiny import ROOT, changed_files
from tli.analysis import render
from tli.analysis.render import read_model
from tli.cli import main
from tli.commands import export_adapter
from tli.config import parameters
from tli.config.parameters import Params
from tli.data.benchmarks.prompts import Item
from tli.data.words.lexicon import Pair
from tli.io.files import MANIFEST, sha256_of, write_text
from tli.io.structured import read_json, write_json, write_tsv
from tli.measure import scoring
from tli.model import card, checkpoint, lora
from tli.stages import tables

SMOKE = ROOT / "tests" / "smoke" / "params.yaml"


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair]) -> Path:
    path = tmp_path_factory.mktemp("list") / "pairs.tsv"
    write_tsv(path, Pair._fields, pairs)
    return path


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_quantized: Path, listed: Path, params: Params) -> Path:
    """An adapter with a B that is not zero, saved as the stage `train` saves it; read only."""
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    model = lora.attach(checkpoint.load(tiny_quantized / "nf4"), params.lora, params.adapted_blocks, seed=0)
    generator = torch.Generator().manual_seed(1)
    state = {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in get_peft_model_state_dict(model).items()
    }
    text = card.page(params, 0, listed, tiny_quantized)
    base = (tiny_quantized / "nf4").as_posix()
    lora.save(state, params.lora, params.adapted_blocks, folder, base, text)
    return folder


def block(text: str, language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    return str(found)


ITEM = Item("a", "xcopa", "en", "test", 0, "the dog is here because", (" a cat.", " the sun is bread."))


def test_the_card_s_code_loads_the_adapter(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there, in the folder it stands in: peft's own classes, the adapter's own tensors."""
    monkeypatch.chdir(adapter)
    names: dict[str, Any] = {}
    exec(block((adapter / lora.CARD).read_text(encoding="utf-8"), "python"), names)
    model = names["model"]
    assert isinstance(model, PeftModel)
    saved = load_file(adapter / lora.WEIGHTS)
    loaded = get_peft_model_state_dict(model)
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name].cpu().to(saved[name].dtype)) for name in saved)


# The harness reads a packed checkpoint's quantisation and hands it back to transformers, which has it already.
@pytest.mark.filterwarnings("ignore:You passed `quantization_config` or equivalent:UserWarning")
def test_the_harness_loads_it_by_its_peft_argument(
    adapter: Path, tiny_quantized: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lm_eval --model_args pretrained=…,peft=.`, as on the card: the scores are ours, and not the base's."""
    monkeypatch.chdir(adapter)
    call = block((adapter / lora.CARD).read_text(encoding="utf-8"), "sh")
    (given,) = re.findall(r"--model_args (\S+)", call)
    arguments = dict(part.split("=", 1) for part in given.split(","))
    assert arguments == {"pretrained": (tiny_quantized / "nf4").as_posix(), "peft": "."}
    theirs = HFLM(**arguments, device="cpu", batch_size=2)
    harness.in_float32(theirs.model)
    instances = [
        Instance(request_type="loglikelihood", doc={}, arguments=(ITEM.context, option), idx=number)
        for number, option in enumerate(ITEM.options)
    ]
    found = [likelihood for likelihood, _ in theirs.loglikelihood(instances, disable_tqdm=True)]
    tokenizer, base = checkpoint.tokenizer(tiny_quantized / "nf4"), checkpoint.load(tiny_quantized / "nf4")
    asked = scoring.plan(scoring.requests(tokenizer, ITEM), tokenizer.pad_token_id, 2)
    alone = scoring.log_likelihoods(harness.in_float32(base), asked)
    ours = scoring.log_likelihoods(harness.in_float32(lora.load(base, adapter)), asked)
    assert found == pytest.approx(ours, abs=5e-4)
    assert found != pytest.approx(alone, abs=0.05)


def front(text: str) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(text.split("---\n")[1])
    return found


def test_the_card_says_what_made_the_adapter(adapter: Path, listed: Path, params: Params, tiny_quantized: Path) -> None:
    text = (adapter / lora.CARD).read_text(encoding="utf-8")
    assert front(text)["library_name"] == "peft"
    assert "base_model" not in front(text), "the base is on no hub"
    assert sha256_of(listed) in text
    assert sha256_of(tiny_quantized / MANIFEST) in text
    assert "12 Swahili–English word pairs" in text
    assert "rank 16, B A times 32 / rank, dropout 0.05, on q_proj, v_proj of blocks 1 to 2 of 4" in text
    count = sum(tensor.numel() for tensor in load_file(adapter / lora.WEIGHTS).values())
    assert f"| parameters | {count:,} |" in text
    assert "CC BY 4.0" in text
    assert card.page(params, 0, listed, tiny_quantized) == text, "the same inputs, the same bytes"
    other = params.model_copy(update={"train": params.train.model_copy(update={"pairs": "shuffled"})})
    assert "pairs, the translations permuted;" in card.page(other, 3, listed, tiny_quantized)
    assert "seed 3 |" in card.page(other, 3, listed, tiny_quantized)


@pytest.mark.parametrize("name", ["lugha_llama", "qwen3"])
def test_of_a_published_model_the_card_names_repository_and_revision(
    name: str, listed: Path, tiny_quantized: Path
) -> None:
    published = parameters.load(ROOT / "params.yaml", model=name)
    model = published.active.model
    assert isinstance(model, parameters.HubModel)
    text = card.page(published, 0, listed, tiny_quantized)
    assert front(text)["base_model"] == model.repo
    assert front(text)["license"] == "other"
    assert f'from_pretrained("{model.repo}", revision="{model.revision}"' in text
    assert ("noted in fetched.sha256" in text) == (model.revision == "first")
    compile(block(text, "python"), name, "exec")


def test_the_author_s_adapter_has_no_licence_and_no_training(listed: Path, tiny_quantized: Path) -> None:
    text = card.page(parameters.load(ROOT / "params.yaml", model="microworld"), None, listed, tiny_quantized)
    assert "git blob 818bde7a" in text
    assert "not passed on" in text
    assert "training data" not in text
    assert "of blocks 1 to 8 of 8" in text


# The export.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Path:
    """A project's folder after a run: synthetic tables, the paper's adapter and one of the sweep."""
    smoke, folder = parameters.load(SMOKE), tmp_path_factory.mktemp("run")
    root = folder / "project"
    arguments = fabricate(folder / "rows", smoke, pairs=(8, 4), items=20)
    tables.run(**arguments | {"out": root / "results" / "microworld" / "tables.json"})
    build, pairs = root / "build" / "microworld", arguments["build"] / "pairs.tsv"
    build.mkdir(parents=True)
    (build / "pairs.tsv").write_bytes(pairs.read_bytes())
    (root / "params.yaml").write_bytes(SMOKE.read_bytes())
    quantized = Path(read_json(adapter / lora.SETTINGS)["base_model_name_or_path"]).parent
    for folder, rank, seed in ((build / "adapter", 16, 0), (build / "sweep" / "adapters" / "r4" / "s1", 4, 1)):
        own_lora = smoke.lora.model_copy(update={"rank": rank})
        text = card.page(smoke.model_copy(update={"lora": own_lora}), seed, pairs, quantized)
        lora.save(load_file(adapter / lora.WEIGHTS), own_lora, 2, folder, "build/microworld/quantized/nf4", text)
    return root


@pytest.fixture
def finished(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, to be changed at will, and the folder to be in."""
    shutil.copytree(run, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def test_an_export_is_whole_and_holds_the_results_of_its_rank(finished: Path) -> None:
    done = CliRunner().invoke(main, ["export", "--rank", "4", "--seed", "1"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "nothing was uploaded" in done.output
    out = finished / "build" / "microworld" / "export" / "r4-s1"
    assert {file.name for file in out.iterdir()} == {lora.WEIGHTS, lora.SETTINGS, lora.CARD, MANIFEST}
    assert not changed_files(out)
    source = finished / "build" / "microworld" / "sweep" / "adapters" / "r4" / "s1"
    assert (out / lora.WEIGHTS).read_bytes() == (source / lora.WEIGHTS).read_bytes()
    text = (out / lora.CARD).read_text(encoding="utf-8")
    results = text.partition("## Results\n")[2].partition("\n## ")[0]
    written = read_model(finished / "results" / "microworld" / "tables.json")
    markdown = render.to_md(written.tables["accuracy_by_rank"])
    wanted = [line for line in markdown.splitlines() if re.search(r"\| (base|sweep) \| (0|4) \|", line)]
    assert len(wanted) == 8
    assert set(wanted) <= set(results.splitlines())
    assert not re.search(r"\| sweep \| 2 \|", results)
    assert text.replace(results, "") == (source / lora.CARD).read_text(encoding="utf-8").replace(
        f"\n{card.LATER.format(model='microworld')}\n", ""
    ), "the rest of the card is the adapter's own"
    first = {file.name: file.read_bytes() for file in out.iterdir()}
    CliRunner().invoke(main, ["export", "--rank", "4", "--seed", "1"], catch_exceptions=False)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == first


def test_without_a_rank_it_is_the_paper_s_configuration(finished: Path) -> None:
    done = CliRunner().invoke(main, ["export", "--out", "ready"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert read_json(finished / "ready" / lora.SETTINGS)["r"] == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adapter", "--format", "csv"], "expected no --format, got one"),
        (["--rank", "3"], "--rank: expected one of the sweep's, 2, 4, got 3; add it to sweep.ranks and run"),
        (["--rank", "4", "--seed", "9"], "--seed: expected one of the sweep's, 0, 1, got 9"),
        (["--rank", "2"], "build/microworld/sweep/adapters/r2/s0/adapter_model.safetensors: no such file"),
    ],
)
def test_what_is_not_there_is_one_line(finished: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["export", *arguments])
    assert done.exit_code == 2
    assert message in done.output
    assert not (finished / "build" / "microworld" / "export").exists()


def test_another_word_list_than_the_tables_is_refused(finished: Path) -> None:
    with (finished / "build" / "microworld" / "pairs.tsv").open("a", encoding="utf-8") as file:
        file.write("moja\tone\tnumeral\tany\ttrained\n")
    done = CliRunner().invoke(main, ["export"])
    assert done.exit_code == 2
    assert "got another list" in done.output


def test_the_author_s_adapter_is_not_exported(finished: Path) -> None:
    done = CliRunner().invoke(main, ["--set", "adapter.source=author", "export"])
    assert done.exit_code == 2
    assert "has no licence that allows copies" in done.output


def test_on_a_hub_s_model_the_export_names_repository_and_revision(finished: Path) -> None:
    """`first` becomes the revision that was pinned."""
    published = parameters.load(ROOT / "params.yaml", model="qwen3")
    build, revision = finished / "build" / "microworld", "7" * 40
    quantized = Path("build/qwen3/quantized")
    (finished / quantized).mkdir(parents=True)
    (finished / quantized / MANIFEST).write_text("")
    write_text(build / "adapter" / lora.CARD, card.page(published, 0, build / "pairs.tsv", quantized))
    write_json(finished / "results" / "qwen3" / "base.json", {"revision": revision})
    results = finished / "results"
    shutil.copyfile(results / "microworld" / "tables.json", results / "qwen3" / "tables.json")
    export_adapter.run(None, None, build, results / "qwen3", finished / "ready", published)
    settings = read_json(finished / "ready" / lora.SETTINGS)
    assert settings["base_model_name_or_path"] == "Qwen/Qwen3-0.6B-Base"
    assert settings["revision"] == revision
    text = (finished / "ready" / lora.CARD).read_text(encoding="utf-8")
    assert "first" not in text.partition("## Load it")[2].partition("## Results")[0]
    assert text.count(revision) == 4
