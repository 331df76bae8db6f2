"""The study's claims: what each kind of evidence may say, both ways, and the published statistics recomputed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synthetic import as_paper, fabricate
from tli.analysis.results import Measured, load_yaml
from tli.config import parameters
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.structured import read_json
from tli.paper import tables
from tli.verify import claims

ROOT = Path(__file__).resolve().parents[2]
REPORTED = ROOT / "paper" / "reported.yaml"


@pytest.fixture(scope="module")
def smoke() -> Params:
    return parameters.load(ROOT / "tests" / "smoke" / "params.yaml")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, smoke: Params) -> Measured:
    """The values of a synthetic run."""
    made = fabricate(tmp_path_factory.mktemp("run"), smoke)
    tables.run(**made)
    values: Measured = read_json(made["measured"])
    return values


def change(params: Params, section: str, **values: Any) -> Params:
    return params.model_copy(update={section: getattr(params, section).model_copy(update=values)})


def test_the_claims_are_those_of_the_study() -> None:
    entries = load_yaml(REPORTED)["claims"]
    assert [entry["id"] for entry in entries] == [*range(1, 19)]
    confidence = [24, 22, 19, 19, 14, 21, 19, 14, 25, 20, 13, 19, 12, 10, 19, 20, 21, 28]
    assert [round(100 * entry["confidence"]) for entry in entries] == confidence
    assert [entry["id"] for entry in entries if not entry["verified"]] == [5, 8, 11, 13, 14]
    kinds = {"configuration", "data", "recomputed", "measured"}
    assert {entry["evidence"] for entry in entries} == kinds


def test_another_model_claims_nothing_of_the_published_one(measured: Measured, smoke: Params) -> None:
    reported = load_yaml(REPORTED)
    found = {claim.id: claim for claim in claims.study_claims(measured, reported, smoke)}
    assert {number for number, claim in found.items() if claim.verdict == claims.NEEDS} == {*range(1, 8), 10, 11}
    assert found[9].verdict == claims.HOLDS
    assert found[16].verdict == claims.FAILS
    assert "hidden_states[31] of 33" in found[16].reason
    assert {found[number].verdict for number in (8, 12, 13, 14, 15, 17, 18)} <= {claims.IMPLEMENTED, claims.OTHERWISE}
    assert found[12].verdict == found[14].verdict == claims.IMPLEMENTED
    assert found[8].verdict == claims.OTHERWISE, "the synthetic list has 12 control pairs, not 63"
    assert "0.3205" in found[5].reason
    assert found[6].here.count(" at ") == 2
    assert all("{" not in claim.reason + claim.here for claim in found.values())
    counted = claims.table([*found.values()]).caption
    assert "The 18 claims" in counted
    assert "13 of them" in counted


# What each claim looks up under a synthetic profile=paper on the author's lists, read as the claim has it (4 blocks:
# layer 3 is L - 1, which claim 16 takes for the final output), and below the changes that make it read otherwise.
AS_CLAIMED: Measured = {
    "scan.trained.cosine.0.mask.nf4": 0.3155,
    "scan.trained.cosine.1.mask.nf4": 0.9805,
    "scan.trained.cosine.2.mask.nf4": 0.999979,
    "scan.trained.peak_layer.mask.nf4": 2,
    "scan.trained.cosine.3.mask.nf4": 0.9876,
    "align.all.before.3.mask.nf4": 0.3205,
    "align.all.before.2.content.fp4": 0.3205,
    "align.trained.before.3.mask.nf4": 0.3211,
    "align.trained.before.2.content.fp4": 0.9,
    "align.control.before.3.mask.nf4": 0.3143,
    "align.control.before.2.content.fp4": 0.3143,
    "setup.pairs.control": 63,
    "audit.base.repository": "Lugha-Llama/Lugha-Llama-8B-wura",
    "audit.base.revision": "53eea9a3857674c85f3936d8313587f87b094e99",
    "setup.architecture": "llama, rope llama3",
    "setup.nf4.quant_type": "nf4",
    "setup.nf4.compute_dtype": "bfloat16",
    "setup.scanned": "0 to 3, norm",
    "setup.layer_0": "embeddings",
    "setup.hidden_states": 4,
    "setup.final_hidden_state": 3,
    "setup.mask_pooling": "mean of all tokens",
    "setup.cosine": "dot product at length 1",
    "setup.measure": "cosine",
}
SO: dict[str, tuple[str, str]] = {
    "judged": (claims.HOLDS, claims.FAILS),
    "configured": (claims.IMPLEMENTED, claims.OTHERWISE),
}


@pytest.mark.parametrize(
    ("number", "kind", "otherwise"),
    [
        (1, "judged", {"scan.trained.cosine.0.mask.nf4": 0.33}),
        (2, "judged", {"scan.trained.cosine.1.mask.nf4": 0.97}),
        (3, "judged", {"scan.trained.cosine.2.mask.nf4": 0.9999}),
        (3, "judged", {"scan.trained.peak_layer.mask.nf4": 3}),
        (4, "judged", {"scan.trained.cosine.3.mask.nf4": 0.98}),
        (5, "judged", {"align.all.before.3.mask.nf4": 0.9876}),
        (6, "judged", {"align.trained.before.3.mask.nf4": 0.9876}),
        (7, "judged", {"align.control.before.3.mask.nf4": 0.9876}),
        (8, "judged", {"setup.pairs.control": 62}),
        (10, "configured", {"audit.base.repository": "Lugha-Llama/Lugha-Llama-8B-wura_"}),
        (10, "configured", {"audit.base.revision": 40 * "0"}),
        (11, "configured", {"setup.architecture": "qwen2, rope default"}),
        (12, "configured", {"setup.nf4.quant_type": "fp4"}),
        (13, "configured", {"setup.nf4.compute_dtype": "float32"}),
        (14, "configured", {"setup.scanned": "0 to 2, norm"}),
        (15, "configured", {"setup.layer_0": "no"}),
        (16, "judged", {"setup.final_hidden_state": 4}),
        (17, "configured", {"setup.mask_pooling": "no"}),
        (17, "configured", {"setup.cosine": "no"}),
        (18, "configured", {"setup.cosine": "no"}),
    ],
)
def test_every_verdict_both_ways(smoke: Params, number: int, kind: str, otherwise: Measured) -> None:
    paper, reported = as_paper(smoke), load_yaml(REPORTED)
    yes, no = SO[kind]
    for measured, verdict in ((AS_CLAIMED, yes), (AS_CLAIMED | otherwise, no)):
        found = {claim.id: claim.verdict for claim in claims.study_claims(measured, reported, paper)}
        assert found[number] == verdict
        assert claims.NEEDS not in found.values()


def test_the_recomputed_claim_both_ways(smoke: Params) -> None:
    reported = load_yaml(REPORTED)
    assert claims.study_claims(AS_CLAIMED, reported, as_paper(smoke))[8].verdict == claims.HOLDS
    reported["before_after"]["control"]["t"] = 20.0
    assert claims.study_claims(AS_CLAIMED, reported, as_paper(smoke))[8].verdict == claims.FAILS


def test_the_other_reading_stands_beside_the_verdict(smoke: Params) -> None:
    """As the pilot and the public scripts would have it: not at layer 31 under mask, but as_scripted."""
    measured = AS_CLAIMED | {f"align.{set_}.before.3.mask.nf4": 0.9876 for set_ in ("all", "trained", "control")}
    measured["align.trained.before.2.content.fp4"] = 0.3213
    found = {claim.id: claim for claim in claims.study_claims(measured, load_yaml(REPORTED), as_paper(smoke))}
    for number in (5, 6, 7):
        assert found[number].verdict == claims.FAILS
        assert found[number].reason.endswith("Read at 2.content.fp4 it holds.")
    apart = AS_CLAIMED | {"align.trained.before.2.content.fp4": 0.5}
    found = {claim.id: claim for claim in claims.study_claims(apart, load_yaml(REPORTED), as_paper(smoke))}
    assert found[6].verdict == claims.HOLDS
    assert found[6].reason.endswith("Read at 2.content.fp4 it does not hold.")


def test_measured_claims_need_the_author_s_lists_too(smoke: Params) -> None:
    own = change(as_paper(smoke), "pairs", source="project")
    found = {claim.id: claim for claim in claims.study_claims(AS_CLAIMED, load_yaml(REPORTED), own)}
    assert {number for number, claim in found.items() if claim.verdict == claims.NEEDS} == {*range(1, 8)}
    assert all("pairs.source=author" in found[number].reason for number in range(1, 8))
    assert found[8].verdict == claims.IMPLEMENTED, "63 pairs of this project's own list say nothing of the paper's"


def test_a_value_that_a_verdict_rests_on_is_never_taken_for_granted(smoke: Params) -> None:
    less = {key: value for key, value in AS_CLAIMED.items() if key != "setup.layer_0"}
    with pytest.raises(UserError, match=r"expected the value setup\.layer_0, which was not measured"):
        claims.study_claims(less, load_yaml(REPORTED), as_paper(smoke))


def test_published_statistics_are_recomputed_within_their_rounding() -> None:
    reported = load_yaml(REPORTED)
    again = claims.recomputed(reported)
    assert len(again) == 6
    assert all(one.agrees for one in again)
    assert all(one.tolerance < 1e-2 for one in again)
    reported["before_after"]["trained"]["t"] = 54.9
    wrong = [one.statistic for one in claims.recomputed(reported) if not one.agrees]
    assert wrong == ["t, trained"]
