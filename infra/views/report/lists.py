"""The tables of a report: each row names the position it comes from, and each table says how much more there is, and where."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from infra.views.report.document import Column, Table, plain
from infra.views.report.gather import LISTED, Action, Approval, Budget, Entity, Followed, KeyChange, Listed, Moment, Outcomes, in_words

_POSITION: Final = Column("Position", 9, "right")
_AT: Final = Column("At (UTC)", 16)
_LONG_ID: Final = re.compile(r"[0-9a-f-]{32,}")
T = TypeVar("T")


def moment(text: str) -> str:
    """RFC 3339 as people read it, to the minute: the position says the rest."""
    return f"{text[:10]} {text[11:16]}"


def amount(minor: int, currency: str) -> str:
    """Minor units as people write them; where the currency is not known, as the plain number they are."""
    whole, cents = divmod(minor, 100)
    return f"{whole:,}.{cents:02d} {currency}" if currency else f"{minor:,} minor units"


def _more(count: int, what: str) -> str:
    return f"and {count:,} more {what}: all of them are in views/events.parquet" if count else ""


def stopped_table(actions: Listed[Action]) -> Table:
    columns = (_POSITION, _AT, Column("Actor", 12), Column("Asked for", 20), Column("On", 16), Column("Ended", 10), Column("Why", 24))
    rows = tuple((*_action(row), row.outcome, plain(row.why)) for row in actions.rows)
    return Table(columns, rows, _more(actions.more, "actions"))


def carried_out_table(actions: Listed[Action]) -> Table:
    columns = (_POSITION, _AT, Column("Actor", 12), Column("Asked for", 22), Column("On", 24), Column("Why", 24))
    return Table(columns, tuple((*_action(row), plain(row.why)) for row in actions.rows), _more(actions.more, "actions"))


def _action(row: Action) -> tuple[str, ...]:
    return (f"{row.position:,}", moment(row.at), plain(row.actor), plain(row.command), _named(row.stream))


def _named(stream: str) -> str:
    """A stream, with no more of an id or a hash than it takes to tell it from others."""
    return _LONG_ID.sub(lambda found: f"{found[0][:13]}\u2026", plain(stream))


def approvals_table(approvals: Followed[Approval]) -> Table:
    columns = (
        _POSITION,
        Column("Asked (UTC)", 16),
        Column("By", 12),
        Column("For", 22),
        Column("Risk", 10),
        Column("State", 13),
        Column("Settled by", 12),
        Column("After", 12),
        Column("Settled at", 9, "right"),
    )
    return _of(approvals, columns, "events of other requests", lambda _name, approval: _approval(approval))


def _approval(approval: Approval) -> tuple[str, ...]:
    waited = approval.waited_seconds
    return (
        f"{approval.position:,}" if approval.position else "before",
        moment(approval.at) if approval.at else "",
        plain(approval.requester),
        plain(approval.what),
        plain(approval.risk),
        f"{approval.state}, used" if approval.used else approval.state,
        plain(approval.settled_by),
        "" if waited is None else _length(waited),
        f"{approval.settled_position:,}" if approval.settled_position else "",
    )


def _length(seconds: float) -> str:
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes // 1440} d {minutes // 60 % 24} h"


def policies_table(policies: Followed[Outcomes]) -> Table:
    columns = (
        Column("Policy", 40),
        Column("Allowed", 11, "right"),
        Column("Asked for consent", 16, "right"),
        Column("Blocked", 11, "right"),
        Column("First position", 11, "right"),
        Column("Last position", 11, "right"),
    )

    def row(name: str, said: Outcomes) -> tuple[str, ...]:
        return (plain(name), *(f"{count:,}" for count in said.counts.values()), f"{said.first:,}", f"{said.last:,}")

    return _of(policies, columns, "decisions of other policies", row)


def budgets_table(budgets: Followed[Budget]) -> Table:
    columns = (
        Column("Budget", 24),
        Column("Limit", 15, "right"),
        Column("Promised", 15, "right"),
        Column("Spent", 15, "right"),
        Column("Given back", 15, "right"),
        Column("Moves", 7, "right"),
        Column("Last position", 9, "right"),
    )

    def row(name: str, budget: Budget) -> tuple[str, ...]:
        limit = "" if budget.limit is None else amount(budget.limit, budget.currency)
        moved = (amount(minor, budget.currency) for minor in (budget.promised, budget.spent, budget.returned))
        return (plain(name), limit, *moved, f"{budget.moves:,}", f"{budget.last:,}")

    return _of(budgets, columns, "moves of other budgets", row)


def entities_table(entities: Followed[Entity]) -> Table:
    columns = (
        Column("Entity", 30),
        Column("Changes", 10, "right"),
        Column("Versions", 10, "right"),
        Column("Last change", 20),
        Column("At (UTC)", 15),
        Column("First position", 9, "right"),
        Column("Last position", 9, "right"),
    )

    def row(name: str, entity: Entity) -> tuple[str, ...]:
        versions = f"{entity.first_version:,} to {entity.last_version:,}"
        places = (f"{entity.first:,}", f"{entity.last:,}")
        return (_named(name), f"{entity.changes:,}", versions, plain(in_words(entity.type)), moment(entity.at), *places)

    return _of(entities, columns, "changes of other entities", row)


def keys_table(keys: Listed[KeyChange]) -> Table:
    columns = (_POSITION, _AT, Column("Change", 20), Column("Role", 9), Column("Custody", 9), Column("Key", 40))
    rows = tuple(
        (f"{row.position:,}", moment(row.at), plain(row.change), plain(row.role), plain(row.custody), plain(row.key_id))
        for row in keys.rows
    )
    return Table(columns, rows, _more(keys.more, "key events"))


def moments_table(moments: Listed[Moment]) -> Table:
    columns = (_POSITION, _AT, Column("What", 38), Column("By", 13), Column("Why", 28))
    rows = tuple((f"{row.position:,}", moment(row.at), plain(row.what), plain(row.actor), plain(row.why)) for row in moments.rows)
    return Table(columns, rows, _more(moments.more, "such events"))


def _of(followed: Followed[T], columns: Sequence[Column], others: str, row: Callable[[str, T], tuple[str, ...]]) -> Table:
    """A table of the first things that are followed; what it leaves out is counted in `others`, and the things not listed."""
    names = list(followed.found)[:LISTED]
    rows = tuple(row(name, followed.found[name]) for name in names)
    unlisted = len(followed.found) - len(names)
    more = f"and {unlisted:,} more like these" if unlisted else ""
    beyond = f"{followed.others:,} {others}" if followed.others else ""
    told = ", and ".join(part for part in (more, beyond) if part)
    return Table(tuple(columns), rows, f"{told}: all of them are in views/events.parquet" if told else "")
