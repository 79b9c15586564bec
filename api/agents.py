"""Agents over REST: register, delegate, stop and resume them; and an agent's request to use a tool, judged on the data it is for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api.asking import CommandAnswer, ask_of, require_stored, told
from api.dataset_facts import gather
from api.routing import ContextRouter, Present
from api.services import now
from commands.agents import DATASETS_MAX, Delegate, RegisterAgent, RequestAction, ResumeAgent, RevokeDelegation, StopAgent, agent_stream
from domain.agents import AgentId, RequestId, SomeText
from domain.values import EVERYBODY, Identifier
from projections.agents import agents, tool_actions

router = ContextRouter(tags=["agents"])
router.command("/v1/agents", RegisterAgent, status=201)
router.command("/v1/agents/{agent_id}/delegation", Delegate)
router.command("/v1/agents/{agent_id}/delegation/revoke", RevokeDelegation)
router.command("/v1/agents/{agent_id}/stop", StopAgent)
router.command("/v1/agents/{agent_id}/resume", ResumeAgent)
router.views("/v1/agents", agents, row_id="agent_id", roles=EVERYBODY, stream=agent_stream)
router.views("/v1/tool-actions", tool_actions, row_id="tool_action_id", roles=EVERYBODY)


class ToolCall(BaseModel):
    """What an agent wants to do: `request_id` is its own name for this call."""

    model_config = ConfigDict(extra="forbid")

    request_id: RequestId
    tool: Identifier
    datasets: Annotated[tuple[Identifier, ...], Field(max_length=DATASETS_MAX)] = ()
    purpose: SomeText


@router.query(
    "/v1/agents/{agent_id}/actions",
    roles=RequestAction.roles,
    methods=("POST",),
    status_code=201,
    response_model=CommandAnswer,
    responses={202: {"model": CommandAnswer, "description": "Parked: it waits for an approval."}},
)
async def request_action(agent_id: AgentId, call: ToolCall, reader: Present, request: Request) -> Response:
    """Ask to use a tool on datasets. It is judged on what these datasets are at this moment, not on what the caller says of them."""
    services = reader.services
    # As fresh as what this server wrote itself; what others wrote since then, the decision finds out.
    await services.wait_for(services.ledger.head.size)
    gathered = await gather(reader, call.datasets)
    facts = tuple(gathered.of(dataset_id, now()) for dataset_id in call.datasets)
    command = RequestAction(
        agent_id=agent_id, request_id=call.request_id, tool=call.tool, datasets=call.datasets, purpose=call.purpose, facts=facts
    )
    ask = ask_of(command, reader.asker, request.scope["headers"])
    if ask.artifacts:
        await require_stored(services, ask)
    return told(await services.path.handle(ask), 201, request.scope["state"]["request_id"])
