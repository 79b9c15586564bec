"""Live feeds over a real socket: nothing missing and nothing twice, nobody told what is not theirs, and an end for every feed."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import count, repeat
from typing import Any

import httpx
import psycopg
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.feeding import SUBPROTOCOL
from api.feeds import readable
from api.server import server_of
from commands.access import ChangeRoles, RegisterActor, SuspendActor
from commands.budgets import CloseBudget
from commands.catalog import DefineTerm
from commands.notifications import Notify
from domain.kernel import Asker
from domain.values import ActorKind, Role
from infra.read_queries import ListQuery
from projections.budgets import budgets
from streams.changes import Wanted
from streams.feeds import FeedEnded, Feeds, Limits
from streams.tail import Entry
from tests.support.following import Listener, Served, served
from tests.support.kernel import ADM, ANA, APP, BEN, ask

pytestmark = pytest.mark.anyio
NAMES = (f"lake{number}" for number in count())
AGENT = Asker("agt-bot", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner="usr-ana")
AUDITOR = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))
STRANGER = Asker("usr-str", "other", frozenset({Role.ADMIN}))


@pytest.fixture(scope="module")
async def running(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(shared_database_url, tmp_path_factory.mktemp("home")) as aureus:
        await aureus.aureus.know(ANA, BEN, APP, AGENT, AUDITOR)
        command = RegisterActor(actor_id=STRANGER.actor, kind=STRANGER.kind, granted_roles=tuple(STRANGER.roles))
        await aureus.aureus.services.wait_for((await aureus.aureus.services.path.handle(ask(command, STRANGER))).position)
        yield aureus


@pytest.fixture
async def aureus(running: Served, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """The one that all tests share; each leaves nothing open."""
    monkeypatch.setattr(running.aureus.services.feeds, "limits", Limits())
    yield running
    await nobody_listens(running)


async def nobody_listens(aureus: Served) -> None:
    feeds = aureus.aureus.services.feeds
    await until(lambda: not feeds.count and not feeds.is_running)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        for pause_seconds in repeat(0.01):
            if is_so():
                return
            await asyncio.sleep(pause_seconds)


def limit(aureus: Served, **limits: Any) -> None:
    feeds = aureus.aureus.services.feeds
    feeds.limits = replace(feeds.limits, **limits)


async def done(aureus: Served, *commands: Any, by: Asker = ADM) -> int:
    position = 0
    for command in commands:
        outcome = await aureus.aureus.services.path.handle(ask(command, by))
        assert outcome.outcome == "allowed", outcome
        position = outcome.position
    return position


async def refused(aureus: Served, path: str, by: Asker = ADM, **headers: str) -> tuple[int, dict[str, Any]]:
    """What SSE and WebSocket are refused with, which is the same."""
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{aureus.port}/v1/feeds/{path}", headers={**aureus.identity(by), **headers})
    with pytest.raises(InvalidStatus) as raised:
        async with aureus.socket(path, by):
            pass
    response = raised.value.response
    assert response.status_code == answer.status_code
    error: dict[str, Any] = answer.json()["error"]
    over_socket = json.loads(response.body)["error"]
    assert (over_socket["code"], over_socket["details"]) == (error["code"], error["details"])
    return answer.status_code, error


# -- what is told


async def test_every_event_is_told_in_order_as_it_is_signed(aureus: Served) -> None:
    async with aureus.sse("events") as stream, aureus.socket("events") as web_socket:
        position = await aureus.open_budgets(next(NAMES), next(NAMES))
        told = await stream.events(position)
        assert told == await web_socket.events(position)
        assert stream.last_id == str(position)
    page = await aureus.aureus.get("/v1/ledger/events", ADM, after=stream.began)
    assert told == page.json()["items"]
    assert [event["position"] for event in told] == list(range(stream.began + 1, position + 1))


async def test_events_are_narrowed_by_type_stream_and_actor(aureus: Served) -> None:
    lake, sea = next(NAMES), next(NAMES)
    async with (
        aureus.sse("events?type=budgets.*") as of_budgets,
        aureus.sse(f"events?type=budgets.budget_opened&type=budgets.budget_closed&stream=budget:{sea}") as of_sea,
        aureus.sse("events?actor=usr-app&type=budgets.budget_closed") as of_app,
    ):
        await aureus.open_budgets(lake, sea)
        await done(aureus, CloseBudget(budget_id=lake), by=APP)
        last = await done(aureus, CloseBudget(budget_id=sea)) - 1
        assert [event["type"].partition(".")[2] for event in await of_budgets.events(last)] == [
            *["budget_opened"] * 2,
            *["budget_closed"] * 2,
        ]
        assert {event["stream"] for event in await of_sea.events(last)} == {f"budget:{sea}"}
        assert (await of_app.told("event"))["data"]["budget_id"] == lake


async def test_changed_rows_are_told_as_their_lists_show_them(aureus: Served) -> None:
    async with aureus.sse("changes?table=budgets&table=actions") as stream, aureus.socket("changes") as every:
        lake = next(NAMES)
        position = await aureus.open_budgets(lake)
        told = {(one["table"], one["id"]): one for one in await stream.changes(position)}
        row = (await aureus.aureus.get(f"/v1/budgets/{lake}", ADM)).json()
        assert told["budgets", lake] == {"position": position - 1, "table": "budgets", "id": lake, "row": row}
        assert {table for table, _ in told} == {"budgets", "actions"}
        assert {one["table"] for one in await every.changes(position)} >= {"budgets", "actions"}


async def test_a_row_that_leaves_the_filters_is_told_as_ended_and_one_that_never_was_in_them_is_not(aureus: Served) -> None:
    lake, sea = next(NAMES), next(NAMES)
    await aureus.aureus.services.wait_for(await aureus.open_budgets(lake))
    async with aureus.sse("changes?table=budgets&status=open") as open_ones, aureus.sse("changes?table=budgets&status=closed") as closed:
        await done(aureus, CloseBudget(budget_id=lake))
        last = await aureus.open_budgets(sea)
        told = await open_ones.changes(last - 1)
        assert [(one["id"], one["row"] and one["row"]["status"]) for one in told] == [(lake, None), (sea, "open")]
        assert [one["id"] for one in (await closed.told("changes"))["changes"]] == [lake]
        await done(aureus, CloseBudget(budget_id=sea))
        assert [one["id"] for one in (await closed.told("changes"))["changes"]] == [sea]


async def test_only_the_rows_that_were_named(aureus: Served) -> None:
    lake, sea = next(NAMES), next(NAMES)
    async with aureus.sse(f"changes?table=budgets&id={sea}") as stream:
        await aureus.open_budgets(lake, sea)
        assert [one["id"] for one in (await stream.told("changes"))["changes"]] == [sea]


async def test_a_large_batch_comes_in_parts_and_only_the_last_moves_on(aureus: Served) -> None:
    began = (await aureus.aureus.services.ledger.refresh()).size
    last = await aureus.open_budgets(*(next(NAMES) for _ in range(3)))
    await aureus.aureus.services.wait_for(last)
    limit(aureus, message_bytes=600)
    async with aureus.socket(f"changes?table=budgets&after={began}") as web_socket:
        parts = [await web_socket.told("changes") for _ in range(3)]
    assert [part["position"] for part in parts] == [began, began, last]
    assert [len(part["changes"]) for part in parts] == [1, 1, 1]


# -- the past and the present without a seam


async def test_nothing_is_missing_and_nothing_comes_twice_however_often_one_connects_again(aureus: Served) -> None:
    names = [next(NAMES) for _ in range(40)]
    began = (await aureus.aureus.services.ledger.refresh()).size
    writing = asyncio.create_task(aureus.open_budgets(*names))
    seen: list[dict[str, Any]] = []
    while len(seen) < 2 * len(names):
        after = seen[-1]["position"] if seen else began
        async with aureus.sse("events", Last_Event_ID=str(after)) as stream:
            for _ in range(7):
                if len(seen) < 2 * len(names):
                    seen.append(await stream.told("event"))
    assert [event["position"] for event in seen] == list(range(began + 1, await writing + 1))


async def test_rows_put_together_from_changes_are_those_of_the_list_however_often_one_connects_again(aureus: Served) -> None:
    names = [next(NAMES) for _ in range(20)]
    after = began = (await aureus.aureus.services.ledger.refresh()).size

    async def write() -> int:
        for name in names:
            await aureus.open_budgets(name)
            if name in names[::3]:
                await done(aureus, CloseBudget(budget_id=name))
        return await aureus.open_budgets(next(NAMES))

    writing = asyncio.create_task(write())
    held: dict[str, Any] = {}
    while not writing.done() or after < writing.result() - 1:
        async with aureus.socket(f"changes?table=budgets&status=open&after={after}") as web_socket:
            for _ in range(3):
                if writing.done() and after >= writing.result() - 1:
                    break
                batch = await web_socket.told("changes")
                assert batch["position"] > after
                after = batch["position"]
                for one in batch["changes"]:
                    held[one["id"]] = one["row"]
    reads = aureus.aureus.services.reads
    page = await reads.page(budgets, "acme", ListQuery({"status": "open"}, limit=500))
    rows = {row["budget_id"]: row for row in map(json.loads, page.documents)}
    mine = {name: row for name, row in held.items() if row is not None}
    assert mine == {name: row for name, row in rows.items() if name in held}
    assert set(names) - set(names[::3]) <= set(mine)
    assert began < after


async def test_a_feed_that_begins_ahead_of_all_others_hears_of_nothing_before_its_beginning(
    aureus: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the others are told next begins before it: Kafka, which they wait for, is late."""
    monkeypatch.setattr("streams.following.PATIENCE_SECONDS", 0.3)
    services = aureus.aureus.services
    feeds = Feeds(services.ledger, services.reads, services.progress, services.projections, brought=nothing)
    wanted = {"budgets": Wanted(budgets, "acme")}
    sea = next(NAMES)
    async with feeds.changes(ADM, None, wanted):
        after = await aureus.open_budgets(next(NAMES))
        async with feeds.changes(ADM, after, wanted) as ahead:
            position = await aureus.open_budgets(sea)
            told: list[Any] = []
            while ahead.position < position:
                told += [json.loads(data) for _, data in (await asyncio.wait_for(ahead.next(), 5)).messages]
    assert [one["id"] for batch in told for one in batch["changes"]] == [sea]


async def nothing() -> AsyncIterator[list[Entry]]:
    """A broker that brings nothing."""
    yield []
    await asyncio.Event().wait()


async def test_a_feed_from_the_beginning_of_time(aureus: Served) -> None:
    last = await aureus.open_budgets(next(NAMES))
    async with aureus.sse("events?after=0&type=budgets.*") as stream:
        told = await stream.events(last - 1)
    every = await aureus.aureus.services.ledger.read(0, last)
    assert [one["position"] for one in told] == [
        r.position for r in every if r.tenant == "acme" and r.event.event_name.startswith("budgets.")
    ]


async def test_events_of_another_process_come_though_its_word_is_lost(aureus: Served) -> None:
    """Neither a call in this process nor a NOTIFY tells of them: what is left is looking again and again."""
    services = aureus.aureus.services
    async with aureus.sse("events") as stream:
        told, services.ledger.on_commit[:] = list(services.ledger.on_commit), []
        try:
            with psycopg.connect(services.dsn, autocommit=True) as server:
                listeners = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE %s"
                assert server.execute(listeners, ("%FROM ledger.head",)).fetchall()
                position = await aureus.open_budgets(next(NAMES))
                assert (await stream.events(position))[-1]["position"] == position
        finally:
            services.ledger.on_commit[:] = told


# -- who is told what


async def test_each_tenant_hears_of_its_own(aureus: Served) -> None:
    async with aureus.sse("events", STRANGER) as theirs, aureus.sse("changes?table=actors", STRANGER) as rows:
        await aureus.open_budgets(next(NAMES))
        await aureus.aureus.know(Asker(f"usr-{next(NAMES)}", "acme", frozenset({Role.VIEWER})))
        command = RegisterActor(actor_id=f"usr-{next(NAMES)}", kind=ActorKind.PERSON, granted_roles=(Role.VIEWER,))
        position = await done(aureus, command, by=STRANGER)
        assert {event["tenant"] for event in await theirs.events(position)} == {"other"}
        assert [one["id"] for one in (await rows.told("changes"))["changes"]] == [command.actor_id]


async def test_everybody_hears_of_their_own_notifications_and_overseers_of_those_they_ask_for(aureus: Served) -> None:
    async with (
        aureus.sse("changes?table=notifications", ANA) as of_ana,
        aureus.sse("changes?table=notifications&recipient=usr-ben", AUDITOR) as asked_for,
    ):
        for recipient in ("usr-ben", "usr-ana"):
            await done(aureus, Notify(notification_id=next(NAMES), recipient=recipient, subject="The lake moves"))
        for stream, whose in ((of_ana, "usr-ana"), (asked_for, "usr-ben")):
            assert [one["row"]["recipient"] for one in (await stream.told("changes"))["changes"]] == [whose]
    status, error = await refused(aureus, "changes?table=notifications&recipient=usr-ben", ANA)
    assert (status, error["code"]) == (403, "role_missing")


async def test_a_table_is_told_to_those_who_may_list_it(aureus: Served) -> None:
    assert (await refused(aureus, "changes?table=memberships", ANA))[1]["code"] == "role_missing"
    assert (await refused(aureus, "events", AGENT))[1]["code"] == "role_missing"
    key = {"label": "CI", "actor_id": "usr-ana"}
    async with (
        aureus.sse("changes?table=api_keys", ANA) as of_ana,
        aureus.sse("changes?table=api_keys", AUDITOR) as of_auditor,
        aureus.sse("changes", BEN) as of_ben,
    ):
        answer = await aureus.aureus.post("/v1/api-keys", key, ANA)
        assert answer.status_code == 201, answer.text
        for listener in (of_ana, of_auditor):
            assert [one["id"] for one in (await listener.told("changes"))["changes"]] == [answer.json()["key_id"]]
        assert {one["table"] for one in (await of_ben.told("changes"))["changes"]}.isdisjoint({"api_keys"})


def test_every_table_with_a_list_can_be_followed_and_no_other(running: Served) -> None:
    followed = readable(server_of(running.aureus.services).config.app)  # type: ignore[arg-type]
    every = {read.name for projection in running.aureus.services.projections for read in projection.tables}
    told_otherwise = {"archives", "audit_queries", "personal_events"}
    unlisted = {"dataset_schemas", "dataset_usage", "export_profiles", "lineage", "redeliveries", "term_links", *told_otherwise}
    assert every - set(followed) == unlisted
    assert {name for view in followed.values() for name in view.read.filters} & {"table", "id", "after"} == set()


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("events?type=budgets.nothing", "type"),
        ("events?type=nothing.*", "type"),
        ("events?colour=red", "colour"),
        ("events?after=-1", "after"),
        ("events?after=99999999", "after"),
        ("changes?table=secrets", "table"),
        ("changes?table=dataset_schemas", "table"),
        ("changes?table=budgets&colour=red", "colour"),
        ("changes?table=budgets&table=approvals&currency=EUR", "currency"),
        ("changes?status=open", "status"),
    ],
)
async def test_what_cannot_be_followed_is_refused(aureus: Served, path: str, field: str) -> None:
    status, error = await refused(aureus, path)
    assert (status, error["details"]["field"]) == (422, field)
    assert error["details"]["remedy"]


async def test_without_an_identity_there_is_no_feed(aureus: Served) -> None:
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{aureus.port}/v1/feeds/events")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")
    with pytest.raises(InvalidStatus) as raised:
        async with connect(f"ws://127.0.0.1:{aureus.port}/v1/feeds/events", proxy=None):
            pass
    assert raised.value.response.status_code == 401
    with pytest.raises(InvalidStatus) as raised:
        async with connect(f"ws://127.0.0.1:{aureus.port}/v1/budgets", proxy=None, additional_headers=aureus.identity(ADM)):
            pass
    assert raised.value.response.status_code == 404


async def test_a_browser_says_who_it_is_among_the_subprotocols_and_is_not_told_its_token_back(aureus: Served) -> None:
    token = aureus.identity(ADM)["Authorization"].removeprefix("Bearer ")
    address = f"ws://127.0.0.1:{aureus.port}/v1/feeds/events"
    async with connect(address, proxy=None, subprotocols=[SUBPROTOCOL, f"bearer.{token}"]) as connection:  # type: ignore[list-item]
        assert connection.subprotocol == SUBPROTOCOL
        assert "begin" in json.loads(await connection.recv())
    with pytest.raises(InvalidStatus) as raised:
        async with connect(address, proxy=None, subprotocols=[f"bearer.{token}"], additional_headers=aureus.identity(ANA)):  # type: ignore[list-item]
            pass
    assert raised.value.response.status_code == 401


# -- how feeds end


async def ending(listener: Listener) -> dict[str, Any]:
    end: dict[str, Any] = await listener.told("end")
    assert set(end) == {"code", "message", "position", "remedy"}
    return end


async def closed(connection: ClientConnection) -> tuple[int | None, str | None]:
    """The code and reason that a connection is closed with."""
    with suppress(ConnectionClosed):
        async for _ in connection:
            pass
    return connection.close_code, connection.close_reason


async def test_who_is_suspended_or_gets_other_roles_or_loses_a_key_hears_no_more(aureus: Served) -> None:
    limit(aureus, beat_seconds=0.05)
    eve, joe = (Asker(f"usr-{next(NAMES)}", "acme", frozenset({Role.ANALYST})) for _ in range(2))
    await aureus.aureus.know(eve, joe)
    key = (await aureus.aureus.post("/v1/api-keys", {"label": "CI", "actor_id": joe.actor}, joe)).json()
    await aureus.aureus.services.wait_for((await aureus.aureus.services.ledger.refresh()).size)
    by_key = connect(
        f"ws://127.0.0.1:{aureus.port}/v1/feeds/events?type=keys.*", proxy=None, additional_headers={"X-API-Key": key["api_key"]}
    )
    async with aureus.sse("events?type=keys.*", eve) as of_eve, aureus.socket("changes?table=keys", joe) as of_joe, by_key as keyed:
        await done(aureus, SuspendActor(actor_id=eve.actor), ChangeRoles(actor_id=joe.actor, granted_roles=(Role.VIEWER,)))
        answer = await aureus.aureus.post(f"/v1/api-keys/{key['key_id']}/revoke", {"actor_id": joe.actor}, ADM)
        assert answer.status_code == 200, answer.text
        assert (await ending(of_eve))["code"] == "unauthenticated"
        assert (await ending(of_joe))["code"] == "access_changed"
        assert await closed(of_joe.connection) == (1008, "access_changed")
        assert await closed(keyed) == (1008, "unauthenticated")


async def test_beats_say_how_far_all_was_told_even_if_nothing_was_for_us(aureus: Served) -> None:
    limit(aureus, beat_seconds=0.05)
    async with aureus.sse("events?type=keys.*") as stream, aureus.socket("changes?table=keys") as web_socket:
        position = await aureus.open_budgets(next(NAMES))
        for listener in (stream, web_socket):
            async with asyncio.timeout(5):
                while (await listener.next()) != ("beat", {"position": position}):
                    pass
        assert stream.last_id == str(position)


async def test_who_falls_behind_what_is_kept_is_told_where_to_go_on(aureus: Served) -> None:
    limit(aureus, behind_messages=10)
    feeds = aureus.aureus.services.feeds
    async with feeds.events(ADM, None, lambda _: True) as events, aureus.sse("events") as quick:
        began = events.position
        first = await aureus.open_budgets(next(NAMES))
        told = await events.next()
        assert began < told.reached <= first
        position = await aureus.open_budgets(*(next(NAMES) for _ in range(8)))
        await quick.events(position)
        with pytest.raises(FeedEnded) as end:
            await events.next()
        assert end.value.code == "too_slow"
        assert events.position == told.reached
        async with feeds.events(ADM, told.reached, lambda _: True) as again:
            assert (await again.next()).messages[0][0] == told.reached + 1


async def test_a_client_that_takes_nothing_is_let_go(aureus: Served) -> None:
    limit(aureus, stalled_seconds=0.2, beat_seconds=0.05)
    terms = [DefineTerm(term_id=next(NAMES), name="A term", definition="x" * 4_000) for _ in range(60)]
    began = (await aureus.aureus.services.ledger.refresh()).size
    await done(aureus, *terms)
    identity = aureus.identity(ADM)["Authorization"]
    asked = f"GET /v1/feeds/events?after={began} HTTP/1.1\r\nHost: a\r\nAuthorization: {identity}\r\n"
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    with ExitStack() as stack:
        for head in (asked, asked + upgrade):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.connect(("127.0.0.1", aureus.port))
            client.sendall(f"{head}\r\n".encode())
        await until(lambda: aureus.aureus.services.feeds.count == 2)
        await nobody_listens(aureus)
        await until(lambda: not aureus.server.server_state.connections)  # nor does what could not be told lie there


async def test_one_actor_and_one_process_have_so_many_feeds_and_no_more(aureus: Served) -> None:
    limit(aureus, feeds_of_one=2, feeds=3)
    async with aureus.sse("events"), aureus.socket("changes?table=keys"):
        status, error = await refused(aureus, "events")
        assert (status, error["code"], error["details"]["most"]) == (429, "too_many_feeds", 2)
        async with aureus.sse("events", ANA):
            status, error = await refused(aureus, "events", BEN)
            assert (status, error["details"]["most"]) == (429, 3)
    await nobody_listens(aureus)
    async with aureus.sse("events"):
        pass


async def test_changes_too_long_ago_are_not_told_but_where_to_begin_anew(aureus: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    last = await aureus.open_budgets(next(NAMES))
    await aureus.aureus.services.wait_for(last)
    monkeypatch.setattr("api.feeds.CHANGES_BEHIND_MAX", 1)
    status, error = await refused(aureus, f"changes?after={last - 2}")
    assert (status, error["code"], error["details"]["position"]) == (410, "position_too_old", last)
    async with aureus.sse(f"changes?table=actions&after={last - 1}") as stream:
        assert (await stream.told("changes"))["position"] == last


async def test_feeds_take_no_messages(aureus: Served) -> None:
    async with aureus.socket("events") as web_socket:
        await web_socket.connection.send("hello")
        assert (await ending(web_socket))["code"] == "message_unexpected"
        assert await closed(web_socket.connection) == (1003, "message_unexpected")


async def test_the_server_says_goodbye_and_stops_at_once(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    aureus = served(database_url, tmp_path_factory.mktemp("home"))
    running = await aureus.__aenter__()
    async with running.sse("events") as stream, running.socket("changes") as web_socket:
        started = time.monotonic()
        stopping = asyncio.create_task(aureus.__aexit__(None, None, None))
        for listener in (stream, web_socket):
            assert (await ending(listener))["code"] == "going_away"
        assert await closed(web_socket.connection) == (1001, "going_away")
        await stopping
    assert time.monotonic() - started < 5
