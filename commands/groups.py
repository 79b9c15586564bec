"""What may be asked about groups, and when the answer is yes: nobody grants anything to themselves, and groups form no ring."""

from collections.abc import Iterable
from typing import Annotated, Any, Final, assert_never

from pydantic import Field

from domain.access import ROLES_OF_KIND, ActorId, DomainName, reach_everywhere, registered, require_staying
from domain.duties import RULES_STREAM, Duties, require_apart
from domain.groups import (
    LEVELS_MAX,
    MEMBERS_MAX,
    NESTING,
    ExternalName,
    Group,
    GroupCreated,
    GroupEvent,
    GroupId,
    GroupNested,
    GroupRemoved,
    GroupRenamed,
    GroupUnnested,
    MemberAdded,
    MemberRemoved,
    Nesting,
    NestingEvent,
    RolesMapped,
    evolve,
    nest,
)
from domain.kernel import Asked, Command, Decider, require
from domain.values import Label, Role

ADMINS: Final = frozenset({Role.ADMIN})
DOMAINS_MAX: Final = 100


def group_stream(group_id: str) -> str:
    return f"group:{group_id}"


def actor_stream(actor_id: str) -> str:
    return f"actor:{actor_id}"


class CreateGroup(Command, name="groups.create_group", roles=ADMINS):
    """Create a group, with nobody in it; `external_name` is what an identity provider calls it."""

    group_id: GroupId
    label: Label
    external_name: ExternalName | None = None


class RenameGroup(Command, name="groups.rename_group", roles=ADMINS):
    """Call a group otherwise, here and by the identity provider."""

    group_id: GroupId
    label: Label
    external_name: ExternalName | None = None


class AddMember(Command, name="groups.add_member", roles=ADMINS):
    """Put an actor into a group; nobody adds themselves."""

    group_id: GroupId
    actor_id: ActorId

    def relies_on(self) -> tuple[str, ...]:
        return (RULES_STREAM, actor_stream(self.actor_id))


class RemoveMember(Command, name="groups.remove_member", roles=ADMINS):
    """Take an actor out of a group; nobody takes themselves out, for a group may bound as well as give."""

    group_id: GroupId
    actor_id: ActorId


class MapRoles(Command, name="groups.map_roles", roles=ADMINS):
    """Have a group give its members these roles, and bound them to these data domains if there is a list; nobody does that to their own."""

    group_id: GroupId
    mapped_roles: Annotated[tuple[Role, ...], Field(max_length=len(Role))] = ()
    domains: Annotated[tuple[DomainName, ...], Field(max_length=DOMAINS_MAX)] | None = None

    def relies_on(self) -> tuple[str, ...]:
        return (RULES_STREAM,)


class RemoveGroup(Command, name="groups.remove_group", roles=ADMINS):
    """End a group for good: it gives nobody anything any more, itself or through the groups it is in."""

    group_id: GroupId


GroupCommand = CreateGroup | RenameGroup | AddMember | RemoveMember | MapRoles | RemoveGroup


class NestGroup(Command, name="groups.nest_group", roles=ADMINS):
    """Put a group into another: whoever is in the nested one is in the other as well. A ring is refused."""

    group_id: GroupId
    nested_id: GroupId

    def relies_on(self) -> tuple[str, ...]:
        return (group_stream(self.group_id), group_stream(self.nested_id))


class UnnestGroup(Command, name="groups.unnest_group", roles=ADMINS):
    """Take a group out of another."""

    group_id: GroupId
    nested_id: GroupId


NestingCommand = NestGroup | UnnestGroup


def decide(group: Group, command: GroupCommand, asked: Asked) -> list[GroupEvent]:
    if isinstance(command, CreateGroup):
        return _create(group, command)
    if isinstance(command, RemoveGroup) and group.removed:
        return []
    _require_there(group, command.group_id, "group_id")
    match command:
        case RenameGroup():
            renamed = GroupRenamed(group_id=command.group_id, label=command.label, external_name=command.external_name)
            return [] if (group.label, group.external_name) == (command.label, command.external_name) else [renamed]
        case AddMember():
            return _add(group, command, asked)
        case RemoveMember():
            _require_not_oneself(command.actor_id, asked)
            removed = MemberRemoved(group_id=command.group_id, actor_id=command.actor_id)
            return [removed] if command.actor_id in group.members else []
        case MapRoles():
            return _map(group, command, asked)
        case RemoveGroup():
            _require_not_ones_own(command.group_id, group, asked)
            return [GroupRemoved(group_id=command.group_id)]
        case _:
            assert_never(command)


def _create(group: Group, command: CreateGroup) -> list[GroupEvent]:
    require(
        not group.created,
        "group_exists",
        f"Group {command.group_id} {'was removed' if group.removed else 'exists already'}.",
        field="group_id",
        remedy="Choose another id.",
    )
    return [GroupCreated(group_id=command.group_id, label=command.label, external_name=command.external_name)]


def _add(group: Group, command: AddMember, asked: Asked) -> list[GroupEvent]:
    _require_not_oneself(command.actor_id, asked)
    reach_everywhere(asked)
    actor = registered(asked.others[actor_stream(command.actor_id)], command.actor_id)
    require_staying(actor)
    _require_apart(actor.actor_id, actor.roles | (group.roles & ROLES_OF_KIND[actor.kind]), asked)
    if command.actor_id in group.members:
        return []
    require(
        len(group.members) < MEMBERS_MAX,
        "too_many_members",
        f"Group {command.group_id} has {len(group.members)} members.",
        field="group_id",
        limit=MEMBERS_MAX,
        remedy="Make groups within the group.",
    )
    return [MemberAdded(group_id=command.group_id, actor_id=command.actor_id)]


def _map(group: Group, command: MapRoles, asked: Asked) -> list[GroupEvent]:
    _require_not_ones_own(command.group_id, group, asked)
    reach_everywhere(asked)
    require(
        Role.AGENT not in command.mapped_roles,
        "role_not_for_groups",
        "What an agent is stands in its own registration.",
        field="mapped_roles",
        remedy="Leave the role agent out.",
    )
    _require_apart(command.group_id, frozenset(command.mapped_roles), asked)
    roles, domains = frozenset(command.mapped_roles), None if command.domains is None else frozenset(command.domains)
    if (group.roles, group.domains) == (roles, domains):
        return []
    return [RolesMapped(group_id=command.group_id, roles=tuple(sorted(roles)), domains=None if domains is None else tuple(sorted(domains)))]


def _require_apart(whose: str, roles: frozenset[Role], asked: Asked) -> None:
    """What comes together through several groups is found out when it is used: here are the roles that one command joins."""
    require_apart(asked.others.get(RULES_STREAM, Duties()), whose, roles)


def decide_nesting(nesting: Nesting, command: NestingCommand, asked: Asked) -> list[NestingEvent]:
    outer, inner = command.group_id, command.nested_id
    require(
        inner not in asked.by.groups,
        "own_groups",
        f"{asked.by.actor} is in {inner}, and nobody changes what they are given.",
        field="nested_id",
        remedy="Ask another administrator.",
    )
    if isinstance(command, UnnestGroup):
        return [GroupUnnested(group_id=outer, nested_id=inner)] if inner in nesting.inside.get(outer, ()) else []
    reach_everywhere(asked)
    for field, group_id in (("group_id", outer), ("nested_id", inner)):
        _require_there(asked.others[group_stream(group_id)], group_id, field)
    if inner in nesting.inside.get(outer, ()):
        return []
    way = nesting.way(inner, outer)
    require(
        way is None,
        "group_ring",
        f"{outer} is in {inner} already: {' > '.join(way or ())}.",
        field="nested_id",
        way=list(way or ()),
        remedy="Take one of these groups out of the other first.",
    )
    levels = nesting.levels(outer, inward=False) + nesting.levels(inner, inward=True)
    require(
        levels <= LEVELS_MAX,
        "groups_too_deep",
        f"{levels} groups would stand one within another.",
        field="nested_id",
        limit=LEVELS_MAX,
        remedy="Nest it further out.",
    )
    return [GroupNested(group_id=outer, nested_id=inner)]


def _require_there(group: Group, group_id: str, field: str) -> None:
    require(
        group.created and not group.removed,
        "group_not_found",
        f"Group {group_id} {'was removed' if group.removed else 'was never created'}.",
        field=field,
        remedy="Look at GET /v1/groups.",
    )


def _require_not_oneself(actor_id: str, asked: Asked) -> None:
    message = "Nobody changes which groups they are in."
    require(asked.by.actor != actor_id, "own_membership", message, field="actor_id", remedy="Ask another administrator.")


def _require_not_ones_own(group_id: str, group: Group, asked: Asked) -> None:
    require(
        asked.by.actor not in group.members and group_id not in asked.by.groups,
        "own_groups",
        f"{asked.by.actor} is in {group_id}, and nobody changes what they are given.",
        field="group_id",
        remedy="Ask another administrator.",
    )


def _roles(group: Group, command: GroupCommand) -> Iterable[Role]:
    """The roles that somebody gets by this."""
    if isinstance(command, MapRoles):
        return frozenset(command.mapped_roles) - group.roles
    return group.roles if isinstance(command, AddMember) else ()


def _facts(group: Group, command: GroupCommand) -> dict[str, Any]:
    return {"granted_roles": sorted(role.value for role in _roles(group, command))}


GROUPS: Final[Decider[Group, GroupCommand, GroupEvent]] = Decider(
    context="groups",
    category="group",
    initial=Group(),
    evolve=evolve,
    decide=decide,
    commands=(CreateGroup, RenameGroup, AddMember, RemoveMember, MapRoles, RemoveGroup),
    events=(GroupCreated, GroupRenamed, MemberAdded, MemberRemoved, RolesMapped, GroupRemoved),
    entity=lambda command: command.group_id,
    facts=_facts,
)
GROUP_NESTING: Final[Decider[Nesting, NestingCommand, NestingEvent]] = Decider(
    context="groups",
    category="nesting",
    initial=Nesting(),
    evolve=nest,
    decide=decide_nesting,
    commands=(NestGroup, UnnestGroup),
    events=(GroupNested, GroupUnnested),
    entity=lambda _command: NESTING.partition(":")[2],
)
DECIDERS: Final = (GROUPS, GROUP_NESTING)
