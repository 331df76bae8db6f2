"""The README promises only what is there: targets, commands and their options, parameters, paths."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest
from ruamel.yaml import YAML

from tiny import ROOT
from tli.cli import main

PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command in a fenced block or between back-ticks, without prompts and comments."""
    fenced = "\n".join(re.findall(r"^```(?:sh|bash|console|text)?\n(.*?)^```", text, re.M | re.S))
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    for line in (*fenced.replace("\\\n", " ").splitlines(), *inline):
        for part in re.split(r"&&|;|\|(?!\|)", line.strip().removeprefix("$ ")):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:  # prose with an apostrophe, no command
                continue
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words[:2] == ["python", "-m"]:
                words = words[2:]
            if words:
                yield words


def of(program: str) -> list[tuple[str, tuple[str, ...]]]:
    """(page, arguments) of every call of `program` on the pages."""
    return [
        (page.name, tuple(words[1:]))
        for page in PAGES
        for words in commands(page.read_text(encoding="utf-8"))
        if words[0] == program
    ]


def test_the_two_commands_stand_in_the_readme() -> None:
    assert {("README.md", ("repro",)), ("README.md", ("test",))} <= set(of("make"))


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    variables = set(re.findall(r"^([A-Z_]+) \?=", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for page, arguments in of("make"):
        for argument in arguments:
            name, assigned, _ = argument.partition("=")
            assert name in (variables if assigned else targets), f"{page}: make {' '.join(arguments)}"


def test_every_tli_command_and_option_exists() -> None:
    called = [(page, arguments) for page, arguments in of("tli") if arguments]
    for page, arguments in called:
        line = f"{page}: tli {' '.join(arguments)}"
        while arguments[0] in ("--model", "--set") and len(arguments) > 2:  # before the command, with a value
            arguments = arguments[2:]
        if arguments[0].startswith("-"):
            assert arguments[0] in ("-h", "--help", "--version", "--model", "--set"), line
            continue
        command = main.commands.get(arguments[0])
        assert command is not None, line
        options = {name for option in command.params if isinstance(option, click.Option) for name in option.opts}
        used = {word.partition("=")[0] for word in arguments[1:] if word.startswith("-")}
        assert used <= options | {"-h", "--help"}, line


def test_every_dvc_command_exists_and_sets_keys_that_exist() -> None:
    from dvc.cli.parser import get_main_parser

    (subcommands,) = (action for action in get_main_parser()._actions if hasattr(action, "choices") and action.choices)
    params = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    called = of("dvc")
    assert called
    for page, arguments in called:
        if not arguments:  # the program's name in a sentence
            continue
        line = f"{page}: dvc {' '.join(arguments)}"
        assert arguments[0] in subcommands.choices, line
        for flag, value in pairwise(arguments):
            if flag in ("-S", "--set-param"):
                if value.startswith("$(tli study-keys"):
                    continue
                at = params
                for key in value.partition("=")[0].split("."):
                    assert key in at, line
                    at = at[key]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_exists(page: Path) -> None:
    """Links to files, and back-ticked paths with a slash that begin with a folder of the project (`<name>` = any)."""
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    for link in filter(None, links):
        if not re.match(r"[a-z]+:", link):
            assert (page.parent / link).exists(), f"{page.name}: ({link})"
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"build"}
    for path in re.findall(r"`([\w.<>*-]+/[\w./<>*-]*)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
        if path.split("/")[0] in folders:
            assert any(ROOT.glob(re.sub(r"<\w+>", "*", path).rstrip("/"))), f"{page.name}: `{path}`"


def shown(page: Path) -> list[tuple[str, str]]:
    """(command, output) of every block marked `console`: a line that begins with `$ `, then what it prints."""
    blocks = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [(command, output) for command, output in blocks]


@pytest.mark.parametrize(("command", "output"), shown(ROOT / "docs" / "reviewing.md"))
def test_a_reviewer_sees_what_the_page_shows(command: str, output: str) -> None:
    """Every block of docs/reviewing.md is what its command prints from the committed results, to the byte."""
    call = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert call.stdout == output
    assert output.strip()


def test_every_excerpt_is_a_line_of_the_committed_tables() -> None:
    """No table row of measured values in docs/results.md is typed by hand."""
    shown = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    tables = [*(ROOT / "paper" / "tables").glob("*.md"), *(ROOT / "paper" / "supplement").glob("*/*.md")]
    known = {line for path in tables for line in path.read_text(encoding="utf-8").splitlines()}
    assert len(rows) > 10
    assert [row for row in rows if row not in known] == []


def test_every_path_of_the_repository_tree_exists() -> None:
    """Each line of the README's tree starts with a path; the indented ones are those of src/tli, all of them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"^```text\n(.*?)^```", readme.partition("## The repository")[2], re.M | re.S)
    package = {path.parent.name for path in (ROOT / "src" / "tli").glob("*/__init__.py")} | {"cli.py"}
    shown = set()
    for line in tree.splitlines():
        path = line.split()[0]
        assert (ROOT / "src" / "tli" / path if line.startswith(" ") else ROOT / path).exists(), line
        if line.startswith(" "):
            shown.add(path.split("/")[0])
    assert shown == package


def test_the_readme_fits_a_few_screens() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 125
