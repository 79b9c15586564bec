"""The kill switch and its proof as people live them: one command stops an agent, another shows what came of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.test_story import Aureus


@pytest.fixture
def aureus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aureus]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    started = Aureus(tmp_path_factory.mktemp("audit") / "home", port)
    started.start()
    yield started
    started.stop()


@pytest.mark.slow
def test_one_command_stops_an_agent_and_another_proves_it(aureus: Aureus) -> None:
    agent, ana = (aureus.json("--as", login, "whoami")["actor"] for login in ("agent", "analyst"))
    for agent_id in (agent, "agt-helper"):
        aureus("agents", "register", agent_id, "--label", "A", "--purpose", "Cleans up", "--model", "m-1", "--owner", ana)
    aureus("--as", "agent", "agents", "delegate", "agt-helper", "--by", agent)
    aureus("budgets", "open", "lake", "--label", "Lake", "--limit", "100")
    aureus("--as", "agent", "budgets", "reserve", "lake", "60")
    assert "No tool call" not in aureus("--as", "agent", "agents", "request", agent, "r1", "--tool", "sql.query", "--purpose", "Report")
    aureus("--as", "auditor", "audit", "proof", agent, exit_code=5)

    stopped = aureus.json("--as", "auditor", "agents", "stop", agent, "--because", "It runs wild")
    assert "was stopped already" in aureus("--as", "approver", "agents", "stop", agent, "--because", "Once more")
    assert "agent_stopped" in aureus("--as", "agent", "budgets", "reserve", "lake", "1", exit_code=6)
    proof = aureus("--as", "auditor", "audit", "proof", agent)
    for line in (
        f"Agent {agent} was stopped with its delegates agt-helper at position {stopped['events'][0]['position']}",
        "Of their actions 3 came before.",
        "  allowed   0",
        "  blocked   1",
        "Still held: 0 reservations, 0 approvals.",
        "Proved.",
    ):
        assert line in proof
    assert aureus.json("budgets", "show", "lake")["reserved_minor"] == 0
    assert f"at position {stopped['events'][0]['position']}" in aureus("agents", "show", agent)
    assert f"It does not act: {agent} was stopped" in aureus("agents", "show", "agt-helper")
    assert [row["agent_id"] for row in aureus.json("agents", "list", "--status", "stopped")["items"]] == [agent]
    aureus("agents", "resume", agent, "--because", "Mended")
    assert "where it was resumed" in aureus("--as", "auditor", "audit", "proof", agent)

    timeline = aureus("--as", "auditor", "audit", "show", "--agent", agent)
    assert [word for word in timeline.split() if word in {"agents.stop_agent", "agents.resume_agent"}] == [
        "agents.stop_agent",
        "agents.stop_agent",
        "agents.resume_agent",
    ]
    assert "IDLE 0 us > INTENT_VALIDATION" in timeline
    assert f"agent_stopped: {agent} was stopped" in timeline
    later = aureus.json("audit", "show", "--agent", agent, "--since-position", str(stopped["position"]))["items"]
    assert [row["action"] for row in later] == ["agents.stop_agent", "budgets.reserve_funds", "agents.resume_agent"]
    assert len(aureus.json("audit", "show", "--actor", agent)["items"]) == 4
    assert [row["action"] for row in aureus.json("audit", "show", "--stream", "budget:lake")["items"]][:2] == [
        "budgets.open_budget",
        "budgets.reserve_funds",
    ]
    assert "agents.stop_agent" in aureus("audit", "show", stopped["action_id"])
    assert "0 findings from " in aureus("--as", "auditor", "audit", "anomalies")
    unjudged = aureus.json("audit", "anomalies", "--actor", agent)["unjudged"]
    assert [one["reason"] for one in unjudged] == ["not enough history: 0 days of its own, and too few of its role"]
