"""The house's own invariants (docs/adr): every route has a rule, every command a route, every event a reader or a reason."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module
from itertools import chain
from pathlib import Path
from pkgutil import iter_modules

import pytest
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route

import domain
from api.app import create_app
from api.reference import UNREAD
from api.routing import PUBLIC
from api.services import deciders, projections
from domain.kernel import EVENTS, Command, Event
from domain.values import Role
from projections.engine import unread_events
from tests.golden import event_classes

ROOT = Path(__file__).parent.parent

PUBLIC_PATHS = {
    "GET /healthz": "a supervisor asks whether the process lives",
    "GET /readyz": "a load balancer asks whether to send requests",
    "GET /metrics": "a scraper has no account: it shows a token of its own, or is on this machine (tests/test_metrics.py)",
    "POST /v1/auth/token": "whoever logs in has no token yet",
    "POST /v1/auth/refresh": "the refresh token says who it is",
    "POST /v1/auth/logout": "a refresh token, or the access token, says which session ends",
    "GET /v1/auth/keys": "others verify our tokens with it",
    "GET /v1/auth/providers": "a login page shows where to log in",
    "GET /v1/auth/oidc/login": "whoever is sent to the identity provider has no token yet",
    "GET /v1/auth/oidc/callback": "the provider sends a browser here; what it brings is looked at later",
    "POST /v1/auth/oidc/session": "the provider's answer, in the browser that asked for it, says who it is",
    "GET /v1/auth/oidc/logout": "it only leads to the provider; our session has ended by then",
    "POST /v1/auth/oidc/backchannel-logout": "the provider's signature says who asks",
    "POST /v1/auth/oidc/device": "whoever logs in has no token yet",
    "POST /v1/auth/oidc/device/session": "the device code, once its owner has let it in, says who it is",
    "GET /v1/ledger/checkpoint": "who checks that we change nothing must not need our leave; it tells a size and a hash",
    "GET /v1/ledger/keys": "what a checkpoint is verified with",
    "GET /v1/log/tile/{level}/{place:path}": "hashes only: anybody may check that the log merely grew",
    "GET /v1/log/checkpoint": "the same, with the cosignatures of those who watched",
    "GET /v1/log/timestamps/{size}": "an authority's word on such a checkpoint",
    "GET /v1/proofs/inclusion": "hashes only: who holds one entry may prove that it is in the log",
    "GET /v1/proofs/consistency": "hashes only: who holds an old checkpoint may check a new one against it",
    "GET /v1/proofs/root": "a hash only: who holds an old checkpoint may compare it",
    "GET /v1/verifier": "the program that checks us must be had by those who have no account",
    "POST /v1/hooks/{hook_id}": "a report proves by its signature whose it is (tests/test_hooks.py)",
    "GET /": "the console's page: it holds nobody's data, and logs in through the API",
    "GET /console/{name}": "the console's scripts and styles",
    "GET /docs": "the API's reference, the same for everybody",
    "GET /docs/{name}": "the reference's scripts and styles",
}
DESCRIPTION_PATHS = {"/openapi.json"}
"""FastAPI's own: it describes the API and holds nobody's data."""

INSIDE_COMMANDS = {"approvals.use_approval": "the command path spends an approval in the commit of the action it covers"}
COMMANDS_SENT_OTHERWISE = {
    "access.issue_api_key": "POST /v1/api-keys makes the secret, which never is part of a command",
    "access.rotate_api_key": "POST /v1/api-keys/{key_id}/rotate makes the secret of the new key",
    "agents.request_action": "POST /v1/agents/{agent_id}/actions gathers the facts itself: no caller says what data is like",
    "hooks.add_hook": "POST /v1/hooks makes the secret, which never is part of a command",
    "hooks.rotate_hook_secret": "POST /v1/hooks/{hook_id}/secret makes the next one",
    "notifications.rotate_webhook_secret": "POST /v1/webhooks/{webhook_id}/secret makes the next one",
    "notifications.add_webhook": "POST /v1/webhooks makes the secret, which never is part of a command",
    "budgets.roll_back_settings": "POST /v1/rollbacks looks up what would break: no caller says that nothing does",
    "catalog.roll_back_dataset": "POST /v1/rollbacks looks up what would break: no caller says that nothing does",
    "pipelines.roll_back_pipeline": "POST /v1/rollbacks looks up what would break: no caller says that nothing does",
    "evidence.register_artifact": "POST /v1/artifacts takes the bytes, and hashes them itself",
    "archive.fail_sealing": "the archivist asks it, when a segment cannot be written",
    "archive.record_segment": "the archivist asks it, with the hashes of the files it has written",
    "backups.begin_backup": "`aureus backup` asks it, before it reads the first row",
    "backups.record_backup": "`aureus backup` asks it, with the hash of the file it has written",
    "backups.record_restore": "the first start after `aureus restore` asks it: nobody's word is taken for that",
    "exports.commit_index": "the exporter asks it, with the root it has computed: nobody's word is committed",
    "exports.fail_export": "the exporter asks it, when a pack cannot be written",
    "exports.record_download": "GET /v1/exports/{export_id}/pack asks it, for what it hands out",
    "exports.withdraw_pack": "the eraser asks it, of a pack that shows what is erased",
    "subjects.begin_erasure": "the eraser asks it, as it begins",
    "subjects.certify_erasure": "the eraser asks it, of what it destroyed: nobody's word is taken for that",
    "exports.seal_export": "the exporter asks it, with the hash of the pack it has written",
    "vault.record_rewrap": "the rewrapper asks it, when every key is wrapped again",
    "evidence.seal_pack": "POST /v1/evidence/{action_id}/seal writes the pack, and hashes it itself",
    **dict.fromkeys(
        (
            "reactions.compensate_saga",
            "reactions.end_saga",
            "reactions.fail_step",
            "reactions.finish_step",
            "reactions.park_step",
            "reactions.record_dead_letter",
            "reactions.settle_replay",
            "reactions.start_saga",
            "reactions.time_out_saga",
        ),
        "the reactor asks it, of what it did and could not do: nobody's word is taken for that",
    ),
    "replays.fail_replay": "the replayer asks it, when a replay cannot be built",
    "replays.finish_replay": "the replayer asks it, with the digests of what it has built",
    "replays.hand_out_login": "POST /v1/replays/{replay_id}/login opens the password, which never is part of a command",
    "replays.record_query": "POST /v1/replays/{replay_id}/query asks it, for what it ran",
    "replays.request_replay": "POST /v1/replays looks up the position that a time means",
    **dict.fromkeys(
        ("sessions.open_session", "sessions.refresh_session", "sessions.log_out"),
        "POST /v1/auth/token, refresh and logout look at what is shown: nobody's word is taken for who they are",
    ),
    **dict.fromkeys(
        ("sessions.record_recovery", "sessions.record_slowed_logins"),
        "POST /v1/auth/token asks it, of what it has seen",
    ),
    **dict.fromkeys(
        (
            "sessions.change_password",
            "sessions.confirm_second_factor",
            "sessions.enrol_second_factor",
            "sessions.remove_second_factor",
            "sessions.set_password",
        ),
        "POST /v1/auth/password, passwords and totp take or make the secret, which never is part of a command",
    ),
    "jobs.start_job": "POST /v1/bulk keeps the commands, and counts and hashes them itself",
    **dict.fromkeys(("jobs.report_progress", "jobs.finish_job"), "the worker asks it, of what it has done"),
    "policies.adopt_defaults": "the first start asks it, with the policies that came with Aureus",
    "policies.roll_back_policies": "POST /v1/rollbacks goes back with whatever has versions",
    "policies.record_impact": "POST /v1/policies/impact asks past decisions again itself: no caller says what flips",
    "policies.record_test": "POST /v1/policies/test runs the tests itself: no caller says that they passed",
}
"""Commands whose fields are not a request body, and the route that makes them."""


@cache
def routes() -> tuple[BaseRoute, ...]:
    return tuple(create_app().routes)


def api_routes() -> list[APIRoute]:
    return [route for route in routes() if isinstance(route, APIRoute)]


def named(route: APIRoute) -> list[str]:
    return [f"{method} {route.path}" for method in sorted(route.methods or ())]


def commands() -> list[type[Command]]:
    return [command for decider in deciders() for command in decider.commands]


# -- routes


def test_every_route_has_an_authorisation_rule() -> None:
    bare = [name for route in api_routes() for name in named(route) if not isinstance(getattr(route, "authorisation", None), frozenset)]
    assert bare == []


def test_only_these_routes_are_public_each_for_a_reason() -> None:
    public = {name for route in api_routes() for name in named(route) if route.authorisation == PUBLIC}  # type: ignore[attr-defined]
    assert public == set(PUBLIC_PATHS)


def test_nothing_is_served_but_the_api_and_its_description() -> None:
    others = {route.path for route in routes() if isinstance(route, Route) and not isinstance(route, APIRoute)}
    assert others == DESCRIPTION_PATHS
    assert [route for route in routes() if not isinstance(route, Route)] == []


def test_rules_name_roles_that_exist() -> None:
    assert [name for route in api_routes() for name in named(route) if not route.authorisation <= frozenset(Role)] == []  # type: ignore[attr-defined]


def test_no_two_routes_answer_the_same_request() -> None:
    seen = [re.sub(r"{\w+(:\w+)?}", "{}", name) for route in api_routes() for name in named(route)]
    assert sorted(seen) == sorted(set(seen))


def test_the_description_covers_every_route() -> None:
    document = get_openapi(title="", version="", routes=api_routes())
    described = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    served = {re.sub(r":path}", "}", name) for route in api_routes() if route.include_in_schema for name in named(route)}
    assert described == served


# -- commands


def test_every_command_has_a_route() -> None:
    routed = {route.name for route in api_routes() if "POST" in (route.methods or ())}
    wanted = {command.command_name for command in commands()} - set(INSIDE_COMMANDS) - set(COMMANDS_SENT_OTHERWISE)
    assert sorted(wanted - routed) == []
    assert sorted(routed & set(COMMANDS_SENT_OTHERWISE)) == [], "it has a route of its own: take it off the list"
    assert sorted(routed & set(INSIDE_COMMANDS)) == [], "what only the command path may ask has no route"


def test_a_commands_route_asks_for_the_commands_own_roles() -> None:
    roles = {command.command_name: command.roles for command in commands()}
    assert [route.name for route in api_routes() if route.name in roles and route.authorisation != roles[route.name]] == []  # type: ignore[attr-defined]


def test_exactly_the_inside_commands_can_be_asked_by_nobody() -> None:
    assert {command.command_name for command in commands() if not command.roles} == set(INSIDE_COMMANDS)


def test_names_are_the_contexts_own_and_taken_once() -> None:
    pairs = [(decider.context, command.command_name) for decider in deciders() for command in decider.commands]
    assert [pair for pair in pairs if pair[1].partition(".")[0] != pair[0]] == []
    assert len({name for _, name in pairs}) == len(pairs)


# -- events


def test_every_event_is_read_by_a_projection_or_says_why_not() -> None:
    shipped = [event.event_name for event in EVENTS if event.__module__.startswith("domain.")]
    assert [name for name in unread_events(projections()) if name in shipped] == sorted(event.event_name for event in UNREAD)


def test_every_event_of_a_decider_ships_and_is_named_after_its_module() -> None:
    shipped = set(event_classes())
    decided: set[type[Event]] = set(chain.from_iterable(decider.events for decider in deciders()))
    assert decided <= shipped
    assert [event for event in decided if event.event_name.partition(".")[0] != event.__module__.rpartition(".")[2]] == []


def test_a_process_that_serves_knows_every_event_there_is() -> None:
    """One it does not know would stop its read models."""
    for module in iter_modules(domain.__path__):
        import_module(f"domain.{module.name}")
    names = [event.event_name for event in event_classes()]
    script = (
        "from api.services import *; deciders(), projections(); from domain.kernel import EVENTS; print(*[e.event_name for e in EVENTS])"
    )
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == names


@pytest.mark.parametrize("kind", ["event", "command"])
def test_everything_that_can_happen_or_be_asked_is_explained(kind: str) -> None:
    classes: list[type[Event]] | list[type[Command]] = event_classes() if kind == "event" else commands()
    assert [cls.__name__ for cls in classes if not (cls.__doc__ or "").strip()] == []


def test_every_projection_can_be_built_by_another_process() -> None:
    """Its folds are sent there by name, which a lambda has not."""
    assert [one.name for one in pickle.loads(pickle.dumps(projections()))] == [one.name for one in projections()]


# -- purity


def test_decisions_and_folds_cannot_reach_a_clock_or_dice() -> None:
    """The linter holds it; this holds that the linter is told to."""
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    banned = set(ruff["flake8-tidy-imports"]["banned-api"])
    assert {"datetime.datetime.now", "time", "random", "secrets", "uuid.uuid4", "domain.values.uuid7", "os"} <= banned
    freed = [pattern for pattern, rules in ruff["per-file-ignores"].items() if "TID251" in rules]
    assert [pattern for pattern in freed if re.search(r"\b(commands|projections)\b|domain/(?!values\.py)", pattern)] == []
    assert "TID" in ruff["select"]
