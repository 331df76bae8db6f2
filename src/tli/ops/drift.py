"""docs/reproducibility.md and .csv: how far every cell of every table moves between whole runs of the same parameters.

The first run is the reference; others differ from it in what should not matter (threads, instruction set), or, for the
scale, in the seed of the base model, which does. Everything on the page is counted here from what the runs wrote and
from paper/expected.yaml; the sentences around it say how to read it.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tli import store
from tli.ops import drift_cells, pages, runs
from tli.ops.compared import SEED, VERDICT, Compared, masked, rms
from tli.ops.runs import Run
from tli.paper import expected

HEAD = f"""\
# Reproducibility

Written by `tli drift`: whole runs of the same parameters, each in a clone of its own, held against one of them, the
reference. Drift is a run's value minus the reference's, from the nine digits that files keep. A run with one thread,
and one restricted to AVX2 as well:

```sh
dvc exp run -S profiles.embedded.compute.threads=1
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 dvc exp run -S profiles.embedded.compute.threads=1
```

The first variable bounds torch's own loops, the second oneDNN's matrix products. bitsandbytes asks the processor and
heeds neither; [both its ways of unpacking give the same bytes](decisions.md). Other threads and other instructions may
add the same numbers in another order, and round otherwise; training carries the last digit on through all its steps,
and whatever is measured on that base moves with it. Runs with another seed of the base (`{SEED}`) are the scale to hold
that against.
"""


def run(reference: Path, others: Sequence[tuple[str, Path]], seeds: Sequence[Path], known: Path, out: Path) -> None:
    """Writes the page `out` and, beside it, the same name with .csv: a line for every value of measured.json.

    The arguments are those of `Compared`, as are the errors.
    """
    found = Compared(reference, others, seeds, known)
    csv_name = out.with_suffix(".csv").name
    parts = {
        "In short": _short(found),
        "Conditions": _conditions([found.first, *found.others]),
        "Files": _files(found.first, found.same),
        "Conclusions": drift_cells.conclusions(found),
        "How `verify`'s tolerances follow": _tolerances(found, csv_name),
        "Every cell of every table": drift_cells.every_table(found),
    }
    text = [HEAD, *(line for title, lines in parts.items() for line in (f"## {title}", "", *lines, ""))]
    store.write_text(out.with_suffix(".csv"), _values(found))
    store.write_text(out, "\n".join(text))


def _short(found: Compared) -> Iterator[str]:
    cells, numbers = found.cells, found.numbers
    verdicts = [cell for cell in cells if cell.column == VERDICT]
    ratios = {run.name: found.in_sds(run) for run in found.others}
    yield (
        f"{len(found.first.tables)} tables with {len(cells):,} cells, {len(numbers):,} of them numbers. Those with the "
        "reference's digits or words, and how far the others are from it:"
    )
    yield ""
    yield from pages.head("run", ["cells", "numbers", "verdicts", "median drift, SDs", "nine in ten below"])
    for name, own in ratios.items():
        equal = {cell for cell, drift in found.drifts[name].items() if drift == 0}
        size = [*(f"{np.quantile(own, share):.2g}" for share in (0.5, 0.9))] if own else ["-", "-"]
        kept = f"{len(equal.intersection(verdicts))} of {len(verdicts)}"
        yield pages.row(name, f"{len(equal):,}", f"{len(equal & numbers):,}", kept, *size)
    yield ""
    if found.bases:
        yield (
            f"SD: of a cell over {len(found.bases) + 1} base seeds, the reference's among them; "
            f"{sum(sd > 0 for sd in found.spreads.values()):,} numbers have one above 0."
        )
        yield ""
    seeds = [float(np.median(ratios[run.name])) for run in found.bases if ratios[run.name]]
    for run in found.same:
        yield f"- {run.name}: {_said(found, run, ratios[run.name], seeds)}"


def _said(found: Compared, run: Run, ratios: Sequence[float], seeds: Sequence[float]) -> str:
    """How far a run is from the reference, in a sentence."""
    if all(drift == 0 for drift in found.drifts[run.name].values()):
        return "every cell has the reference's digits."
    if not (ratios and seeds):
        return "cells differ; how much that is, base seeds would tell."
    median = float(np.median(ratios))
    ends = " to ".join(dict.fromkeys(f"{end:.2g}" for end in (min(seeds), max(seeds))))
    how = "less than any other base seed moves it" if median < min(seeds) else "as far as another base seed does"
    return f"moves a number by {median:.2g} SDs in the median, another base seed by {ends}: {how}."


def _conditions(every: Sequence[Run]) -> Iterator[str]:
    """One column a run, one line a fact that differs; those that are the same in all follow in a sentence."""
    found = [runs.conditions(run) for run in every]
    facts = dict.fromkeys(key for one in found for key in one)
    by_fact = {fact: [one.get(fact, "-") for one in found] for fact in facts}
    yield "From each run's receipts; several values where its stages differ."
    yield ""
    yield from pages.head("", runs.names(every), ":--")
    yield from (pages.row(fact, *values) for fact, values in by_fact.items() if len(set(values)) > 1)
    shared = [f"{fact} {values[0]}" for fact, values in by_fact.items() if len(set(values)) == 1]
    yield from ("", f"In all: {', '.join(shared)}.") if shared else ()


def _files(first: Run, same: Sequence[Run]) -> Iterator[str]:
    yield "How many files of each kind have the reference's bytes; `-`: not made in that run, or in the reference."
    yield ""
    own, others = runs.files(first), {run.name: runs.files(run) for run in same}
    yield from pages.head("kind", ["files", *others])
    some: dict[str, list[str]] = {}
    for kind, hashes in own.items():
        shown = []
        for run, other in others.items():
            names = hashes | other[kind]
            equal = [name for name in names if hashes.get(name) == other[kind].get(name)]
            shown.append(f"{len(equal)} of {len(names)}" if hashes and other[kind] else "-")
            if 0 < len(equal) < len(names):
                which = "same" if 2 * len(equal) <= len(names) else "others"
                listed = equal if which == "same" else [name for name in names if name not in equal]
                counts = Counter(name.rpartition("/")[2] for name in listed)
                said = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in counts.items())
                some.setdefault(f"{kind}: the {which} are {said}", []).append(run)
        yield pages.row(kind, len(hashes) or "-", *shown)
    yield from pages.details(
        "Which, where only some are", [f"- {said} ({'; '.join(own)})" for said, own in some.items()]
    )


def _tolerances(found: Compared, csv_name: str) -> Iterator[str]:
    yield (
        "[paper/expected.yaml](../paper/expected.yaml) states a tolerance for every value, and why; "
        f"[{csv_name}]({csv_name}) has them beside each run's drift and the SD over base seeds, a line a value. "
        "The rule, with its equation, is `record` in [expected.py](../src/tli/paper/expected.py): a value may move by "
        "a drifted run's own distance, or by a quantile of Student's t × the drift of its kind in SDs × its SD over "
        "base seeds, whichever is more; one that is the same in every run must be met exactly. A run that had no part "
        "in that tries the tolerances; base seeds show what they tell apart."
    )
    yield ""
    yield from pages.head("why, figures left out", ["values"])
    reasons = Counter(masked(check.why) for check in found.checks[found.first.name])
    yield from (pages.row(reason, f"{count:,}") for reason, count in reasons.most_common())
    yield ""
    words = (expected.AGREES, expected.DIFFERS, expected.NONE)
    yield from pages.head("run", words)
    for name, checks in found.checks.items():
        counts = Counter(check.verdict for check in checks)
        yield pages.row(name, *(f"{counts[word]:,}" for word in words))
    outside = [
        f"- {run.name}: `{check.key}` {pages.text(check.measured)}, expected {pages.text(check.expected)}"
        f" ± {pages.text(check.tolerance)}: {check.why}"
        for run in (found.first, *found.same)
        for check in found.checks[run.name]
        if check.verdict == expected.DIFFERS
    ]
    yield from pages.details("Values outside their tolerance", outside)
    title = "Every statistic: its largest drift in each run, its SD over base seeds (root mean square), its tolerances"
    yield from pages.details(title, [*_statistics(found)])


def _statistics(found: Compared) -> Iterator[str]:
    yield from pages.head("statistic", ["values", *runs.names(found.same), "SD", "tolerance"])
    members: dict[str, list[expected.Check]] = {}
    for check in found.checks[found.first.name]:
        if runs.number(check.measured) is not None:
            members.setdefault(expected.family(check.key), []).append(check)
    for name, checks in members.items():
        largest = [drift_cells.largest([found.value_drift(check.key, run) for check in checks]) for run in found.same]
        spreads = [sd for check in checks if (sd := found.value_spread(check.key)) is not None]
        tolerances = sorted(check.tolerance for check in checks if check.tolerance is not None)
        ends = dict.fromkeys(map(pages.brief, (tolerances[0], tolerances[-1]))) if tolerances else "-"
        yield pages.row(name, len(checks), *largest, pages.brief(rms(spreads)), " to ".join(ends))


def _values(found: Compared) -> str:
    """A line a value: the reference's, its drift in each run (the words where it is none), SD, tolerance and why."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "reference", *runs.names(found.same), "SD over base seeds", "tolerance", "why"])
    for check in found.checks[found.first.name]:
        drifts = [found.value_drift(check.key, run) for run in found.same]
        numbers = (*drifts, found.value_spread(check.key), check.tolerance)
        writer.writerow([check.key, pages.text(check.measured), *map(pages.text, numbers), check.why])
    return text.getvalue()
