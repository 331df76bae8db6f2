"""Fetching against a hub on the loopback interface, by the real client in a process of its own: what each fault does.

The process takes no real time to wait: its `time.sleep` writes the seconds down, and the tests read them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hub import Fault, Hub, blob_id, dataset, sha256
from tiny import ROOT
from tli.data.hub import pins
from tli.io.errors import UserError

DRIVER = """
import json, sys, time
waits = []
time.sleep = waits.append
from pathlib import Path
from tli.data.hub import fetch
from tli.data.hub.fetch import Repo
from tli.io.errors import CheckFailed, UserError
manifest = Path("fetched.sha256")
result, status = None, 0
try:
    {code}
except (UserError, CheckFailed) as error:
    print(error.format_message(), file=sys.stderr)
    status = error.exit_code
print(json.dumps([result, waits], default=str))
sys.exit(status)
"""
NAME = "owner/name"
LARGE = hashlib.shake_128(b"large").digest(400_000)
FILES = {"config.json": b'{"a": 1}\n', "part/large.safetensors": LARGE}
REVISION = "1" * 40
TOKEN = "hf_secretsecretsecret"


class Call(NamedTuple):
    """What came of a process: `line` is the last one of its standard error, `result` what the code left there."""

    status: int
    line: str
    stderr: str
    result: Any
    waits: list[float]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add("model", NAME, FILES, REVISION)
        yield hub


Run = Callable[..., Call]


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    """run(code): `code` in a process that talks to the hub; `manifest` and `Repo` are at hand, `result` comes back."""
    (tmp_path / "fetched.sha256").write_text("# what was fetched\n")

    def run(code: str, **environment: str) -> Call:
        environment = {"PYTHONPATH": str(ROOT / "src"), **environment}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", DRIVER.format(code=code.replace("\n", "\n    "))],
            cwd=tmp_path,
            env=hub.environment(tmp_path / "home", **environment),
            capture_output=True,
            text=True,
        )
        assert done.stdout, done.stderr
        assert "Traceback" not in done.stderr
        return Call(done.returncode, done.stderr.strip().rpartition("\n")[2], done.stderr, *json.loads(done.stdout))

    return run


REPO = f"Repo('model', {NAME!r}, {REVISION!r})"
FETCH = f"result = fetch.fetch({REPO}, {list(FILES)}, manifest)"
KEY = f"models/{NAME}@{REVISION}"
CONFIG_KEY, LARGE_KEY = (f"{KEY}/{name}" for name in FILES)
CONFIG_HASH = sha256(FILES["config.json"])


def noted(folder: Path) -> dict[str, str]:
    return pins.read(folder / "fetched.sha256")


def cached(folder: Path) -> list[Path]:
    """What the cache holds that another program would take for a whole file."""
    return [path for path in (folder / "home").rglob("*/snapshots/**/*") if path.is_file()]


def right(call: Call, folder: Path) -> None:
    """The call gave the right files and noted their hashes."""
    assert call.status == 0, call.stderr
    assert {name: Path(path).read_bytes() for name, path in call.result.items()} == FILES
    assert noted(folder) == {f"{KEY}/{name}": sha256(content) for name, content in FILES.items()}


def refused(call: Call, status: int, *words: str) -> None:
    """The call ended with `status` and one last line that says all of `words`."""
    assert call.status == status, call.stderr
    for word in words:
        assert word in call.line
    assert call.result is None


# Without a fault.


def test_a_first_fetch_notes_the_hashes_and_a_second_asks_for_nothing(run: Run, hub: Hub, tmp_path: Path) -> None:
    right(run(FETCH), tmp_path)
    assert (tmp_path / "fetched.sha256").read_text().startswith("# what was fetched\n")
    asked = len(hub.requests())
    assert hub.sent("GET /large/") == len(LARGE)
    right(run(FETCH), tmp_path)
    right(run(FETCH, HF_HUB_OFFLINE="1"), tmp_path)
    assert len(hub.requests()) == asked


def test_the_manifest_stays_sorted_and_free_of_what_was_not_all_fetched(run: Run, hub: Hub, tmp_path: Path) -> None:
    call = run(f"result = fetch.fetch({REPO}, ['config.json', 'absent.json'], manifest)")
    refused(call, 2, f"{KEY}/absent.json: no such file at this revision")
    assert noted(tmp_path) == {}
    run(f"fetch.fetch({REPO}, ['part/large.safetensors'], manifest)")
    run(f"fetch.fetch({REPO}, ['config.json'], manifest)")
    lines = (tmp_path / "fetched.sha256").read_text().splitlines()
    assert lines[1:] == sorted(lines[1:], key=lambda line: line[66:])
    assert len(lines) == 3


def test_first_pins_what_main_is_and_keeps_it_when_main_moves(run: Run, hub: Hub, tmp_path: Path) -> None:
    code = f"result = fetch.pinned(Repo('model', {NAME!r}, 'first'), manifest).revision"
    assert run(code).result == REVISION
    assert noted(tmp_path) == {f"models/{NAME}": REVISION}
    hub.add("model", NAME, {"config.json": b"moved"}, "2" * 40)
    asked = len(hub.requests())
    assert run(code).result == REVISION
    assert len(hub.requests()) == asked
    right_files = run(f"result = fetch.fetch(fetch.pinned({REPO}, manifest), ['config.json'], manifest)").result
    assert Path(right_files["config.json"]).read_bytes() == FILES["config.json"]


def test_a_dataset_is_pinned_and_listed_beside_a_model_of_the_same_name(run: Run, hub: Hub) -> None:
    rows = [{"premise": "Mtu alikunywa maji.", "label": 0, "idx": 3}]
    revision = hub.add("dataset", NAME, dataset({"sw": {"test": rows}}))
    repo = f"Repo('dataset', {NAME!r}, {revision!r})"
    code = f"""names = fetch.listing({repo}, manifest)
paths = fetch.fetch({repo}, names, manifest)
result = [names, fetch.listing({REPO}, manifest)]"""
    assert run(code).result == [["README.md", "sw/test-00000-of-00001.parquet"], sorted(FILES)]
    offline = run(f"result = fetch.listing({repo}, manifest)", HF_HUB_OFFLINE="1")
    assert offline.result == ["README.md", "sw/test-00000-of-00001.parquet"]
    call = run(f"result = fetch.listing({REPO}, manifest)", HF_HUB_OFFLINE="1")
    refused(
        call, 2, f"{KEY}/: HF_HUB_OFFLINE is set and fetched.sha256 names none of its files; unset it to fetch them"
    )


def test_what_is_fetched_reads_as_the_datasets_client_reads_the_hub(run: Run, hub: Hub) -> None:
    rows = [{"premise": f"Mtu {number}.", "label": number % 2, "idx": number} for number in range(5)]
    revision = hub.add(
        "dataset", NAME, dataset({"sw": {"validation": rows[:2], "test": rows}, "et": {"test": rows[:1]}})
    )
    code = f"""import datasets
datasets.disable_progress_bars()
names = ["sw/test-00000-of-00001.parquet"]
paths = fetch.fetch(Repo("dataset", {NAME!r}, {revision!r}), names, manifest)
fetched = datasets.load_dataset("parquet", data_files=[str(paths[name]) for name in names], split="train")
named = datasets.load_dataset({NAME!r}, "sw", revision={revision!r})
result = [fetched.to_list(), named["test"].to_list(), len(named["validation"]), str(fetched.features["label"])]"""
    call = run(code)
    assert call.result == [rows, rows, 2, "Value('int64')"]


def test_a_gated_repository_is_fetched_with_the_token_which_is_written_nowhere(
    run: Run, hub: Hub, tmp_path: Path, figures: Callable[[str, int], None]
) -> None:
    """A token goes to the hub alone: to no other host, into no message, no cache and no manifest."""
    hub.add("model", NAME, FILES, REVISION, token=TOKEN)
    hub.fail("GET /large/", Fault(stop_after=1000))
    hub.fail(f"HEAD /{NAME}/", Fault(status=503))
    call = run(FETCH, HF_TOKEN=TOKEN)
    right(call, tmp_path)
    assert {served.authorization for served in hub.requests("/large/")} == {None}, "the token went to another host"
    hub.fail("HEAD", Fault(status=500), times=99)
    broken = run(FETCH.replace("config", "other"), HF_TOKEN=TOKEN)
    spoiled = run(FETCH, HF_TOKEN=TOKEN + "\u00e9", HF_HOME=str(tmp_path / "spoiled"))
    refused(spoiled, 2, "the request cannot be sent; check HF_TOKEN")
    for text in (call.stderr, broken.stderr, spoiled.stderr):
        assert TOKEN not in text
    for path in tmp_path.rglob("*"):
        assert TOKEN.encode() not in (path.read_bytes() if path.is_file() else str(path).encode()), path
    figures("fetches by a token", 3)


# Faults that pass.


def test_a_dropped_connection_goes_on_where_it_stopped(run: Run, hub: Hub, tmp_path: Path) -> None:
    """The client keeps whole chunks of 10 MiB."""
    content, chunk = hashlib.shake_128(b"longer").digest(12_000_000), 10 * 2**20
    revision = hub.add("model", NAME, {"model.safetensors": content})
    hub.fail("GET /large/", Fault(stop_after=11_000_000))
    hub.fail("GET /large/", Fault(stop_after=1000))
    call = run(f"result = fetch.fetch(Repo('model', {NAME!r}, {revision!r}), ['model.safetensors'], manifest)")
    assert [served.range for served in hub.requests("GET /large/")] == [None, *[f"bytes={chunk}-"] * 2]
    assert hub.sent("GET /large/") == 11_000_000 + 1000 + len(content) - chunk
    assert Path(call.result["model.safetensors"]).read_bytes() == content
    assert noted(tmp_path) == {f"models/{NAME}@{revision}/model.safetensors": sha256(content)}
    assert call.stderr.count("\n") == 1, call.stderr


def test_a_connection_reset_is_tried_again(run: Run, hub: Hub, tmp_path: Path) -> None:
    hub.fail("GET /large/", Fault(stop_after=100_000, reset=True))
    right(run(FETCH), tmp_path)


def test_a_server_that_falls_silent_is_asked_again(run: Run, hub: Hub, tmp_path: Path) -> None:
    hub.fail("GET /large/", Fault(stall=2))
    call = run(FETCH, HF_HUB_DOWNLOAD_TIMEOUT="1")
    right(call, tmp_path)
    assert call.waits == [1]


def test_a_server_without_ranges_starts_the_file_again(run: Run, hub: Hub, tmp_path: Path) -> None:
    hub.fail("GET /large/", Fault(stop_after=100_000, headers={"Accept-Ranges": None}))
    hub.fail("GET /large/", Fault(status=200, body=LARGE, headers={"Content-Length": str(len(LARGE))}))
    right(run(FETCH), tmp_path)


@pytest.mark.parametrize("where", ["HEAD /owner", "GET /large/", "GET /owner/name/resolve"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_with_growing_waits(
    run: Run, hub: Hub, tmp_path: Path, where: str, status: int
) -> None:
    hub.fail(where, Fault(status=status), times=2)
    call = run(FETCH)
    right(call, tmp_path)
    assert call.waits == [1.0, 2.0]


@pytest.mark.parametrize("headers", [{"Retry-After": "7"}, {"RateLimit": '"api";r=0;t=7'}])
def test_a_server_that_says_how_long_to_wait_is_believed(
    run: Run, hub: Hub, tmp_path: Path, headers: dict[str, str | None]
) -> None:
    hub.fail("HEAD", Fault(status=429, headers=headers))
    call = run(FETCH)
    right(call, tmp_path)
    assert call.waits == [8.0]
    assert f"{CONFIG_KEY}: HTTP 429 Too Many Requests; try 2 of 5 in 8 s" in call.stderr


# Faults that end in one line.

LISTING = f"result = fetch.listing({REPO}, manifest)"
LATER = "in 5 tries; run again later (finished downloads are kept)"
OTHER_COMMIT = "check HF_ENDPOINT, and that the revision is a commit of this repository"
NO_HUB = f"{KEY}: the answer does not come from a hub; check HF_ENDPOINT and the proxy"
OTHER_SIZE = f"{LARGE_KEY}: the server did not send as many bytes as it announced; run again, or check HF_ENDPOINT"
LINES: dict[str, tuple[str, str, Fault, str]] = {
    "429 without Retry-After": (FETCH, "HEAD", Fault(status=429), f"{CONFIG_KEY}: HTTP 429 Too Many Requests, {LATER}"),
    "429 with a long Retry-After": (
        FETCH,
        "HEAD",
        Fault(status=429, headers={"Retry-After": "3600"}),
        f"{CONFIG_KEY}: HTTP 429 Too Many Requests, with 3601 s to wait; run again after that",
    ),
    "429 with a long Retry-After of the other host": (
        FETCH,
        "GET /large",
        Fault(status=429, headers={"Retry-After": "3600"}),
        f"{LARGE_KEY}: HTTP 429 Too Many Requests, with 3601 s to wait; run again after that",
    ),
    "503": (FETCH, "HEAD", Fault(status=503), f"{CONFIG_KEY}: HTTP 503 Service Unavailable, {LATER}"),
    "503 of the other host": (
        FETCH,
        "GET /large",
        Fault(status=503),
        f"{LARGE_KEY}: HTTP 503 Service Unavailable, {LATER}",
    ),
    "401": (
        FETCH,
        "HEAD",
        Fault(status=401),
        f"{CONFIG_KEY}: HTTP 401 Unauthorized; set HF_TOKEN to a token that may read it, and accept its licence if",
    ),
    "403": (
        FETCH,
        "HEAD",
        Fault(status=403),
        f"{CONFIG_KEY}: HTTP 403 Forbidden; set HF_TOKEN to a token that may read it, and accept its licence if",
    ),
    "a page that is no hub's": (
        FETCH,
        "HEAD",
        Fault(headers={"X-Repo-Commit": None}),
        f"{CONFIG_KEY}: expected an answer for commit {REVISION}, got none; {OTHER_COMMIT}",
    ),
    "a moved revision": (
        FETCH,
        "HEAD",
        Fault(headers={"X-Repo-Commit": "3" * 40}),
        f"{CONFIG_KEY}: expected an answer for commit {REVISION}, got {'3' * 40}; {OTHER_COMMIT}",
    ),
    "an answer that is no JSON": (LISTING, "GET /api", Fault(body=b"<html>"), NO_HUB),
    "JSON of something else": (LISTING, "GET /api", Fault(body=b"[1]"), NO_HUB),
    "a size that is too large": (FETCH, "HEAD /.*large", Fault(headers={"X-Linked-Size": "400001"}), OTHER_SIZE),
    "a size that is too small": (FETCH, "HEAD /.*large", Fault(headers={"X-Linked-Size": "399999"}), OTHER_SIZE),
    "a size beyond the disk": (
        FETCH,
        "HEAD /.*large",
        Fault(headers={"X-Linked-Size": str(10**17)}),
        "home/hub: expected 1e+08 GB of free space, got ",
    ),
    "a tag that is no hash": (
        FETCH,
        "HEAD /.*config",
        Fault(headers={"ETag": '"abc"'}),
        f"{CONFIG_KEY}: expected a hash from the hub, got none; if {CONFIG_HASH} is right, add the line "
        f"'{CONFIG_HASH}  {CONFIG_KEY}' to fetched.sha256",
    ),
}


@pytest.mark.parametrize("fault", LINES)
def test_a_fault_ends_in_one_line(
    run: Run, hub: Hub, tmp_path: Path, fault: str, figures: Callable[[str, int], None]
) -> None:
    """A hub that fails, for good, ends a fetch in one line and leaves nothing that could be taken for whole."""
    code, where, what, line = LINES[fault]
    hub.fail(where, what, times=99)
    call = run(code)
    refused(call, 2, line)
    assert noted(tmp_path) == {}
    assert sum(call.waits) < 60
    assert not list((tmp_path / "home").rglob("*.incomplete"))
    if "size" in fault:
        assert [path.name for path in cached(tmp_path)] != ["large.safetensors"]
    figures("faults told in one line", 1)


def test_no_hub_at_all(run: Run, hub: Hub) -> None:
    call = run(FETCH, HF_ENDPOINT="http://127.0.0.1:9")
    refused(call, 2, f"{CONFIG_KEY}: no connection, in 5 tries; run again later (finished downloads are kept)")
    assert call.waits == [1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("repo", "line"),
    [
        (
            "Repo('model', 'owner/absent', '1' * 40)",
            f"models/owner/absent@{REVISION}/config.json: no such repository, or a private one; check its name, or set "
            "HF_TOKEN to a token that may read it",
        ),
        (
            "Repo('model', 'owner/name', '4' * 40)",
            f"models/{NAME}@{'4' * 40}/config.json: no such revision; set one that the repository has",
        ),
        (
            "Repo('model', 'a/b/c', '1' * 40)",
            f"models/a/b/c@{REVISION}/config.json: not a name that a repository can have; check it",
        ),
    ],
)
def test_what_the_hub_does_not_have_is_named(run: Run, repo: str, line: str) -> None:
    refused(run(f"result = fetch.fetch({repo}, ['config.json'], manifest)"), 2, line)


@pytest.mark.parametrize("token", ["", "hf_of_someone_else"])
def test_a_gated_repository_says_what_to_do(run: Run, hub: Hub, token: str) -> None:
    hub.add("model", NAME, FILES, REVISION, token=TOKEN)
    line = f"{CONFIG_KEY}: gated; accept its licence on the repository's page under {hub.url}, then set HF_TOKEN"
    refused(run(FETCH, HF_TOKEN=token), 2, line)


@pytest.mark.parametrize("revision", ["main", "v1.0", "1" * 39, "A" * 40])
def test_an_unpinned_revision_is_refused_with_the_line_that_pins_it(run: Run, hub: Hub, revision: str) -> None:
    code = f"result = fetch.pinned(Repo('model', {NAME!r}, {revision!r}), manifest)"
    expected = f"models/{NAME}: revision: expected 40 hexadecimal digits or first, got {revision!r}, which may move"
    unknown = f"{expected}; set `revision: <40 digits>` (not looked up: "
    refused(run(code), 2, f"{expected}; set `revision: {REVISION}`, which it is now" if revision == "main" else unknown)
    refused(run(code, HF_HUB_OFFLINE="1"), 2, unknown, "HF_HUB_OFFLINE is set")


def test_offline_with_a_missing_file(run: Run, hub: Hub) -> None:
    run(f"fetch.fetch({REPO}, ['config.json'], manifest)")
    asked = len(hub.requests())
    call = run(FETCH, HF_HUB_OFFLINE="1")
    refused(call, 2, f"{LARGE_KEY}: not in the cache ", "unset it to fetch the missing files (1 of those needed)")
    assert len(hub.requests()) == asked


def test_no_space_left(run: Run, tmp_path: Path) -> None:
    """A limit on the size of a file stands in for a full disk, which only root could make: an error to the writer."""
    call = run(f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); {FETCH}")
    refused(call, 2, f"{LARGE_KEY}: no space left (File too large); free some, or move the cache ")
    assert [path.name for path in cached(tmp_path)] == ["config.json"]
    assert not list((tmp_path / "home").rglob("*.incomplete"))
    right(run(FETCH), tmp_path)


@pytest.mark.parametrize(("name", "kind"), [("config.json", "git blob id"), ("part/large.safetensors", "SHA-256")])
def test_a_corrupted_byte_is_found_on_the_very_first_fetch(
    run: Run, hub: Hub, tmp_path: Path, name: str, kind: str
) -> None:
    hub.fail("GET /(large|.*config)" if name == "config.json" else "GET /large/", Fault(flip=3))
    call = run(FETCH)
    given = blob_id(FILES[name]) if kind == "git blob id" else sha256(FILES[name])
    refused(call, 1, f"{KEY}/{name}: expected {kind} {given}, got ", "removed from the cache, run again to fetch it")
    assert noted(tmp_path) == {}
    right(run(FETCH), tmp_path)


def test_a_byte_that_changes_in_the_cache_is_found(run: Run, hub: Hub, tmp_path: Path) -> None:
    right(run(FETCH), tmp_path)
    (path,) = (path for path in cached(tmp_path) if path.name == "large.safetensors")
    path.resolve().write_bytes(LARGE[:-1] + b"?")
    call = run(FETCH, HF_HUB_OFFLINE="1")
    got = hashlib.sha256(LARGE[:-1] + b"?").hexdigest()
    refused(call, 1, f"{LARGE_KEY}: expected SHA-256 {sha256(LARGE)}, got {got}; removed from the cache")
    refused(run(FETCH, HF_HUB_OFFLINE="1"), 2, "part/large.safetensors: not in the cache")
    right(run(FETCH), tmp_path)


def test_a_file_that_is_not_the_manifest_s_is_refused_and_kept(run: Run, hub: Hub, tmp_path: Path) -> None:
    other = "0" * 64
    (tmp_path / "fetched.sha256").write_text(f"{other}  {KEY}/config.json\n")
    for _ in range(2):
        call = run(FETCH)
        refused(
            call, 1, f"fetched.sha256: {CONFIG_KEY}: expected SHA-256 {other}, got {CONFIG_HASH}, which is the hub's"
        )
    assert [path.name for path in cached(tmp_path)] == ["config.json"]
    assert noted(tmp_path) == {f"{KEY}/config.json": other}


def test_two_processes_note_what_they_fetch_into_one_manifest(hub: Hub, tmp_path: Path) -> None:
    """Each writer reads the manifest again under a lock: no line of another's is lost."""
    manifest = tmp_path / "fetched.sha256"
    manifest.write_text("# shared\n")
    code = """
import sys
from pathlib import Path
from tli.data.hub import pins
for number in range(20):
    pins.note(Path("fetched.sha256"), {f"models/{sys.argv[1]}/{number}": f"{number:040x}"})
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    writers = [
        subprocess.Popen([sys.executable, "-c", code, name], cwd=tmp_path, env=environment) for name in ("a", "b")
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert pins.read(manifest) == {f"models/{name}/{n}": f"{n:040x}" for name in ("a", "b") for n in range(20)}


ZEROS = "0" * 40


@pytest.mark.parametrize(
    "line",
    [
        "<<<<<<< HEAD",
        "abc  models/a/b",
        f"{'0' * 64}  models/a/b",
        f"{ZEROS}  models/a/b@{ZEROS}/c",
        f"{ZEROS} models/a/b",
    ],
)
def test_a_broken_manifest_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "fetched.sha256"
    path.write_text(f"# comment\n{line}\n")
    with pytest.raises(UserError, match=r"fetched\.sha256:2: expected '<SHA-256>  models/.*; fix that line"):
        pins.read(path)


def test_two_values_for_one_file_or_no_manifest_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fetched.sha256"
    path.write_text(f"{'0' * 40}  models/a/b\n{'1' * 40}  models/a/b\n")
    with pytest.raises(UserError, match=r"fetched\.sha256:2: .*each once"):
        pins.read(path)
    with pytest.raises(UserError, match="no such manifest; restore it"):
        pins.read(tmp_path / "absent")


def test_the_committed_manifest_can_be_read() -> None:
    assert isinstance(pins.read(ROOT / "fetched.sha256"), dict)


# Plain addresses.


@pytest.mark.parametrize("by", ["sha256", "git_blob"])
def test_a_plain_file_is_fetched_once_and_checked(run: Run, hub: Hub, tmp_path: Path, by: str) -> None:
    hub.plain["/files/list.csv"] = LARGE
    expected = sha256(LARGE) if by == "sha256" else blob_id(LARGE)
    code = f"result = fetch.fetch_url('{hub.url}/files/list.csv', Path('out/list.csv'), {by}={expected!r})"
    hub.fail("GET /files", Fault(stop_after=1000))
    hub.fail("GET /files", Fault(status=503))
    assert run(code).result == "out/list.csv"
    assert (tmp_path / "out/list.csv").read_bytes() == LARGE
    asked = len(hub.requests())
    assert run(code, HF_HUB_OFFLINE="1").status == 0
    assert len(hub.requests()) == asked
    refused(
        run(code.replace(expected, expected[::-1])),
        1,
        f"{hub.url}/files/list.csv: expected ",
        f" {expected[::-1]}, got {expected}; nothing was written",
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"list.csv"}


def test_a_mirror_stands_in_for_an_address(run: Run, hub: Hub, tmp_path: Path) -> None:
    url, mirrored = "https://example.invalid/a/list.csv", tmp_path / "mirror"
    code = f"result = fetch.fetch_url({url!r}, Path('list.csv'), sha256={sha256(LARGE)!r})"
    mirrored.mkdir()
    line = f"{mirrored}/list.csv: no such file; put the file of {url} there, or unset TLI_MIRROR"
    refused(run(code, TLI_MIRROR=str(mirrored)), 2, line)
    (mirrored / "list.csv").write_bytes(LARGE)
    assert run(code, TLI_MIRROR=str(mirrored), HF_HUB_OFFLINE="1").status == 0
    (tmp_path / "list.csv").unlink()
    hub.plain["/base/list.csv"] = LARGE
    assert run(code, TLI_MIRROR=f"{hub.url}/base/").status == 0
    assert (tmp_path / "list.csv").read_bytes() == LARGE
    (tmp_path / "list.csv").unlink()
    refused(run(code, HF_HUB_OFFLINE="1"), 2, f"{url}: HF_HUB_OFFLINE is set; unset it to fetch")
    gone = f"{hub.url}/absent/list.csv: HTTP 404 Not Found; check the address"
    refused(run(code, TLI_MIRROR=f"{hub.url}/absent"), 2, gone)
