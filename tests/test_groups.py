"""Groups: who is in them, what they give, groups within groups without a ring - and what all that makes of an actor who asks."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given as over
from hypothesis import settings
from hypothesis import strategies as st

from commands.groups import (
    DECIDERS,
    GROUP_NESTING,
    GROUPS,
    AddMember,
    CreateGroup,
    MapRoles,
    NestGroup,
    RemoveGroup,
    RemoveMember,
    RenameGroup,
    UnnestGroup,
)
from domain.access import (
    ActorOffboarded,
    ActorRegistered,
    ActorSuspended,
    DomainsBounded,
    Registration,
    TierChanged,
)
from domain.access import evolve as actor_after
from domain.duties import RULES_STREAM, Duties, DutyRule
from domain.groups import (
    LEVELS_MAX,
    MEMBERS_MAX,
    Group,
    GroupCreated,
    GroupNested,
    GroupRemoved,
    GroupRenamed,
    GroupUnnested,
    MemberAdded,
    MemberRemoved,
    Nesting,
    RolesMapped,
)
from domain.kernel import Asked, Asker, Event, Holding, Recorded, Refused
from domain.values import ActorKind, Role, Tier, uuid7
from infra.standing import Standing, Unauthenticated
from projections.access import PROJECTION as ACCESS
from projections.engine import ReadTable, replay
from projections.groups import PROJECTION
from tests.given import ACTION_ID, ADMIN, AT, given

ANA = ActorRegistered(actor_id="usr-ana", kind=ActorKind.PERSON, roles=(Role.ANALYST,))
BOT = ActorRegistered(actor_id="agt-bot", kind=ActorKind.AGENT, roles=(Role.AGENT,), owner="usr-ana")
HERE = {"actor:usr-ana": actor_after(Registration(), ANA)}
RISK = GroupCreated(group_id="grp-risk", label="Risk")
CREATED = Group(created=True)
GONE = Group(created=True, removed=True)
MEMBER = MemberAdded(group_id="grp-risk", actor_id="usr-ana")
ADD = AddMember(group_id="grp-risk", actor_id="usr-ana")
CRM_ADMIN = replace(ADMIN, domains=frozenset({"crm"}))
IN_RISK = replace(ADMIN, groups=frozenset({"grp-risk"}))


def nested(outer: str, inner: str) -> GroupNested:
    return GroupNested(group_id=f"grp-{outer}", nested_id=f"grp-{inner}")


class TestGroup:
    def test_it_is_created_once_and_renamed(self) -> None:
        create = CreateGroup(group_id="grp-risk", label="Risk", external_name="bank-risk")
        given(GROUPS).by(ADMIN).when(create).then(GroupCreated(group_id="grp-risk", label="Risk", external_name="bank-risk"))
        given(GROUPS, RISK).by(ADMIN).when(create).refused("group_exists", field="group_id")
        rename = RenameGroup(group_id="grp-risk", label="Risks")
        given(GROUPS, RISK).by(ADMIN).when(rename).then(GroupRenamed(group_id="grp-risk", label="Risks"))
        given(GROUPS, RISK).by(ADMIN).when(RenameGroup(group_id="grp-risk", label="Risk")).then()

    def test_members_come_and_go(self) -> None:
        left = MemberRemoved(group_id="grp-risk", actor_id="usr-ana")
        remove = RemoveMember(group_id="grp-risk", actor_id="usr-ana")
        given(GROUPS, RISK).by(ADMIN).beside(**HERE).when(ADD).then(MEMBER)
        given(GROUPS, RISK, MEMBER).by(ADMIN).beside(**HERE).when(ADD).then()
        given(GROUPS, RISK, MEMBER).by(ADMIN).when(remove).then(left)
        given(GROUPS, RISK).by(ADMIN).when(remove).then()

    def test_who_is_put_in_is_here(self) -> None:
        gone = actor_after(HERE["actor:usr-ana"], ActorOffboarded(actor_id="usr-ana"))
        given(GROUPS, RISK).by(ADMIN).beside(**{"actor:usr-ana": gone}).when(ADD).refused("actor_offboarded")
        given(GROUPS, RISK).by(ADMIN).beside(**{"actor:usr-ana": Registration()}).when(ADD).refused("actor_not_found")

    def test_it_is_full_at_some_point(self) -> None:
        full = replace(CREATED, members=CREATED.members.update({f"usr-{number}": None for number in range(MEMBERS_MAX)}))
        with pytest.raises(Refused, match="10000 members") as refused:
            GROUPS.decide(full, ADD, Asked(ADMIN, AT, ACTION_ID, others=HERE))
        assert (refused.value.code, refused.value.facts["limit"]) == ("too_many_members", MEMBERS_MAX)

    def test_it_gives_roles_and_bounds_domains(self) -> None:
        mapping = MapRoles(group_id="grp-risk", mapped_roles=(Role.VIEWER, Role.APPROVER), domains=("sales", "crm"))
        mapped = RolesMapped(group_id="grp-risk", roles=(Role.APPROVER, Role.VIEWER), domains=("crm", "sales"))
        given(GROUPS, RISK).by(ADMIN).when(mapping).then(mapped)
        given(GROUPS, RISK, mapped).by(ADMIN).when(mapping).then()
        given(GROUPS, RISK).by(ADMIN).when(MapRoles(group_id="grp-risk", mapped_roles=(Role.AGENT,))).refused("role_not_for_groups")
        facts = GROUPS.facts(GROUPS.replay([RISK, mapped]), ADD)
        assert facts == {"granted_roles": ["approver", "viewer"]}, "policies see what a member gets"

    def test_removed_is_for_good(self) -> None:
        remove, removed = RemoveGroup(group_id="grp-risk"), GroupRemoved(group_id="grp-risk")
        given(GROUPS, RISK).by(ADMIN).when(remove).then(removed)
        given(GROUPS, RISK, removed).by(ADMIN).when(remove).then()
        given(GROUPS, RISK, removed).by(ADMIN).beside(**HERE).when(ADD).refused("group_not_found", field="group_id")
        given(GROUPS, RISK, removed).by(ADMIN).when(CreateGroup(group_id="grp-risk", label="Again")).refused("group_exists")
        given(GROUPS).by(ADMIN).when(remove).refused("group_not_found")

    @pytest.mark.parametrize("command", [command for decider in DECIDERS for command in decider.commands])
    def test_only_administrators_may_ask(self, command: Any) -> None:
        assert command.roles == frozenset({Role.ADMIN})

    def test_a_group_brings_no_roles_together_that_are_kept_apart(self) -> None:
        rule = DutyRule(rule_id="four_eyes", reason="Who asks does not agree.", roles_apart=(Role.ANALYST, Role.APPROVER))
        others = {**HERE, RULES_STREAM: Duties({"four_eyes": rule})}
        approvers = RolesMapped(group_id="grp-risk", roles=(Role.APPROVER,))
        given(GROUPS, RISK, approvers).by(ADMIN).beside(**others).when(ADD).refused("duties_conflict", rule="four_eyes")
        both = MapRoles(group_id="grp-risk", mapped_roles=(Role.ANALYST, Role.APPROVER))
        given(GROUPS, RISK).by(ADMIN).beside(**others).when(both).refused("duties_conflict")

    def test_nobody_changes_what_they_are_given_themselves(self) -> None:
        own = "usr-adm"
        for command in (AddMember(group_id="grp-risk", actor_id=own), RemoveMember(group_id="grp-risk", actor_id=own)):
            given(GROUPS, RISK).by(ADMIN).when(command).refused("own_membership", field="actor_id")
        mine = MemberAdded(group_id="grp-risk", actor_id=own)
        for history, by in (((RISK, mine), ADMIN), ((RISK,), IN_RISK)):
            given(GROUPS, *history).by(by).when(MapRoles(group_id="grp-risk")).refused("own_groups", field="group_id")
            given(GROUPS, *history).by(by).when(RemoveGroup(group_id="grp-risk")).refused("own_groups", field="group_id")
        for nesting in (NestGroup(group_id="grp-top", nested_id="grp-risk"), UnnestGroup(group_id="grp-top", nested_id="grp-risk")):
            given(GROUP_NESTING).by(IN_RISK).when(nesting).refused("own_groups", field="nested_id")

    def test_an_administrator_of_some_domains_gives_nothing_that_reaches_others(self) -> None:
        given(GROUPS, RISK).by(CRM_ADMIN).beside(**HERE).when(ADD).refused("outside_domains")
        given(GROUPS, RISK).by(CRM_ADMIN).when(MapRoles(group_id="grp-risk")).refused("outside_domains")
        given(GROUP_NESTING).by(CRM_ADMIN).when(NestGroup(group_id="grp-a", nested_id="grp-b")).refused("outside_domains")


class TestNesting:
    def nesting(self, *history: Event, **others: Group) -> Any:
        there = {f"group:grp-{name}": others.get(name, CREATED) for name in "abcdefghijkl"}
        return given(GROUP_NESTING, *history).by(ADMIN).beside(**there)

    def test_a_group_is_put_into_another_and_taken_out(self) -> None:
        nest, unnest = NestGroup(group_id="grp-a", nested_id="grp-b"), UnnestGroup(group_id="grp-a", nested_id="grp-b")
        self.nesting().when(nest).then(nested("a", "b"))
        self.nesting(nested("a", "b")).when(nest).then()
        self.nesting(nested("a", "b")).when(unnest).then(GroupUnnested(group_id="grp-a", nested_id="grp-b"))
        self.nesting().when(unnest).then()

    def test_a_ring_is_refused_and_shown(self) -> None:
        self.nesting().when(NestGroup(group_id="grp-a", nested_id="grp-a")).refused("group_ring", way=["grp-a"])
        chain = (nested("a", "b"), nested("b", "c"))
        closing = NestGroup(group_id="grp-c", nested_id="grp-a")
        self.nesting(*chain).when(closing).refused("group_ring", field="nested_id", way=["grp-a", "grp-b", "grp-c"])
        opened = GroupUnnested(group_id="grp-a", nested_id="grp-b")
        self.nesting(*chain, opened).when(closing).then(nested("c", "a"))

    def test_both_are_there(self) -> None:
        nest = NestGroup(group_id="grp-a", nested_id="grp-b")
        self.nesting(a=Group()).when(nest).refused("group_not_found", field="group_id")
        self.nesting(b=GONE).when(nest).refused("group_not_found", field="nested_id")

    def test_the_depth_is_bounded_whichever_end_grows(self) -> None:
        chain = [nested(outer, inner) for outer, inner in zip("bcdefgh", "cdefghi", strict=True)]
        assert len(chain) + 1 == LEVELS_MAX
        self.nesting(*chain).when(NestGroup(group_id="grp-i", nested_id="grp-j")).refused("groups_too_deep", limit=LEVELS_MAX)
        self.nesting(*chain).when(NestGroup(group_id="grp-a", nested_id="grp-b")).refused("groups_too_deep")
        self.nesting(*chain[1:]).when(NestGroup(group_id="grp-i", nested_id="grp-j")).then(nested("i", "j"))


# -- what that makes of an actor


class World:
    """The read models of a history, as `Standing` looks at them."""

    def __init__(self, *events: Event, holdings: tuple[Holding, ...] = ()) -> None:
        history = [
            Recorded(at, "acme", _stream(event), at, uuid7(), AT, "usr-adm", ACTION_ID, None, event) for at, event in enumerate(events, 1)
        ]
        self.rows = {key: asdict(row) for fold in (ACCESS, PROJECTION) for key, row in replay(fold, history).items()}
        self.rounds, self.holdings = 0, holdings

    async def look(self, table: ReadTable[Any], tenant: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        self.rounds += 1
        return {row_id: self.rows[table.name, tenant, row_id] for row_id in ids if (table.name, tenant, row_id) in self.rows}

    async def held(self, _tenant: str, _actor: str, _groups: Any, _at: datetime) -> tuple[Holding, ...]:
        return self.holdings

    async def of(self, actor_id: str = "usr-ana") -> Asker:
        return await Standing(self.look, self.held).of("acme", actor_id)

    async def refusal(self, actor_id: str = "usr-ana") -> str:
        with pytest.raises(Unauthenticated) as refused:
            await self.of(actor_id)
        return refused.value.reason


def _stream(event: Any) -> str:
    if isinstance(event, GroupNested | GroupUnnested):
        return "nesting:groups"
    return f"group:{event.group_id}" if event.event_name.startswith("groups.") else f"actor:{event.actor_id}"


def gives(group: str, *roles: Role, domains: tuple[str, ...] | None = None) -> list[Event]:
    created = GroupCreated(group_id=f"grp-{group}", label=group)
    return [created, RolesMapped(group_id=f"grp-{group}", roles=roles, domains=domains)]


@pytest.mark.anyio
class TestStanding:
    async def test_roles_come_from_every_group_up_to_the_outermost(self) -> None:
        groups = [*gives("risk", Role.APPROVER), *gives("top", Role.AUDITOR), *gives("other", Role.ADMIN)]
        world = World(ANA, *groups, nested("top", "risk"), nested("risk", "other"), MEMBER)
        asker = await world.of()
        assert asker.roles == {Role.ANALYST, Role.APPROVER, Role.AUDITOR}, "what is within gives nothing outward"
        assert asker.groups == {"grp-risk", "grp-top"}
        assert world.rounds == len(("actor", "memberships", "its groups", "theirs"))

    async def test_what_is_no_person_approves_and_administers_nothing_in_whatever_group(self) -> None:
        member = MemberAdded(group_id="grp-risk", actor_id="agt-bot")
        held = (Holding(Role.APPROVER, "grt-1"), Holding(Role.VIEWER, "grt-2"))
        world = World(ANA, BOT, *gives("risk", Role.APPROVER, Role.ADMIN, Role.VIEWER), member, holdings=held)
        asker = await world.of("agt-bot")
        assert asker.roles == {Role.AGENT, Role.VIEWER}
        assert asker.holdings == held[1:]

    async def test_domains_are_all_that_are_named_and_everywhere_when_none_is(self) -> None:
        assert (await World(ANA, *gives("risk", Role.VIEWER), MEMBER).of()).domains is None
        bounded = [*gives("risk", domains=("crm",)), *gives("top", domains=("sales",)), nested("top", "risk")]
        assert (await World(ANA, *bounded, MEMBER).of()).domains == frozenset({"crm", "sales"})
        own = DomainsBounded(actor_id="usr-ana", domains=())
        assert (await World(ANA, own).of()).domains == frozenset()
        assert (await World(ANA, own, *bounded, MEMBER).of()).domains == frozenset({"crm", "sales"})

    async def test_a_group_that_was_removed_gives_nothing_and_leads_nowhere(self) -> None:
        groups = [*gives("risk", Role.APPROVER, domains=("crm",)), *gives("top", Role.AUDITOR), nested("top", "risk"), MEMBER]
        asker = await World(ANA, *groups, GroupRemoved(group_id="grp-risk")).of()
        assert (asker.roles, asker.domains, asker.groups) == (frozenset({Role.ANALYST}), None, frozenset[str]())

    async def test_who_may_not_act(self) -> None:
        assert await World().refusal() == "actor_unknown"
        assert await World(ANA, ActorSuspended(actor_id="usr-ana")).refusal() == "actor_suspended"
        assert await World(ANA, ActorOffboarded(actor_id="usr-ana")).refusal() == "actor_offboarded"

    async def test_who_answers_for_an_agent_has_to_be_here(self) -> None:
        assert await World(ANA, BOT, ActorSuspended(actor_id="usr-ana")).refusal("agt-bot") == "owner_suspended"
        assert await World(ANA, BOT, ActorOffboarded(actor_id="usr-ana")).refusal("agt-bot") == "owner_offboarded"
        assert (await World(ANA, BOT).of("agt-bot")).owner == "usr-ana"

    async def test_the_tier_is_the_actors_own(self) -> None:
        assert (await World(ANA, TierChanged(actor_id="usr-ana", tier=Tier.PREMIUM)).of()).tier is Tier.PREMIUM

    async def test_an_ended_session_ends_its_tokens(self) -> None:
        world = World(ANA)
        for row, ends in (
            ({"status": "open", "actor_id": "usr-ana", "scopes": None}, False),
            ({"status": "ended", "actor_id": "usr-ana", "scopes": None}, True),
            ({"status": "open", "actor_id": "usr-ben", "scopes": None}, True),
            (None, True),
        ):
            world.rows = {key: each for key, each in world.rows.items() if key[0] != "sessions"}
            world.rows |= {("sessions", "acme", "ses-1"): row} if row else {}
            looking = Standing(world.look).of("acme", "usr-ana", session="ses-1")
            if not ends:
                assert (await looking).session == "ses-1"
                continue
            with pytest.raises(Unauthenticated) as refused:
                await looking
            assert refused.value.reason == "session_ended"


NAMES = st.sampled_from([f"grp-{name}" for name in "abcdef"])
ROLE_SETS = st.lists(st.sampled_from([Role.VIEWER, Role.ANALYST, Role.APPROVER, Role.ADMIN, Role.AUDITOR]), max_size=2, unique=True)
DOMAIN_SETS = st.none() | st.lists(st.sampled_from(["crm", "sales", "risk"]), max_size=2, unique=True)
STEPS = st.one_of(
    st.builds(lambda one, two: NestGroup(group_id=one, nested_id=two), NAMES, NAMES),
    st.builds(lambda one, two: UnnestGroup(group_id=one, nested_id=two), NAMES, NAMES),
    st.builds(lambda one: AddMember(group_id=one, actor_id="usr-ana"), NAMES),
    st.builds(lambda one: RemoveMember(group_id=one, actor_id="usr-ana"), NAMES),
    st.builds(
        lambda one, roles, domains: MapRoles(group_id=one, mapped_roles=tuple(roles), domains=domains), NAMES, ROLE_SETS, DOMAIN_SETS
    ),
    st.builds(lambda one: RemoveGroup(group_id=one), NAMES),
)


class Model:
    """Groups as decided step by step, and as plain sets that know nothing of deciders, folds or rows."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.nesting = Nesting()
        self.history: list[Event] = [ANA]
        self.edges: set[tuple[str, str]] = set()
        for name in "abcdef":
            self.apply(CreateGroup(group_id=f"grp-{name}", label=name))

    def apply(self, command: Any) -> None:
        others = {**HERE, **{f"group:{name}": group for name, group in self.groups.items()}}
        asked = Asked(ADMIN, AT, ACTION_ID, others=others)
        nests = isinstance(command, NestGroup | UnnestGroup)
        state: Any = self.nesting if nests else self.groups.get(command.group_id, Group())
        decider: Any = GROUP_NESTING if nests else GROUPS
        try:
            events = decider.decide(state, command, asked)
        except Refused as refused:
            if refused.code == "group_ring":
                assert command.nested_id in self.outward({command.group_id}, every=True), "it would have closed no ring"
            return
        for event in events:
            self.edges ^= {(event.group_id, event.nested_id)} if nests else set()
        self.history += events
        after = decider.replay(events, state)
        if nests:
            self.nesting = after
        else:
            self.groups[command.group_id] = after

    def outward(self, start: set[str], *, every: bool = False) -> set[str]:
        """All groups around these, themselves included: a naive closure, by repetition; without `every` only through what is there."""
        there = {name for name, group in self.groups.items() if every or not group.removed}
        found = start & there
        for _ in range(len(self.groups)):
            found |= {outer for outer, inner in self.edges if inner in found and outer in there}
        return found


@settings(max_examples=60, deadline=timedelta(seconds=2))
@over(st.lists(STEPS, max_size=25))
@pytest.mark.anyio
async def test_whatever_is_asked_groups_form_no_ring_and_give_what_a_naive_closure_says(steps: list[Any]) -> None:
    model = Model()
    for step in steps:
        model.apply(step)
    for name in model.groups:
        around = {outer for outer, inner in model.edges if inner == name}
        assert name not in model.outward(around, every=True), "a ring"
    in_them = model.outward({name for name, group in model.groups.items() if "usr-ana" in group.members})
    bounds = [model.groups[name].domains for name in in_them if model.groups[name].domains is not None]
    asker = await World(*model.history).of()
    assert asker.groups == in_them
    assert asker.roles == {Role.ANALYST}.union(*(model.groups[name].roles for name in in_them))
    assert asker.domains == (frozenset().union(*filter(None, bounds)) if bounds else None)
