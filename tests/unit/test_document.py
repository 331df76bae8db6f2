"""The paper: no number in its source, every number from a file, with and without transfer and full grid, same bytes."""

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

from runs import SMOKE, finished, smoke_models
from synthetic import fabricate_grid
from tiny import ROOT
from tli.analysis import render
from tli.config import parameters
from tli.config.parameters import Params
from tli.io.errors import CheckFailed, UserError
from tli.io.structured import read_json, write_json
from tli.paper import grid
from tli.report import document

SOURCE = ROOT / "paper"
REPORTED = SOURCE / "reported.yaml"
ABSENT = {
    "transfer": "has no benchmark items in this run",
    "sweep": "has no sweep over ranks",
    "grid": "The full grid was not run",
}


@pytest.fixture(scope="module")
def models() -> tuple[Params, Params]:
    return smoke_models()


def paths(root: Path, models: Sequence[Params]) -> dict[str, Any]:
    """The arguments of `document.run` for a run under `root`."""
    given = {"source": SOURCE, "tables": root / "paper" / "tables", "figures": root / "paper" / "figures"}
    given |= {"results": root / "results", "reported": REPORTED, "numbers": root / "numbers"}
    return given | {"out": root / "artifact.pdf", "models": models}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, models: tuple[Params, Params]) -> dict[str, Any]:
    """Arguments and the outputs of a run of both models without the full grid; read only."""
    root = tmp_path_factory.mktemp("paper")
    finished(root, *models)
    made = paths(root, models)
    document.run(**made)
    return made


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
    names = [model["name"] for model in data["models"]]
    names += [f"{model['name']}-full" for model in data["models"] if model["full"]]
    pictures = {f"figures/{name}": given["figures"] / name for name in names}
    (folder / "all").mkdir()
    root = document.gather(folder / "all", SOURCE, folder / "document.json", pictures)
    return typst.query(root / "main.typ", "<absent>", root=root, ignore_system_fonts=True)


MOST_PAGES = 18
# What main.typ may say in digits: indices and constants of its equations, names of data types.
ALLOWED = {"$ cal(L) = 1 / B sum_(i = 1)^B max (0, m + max_(j != i) s_(i j) - s_(i i)). $", "$log_2 r$", "FP4"}
ALLOWED |= {"bfloat16", "SHA-256"}


def test_the_source_states_no_number() -> None:
    """Look-ups by key, citations and labels aside, no digit stands in main.typ but those above."""
    text = (SOURCE / "main.typ").read_text(encoding="utf-8")
    for piece in ALLOWED:
        assert piece in text
        text = text.replace(piece, "")
    text = re.sub(r'#?\b(n|has|says)\("[^"]*"(, "[^"]*")*\)', "", text)  # keys
    text = re.sub(r"@[a-z]+\d{4}[a-z]+", "", text)  # works by their key in references.bib
    text = re.sub(r"columns: \([^)]*\)|width: \d+%", "", text)  # columns of a table by key, how wide a figure is
    text = re.sub(r"#set page\(columns: 1\)|\.slice\(1\)|models\.len\(\) == 1", "", text)
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
    document.run(**again)
    made = given["out"].read_bytes()
    assert made.startswith(b"%PDF-")
    assert b"CreationDate" not in made
    assert again["out"].read_bytes() == made
    for name in ("document.json", "numbers.tex"):
        assert (again["numbers"] / name).read_bytes() == (given["numbers"] / name).read_bytes()


def test_numbers_are_those_of_the_files(given: dict[str, Any]) -> None:
    numbers = content(given)["numbers"]
    gains = []
    for params in given["models"]:
        measured = read_json(given["results"] / params.model / "measured.json")
        assert {f"{params.model}.run.{key}" for key in measured} <= numbers.keys()
        gain = measured["align.trained.gain.2.mask.nf4"]
        gains.append(numbers[f"{params.model}.run.align.trained.gain.2.mask.nf4"])
        assert gains[-1] == f"{gain:+.4f}".replace("-", "−")
    assert gains[0] != gains[1]
    assert numbers["params.lora.rank"] == "16"
    assert numbers["params.train.lr"] == "0.0002"
    assert numbers["smollm2.params.model.sha256"] == given["models"][0].active.model.sha256
    assert numbers["published.before_after.trained.before"] == "0.3211"
    assert numbers["published.last_but_one"] == "31"
    assert numbers["study.number"] == "18"


def test_a_setting_that_differs_between_models_stands_under_each(given: dict[str, Any]) -> None:
    """`train.layer: last` is another number for another depth."""
    runs = [document.read(given["tables"], given["results"], params) for params in given["models"]]
    deeper = runs[0].params.train.model_copy(update={"layer": 30})
    runs[0] = runs[0]._replace(params=runs[0].params.model_copy(update={"train": deeper}))
    numbers = document.all_numbers(runs, document.load_yaml(REPORTED))
    assert "params.train.layer" not in numbers
    assert (numbers["smollm2.params.train.layer"], numbers["microworld.params.train.layer"]) == ("30", "2")
    assert numbers["params.train.margin"] == "0.4"


@pytest.mark.parametrize("number", [0, 1])
def test_one_model_alone_makes_a_document(given: dict[str, Any], number: int, tmp_path: Path) -> None:
    """Of a run of one model nothing of another is read."""
    params = given["models"][number]
    for kind in ("tables", "figures", "results"):
        shutil.copytree(given[kind] / params.model, tmp_path / kind / params.model)
    folders = {kind: tmp_path / kind for kind in ("tables", "figures", "results")}
    document.run(**elsewhere(given, tmp_path) | folders | {"models": [params]})
    assert [model["name"] for model in content(elsewhere(given, tmp_path))["models"]] == [params.model]


def test_a_model_without_tables_is_one_line(given: dict[str, Any], tmp_path: Path) -> None:
    missing = given["models"][0].model_copy(update={"model": "lugha_llama"})
    with pytest.raises(UserError, match=r"tables/lugha_llama/tables.json: no such file"):
        document.run(**elsewhere(given, tmp_path) | {"models": [*given["models"], missing]})
    assert not (tmp_path / "artifact.pdf").exists()


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("run.align.trained.gain.2.mask.nf4", -0.09, "−0.0900"),
        ("run.align.trained.p.2.mask.nf4", 3.16e-241, "3.16e-241"),
        ("run.align.trained.t.2.mask.nf4", -37.451, "−37.45"),
        ("run.transfer.xcopa.sw.main.change", -2.0, "−2.0"),
        ("run.transfer.xcopa.sw.main.accuracy", 79.25, "79.2"),
        ("run.rank.change.xnli.sw", 1.25, "+1.2"),
        ("run.rank.change.cosine.trained.2.mask.nf4", 0.5, "+0.5000"),
        ("run.retrieval.all.before.p1_sw_en.2.mask.nf4", 0.1079, "0.108"),
        ("run.scan.all.cosine.1.mask.nf4", 0.99998, "0.999980"),
        ("run.setup.parameters", 2623616, "2,623,616"),
        ("params.stats.margins.cosine", 0.045, "0.045"),
        ("run.anything", None, "-"),
    ],
)
def test_a_number_is_rounded_by_its_key(key: str, value: Any, shown: str) -> None:
    assert document.text(key, value) == shown


@pytest.mark.parametrize(("gain", "direction"), [(0.09, "rises"), (-0.2, "falls")])
def test_the_text_follows_the_sign(gain: float, direction: str, models: tuple[Params, Params], tmp_path: Path) -> None:
    finished(tmp_path, models[1], gain=gain)
    made = paths(tmp_path, models[1:])
    document.run(**made)
    sentences = content(made)["models"][0]["said"]
    other = {"rises": "falls", "falls": "rises"}[direction]
    assert direction in sentences["in_short"]
    assert other not in sentences["in_short"]
    assert f"{other} at 0" in sentences["views"]


def test_what_a_model_lacks_is_said_in_one_sentence(given: dict[str, Any], tmp_path: Path) -> None:
    """Without items no section on transfer, without a sweep none on rank; the other model keeps its own."""
    data = content(given)
    whole = absent(given, data, tmp_path)
    assert ABSENT["grid"] in whole
    assert whole.count(ABSENT["transfer"]) == 1
    assert ABSENT["sweep"] not in whole
    tables = {model["name"]: model["tables"] for model in data["models"]}
    scored = {"robustness", "xcopa", "xnli", "changes", "gap", "calibration", "odds", "classes", "baselines", "items"}
    assert scored <= tables["microworld"].keys()
    assert not scored & tables["smollm2"].keys()
    for name in scored:
        del tables["microworld"][name]
    (tmp_path / "less").mkdir()
    assert absent(given, data, tmp_path / "less").count(ABSENT["transfer"]) == 2
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
    made = paths(tmp_path, [params])
    document.run(**made)
    (model,) = content(made)["models"]
    assert model["source"] == "hub"
    assert model["published_model"] == (name != "qwen3")
    assert ("robustness" in model["tables"]) == ("as_described" in model["views"]) == (name != "lugha_llama_early")
    assert ("first 2 of 32 blocks" in model["left_out"]) == (name == "lugha_llama_early")


def test_the_full_grid_is_quoted_where_it_was_run(given: dict[str, Any], tmp_path: Path) -> None:
    microworld = given["models"][1]
    arms = {
        name: parameters.load(SMOKE, arm=name, model="microworld")
        for name in (*microworld.sweep.arms, *microworld.sweep.bos_arms)
    }
    rows = fabricate_grid(tmp_path / "rows", microworld, arms)
    for kind in ("tables", "figures"):
        shutil.copytree(given[kind], tmp_path / kind)
    full = [tmp_path / kind / "microworld-full" for kind in ("tables", "figures")]
    grid.run(rows, *full, tmp_path / "full.json", microworld, arms)
    made = elsewhere(given, tmp_path) | {kind: tmp_path / kind for kind in ("tables", "figures")}
    document.run(**made)
    assert made["out"].read_bytes() != given["out"].read_bytes()
    data = content(made)
    quoted = {model["name"]: model["full"] for model in data["models"]}
    assert quoted["smollm2"] is None
    assert quoted["microworld"]["tables"].keys() == render.read(full[0]).tables.keys()
    assert quoted["microworld"]["bases"].startswith("2 bases")
    assert quoted["microworld"]["revision"] == ""
    assert ABSENT["grid"] not in absent(made, data, tmp_path)


def test_tables_of_an_earlier_revision_are_named_as_such() -> None:
    """The committed full grid says where it comes from; the document passes it on."""
    page = render.read(ROOT / "paper" / "tables" / "microworld-full")
    text = (ROOT / "paper" / "tables" / "microworld-full" / "README.md").read_text(encoding="utf-8")
    assert (f"From an earlier revision ({page.revision})" in text) == ("earlier revision" in text)
    assert "come from an earlier revision" in (SOURCE / "main.typ").read_text(encoding="utf-8")


def test_a_key_that_no_file_has_is_one_line(given: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "paper", ignore=shutil.ignore_patterns("tables", "figures", "numbers"))
    with (tmp_path / "paper" / "main.typ").open("a", encoding="utf-8") as file:
        file.write('\n#n("run.loss_of_nothing")\n')
    made = elsewhere(given, tmp_path) | {"source": tmp_path / "paper"}
    with pytest.raises(CheckFailed, match=r"\w+\.typ:\d+: dictionary does not contain key .*; mend the source"):
        document.run(**made)
    assert not made["out"].exists()


LATEX = r"""\documentclass{article}
\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}\usepackage{booktabs,amssymb,graphicx}
\input{numbers}
\begin{document}
Rank \tli{params.lora.rank}: \tli{smollm2.run.align.trained.gain.2.mask.nf4}.
p \tli{microworld.run.align.trained.p.2.mask.nf4}.
TABLES
\end{document}
"""


def test_the_tables_and_the_numbers_compile_in_latex(given: dict[str, Any], tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no LaTeX on this machine: pdflatex is not in PATH")
    tables = given["tables"] / "microworld"
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
def committed() -> list[document.Run]:
    """The committed run of every model of params.yaml."""
    first = parameters.load(ROOT / "params.yaml")
    each = [parameters.load(ROOT / "params.yaml", model=model) for model in first.models]
    return [document.read(ROOT / "paper" / "tables", ROOT / "results", params) for params in each]


def test_the_committed_run_makes_a_paper_in_two_columns(committed: list[document.Run], tmp_path: Path) -> None:
    """On most pages text stands left and right of the middle, and next to nothing in it: figures across both aside."""
    write_json(tmp_path / "document.json", document.content(committed, document.load_yaml(REPORTED)))
    (tmp_path / "all").mkdir()
    pictures = document.pictures(ROOT / "paper" / "figures", committed)
    root = document.gather(tmp_path / "all", SOURCE, tmp_path / "document.json", pictures)
    made = typst.compile(root / "main.typ", root=root, ignore_system_fonts=True, format="png", ppi=50)
    pages = [plt.imread(io.BytesIO(page), format="png")[..., :3].min(axis=-1) for page in made]
    assert 6 <= len(pages) <= MOST_PAGES
    in_columns = 0
    for page in pages:
        middle, ink = page.shape[1] // 2, page < 0.75
        left, gutter, right = ink[:, : middle - 8], ink[:, middle - 1 : middle + 2], ink[:, middle + 8 :]
        lines = left.any(axis=1) & right.any(axis=1)
        in_columns += bool(lines.mean() > 0.3 and (lines & ~gutter.any(axis=1)).sum() > 0.6 * lines.sum())
    assert in_columns > len(pages) / 2
