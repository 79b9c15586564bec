"""Every operation of the API as a page for people: what it does, who may ask, and an example to send."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from fastapi.routing import APIRoute

from api.examples import EXAMPLES
from api.routing import PUBLIC
from domain.values import EVERYBODY, PEOPLE, Role

_OPENING: Final = """# Every operation

Written by `{command}` from the code; a test compares the two. For programs the same is in [api/openapi.yaml](../api/openapi.yaml)
(OpenAPI 3.1) and, as the running server speaks it, at `/openapi.json` and `/docs`. What all operations have in common - identity, headers,
pages, errors, limits - is in [frontends.md](frontends.md); who holds which role, in [access.md](access.md).

"Who" names the roles that may ask at all; reach, scopes, policies and separation of duties narrow it further. `tests/test_matrix.py`
asks each of these as each role.
"""
_WORDS: Final = {PUBLIC: "anybody, without an identity", EVERYBODY: "every role", PEOPLE: "every role but agent"}


def render_operations(routes: Iterable[APIRoute], command: str) -> str:
    """The page, one section per context."""
    by_tag: dict[str, list[APIRoute]] = defaultdict(list)
    for route in routes:
        if route.include_in_schema:
            by_tag[str(route.tags[0])].append(route)
    parts = [_OPENING.format(command=command)]
    for tag in sorted(by_tag):
        parts.append(f"\n## {tag}\n\n| operation | what it does | who |\n|---|---|---|\n")
        parts += [_line(route) for route in by_tag[tag]]
        parts += [_example(route) for route in by_tag[tag] if route.name in EXAMPLES]
    return "".join(parts)


def _line(route: APIRoute) -> str:
    operation = f"{' '.join(sorted(route.methods or ()))} {route.path}"
    summary = re.sub(r"\s+", " ", route.summary or "").replace("|", "\\|")
    return f"| `{operation}` | {summary} | {_who(route.authorisation)} |\n"  # type: ignore[attr-defined]


def _who(roles: frozenset[Role]) -> str:
    return _WORDS.get(roles) or ", ".join(sorted(roles))


def _example(route: APIRoute) -> str:
    """A command as curl sends it, with the ids of its path in place."""
    example = EXAMPLES[route.name]
    path = re.sub(r"{(\w+)(:\w+)?}", lambda found: str(example.get(found[1], found[1])), route.path)
    body = {name: value for name, value in example.items() if f"{{{name}}}" not in route.path}
    return f"\n`{route.name}`\n\n```sh\ncurl $URL{path} -H \"X-API-Key: $KEY\" -d '{_quoted(json.dumps(body))}'\n```\n"


def _quoted(text: str) -> str:
    return text.replace("'", "'\\''")
