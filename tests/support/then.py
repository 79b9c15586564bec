"""An Aureus whose policies the tests of the past can change in one step, and whose agents, people and datasets have something to ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from api.app import create_app
from api.services import open_services
from commands.policies import DECIDER, ActivatePolicies, ProposePolicy, RecordImpact, RecordTest, RollBackPolicies, left_by
from domain.kernel import Asker, Command
from domain.policies import Change, PolicyRef, PolicySet, Rule, Scope
from domain.values import ActorKind, Role
from infra.adoption import ensure_policies
from infra.policy import DEFAULT_BUNDLE
from infra.policy_sets import STREAM
from infra.settings import Settings
from tests.support.kernel import ADM, ask
from tests.support.running import Aureus

BOT: Final = Asker("agt-bot", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner="usr-ana")
HELPER: Final = Asker("agt-helper", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner="usr-ana")
AUD: Final = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))
_JUDGING: Final = ("verdict", "question", "baseline_allow", "agent_tools", "pii_access", "cross_jurisdiction", "rate_limits")
_BRIEF: Final = """# Data under the law of the US is used within a second of the approval.
package aureus

import rego.v1

brief(question) := [finding |
	question.action == "agents.request_action"
	question.facts.jurisdiction == "US"
	finding := {
		"policy": "brief",
		"outcome": "require_approval",
		"reason": "It falls under the law of the US.",
		"approver_roles": ["approver"],
		"quorum": 1,
		"approval_ttl_seconds": 1,
	}
]
"""


@dataclass(frozen=True)
class Then(Aureus):
    """A running Aureus, and how its policies change."""

    async def done(self, command: Command, by: Asker = ADM, **circumstances: Any) -> int:
        """Has a command carried out that nothing stands against; the position it came to."""
        outcome = await self.services.path.handle(ask(command, by, **circumstances))
        assert outcome.outcome == "allowed", (outcome.code, outcome.message)
        return outcome.position

    async def policies(self) -> PolicySet:
        history: list[Any] = list(await self.services.ledger.read_stream("acme", STREAM))
        return DECIDER.replay(recorded.event for recorded in history)

    async def put_in_force(self, policy_id: str, scope: Scope, *, rule: Rule | None = None, rego: str | None = None) -> int:
        """Proposes a policy and activates it, as if it were tested and analysed; the version to roll back to afterwards."""
        version = len(await self.services.ledger.read_stream("acme", STREAM))
        await self.done(ProposePolicy(policy_id=policy_id, type="access", title=policy_id, scope=scope, rule=rule, rego=rego))
        policies = await self.policies()
        change = Change(activate=(PolicyRef(policy_id=policy_id, version=len(policies.versions[policy_id])),))
        await self._examined(policies, change)
        await self.done(ActivatePolicies(activate=change.activate))
        return version

    async def roll_policies_back(self, policy_id: str, to_version: int) -> None:
        policies = await self.policies()
        await self._examined(policies, Change(retire=(policy_id,)), tested=False)
        await self.done(RollBackPolicies(to_version=to_version))

    async def _examined(self, policies: PolicySet, change: Change, *, tested: bool = True) -> None:
        after, sha = left_by(policies, change).digest, "a" * 64
        if tested:
            await self.done(RecordTest(change=change, digest_after=after, passed=1, failed=0, report=sha))
        impact = RecordImpact(change=change, digest_before=policies.digest, digest_after=after, examined=0, report=sha, rollback_plan=sha)
        await self.done(impact)

    async def could(self, what: str, by: Asker = AUD, status: int = 200, **parameters: Any) -> Any:
        """`could/ACTOR` or `could-see/DATASET`, told to an auditor."""
        answer = await self.get(f"/v1/{what}", by, **parameters)
        assert answer.status_code == status, answer.text
        return answer.json().get("error") or answer.json()


@asynccontextmanager
async def then(dsn: str, home: Path) -> AsyncIterator[Then]:
    """An Aureus on this database, with the shipped policies on reading, adopted, and nothing in the way of changing them."""
    folder = home / "policies"
    folder.mkdir(parents=True)
    for policy_id in _JUDGING:
        (folder / f"{policy_id}.rego").write_text((DEFAULT_BUNDLE / f"{policy_id}.rego").read_text())
    (folder / "brief.rego").write_text(_BRIEF)
    lists = orjson.loads((DEFAULT_BUNDLE / "data.json").read_bytes())
    (folder / "data.json").write_bytes(orjson.dumps(lists))
    async with open_services(Settings(home=home, database_url=dsn, tenant="acme", policies=folder, demo=False)) as services:
        await ensure_policies(services)
        app = create_app(services=services)
        app.state.services = services
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://aureus.test") as http:
            yield Then(services, http)
