"""paper/expected.yaml: what a run of each profile is expected to give, within which tolerance, and why (stage: verify).

An expectation recorded from runs holds for the params that it was recorded under: a value is judged where the params
that can change it are the same. One taken from what was published holds where the params it names are so; its own come
from paper/published.py. Where neither is the case a value reads `no expectation`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import special

from tli import store
from tli.paper import published, stats
from tli.paper.rows import Measured, Value, flat, load_yaml
from tli.params import Params

AGREES, DIFFERS, NONE = "agrees", "differs", "no expectation"
SURE = 0.999  # the share of equal reruns on another CPU that each tolerance lets pass
NORMAL = float(special.ndtri((1 + SURE) / 2))
LEAST, MOST = 0.1, math.sqrt(2)  # bounds of the drift in SDs over base seeds

# Which params can change a value, by the first pattern that its key matches: prefixes of flat keys, `!` for exceptions.
_BASE = ("inputs.", "pairs.", "author.trained.", "author.control.", "benchmarks.", "model.")
_CELL = (*_BASE, "quantize.", "lora.", "train.", "adapter.", "author.adapter.")
_SWEEP = (*_BASE, "quantize.nf4.", "lora.", "!lora.rank", "train.", "!train.seed", "sweep.seeds")
_DEPENDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"audit\.word_pairs\.expected_false_negatives", (*_BASE, "train.batch_size")),
    (r"audit\.|items\.|inputs\.", _BASE),
    (r"scan\.", (*_BASE, "quantize.nf4.", "measure.")),
    (r"sweep\.\w+\.(accuracy|ece|brier|\w+_change|gap_after)", (*_SWEEP, "transfer.")),
    (r"rank\.", (*_SWEEP, "sweep.ranks", "transfer.")),
    (r"sweep\.", _SWEEP),
    (r"transfer\..*\.main\.|class\..*\.after\.", (*_CELL, "transfer.")),
    (
        r"setup\.train\.|setup\.adapt|adapter\.|gains\.|controls\.|align\.\w+\.(?!before\.)|retrieval\.\w+\.after\.|"
        r"lengths\.(?!r\w*_before)",
        _CELL,
    ),
    (r"probe\.before\.", (*_BASE, "quantize.nf4.", "probe.")),
    (r"probe\.", (*_CELL, "probe.")),
    (r"projection\.before\.", (*_BASE, "quantize.nf4.", "train.layer", "train.pooling", "project.")),
    (r"projection\.", (*_CELL, "project.")),
    (r"transfer\.|class\.|baseline\.|setup\.padding_drift", (*_BASE, "quantize.", "transfer.")),
    (r"", (*_BASE, "quantize.")),
)


class Check(NamedTuple):
    """One value held against its expectation."""

    key: str
    expected: Value
    measured: Value
    tolerance: float | None
    verdict: str
    why: str


class Part(NamedTuple):
    """Expectations with one condition: `under`, settings by name. Recorded ones hold every setting that there was."""

    under: Measured
    keys: Mapping[str, Mapping[str, Any]]
    recorded: bool

    def others(self, key: str, now: Measured, measured: bool) -> list[str]:
        """The settings that keep this part's expectation of `key` from holding now; of a value not measured, any."""
        if self.recorded and measured:
            return changed(key, self.under, now)
        names = self.under | now if self.recorded else self.under
        return [name for name in names if self.under.get(name) != now.get(name)]


def settings(params: Params, measured: Measured) -> Measured:
    """What a value may depend on, flat: params.yaml but for threads, intervals and other profiles; hashes of inputs.

    How files are fetched and where cells run changes no value, nor does what only the full grid reads, and the author's
    files count only where a source says that they are used.
    """
    others = {"models", "model", "profiles", "stats", "fetch", "author", "arms", "bos", "sweep", "cluster"}
    shared = params.model_dump(mode="json", exclude=others)
    shared["sweep"] = params.sweep.model_dump(mode="json", include={"ranks", "seeds"})
    own = params.active.model_dump(mode="json", exclude={"compute"})
    used = {"trained", "control"} if params.pairs.source == "author" else set()
    used |= {"adapter"} if params.adapter.source == "author" else set()
    author = {"author": params.author.model_dump(mode="json", include=used)} if used else {}
    return flat(shared | own | author) | {key: value for key, value in measured.items() if key.startswith("inputs.")}


def changed(key: str, recorded: Measured, now: Measured) -> list[str]:
    """The settings that can change `key` and are not what they were when its expectation was recorded."""
    prefixes = next(prefixes for pattern, prefixes in _DEPENDS if re.match(pattern, key))
    kept = tuple(prefix for prefix in prefixes if not prefix.startswith("!"))
    left_out = {prefix[1:] for prefix in prefixes if prefix.startswith("!")}
    names = [name for name in recorded | now if name.startswith(kept) and name not in left_out]
    return [name for name in names if recorded.get(name) != now.get(name)]


def load(path: Path, params: Params) -> dict[str, Any]:
    """The section of paper/expected.yaml for params.model; empty where nothing is recorded.

    Of a part of the published model is expected what was published and stands at a layer that it has.
    """
    sections = load_yaml(path).get("profiles", {})
    section: dict[str, Any] = sections.get(params.model) or {}
    if published.is_published_model(params) and not params.active.model.whole:
        whole = (sections.get("lugha_llama") or {}).get("published", [])
        section = {"published": published.within(whole, params)} | section
    return section


def judge(measured: Measured, section: Mapping[str, Any], params: Params) -> list[Check]:
    """Every measured and every expected value with its verdict, in the order of `measured`; `section` is from `load`.

    An expected value that was not measured differs, unless any setting has changed: a rank that left the sweep, say.
    """
    parts = [Part(section["recorded_under"]["params"], section["keys"], True)] if section.get("keys") else []
    parts += [Part(one["under"], one["keys"], False) for one in section.get("published", [])]
    now = settings(params, measured)
    checks = []
    for key in dict.fromkeys([*measured, *(key for part in parts for key in part.keys)]):
        value = measured.get(key)
        found = [(part, part.others(key, now, key in measured)) for part in parts if key in part.keys]
        if not found:
            checks.append(Check(key, None, value, None, NONE, "none recorded"))
            continue
        part, other = min(found, key=lambda one: len(one[1]))  # of several that hold, the first: the recorded one
        want, tolerance, why = (part.keys[key][name] for name in ("value", "tolerance", "why"))
        if other:
            kind = "recorded under" if part.recorded else "published for"
            why = f"{other[0]} is {now.get(other[0], '-')}, {kind} {part.under.get(other[0], '-')}"
            checks.append(Check(key, want, value, tolerance, NONE, why))
        else:
            verdict = AGREES if key in measured and _close(value, want, tolerance) else DIFFERS
            checks.append(Check(key, want, value, tolerance, verdict, why))
    return checks


def _close(value: Value, want: Value, tolerance: float | None) -> bool:
    """Numbers within the tolerance, up to the ninth digit that files keep; anything else equal."""
    if isinstance(value, int | float) and isinstance(want, int | float):
        return abs(value - want) <= (tolerance or 0.0) + 1e-8 * abs(want)
    return value == want


def family(key: str) -> str:
    """The statistic that a key gives, without set, language, rank, layer and view: those drift alike."""
    parts = r"r?\d+|norm|mask|content|nf4|fp4|trained|control|all|xcopa|xnli|[a-z]{2}"
    return ".".join(part for part in key.split(".") if not re.fullmatch(parts, part))


def record(*, runs: Sequence[Path], drifted: Sequence[Path], out: Path, params: Params) -> None:
    """Writes what runs gave into the section of params.model in `out` (paper/expected.yaml); all else there stays.

    The expected value is the default run's. The tolerance answers one question: how far may the same seed land on
    another CPU? That drift is seen a few times, as D = value of a drifted run - default, and so few a value are not to
    be trusted: they may be 0 by chance. So its size is taken for all values of one statistic together, in SDs s over
    base seeds:

        rho = sqrt(mean D^2 / mean s^2), kept within [0.1, sqrt 2];     tolerance = max(max |D|, t s rho),

    with t the two-sided 99.9 % quantile of Student's t with (runs - 1) degrees of freedom, since s comes from few runs.
    sqrt 2 bounds it by the spread over base seeds: two runs that share nothing but the recipe differ by sqrt 2 SDs. A
    value that is the same in every run must be met exactly.

    The runs beside the default may leave ranks of the sweep out, since a sweep is long. What they lack has no s:

        tolerance = max(max |D|, z sqrt(mean D^2)),    the mean over the values of its statistic that drifted runs have,

    with z the two-sided 99.9 % quantile of the normal distribution. Where they have none, nothing is expected.

    Args:
        runs: measured.json of the default run first, then of the same params with other base seeds; five or more.
        drifted: measured.json of the default run with other threads, or under ATEN_CPU_CAPABILITY=avx2
            ONEDNN_MAX_CPU_ISA=AVX2; one or more.
    """
    if len(runs) < 5 or not drifted:
        raise store.UserError(
            f"record: expected five runs or more, one a base seed, got {len(runs)}, and --drifted once or more, "
            f"got {len(drifted)}; run other base seeds, and other threads or instructions"
        )
    loaded: list[Measured] = [store.read_json(path) for path in runs]
    default, moved = loaded[0], [store.read_json(path) for path in drifted]
    spreads: dict[str, float] = {}
    drifts: dict[str, list[float]] = {}
    for key, value in default.items():
        if not isinstance(value, int | float):
            continue
        there = [run[key] for run in moved if isinstance(run.get(key), int | float)]
        if there:
            drifts[key] = [float(other) - float(value) for other in there]
        others = [run[key] for run in loaded if key in run]
        if len(others) == len(runs):
            spreads[key] = stats.spread([float(other) for other in others if isinstance(other, int | float)]).sd or 0.0
    ratios, plain = _ratios(spreads, drifts), _drift_alone(drifts)
    quantile = float(special.stdtrit(len(runs) - 1, (1 + SURE) / 2))
    keys: dict[str, dict[str, Value]] = {}
    for key, value in default.items():
        if not isinstance(value, int | float):
            keys[key] = {"value": value, "tolerance": None, "why": "not a number: equal or not"}
            continue
        drift = max(map(abs, drifts.get(key, [0.0])))
        if key not in spreads:
            if family(key) in plain:
                wide = max(drift, NORMAL * plain[family(key)])
                why = f"{NORMAL:.3g} x RMS drift {plain[family(key)]:.3g} of its kind in the drifted runs"
                keys[key] = {"value": value, "tolerance": wide, "why": why}
            continue
        spread, ratio = spreads[key], ratios[family(key)]
        wide = quantile * ratio * spread
        if not spread and not drift:
            why = "the same in every run"
        elif drift > wide:
            why = "the drifted runs' own distance"
        else:
            why = f"{quantile:.3g} x {ratio:.2g} x SD {spread:.3g} over {len(runs)} base seeds"
        keys[key] = {"value": value, "tolerance": max(wide, drift), "why": why}
    under = settings(params, default)
    _update(out, params.model, {"recorded_under": {"sha256": digest(under), "params": under}, "keys": keys})


def publish(*, reported: Path, out: Path, params: Params) -> None:
    """Writes what was published as expectations of the profile `paper` into `out`; all else there stays."""
    _update(out, "lugha_llama", {"published": published.expectations(load_yaml(reported), params)})


def digest(under: Measured) -> str:
    """SHA-256 of the settings, as the file has them, in JSON with sorted keys."""
    plain = {name: _plain(value) for name, value in under.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _update(out: Path, profile: str, change: dict[str, Any]) -> None:
    """Replaces parts of a profile's section."""
    sections = load_yaml(out).get("profiles", {}) if out.is_file() else {}
    _write(out, sections | {profile: sections.get(profile, {}) | change})


def _ratios(spreads: dict[str, float], drifts: dict[str, list[float]]) -> dict[str, float]:
    """rho of each family, see `record`."""
    drifted, spread = _mean_squares(drifts), _mean_squares({key: [sd] for key, sd in spreads.items()})
    return {
        name: min(MOST, max(LEAST, math.sqrt(drifted.get(name, 0.0) / square) if square else MOST))
        for name, square in spread.items()
    }


def _drift_alone(drifts: dict[str, list[float]]) -> dict[str, float]:
    """sqrt(mean D^2) of each family."""
    return {name: math.sqrt(square) for name, square in _mean_squares(drifts).items()}


def _mean_squares(values: dict[str, list[float]]) -> dict[str, float]:
    """The mean square of each family's values."""
    squares: dict[str, list[float]] = {}
    for key, own in values.items():
        squares.setdefault(family(key), []).extend(value**2 for value in own)
    return {name: stats.mean(of_it) for name, of_it in squares.items()}


HEAD = """\
# What a run of each profile is expected to give. Written by `tli record`; do not edit by hand.
# keys: from real runs. value: the default run's. tolerance: how far the same seed may land on another CPU, from runs
# with other threads and instructions and from the spread over base seeds (the rule: `record` in
# src/tli/paper/expected.py).
# recorded_under: a value is judged only where the params that can change it are these.
# published: others' values, written by `tli record --published` from paper/reported.yaml (tolerances and their reasons:
# src/tli/paper/published.py), judged only where the params that `under` names are so. No run of this project stands
# behind them. What was published for "layer 31" is expected at its likeliest reading, as_scripted, and nowhere else.
"""


def _write(out: Path, sections: dict[str, Any]) -> None:
    """YAML with one line a value."""
    lines = ["profiles:" if sections else "profiles: {}"]
    for profile, section in sections.items():
        lines.append(f"  {profile}:")
        if "keys" in section:
            under = section["recorded_under"]
            lines += ["    recorded_under:", f"      sha256: {under['sha256']}", "      params:"]
            lines += [f"        {name}: {_plain(value)}" for name, value in under["params"].items()]
            lines += ["    keys:", *_lines(section["keys"], 6)] if section["keys"] else ["    keys: {}"]
        if "published" in section:
            lines.append("    published:")
        for part in section.get("published", []):
            lines.append("      - under:")
            lines += [f"          {name}: {_plain(value)}" for name, value in part["under"].items()]
            lines += ["        keys:", *_lines(part["keys"], 10)]
    store.write_text(out, HEAD + "\n".join(lines) + "\n")


def _lines(keys: Mapping[str, Mapping[str, Value]], indent: int) -> Iterator[str]:
    for key, entry in keys.items():
        said = ", ".join(f"{name}: {_plain(entry[name])}" for name in ("value", "tolerance", "why"))
        name = key if re.fullmatch(r"[A-Za-z][\w.-]*", key) else json.dumps(key)
        yield f"{' ' * indent}{name}: {{{said}}}"


def _plain(value: Value) -> str:
    """A value as JSON, which is YAML too; numbers at nine significant digits."""
    if isinstance(value, float):
        text = store.number(value)
        return text if "e" not in text or "." in text else text.replace("e", ".0e")
    return json.dumps(value, ensure_ascii=False)
