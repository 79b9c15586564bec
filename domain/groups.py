"""A group: actors who are trusted with the same roles and the same data domains, and groups within groups.

What actors a group has, and what it gives them, stands in its own stream. Which group is in which stands in one stream for the whole
tenant, because whether a ring would close depends on all of them at once.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, assert_never

from immutables import Map
from pydantic import StringConstraints

from domain.access import ActorId, DomainName
from domain.kernel import Event
from domain.values import Label, Role

GroupId = Annotated[str, StringConstraints(pattern=r"^grp-[a-z0-9][a-z0-9-]*$", max_length=64)]
ExternalName = Annotated[str, StringConstraints(min_length=1, max_length=300)]
"""What an identity provider calls the group."""
NESTING: Final = "nesting:groups"
"""The stream of a tenant that says which group is in which."""
LEVELS_MAX: Final = 8
"""How many groups may stand one within another."""
MEMBERS_MAX: Final = 10_000


class GroupCreated(Event, name="groups.group_created"):
    """A group is there, with nobody in it and nothing to give."""

    group_id: GroupId
    label: Label
    external_name: ExternalName | None = None


class GroupRenamed(Event, name="groups.group_renamed"):
    """The group is called otherwise from now on, here and by the identity provider."""

    group_id: GroupId
    label: Label
    external_name: ExternalName | None = None


class MemberAdded(Event, name="groups.member_added"):
    """The actor has, from now on, what the group gives."""

    group_id: GroupId
    actor_id: ActorId


class MemberRemoved(Event, name="groups.member_removed"):
    """The actor has no more what the group gave."""

    group_id: GroupId
    actor_id: ActorId


class RolesMapped(Event, name="groups.roles_mapped"):
    """The group gives its members these roles, as far as their kind may hold them; and bounds them to these domains, if there is a list."""

    group_id: GroupId
    roles: tuple[Role, ...]
    domains: tuple[DomainName, ...] | None = None


class GroupRemoved(Event, name="groups.group_removed"):
    """The group gives nobody anything any more, itself or through the groups it is in."""

    group_id: GroupId


GroupEvent = GroupCreated | GroupRenamed | MemberAdded | MemberRemoved | RolesMapped | GroupRemoved


class GroupNested(Event, name="groups.group_nested"):
    """Whoever is in the nested group is in the other one as well."""

    group_id: GroupId
    nested_id: GroupId


class GroupUnnested(Event, name="groups.group_unnested"):
    """Whoever is in the nested group is not in the other one for that any more."""

    group_id: GroupId
    nested_id: GroupId


NestingEvent = GroupNested | GroupUnnested


@dataclass(frozen=True, slots=True)
class Group:
    """One group; empty until it is created."""

    created: bool = False
    removed: bool = False
    label: str = ""
    external_name: str | None = None
    members: Map[str, None] = field(default_factory=Map)
    roles: frozenset[Role] = frozenset()
    domains: frozenset[str] | None = None


def evolve(group: Group, event: GroupEvent) -> Group:
    match event:
        case GroupCreated():
            return replace(group, created=True, label=event.label, external_name=event.external_name)
        case GroupRenamed():
            return replace(group, label=event.label, external_name=event.external_name)
        case MemberAdded():
            return replace(group, members=group.members.set(event.actor_id, None))
        case MemberRemoved():
            return replace(group, members=group.members.delete(event.actor_id))
        case RolesMapped():
            domains = None if event.domains is None else frozenset(event.domains)
            return replace(group, roles=frozenset(event.roles), domains=domains)
        case GroupRemoved():
            return replace(group, removed=True)
        case _:
            assert_never(event)


@dataclass(frozen=True, slots=True)
class Nesting:
    """Which groups stand in which: `inside` by group the groups in it, `around` by group the groups it is in. There is never a ring."""

    inside: Mapping[str, frozenset[str]] = field(default_factory=dict)
    around: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def way(self, outer: str, inner: str) -> tuple[str, ...] | None:
        """A shortest way from `outer` down to `inner`, both included; None when that is not in it."""
        ways: dict[str, tuple[str, ...]] = {outer: (outer,)}
        waiting = deque([outer])
        while waiting:
            here = waiting.popleft()
            if here == inner:
                return ways[here]
            for each in sorted(self.inside.get(here, frozenset()) - ways.keys()):
                ways[each] = (*ways[here], each)
                waiting.append(each)
        return None

    def levels(self, group_id: str, *, inward: bool) -> int:
        """How many groups stand one within another from here on, inward or outward, this one included."""
        edges = self.inside if inward else self.around
        layer, found = frozenset({group_id}), 0
        while layer:
            layer, found = frozenset[str]().union(*(edges.get(each, ()) for each in layer)), found + 1
        return found


def nest(nesting: Nesting, event: NestingEvent) -> Nesting:
    outer, inner = event.group_id, event.nested_id
    inside, around = nesting.inside.get(outer, frozenset()), nesting.around.get(inner, frozenset())
    if isinstance(event, GroupNested):
        return Nesting({**nesting.inside, outer: inside | {inner}}, {**nesting.around, inner: around | {outer}})
    return Nesting({**nesting.inside, outer: inside - {inner}}, {**nesting.around, inner: around - {outer}})
