"""results/MODEL/headline.json: a few numbers with short names, for `dvc exp show`."""

from __future__ import annotations

from collections.abc import Mapping

from tli.analysis.results import Value
from tli.analysis.scores import AT_CHANCE
from tli.analysis.table import Table
from tli.analysis.views import trained_view
from tli.config.parameters import Params


def headline_values(tables: Mapping[str, Table], params: Params) -> dict[str, Value]:
    """Gain in cosine of trained pairs and of random pairs, P@1 after training, accuracies; four decimals.

    `at_chance` names the sets at chance, where there are any.
    """
    view = trained_view(params)
    keys = {
        "gain": f"before_after/run,{view},trained/gain",
        "random": f"gains/run,{view}/random_trained",
        "p1": f"retrieval/{view},all,sw-en/p1_after",
    }
    for task, short in (("xcopa", "copa"), ("xnli", "nli")):
        keys |= {f"{short}_{code}": f"accuracy_by_rank/{task}.{code},main,{{rank}}/accuracy" for code in ("en", "sw")}
    values = {key: value for table in tables.values() for key, value in table.values().items()}
    headline: dict[str, Value] = {}
    for name, key in keys.items():
        value = values.get(key.format(rank=params.lora.rank))
        if value is not None:
            headline[name] = round(value, 4) if isinstance(value, float) else value
    scored = tables["accuracy_by_rank"].matching(run="main") if "accuracy_by_rank" in tables else []
    if chance := [str(row["set"]) for row in scored if str(row["language"]).endswith(AT_CHANCE)]:
        headline["at_chance"] = ", ".join(chance)
    return headline
