"""Many commands at once: each comes to what it would come to alone, and what became of each is told apart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as examples
from hypothesis import strategies as st

from domain.kernel import Asker
from domain.values import Role
from tests.support.kernel import ADM, ANA
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio
TOM: Final = Asker("usr-tom", "acme", frozenset({Role.ANALYST, Role.ADMIN}))


@pytest.fixture(scope="module")
async def aureus(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Aureus]:
    async with running(shared_database_url, tmp_path_factory.mktemp("home")) as opened:
        await opened.know(ADM, ANA, TOM)
        yield opened


def item(command: str, /, **fields: Any) -> dict[str, Any]:
    return {"command": f"budgets.{command}", "fields": fields}


def opening(budget_id: str, limit_minor: int = 100, currency: str = "EUR") -> dict[str, Any]:
    return item("open_budget", budget_id=budget_id, label="L", currency=currency, limit_minor=limit_minor)


def fresh() -> str:
    return f"b{uuid4().hex[:12]}"


async def sent(aureus: Aureus, commands: list[dict[str, Any]], by: Asker = TOM, on_failure: str = "continue", **headers: str) -> Any:
    answer = await aureus.post("/v1/bulk", {"commands": commands, "on_failure": on_failure}, by, **headers)
    assert answer.status_code == 207, answer.text
    return answer.json()


async def test_each_command_is_told_apart_with_the_status_it_would_have_alone(aureus: Aureus) -> None:
    lake, swiss = fresh(), fresh()
    told = await sent(
        aureus,
        [
            opening(lake),
            item("reserve_funds", budget_id=lake, amount_minor=30),
            item("reserve_funds", budget_id=lake, amount_minor=90),
            opening(swiss, currency="CHF"),
            item("reserve_funds", budget_id=swiss, amount_minor=1),
            item("open_budget", budget_id="a b"),
            item("no_such_command"),
            opening(fresh(), currency="ZZZ"),
            {**item("fund_budget", budget_id=lake, amount_minor=1), "if_match": 77},
        ],
    )
    found = [(one["index"], one["status"], one["outcome"]) for one in told["items"]]
    assert found == [
        (0, 201, "allowed"),
        (1, 201, "allowed"),
        (2, 409, "blocked"),
        (3, 201, "allowed"),
        (4, 202, "requires_approval"),
        (5, 422, "failed"),
        (6, 404, "failed"),
        (7, 403, "blocked"),
        (8, 412, "failed"),
    ]
    assert (told["allowed"], told["parked"], told["refused"]) == (3, 1, 5)
    refused = told["items"][2]["error"]
    assert (refused["code"], refused["details"]["available_minor"]) == ("budget_exceeded", 70)
    assert told["position"] >= max(one["answer"]["position"] for one in told["items"] if one["answer"])
    alone = await aureus.post(f"/v1/budgets/{lake}/reserve", {"amount_minor": 90}, TOM)
    assert {name: value for name, value in alone.json()["error"].items() if name in {"code", "message"}} == {
        "code": refused["code"],
        "message": refused["message"],
    }


async def test_every_command_is_authorised_on_its_own(aureus: Aureus) -> None:
    lake = fresh()
    told = await sent(aureus, [opening(lake)], ANA)
    assert [(one["status"], one["error"]["code"]) for one in told["items"]] == [(403, "role_missing")]
    await sent(aureus, [opening(lake)], ADM)
    told = await sent(aureus, [item("reserve_funds", budget_id=lake, amount_minor=1), item("close_budget", budget_id=lake)], ANA)
    assert [one["status"] for one in told["items"]] == [201, 403]


async def test_stop_goes_no_further_than_the_first_that_is_not_carried_out(aureus: Aureus) -> None:
    lake = fresh()
    fund = item("fund_budget", budget_id=lake, amount_minor=1)
    told = await sent(aureus, [opening(lake), fund, opening(lake), fund, opening(fresh())], on_failure="stop")
    assert [(one["status"], one["outcome"]) for one in told["items"]] == [
        (201, "allowed"),
        (200, "allowed"),
        (409, "blocked"),
        (424, "not_run"),
        (424, "not_run"),
    ]
    assert (await aureus.get(f"/v1/budgets/{lake}", TOM, at_least=told["position"])).json()["limit_minor"] == 101


async def test_a_repeated_request_counts_once(aureus: Aureus) -> None:
    lake = fresh()
    await sent(aureus, [opening(lake)])
    both = [
        item("fund_budget", budget_id=lake, amount_minor=1),
        {**item("fund_budget", budget_id=lake, amount_minor=1), "idempotency_key": lake},
    ]
    first, again = [await sent(aureus, both, Idempotency_Key="k-" + lake) for _ in range(2)]
    assert [one["answer"] for one in first["items"]] == [one["answer"] for one in again["items"]]
    assert (await aureus.get(f"/v1/budgets/{lake}", TOM, at_least=again["position"])).json()["limit_minor"] == 102


async def test_what_is_no_list_of_commands_is_refused_whole(aureus: Aureus) -> None:
    for body, field in [
        ({"commands": []}, "commands"),
        ({"commands": [{"command": "budgets.fund_budget", "roles": ["admin"]}]}, "commands.0.roles"),
        ({"commands": [{"command": "x"}], "on_failure": "maybe"}, "on_failure"),
    ]:
        answer = await aureus.post("/v1/bulk", body, TOM)
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, field)
    signed = await aureus.post("/v1/bulk", {"commands": [opening(fresh())]}, TOM, Aureus_Prepare="1")
    assert (signed.status_code, signed.json()["error"]["code"]) == (422, "validation_failed")
    identity = {"Authorization": f"Bearer {aureus.services.tokens.issue(TOM)}", "content-type": "application/json"}
    twice = await aureus.http.post("/v1/bulk", content=b'{"commands": [], "commands": [{"command": "x"}]}', headers=identity)
    assert twice.status_code == 422, "a key that stands twice says two things"
    assert (await aureus.http.post("/v1/bulk", json={"commands": [{"command": "x"}]})).status_code == 401


# -- many equal one by one

NAMES: Final = ("a", "a.x", "b", "c")
STEP: Final = st.one_of(
    st.tuples(st.just("open_budget"), st.sampled_from(NAMES), st.integers(0, 40)),
    st.tuples(st.just("fund_budget"), st.sampled_from(NAMES), st.integers(1, 20)),
    st.tuples(st.just("reserve_funds"), st.sampled_from(NAMES), st.integers(1, 60)),
    st.tuples(st.just("close_budget"), st.sampled_from(NAMES), st.just(0)),
)


def commands_of(prefix: str, steps: list[tuple[str, str, int]]) -> list[dict[str, Any]]:
    """The steps on budgets whose names no other example has."""
    return [
        opening(prefix + name, amount) if command == "open_budget"
        else item(command, budget_id=prefix + name, **({"amount_minor": amount} if amount else {}))
        for command, name, amount in steps
    ]  # fmt: skip


def shape(prefix: str, result: dict[str, Any]) -> tuple[Any, ...]:
    """What a result says besides ids and positions."""
    error, answer = result["error"], result["answer"]
    told = answer and (answer["stream"].replace(prefix, ""), answer["version"], [event["type"] for event in answer["events"]])
    return result["status"], result["outcome"], error and (error["code"], error["message"].replace(prefix, "")), told


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@examples(steps=st.lists(STEP, min_size=1, max_size=14), on_failure=st.sampled_from(["continue", "stop"]))
async def test_many_commands_come_to_what_they_come_to_one_by_one(
    aureus: Aureus, steps: list[tuple[str, str, int]], on_failure: str
) -> None:
    together, alone = fresh(), fresh()
    told = await sent(aureus, commands_of(together, steps), on_failure=on_failure)
    one_by_one: list[tuple[Any, ...]] = []
    for command in commands_of(alone, steps):
        if on_failure == "stop" and one_by_one and one_by_one[-1][0] >= 400:
            one_by_one.append(one_by_one[-1] if one_by_one[-1][0] == 424 else (424, "not_run", None, None))
            continue
        (result,) = (await sent(aureus, [command]))["items"]
        one_by_one.append(shape(alone, result))
    found = [shape(together, result) for result in told["items"]]
    assert [one if one[0] != 424 else (424, "not_run", None, None) for one in found] == one_by_one


async def test_what_touches_one_entity_keeps_its_order_among_many(aureus: Aureus) -> None:
    names = [fresh() for _ in range(8)]
    steps = [opening(name, 0) for name in names]
    steps += [item("fund_budget", budget_id=name, amount_minor=amount) for amount in range(1, 9) for name in names]
    told = await sent(aureus, steps)
    assert told["refused"] == 0
    by_stream: dict[str, list[int]] = {}
    for one in told["items"]:
        by_stream.setdefault(one["answer"]["stream"], []).append(one["answer"]["version"])
    assert all(versions == list(range(1, 10)) for versions in by_stream.values())
