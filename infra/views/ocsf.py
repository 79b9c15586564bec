"""Every event as an OCSF event, for security teams and the tools they search with.

An action is API Activity, with what the Guard decided as that of a security control; a fact is a change of an account, of a
user's access or of an entity, by the table in `ocsf_classes`. What OCSF has no place for stands under `unmapped`, whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from domain.kernel import JsonObject
from infra.views.ocsf_classes import API_ACTIVITY, DEFAULT, DETECTION, ENTITY, KINDS, OTHER, USER_ACCESS, Kind
from infra.views.view import About, Lines, ViewEvent

OCSF_VERSION: Final = "1.8.0"
_SEVERITIES: Final = MappingProxyType({1: "Informational", 2: "Low", 3: "Medium", 4: "High"})
_USER_TYPES: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {"usr": (1, "User"), "svc": (4, "Service"), "agt": (OTHER, "AI agent"), "person": (1, "User"), "service": (4, "Service")}
    | {"agent": (OTHER, "AI agent")}
)
_ANOMALY: Final = Kind(DETECTION, 1, 3)
_NOT_RECORDED: Final[JsonObject] = {"name": "not recorded"}
"""Where a request came from: OCSF asks, the ledger does not say."""


def _user(actor: str, kind: str | None = None) -> JsonObject:
    type_id, caption = _USER_TYPES.get(kind or actor.partition("-")[0], (0, "Unknown"))
    return {"uid": actor, "type_id": type_id, "type": caption}


def _base(about: About, event: ViewEvent, kind: Kind) -> JsonObject:
    body, cls = event.body, kind.cls
    activity = cls.activities.get(kind.activity_id, body["type"])
    return {
        "activity_id": kind.activity_id,
        "activity_name": activity,
        "category_uid": cls.category_uid,
        "category_name": cls.category,
        "class_uid": cls.uid,
        "class_name": cls.name,
        "type_uid": cls.uid * 100 + kind.activity_id,
        "type_name": f"{cls.name}: {activity if kind.activity_id != OTHER else 'Other'}",
        "severity_id": kind.severity_id,
        "severity": _SEVERITIES[kind.severity_id],
        "time": int(datetime.fromisoformat(body["at"]).timestamp() * 1000),
        "metadata": {
            "version": OCSF_VERSION,
            "product": {"name": "Aureus", "vendor_name": "Aureus"},
            "log_name": about.ledger,
            "uid": body["id"],
            "event_code": body["type"],
            "sequence": event.position,
            "original_time": body["at"],
            "correlation_uid": body["correlation"],
            "tenant_uid": body["tenant"],
        },
        "actor": {"user": _user(body["actor"])},
        "unmapped": {"stream": body["stream"], "version": body["version"], "leaf": event.leaf.hex(), "data": body["data"]},
    }


# -- actions: API Activity under a security control


_ENDED: Final[Mapping[str, JsonObject]] = MappingProxyType(
    {
        event: {
            "status_id": status_id,
            "status": status,
            "action_id": action_id,
            "action": action,
            "disposition_id": disposition_id,
            "disposition": disposition,
        }
        for event, status_id, status, action_id, action, disposition_id, disposition in (
            ("actions.action_allowed", 1, "Success", 1, "Allowed", 1, "Allowed"),
            ("actions.action_blocked", 2, "Failure", 2, "Denied", 2, "Blocked"),
            ("actions.action_parked", OTHER, "Requires approval", OTHER, "Requires approval", 14, "Delayed"),
        )
    }
)


def _action(about: About, event: ViewEvent) -> JsonObject:
    body, data = event.body, event.body["data"]
    intent = data["intent"]
    blocked = body["type"] == "actions.action_blocked"
    told = _base(about, event, Kind(API_ACTIVITY, 3 if intent["seen_version"] else 1, 2 if blocked else 1))
    told |= _ENDED[body["type"]]
    told["metadata"]["profiles"] = ["security_control"]
    told["actor"] = {"user": _user(body["actor"], intent["kind"])}
    told["src_endpoint"] = _NOT_RECORDED
    told["api"] = {"operation": intent["command"], "service": {"name": "Aureus"}, "request": {"uid": body["causation"] or body["id"]}}
    told["resources"] = [_resource(intent["stream"], intent["seen_version"])]
    if blocked:
        told |= {"status_code": data["code"], "status_detail": data["message"]}
        told["api"]["response"] = {"error": data["code"], "error_message": data["message"]}
    if decided := _decided(data):
        told["policy"] = decided
    return told


def _decided(data: JsonObject) -> JsonObject | None:
    """The policy that decided: the first of those with the strictest outcome. All of them stand under `unmapped`."""
    results = data.get("policy_results") or []
    for outcome in ("block", "require_approval", "allow"):
        for result in results:
            if result["outcome"] == outcome:
                said = {"desc": result["reason"]} if result.get("reason") else {}
                return {"uid": result["policy"], "version": data["policy_version"], "is_applied": True, **said}
    return None


def _resource(stream: str, version: int) -> JsonObject:
    category, _, entity = stream.partition(":")
    return {"uid": stream, "name": entity, "type": category, "version": str(version)}


# -- facts


def _fact(about: About, event: ViewEvent) -> JsonObject:
    body, data = event.body, event.body["data"]
    kind = KINDS.get(body["type"], DEFAULT)
    told = _base(about, event, kind)
    told |= {"status_id": 1, "status": "Success"}
    if kind.user:
        told["user"] = _user(data[kind.user])
        if kind.cls is USER_ACCESS:
            told |= _access(data)
    elif kind.cls is ENTITY:
        category, _, entity = body["stream"].partition(":")
        named = {"uid": body["stream"], "name": entity or body["stream"], "version": str(body["version"])}
        told["entity"] = named | _entity_type(category, data)
        if comment := data.get("reason") or data.get("comment"):
            told["comment"] = comment
    return told


def _entity_type(category: str, data: JsonObject) -> JsonObject:
    if "policy_id" not in data:
        return {"type_id": OTHER, "type": category}
    return {"type_id": 5, "type": "Policy", "policy": {"uid": data["policy_id"], "version": str(data["version"])}}


def _access(data: JsonObject) -> JsonObject:
    """Which privileges were given or taken: roles, a tool on datasets, or to act or decide for somebody."""
    if "tool" in data:
        datasets = [{"uid": f"dataset:{each['dataset_id']}", "type": "dataset"} for each in data.get("datasets", [])]
        return {"privileges": [f"use {data['tool']}"], "resources": datasets}
    if "delegator" in data:
        return {"privileges": [f"decide for {data['delegator']} on {kind}" for kind in data.get("types") or ["every approval"]]}
    return {"privileges": [f"act for {data['delegated_by']}"] if "delegated_by" in data else data.get("roles", [])}


def _notice(about: About, event: ViewEvent) -> JsonObject:
    """What Aureus found unusual is a detection; other notices are facts like any other."""
    data = event.body["data"]
    if data["kind"] != "anomaly_found":
        return _fact(about, event)
    told = _base(about, event, _ANOMALY)
    del told["actor"]  # this class has no place for who noticed
    told |= {"status_id": 1, "status": "New", "is_alert": True}
    told["finding_info"] = {
        "uid": data["notification_id"],
        "title": data["subject"],
        "desc": data["text"],
        "created_time": told["time"],
        "analytic": {"name": "Aureus audit trail", "type_id": 3, "type": "Statistical"},
    }
    if data.get("about"):
        told["resources"] = [{"uid": data["about"]}]
    return told


_TOLD: Final[Mapping[str, Callable[[About, ViewEvent], JsonObject]]] = MappingProxyType(
    {**dict.fromkeys(_ENDED, _action), "notifications.notification_sent": _notice}
)


def _tell(about: About, event: ViewEvent) -> list[JsonObject]:
    return [_TOLD.get(event.body["type"], _fact)(about, event)]


def _teller(about: About) -> Callable[[ViewEvent], list[Any]]:
    return partial(_tell, about)


OCSF: Final = Lines("ocsf", "views/ocsf.jsonl", _teller)
