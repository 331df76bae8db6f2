"""docs/performance.md: what the benchmarks at Llama-3.1-8B's shape measured, from pytest-benchmark's JSON.

Each benchmark says of itself which table and line it belongs to and what was aimed at (tests/bench/test_8b.py); every
figure on the page is measured or divided here. A floor is the time that a line's matrix products alone would take at
the best rate that this machine's were measured at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tli import store

Lines = Mapping[str, dict[str, Any]]
HEADER = ("| | seconds | peak GB | share of the floor | aimed at |", "|---|---:|---:|---:|---|")


def run(measured: Path, out: Path) -> None:
    """Writes the page `out` from the JSON file `measured`.

    Raises:
        UserError: the file holds no benchmark of this shape.
    """
    report = store.read_json(measured)
    lines = {
        each["extra_info"]["name"]: each["extra_info"] for each in report["benchmarks"] if "name" in each["extra_info"]
    }
    if "rates" not in lines:
        raise store.UserError(f"{measured}: expected the benchmarks of `make bench-8b`, found none; run it")
    machine = report["machine_info"]["cpu"]
    rate = max(lines["rates"]["matmul"].values())
    text = [
        "# Performance at Llama-3.1-8B's shape",
        "",
        "Written by `make bench-8b`: 32 blocks, hidden size 4,096, random weights, NF4. "
        "Each line is a process of its own, all in one run.",
        "",
        f"{report['datetime'][:10]}, {machine['brand_raw']}, {machine['count']} cores, commit "
        f"{report['commit_info']['id'][:12]}. bfloat16 matrix products: {rate / 1e9:.0f} GFLOP/s "
        f"({', '.join(f'{value / 1e9:.0f} for {n} tokens' for n, value in lines['rates']['matmul'].items())}); "
        f"copying: {lines['rates']['copy'] / 1e9:.1f} GB/s; memory after imports: "
        f"{lines['imports']['peak_bytes'] / 1e9:.2f} GB.",
    ]
    for table in dict.fromkeys(line["table"] for line in lines.values()):
        rows = [*_rows({name: line for name, line in lines.items() if line["table"] == table}, lines, rate)]
        text += ["", f"## {table}", "", *HEADER, *rows] if rows else []
    store.write_text(out, "\n".join([*text, ""]))


def _rows(own: Lines, lines: Lines, rate: float) -> Iterator[str]:
    for line in own.values():
        if "flop" in line:
            seconds, gigabytes = line["seconds"], line["peak_bytes"] / 1e9
            share = line["flop"] / rate / seconds
            scaled = f" ({line['scaled']}, scaled)" if "scaled" in line else ""
            aims = "; ".join(_aims(line.get("aims", {}), line, lines, share))
            yield f"| {line['line']} | {seconds:.3g}{scaled} | {gigabytes:.2f} | {share:.0%} | {aims} |"


def _aims(aims: Mapping[str, Any], line: dict[str, Any], lines: Lines, share: float) -> Iterator[str]:
    """Each aim with what was reached and whether that is it."""

    def said(what: str, reached: float, aim: float, met: bool) -> str:
        return f"{what} {reached:.3g} (aim {aim:g}: {'met' if met else 'missed'})"

    for other, aim in aims.get("times", {}).items():
        times = lines[other]["seconds"] / line["seconds"]
        yield said(f"times as fast as “{lines[other]['line']}”:", times, aim, times >= aim)
    if "gb" in aims:
        gigabytes = line["peak_bytes"] / 1e9
        yield said("peak GB", gigabytes, aims["gb"], gigabytes <= aims["gb"])
    if "floor" in aims:
        yield said("share of the floor", share, aims["floor"], share >= aims["floor"])
    if "seconds" in aims:
        yield said("seconds", line["seconds"], aims["seconds"], line["seconds"] <= aims["seconds"])
