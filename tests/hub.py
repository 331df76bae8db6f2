"""A hub on the loopback interface for the real huggingface_hub and datasets clients, and checkpoints to put on it.

`Hub` serves repositories at revisions as the real one does: metadata, small files by itself, large ones by redirect to
another host, byte ranges. It logs the bytes sent and fails on request; `environment` points a process at it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from tiny import WORDS, write_base

Content = bytes | Path
LARGE = (".safetensors", ".parquet", ".bin", ".pth")  # stored with Git LFS: named by SHA-256, sent by another host


class Served(NamedTuple):
    """One answered request; `sent` counts the bytes of the body, HEAD's none."""

    method: str
    path: str
    status: int
    sent: int
    range: str | None
    authorization: str | None


@dataclass
class Fault:
    """What goes wrong with an answer that would have been right."""

    status: int | None = None  # this status with an empty body
    headers: dict[str, str | None] = field(default_factory=dict)  # put over the answer's own; None leaves one out
    stop_after: int | None = None  # so many bytes of the body, then the connection ends
    reset: bool = False  # and ends with a reset instead of a close
    flip: int | None = None  # one bit of this byte of the body is turned
    body: bytes | None = None  # this body instead
    stall: float = 0  # so many seconds pass before the body


@dataclass
class _Rule:
    pattern: str
    fault: Fault
    times: int


@dataclass
class _Repository:
    revisions: dict[str, Mapping[str, Content]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None


class Hub:
    """`with Hub() as hub: hub.add("model", "owner/name", {"config.json": b"{}"})`."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], _Repository] = {}
        self.plain: dict[str, Content] = {}  # path -> file, for addresses that are not the hub's
        self.log: list[Served] = []
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._large: dict[str, Content] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.elsewhere = f"http://localhost:{self._server.server_port}"  # another host to a client

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(
        self, kind: str, name: str, files: Mapping[str, Content], revision: str = "", token: str | None = None
    ) -> str:
        """Adds a commit with `files` to a repository and moves `main` there; returns its 40 digits.

        Where `token` is given the repository is gated: only requests that bear it are served.
        """
        revision = revision or hashlib.sha1(repr([(path, blob_id(files[path])) for path in files]).encode()).hexdigest()
        repository = self.repositories.setdefault((kind, name), _Repository())
        repository.revisions[revision] = files
        repository.branches["main"] = revision
        repository.token = token
        return revision

    def fail(self, pattern: str, fault: Fault, times: int = 1) -> None:
        """Lets the next `times` requests whose `METHOD /path` holds the regular expression `pattern` go wrong."""
        with self._lock:
            self._rules.append(_Rule(pattern, fault, times))

    def requests(self, pattern: str = "") -> list[Served]:
        """What was asked for so far, in order, where `METHOD /path` holds `pattern`."""
        with self._lock:
            return [served for served in self.log if re.search(pattern, f"{served.method} {served.path}")]

    def sent(self, pattern: str = "") -> int:
        """Bytes of bodies sent for those requests."""
        return sum(served.sent for served in self.requests(pattern))

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """This process's environment for one that talks to this hub and to nothing else, with its cache in `home`."""
        ours = re.compile("HF_|HUGGING|TLI_MIRROR|.*_proxy$", re.IGNORECASE)
        kept = {key: value for key, value in os.environ.items() if not ours.match(key)}
        return {**kept, "HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", **more}

    def take_over(self, patch: pytest.MonkeyPatch, home: Path) -> None:
        """Lets this process's client talk to this hub, with its cache in `home`, until `patch` ends."""
        from huggingface_hub import close_session, constants

        close_session()
        patch.setattr(constants, "ENDPOINT", self.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_URL_HOSTS", frozenset({"127.0.0.1"}))
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_ASSETS_CACHE", str(home / "assets"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)

    def _fault(self, line: str) -> Fault:
        with self._lock:
            for rule in self._rules:
                if rule.times > 0 and re.search(rule.pattern, line):
                    rule.times -= 1
                    return rule.fault
        return Fault()


def read(content: Content) -> bytes:
    return content.read_bytes() if isinstance(content, Path) else content


@cache
def blob_id(content: Content) -> str:
    data = read(content)
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@cache
def sha256(content: Content) -> str:
    """The hub's hash of a file. Of one of gigabytes, which no test fetches whole, it is made from the name."""
    if size(content) > 1 << 30:
        return hashlib.sha256(str(content).encode()).hexdigest()
    return hashlib.sha256(read(content)).hexdigest()


def size(content: Content) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


class _Refused(Exception):
    def __init__(self, status: int, code: str, commit: str | None = None) -> None:
        super().__init__(code)
        self.status, self.headers = (
            status,
            {"X-Error-Code": code, "X-Error-Message": f"{code}: a message of the server"},
        )
        if commit:
            self.headers["X-Repo-Commit"] = commit


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_GET

    def _answer(self) -> None:
        self.posted = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.hub._fault(f"{self.command} {self.path}")
        try:
            if fault.status is not None:
                status, headers, content = fault.status, {}, b""
            else:
                status, headers, content = self._route()
        except _Refused as refused:
            status, headers, content = refused.status, refused.headers, b'{"error": "a message of the server"}'
        content = content if fault.body is None else fault.body
        start, stop = 0, size(content)
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if wanted and status == 200 and "Accept-Ranges" in headers:
            whole = stop
            if wanted[1]:
                start, stop = int(wanted[1]), min(int(wanted[2] or whole - 1) + 1, whole)
            else:
                start = max(whole - int(wanted[2]), 0)
            status = 206 if start < stop else 416
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{whole}" if start < stop else f"bytes */{whole}"
            stop = max(start, stop)
        headers = {"Content-Length": str(stop - start), **headers} | fault.headers
        self.send_response(status)
        for key, value in headers.items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        sent = 0 if self.command == "HEAD" else self._send(content, start, stop, fault)
        with self.hub._lock:
            bearer = self.headers.get("Authorization")
            self.hub.log.append(Served(self.command, self.path, status, sent, self.headers.get("Range"), bearer))

    def _send(self, content: Content, start: int, stop: int, fault: Fault) -> int:
        time.sleep(fault.stall)
        with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
            file.seek(start)
            data = bytearray(file.read(stop - start))
        if fault.flip is not None:
            data[fault.flip] ^= 1
        if fault.stop_after is not None:
            data = data[: fault.stop_after]
            self.close_connection = True
        try:
            self.wfile.write(data)
            self.wfile.flush()
        except OSError:  # the client has gone
            return 0
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        return len(data)

    def _route(self) -> tuple[int, dict[str, str], Content]:
        url = urlsplit(self.path)
        path = unquote(url.path)
        if path in self.hub.plain:
            return 200, {"Accept-Ranges": "bytes"}, self.hub.plain[path]
        if large := re.fullmatch("/large/([0-9a-f]{64})", path):
            return 200, {"Accept-Ranges": "bytes", "ETag": '"of-another-host"'}, self.hub._large[large[1]]
        if match := re.fullmatch("/api/(model|dataset)s/(.+?)/(revision|tree|paths-info)/([^/]+)(?:/(.*))?", path):
            kind, name, what, revision, inside = match.groups()
            commit, files = self._files(kind, name, revision)
            if what == "revision":
                return self._json(info(kind, name, commit, files))
            if what == "paths-info":
                named = parse_qs(self.posted.decode())
                asked = json.loads(self.posted)["paths"] if self.posted[:1] == b"{" else named.get("paths", [])
                return self._json(entries(files, "", recursive=True, only=asked))
            return self._json(entries(files, inside or "", recursive="recursive=true" in url.query.lower()))
        if match := re.fullmatch("/api/(model|dataset)s/(.+)", path):
            commit, files = self._files(match[1], match[2], "main")
            return self._json(info(match[1], match[2], commit, files))
        if match := re.fullmatch("/(datasets/)?(.+?)/resolve/([^/]+)/(.+)", path):
            commit, files = self._files("dataset" if match[1] else "model", match[2], match[3])
            if match[4] not in files:
                raise _Refused(404, "EntryNotFound", commit)
            content = files[match[4]]
            headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            if not match[4].endswith(LARGE):
                return 200, {**headers, "ETag": f'"{blob_id(content)}"'}, content
            self.hub._large[sha256(content)] = content
            headers |= {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(size(content))}
            return 302, {**headers, "Location": f"{self.hub.elsewhere}/large/{sha256(content)}"}, b""
        raise _Refused(404, "NotFound")

    def _files(self, kind: str, name: str, revision: str) -> tuple[str, Mapping[str, Content]]:
        repository = self.hub.repositories.get((kind, name))
        if repository is None:
            raise _Refused(404, "RepoNotFound")
        bearer = self.headers.get("Authorization")
        if repository.token is not None and bearer != f"Bearer {repository.token}":
            raise _Refused(403 if bearer else 401, "GatedRepo")
        commit = repository.branches.get(revision, revision)
        if commit not in repository.revisions:
            raise _Refused(404, "RevisionNotFound")
        return commit, repository.revisions[commit]

    def _json(self, value: object) -> tuple[int, dict[str, str], Content]:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def info(kind: str, name: str, commit: str, files: Mapping[str, Content]) -> dict[str, Any]:
    """What the hub says of a repository at a commit."""
    siblings = [{"rfilename": path} for path in sorted(files)]
    key = "modelId" if kind == "model" else "id"
    return {"_id": "0", "id": name, key: name, "sha": commit, "private": False, "tags": [], "siblings": siblings}


def entries(
    files: Mapping[str, Content], folder: str, recursive: bool, only: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """The tree below `folder`, or the entries of the paths `only`."""
    found: dict[str, dict[str, Any]] = {}
    for path, content in sorted(files.items()):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            found[above] = {"type": "directory", "path": above, "oid": "0" * 40, "size": 0}
        entry = {"type": "file", "path": path, "oid": blob_id(content), "size": size(content)}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": sha256(content), "size": size(content), "pointerSize": 134}
        found[path] = entry
    if only is not None:
        return [found[path] for path in only if path in found]
    prefix = f"{folder}/" if folder else ""
    below = {path: entry for path, entry in found.items() if path.startswith(prefix)}
    return [entry for path, entry in below.items() if recursive or "/" not in path.removeprefix(prefix)]


# What to put on it.


def parquet(rows: Sequence[Mapping[str, object]]) -> bytes:
    """`rows` as a parquet file: text as string, labels as int64, `idx` as int32, as the benchmarks have it."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([dict(row) for row in rows])
    if "idx" in table.column_names:
        place = table.column_names.index("idx")
        table = table.set_column(place, "idx", table["idx"].cast(pyarrow.int32()))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def dataset(configs: Mapping[str, Mapping[str, Sequence[Mapping[str, object]]]]) -> dict[str, Content]:
    """config -> split -> rows as a dataset repository: `<config>/<split>-00000-of-00001.parquet`, and its README.md."""
    found: dict[str, Content] = {}
    card = ["---", "configs:"]
    for config, splits in configs.items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            found[f"{config}/{split}-00000-of-00001.parquet"] = parquet(rows)
            card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    return {"README.md": "\n".join([*card, "---", ""]).encode(), **found}


def files(folder: Path) -> dict[str, Content]:
    """Every file below `folder`, by its path there."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def write_llama(folder: Path, *, head: bool = True, shards: int = 3, blocks: int = 4) -> dict[str, Content]:
    """A Llama with random weights in fp32 shards, uploaded as the published checkpoint was; returns its files.

    The config says LlamaForSequenceClassification; the index names a classifier's `score.weight` and no
    `lm_head.weight`, while the last shard holds both. With `head=False` it holds no `lm_head.weight`.
    """
    write_base(folder, blocks=blocks, hidden_size=64, intermediate_size=96, kv_heads=2)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    lm_head = tensors.pop("lm_head.weight")
    tensors["score.weight"] = torch.ones(2, 64)
    names = sorted(tensors, key=lambda name: (name == "score.weight", name))
    index = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {
            name: tensors[name] for name in names[len(names) * shard // shards : len(names) * (shard + 1) // shards]
        }
        index |= dict.fromkeys(part, file)
        if head and shard == shards - 1:
            part["lm_head.weight"] = lm_head
        save_file(part, folder / file, metadata={"format": "pt"})
    total = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})
    config = json.loads((folder / "config.json").read_text())
    _write_json(folder / "config.json", config | {"architectures": ["LlamaForSequenceClassification"]})
    return files(folder)


def write_real_shape(folder: Path, words: Sequence[str]) -> dict[str, Content]:
    """The published model's files in their real shapes and sizes, with holes for weights; returns them.

    Seven shards of float32 as the hub has them, a vocabulary of 128,256 where the tokens of `words` stand anywhere, in
    a tokenizer of 17 MB.
    """
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        bos_token_id=128_000,
        eos_token_id=128_001,
        tie_word_embeddings=False,
    )
    config.save_pretrained(folder)
    with torch.device("meta"):
        tensors = LlamaForCausalLM(config).state_dict()
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, tensor in tensors.items():
        if name != "lm_head.weight" and sum(one.nbytes for one in shards[-1].values()) + tensor.nbytes > 5e9:
            shards.append({})
        shards[-1][name] = tensor
    for number, shard in enumerate(shards, start=1):
        entries, start = {}, 0
        for name, tensor in shard.items():
            size = 4 * tensor.numel()
            entries[name] = {"dtype": "F32", "shape": [*tensor.shape], "data_offsets": [start, start + size]}
            start += size
        header = json.dumps(entries).encode()
        with (folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + start)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=2_400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(words, trainer)
    learnt = json.loads(core.to_str())["model"]
    places = random.Random(0).sample(range(128_000), len(learnt["vocab"]))
    vocabulary = dict(zip(learnt["vocab"], places, strict=True))
    taken = set(places)
    vocabulary |= {f"<{n:06d}{'.' * 100}>": n for n in range(128_000) if n not in taken}
    merges = [tuple(pair) for pair in learnt["merges"]]
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_{n}|>" for n in range(254))])
    core.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 128_000)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
    ).save_pretrained(folder)
    return files(folder)


def write_qwen(folder: Path, model_type: str = "qwen2", *, blocks: int = 4) -> dict[str, Content]:
    """A Qwen2 or Qwen3 with random weights in bf16, tied embeddings and no BOS; returns its files.

    Qwen2 has biases on q, k and v; Qwen3 has heads wider than hidden_size / heads, and norms of q and k.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator([f"{sw} {en}. the {en} is here, right? Yes, No" for sw, en in WORDS], trainer)
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=None, eos_token=end, pad_token=end)
    tokenizer.save_pretrained(folder)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": blocks,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": len(tokenizer) - 1,
        "pad_token_id": None,
    }
    config = Qwen2Config(**shape) if model_type == "qwen2" else Qwen3Config(**shape, head_dim=32)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(std=0.2)
    model.to(torch.bfloat16).save_pretrained(folder)
    return files(folder)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
