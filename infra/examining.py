"""The process in which policies are examined: it may read and ask for seconds, which a process that serves must not.

It is started for one job, reads it from stdin, and writes the result to stdout; both are JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import orjson
import psycopg
import uvloop

from domain.kernel import JsonObject
from domain.policies import PolicyProposed
from infra.decision_replay import Range, SetHistory, read_past, under_candidate, under_recorded
from infra.policy_bundle import BundleRefused, Problem
from infra.policy_conflicts import Space, conflicts, questions
from infra.policy_panel import ask_all
from infra.policy_sets import assemble, set_of

TIME_LIMIT_S: Final = 300.0
AT_ONCE: Final = 2
NICE: Final = 5
_COMMAND: Final = (sys.executable, "-P", "-m", "infra.examining")
_ROOT: Final = Path(__file__).resolve().parent.parent
_places = asyncio.Semaphore(AT_ONCE)

Task = Literal["recorded", "candidate", "conflicts"]


class ExaminationFailed(Exception):
    """The process ended without a result: it took too long, or its database went away."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to examine: the decisions of a range under the policies of their time (`policies` are those shipped) or under
    `policies`, or where `policies` disagree on what was asked in the range and what could be asked of `actions`."""

    task: Task
    dsn: str
    range: Range
    policies: Sequence[PolicyProposed]
    actions: Sequence[str] = ()

    def to_json(self) -> bytes:
        policies = [policy.dump() for policy in self.policies]
        return orjson.dumps({**asdict(self), "policies": policies})

    @classmethod
    def from_json(cls, sent: bytes) -> Job:
        fields: JsonObject = orjson.loads(sent)
        policies = [PolicyProposed.model_validate(policy) for policy in fields.pop("policies")]
        return cls(policies=policies, range=Range(**fields.pop("range")), **fields)


async def examine(job: Job) -> JsonObject:
    """The result, from a process of its own; raises BundleRefused when the policies do not start, or ExaminationFailed."""
    async with _places:
        process = await asyncio.create_subprocess_exec(*_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT)
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                answer, _ = await process.communicate(job.to_json())
        except TimeoutError:
            raise ExaminationFailed(f"It took longer than {TIME_LIMIT_S:.0f} seconds: choose a smaller range.") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
    if process.returncode != 0 or not answer:
        raise ExaminationFailed(f"Its process ended with {process.returncode}; the log says why.")
    result: JsonObject = orjson.loads(answer)
    if "refused" in result:
        raise BundleRefused([Problem(**problem) for problem in result["refused"]])
    return result


async def _done(job: Job) -> JsonObject:
    async with await psycopg.AsyncConnection.connect(job.dsn, autocommit=True) as connection:
        await connection.execute("SET default_transaction_read_only = on")
        history = await SetHistory.read(connection, job.range.tenant)
        past = await read_past(connection, job.range, history)
    if job.task == "recorded":
        return await under_recorded(past, history, set_of(job.policies))
    if job.task == "candidate":
        return await under_candidate(past, assemble(job.policies))
    return await _conflicts(job, list(past.questions))


async def _conflicts(job: Job, recorded: Sequence[bytes]) -> JsonObject:
    bundle = assemble(job.policies)
    asked = questions(Space.of(job.policies, job.actions, _parsed(recorded)), recorded)
    known = set(recorded)
    really = sum(question in known for question in asked)
    found = conflicts(asked, await ask_all(bundle, asked), really)
    return {"policy_version": bundle.version, "questions": len(asked), "recorded_questions": really, "conflicts": found}


def _parsed(recorded: Iterable[bytes]) -> Iterable[JsonObject]:
    return (orjson.loads(question) for question in recorded)


def main() -> None:
    """Does the job on stdin."""
    os.nice(NICE)
    result: Any
    try:
        result = uvloop.run(_done(Job.from_json(sys.stdin.buffer.read())))
    except BundleRefused as refused:
        result = {"refused": [asdict(problem) for problem in refused.problems]}
    sys.stdout.buffer.write(orjson.dumps(result))


if __name__ == "__main__":
    main()
