"""The profiles that fetch, by the real `dvc`, the real hub client and a hub on the loopback interface that is ours.

The hub serves small checkpoints of the real ones' form with random weights, the published one's defect included, and
made-up items in the layout of the real benchmarks: every stage runs, and no number means anything.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from test_pipeline import EXAMPLES
from test_released import choices, pair

import hub as loopback
from checkout import Checkout, clone
from tiny import ROOT
from tli.analysis.render import read_model
from tli.analysis.table import Cell, Table
from tli.data.words.lexicon import read_pairs
from tli.io.files import sha256_of
from tli.io.structured import read_json

PUBLISHED = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))["profiles"]
PAIRS = ROOT / "data" / "pairs.tsv"
ITEMS = 12  # of each task, language and split
HEADLESS = "Lugha-Llama/headless"
TOKEN = "_".join(("hf", "anaccesstokenthatopensall"))  # in pieces, since the files searched for it hold this one


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[loopback.Hub]:
    """The published repositories under their own names and revisions; COPA's test labels are kept back."""
    folder = tmp_path_factory.mktemp("hub")
    model, data = PUBLISHED["lugha_llama"]["model"], PUBLISHED["lugha_llama"]["benchmarks"]
    llama = loopback.write_llama(folder / "llama")
    with loopback.Hub() as served:
        served.add("model", model["repo"], llama, revision=model["revision"], token=TOKEN)
        served.add("model", HEADLESS, loopback.write_llama(folder / "headless", head=False))
        qwen = PUBLISHED["qwen3"]["model"]
        served.add("model", qwen["repo"], loopback.write_qwen(folder / "qwen3", "qwen3"), revision=qwen["revision"])
        splits = ("validation", "test")
        xcopa = {
            language: {split: [choices(language, n) for n in range(ITEMS)] for split in splits}
            for language in ("sw", "it")
        }
        xcopa["sw"]["test"][0]["question"] = "effect"  # as released, against English COPA
        kept_back = {"validation": {}, "test": {"label": -1}}
        copa = {split: [choices("en", n, **more) for n in range(ITEMS)] for split, more in kept_back.items()}
        xnli = {
            language: {split: [pair(language, n) for n in range(ITEMS)] for split in splits}
            for language in ("en", "sw")
        }
        served.add("dataset", data["xcopa"]["repo"], loopback.dataset(xcopa), revision=data["xcopa"]["revision"])
        served.add("dataset", data["xnli"]["repo"], loopback.dataset(xnli), revision=data["xnli"]["revision"])
        served.add("dataset", data["copa"]["repo"], loopback.dataset({"copa": copa}))
        yield served


def prepared(folder: Path, hub: loopback.Hub, model_name: str, **model: Any) -> Checkout:
    """A checkout under the smoke parameters and the published profile, its shape and languages those of the hub.

    Word pairs in the author's form, our own, come from a mirror: the real lists are not ours to keep.
    """
    checkout = clone(folder)
    yaml = YAML(pure=True)
    params = yaml.load((folder / "params.yaml").read_text(encoding="utf-8"))
    section: dict[str, Any] = dict(PUBLISHED[model_name])
    section["model"] = PUBLISHED[model_name]["model"] | model
    files = hub.repositories["model", section["model"]["repo"]].revisions
    config = YAML(typ="safe", pure=True).load(loopback.read(next(iter(files.values()))["config.json"]).decode())
    section["model"] |= {
        "blocks": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "vocab_size": config["vocab_size"],
        "intermediate_size": config["intermediate_size"],
        "heads": config["num_attention_heads"],
        "kv_heads": config["num_key_value_heads"],
        "tied_embeddings": config["tie_word_embeddings"],
        "head_dim": config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
    }
    data = dict(section["benchmarks"])
    if data["source"] == "hub":
        data["xcopa"] = data["xcopa"] | {"languages": ["sw", "it"]}
        data["xnli"] = data["xnli"] | {"languages": ["en", "sw"]}
        section["benchmarks"] = data | {"limit": {"items": 10, "seed": 0}}
    section["compute"] = {"threads": 1, "batch_size": 64, "device": "cpu", "dtype": "bfloat16", "weights": "packed"}
    params["models"], params["profiles"][model_name] = [model_name], section
    params["pairs"]["source"] = "author"
    for set_ in ("trained", "control"):
        listed = [{"swahili": p.swahili, "english": p.english} for p in read_pairs(PAIRS) if p.set == set_]
        file = folder.parent / Path(params["author"][set_]["path"]).name
        file.write_text(json.dumps(listed), encoding="utf-8")
        params["author"][set_]["sha256"] = sha256_of(file)
    params["sweep"]["ranks"] = [2]
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    checkout.env = {key: value for key, value in checkout.env.items() if not key.startswith("HF_")}
    checkout.env |= {
        key: value for key, value in hub.environment(folder.parent / "home").items() if key not in os.environ
    }
    checkout.env |= {"TLI_MIRROR": str(folder.parent), "HF_TOKEN": TOKEN}
    checkout("git", "commit", "-qam", f"model {model_name}")
    checkout("dvc", "pull", "-q", "data.dvc")
    return checkout


@pytest.fixture(scope="module")
def paper(hub: loopback.Hub, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """`dvc repro` under models=[lugha_llama], to the last table."""
    checkout = prepared(tmp_path_factory.mktemp("paper") / "project", hub, "lugha_llama")
    checkout("dvc", "repro")
    return checkout


def test_the_paper_profile_runs_to_the_last_table(paper: Checkout) -> None:
    tables = paper.root / "paper" / "tables"
    text = {path.stem: path.read_text(encoding="utf-8") for path in tables.glob("*.md")}
    assert text["claims"].count("needs models=[lugha_llama]") == 0
    assert "Lugha-Llama-8B-wura" in text["setup"]
    assert re.search(r"^\| lugha_llama \| xcopa-corrected\.sw \|.*corrected", text["accuracy_by_rank"], re.M)
    assert "not XCOPA and XNLI scores" not in text["accuracy_by_rank"]
    sets = {row["set"] for row in written(paper)["accuracy_by_rank"].rows}
    assert sets >= {"xcopa.en", "xcopa.sw", "xcopa.it"}
    base = read_json(paper.root / "results" / "lugha_llama" / "base.json")
    assert base["head"] == "own"
    assert base["missing_from_index"] == ["lm_head.weight"]


def test_the_run_is_judged_by_the_published_values(paper: Checkout, tmp_path: Path) -> None:
    """A smaller model is not the published one, and says so; taken for it, its random weights differ."""
    said = paper("python", "-m", "tli", "verify", "--strict")
    assert "model.blocks is 4, published for 32" in said
    reported = (paper.root / "paper" / "reported.yaml").read_text(encoding="utf-8")
    (tmp_path / "reported.yaml").write_text(reported.replace("blocks: {paper: 32", "blocks: {paper: 4"), "utf-8")
    said = paper("python", "-m", "tli", "verify", "--reported", str(tmp_path / "reported.yaml"), ok=False)
    assert re.search(r"^before_after/run,2\.content\.fp4,trained/before .* differs", said, re.M)
    assert "Traceback" not in said


def test_what_was_fetched_is_noted_and_not_fetched_again(paper: Checkout, hub: loopback.Hub) -> None:
    noted = (paper.root / "fetched.sha256").read_text(encoding="utf-8")
    model = PUBLISHED["lugha_llama"]["model"]
    assert f"models/{model['repo']}@{model['revision']}/model-00003-of-00003.safetensors" in noted
    assert re.search(r"^[0-9a-f]{40}  datasets/aps/super_glue$", noted, re.M)
    asked = len(hub.requests())
    assert paper.ran(paper("dvc", "repro")) == set()
    paper.env["HF_HUB_OFFLINE"] = "1"
    paper("dvc", "repro", "--force", "--single-item", "base")
    paper("dvc", "repro", "--force", "--single-item", "benchmarks")
    assert len(hub.requests()) == asked
    assert (paper.root / "fetched.sha256").read_text(encoding="utf-8") == noted


def written(checkout: Checkout) -> Mapping[str, Table]:
    """The tables of the checkout's model."""
    return read_model(checkout.root / "results" / checkout.model / "tables.json").tables


def values(checkout: Checkout) -> dict[str, Cell]:
    """Key -> value of every cell of these tables."""
    return {key: value for table in written(checkout).values() for key, value in table.values().items()}


UNFORESEEN = "from tli.data.hub import server; server._explain = None; from tli.cli import main; main()"


def test_a_token_is_written_nowhere(
    paper: Checkout, hub: loopback.Hub, tmp_path: Path, figures: Callable[[str, int], None]
) -> None:
    """A token is in no file, log or receipt of a run that fetched by it, in no error, and in no traceback."""
    assert {served.authorization for served in hub.requests("HEAD .*Lugha")} == {f"Bearer {TOKEN}"}
    files = [path for path in paper.root.parent.rglob("*") if path.is_file()]
    assert [path for path in files if TOKEN.encode() in path.read_bytes() or TOKEN in str(path)] == []
    assert any(path.name.endswith(".receipt.json") for path in files)
    fails = Checkout(paper.root)
    fails.env = paper.env | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    outs = ("--out", str(tmp_path / "base"), "--metrics", str(tmp_path / "base.json"))
    base = ("base", "build/lugha_llama/microworld", *outs)
    for program, said in ((("-m", "tli"), "HTTP 403 Forbidden; set HF_TOKEN"), (("-c", UNFORESEEN), "Traceback")):
        hub.fail("HEAD .*Lugha", loopback.Fault(status=403))
        output = fails("python", *program, *base, ok=False)
        assert said in output
        assert TOKEN not in output
    assert [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()] == []
    figures("files without the token", len(files))


def test_without_a_head_all_but_transfer_runs_and_a_sibling_lends_one(
    paper: Checkout, hub: loopback.Hub, tmp_path: Path
) -> None:
    shutil.copytree(paper.root, tmp_path / "project", symlinks=True)
    copy = Checkout(tmp_path / "project")
    copy.env = paper.env | {"PYTHONPATH": str(copy.root / "src"), "HF_HUB_OFFLINE": "0"}
    sibling = PUBLISHED["lugha_llama"]["model"]
    whole = f"repo: {sibling['repo']}\n      revision: {sibling['revision']}"
    copy.edit(whole, f"repo: {HEADLESS}\n      revision: first")
    copy("dvc", "repro", "scan", "similarity")
    assert read_json(copy.root / "results" / "lugha_llama" / "base.json")["head"] == "absent"
    said = copy("dvc", "repro", "score", ok=False)
    (line,) = [line for line in said.splitlines() if "lm_head.weight" in line]
    assert "model.head_from" in line
    assert "Traceback" not in said
    copy.edit("head_from:\n", f"head_from: {{repo: {sibling['repo']}, revision: {sibling['revision']}}}\n")
    copy("dvc", "repro", "score")
    base = read_json(copy.root / "results" / "lugha_llama" / "base.json")
    assert base["head"].startswith("from models/Lugha-Llama/")


def test_qwen3_runs_to_the_last_table(hub: loopback.Hub, tmp_path: Path) -> None:
    """Another architecture: tied head, heads of their own width, no BOS."""
    checkout = prepared(tmp_path / "project", hub, "qwen3")
    checkout("dvc", "repro")
    setup = (checkout.root / "paper" / "tables" / "setup.md").read_text(encoding="utf-8")
    assert "Qwen3ForCausalLM" in setup
    assert "tied to the embeddings" in setup
    assert read_json(checkout.root / "results" / "qwen3" / "base.json")["head"] == "tied"
    qwen = PUBLISHED["qwen3"]["model"]
    noted = (checkout.root / "fetched.sha256").read_text(encoding="utf-8")
    assert f"models/{qwen['repo']}@{qwen['revision']}/model.safetensors" in noted


@pytest.fixture(scope="module")
def headline(hub: loopback.Hub, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """`dvc repro` under models=[lugha_llama_early], to the last table: two of four blocks, fetched by range."""
    checkout = prepared(tmp_path_factory.mktemp("headline") / "project", hub, "lugha_llama_early")
    checkout("dvc", "repro")
    return checkout


def test_lugha_llama_early_fetches_a_part_and_runs_to_the_last_table(headline: Checkout, hub: loopback.Hub) -> None:
    tables = headline.root / "paper" / "tables"
    text = {path.stem: path.read_text(encoding="utf-8") for path in tables.glob("*.md")}
    left_out = "left out: this run has the first 2 of 4 blocks, so that layers 3 to 4 and norm, the views `as_descr"
    for name in ("setup", "scan", "before_after", "gains", "retrieval", "controls"):
        assert left_out in text[name], name
    start = r"^\| lugha_llama_early \| "
    assert re.search(start + r"run \| 2\.content\.fp4 \| as_scripted \| trained \|", text["before_after"], re.M)
    layers = text["before_after"] + text["scan"] + text["norms"]
    assert not re.search(start + r"(run \| )?(3|4|norm)\.", layers, re.M)
    assert not {"accuracy_by_rank", "changes", "gap", "calibration", "classes", "baselines", "items"} & text.keys()
    base = read_json(headline.root / "results" / "lugha_llama_early" / "base.json")
    assert base["blocks_fetched"] == "the first 2 of 4"
    assert {str(row["view"]).split(".")[0] for row in written(headline)["scan"].rows} == {"0", "1", "2"}


def test_a_part_gives_the_values_of_the_whole(headline: Checkout, paper: Checkout) -> None:
    """Same weights, words and seeds: what both profiles measure is the same to the last digit."""
    parts, whole = (values(checkout) for checkout in (headline, paper))
    tables = ("before_after/", "retrieval/", "scan/", "geometry/", "gains/")
    same = [key for key in parts if key.startswith(tables) and not key.endswith("/name")]
    assert len(same) > 100
    assert {key: parts[key] for key in same} == {key: whole[key] for key in same}


def test_claims_that_a_part_can_judge_are_judged(headline: Checkout) -> None:
    claims = read_json(headline.root / "results" / "lugha_llama_early" / "verify.json")["study_claims"]
    verdict = {claim["id"]: (claim["verdict"], claim["reason"]) for claim in claims}
    assert [verdict[number][0] for number in (1, 2)] == ["does not hold"] * 2, "of random weights"
    for number in (3, 4, 5, 6, 7, 16):
        assert verdict[number][0] == "needs models=[lugha_llama]"
        assert "This run has the first 2 of 4 blocks." in verdict[number][1]
    assert "Read at 2.content.fp4 it does not hold." in verdict[6][1]


def test_other_words_fetch_their_rows_and_leave_the_blocks_alone(
    headline: Checkout, hub: loopback.Hub, tmp_path: Path
) -> None:
    shutil.copytree(headline.root, tmp_path / "project", symlinks=True)
    copy, mirror = Checkout(tmp_path / "project"), Path(headline.env["TLI_MIRROR"])
    copy.env = headline.env | {"PYTHONPATH": str(copy.root / "src"), "TLI_MIRROR": str(tmp_path)}
    for listed in mirror.glob("*.json"):
        few = json.loads(listed.read_text(encoding="utf-8"))[:12]
        (tmp_path / listed.name).write_text(json.dumps(few), encoding="utf-8")
        copy.edit(sha256_of(listed), sha256_of(tmp_path / listed.name))
    asked, before = len(hub.requests()), read_json(copy.root / "results" / "lugha_llama_early" / "base.json")
    assert copy.ran(copy("dvc", "repro", "base")) == {"check", "words", "base"}
    after = read_json(copy.root / "results" / "lugha_llama_early" / "base.json")
    assert after["embedding_rows"] != before["embedding_rows"]
    assert [one["sha256"] for one in after["parts"][1:]] == [one["sha256"] for one in before["parts"][1:]]
    sent = [one.sent for one in hub.requests()[asked:] if one.sent]
    assert sent == [after["parts"][0]["bytes_asked_for"]], "one range of embeddings"
    noted = (copy.root / "fetched.sha256").read_text(encoding="utf-8")
    rows = re.findall(r"#model\.embed_tokens\.weight\[\d+ rows, \w{16}\]", noted)
    assert len(rows) == len(set(rows)) == 2


def test_another_language_is_one_key(hub: loopback.Hub, tmp_path: Path) -> None:
    """The example of docs/change-it.md as it stands there: its stages run, and Italian items join the Swahili ones."""
    checkout = prepared(tmp_path / "project", hub, "qwen3")
    yaml = YAML(pure=True)
    path = checkout.root / "params.yaml"
    params = yaml.load(path.read_text(encoding="utf-8"))
    params["profiles"]["qwen3"]["benchmarks"]["xcopa"]["languages"] = ["sw"]
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    checkout("git", "commit", "-qam", "one language")
    commands, expected = EXAMPLES["A language"]
    assert checkout.ran(checkout("bash", "-e", "-c", commands)) - {"check"} == expected
    counts = read_json(checkout.root / "results" / "qwen3" / "benchmarks.json")
    assert {"sw", "it"} <= {key.split(".")[1] for key in counts if key.startswith("xcopa.")}
