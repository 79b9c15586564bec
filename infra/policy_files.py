"""Policies as files in a folder: one Rego file per policy with its tests beside it, or a JSON file for a rule without code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from pydantic import ValidationError

from commands.importing import DocumentRefused
from commands.policies import WrittenPolicy
from infra.policy_bundle import DATA_FILE, Bundle, BundleRefused, Problem
from infra.yaml_documents import load_yaml

DATA: Final = "data"
"""The policy that `data.json` becomes."""
TEST_SUFFIX: Final = "_test.rego"
TITLE_MAX: Final = 200
_METADATA: Final = re.compile(r"^# METADATA[ \t]*\n((?:#[^\n]*\n)+)", re.MULTILINE)
_COMMENT: Final = re.compile(r"\A(?:#[^\n]*\n)+")
_PATH: Final = re.compile(r"([a-z][a-z0-9_]*?)(_test\.rego|\.rego|\.json)")


@dataclass
class _Parts:
    """What the files of one policy hold."""

    fields: dict[str, Any] = field(default_factory=dict)
    file: str = ""


def written(files: Mapping[str, bytes]) -> tuple[WrittenPolicy, ...]:
    """The policies that a folder's files hold, in order of their ids; raises BundleRefused with all that is wrong with them."""
    problems: list[Problem] = []
    found: dict[str, _Parts] = {}
    for path, content in sorted(files.items()):
        try:
            policy_id, fields = _read(path, content)
        except _Unreadable as error:
            problems.append(error.problem)
            continue
        parts = found.setdefault(policy_id, _Parts(file=path))
        if twice := sorted(parts.fields.keys() & fields.keys()):
            problems.append(Problem(path, 1, f"{parts.file} gives the {twice[0]} of {policy_id} already: keep one of them"))
        parts.fields |= fields
    policies = tuple(_policies(found, problems))
    if problems:
        raise BundleRefused(problems)
    return policies


def files_of(policies: Iterable[WrittenPolicy]) -> dict[str, bytes]:
    """The files that hold these policies: `written` the other way round."""
    files: dict[str, bytes] = {}
    for policy in policies:
        said = policy.text()
        if policy.rego is not None:
            files[f"{policy.policy_id}.rego"] = policy.rego.encode()
        if policy.tests is not None:
            files[f"{policy.policy_id}{TEST_SUFFIX}"] = policy.tests.encode()
        if policy.data is not None:
            files[DATA_FILE if policy.policy_id == DATA else f"{policy.policy_id}.json"] = _pretty(policy.data)
        if policy.rule is not None:
            files[f"{policy.policy_id}.json"] = _pretty({key: said[key] for key in ("type", "title", "scope", "rule")})
    return files


class _Unreadable(Exception):
    def __init__(self, file: str, line: int, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(file, line, message)


def _read(path: str, content: bytes) -> tuple[str, dict[str, Any]]:
    """Which policy a file is about, and what it says of it."""
    named = _PATH.fullmatch(path)
    if named is None:
        raise _Unreadable(path, 1, "not the file of a policy: name it <policy>.rego, <policy>_test.rego or <policy>.json, in lower case")
    policy_id, suffix = named.group(1), named.group(2)
    try:
        text = content.decode()
        if suffix == ".json":
            document = orjson.loads(content)
            return policy_id, {"data": document, "title": "Lists that the policies share."} if path == DATA_FILE else dict(document)
        return policy_id, {"tests": text} if suffix == TEST_SUFFIX else {"rego": text, **_said_of(path, text)}
    except UnicodeDecodeError as error:
        raise _Unreadable(path, content[: error.start].count(b"\n") + 1, "not UTF-8: save it as UTF-8") from None
    except orjson.JSONDecodeError as error:
        raise _Unreadable(path, error.lineno, f"not JSON: {error.msg}") from None
    except (TypeError, ValueError):
        raise _Unreadable(path, 1, "not a JSON object: write {type, title, scope, rule}") from None


def _said_of(path: str, source: str) -> dict[str, Any]:
    """A policy's title, type and scope from its `# METADATA` (as OPA reads it), else its title from the comment it opens with."""
    block = _METADATA.search(source)
    if block is None:
        return {"title": _first_sentence(source) or path}
    line = source[: block.start()].count("\n") + 1
    try:
        annotations = load_yaml("\n".join(line.removeprefix("#") for line in block.group(1).splitlines()).encode())
    except DocumentRefused as refused:
        raise _Unreadable(path, line, f"METADATA is not YAML: {refused}") from None
    if not isinstance(annotations, dict) or not isinstance(custom := annotations.get("custom", {}), dict):
        raise _Unreadable(path, line, "METADATA is not a mapping: write title and custom (type, scope)")
    title = annotations.get("title") or _first_sentence(source) or path
    return {"title": title, **{key: custom[key] for key in ("type", "scope") if key in custom}}


def _first_sentence(source: str) -> str:
    opening = _COMMENT.match(source)
    text = " ".join(line.lstrip("#").strip() for line in opening.group().splitlines()) if opening else ""
    return re.split(r"(?<=[.!?])\s|[;:]\s", text.strip(), maxsplit=1)[0][:TITLE_MAX]


def _policies(found: Mapping[str, _Parts], problems: list[Problem]) -> Iterator[WrittenPolicy]:
    for policy_id, parts in sorted(found.items()):
        fields = {"title": f"Tests of {policy_id}.", **parts.fields}
        fields.setdefault("type", _type_of(policy_id, fields))
        try:
            yield WrittenPolicy.model_validate({"policy_id": policy_id, **fields})
        except ValidationError as error:
            problems += [Problem(parts.file, 1, f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") for fault in error.errors()]


def _type_of(policy_id: str, fields: Mapping[str, Any]) -> str:
    """Of a policy that does not say: `shared` when nothing in it judges."""
    source = fields.get("rego", "")
    judges = "rule" in fields or Bundle({"x.rego": source.encode()}).definitions()["x.rego"].get(policy_id, False)
    if not judges:
        return "shared"
    return "approval" if "require_approval" in source else "access"


def _pretty(document: Any) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
