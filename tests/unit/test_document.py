"""The paper: no number in its source, every number from a file, with and without scores and sweep, the same bytes."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import typst

from runs import finished, smoke_models
from tiny import ROOT
from tli.analysis.render import read_model
from tli.analysis.results import load_yaml
from tli.config import parameters
from tli.config.parameters import Params
from tli.io.errors import CheckFailed, UserError
from tli.io.structured import read_json, write_json
from tli.report import document, numbers
from tli.report.cells import texts_by_key
from tli.stages import pages, paper

SOURCE = ROOT / "paper"
REPORTED = SOURCE / "reported.yaml"
ABSENT = {"scores": "has no benchmark items in this run", "sweep": "has no sweep over ranks"}
GAIN = "before_after/run,2.mask.nf4,trained/gain"


@pytest.fixture(scope="module")
def models() -> tuple[Params, Params]:
    return smoke_models()


def paths(root: Path, models: Sequence[Params]) -> dict[str, Any]:
    """The arguments of the stage `paper` for a run under `root`."""
    return {
        "source": SOURCE,
        "results": root / "results",
        "figures": root / "paper" / "figures",
        "reported": REPORTED,
        "numbers": root / "numbers",
        "out": root / "artifact.pdf",
        "models": models,
    }


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, models: tuple[Params, Params]) -> dict[str, Any]:
    """The arguments of the stage, and its outputs, for a run of both models; read only."""
    root = tmp_path_factory.mktemp("paper")
    finished(root, *models)
    arguments = paths(root, models)
    paper.run(**arguments)
    return arguments


def elsewhere(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same arguments with outputs in `folder`."""
    return given | {"numbers": folder / "numbers", "out": folder / "artifact.pdf"}


def content(given: dict[str, Any]) -> dict[str, Any]:
    """document.json as it was written."""
    data: dict[str, Any] = read_json(given["numbers"] / "document.json")
    return data


def absent(given: dict[str, Any], data: dict[str, Any], folder: Path) -> str:
    """What the document says it does not have, of the data at hand; compiles all of it."""
    write_json(folder / "document.json", data)
    (folder / "all").mkdir()
    figures = {model["name"]: given["figures"] / model["name"] for model in data["models"]}
    root = document.gather(folder / "all", SOURCE, folder / "document.json", figures)
    return typst.query(root / "main.typ", "<absent>", root=root, ignore_system_fonts=True)


MOST_PAGES = 18
# What main.typ may say in digits: indices and constants of its equations, names of data types.
ALLOWED = {"$ cal(L) = 1 / B sum_(i = 1)^B max (0, m + max_(j != i) s_(i j) - s_(i i)). $", "$log_2 r$", "FP4"}
ALLOWED |= {"SHA-256"}


def test_the_source_states_no_number() -> None:
    """Look-ups by key, citations and labels aside, no digit stands in main.typ but those above."""
    text = (SOURCE / "main.typ").read_text(encoding="utf-8")
    for piece in ALLOWED:
        assert piece in text
        text = text.replace(piece, "")
    text = re.sub(r'#?\b(n|has|says)\("[^"]*"(, "[^"]*")*\)', "", text)  # keys
    text = re.sub(r"@[a-z]+\d{4}[a-z]+", "", text)  # works by their key in references.bib
    text = re.sub(r"columns: \([^)]*\)|width: \d+%", "", text)  # columns of a table by key, how wide a figure is
    text = re.sub(r"#set page\(columns: 1\)|\.slice\(1\)|\.slice\(0, rows\)|models\.len\(\) == 1", "", text)
    assert re.findall(r".*\d.*", text) == []


def test_every_work_is_cited_and_has_a_place_to_be_found() -> None:
    entries = re.split(r"^@", (SOURCE / "references.bib").read_text(encoding="utf-8"), flags=re.M)[1:]
    cited = set(re.findall(r"@([a-z]+\d{4}[a-z]+)", (SOURCE / "main.typ").read_text(encoding="utf-8")))
    assert {re.findall(r"\{(\w+),", entry)[0] for entry in entries} == cited
    for entry in entries:
        assert all(re.search(rf"^  {field} = ", entry, re.M) for field in ("author", "title", "year")), entry
        assert re.search(r"^  (journal|booktitle|publisher|eprint) = ", entry, re.M), entry


def test_the_same_inputs_give_the_same_bytes_and_no_date(given: dict[str, Any], tmp_path: Path) -> None:
    again = elsewhere(given, tmp_path)
    paper.run(**again)
    made = given["out"].read_bytes()
    assert made.startswith(b"%PDF-")
    assert b"CreationDate" not in made
    assert again["out"].read_bytes() == made
    for name in ("document.json", "numbers.tex"):
        assert (again["numbers"] / name).read_bytes() == (given["numbers"] / name).read_bytes()


def test_every_cell_of_a_table_is_a_number_of_the_text_as_the_table_shows_it(given: dict[str, Any]) -> None:
    values = content(given)["numbers"]
    for params in given["models"]:
        tables = read_model(given["results"] / params.model / "tables.json").tables
        keys = [key for table in tables.values() for key in table.values()]
        assert {f"{params.model}/{key}" for key in keys} <= values.keys()
        for key, text in texts_by_key(tables).items():
            assert values[f"{params.model}/{key}"] == text
        gains = tables["before_after"]
        (at,) = (index for index, row in enumerate(gains.rows) if gains.row_name(row) == "run,2.mask.nf4,trained")
        shown = gains.text[at][[column.key for column in gains.columns].index("gain")]
        assert values[f"{params.model}/{GAIN}"] == shown
        assert float(shown.replace("−", "-")) == pytest.approx(gains.rows[at]["gain"], abs=0.01)


def test_other_numbers_are_those_of_the_files(given: dict[str, Any]) -> None:
    values = content(given)["numbers"]
    assert values["params.lora.rank"] == "16"
    assert values["params.train.lr"] == "0.0002"
    assert values["smollm2/params.model.sha256"] == given["models"][0].active.model.sha256
    assert values["smollm2/verify.claims.number"] == values["study.number"] == "18"


def test_published_values_are_rounded_as_the_tables_do() -> None:
    values = numbers.of_published(load_yaml(REPORTED))
    assert values["published.before_after.trained.before"] == "0.3211"
    assert values["published.before_after.trained.gain"] == "+0.0902"
    assert values["published.before_after.trained.p"] == "1.3320e-240"
    assert values["published.before_after.control.t"] == "18.45"
    assert values["published.pilot.2"] == "0.999980"
    assert values["published.pilot_last_but_one"] == values["published.pilot.31"] == "0.9876"
    assert values["published.half_units.t"] == "5e-6"
    assert values["published.last_but_one"] == "31"


def test_a_setting_that_differs_between_models_stands_under_each(given: dict[str, Any]) -> None:
    """`train.layer: last` is another number for another depth."""
    runs = [document.read(given["results"], params) for params in given["models"]]
    deeper = runs[0].params.train.model_copy(update={"layer": 30})
    runs[0] = runs[0]._replace(params=runs[0].params.model_copy(update={"train": deeper}))
    values = numbers.all_numbers(runs, load_yaml(REPORTED))
    assert "params.train.layer" not in values
    assert (values["smollm2/params.train.layer"], values["microworld/params.train.layer"]) == ("30", "2")
    assert values["params.train.margin"] == "0.4"


@pytest.mark.parametrize("number", [0, 1])
def test_one_model_alone_makes_a_document(given: dict[str, Any], number: int, tmp_path: Path) -> None:
    """Of a run of one model nothing of another is read."""
    params = given["models"][number]
    folders = {kind: tmp_path / kind for kind in ("figures", "results")}
    for kind, folder in folders.items():
        shutil.copytree(given[kind] / params.model, folder / params.model)
    paper.run(**elsewhere(given, tmp_path) | folders | {"models": [params]})
    assert [model["name"] for model in content(elsewhere(given, tmp_path))["models"]] == [params.model]


def test_a_model_without_tables_is_one_line(given: dict[str, Any], tmp_path: Path) -> None:
    missing = given["models"][0].model_copy(update={"model": "lugha_llama"})
    with pytest.raises(UserError, match=r"results/lugha_llama/tables.json: no such file"):
        paper.run(**elsewhere(given, tmp_path) | {"models": [*given["models"], missing]})
    assert not (tmp_path / "artifact.pdf").exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.045, "0.045"),
        (2e-4, "0.0002"),
        (5e-8, "5e-8"),
        (1e20, "1e20"),
        (-2.5, "−2.5"),
        (1 / 3, "0.333333333"),
        (2623616, "2,623,616"),
        (-3, "−3"),
        ("q_proj, v_proj", "q_proj, v_proj"),
        (None, "-"),
    ],
)
def test_a_number_outside_the_tables_is_as_it_was_written(value: Any, text: str) -> None:
    assert numbers.plain(value) == text


@pytest.mark.parametrize(("gain", "direction"), [(0.09, "rises"), (-0.2, "falls")])
def test_the_text_follows_the_sign(gain: float, direction: str, models: tuple[Params, Params], tmp_path: Path) -> None:
    finished(tmp_path, models[1], gain=gain)
    arguments = paths(tmp_path, models[1:])
    paper.run(**arguments)
    sentences = content(arguments)["models"][0]["sentences"]
    other = {"rises": "falls", "falls": "rises"}[direction]
    assert direction in sentences["in_short"]
    assert other not in sentences["in_short"]
    assert f"{other} at 0" in sentences["views"]


def test_one_sentence_says_what_a_model_lacks(given: dict[str, Any], tmp_path: Path) -> None:
    """Without items no section on scores, without a sweep none on rank; the other model keeps its own."""
    data = content(given)
    whole = absent(given, data, tmp_path)
    assert whole.count(ABSENT["scores"]) == 1
    assert ABSENT["sweep"] not in whole
    tables = {model["name"]: model["tables"] for model in data["models"]}
    scored = {
        "robustness",
        "accuracy_by_rank",
        "changes",
        "gap",
        "calibration",
        "odds",
        "classes",
        "baselines",
        "items",
    }
    assert scored <= tables["microworld"].keys()
    assert not scored & tables["smollm2"].keys()
    for name in scored:
        del tables["microworld"][name]
    (tmp_path / "less").mkdir()
    assert absent(given, data, tmp_path / "less").count(ABSENT["scores"]) == 2
    for name in ("ranks", "robustness_alignment", "trends", "equivalence"):
        del tables["microworld"][name]
    (tmp_path / "least").mkdir()
    assert absent(given, data, tmp_path / "least").count(ABSENT["sweep"]) == 1


@pytest.mark.parametrize("name", ["lugha_llama", "lugha_llama_early", "qwen3"])
def test_every_other_model_of_params_makes_a_document(given: dict[str, Any], name: str, tmp_path: Path) -> None:
    """The published model whole, its first two blocks without items and head, and a fetched one of another kind."""
    profile = parameters.load(ROOT / "params.yaml", model=name).active
    params = given["models"][1].model_copy(update={"model": name, "models": (name,), "profiles": {name: profile}})
    finished(tmp_path, params)
    arguments = paths(tmp_path, [params])
    paper.run(**arguments)
    (model,) = content(arguments)["models"]
    assert model["source"] == "hub"
    assert model["published_model"] == (name != "qwen3")
    assert ("robustness" in model["tables"]) == ("as_described" in model["views"]) == (name != "lugha_llama_early")
    assert ("first 2 of 32 blocks" in model["left_out"]) == (name == "lugha_llama_early")


def test_a_key_that_no_file_has_is_one_line(given: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "paper", ignore=shutil.ignore_patterns("tables", "figures", "numbers"))
    with (tmp_path / "paper" / "main.typ").open("a", encoding="utf-8") as file:
        file.write('\n#n("setup/nothing/here")\n')
    arguments = elsewhere(given, tmp_path) | {"source": tmp_path / "paper"}
    with pytest.raises(CheckFailed, match=r"\w+\.typ:\d+: dictionary does not contain key .*; correct the source"):
        paper.run(**arguments)
    assert not arguments["out"].exists()


LATEX = r"""\documentclass{article}
\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}\usepackage{booktabs,amssymb,graphicx}
\input{numbers}
\begin{document}
Rank \tli{params.lora.rank}: \tli{smollm2/before_after/run,2.mask.nf4,trained/gain}.
p \tli{microworld/before_after/run,2.mask.nf4,trained/p}.
TABLES
\end{document}
"""


def test_the_tables_and_the_numbers_compile_in_latex(given: dict[str, Any], tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no LaTeX on this machine: pdflatex is not in PATH")
    tables = tmp_path / "tables"
    pages.run(results=given["results"], figures=given["figures"], out=tables, models=given["models"])
    names = sorted(path.stem for path in tables.glob("*.tex"))
    for path in (*tables.glob("*.tex"), given["numbers"] / "numbers.tex"):
        shutil.copyfile(path, tmp_path / path.name)
    listed = "\n".join(rf"\input{{{name}}}\clearpage" for name in names)
    (tmp_path / "all.tex").write_text(LATEX.replace("TABLES", listed), encoding="utf-8")
    call = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000
    (tmp_path / "wrong.tex").write_text(LATEX.replace("TABLES", r"\tli{no.such.key}"), encoding="utf-8")
    wrong = subprocess.run([*call[:-1], "wrong.tex"], cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert wrong.returncode != 0
    assert "no number no.such.key" in wrong.stdout


@pytest.fixture(scope="module")
def last_run() -> list[numbers.ModelRun]:
    """The last run in this checkout, of every model of params.yaml."""
    first = parameters.load(ROOT / "params.yaml")
    for model in first.models:
        if not (ROOT / "results" / model / "tables.json").is_file():
            pytest.skip(f"results/{model}/tables.json: no such file; run `dvc repro`")
    each = [parameters.load(ROOT / "params.yaml", model=model) for model in first.models]
    return [document.read(ROOT / "results", params) for params in each]


def test_the_run_makes_a_paper_in_two_columns(last_run: list[numbers.ModelRun], tmp_path: Path) -> None:
    """On most pages text stands left and right of the middle, and next to nothing in it: figures across both aside."""
    write_json(tmp_path / "document.json", document.content(last_run, load_yaml(REPORTED)))
    (tmp_path / "all").mkdir()
    figures = {run.params.model: ROOT / "paper" / "figures" / run.params.model for run in last_run}
    root = document.gather(tmp_path / "all", SOURCE, tmp_path / "document.json", figures)
    images = typst.compile(root / "main.typ", root=root, ignore_system_fonts=True, format="png", ppi=50)
    rasters = [plt.imread(io.BytesIO(image), format="png")[..., :3].min(axis=-1) for image in images]
    assert 6 <= len(rasters) <= MOST_PAGES
    in_columns = 0
    for page in rasters:
        middle, ink = page.shape[1] // 2, page < 0.75
        left, gutter, right = ink[:, : middle - 8], ink[:, middle - 1 : middle + 2], ink[:, middle + 8 :]
        lines = left.any(axis=1) & right.any(axis=1)
        in_columns += bool(lines.mean() > 0.3 and (lines & ~gutter.any(axis=1)).sum() > 0.6 * lines.sum())
    assert in_columns > len(rasters) / 2
