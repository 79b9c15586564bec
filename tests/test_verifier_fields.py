"""What a verifier says of each personal field: open, withheld, erased by a certificate that holds - or missing, which is a failure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from infra.verifier.result import Result
from tests.support.by_hand import ByHand
from tests.support.reference_pack import Index, Pack
from tests.test_verifier_pack import DECOY_DIGEST, FIELDS, certificate, disclosure, found, ledger, of_orders, verified

DECOY, SHOWN_DECOY = disclosure("c2FsdE", "_decoy1", None)
UNSHOWN: Final = {"digest": DECOY_DIGEST, "name": "contact", "position": 11, "state": "withheld"}


def checked(tmp_path: Path, log: ByHand | None = None, **said: Any) -> Result:
    return verified(of_orders(log, **said).write(tmp_path / "pack.zip"))


def test_what_nothing_is_told_of_is_missing_where_everything_is_accounted_for(tmp_path: Path) -> None:
    for accounted_after in (0, 10):
        result = checked(tmp_path, accounted_after=accounted_after)
        (missing,) = result.problems
        assert (missing.position, missing.check, missing.where) == (11, "field", "disclosures.jsonl")
        assert "no certificate says that it was erased" in missing.found
        assert (result.ok, result.fields["missing"], result.fields["untold"]) == (False, 1, 0)
    whole = checked(tmp_path, accounted_after=0, fields=(*FIELDS, UNSHOWN))
    assert (whole.problems, whole.fields["missing"]) == ([], 0)
    assert "open 1, withheld 2, erased 1, missing 0" in "\n".join(whole.sentences())


@pytest.mark.parametrize("accounted_after", [None, 11, 17])
def test_before_decoys_were_kept_nobody_can_tell(accounted_after: int | None, tmp_path: Path) -> None:
    result = checked(tmp_path, accounted_after=accounted_after)
    assert (result.problems, result.fields["missing"], result.fields["untold"]) == ([], 0, 1)


def test_a_value_that_is_taken_away_without_a_certificate_is_missing(tmp_path: Path) -> None:
    fields = [*FIELDS[:2], UNSHOWN]
    assert found(checked(tmp_path, accounted_after=0, fields=fields)) == {(13, "field")}


def test_a_decoy_is_nobodys_and_a_value_that_is_called_like_one_is_not(tmp_path: Path) -> None:
    log = ByHand.founded()
    value, digest = disclosure("c2FsdE", "_decoy2", "Zdenka")
    for position in range(4, 16):
        digests = {9: sorted([SHOWN_DECOY, digest])}.get(position, [])
        log.append("catalog.dataset_changed", {"dataset_id": "orders"}, stream="dataset:orders", _sd=digests)
    Index.of(log, 15).commit(15)
    certificate(log)
    shown = {"position": 9, "state": "open"}
    fields = (
        {**shown, "digest": SHOWN_DECOY, "name": "_decoy1", "disclosure": DECOY},
        {**shown, "digest": digest, "name": "_decoy2", "disclosure": value},
    )
    chosen = {"selection": {"datasets": ["orders"]}, "withhold": (), "certificates": []}
    result = checked(tmp_path, log, fields=fields, accounted_after=0, **chosen)
    assert (result.fields["decoy"], result.fields["open"]) == (1, 1)
    assert not [problem for problem in result.problems if problem.check in ("field", "disclosure")]


FORGED: Final[dict[str, dict[str, Any]]] = {
    "of another subject": {"data": {"subject_id": "own-2"}},
    "of no subject": {"data": {"subject_id": None}},
    "of events before it": {"data": {"until": 12}},
    "of no range": {"data": {"until": "all"}},
    "another event": {"type": "subjects.erasure_begun"},
    "by somebody else": {"actor": "usr-ana"},
    "of another tenant": {"tenant": "beta"},
}


@pytest.mark.parametrize("said", FORGED.values(), ids=FORGED)
def test_a_certificate_that_is_not_of_this_value_proves_nothing(said: dict[str, Any], tmp_path: Path) -> None:
    log = ledger()
    del log.entries[-1], log.bodies[-1]
    position = certificate(log, **said)
    result = checked(tmp_path, log, accounted_after=11, certificates=[position])
    assert {(13, "field"), (None, "disclosure")} <= found(result)
    assert (result.ok, result.fields["erased"]) == (False, 0)


def elsewhere(pack: Pack) -> None:
    pack.lines("certificates.tsv", [15])


def altered(pack: Pack) -> None:
    pack.members["certificates.tsv"] = pack.members["certificates.tsv"].replace(b"17\t", b"15\t")


@pytest.mark.parametrize("change", [lambda pack: pack.members.pop("certificates.tsv"), elsewhere, altered])
def test_a_certificate_that_is_not_in_the_pack_and_the_tree_proves_nothing(change: Callable[[Pack], Any], tmp_path: Path) -> None:
    pack = of_orders()
    change(pack)
    result = verified(pack.write(tmp_path / "pack.zip"))
    assert (None, "disclosure") in found(result)
    assert not result.ok
