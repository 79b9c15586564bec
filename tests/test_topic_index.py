"""The index of topics: brought forward it is the one made from scratch, its paths lead to its root, and a changed one is told apart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import infra.topic_index as subject
from domain.agents import ActionRequested, DatasetFacts
from domain.approvals import ApprovalRequested, ApproverAgreed
from domain.budgets import BudgetOpened
from domain.catalog import DatasetDescribed, DatasetRegistered, Jurisdiction, PiiLevel, Profile, TagsChanged
from domain.exports import IndexCommitted
from domain.kernel import Event
from domain.ledger import Append, StreamWrite
from domain.values import Role, uuid7
from infra.fsck import fsck
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_ledger
from infra.topic_index import Absent, IndexTree, Standing, TopicIndex
from infra.verifier.topics import EMPTY_CHAIN, RULES, TopicFold, chain_step, index_entry
from infra.verifier.tree import EMPTY_ROOT, check_inclusion, leaf_hash, node_hash, subtree_root
from tests.given import AT

pytestmark = pytest.mark.anyio
AUTHOR = "usr-ana"


@pytest.fixture
async def ledger(database_url: str, tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = await open_ledger(database_url, FileKeystore.open(tmp_path / "keys"))
    try:
        yield opened
    finally:
        await opened.close()


class Writing:
    """Appends events to streams, whatever version those are at."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._versions: dict[tuple[str, str], int] = {}

    async def add(self, *written: tuple[str, str, Event]) -> int:
        """Each (tenant, stream, event); the position of the last."""
        position = 0
        for tenant, stream, event in written:
            version = self._versions.get((tenant, stream), 0)
            append = Append(tenant, AUTHOR, (StreamWrite(stream, version, (event,)),), uuid7())
            position = (await self.ledger.append(append)).last_position
            self._versions[tenant, stream] = version + 1
        return position


def profile(law: Jurisdiction) -> Profile:
    return Profile(name="d", domain="sales", pii_level=PiiLevel.LOW, jurisdiction=law)


def story(number: int) -> list[tuple[str, str, Event]]:
    """One of everything that takes memory: laws that change, an approval, an agent; of two tenants."""
    dataset, approval = f"d{number % 3}", f"a{number}"
    law = (Jurisdiction.EU, Jurisdiction.US, Jurisdiction.MULTI)[number % 3]
    described = (DatasetRegistered if number < 3 else DatasetDescribed)(dataset_id=dataset, profile=profile(law))
    asked = ApprovalRequested(
        approval_id=approval,
        type="action",
        description="x",
        risk_level="low",
        requester="agt-bot",
        action_digest="0" * 64,
        stream=f"dataset:{dataset}",
        approver_roles=(Role.APPROVER,),
        quorum=1,
        expires_at=AT,
    )
    facts = (DatasetFacts(dataset_id=dataset),)
    used = ActionRequested(request_id=f"r{number}", agent_id="agt-bot", tool="sql", purpose="x", datasets=facts)
    return [
        ("acme", f"dataset:{dataset}", described),
        ("acme", f"approval:{approval}", asked),
        ("other", f"budget:b{number}", BudgetOpened(budget_id=f"b{number}", label="B", currency="EUR", limit_minor=1)),
        ("acme", f"dataset:{dataset}", TagsChanged(dataset_id=dataset, tags=())),
        ("acme", f"approval:{approval}", ApproverAgreed(approval_id=approval, approver="usr-ben", roles=(Role.APPROVER,))),
        ("acme", f"tool:agt-bot.r{number}", used),
    ]


async def from_scratch(ledger: Ledger, tenant: str, size: int) -> dict[str, tuple[int, bytes]]:
    """What the index should be, by the rules alone."""
    chains: dict[str, tuple[int, bytes]] = {}
    fold = TopicFold()
    for stored in await ledger.entries(0, size):
        if stored.tenant == tenant:
            for topic in fold.topics(json.loads(stored.body)):
                count, chain = chains.get(topic, (0, EMPTY_CHAIN))
                chains[topic] = (count + 1, chain_step(chain, stored.position, stored.leaf))
    return chains


def root_of(chains: dict[str, tuple[int, bytes]]) -> bytes:
    return mth([leaf_hash(index_entry(topic, *chains[topic])) for topic in sorted(chains, key=str.encode)])


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962, as it is written there."""
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY_ROOT
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(mth(leaves[:split]), mth(leaves[split:]))


async def test_brought_forward_in_any_steps_it_is_the_one_from_scratch(
    ledger: Ledger, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "BATCH_EVENTS", 5)
    index, writing = TopicIndex(database_url), Writing(ledger)
    for number in range(6):
        size = await writing.add(*story(number))
        for tenant in ("acme", "other"):
            if (number + len(tenant)) % 2:  # each takes some steps at once
                forward = await asyncio.to_thread(index.bring_forward, tenant, size)
                expected = await from_scratch(ledger, tenant, size)
                assert (forward.size, forward.topics, forward.root) == (size, len(expected), root_of(expected))
    before = await asyncio.to_thread(index.bring_forward, "acme", ledger.head.size)
    await index.rebuild()
    assert await asyncio.to_thread(index.bring_forward, "acme", ledger.head.size) == before
    assert await asyncio.to_thread(index.tenants) == ["acme", "other", "system"]


async def test_a_topic_is_shown_to_be_there_or_not_to_be_there(ledger: Ledger, database_url: str) -> None:
    index, writing = TopicIndex(database_url), Writing(ledger)
    size = await writing.add(*story(0), *story(1))
    await asyncio.to_thread(index.bring_forward, "acme", size)
    chains = await from_scratch(ledger, "acme", size)
    topics = sorted(chains, key=str.encode)
    asked = [*topics, "aaa", "about:dataset:none", "zzz"]
    root, standings = await asyncio.to_thread(index.standings, "acme", asked)

    def require(stands: Standing) -> None:
        assert topics[stands.index] == stands.topic
        assert (stands.count, stands.chain) == chains[stands.topic]
        leaf = leaf_hash(index_entry(stands.topic, stands.count, stands.chain))
        check_inclusion(stands.index, root.topics, leaf, stands.path, root.root)

    for topic, stands in zip(asked, standings, strict=True):
        assert stands.topic == topic
        if isinstance(stands, Standing):
            require(stands)
            continue
        assert isinstance(stands, Absent)
        near = [one for one in (stands.before, stands.after) if one is not None]
        for one in near:
            require(one)
        place = sum(known.encode() < topic.encode() for known in topics)
        assert [one.index for one in near] == [number for number in (place - 1, place) if 0 <= number < len(topics)]


async def test_rules_that_changed_make_it_anew(ledger: Ledger, database_url: str) -> None:
    index, writing = TopicIndex(database_url), Writing(ledger)
    size = await writing.add(*story(0))
    right = await asyncio.to_thread(index.bring_forward, "acme", size)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE topics.marks SET rules = rules - 1, size = 2")
        connection.execute("UPDATE topics.chains SET count = count + 1")
    assert await asyncio.to_thread(index.bring_forward, "acme", size) == right


async def test_a_committed_index_that_is_not_right_is_told_with_its_position(ledger: Ledger, database_url: str) -> None:
    index, writing = TopicIndex(database_url), Writing(ledger)
    size = await writing.add(*story(0))
    right = await asyncio.to_thread(index.bring_forward, "acme", size)

    def commitment(**wrong: Any) -> IndexCommitted:
        fields = {"size": right.size, "topics": right.topics, "root": right.root.hex(), "rules": RULES}
        return IndexCommitted(**{**fields, **wrong}, keys_version=3, keys_leaf="0" * 64)

    await writing.add(("acme", "index:acme", commitment()))
    assert await index.check() == []
    one_left_out = await writing.add(("acme", "index:acme", commitment(root=sha256(b"other").hexdigest())))
    too_few = await writing.add(("acme", "index:acme", commitment(topics=right.topics - 1)))
    of_other_rules = await writing.add(("acme", "index:acme", commitment(rules=RULES + 1)))
    problems = await index.check()
    assert [(problem.tenant, problem.position) for problem in problems] == [
        ("acme", one_left_out),
        ("acme", too_few),
        ("acme", of_other_rules),
    ]
    assert sha256(b"other").hexdigest() in problems[0].found
    assert right.root.hex() in problems[0].found
    assert f"rules {RULES + 1}" in problems[2].found
    checked = await asyncio.to_thread(fsck, database_url, repair=True)
    assert [(problem.position, problem.check) for problem in checked.problems] == [
        (position, "topics") for position in (one_left_out, too_few, of_other_rules)
    ], "what was committed is not repaired"


async def test_a_kept_index_that_was_changed_is_told_and_made_again(ledger: Ledger, database_url: str) -> None:
    index, writing = TopicIndex(database_url), Writing(ledger)
    size = await writing.add(*story(0))
    right = await asyncio.to_thread(index.bring_forward, "acme", size)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM topics.chains WHERE topic = 'about:agent:agt-bot'")
    assert [(problem.tenant, problem.position) for problem in await index.check()] == [("acme", None)]
    checked = await asyncio.to_thread(fsck, database_url)
    assert [(problem.position, problem.check) for problem in checked.problems] == [(None, "topics")]
    assert (await asyncio.to_thread(fsck, database_url, repair=True)).ok
    assert (await asyncio.to_thread(fsck, database_url)).ok
    assert await index.check() == []
    assert await asyncio.to_thread(index.bring_forward, "acme", size) == right


async def test_its_own_commitment_is_nothing_new(ledger: Ledger, database_url: str) -> None:
    index, writing = TopicIndex(database_url), Writing(ledger)
    size = await writing.add(*story(0))
    assert index.moved_on("acme", 0)
    opened = BudgetOpened(budget_id="x", label="X", currency="EUR", limit_minor=1)
    await writing.add(("acme", "budget:x", opened), ("other", "budget:y", opened), ("acme", "budget:z", opened))
    assert not index.moved_on("acme", size)
    await writing.add(("acme", "budget:more", opened))
    assert index.moved_on("acme", size)


@given(st.integers(0, 300), st.sets(st.integers(0, 299), max_size=12))
@settings(max_examples=40)
def test_a_tree_fed_leaf_by_leaf_has_the_root_and_the_paths_of_one_that_is_whole(size: int, wanted: set[int]) -> None:
    leaves = [sha256(b"%d" % number).digest() for number in range(size)]
    tree = IndexTree()
    for number, leaf in enumerate(leaves):
        if number in wanted:
            tree.want(number)
        tree.add(leaf)
    root = tree.root()
    assert root == mth(leaves)
    if 0 < size <= 256:
        assert root == subtree_root(leaves)
    for number in wanted & set(range(size)):
        check_inclusion(number, size, leaves[number], tree.paths[number], root)
