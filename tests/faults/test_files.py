"""Files that rot or are tampered with: `tli check` names each, whatever its time says, and --repair mends."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from checkout import Checkout
from tiny import ROOT
from tli.cli import main
from tli.commands import check_files, hashed_files
from tli.io.files import MANIFEST, write_manifest

EACH, BATCH = 32, 8  # damages a place, and how many of them are there when the checkout is examined
PLACES = {  # name: patterns of the files that are damaged
    "data": ("data/**/*",),
    "cache": (".dvc/cache/files/md5/*/*",),
    "remote": (".dvc/remote/files/md5/*/*",),
    "NF4 weights": ("build/*/quantized/nf4/*.safetensors", "build/*/quantized/SHA256SUMS"),
    "adapters": ("build/*/adapter/*", "build/*/sweep/adapters/**/*"),
    "rows": ("build/**/*.tsv", "build/**/*.jsonl", "build/**/*.txt"),
    "what git keeps": ("results/**/*.json", "results/**/*.tsv", "paper/tables/**/*", "paper/figures/**/*"),
}


def duplicate(done: Checkout, folder: Path) -> Checkout:
    """The finished run, with its times and hard links."""
    subprocess.run(["cp", "-a", str(done.root), str(folder / "project")], check=True)
    return Checkout(folder / "project")


@pytest.fixture(scope="module")
def tree(done: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy whose files are damaged and put right again."""
    return duplicate(done, tmp_path_factory.mktemp("tree"))


@pytest.fixture
def copy(done: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A copy to be changed at will, the current folder."""
    made = duplicate(done, tmp_path)
    monkeypatch.chdir(made.root)
    return made


def overwrite(path: Path, data: bytes) -> None:
    """Other bytes under the same inode, mode and time, which is all of a file that DVC looks at beside its size."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def flipped(rng: random.Random, data: bytes) -> bytes:
    place, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
    return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


def flip(path: Path, seed: int = 0) -> None:
    overwrite(path, flipped(random.Random(seed), path.read_bytes()))


def inode(path: Path) -> tuple[int, int]:
    return path.stat().st_dev, path.stat().st_ino


def check(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["check", *arguments])


def told(result: Result) -> list[str]:
    """The files that the lines on standard error name, the last line's summary left out."""
    assert result.exit_code in (0, 1), result.output
    return [line.partition(": ")[0] for line in result.stderr.splitlines() if not line.startswith("Error: ")]


def damages(rng: random.Random, found: Sequence[Path]) -> Iterator[tuple[str, dict[Path, bytes]]]:
    """Without end: the kind of a damage, and what the files that it strikes hold after it."""
    sizes: dict[int, list[Path]] = {}
    for path in found:
        sizes.setdefault(path.stat().st_size, []).append(path)
    same = [paths for paths in sizes.values() if len({path.read_bytes() for path in paths}) > 1]
    for kind in itertools.cycle(("flip", "truncate", "swap") if same else ("flip", "truncate")):
        if kind == "swap":
            one, other = rng.sample(rng.choice(same), 2)
            if one.read_bytes() != other.read_bytes():
                yield kind, {one: other.read_bytes(), other: one.read_bytes()}
            continue
        path = rng.choice(found)
        data = path.read_bytes()
        yield kind, {path: data[: rng.randrange(len(data))] if kind == "truncate" else flipped(rng, data)}


@pytest.mark.parametrize("place", PLACES)
def test_every_damage_is_found_and_its_file_named(
    tree: Checkout, place: str, monkeypatch: pytest.MonkeyPatch, figures: Callable[[str, int], None]
) -> None:
    """Flipped bits, truncations, and pairs of files of one size that changed places, their times kept."""
    monkeypatch.chdir(tree.root)
    assert check_files.examine().findings == []
    known = {path: inode(path) for path in hashed_files.read().digests}
    found = [path for pattern in PLACES[place] for path in sorted(Path().glob(pattern)) if path in known]
    found = [path for path in found if path.stat().st_size]
    endless, count = damages(random.Random(place), found), 0
    while count < EACH:
        struck: dict[Path, bytes] = {}
        kinds: list[str] = []
        while len(kinds) < min(BATCH, len(found) // 3):
            kind, after = next(endless)
            if not {inode(path) for path in after} & {inode(path) for path in struck}:  # one damage a file
                struck |= after
                kinds.append(kind)
        before = {path: path.read_bytes() for path in struck}
        for path, data in struck.items():
            overwrite(path, data)
        inodes = {inode(path) for path in struck}
        named = {finding.path for finding in check_files.examine().findings}
        assert named == {path for path, number in known.items() if number in inodes}
        for path, data in before.items():
            overwrite(path, data)
        for kind in kinds:
            figures(f"{kind}, {place}", 1)
        count += len(kinds)
    assert check_files.examine().findings == []


def test_dvc_takes_what_it_does_not_look_at_for_unchanged_and_check_does_not(copy: Checkout) -> None:
    weights = next(Path("build").glob("*/quantized/nf4/*.safetensors"))
    assert copy("dvc", "status", "--json").strip() == "{}"
    flip(weights)
    assert copy("dvc", "status", "--json").strip() == "{}"
    said = copy("python", "-m", "tli", "check", ok=False).splitlines()
    assert [line.partition(": ")[0] for line in said[:-1] if line.startswith("build/")] == [str(weights)]
    assert said[-1].startswith("Error: check: expected ")


def test_a_checkout_as_it_was_written_is_said_to_be(copy: Checkout) -> None:
    result = check()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.output.startswith(f"check   {len(hashed_files.read().digests)} files, ")
    assert result.output.endswith(" MB, all unchanged since they were written\n")


def test_what_has_a_copy_is_put_back(copy: Checkout, figures: Callable[[str, int], None]) -> None:
    """In data, cache, remote, weights, rows and what git keeps: one command, and nothing has to be made again."""
    assert check().exit_code == 0  # as at the end of `make repro`
    before = copy.digests("data", "build", "results", "paper", ".dvc/cache", ".dvc/remote")
    remote = sorted(Path(".dvc/remote").rglob("*"), key=str)
    profile = copy.model
    struck = [
        Path("data/pairs.tsv"),
        next(path for path in remote if path.suffix == ".dir"),
        next(Path(".dvc/cache/files/md5").glob("*/*.dir")),
        Path("build", profile, "quantized", "nf4", "block-001.safetensors"),
        Path("build", profile, "quantized", "SHA256SUMS"),
        Path("results", profile, "headline.json"),
        next(Path("paper", "tables").glob("*.csv")),
    ]
    rows = Path("build", profile, "score.tsv")
    data = rows.read_bytes()
    rows.unlink()  # of its own again, where it was a link to the cache
    rows.write_bytes(data)
    for path in (*struck, rows):
        flip(path)
    Path("build", profile, "microworld", "corpus.txt").unlink()
    Path("build", profile, "microworld", "more.txt").write_text("no stage wrote this")
    assert {*map(str, struck), str(rows)} < {*told(check())}
    result = check("--repair")
    assert result.exit_code == 0, result.output
    assert "all unchanged since they were written" in result.stdout
    assert copy.digests("data", "build", "results", "paper", ".dvc/cache", ".dvc/remote") == before
    assert copy("dvc", "status", "--json").strip() == "{}"
    assert (check_files.ASIDE / "build" / profile / "microworld" / "more.txt.1").read_text() == "no stage wrote this"
    figures("files put back", len(struck) + 2)


def test_what_has_no_copy_is_set_aside_and_made_again(copy: Checkout, figures: Callable[[str, int], None]) -> None:
    before = copy.digests("build", "results", "paper", ".dvc/cache/files")
    profile = copy.model
    struck = [Path("build", profile, "similarity.tsv"), Path("build", profile, "adapter", "adapter_model.safetensors")]
    for path in struck:
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        for each in {inode(one): one for one in (path, Path(".dvc/cache/files/md5", md5[:2], md5[2:]))}.values():
            flip(each, seed=1)
    result = check()
    assert {*map(str, struck)} < {*told(result)}
    assert "sets it aside; then `dvc repro` makes it again" in result.stderr
    result = check("--repair")
    assert "run `dvc repro`" in result.stderr
    assert copy.ran(copy("dvc", "repro")) == {"train", "similarity"}
    assert check().exit_code == 0
    assert copy.digests("build", "results", "paper", ".dvc/cache/files") == before
    figures("files made again", len(struck))


def test_a_list_edited_by_hand_is_no_loss(copy: Checkout) -> None:
    words = Path("data/pairs.tsv")
    edited = words.read_text(encoding="utf-8") + "neno\tword\tnoun\tlanguage\ttrained\n"
    words.unlink()
    words.write_text(edited, encoding="utf-8")
    result = check()
    assert told(result) == [str(words)]
    assert "if the change is intended, `dvc repro` accepts it" in result.stderr
    assert check("--repair").exit_code == 0
    assert (check_files.ASIDE / "data" / "pairs.tsv.1").read_text(encoding="utf-8") == edited
    assert words.read_text(encoding="utf-8") != edited


def test_what_dvc_remembers_of_runs_is_held_against_its_name(copy: Checkout) -> None:
    one, other = sorted(Path(".dvc/cache/runs").glob("*/*/*"))[:2]
    text = one.read_text(encoding="utf-8")
    overwrite(one, text.replace("md5: ", "md5: 0", 1).encode())
    overwrite(other, b"\x00")
    assert told(check()) == sorted([str(one), str(other)])
    assert check("--repair").exit_code == 0
    assert not one.exists()


@pytest.mark.parametrize("git", [True, False])
def test_a_clone_without_a_run_has_nothing_wrong(
    done: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: bool
) -> None:
    done("git", "clone", "-q", str(done.root), str(tmp_path / "project"))
    monkeypatch.chdir(tmp_path / "project")
    if not git:
        (tmp_path / "project" / ".git").rename(tmp_path / "git")
    result = check()
    assert result.exit_code == 0, result.output
    assert "missing outputs, which `dvc repro` makes: " in result.output
    table = next(Path("paper", "tables").glob("*.csv"))
    flip(table)
    shutil.rmtree(hashed_files.NOTED)  # then git alone knows what stood there
    assert told(check()) == [str(table if git else table.parent)]


# Checkouts of a file or two.

CONTENT = b"what the stage wrote\n"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose lock names the folder `out` with one file of CONTENT, `out`/file."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    for name in (".dvc", "out"):
        Path(name).mkdir()
    Path(".dvc", "config").touch()
    Path("out", "file").write_bytes(CONTENT)
    lock()
    return tmp_path


def lock() -> None:
    """Locks the folder `out` as it is, as DVC would."""
    found = {path.relative_to("out"): hashed_files.digest(path).md5 for path in Path("out").iterdir()}
    md5 = hashed_files.md5_of(hashed_files.listing(found))
    outs = [{"path": "out", "hash": "md5", "md5": f"{md5}.dir"}]
    Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"stage": {"outs": outs}}}))


def test_a_listing_is_dvc_s_own(done: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done.root)
    tree = hashed_files.read()
    folders = [output for output in tree.files if output.md5.endswith(".dir")]
    assert len(folders) > 10
    for output in folders:
        assert hashed_files.md5_of(tree.listing(output)) == output.md5.removesuffix(".dir")


def test_what_was_damaged_before_dvc_hashed_it_is_found_by_its_manifest(small: Path) -> None:
    write_manifest(Path("out"))
    lock()
    assert check().exit_code == 0
    flip(Path("out/file"))
    lock()
    result = check()
    assert told(result) == ["out/file"]
    assert f"expected SHA-256 {hashlib.sha256(CONTENT).hexdigest()} (out/{MANIFEST})" in result.stderr


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (Path.unlink, "no file"),
        (fifo, "no regular file"),
        (dangling, "No such file or directory"),
        (lambda path: overwrite(path, b""), hashlib.md5(b"").hexdigest()),
    ],
)
def test_a_file_that_cannot_be_read_is_named_too(small: Path, change: Callable[[Path], None], got: str) -> None:
    assert check().exit_code == 0
    change(Path("out/file"))
    result = check()
    assert told(result) == ["out/file"]
    assert f"got {got}; " in result.stderr


@pytest.mark.parametrize(
    ("stage", "needed"),
    [("train@microworld", False), ("sweep-train@unknown-16", False), ("train@smollm2", True), ("check", True)],
)
def test_outputs_of_models_that_the_run_does_not_list_need_not_exist(small: Path, stage: str, needed: bool) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("models: [smollm2, microworld]", "models: [smollm2]"))
    locked = json.loads(Path("dvc.lock").read_text())
    locked["stages"] = {stage: locked["stages"]["stage"]}
    Path("dvc.lock").write_text(json.dumps(locked))
    Path("out/file").unlink()
    assert told(check()) == (["out"] if needed else [])


def test_a_file_of_many_names_is_read_once(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        os.link("out/file", f"out/{number}")
    lock()
    read: list[Path] = []
    digest = hashed_files.digest
    monkeypatch.setattr(hashed_files, "digest", lambda path, sha256=False: read.append(path) or digest(path, sha256))
    assert check().exit_code == 0
    assert len(read) == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda: shutil.rmtree(".dvc"), "check: expected a DVC repository in this folder, got none; change to"),
        (
            lambda: Path("dvc.lock").write_text("stages: [1]"),
            "dvc.lock: expected a lock file of DVC, got something else; ",
        ),
        (
            lambda: Path("dvc.lock").write_text("a: [" * 40),
            "dvc.lock: expected a lock file of DVC, got something else; ",
        ),
        (lambda: Path("dvc.lock").write_bytes(b"\xff"), "dvc.lock: byte 0 is not UTF-8; "),
        (lambda: Path(".dvc/config").write_text("[core\n"), ".dvc/config: config file error"),
    ],
)
def test_a_checkout_that_is_none_is_one_line(small: Path, spoil: Callable[[], object], said: str) -> None:
    spoil()
    result = check()
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {said}")
    assert result.stderr.count("\n") == 1


def test_repair_is_no_part_of_the_stage(small: Path) -> None:
    result = check("--out", "out/checked", "--repair")
    assert (result.exit_code, Path("out/checked").exists()) == (2, False)
    assert result.stderr.startswith("Error: check: --repair: expected no --out, got one")
