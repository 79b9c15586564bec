"""The filters of a list for rows at hand: the same rows pass that the list would answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from domain.kernel import JsonObject, Refused
from infra.read_tables import field_kind
from projections.engine import ReadTable

Matches = Callable[[JsonObject], bool]


def row_filter(read: ReadTable[Any], where: Mapping[str, Sequence[str]]) -> Matches:
    """Whether a row has one of the values in each filter; raises Refused naming the filter when the list has none of that name."""
    columns = [(name, _column(read, name, values)) for name, values in where.items()]
    return lambda row: all(matches(row[name]) for name, matches in columns)


def _column(read: ReadTable[Any], name: str, values: Sequence[str]) -> Callable[[Any], bool]:
    if name not in read.filters:
        raise Refused(
            "invalid_parameter",
            f"{read.name} cannot be filtered by {name!r}.",
            field=name,
            remedy=f"Use some of {', '.join(read.filters) or 'none'}.",
        )
    kind, wanted = field_kind(read, name), set(values)
    if kind is list:
        return lambda items: not wanted.isdisjoint(items or ())
    if kind is bool:
        return lambda value: str(value).lower() in {text.lower() for text in wanted} if value is not None else False
    if kind is int:
        try:
            numbers = {int(text) for text in wanted}
        except ValueError:
            raise Refused("invalid_parameter", f"{name} is a whole number.", field=name, remedy="Send digits.") from None
        return lambda value: value in numbers
    if wanted == {"null"}:
        return lambda value: value is None
    return lambda value: value in wanted
