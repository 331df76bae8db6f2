"""The paper: no number in its source, every number from a file, with and without transfer and full grid, same bytes."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import typst

from synthetic import fabricate, fabricate_grid, verdict_files
from tiny import ROOT
from tli import params as parameters
from tli import store
from tli.paper import collected, document, grid, tables, verify
from tli.params import Params

SOURCE = ROOT / "paper"
SMOKE = ROOT / "tests" / "smoke" / "params.yaml"
ABSENT = {"transfer": "This run scores no benchmark items", "grid": "The full grid was not run"}


@pytest.fixture(scope="module")
def smoke() -> Params:
    return parameters.load(SMOKE)


def paths(folder: Path, smoke: Params, **options: Any) -> dict[str, Any]:
    """The arguments of `document.run` over synthetic rows, the stages before it run."""
    made = fabricate(folder, smoke, pairs=(8, 4), items=20, **options)
    tables.run(**made)
    out = folder / "out"
    verdicts, reported = out / "verify.json", made["reported"]
    verify.run(measured=made["measured"], files=verdict_files(), out=verdicts, params=smoke)
    given = {"tables": made["tables"], "figures": made["figures_out"], "measured": made["measured"]}
    given |= {"full": out / "full", "full_figures": out / "full-figures", "verify": verdicts, "reported": reported}
    given |= {"source": SOURCE, "numbers": out / "numbers", "out": out / "artifact.pdf", "params": smoke}
    return given


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, smoke: Params) -> dict[str, Any]:
    """Arguments and the outputs of a run without the full grid; read only."""
    made = paths(tmp_path_factory.mktemp("paper"), smoke)
    document.run(**made)
    return made


def absent(given: dict[str, Any], data: dict[str, Any], folder: Path) -> str:
    """What the document says it does not have, of the data at hand; compiles all of it."""
    store.write_json(folder / "document.json", data)
    pictures = {"figures": given["figures"]} | ({"full": given["full_figures"]} if data["full"] else {})
    (folder / "all").mkdir()
    root = document.gather(folder / "all", SOURCE, folder / "document.json", pictures)
    return typst.query(root / "main.typ", "<absent>", root=root, ignore_system_fonts=True)


# What main.typ may say in digits: indices and constants of its equations, a data type's name.
ALLOWED = {"$ cal(L) = 1 / B sum_(i = 1)^B max (0, m + max_(j != i) s_(i j) - s_(i i)). $", "$log_2 r$", "FP4"}


def test_the_source_states_no_number() -> None:
    """Look-ups by key, citations and labels aside, no digit stands in main.typ but those above."""
    text = (SOURCE / "main.typ").read_text(encoding="utf-8")
    for piece in ALLOWED:
        assert piece in text
        text = text.replace(piece, "")
    text = re.sub(r'#?\b(n|has|says)\("[^"]*"(, "[^"]*")*\)', "", text)  # keys
    text = re.sub(r"@[a-z]+\d{4}[a-z]+", "", text)  # works by their key in references.bib
    text = re.sub(r"columns: \([^)]*\)|width: \d+%", "", text)  # columns of a table by key, how wide a figure is
    text = re.sub(r"#set page\(columns: 1\)|\.at\(1\)|\.slice\(1\)", "", text)
    assert re.findall(r".*\d.*", text) == []


def test_every_work_is_cited_and_has_a_place_to_be_found() -> None:
    entries = re.split(r"^@", (SOURCE / "references.bib").read_text(encoding="utf-8"), flags=re.M)[1:]
    cited = set(re.findall(r"@([a-z]+\d{4}[a-z]+)", (SOURCE / "main.typ").read_text(encoding="utf-8")))
    assert {re.findall(r"\{(\w+),", entry)[0] for entry in entries} == cited
    for entry in entries:
        assert all(re.search(rf"^  {field} = ", entry, re.M) for field in ("author", "title", "year")), entry
        assert re.search(r"^  (journal|booktitle|publisher|eprint) = ", entry, re.M), entry


def test_the_same_inputs_give_the_same_bytes_and_no_date(given: dict[str, Any], tmp_path: Path) -> None:
    again = given | {"numbers": tmp_path / "numbers", "out": tmp_path / "again.pdf"}
    document.run(**again)
    made = given["out"].read_bytes()
    assert made.startswith(b"%PDF-")
    assert b"CreationDate" not in made
    assert again["out"].read_bytes() == made
    for name in ("document.json", "numbers.tex"):
        assert (again["numbers"] / name).read_bytes() == (given["numbers"] / name).read_bytes()


def test_numbers_are_those_of_the_files(given: dict[str, Any]) -> None:
    numbers = store.read_json(given["numbers"] / "document.json")["numbers"]
    measured = store.read_json(given["measured"])
    assert {f"run.{key}" for key in measured} <= numbers.keys()
    gain = measured["align.trained.gain.2.mask.nf4"]
    assert numbers["run.align.trained.gain.2.mask.nf4"] == f"{gain:+.4f}".replace("-", "−")
    assert numbers["params.lora.rank"] == "16"
    assert numbers["params.train.lr"] == "0.0002"
    assert numbers["published.before_after.trained.before"] == "0.3211"
    assert numbers["published.last_but_one"] == "31"


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("run.align.trained.gain.2.mask.nf4", -0.09, "−0.0900"),
        ("run.align.trained.log10_p.2.mask.nf4", -240.5, "3.16e-241"),
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


@pytest.mark.parametrize(("gain", "said"), [(0.09, "rises"), (-0.2, "falls")])
def test_the_text_follows_the_sign(gain: float, said: str, smoke: Params, tmp_path: Path) -> None:
    made = paths(tmp_path, smoke, gain=gain)
    document.run(**made)
    sentences = store.read_json(made["numbers"] / "document.json")["said"]
    other = {"rises": "falls", "falls": "rises"}[said]
    assert said in sentences["in_short"]
    assert other not in sentences["in_short"]
    assert f"{other} at 0" in sentences["views"]


def test_without_transfer_and_sweep_the_document_says_so(given: dict[str, Any], tmp_path: Path) -> None:
    data = store.read_json(given["numbers"] / "document.json")
    whole = absent(given, data, tmp_path)
    assert ABSENT["grid"] in whole
    assert ABSENT["transfer"] not in whole
    scored = {"robustness", "xcopa", "xnli", "changes", "gap", "calibration", "odds", "classes", "baselines", "items"}
    assert scored <= data["tables"].keys()
    data["tables"] = {name: one for name, one in data["tables"].items() if name not in scored}
    (tmp_path / "less").mkdir()
    assert ABSENT["transfer"] in absent(given, data, tmp_path / "less")
    for name in ("ranks", "robustness_alignment", "trends", "equivalence"):
        del data["tables"][name]
    (tmp_path / "least").mkdir()
    assert "no sweep over ranks" in absent(given, data, tmp_path / "least")


def test_the_full_grid_is_quoted_where_it_was_run(given: dict[str, Any], smoke: Params, tmp_path: Path) -> None:
    each = {name: parameters.load(SMOKE, arm=name) for name in (*smoke.sweep.arms, *smoke.sweep.bos_arms)}
    rows = fabricate_grid(tmp_path / "rows", smoke, each)
    full = {"full": tmp_path / "full", "full_figures": tmp_path / "full-figures"}
    grid.run(rows, full["full"], full["full_figures"], tmp_path / "full.json", smoke, each)
    made = given | full | {"numbers": tmp_path / "numbers", "out": tmp_path / "full.pdf"}
    document.run(**made)
    assert made["out"].read_bytes() != given["out"].read_bytes()
    data = store.read_json(made["numbers"] / "document.json")
    assert data["full"]["tables"].keys() == collected.read(full["full"]).tables.keys()
    assert "2 bases" in data["full"]["intro"][1]
    assert ABSENT["grid"] not in absent(made, data, tmp_path)


def test_a_key_that_no_file_has_is_one_line(given: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "paper", ignore=shutil.ignore_patterns("tables", "figures", "numbers"))
    with (tmp_path / "paper" / "main.typ").open("a", encoding="utf-8") as file:
        file.write('\n#n("run.loss_of_nothing")\n')
    made = given | {"source": tmp_path / "paper", "numbers": tmp_path / "numbers", "out": tmp_path / "out.pdf"}
    with pytest.raises(store.CheckFailed, match=r"\w+\.typ:\d+: dictionary does not contain key .*; mend the source"):
        document.run(**made)
    assert not made["out"].exists()


LATEX = r"""\documentclass{article}
\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}\usepackage{booktabs,amssymb,graphicx}
\input{numbers}
\begin{document}
Rank \tli{params.lora.rank}: \tli{run.align.trained.gain.2.mask.nf4}, p \tli{run.align.trained.log10_p.2.mask.nf4}.
TABLES
\end{document}
"""


def test_the_tables_and_the_numbers_compile_in_latex(given: dict[str, Any], tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no LaTeX on this machine: pdflatex is not in PATH")
    names = sorted(path.stem for path in given["tables"].glob("*.tex"))
    for path in (*given["tables"].glob("*.tex"), given["numbers"] / "numbers.tex"):
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
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder from which the committed run's paper compiles."""
    own, folder = parameters.load(ROOT / "params.yaml"), tmp_path_factory.mktemp("committed")
    tables, figures, results = (ROOT / part for part in ("paper/tables", "paper/figures", "results"))
    inputs = document.Inputs(
        collected.read(tables / own.profile),
        collected.read(tables / f"{own.profile}-full"),
        store.read_json(results / own.profile / "measured.json"),
        store.read_json(results / own.profile / "verify.json"),
        document.load_yaml(ROOT / "paper" / "reported.yaml"),
    )
    store.write_json(folder / "document.json", document.content(inputs, own))
    (folder / "all").mkdir()
    pictures = {"figures": figures / own.profile, "full": figures / f"{own.profile}-full"}
    return document.gather(folder / "all", SOURCE, folder / "document.json", pictures)


def test_the_paper_has_six_to_ten_pages_in_two_columns(committed: Path) -> None:
    """On most pages text stands left and right of the middle, and next to nothing in it: figures across both aside."""
    made = typst.compile(committed / "main.typ", root=committed, ignore_system_fonts=True, format="png", ppi=50)
    pages = [plt.imread(io.BytesIO(page), format="png")[..., :3].min(axis=-1) for page in made]
    assert 6 <= len(pages) <= 10
    in_columns = 0
    for page in pages:
        middle, ink = page.shape[1] // 2, page < 0.75
        left, gutter, right = ink[:, : middle - 8], ink[:, middle - 1 : middle + 2], ink[:, middle + 8 :]
        lines = left.any(axis=1) & right.any(axis=1)
        in_columns += bool(lines.mean() > 0.3 and (lines & ~gutter.any(axis=1)).sum() > 0.6 * lines.sum())
    assert in_columns > len(pages) / 2


def test_what_is_committed_is_what_the_text_needs() -> None:
    """The keys and names that main.typ looks up exist in the files of the committed run."""
    smoke = parameters.load(ROOT / "params.yaml")
    folder = ROOT / "paper" / "tables"
    found = document.Inputs(
        collected.read(folder / smoke.profile),
        collected.read(folder / f"{smoke.profile}-full"),
        store.read_json(ROOT / "results" / smoke.profile / "measured.json"),
        store.read_json(ROOT / "results" / smoke.profile / "verify.json"),
        document.load_yaml(ROOT / "paper" / "reported.yaml"),
    )
    data = json.loads(json.dumps(document.content(found, smoke)))
    text = (SOURCE / "main.typ").read_text(encoding="utf-8")
    assert set(re.findall(r'\bn\("([^"]+)"\)', text)) <= data["numbers"].keys()
    assert set(re.findall(r'\bs\("([^"]+)"\)', text)) <= data["said"].keys()
