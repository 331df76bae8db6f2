"""Whatever is wrong with what the commands are given: one line, exit status 2, nothing overwritten, nothing run.

Each case spoils one thing of a small checkout in which every command would go through, and names the command that is
to refuse it. Tests of the single modules ask for the exact words; here it is every command's own boundary that counts.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from test_hub import LIES
from test_transfer import ITEMS

from synthetic import fabricate
from tiny import ROOT, WORDS
from tli.cli import main
from tli.config import parameters
from tli.data.benchmarks.items import write_items
from tli.data.words.lexicon import Pair
from tli.io.files import sha256_of
from tli.io.structured import write_tsv
from tli.stages import tables, train

COMMANDS = {
    "check": "check --out out/checked",
    "words": "words data/pairs.tsv --out out/pairs.tsv --audit out/pairs.json",
    "author": "--set pairs.source=author words data/pairs.tsv --out out/pairs.tsv --audit out/pairs.json",
    "microworld": "microworld data/pairs.tsv data/world --out out/microworld --metrics out/microworld.json",
    "base": "base microworld --out out/base --metrics out/base.json",
    "quantize": "quantize base --out out/quantized --rows out/quantize.tsv",
    "benchmarks": "benchmarks microworld --out out/benchmarks --metrics out/benchmarks.json",
    "scan": "scan data/pairs.tsv quantized --out out/scan.tsv",
    "train": "train data/pairs.tsv quantized --out out/adapter --rows out/train.tsv --log out/log",
    "similarity": "similarity data/pairs.tsv quantized adapter --out out/similarity.tsv",
    "score": "score items.jsonl quantized adapter --out out/score.tsv",
    "tsne": "tsne data/pairs.tsv quantized adapter --out out/tsne.tsv",
    "sweep": "sweep-score data/pairs.tsv items.jsonl quantized adapters --rank 16 --out out/rows",
    "verify": "verify --tables tables.json --out out/verify.json",
    "audit": "audit --results results.csv",
    "pilot": "audit --pilot pilot.csv",
    "list": "audit --pairs list.json",
    "export": "export-results main --rows rows.tsv --metrics benchmarks.json --out out/export.json",
    "plan": "plan --pairs data/pairs.tsv",
}
MODEL = parameters.load(ROOT / "tests" / "smoke" / "params.yaml").model
REMOVED = "REMOVED"


class Case(NamedTuple):
    """A command, what is spoilt before it runs, and what its line says."""

    command: str
    spoil: Callable[[], object]
    said: str


def write(path: str, content: str | bytes) -> Callable[[], object]:
    data = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    return lambda: Path(path).write_bytes(data)


def edit(path: str, old: str, new: str) -> Callable[[], object]:
    def change() -> None:
        text = Path(path).read_text(encoding="utf-8")
        assert old in text, f"{old!r} is no longer in {path}"
        Path(path).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def remove(path: str) -> Callable[[], object]:
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def folder(path: str) -> Callable[[], object]:
    return lambda: (remove(path)() if Path(path).exists() else None, Path(path).mkdir())


def link(path: str, target: str) -> Callable[[], object]:
    """A symbolic link in place of a file, out of the checkout or to nowhere."""
    return lambda: (Path(path).unlink(), Path(path).symlink_to(target))


def keys(path: str, **changes: Any) -> Callable[[], object]:
    """Sets keys of a JSON object in a file, or takes them out where the value is REMOVED."""

    def change() -> None:
        value = json.loads(Path(path).read_text(encoding="utf-8")) | changes
        Path(path).write_text(json.dumps({k: v for k, v in value.items() if v != REMOVED}), encoding="utf-8")

    return change


def tensors(path: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[], object]:
    def spoil() -> None:
        found = load_file(path)
        change(found)
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, path, metadata={"format": "pt"})

    return spoil


def line(number: int, **changes: Any) -> Callable[[], object]:
    """Changes keys of one line of items.jsonl."""

    def change() -> None:
        lines = Path("items.jsonl").read_text(encoding="utf-8").splitlines()
        value = json.loads(lines[number]) | changes
        lines[number] = json.dumps({k: v for k, v in value.items() if v != REMOVED})
        Path("items.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return change


def both(*spoils: Callable[[], object]) -> Callable[[], object]:
    return lambda: [spoil() for spoil in spoils]


class Bomb:
    """Unpickled, it leaves a file: what runs when a pickle is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


PICKLE = pickle.dumps(Bomb())
WEIGHTS, SETTINGS = "adapter/adapter_model.safetensors", "adapter/adapter_config.json"
CONFIG, BLOCK = "quantized/nf4/config.json", "quantized/nf4/block-001.safetensors"
WORD = "mbwa\tdog\tnoun\tany\ttrained"
HEADER = "run\tvariant\trank\tseed\tset\titem\tview\tmeasure\tvalue\n"
ROW = "main\t2r\t16\t0\txcopa.en\tc1\t-\tcorrect\t{}\n"
RESULTS = "swahili,english,sim_pre_tli,sim_post_tli,group,improvement\n"


def set_(change: str) -> Callable[[], object]:
    """Marks a case whose mistake is a --set before the command."""
    return lambda: Path("set").write_text(change, encoding="utf-8")


def packaged(file: str) -> Callable[[], object]:
    """Adds the default run's packaged model to the profiles of params.yaml, out of `file`."""

    def change() -> None:
        (section,) = re.findall(
            r"^  smollm2:.*\n((?:    .*\n)+)", (ROOT / "params.yaml").read_text(encoding="utf-8"), re.M
        )
        with Path("params.yaml").open("a", encoding="utf-8") as opened:
            opened.write("  smollm2:\n" + re.sub(r"(?m)^(      file: ).*$", rf"\g<1>{file}", section))

    return change


PACKAGED = "--model smollm2 base world --out out/base --metrics out/base.json"


def params(old: str, new: str, said: str) -> Case:
    return Case("check", edit("params.yaml", old, new), f"params.yaml.*{said}")


CASES: dict[str, Case] = {
    # params.yaml
    "params: missing": Case("check", remove("params.yaml"), "params.yaml: no such file"),
    "params: a folder": Case("check", folder("params.yaml"), "params.yaml: expected a readable file"),
    "params: empty": Case("check", write("params.yaml", ""), "the whole file"),
    "params: a list": Case("check", write("params.yaml", "- a"), "the whole file"),
    "params: bytes": Case("check", write("params.yaml", b"a: \xff"), "byte 3 is not UTF-8"),
    "params: UTF-16": Case("check", write("params.yaml", "profile: x".encode("utf-16")), "byte 0 is not UTF-8"),
    "params: NUL": Case("check", write("params.yaml", "a: \0"), "not valid YAML"),
    "params: a tab": Case("check", write("params.yaml", "a:\n\tb: 1"), "not valid YAML"),
    "params: an open bracket": Case("check", write("params.yaml", "a: [1"), "not valid YAML"),
    "params: brackets in brackets": Case("check", write("params.yaml", "[" * 20_000), "not valid YAML"),
    "params: two documents": Case("check", write("params.yaml", "a: 1\n---\nb: 1"), "not valid YAML"),
    "params: a pickle": Case("check", write("params.yaml", PICKLE), "not UTF-8"),
    "params: a Python object": Case(
        "check", write("params.yaml", "a: !!python/object/apply:os.mkdir [executed]"), "not valid YAML"
    ),
    "params: aliases upon aliases": Case(
        "check",
        write(
            "params.yaml",
            "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)),
        ),
        "models: expected a list of one model or more, got None",
    ),
    "params: a number of 5,000 digits": params("rank: 16", f"rank: {'9' * 5000}", "not valid YAML"),
    "params: a tag that does not fit": params("rank: 16", "rank: !!int six", "not valid YAML"),
    "params: a huge number": params("rank: 16", f"rank: {'9' * 300}", "lora.rank: expected at most"),
    "params: a huge text": params("scaling: 2r", f"scaling: {'x' * 100_000}", "lora.scaling: expected '2r'"),
    "params: a text for a number": params("rank: 16", "rank: '16'", "lora.rank: expected a valid integer"),
    "params: a fraction": params("rank: 16", "rank: 1.5", "lora.rank: expected a valid integer"),
    "params: nothing": params("rank: 16", "rank:", "lora.rank: expected a valid integer, got None"),
    "params: a negative number": params("rank: 16", "rank: -1", "lora.rank: expected greater than or equal to 1"),
    "params: a list for a number": params("rank: 16", "rank: [16]", "lora.rank: expected a valid integer"),
    "params: a date": params("rank: 16", "rank: 2026-11-26", "lora.rank: expected a valid integer"),
    "params: infinite": params("margin: 0.4", "margin: .inf", "train.margin: expected a finite number"),
    "params: not a number": params("dropout: 0.05", "dropout: .nan", "lora.dropout: expected"),
    "params: per cent for a share": params("dropout: 0.05", "dropout: 5", "lora.dropout: expected less than 1"),
    "params: a unit": params("lr: 2.0e-4", "lr: 2.0e-4 per step", "train.lr: expected a valid number"),
    "params: a comma in a number": params("margin: 0.4", "margin: 0,4", "train.margin: expected a valid number"),
    "params: misspelt": params("epochs: 1", "epoch: 1", "train.(epochs: missing|epoch: unknown key)"),
    "params: a key twice": params("epochs: 1", "epochs: 1\n  epochs: 2", "duplicate key"),
    "params: a key that is a number": params("epochs: 1", "epochs: 1\n  7: 1", "train"),
    "params: no target": params("targets: [q_proj, v_proj]", "targets: []", "lora.targets: expected"),
    "params: a target that is none": params("targets: [q_proj, v_proj]", "targets: [w_proj]", "lora.targets"),
    "params: a rank twice": params(
        "ranks: [2, 4]\n  seeds", "ranks: [2, 2]\n  seeds", "sweep.ranks: expected each value once"
    ),
    "params: a seed past 32 bits": params("seeds: [0, 1]\nstudy", "seeds: [4294967296]\nstudy", "sweep.seeds"),
    "params: an unknown base of the study": params(
        "study: []", "study: [s9-2r]", "study: expected keys .* base one of"
    ),
    "params: an unknown variant of the study": params("study: []", "study: [s1-3r]", "study: expected keys .* variant"),
    "params: a key of the study twice": params("study: []", "study: [s1-2r, s1-2r]", "study: expected each value once"),
    "params: a layer past the model": params(
        "layer: 2\n  pooling", "layer: 9\n  pooling", "train.layer: expected 1 to 4"
    ),
    "params: widths that do not divide": params("heads: 4", "heads: 3", "expected heads a multiple of kv_heads"),
    "params: no model": params("models: [microworld]", "models: []", "models: expected a list of one model or more"),
    "params: no models": params("models: [microworld]\n", "", "models: expected a list of one model.*, got None"),
    "params: a model twice": params("[microworld]", "[microworld, microworld]", "models: expected each value once"),
    "params: a profile chosen as before": params("models:", "profile: microworld\nmodels:", "profile: unknown key"),
    "params: models that are no list": params("models: [microworld]", "models: microworld", "models: expected a list"),
    "params: an unknown model": params("[microworld]", "[../microworld]", "models: expected names of models"),
    "params: an address without TLS": params("https://", "http://", "author.url: expected"),
    "params: a hash too short": params("sha256: f396", "sha256: f39", "author.trained.sha256: expected"),
    "params: shares beyond 1": params("dictionary: 0.06", "dictionary: 0.6", "shares that sum to 1"),
    "params: no GPU": Case("train", edit("params.yaml", "device: cpu", "device: cuda"), "compute.device.*CUDA"),
    # --set, and the rest of the command line
    "set: no value": Case("check", set_("lora.rank="), "--set: expected KEY=VALUE"),
    "set: no key": Case("check", set_("=1"), "--set: expected KEY=VALUE"),
    "set: an unknown key": Case("check", set_("lora.rnak=8"), "lora.rnak: unknown key"),
    "set: a key of a value": Case("check", set_("lora.rank.r=8"), "lora.rank.r: unknown key"),
    "set: brackets in brackets": Case("check", set_(f"lora.rank={'[' * 9000}"), "--set: expected KEY=VALUE"),
    "set: 5,000 digits": Case("check", set_(f"lora.rank={'9' * 5000}"), "--set: expected KEY=VALUE"),
    "set: a section": Case("check", set_("lora=8"), "lora: expected"),
    "command: none of that name": Case("chek", lambda: None, "no such command 'chek'"),
    "command: no argument": Case("similarity data/pairs.tsv", lambda: None, "missing argument 'QUANTIZED'"),
    "command: an argument too many": Case("check --out out/checked now", lambda: None, "unexpected extra argument"),
    "command: an unknown option": Case("check --ouput out/checked", lambda: None, "no such option '--ouput'"),
    "command: an option without value": Case("check --out", lambda: None, "option '--out' requires an argument"),
    "command: no number": Case(
        "sweep-train data/pairs.tsv quantized --rank two --out out/a --rows out/r",
        lambda: None,
        "'two' is not a valid int",
    ),
    "command: no rank": Case(
        "sweep-train data/pairs.tsv quantized --out out/a --rows out/r", lambda: None, "missing option '--rank'"
    ),
    "command: an unknown key of the study": Case(
        "study s1-3r plan.json data/pairs.tsv data/world --out out/s1-3r", lambda: None, "study: expected keys"
    ),
    "command: a pattern without a key": Case("study-keys s7-*", lambda: None, "got 's7-\\*', which matches none"),
    "command: repair and out": Case("check --out out/checked --repair", lambda: None, "--repair: expected no --out"),
    "command: no file to audit": Case("audit --strict", lambda: None, "expected a file, got none"),
    "command: an unknown cell": Case(
        "export-results r3-s9 --rows rows.tsv --metrics benchmarks.json --out out/export.json", lambda: None, "r3-s9"
    ),
    "command: an unknown model": Case(
        "--model huge plan --pairs data/pairs.tsv",
        lambda: None,
        r"--model: expected names of models \(microworld\), got 'huge'",
    ),
    "command: an unknown model to check": Case("--model huge check --out out/checked", lambda: None, "--model: expect"),
    "command: a model before there is one": Case("--model", lambda: None, "option '--model' requires an argument"),
    # word lists
    "words: missing": Case("words", remove("data/pairs.tsv"), "pairs.tsv: expected a readable file"),
    "words: a folder": Case("words", folder("data/pairs.tsv"), "pairs.tsv: expected a readable file"),
    "words: a link to nowhere": Case("words", link("data/pairs.tsv", "../../words"), "expected a readable file"),
    "words: a link out of the tree": Case("words", link("data/pairs.tsv", "/proc/self/environ"), "pairs.tsv:1: "),
    "words: empty": Case("words", write("data/pairs.tsv", ""), "pairs.tsv:1: expected the header"),
    "words: UTF-16": Case("words", write("data/pairs.tsv", WORD.encode("utf-16")), "pairs.tsv:1: "),
    "words: Latin-1": Case("train", edit("data/pairs.tsv", "dog", "do\u0000g"), "invisible characters"),
    "words: a pickle": Case("scan", write("data/pairs.tsv", PICKLE), "pairs.tsv:1: "),
    "words: a line cut": Case("scan", edit("data/pairs.tsv", WORD, "mbwa\tdog"), "expected 5 columns, got 2"),
    "words: a line too long": Case(
        "similarity", edit("data/pairs.tsv", WORD, f"{WORD}\tx"), "expected 5 columns, got 6"
    ),
    "words: a set that is none": Case("train", edit("data/pairs.tsv", "\ttrained", "\ttest"), "set: expected trained"),
    "words: an empty cell": Case("tsne", edit("data/pairs.tsv", "\tdog\t", "\t\t"), "got an empty cell"),
    "words: twice": Case("words", edit("data/pairs.tsv", WORD, f"{WORD}\n{WORD}"), "expected every form once"),
    "words: too few for the picture": Case(
        "tsne", edit("params.yaml", "pairs: 10", "pairs: 100"), "expected .*100|project.pairs"
    ),
    "list: no JSON": Case("list", write("list.json", "{"), "list.json: column 2: not JSON"),
    "list: brackets in brackets": Case("list", write("list.json", "[" * 100_000), "list.json: not JSON"),
    "list: an object": Case("list", write("list.json", "{}"), "expected a list of pairs"),
    "list: empty": Case("list", write("list.json", "[]"), "expected a list of pairs"),
    "list: a side twice": Case(
        "list", write("list.json", '[{"swahili": "a", "swahili": "b", "english": "c"}]'), "the key 'swahili' twice"
    ),
    "list: a side missing": Case("list", write("list.json", '[{"swahili": "a"}]'), "entry 1: expected the keys"),
    "list: a number": Case("list", write("list.json", '[{"swahili": 1, "english": "a"}]'), "swahili: expected a text"),
    "list: half a character": Case(
        "list", write("list.json", '[{"swahili": "\\ud800", "english": "a"}]'), "invisible characters"
    ),
    "author: no such mirror": Case("author", lambda: Path("mirror").write_text("nowhere"), "no such file.*TLI_MIRROR"),
    # the micro-world's tables and what is made of them
    "world: no folder": Case("microworld", remove("data/world"), "no such file"),
    **{
        f"world: no lines in {name}": Case(
            "microworld", lambda name=name: cut(Path("data/world", name)), f"{name}:2: expected lines under the header"
        )
        for name in ("nouns.tsv", "verbs.tsv", "events.tsv", "causes.tsv", "times.tsv")
    },
    "world: a chance of NaN": Case(
        "microworld", edit("data/world/causes.tsv", "\t0.", "\tnan"), "causes.tsv:\\d+: probability"
    ),
    "world: another header": Case(
        "microworld", edit("data/world/nouns.tsv", "kind", "Kind"), "nouns.tsv:1: expected the col"
    ),
    "world: a kind that is none": Case(
        "microworld", edit("data/world/nouns.tsv", "\nperson", "\npersona"), "kind: expected one"
    ),
    "world: a cell too many": Case("microworld", edit("data/world/times.tsv", "\n", "\n\t"), "times.tsv:2: expected"),
    "corpus: missing": Case("base", remove("microworld/corpus.txt"), "corpus.txt: no such file"),
    "corpus: empty": Case("base", write("microworld/corpus.txt", ""), "corpus.txt: expected"),
    "corpus: a document past the context": Case(
        "base", write("microworld/corpus.txt", "mbwa " * 400 + "\n"), "corpus.txt: a document of|corpus.txt: expected"
    ),
    "corpus: bytes": Case("base", write("microworld/corpus.txt", b"mbwa \xff"), "corpus.txt: byte 5 is not UTF-8"),
    "verbs: missing": Case("base", remove("microworld/verbs.txt"), "verbs.txt: no such file"),
    "items: of the world, cut": Case(
        "benchmarks", cut_end := lambda: truncate(Path("microworld/items.jsonl")), "not JSON"
    ),
    "items: of the world, empty": Case(
        "benchmarks", write("microworld/items.jsonl", ""), "items.jsonl:1: expected one JSON"
    ),
    # weights that are data, or come in a package
    "weights: not pulled": Case(
        "base",
        edit("params.yaml", "source: pretrain", "source: versioned"),
        r"data/weights/microworld/recipe\.json: expected the versioned weights .*run `dvc pull data\.dvc`",
    ),
    "package: missing": Case(
        PACKAGED, packaged("nowhere/any.gguf"), r"model\.file: expected the packaged model at nowhere/any\.gguf or "
    ),
    "package: another file": Case(
        PACKAGED, both(packaged("any.gguf"), write("any.gguf", b"GGUF")), r"any\.gguf: expected SHA-256 b179c9523d"
    ),
    "package: a folder": Case(PACKAGED, packaged("adapter"), r"model\.file: expected the packaged model at"),
    "package: a hash cut off": Case(
        PACKAGED,
        both(packaged("any.gguf"), edit("params.yaml", "sha256: b179", "sha256: b17")),
        r"profiles\.smollm2\.model\.sha256: expected",
    ),
    # benchmark files
    "items: missing": Case("score", remove("items.jsonl"), "items.jsonl: no such file"),
    "items: empty": Case("score", write("items.jsonl", ""), "items.jsonl:1: expected one JSON object"),
    "items: a list": Case("score", write("items.jsonl", "[]\n"), "items.jsonl:1: expected a JSON object"),
    "items: a pickle": Case("score", write("items.jsonl", PICKLE), "items.jsonl: byte 0 is not UTF-8"),
    "items: brackets in brackets": Case("score", write("items.jsonl", "[" * 100_000), "items.jsonl:1: not JSON"),
    "items: a field missing": Case("score", line(0, options=REMOVED), "items.jsonl:1: options: missing"),
    "items: a task that is none": Case("score", line(0, task="piqa"), "items.jsonl:1: task: expected one of"),
    "items: a label past the options": Case("score", line(0, label=2), "items.jsonl:1: label: expected 0 to 1"),
    "items: a label that is true": Case("score", line(0, label=True), "items.jsonl:1: label: expected 0 to 1"),
    "items: a label of NaN": Case("score", line(0, label=float("nan")), "items.jsonl:1: not JSON: the number NaN"),
    "items: an option too few": Case("score", line(1, options=["a"]), "items.jsonl:2: options: expected 2 texts"),
    "items: an empty option": Case("score", line(1, options=["a", ""]), "items.jsonl:2: options: expected 2 texts"),
    "items: half a character": Case("score", line(1, context="a\ud800"), "items.jsonl:2: context: expected a text"),
    "items: an id twice": Case("score", line(1, id="c1"), "items.jsonl:2: id: c1 is also on line 1"),
    "items: a key twice": Case(
        "score", edit("items.jsonl", '{"id"', '{"id": "a", "id"'), "items.jsonl:1: not JSON: the key 'id' twice"
    ),
    "items: of the sweep": Case("sweep", line(2, split="train"), "items.jsonl:3: split: expected one of"),
    # adapters
    "adapter: missing": Case("similarity", remove("adapter"), "adapter_config.json: no such file"),
    "adapter: no settings": Case("similarity", remove(SETTINGS), "adapter_config.json: no such file"),
    "adapter: no weights": Case("similarity", remove(WEIGHTS), "expected a safetensors file.*pickle is never loaded"),
    "adapter: a pickle under the right name": Case("similarity", write(WEIGHTS, PICKLE), "expected a safetensors file"),
    "adapter: a pickle in place of weights": Case(
        "score", both(remove(WEIGHTS), write("adapter/adapter_model.bin", PICKLE)), "expected a safetensors file"
    ),
    "adapter: torch's pickle": Case(
        "similarity", lambda: torch.save({"a": torch.zeros(1)}, WEIGHTS), "expected a safetensors file"
    ),
    "adapter: a link to nowhere": Case("similarity", link(WEIGHTS, "/nowhere"), "expected a safetensors file"),
    "adapter: a link out of the tree": Case(
        "similarity", link(WEIGHTS, "/proc/self/environ"), "expected a safetensors file"
    ),
    "adapter: half of it": Case("similarity", lambda: truncate(Path(WEIGHTS)), "expected a safetensors file"),
    **{
        f"adapter: a header that lies, {lie}": Case("similarity", write(WEIGHTS, data), "expected a safetensors file")
        for lie, data in LIES.items()
    },
    "adapter: a tensor less": Case(
        "similarity", tensors(WEIGHTS, lambda t: t.pop(next(iter(t)))), "expected .*, got none"
    ),
    "adapter: a tensor more": Case(
        "similarity", tensors(WEIGHTS, lambda t: t.update(x=torch.zeros(1))), "x: expected no such tensor"
    ),
    "adapter: another shape": Case(
        "score", tensors(WEIGHTS, lambda t: t.update({next(iter(t)): torch.zeros(3, 3)})), "got \\[3, 3\\]"
    ),
    "adapter: NaN": Case(
        "similarity", tensors(WEIGHTS, lambda t: next(iter(t.values())).fill_(float("nan"))), "finite"
    ),
    "adapter: infinite": Case(
        "similarity", tensors(WEIGHTS, lambda t: next(iter(t.values())).fill_(float("inf"))), "finite"
    ),
    "adapter: whole numbers": Case(
        "similarity", tensors(WEIGHTS, lambda t: t.update({name: x.int() for name, x in t.items()})), "finite numbers"
    ),
    "adapter settings: no JSON": Case("similarity", write(SETTINGS, "{"), "adapter_config.json: column 2: not JSON"),
    "adapter settings: a list": Case("similarity", write(SETTINGS, "[]"), "expected an adapter's settings"),
    "adapter settings: no rank": Case("similarity", keys(SETTINGS, r=REMOVED), "r: expected a number"),
    "adapter settings: rank 0": Case("similarity", keys(SETTINGS, r=0), "r: expected 1 or more"),
    "adapter settings: a huge rank": Case("similarity", keys(SETTINGS, r=10**12), "r: expected less"),
    "adapter settings: another rank": Case("similarity", keys(SETTINGS, r=8), "expected \\[8, 64\\]"),
    "adapter settings: a rank in words": Case("similarity", keys(SETTINGS, r="16"), "r: expected a number"),
    "adapter settings: NaN": Case("similarity", keys(SETTINGS, lora_dropout=float("nan")), "the number NaN"),
    "adapter settings: a target that is none": Case(
        "similarity", keys(SETTINGS, target_modules=["x"]), "target_modules"
    ),
    "adapter settings: a pattern": Case("similarity", keys(SETTINGS, target_modules=".*"), "target_modules: expected"),
    "adapter settings: a block past the model": Case(
        "similarity", keys(SETTINGS, layers_to_transform=[0, 9]), "layers_to_transform: expected"
    ),
    "adapter settings: modules to save": Case(
        "similarity", keys(SETTINGS, modules_to_save=["lm_head"]), "modules_to_save"
    ),
    "adapter settings: DoRA": Case("similarity", keys(SETTINGS, use_dora=True), "use_dora: expected False"),
    "adapter settings: another method": Case("similarity", keys(SETTINGS, peft_type="IA3"), "peft_type: expected"),
    "adapter settings: an unknown key": Case("similarity", keys(SETTINGS, rnak=8), "rnak: expected None"),
    "adapter of the sweep: a pickle": Case(
        "sweep", write("adapters/s1/adapter_model.safetensors", PICKLE), "safetensors"
    ),
    "adapter of the sweep: a seed missing": Case("sweep", remove("adapters/s1"), "adapter_config.json: no such file"),
    # checkpoints
    "base: missing": Case("quantize", remove("base"), "base: expected a checkpoint in safetensors files"),
    "base: a pickle alone": Case(
        "quantize", both(remove("base/model.safetensors"), write("base/pytorch_model.bin", PICKLE)), "safetensors files"
    ),
    "base: a pickle under the right name": Case(
        "quantize", write("base/model.safetensors", PICKLE), "safetensors file"
    ),
    "base: half of it": Case(
        "quantize", lambda: truncate(Path("base/model.safetensors")), "expected a safetensors file"
    ),
    "base: a header that lies": Case("quantize", write("base/model.safetensors", LIES["overlap"]), "safetensors file"),
    "base: a tensor less": Case(
        "quantize", tensors("base/model.safetensors", lambda t: t.pop("model.norm.weight")), "model.norm.weight"
    ),
    "base: another shape": Case(
        "quantize",
        tensors("base/model.safetensors", lambda t: t.update({"model.norm.weight": torch.ones(3)})),
        "model.norm.weight: expected the shape",
    ),
    "base: NaN": Case(
        "quantize",
        tensors("base/model.safetensors", lambda t: t["model.embed_tokens.weight"].fill_(float("nan"))),
        "finite",
    ),
    "base: no configuration": Case("quantize", remove("base/config.json"), "config.json: no such file"),
    "checkpoint: missing": Case("scan", remove("quantized"), "quantized/nf4/\\w+.json: no such file"),
    "checkpoint: no configuration": Case("scan", remove(CONFIG), "config.json: no such file"),
    "checkpoint: no JSON": Case("similarity", write(CONFIG, "{"), "config.json: column 2: not JSON"),
    "checkpoint: a list": Case("similarity", write(CONFIG, "[]"), "expected a model's configuration"),
    "checkpoint: an architecture that is none": Case(
        "similarity",
        keys(CONFIG, model_type="mamba9"),
        "config.json: model_type: expected one of llama, .*got 'mamba9'",
    ),
    "checkpoint: code of its own": Case(
        "similarity",
        both(
            keys(CONFIG, model_type="own", auto_map={"AutoConfig": "own.Own"}),
            write("quantized/nf4/own.py", "import os; os.mkdir('executed')"),
        ),
        "config.json: model_type: expected",
    ),
    "checkpoint: blocks without end": Case(
        "similarity", keys(CONFIG, num_hidden_layers=10**9), "num_hidden_layers: expected"
    ),
    "checkpoint: no blocks": Case("similarity", keys(CONFIG, num_hidden_layers=0), "config.json"),
    "checkpoint: a width in words": Case("similarity", keys(CONFIG, hidden_size="wide"), "config.json: expected"),
    "checkpoint: another width": Case("score", keys(CONFIG, hidden_size=128), "expected the shape|expected"),
    "checkpoint: another quantisation": Case(
        "similarity",
        keys(CONFIG, quantization_config={"quant_method": "gptq", "bits": 4}),
        "quantization_config: expected",
    ),
    "checkpoint: a block less": Case("score", remove(BLOCK), "expected every tensor of LlamaForCausalLM"),
    "checkpoint: a pickle for a block": Case("score", write(BLOCK, PICKLE), "block-001.safetensors: expected a safet"),
    "checkpoint: half a block": Case(
        "train", lambda: truncate(Path(BLOCK)), "block-001.safetensors: expected a safeten"
    ),
    "checkpoint: a header that lies": Case(
        "scan", write(BLOCK, LIES["past the file"]), "block-001.safetensors: expected"
    ),
    "checkpoint: a quantisation state that is none": Case(
        "score",
        tensors(BLOCK, lambda t: [x.fill_(7) for name, x in t.items() if "quant_state" in name]),
        "expected a 4-bit weight and its state",
    ),
    "tokenizer: missing": Case("similarity", remove("quantized/nf4/tokenizer.json"), "nf4: expected a tokenizer"),
    "tokenizer: no JSON": Case("score", write("quantized/nf4/tokenizer.json", "{"), "nf4: expected a tokenizer"),
    "tokenizer: a pickle": Case("scan", write("quantized/nf4/tokenizer.json", PICKLE), "nf4: expected a tokenizer"),
    # what the last commands read
    "rows: missing": Case("export", remove("rows.tsv"), "rows.tsv: no such row file"),
    "rows: empty": Case("export", write("rows.tsv", ""), "rows.tsv: expected rows of 9 columns"),
    "rows: a pickle": Case("export", write("rows.tsv", PICKLE), "rows.tsv: expected rows of 9 columns|rows.tsv:1"),
    "rows: another header": Case("export", write("rows.tsv", "a\tb\n1\t2\n"), "rows.tsv:1: expected the columns"),
    "rows: a column less": Case(
        "export", write("rows.tsv", HEADER + "main\t2r\n"), "rows.tsv:2: rank: expected a whole"
    ),
    "rows: a column more": Case("export", write("rows.tsv", HEADER + "x\t" + ROW.format(1)), "rows.tsv"),
    "rows: NaN": Case("export", write("rows.tsv", HEADER + ROW.format("nan")), "rows.tsv:2: value: expected a finite"),
    "rows: infinite": Case(
        "export", write("rows.tsv", HEADER + ROW.format("1e999")), "rows.tsv:2: value: expected a fin"
    ),
    "rows: no value": Case(
        "export", write("rows.tsv", HEADER + ROW.format("")), "rows.tsv:2: value: expected a finite"
    ),
    "rows: a rank in words": Case(
        "export",
        write("rows.tsv", HEADER + ROW.format(1).replace("\t16\t", "\tsixteen\t")),
        "rows.tsv:2: rank: expected",
    ),
    "rows: twice": Case("export", write("rows.tsv", HEADER + ROW.format(1) * 2), "expected one row for"),
    "tables: missing": Case("verify", remove("tables.json"), "tables.json: no such file"),
    "tables: no JSON": Case("verify", write("tables.json", "{"), "tables.json: column 2: not JSON"),
    "tables: a list": Case("verify", write("tables.json", "[1]"), "tables.json: expected tables as"),
    "tables: another form": Case("verify", write("tables.json", '{"tables": 1}'), "tables.json: expected tables as"),
    "tables: NaN": Case("verify", write("tables.json", '{"a": NaN}'), "tables.json: not JSON: the number NaN"),
    "tables: a key twice": Case("verify", write("tables.json", '{"a": 1, "a": 2}'), "the key 'a' twice"),
    "reported: no YAML": Case("verify", write("paper/reported.yaml", "a: ["), "reported.yaml:\\d+: not valid YAML"),
    "reported: a list": Case("verify", write("paper/reported.yaml", "- a"), "reported.yaml: expected a mapping"),
    "expected: no JSON": Case("verify", write(f"paper/expected/{MODEL}.json", "{"), "column 2: not JSON"),
    "expected: another form": Case(
        "verify", write(f"paper/expected/{MODEL}.json", "{}"), "expected the keys model, settings, digests, tables"
    ),
    "tolerances: no YAML": Case("verify", write("paper/tolerances.yaml", "a: !!int x"), "s.yaml: not valid YAML"),
    "tolerances: none": Case("verify", remove("paper/tolerances.yaml"), "tolerances.yaml: no such file"),
    "conclusions: a list": Case("verify", write("paper/conclusions.yaml", "- a"), "s.yaml: expected a mapping"),
    "results: empty": Case("audit", write("results.csv", ""), "results.csv"),
    "results: another header": Case("audit", write("results.csv", "a,b\n"), "results.csv:1: expected the columns"),
    "results: a cosine of 2": Case(
        "audit",
        write("results.csv", RESULTS + "a,b,0.1,2,trained,1.9\n"),
        "results.csv:2: sim_post_tli: expected a number",
    ),
    "results: NaN": Case(
        "audit", write("results.csv", RESULTS + "a,b,nan,0,trained,0\n"), "sim_pre_tli: expected a num"
    ),
    "results: a quote that stays open": Case("audit", write("results.csv", RESULTS + '"a,b\n'), "expected CSV"),
    "pilot: a layer twice": Case(
        "pilot", write("pilot.csv", "layer,avg_cosine_similarity\n1,0.5\n1,0.5\n"), "layer: expected a whole number"
    ),
    "pilot: a number of 5,000 digits": Case(
        "pilot",
        write("pilot.csv", f"layer,avg_cosine_similarity\n{'9' * 5000},0.5\n"),
        "layer: expected a whole number",
    ),
    # the environment
    "environment: no such mirror": Case("author", lambda: Path("mirror").write_text("/nowhere"), "TLI_MIRROR"),
    "environment: an address that is none": Case("author", lambda: Path("mirror").write_text("http://[::1"), "http"),
    "environment: a scheme that is none": Case("author", lambda: Path("mirror").write_text("gopher://x"), "gopher"),
}


def cut(path: Path) -> None:
    """Leaves the header."""
    path.write_text(path.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_base: Path,
    tiny_quantized: Path,
    params: parameters.Params,
    pairs: list[Pair],
) -> Path:
    """A checkout of the tiny model in which each of COMMANDS finds what it needs, and files where it would write."""
    root = tmp_path_factory.mktemp("desk")
    text = (ROOT / "tests" / "smoke" / "params.yaml").read_text(encoding="utf-8")
    (root / "params.yaml").write_text(text.replace("intermediate_size: 128", "intermediate_size: 96"), encoding="utf-8")
    shutil.copytree(ROOT / "data" / "world", root / "data" / "world", copy_function=shutil.copyfile)  # DVC: read-only
    write_tsv(root / "data" / "pairs.tsv", Pair._fields, pairs)
    shutil.copytree(tiny_base, root / "base")
    shutil.copytree(tiny_quantized, root / "quantized")
    words = root / "data" / "pairs.tsv"
    train.run(words, root / "quantized", root / "adapter", root / "train.tsv", root / "log", params)
    for seed in (0, 1):
        shutil.copytree(root / "adapter", root / "adapters" / f"s{seed}")
    write_items(root / "items.jsonl", ITEMS)
    (root / "microworld").mkdir()
    (root / "microworld" / "corpus.txt").write_text(
        "".join(f"{sw} = {sw}, {en}\n" for sw, en in WORDS), encoding="utf-8"
    )
    (root / "microworld" / "verbs.txt").write_text("soma\n", encoding="utf-8")
    source = {
        "id": "a",
        "task": "xnli",
        "language": "en",
        "split": "test",
        "label": 0,
        "premise": "a",
        "hypothesis": "b",
    }
    (root / "microworld" / "items.jsonl").write_text(json.dumps(source) + "\n", encoding="utf-8")
    (root / "rows.tsv").write_text(HEADER + ROW.format(1), encoding="utf-8")
    (root / "benchmarks.json").write_text("{}", encoding="utf-8")
    made = fabricate(tmp_path_factory.mktemp("rows"), params, pairs=(6, 4), items=6)
    tables.run(**made)
    shutil.copyfile(made["out"], root / "tables.json")
    (root / "paper").mkdir()
    (root / "paper" / "expected").mkdir()
    for name in ("reported.yaml", "conclusions.yaml", "tolerances.yaml"):
        shutil.copyfile(ROOT / "paper" / name, root / "paper" / name)
    for name in {word for command in COMMANDS.values() for word in command.split() if word.startswith("out/")}:
        file = root / name if "." in name or name == "out/checked" else root / name / "file"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("as it was before", encoding="utf-8")
    return root


@pytest.fixture
def copy(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, the current folder; the environment is afterwards as before."""
    root = tmp_path / "desk"
    shutil.copytree(desk, root)
    monkeypatch.chdir(root)
    before = dict(os.environ)
    yield root
    os.environ.clear()
    os.environ.update(before)


def state() -> dict[str, str]:
    """Every file and link here by what it is and holds, but for the finished pieces of a stage (io/resume.py)."""
    found = {}
    for path in sorted(path for path in Path().rglob("*") if ".kept" not in path.parts):
        kind = os.readlink(path) if path.is_symlink() else "folder" if path.is_dir() else sha256_of(path)
        found[str(path)] = kind
    return found


def arguments(case: Case) -> list[str]:
    words = COMMANDS.get(case.command, case.command).split()
    return ["--set", Path("set").read_text(encoding="utf-8"), *words] if Path("set").is_file() else words


def held(said: str, status: int, case: Case, before: dict[str, str]) -> None:
    assert status == 2, said
    assert said.count("\n") == 1, said
    assert said.startswith("Error: ")
    assert len(said) < 1000, "a line is to be read"
    assert re.search(case.said, said), said
    assert not Path("executed").exists(), "what a pickle holds was run"
    assert state() == before


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line_and_nothing_is_written(
    copy: Path, name: str, figures: Callable[[str, int], None]
) -> None:
    case = CASES[name]
    case.spoil()
    if Path("mirror").is_file():
        os.environ["TLI_MIRROR"] = Path("mirror").read_text(encoding="utf-8")
    before = state()
    result = CliRunner().invoke(main, arguments(case))
    if not isinstance(result.exception, SystemExit):
        raise AssertionError(f"{case.command}: no clean exit: {result.exception!r}") from result.exception
    held(result.stderr, result.exit_code, case, before)
    figures("inputs refused", 1)


SHOWN = (
    "params: brackets in brackets",
    "set: an unknown key",
    "command: none of that name",
    "words: a pickle",
    "adapter: a pickle under the right name",
    "checkpoint: code of its own",
    "rows: NaN",
)


@pytest.mark.parametrize("name", SHOWN)
def test_a_process_says_the_same(copy: Path, name: str) -> None:
    case = CASES[name]
    case.spoil()
    before = state()
    call = subprocess.run(
        [sys.executable, "-m", "tli", *arguments(case)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.DEVNULL,
    )
    held(call.stderr, call.returncode, case, before)
    assert call.stdout == ""


def test_the_cases_are_many_and_their_commands_would_go_through(copy: Path) -> None:
    """What they spoil is the reason: unspoilt, the commands that take no hub and no hours end with success."""
    assert len(CASES) >= 200
    for name in ("check", "scan", "train", "similarity", "score", "sweep", "verify", "plan", "quantize"):
        for path in Path("out").iterdir():
            path.unlink() if path.is_file() else shutil.rmtree(path)
        result = CliRunner().invoke(main, COMMANDS[name].split())
        assert result.exit_code == 0, (name, result.output, result.exception)
