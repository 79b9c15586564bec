"""The ledger as W3C provenance (PROV-JSON): what was made by which action, from what, by whom, and on whose behalf.

Entities are the versions of streams, the datasets themselves, and artifacts; activities are actions; agents are actors. PROV-JSON
is one document of sections, so each section is spooled to a file of its own while events pass by. Memory grows with the number
of different actors, datasets and artifacts, not with that of events.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import IO, Final
from urllib.parse import quote

import orjson

from domain.kernel import JsonObject
from infra.views.view import About, ViewEvent, Writing

_SECTIONS: Final = (
    "entity",
    "activity",
    "agent",
    "used",
    "wasGeneratedBy",
    "wasAssociatedWith",
    "wasInformedBy",
    "actedOnBehalfOf",
    "wasDerivedFrom",
    "specializationOf",
)
_VOCABULARY: Final = "https://aureus.example/ns#"
_AGENTS: Final[Mapping[str, str]] = MappingProxyType({"usr": "prov:Person", "agt": "prov:SoftwareAgent", "svc": "prov:SoftwareAgent"})
_ACTION: Final = "actions."


@dataclass(frozen=True, slots=True)
class Prov:
    """One PROV-JSON document."""

    name: str = "prov"
    path: str = "views/prov.json"

    def open(self, about: About, target: Path) -> Writing:
        return _Writing(about, target)


def _local(event: ViewEvent, kind: str, name: str) -> str:
    """The name of something of the event's tenant."""
    return f"log:{event.body['tenant']}/{kind}/{quote(name, safe=':@._~-/')}"


def _name(value: str) -> JsonObject:
    return {"$": value, "type": "prov:QUALIFIED_NAME"}


class _Sections:
    """The sections of the document, each a temporary file of JSON members."""

    def __init__(self) -> None:
        self._files: dict[str, IO[bytes]] = {}
        self._relations = 0

    def add(self, section: str, name: str, members: JsonObject) -> None:
        file = self._files.get(section)
        if file is None:
            file = self._files[section] = TemporaryFile()  # noqa: SIM115 - closed when the document is written
        else:
            file.write(b",\n")
        file.write(b"%b:%b" % (orjson.dumps(name), orjson.dumps(members)))

    def relate(self, section: str, **members: str) -> None:
        """A relation, which needs an id of its own; `prov_` in a member's name stands for the prefix."""
        self._relations += 1
        self.add(section, f"_:r{self._relations}", {name.replace("prov_", "prov:"): value for name, value in members.items()})

    def write(self, prefix: Mapping[str, str], target: Path) -> None:
        with target.open("wb") as document:
            document.write(b'{"prefix":%b' % orjson.dumps(prefix))
            for section in _SECTIONS:
                if file := self._files.pop(section, None):
                    with file:
                        file.seek(0)
                        document.write(b',\n"%b":{\n' % section.encode())
                        shutil.copyfileobj(file, document, 1 << 20)
                        document.write(b"\n}")
            document.write(b"}\n")


class _Writing:
    """Writes provenance event by event."""

    def __init__(self, about: About, target: Path) -> None:
        self._prefix = {"log": f"https://{quote(about.ledger)}/", "aureus": _VOCABULARY}
        self._target = target
        self._sections = _Sections()
        self._known: set[str] = set()

    def add(self, events: Sequence[ViewEvent]) -> None:
        for event in events:
            if event.body["type"].startswith(_ACTION):
                self._action(event)
            else:
                self._fact(event)

    def close(self) -> None:
        self._sections.write(self._prefix, self._target)

    # -- things, each told once

    def _once(self, section: str, name: str, members: JsonObject) -> str:
        if name not in self._known:
            self._known.add(name)
            self._sections.add(section, name, members)
        return name

    def _agent(self, event: ViewEvent, actor: str) -> str:
        kind = _AGENTS.get(actor.partition("-")[0])
        return self._once("agent", _local(event, "actor", actor), {"prov:type": _name(kind)} if kind else {})

    def _artifact(self, event: ViewEvent, sha256: str) -> str:
        return self._once("entity", _local(event, "artifact", sha256), {"prov:type": _name("aureus:Artifact")})

    def _dataset(self, event: ViewEvent, dataset_id: str) -> str:
        return self._once("entity", _local(event, "dataset", dataset_id), {"prov:type": _name("aureus:Dataset")})

    # -- actions

    def _action(self, event: ViewEvent) -> None:
        body, data = event.body, event.body["data"]
        intent, relate = data["intent"], self._sections.relate
        activity = _local(event, "activity", body["causation"] or body["id"])
        told = {
            "prov:type": _name(f"aureus:{body['type'].removeprefix(_ACTION)}"),
            "prov:label": intent["command"],
            "prov:endTime": body["at"],
            **_entry(event),
        }
        if "reason" in intent:
            told["aureus:reason"] = intent["reason"]
        if "code" in data:
            told |= {"aureus:code": data["code"], "aureus:message": data["message"]}
        self._sections.add("activity", activity, told)
        relate("wasAssociatedWith", prov_activity=activity, prov_agent=self._agent(event, body["actor"]))
        if intent["seen_version"]:
            relate("used", prov_activity=activity, prov_entity=_version(event, intent["stream"], intent["seen_version"]))
        for sha256 in data.get("artifacts", []):
            relate("used", prov_activity=activity, prov_entity=self._artifact(event, sha256))
        informants = {body["correlation"], data.get("approval_id")} - {None, body["causation"]}
        for informant in sorted(informants):
            relate("wasInformedBy", prov_informed=activity, prov_informant=_local(event, "activity", informant))

    # -- facts

    def _fact(self, event: ViewEvent) -> None:
        body, relate = event.body, self._sections.relate
        entity = _version(event, body["stream"], body["version"])
        described = {"prov:type": _name("aureus:StreamVersion"), "prov:label": body["type"], **_entry(event)}
        self._sections.add("entity", entity, described)
        if body["causation"]:
            generator = _local(event, "activity", body["causation"])
            relate("wasGeneratedBy", prov_entity=entity, prov_activity=generator, prov_time=body["at"])
        if body["version"] > 1:
            relate("wasDerivedFrom", prov_generatedEntity=entity, prov_usedEntity=_version(event, body["stream"], body["version"] - 1))
        if body["stream"].startswith("dataset:"):
            dataset = self._dataset(event, body["stream"].removeprefix("dataset:"))
            relate("specializationOf", prov_specificEntity=entity, prov_generalEntity=dataset)
        if tell := _MORE.get(body["type"]):
            tell(self, event)

    def _behalf(self, event: ViewEvent, delegate: str, responsible: str, activity: str | None = None) -> None:
        within = {"prov_activity": _local(event, "activity", activity)} if activity else {}
        self._sections.relate(
            "actedOnBehalfOf", prov_delegate=self._agent(event, delegate), prov_responsible=self._agent(event, responsible), **within
        )

    def _made_from(self, event: ViewEvent, made: str, used: str) -> None:
        self._sections.relate("wasDerivedFrom", prov_generatedEntity=self._dataset(event, made), prov_usedEntity=self._dataset(event, used))

    def owned(self, event: ViewEvent) -> None:
        data = event.body["data"]
        if owner := data.get("owner"):
            self._behalf(event, data.get("agent_id") or data["actor_id"], owner)

    def delegated(self, event: ViewEvent) -> None:
        self._behalf(event, event.body["data"]["agent_id"], event.body["data"]["delegated_by"])

    def decided(self, event: ViewEvent) -> None:
        data = event.body["data"]
        if delegator := data.get("on_behalf_of"):
            self._behalf(event, data["approver"], delegator, event.body["causation"])

    def lineage(self, event: ViewEvent) -> None:
        data = event.body["data"]
        self._made_from(event, data["dataset_id"], data["upstream"]["dataset_id"])

    def deployed(self, event: ViewEvent) -> None:
        deployment = event.body["data"]["deployment"]
        for made in deployment.get("outputs", []):
            for used in deployment.get("inputs", []):
                self._made_from(event, made, used)

    def tool_call(self, event: ViewEvent) -> None:
        body = event.body
        if not body["causation"]:
            return
        activity = _local(event, "activity", body["causation"])
        for dataset in body["data"].get("datasets", []):
            self._sections.relate("used", prov_activity=activity, prov_entity=self._dataset(event, dataset["dataset_id"]))

    def artifact(self, event: ViewEvent) -> None:
        artifact = self._artifact(event, event.body["data"]["sha256"])
        version = _version(event, event.body["stream"], event.body["version"])
        self._sections.relate("specializationOf", prov_specificEntity=version, prov_generalEntity=artifact)


def _version(event: ViewEvent, stream: str, version: int) -> str:
    return _local(event, "stream", f"{stream}@{version}")


def _entry(event: ViewEvent) -> JsonObject:
    """Where in the ledger it stands."""
    return {"aureus:position": {"$": str(event.position), "type": "xsd:long"}, "aureus:leaf": event.leaf.hex()}


_MORE: Final[Mapping[str, Callable[[_Writing, ViewEvent], None]]] = MappingProxyType(
    {
        "access.actor_registered": _Writing.owned,
        "agents.agent_registered": _Writing.owned,
        "agents.agent_delegated": _Writing.delegated,
        "agents.action_requested": _Writing.tool_call,
        "approvals.approver_agreed": _Writing.decided,
        "approvals.approval_rejected": _Writing.decided,
        "catalog.lineage_recorded": _Writing.lineage,
        "evidence.artifact_registered": _Writing.artifact,
        "pipelines.version_deployed": _Writing.deployed,
    }
)
"""What some facts say beyond that an entity has a new version."""
