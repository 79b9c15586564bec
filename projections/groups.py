"""Groups as people read them, and which groups each actor is in: what authentication looks at beside the actor itself."""

from domain.groups import (
    GroupCreated,
    GroupNested,
    GroupRemoved,
    GroupRenamed,
    GroupUnnested,
    MemberAdded,
    MemberRemoved,
    RolesMapped,
)
from domain.kernel import Recorded
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class GroupRow:
    """One group: what it gives, the groups in it (`inside`) and those it is in (`around`). A removed one gives nothing."""

    group_id: str
    label: str
    external_name: str | None
    roles: list[str]
    domains: list[str] | None
    members: int
    inside: list[str]
    around: list[str]
    status: str
    created_by: str
    created_at: str
    changed_at: str


@read_row
class MembershipRow:
    """The groups that an actor was put into, in the order of their ids; what these groups are in is not told here."""

    actor_id: str
    groups: list[str]
    changed_at: str


groups = ReadTable(
    "groups",
    GroupRow,
    filters=("external_name", "roles", "domains", "inside", "around", "status"),
    sorts=("group_id", "label", "created_at", "changed_at"),
    search=("group_id", "label", "external_name"),
)
memberships = ReadTable("memberships", MembershipRow, filters=("groups",), sorts=("actor_id", "changed_at"), search=("actor_id",))


@groups.on(GroupCreated)
def created(_row: None, recorded: Recorded[GroupCreated], group_id: str) -> GroupRow:
    event = recorded.event
    return GroupRow(
        group_id=group_id,
        label=event.label,
        external_name=event.external_name,
        roles=[],
        domains=None,
        members=0,
        inside=[],
        around=[],
        status="active",
        created_by=recorded.actor,
        created_at=recorded.at_text,
        changed_at=recorded.at_text,
    )


@groups.on(GroupRenamed)
def renamed(row: GroupRow, recorded: Recorded[GroupRenamed], _group_id: str) -> GroupRow:
    return replace(row, label=recorded.event.label, external_name=recorded.event.external_name, changed_at=recorded.at_text)


@groups.on(RolesMapped)
def roles_mapped(row: GroupRow, recorded: Recorded[RolesMapped], _group_id: str) -> GroupRow:
    roles, domains = [role.value for role in recorded.event.roles], recorded.event.domains
    return replace(row, roles=roles, domains=None if domains is None else list(domains), changed_at=recorded.at_text)


@groups.on(MemberAdded)
def member_counted(row: GroupRow, recorded: Recorded[MemberAdded], _group_id: str) -> GroupRow:
    return replace(row, members=row.members + 1, changed_at=recorded.at_text)


@groups.on(MemberRemoved)
def member_gone(row: GroupRow, recorded: Recorded[MemberRemoved], _group_id: str) -> GroupRow:
    return replace(row, members=row.members - 1, changed_at=recorded.at_text)


@groups.on(GroupRemoved)
def removed(row: GroupRow, recorded: Recorded[GroupRemoved], _group_id: str) -> GroupRow:
    return replace(row, status="removed", changed_at=recorded.at_text)


def _outer(recorded: Recorded[GroupNested | GroupUnnested]) -> tuple[str, ...]:
    return (recorded.event.group_id,)


def _inner(recorded: Recorded[GroupNested | GroupUnnested]) -> tuple[str, ...]:
    return (recorded.event.nested_id,)


@groups.on(GroupNested, keys=_outer)
def has_inside(row: GroupRow, recorded: Recorded[GroupNested], _group_id: str) -> GroupRow:
    return replace(row, inside=sorted({*row.inside, recorded.event.nested_id}), changed_at=recorded.at_text)


@groups.on(GroupUnnested, keys=_outer)
def has_inside_no_more(row: GroupRow, recorded: Recorded[GroupUnnested], _group_id: str) -> GroupRow:
    return replace(row, inside=sorted({*row.inside} - {recorded.event.nested_id}), changed_at=recorded.at_text)


@groups.on(GroupNested, keys=_inner)
def is_inside(row: GroupRow, recorded: Recorded[GroupNested], _group_id: str) -> GroupRow:
    return replace(row, around=sorted({*row.around, recorded.event.group_id}), changed_at=recorded.at_text)


@groups.on(GroupUnnested, keys=_inner)
def is_inside_no_more(row: GroupRow, recorded: Recorded[GroupUnnested], _group_id: str) -> GroupRow:
    return replace(row, around=sorted({*row.around} - {recorded.event.group_id}), changed_at=recorded.at_text)


def _member(recorded: Recorded[MemberAdded | MemberRemoved]) -> tuple[str, ...]:
    return (recorded.event.actor_id,)


@memberships.on(MemberAdded, keys=_member)
def joined(row: MembershipRow | None, recorded: Recorded[MemberAdded], actor_id: str) -> MembershipRow:
    groups = [] if row is None else row.groups
    return MembershipRow(actor_id, sorted({*groups, recorded.event.group_id}), recorded.at_text)


@memberships.on(MemberRemoved, keys=_member)
def left(row: MembershipRow, recorded: Recorded[MemberRemoved], _actor_id: str) -> MembershipRow:
    return replace(row, groups=sorted({*row.groups} - {recorded.event.group_id}), changed_at=recorded.at_text)


PROJECTION = Projection("groups", (groups, memberships))
