"""Which rows somebody finds who reaches a part of a tenant only: how each read table tells where a row belongs.

Of a table that says nothing here they find no row at all, and hear so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from domain.kernel import Asker, Refused
from domain.values import Role
from infra.read_history import AS_OF, TENANT
from infra.read_tables import LIVE, is_open, member_of, schema_name, table_of, text_of

OUTSIDE_DOMAINS: Final = "outside_domains"
_TENANT: Final = sa.bindparam(TENANT, type_=sa.Text)
_AS_OF: Final = sa.bindparam(AS_OF, type_=sa.BigInteger)
_ACTOR: Final = sa.bindparam("reach_actor", type_=sa.Text)
_DOMAINS: Final = sa.bindparam("reach_domains", type_=sa.ARRAY(sa.Text))
_STREAMS: Final = sa.bindparam("reach_streams", type_=sa.ARRAY(sa.Text))
_REST: Final = sa.bindparam("reach_rest", type_=sa.Boolean)


@dataclass(frozen=True, slots=True)
class Reach:
    """What somebody reads: rows of these domains and streams, their own, and (`rest`) what belongs to no domain and names none."""

    actor: str
    domains: frozenset[str]
    streams: frozenset[str]
    rest: bool

    def arguments(self) -> dict[str, Any]:
        """What the conditions of `within` take."""
        return {
            "reach_actor": self.actor,
            "reach_domains": sorted(self.domains),
            "reach_streams": sorted(self.streams),
            "reach_rest": self.rest,
        }


class NoReach(Exception):
    """None of these roles is held, here or anywhere."""


def outside_domains(what: str, reach: Reach) -> Refused:
    """The refusal of what shows the whole tenant, to somebody who reaches a part of it."""
    return Refused(
        OUTSIDE_DOMAINS,
        f"{what} shows what belongs to every domain, and you reach {_named(reach)}.",
        domains=sorted(reach.domains),
        streams=sorted(reach.streams),
        rule="shown to whoever reaches every domain",
        remedy="Ask for what you reach: lists and rows are narrowed to it. Or ask somebody whose roles reach every domain.",
    )


def reach_of(asker: Asker, roles: frozenset[Role], at: datetime) -> Reach | None:
    """What the asker reads by these roles; None: all of their tenant. Raises NoReach when nothing."""
    held = not asker.roles.isdisjoint(roles)
    if held and asker.domains is None:
        return None
    granted = [one for one in asker.holdings if one.role in roles and (one.until is None or at < one.until)]
    if not held and not granted:
        raise NoReach
    domains = frozenset[str]().union(*(one.domains for one in granted))
    streams = frozenset[str]().union(*(one.streams for one in granted))
    return Reach(asker.actor, domains | (asker.domains or frozenset()) if held else domains, streams, held)


def _named(reach: Reach) -> str:
    parts = [f"the domains {', '.join(sorted(reach.domains))}"] if reach.domains else []
    parts += [", ".join(sorted(reach.streams)[:5])] if reach.streams else []
    return " and ".join(parts) or "none"


@dataclass(frozen=True, slots=True)
class About:
    """A row is about the stream `category:<column>` (no column: the row's id); with no category, the column holds the stream.

    `each`: the column is a list, and every one of them counts.
    """

    category: str | None = None
    column: str | None = None
    each: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """How a table tells who finds a row: whoever reaches all that it is `about`, and those whom a column of `own` names (by their id
    or their stream).

    `domain` is the column that tells the domain, where the row has it itself; `to_all`: every row is for whoever may read the table.
    """

    about: tuple[About, ...] = ()
    domain: str | None = None
    own: tuple[str, ...] = ()
    to_all: bool = False


HOMES: Final[Mapping[str, tuple[str, str]]] = {"dataset": ("catalog", "datasets"), "pipeline": ("pipelines", "pipelines")}
"""Where the rows of a category tell their domain: projection and table."""
HOMELESS: Final = ("agent", "budget")
"""Categories that belong to no domain and name none. What is about any other stream is for those who reach everything."""
_DATASET: Final = About("dataset", "dataset_id")
WAYS: Final[Mapping[str, Way]] = {
    "actions": Way((About(column="stream"),), own=("actor_id",)),
    "actors": Way(own=("actor_id", "owner")),
    "agents": Way((About("agent"),)),
    "api_keys": Way(own=("actor_id",)),
    "approvals": Way((About(column="stream"),), own=("requester", "requester_owner")),
    "artifacts": Way(own=("registered_by",)),
    "budgets": Way((About("budget", "root_id"),)),
    "dataset_schemas": Way((_DATASET,)),
    "dataset_usage": Way((_DATASET,)),
    "datasets": Way((About("dataset"),), domain="domain"),
    "delegations": Way(own=("delegator", "delegate")),
    "grants": Way((About(column="about"),), own=("grantee", "granted_by")),
    "duty_rules": Way(to_all=True),
    "jobs": Way(own=("asked_by",)),
    "lineage": Way((About("dataset", "downstream_id"), About("dataset", "upstream_id"))),
    "notifications": Way(own=("recipient",)),
    "packs": Way(own=("sealed_by",)),
    "pipeline_versions": Way((About("pipeline", "pipeline_id"),)),
    "pipelines": Way((About("pipeline"),), domain="domain"),
    "policies": Way(to_all=True),
    "projects": Way((About(column="resources", each=True),), own=("owner",)),
    "reservations": Way((About("budget", "root_id"),), own=("reserved_by",)),
    "sessions": Way(own=("actor_id",)),
    "term_links": Way((_DATASET,)),
    "terms": Way(to_all=True),
    "tool_actions": Way((About("dataset", "dataset_ids", each=True),), own=("agent_id",)),
    "unmasking_grants": Way(own=("actor_id",)),
    "value_disclosures": Way(own=("disclosed_to",)),
}


def within(way: Way, rows: sa.FromClause, row_id: sa.ColumnElement[str], *, past: bool) -> sa.ColumnElement[bool]:
    """The condition that a row is within reach. It takes `Reach.arguments`, and `as_of` for the past."""
    if way.to_all:
        return sa.true()
    conditions: list[sa.ColumnElement[bool]] = [text_of(rows, column).in_((_ACTOR, _text("actor:") + _ACTOR)) for column in way.own]
    if way.about:
        conditions.append(sa.and_(*(_reached(way, about, rows, row_id, past=past) for about in way.about)))
    return sa.func.coalesce(sa.or_(*conditions), sa.false())


def _reached(way: Way, about: About, rows: sa.FromClause, row_id: sa.ColumnElement[str], *, past: bool) -> sa.ColumnElement[bool]:
    if not about.each:
        value = row_id if about.column is None else text_of(rows, about.column)
        domain = None if way.domain is None else text_of(rows, way.domain)
        return _one_reached(about.category, value, domain, past=past)
    assert about.column is not None
    listed = sa.func.jsonb_array_elements_text(member_of(rows, about.column)).table_valued("value", name="listed").render_derived()
    beyond = sa.not_(sa.func.coalesce(_one_reached(about.category, listed.c.value, None, past=past), sa.false()))
    return sa.not_(sa.exists(sa.select(sa.literal_column("1")).select_from(listed).where(beyond)))


def _one_reached(
    category: str | None, value: sa.ColumnElement[str], domain: sa.ColumnElement[str] | None, *, past: bool
) -> sa.ColumnElement[bool]:
    """Whether one stream is reached: it is named, or its domain is; or it can be in no domain, and whoever asks has the rest."""
    stream = value if category is None else sa.literal_column(f"'{category}:'", sa.Text) + value
    conditions: list[sa.ColumnElement[bool]] = [stream == sa.any_(_STREAMS)]
    if domain is not None:
        conditions.append(domain == sa.any_(_DOMAINS))
    elif category is not None:
        conditions.append(_home(category, value, past=past) == sa.any_(_DOMAINS) if category in HOMES else _REST)
    else:
        kind = sa.func.split_part(stream, sa.literal_column("':'"), sa.literal_column("1"))
        entity = sa.func.substr(stream, sa.func.strpos(stream, sa.literal_column("':'")) + sa.literal_column("1"))
        found = sa.case(
            *((kind == _text(each), _home(each, entity, past=past) == sa.any_(_DOMAINS)) for each in HOMES),
            (kind == _text("domain"), entity == sa.any_(_DOMAINS)),
            (kind.in_([_text(each) for each in HOMELESS]), _REST),
            else_=sa.false(),
        )
        conditions.append(found)
    return sa.or_(*conditions)


def _home(category: str, entity: sa.ColumnElement[str], *, past: bool) -> sa.ColumnElement[str]:
    """The domain that an entity says it belongs to, now or as of then."""
    projection, name = HOMES[category]
    table = table_of(schema_name(projection, LIVE), name)
    if past:
        then = table.alias(f"{category}_then")
        mine = (then.c.tenant == _TENANT, then.c.id == entity, then.c.from_position <= _AS_OF)
        held = sa.case((then.c.to_position > _AS_OF, text_of(then, "domain")))
        return sa.select(held).where(*mine).order_by(then.c.from_position.desc()).limit(sa.literal_column("1")).scalar_subquery()
    home = table.alias(f"{category}_home")
    return sa.select(text_of(home, "domain")).where(home.c.tenant == _TENANT, home.c.id == entity, is_open(home)).scalar_subquery()


def _text(word: str) -> sa.ColumnElement[str]:
    return sa.literal_column(f"'{word}'", sa.Text)
