"""What the paper reports, beside what was measured: at which layers and views its values may stand, and whose they are.

The values themselves stand in paper/reported.yaml. Feeds the layer scan, before and after, the gains, and `verify`,
which expects them of a run of the published model on the author's word lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tli.config.parameters import Params
from tli.measure.views import layers, named, names
from tli.stats import t_tests

SETS = ("trained", "control")
PUBLISHED = ("lugha_llama", "lugha_llama_early")  # of the published model, whole or its first blocks


def is_published_model(params: Params) -> bool:
    """Whether this run's model is the one whose values were published."""
    return params.model in PUBLISHED


def whose(params: Params) -> str:
    """The sentence that says whose the published values are, where this run's model is another."""
    if is_published_model(params):
        return ""
    return "Published values are those of Lugha-Llama-8B-wura, another model than this run's."


def pilot(reported: Mapping[str, Any], params: Params) -> dict[str, float]:
    """Layer -> the pilot's published mean cosine of the trained pairs, under mask pooling and NF4.

    For another model than the published one only layers whose number means the same: 0, 1, 2, and L - 1 for 31 of 32.
    """
    values: dict[int, float] = reported["pilot"]
    if is_published_model(params):
        return {str(layer): value for layer, value in values.items()}
    same = {**{number: number for number in (0, 1, 2)}, 31: params.active.model.blocks - 1}
    return {str(place): values[layer] for layer, place in reversed(same.items())}


def readings(params: Params) -> dict[str, str]:
    """The two views at which the one published before/after value may be read: of the text, of the public scripts.

    Where the model is cut, that of the scripts alone.
    """
    views = named(params.active.model)
    return {name: str(views[name]) for name in ("as_described", "as_scripted") if name in views}


def own_view(name: str, reported: Mapping[str, Any]) -> str:
    """The view of that name in the published model, whose number of blocks the setup section gives."""
    return str(names(int(reported["setup"]["blocks"]["paper"]))[name])


READ_AS = (
    "Rows named published hold the paper's one set of values at both of its readings, by the published model's layers: "
    "its text says layer 31 and a mean over the attention mask; the public scripts evaluate hidden_states[2] under FP4 "
    "with BOS left out."
)


def said_of_fp4(params: Params) -> str:
    """How FP4 was made, and that the adapter is merged into it: `as_scripted` and its neighbours."""
    dtype = params.quantize.fp4.load_dtype
    here = ", as in the public scripts" if dtype == "float16" else "; the public scripts have float16"
    return f"Under FP4 the weights are cast to {dtype} before packing and the adapter is merged into them{here}."


def difference(reported: Mapping[str, Any], params: Params) -> t_tests.Welch:
    """Trained against control gain from the published summaries."""
    given = [reported["before_after"][set_] for set_ in SETS]
    first, second = ((one["n"], one["gain"], one["gain_sd"]) for one in given)
    return t_tests.welch_from_summary(first, second, params.stats.confidence)


ARITHMETIC = 0.005
CLOSE = "by judgement: the same weights on other kernels and library versions"
WIDE = "training set no seed, and its spread over seeds is not published: by judgement a third of the gain"
RECIPE = (  # the paper's; alpha / r is 2 at rank 16 under every scaling
    "lora.rank",
    "lora.dropout",
    "lora.targets",
    "train.layer",
    "train.pooling",
    "train.margin",
    "train.lr",
    "train.weight_decay",
    "train.warmup_steps",
    "train.epochs",
    "train.batch_size",
    "train.mask_duplicates",
)


def expectations(reported: Mapping[str, Any], params: Params) -> list[dict[str, Any]]:
    """Published values as expectations, each part with the settings that it holds for; none for another model.

    The likeliest reading of the one before/after value is as_scripted: nothing is expected at as_described. Values
    after training are expected closely of the author's own adapter, and widely of one trained here. A model of the
    first blocks has the expectations at its layers.
    """
    if not is_published_model(params):
        return []
    parts = _parts(reported, params)
    return parts if params.active.model.whole else within(parts, params)


def _parts(reported: Mapping[str, Any], params: Params) -> list[dict[str, Any]]:
    """The expectations of the whole model; which model it was, claim 10 of reported.yaml says."""
    setup = {key: entry["paper"] for key, entry in reported["setup"].items()}
    source = next(entry["expects"] for entry in reported["claims"] if "fetched from" in entry.get("expects", {}))
    whole: dict[str, Any] = {"model.repo": source["fetched from"], "model.revision": source["revision"]}
    whole["model.blocks"] = setup["blocks"]
    lists = whole | {"pairs.source": "author"}
    nf4 = {"quantize.nf4.double_quant": "false"}
    fp4 = lists | {"quantize.fp4.load_dtype": "float16", "quantize.fp4.double_quant": "false"}
    recipe = {key: setup.get(key.partition(".")[2]) for key in RECIPE}
    # the public scripts' defaults; which blocks beyond the loss's layer have LoRA changes nothing
    recipe |= {"train.weight_decay": 0.01, "train.mask_duplicates": "false", "train.pairs": "translations"}
    counted = {f"setup/pairs.{set_}/here": reported["before_after"][set_]["n"] for set_ in SETS}
    loaded = {f"setup/{key}/here": setup[key] for key in ("blocks", "nf4.quant_type", "nf4.compute_dtype")}
    return [
        {"under": whole, "keys": {key: _exactly(value) for key, value in loaded.items()}},
        {"under": lists, "keys": {key: _exactly(value) for key, value in counted.items()}},
        {"under": lists | nf4, "keys": _pilot(reported)},
        {"under": fp4, "keys": _before(reported)},
        {"under": fp4 | {"adapter.source": "author"}, "keys": _after(reported, params)},
        {"under": fp4 | nf4 | {"adapter.source": "trained"} | recipe, "keys": _after_own(reported, params)},
    ]


WHOLE = ("setup/blocks/here", "setup/peak_layer/here")  # what only a run of every block can read


def within(parts: Sequence[Mapping[str, Any]], params: Params) -> list[dict[str, Any]]:
    """Those of the published values that a run of the model's first blocks can meet: at its layers, of no other."""
    measured = layers(params.active.model)

    def has(key: str) -> bool:
        view = re.search(r"(\w+)\.(mask|content)\.\w+", key)
        return key not in WHOLE and (view is None or view[1] in measured)

    return [{**part, "keys": {key: value for key, value in part["keys"].items() if has(key)}} for part in parts]


def _entry(value: Any, tolerance: float | None, why: str) -> dict[str, Any]:
    return {"value": value, "tolerance": tolerance, "why": f"published; {why}"}


def _exactly(value: Any) -> dict[str, Any]:
    return _entry(value, 0 if isinstance(value, int) else None, "equal or not")


def _pilot(reported: Mapping[str, Any]) -> dict[str, Any]:
    """Mean cosines by layer. From layer 1 on 1 - cosine is what BOS leaves of the words, and varies in proportion."""
    values: dict[int, float] = reported["pilot"]
    keys = {
        f"scan/{layer}.mask.nf4/trained": _entry(
            value,
            round(max((1 - value) / 4, 1e-5), 6) if layer else ARITHMETIC,
            f"{'a quarter of 1 - cosine, 1e-5 at least, ' if layer else ''}{CLOSE}",
        )
        for layer, value in values.items()
    }
    return keys | {"setup/peak_layer/here": _exactly(max(values, key=lambda layer: values[layer]))}


def _before(reported: Mapping[str, Any]) -> dict[str, Any]:
    sets, view = reported["before_after"], own_view("as_scripted", reported)
    return {f"before_after/run,{view},{set_}/before": _entry(sets[set_]["before"], ARITHMETIC, CLOSE) for set_ in SETS}


def _after(reported: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """With the author's adapter: only arithmetic differs."""
    view, keys = own_view("as_scripted", reported), {}
    for set_ in SETS:
        one = reported["before_after"][set_]
        for key in ("after", "gain", "gain_sd"):
            keys[f"before_after/run,{view},{set_}/{key}"] = _entry(one[key], ARITHMETIC, CLOSE)
        share = ARITHMETIC / one["gain"] + ARITHMETIC / one["gain_sd"]
        for key in ("t", "d_z"):
            keys[f"before_after/run,{view},{set_}/{key}"] = _entry(
                one[key], one[key] * share, "follows from the gain and its SD"
            )
    test = difference(reported, params)
    return keys | {f"gains/run,{view}/difference": _entry(test.difference, ARITHMETIC, CLOSE)}


def _after_own(reported: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """With an adapter trained here: the size of the gain, not its digits; no t, whose SD is that of one run."""
    view, keys = own_view("as_scripted", reported), {}
    for set_ in SETS:
        one = reported["before_after"][set_]
        third = one["gain"] / 3
        keys[f"before_after/run,{view},{set_}/gain"] = _entry(one["gain"], third, WIDE)
        keys[f"before_after/run,{view},{set_}/after"] = _entry(
            one["after"], third + ARITHMETIC, f"{WIDE}, and {ARITHMETIC} {CLOSE}"
        )
    test = difference(reported, params)
    error = (test.difference or 0.0) / (test.t or 1.0)
    why = "two standard errors of the published difference"
    return keys | {f"gains/run,{view}/difference": _entry(test.difference, 2 * error, why)}
