"""Topics: what an event is about follows from its bytes, and no event names something that its topics leave out."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, Final

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from infra.verifier.topics import (
    EMPTY_CHAIN,
    NAMED_OTHERWISE,
    NOT_ASKED_FOR,
    TopicFold,
    chain_step,
    index_entry,
    recalls,
    topics_of,
)
from tests.golden import event_classes
from tests.support.samples import samples

NAMES_NOBODY: Final = frozenset(
    """
    action action_digest actions activate actor_kinds added after algorithm answers apiVersion approver_roles artifacts asked at
    attributes authorisation authorised_by becomes before bytes cause change changed classification code code_sha256 column columns
    command command_digest comment consent contact_email contact_name contacts contract contracts count created currency custody data
    deadline_at definition deployment deprecation description digest digest_after digest_before display_name domain domains dq_checks
    ends_at environment environments escalates_at event evidence expires_at facts failure failures field first_tried_at flips
    freshness_sla guard in_force intent json_sha256 jurisdiction jurisdictions kind kinds label level manifest_sha256 markdown_sha256
    meanings meanings_removed media_type message model models name name_of nonce originator_kind outcome owners pii pii_level pii_levels
    policy_results policy_version problems profile proof property provider public purpose question reaction reason recipient_kind
    refreshed_at rego remedy removed report required_evidence retry_at risk_level risk_up_to role roles rollback_plan root rule saga
    scope secret_sha256 selection settings sha256 sig signature snapshot snapshot_sha256 sql starts_at state status step subject
    synonyms tags terms tests text title to_roles tool topic type types unit_tests upstream upstream_column upstreams url views
    withdrawn context contexts default ground keep kek kept_artifacts matter note packs parameters parquet_sha256 previous purposes query
    external_name issuer old_ends_at revoked_keys subject_sha256 tier schema_prefix sql_sha256 sqlstate table tables tiles_sha256 differing
    fields method
    refresh_sha256 refresh_until reused_sha256 shown_sha256 scopes must_change second_factor
    constants only_when scheme
    commands_apart ending input_sha256 on_failure results_sha256 roles_apart
    """.split()
)
"""Members that hold text or parts, and never an id of something one could ask for. Reviewed one by one."""
ACTORS: Final = frozenset(
    """
    approver approvers delegate delegated_by delegator downloaded_by holder on_behalf_of owner recipient requester requester_owner
    stopped_by used_by disclosed_to handed_to run_by
    acts_as asked_by
    """.split()
)
"""Members that hold an actor's id, which is known by its form wherever it stands."""
COUNTS: Final = frozenset(
    """
    after artifacts attempt attempts broken carry_out checkpoint_size compromised_since correct depth disclose dq_checks entries
    everything examined failed first_byte fresh fund index_position keys keys_leaf last_byte left_undone lineage_depth nullable passed
    position primary_key quorum replaces replay retired revision rules seen_version thresholds_percent topics undo unique until
    withheld_entries withhold_types damaged erasures events everybody first last ordered_position rows webhook_secrets
    failed_logins wait_seconds recovery_codes
    old_until since
    allowed done items parked refused
    """.split()
)
"""Members that hold numbers, times, or answers of yes and no."""


def body(stream: str, data: dict[str, Any], actor: str = "usr-ana") -> dict[str, Any]:
    return {"stream": stream, "actor": actor, "data": data}


# -- what a body says


def test_an_event_is_about_its_own_stream_and_whoever_did_it() -> None:
    found = topics_of(body("dataset:customers", {"dataset_id": "customers"}, "agt-cleaner"))
    own = {"stream:dataset:customers", "about:dataset:customers"}
    assert found == {"all", "actor:agt-cleaner", "about:actor:agt-cleaner", "about:agent:agt-cleaner", *own}


def test_an_action_has_no_topic_of_its_own_and_is_about_what_it_was_asked_of() -> None:
    intent = {"stream": "budget:eu-lake", "inputs": {"budget_id": "eu-lake.ingest", "dataset_ids": ["a", "b"]}}
    results = [{"policy": "baseline_allow", "outcome": "allow"}]
    found = topics_of(body("action:01", {"intent": intent, "policy_results": results, "approval_id": "apr-1", "action_id": "x"}))
    assert {topic for topic in found if topic.startswith(("about:", "stream:"))} == {
        "about:actor:usr-ana",
        "about:approval:apr-1",
        "about:budget:eu-lake",
        "about:budget:eu-lake.ingest",
        "about:dataset:a",
        "about:dataset:b",
        "about:policy:baseline_allow",
    }


@pytest.mark.parametrize(
    ("data", "topic"),
    [
        ({"change": {"activate": [{"policy_id": "pii", "version": 2}], "retire": ["old"]}}, "about:policy:pii"),
        ({"change": {"retire": ["old"]}}, "about:policy:old"),
        ({"deployment": {"inputs": ["raw"], "outputs": ["clean"]}}, "about:dataset:raw"),
        ({"deployment": {"inputs": ["raw"], "outputs": ["clean"]}}, "about:dataset:clean"),
        ({"upstream": {"dataset_id": "raw"}}, "about:dataset:raw"),
        ({"replaced_by": "v2"}, "about:dataset:v2"),
        ({"path": ["lake.ingest", "lake"]}, "about:budget:lake"),
        ({"about": "pipeline:daily"}, "about:pipeline:daily"),
        ({"snapshot": {"owners": {"agt-owner": "steward"}}}, "about:agent:agt-owner"),
        ({"approvers": ["usr-ben"]}, "about:actor:usr-ben"),
        ({"selection": {"datasets": ["customers"]}}, "about:dataset:customers"),
        ({"deep": [[{"term_id": "customer"}]]}, "about:term:customer"),
    ],
)
def test_an_event_is_about_every_id_it_names(data: dict[str, Any], topic: str) -> None:
    assert topic in topics_of(body("x:1", data))


@pytest.mark.parametrize(
    "data",
    [{"action_id": "01"}, {"dataset_id": ""}, {"dataset_id": "with space"}, {"dataset_id": 7}, {"note": "dataset_id"}, {"_id": "x"}],
)
def test_what_is_no_id_or_is_never_asked_for_makes_no_topic(data: dict[str, Any]) -> None:
    assert topics_of(body("action:1", data)) == {"all", "actor:usr-ana", "about:actor:usr-ana"}


def test_a_jurisdiction_is_what_is_stated_of_the_data_and_nothing_that_somebody_typed_elsewhere() -> None:
    assert "jurisdiction:EU" in topics_of(body("dataset:x", {"snapshot": {"profile": {"jurisdiction": "EU"}}}))
    assert {"jurisdiction:EU", "jurisdiction:UK"} <= topics_of(
        body("tool:x", {"datasets": [{"jurisdiction": "EU"}, {"jurisdiction": "UK"}]})
    )
    assert "jurisdiction:MARS" not in topics_of(body("dataset:x", {"contract": {"jurisdiction": "MARS"}}))


# -- what takes memory


def jurisdictions(found: set[str]) -> set[str]:
    return {topic.removeprefix("jurisdiction:") for topic in found if topic.startswith("jurisdiction:")}


def test_an_event_stands_under_the_law_last_stated_for_what_it_is_about() -> None:
    fold = TopicFold()
    assert jurisdictions(fold.topics(body("action:1", {"intent": {"stream": "dataset:x", "inputs": {}}}))) == {"-"}
    assert jurisdictions(fold.topics(body("dataset:x", {"dataset_id": "x", "profile": {"jurisdiction": "EU"}}))) == {"EU"}
    assert jurisdictions(fold.topics(body("dataset:x", {"dataset_id": "x", "tags": []}))) == {"EU"}
    assert jurisdictions(fold.topics(body("budget:b", {"budget_id": "b"}))) == {"-"}


def test_moving_data_to_another_law_concerns_both() -> None:
    fold = TopicFold()
    fold.topics(body("dataset:x", {"profile": {"jurisdiction": "EU"}}))
    assert jurisdictions(fold.topics(body("dataset:x", {"profile": {"jurisdiction": "US"}}))) == {"EU", "US"}
    assert jurisdictions(fold.topics(body("dataset:x", {"tags": []}))) == {"US"}


def test_several_laws_at_once_are_unknown_law_to_each_of_them() -> None:
    fold = TopicFold()
    assert jurisdictions(fold.topics(body("dataset:x", {"profile": {"jurisdiction": "multi"}}))) == {"multi", "-"}
    assert jurisdictions(fold.topics(body("dataset:x", {"tags": []}))) == {"multi", "-"}


def test_asking_about_a_dataset_settles_nothing_for_it() -> None:
    fold = TopicFold()
    fold.topics(body("action:1", {"intent": {"stream": "dataset:x", "inputs": {"jurisdiction": "US"}}}))
    assert jurisdictions(fold.topics(body("dataset:x", {"tags": []}))) == {"-"}


def test_what_becomes_of_an_approval_is_about_what_it_was_asked_for() -> None:
    fold = TopicFold()
    fold.topics(body("dataset:x", {"profile": {"jurisdiction": "EU"}}))
    fold.topics(body("approval:a", {"approval_id": "a", "stream": "dataset:x", "requester": "agt-bot"}))
    later = fold.topics(body("approval:a", {"approval_id": "a", "approver": "usr-ben"}, "usr-ben"))
    assert {"about:dataset:x", "about:agent:agt-bot", "about:actor:usr-ben", "about:approval:a", "jurisdiction:EU"} <= later


def test_a_fold_says_what_it_will_ask_its_memory_for() -> None:
    asked: set[str] = set()

    class Watched(dict[str, tuple[str, ...]]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, default)

    memory = Watched({"approval:a": ("about:dataset:x", "about:pipeline:p")})
    event = body("approval:a", {"approval_id": "a", "dataset_id": "y"})
    TopicFold(memory).topics(event)
    assert (
        asked
        == set(recalls("approval:a", {*topics_of(event), *memory["approval:a"]}))
        == {
            "approval:a",
            "dataset:x",
            "dataset:y",
            "pipeline:p",
        }
    )


# -- the index


def test_a_chain_and_an_entry_are_these_bytes() -> None:
    leaf = sha256(b"leaf").digest()
    once = chain_step(EMPTY_CHAIN, 7, leaf)
    assert once == sha256(bytes(32) + (7).to_bytes(8, "big") + leaf).digest()
    assert chain_step(once, 9, leaf) != chain_step(once, 8, leaf)
    assert index_entry("about:dataset:x", 1, once) == f'["about:dataset:x",1,"{once.hex()}"]'.encode()


@given(st.text(alphabet=st.characters(min_codepoint=1, exclude_categories=["Cs"]), min_size=1))
def test_an_entry_is_canonical_json_whatever_its_topic(topic: str) -> None:
    entry = index_entry(topic, 1, EMPTY_CHAIN)
    assert json.loads(entry) == [topic, 1, EMPTY_CHAIN.hex()]
    assert entry == rfc8785.dumps([topic, 1, EMPTY_CHAIN.hex()])


# -- nothing is missed


def test_every_member_of_every_event_is_a_topic_or_was_looked_at_and_names_nobody() -> None:
    """A new member that holds an id must get a name that says so, or a line in NAMED_OTHERWISE."""
    members: set[str] = set()
    for cls in event_classes():
        schema = cls.model_json_schema()
        for shape in (schema, *schema.get("$defs", {}).values()):
            members |= set(shape.get("properties", {}))
    topical = {name for name in members if name in NAMED_OTHERWISE or name in ("stream", "about") or name.endswith(("_id", "_ids"))}
    numbers = {name for name in members if name.endswith(("_minor", "_percent", "_count", "_bytes", "_seconds", "version", "size"))}
    assert sorted(members - topical - ACTORS - NAMES_NOBODY - numbers - COUNTS) == []


def test_ids_that_stand_in_samples_under_other_names_are_found_all_the_same() -> None:
    """Whatever looks like one of the samples' own ids, wherever it stands, is a topic of that sample."""
    for event in samples().values():
        data = json.loads(json.dumps(event.dump()))
        found = topics_of(body("x:1", data))
        told = json.dumps(data)
        for actor in ("usr-app", "usr-ben", "agt-cleaner", "agt-counter"):
            assert (f'"{actor}"' in told) == (f"about:actor:{actor}" in found), (event.event_name, actor)
        for dataset in ("model.jaffle_shop.customers", "model.jaffle_shop.stg_customers"):
            assert (f'"{dataset}"' in told) <= (f"about:dataset:{dataset}" in found), (event.event_name, dataset)


def test_a_category_that_is_never_asked_for_makes_no_topic_under_any_name() -> None:
    for category in NOT_ASKED_FOR:
        found = topics_of(body(f"{category}:1", {f"{category}_id": "1", "stream": f"{category}:1"}))
        assert not any(topic.startswith((f"about:{category}:", f"stream:{category}:")) for topic in found)
