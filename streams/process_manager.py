"""The process manager: carries the open sagas on, step after step, from wherever the ledger says that each of them is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from commands.approvals import APPROVALS
from commands.path import CommandPath
from commands.reactions import SAGAS, CompensateSaga, EndSaga, FailStep, FinishStep, ParkStep, SagaCommand, TimeOutSaga
from domain.approvals import Approval
from domain.kernel import Command, JsonObject, Refused
from domain.reactions import OPEN_SAGAS, Answer, Failure
from domain.reactions import Saga as Progress
from infra.ledger import Ledger
from infra.read_queries import Reads
from projections.reactions import sagas as saga_rows
from streams.asking import AWAY, Reply, ask_of, ask_once, asker_for, digest_of, replayed
from streams.dead_letters import DeadLetters, NotDone
from streams.reactions import ReadRows, asker
from streams.sagas import Saga, Step, Story, Wanted

APPROVAL_POLL_SECONDS: Final = 1.0
READ_POLL_SECONDS: Final = 0.1
STUCK_SECONDS: Final = 5.0
"""After a failure that is no step's own: another process went on with it, this version does not know it, or a mistake of ours."""
NO_COMMAND: Final = "0" * 64
"""Stands for the digest of a command where a step failed before it came to ask for one."""
_log = logging.getLogger("aureus.reactions")


class MovedOn(Exception):
    """Somebody else carried the saga on meanwhile: nothing that was thought of it holds any more."""


@dataclass(slots=True)
class Run:
    """A saga under way: what it is, how far it came, and the version of its stream, which moves with what is put on record here."""

    tenant: str
    saga: Saga
    progress: Progress
    version: int
    began_at: datetime
    story: Story

    @property
    def id(self) -> str:
        assert self.progress.started is not None
        return self.progress.started.saga_id


@dataclass(slots=True)
class Tally:
    """What came of a step's commands so far: done, failed for good, or to be looked at again in so many seconds."""

    answers: list[Answer]
    failures: list[tuple[Wanted | None, Failure, int]]
    pauses: list[float]


class ProcessManager:
    """Carries on the sagas of one process; two that do it at once ask for the same, which is done once."""

    def __init__(self, ledger: Ledger, path: CommandPath, rows: ReadRows, letters: DeadLetters, sagas: Iterable[Saga]) -> None:
        self._ledger, self._path, self._rows, self._letters = ledger, path, rows, letters
        self._sagas = {saga.name: saga for saga in sagas}
        self._due: dict[tuple[str, str], float] = {}

    async def resume(self, reads: Reads) -> None:
        """Takes up all that are open. The read models tell which, once they have seen what was begun just before a kill."""
        begun = (await self._ledger.refresh()).size
        while await reads.position() < begun:  # noqa: ASYNC110 - another process may be moving them, and wakes nobody here
            await asyncio.sleep(READ_POLL_SECONDS)
        for tenant in await self._rows.tenants(saga_rows):
            for row in await self._rows.rows(saga_rows, tenant, {"status": list(OPEN_SAGAS)}):
                self.take(tenant, row["saga_id"])

    def take(self, tenant: str, saga_id: str) -> None:
        """Takes up one that has begun."""
        self._due[tenant, saga_id] = 0.0

    async def drive(self) -> None:
        """Carries on whatever is due, all of it side by side; raises only when the ledger is away."""
        now = asyncio.get_running_loop().time()
        due = [key for key, at in self._due.items() if at <= now]
        ended = await asyncio.gather(*(self._carry_on(*key) for key in due), return_exceptions=True)
        for failure in ended:
            if isinstance(failure, BaseException):
                raise failure

    async def _carry_on(self, tenant: str, saga_id: str) -> None:
        try:
            pause = await self.advance(tenant, saga_id)
        except AWAY:
            raise
        except Exception:  # noqa: BLE001 - said with its traceback; the other sagas go on
            _log.exception("saga %s cannot go on", saga_id)
            pause = STUCK_SECONDS
        if pause is None:
            self._due.pop((tenant, saga_id), None)
        else:
            self._due[tenant, saga_id] = asyncio.get_running_loop().time() + pause

    async def advance(self, tenant: str, saga_id: str) -> float | None:
        """Carries a saga on as far as that goes now: the seconds until it is to be looked at again, or None when it has ended."""
        version = -1
        while True:
            run = await self._run(tenant, saga_id)
            if run is None or run.version == version:
                return STUCK_SECONDS
            if not run.progress.is_open:
                return None
            version = run.version
            try:
                pause = await self._next(run)
            except MovedOn:
                continue
            if pause > 0:
                return pause

    async def wanted(self, tenant: str, saga_id: str) -> list[tuple[str, Wanted]]:
        """Every command that its steps ask for and that undo them, each with what tells its letter from others."""
        run = await self._run(tenant, saga_id)
        if run is None:
            return []
        found = []
        for step in run.saga.steps:
            for asking, undo in ((step.ask, False), (step.undo, True)):
                found += [(letter_key(run.id, step, undo=undo), wanted) for wanted in await asking(run.story)] if asking else []
        return found

    async def _run(self, tenant: str, saga_id: str) -> Run | None:
        progress, history = await replayed(self._ledger, SAGAS, tenant, f"{SAGAS.category}:{saga_id}")
        started = progress.started
        if started is None or started.saga not in self._sagas:
            _log.warning("this version of Aureus knows nothing of saga %s (%s)", saga_id, started and started.saga)
            return None
        (cause,) = await self._ledger.read(started.cause.position - 1, 1)
        story = Story(cause, self._rows.at(cause.position), progress, self._command)
        return Run(tenant, self._sagas[started.saga], progress, len(history), history[0].at, story)

    def _command(self, name: str, inputs: JsonObject) -> Command:
        known = self._path.commands.get(name)
        if known is None:
            raise Refused("command_unknown", f"This version of Aureus knows no command {name}.")
        return known.model_validate(inputs)

    async def _next(self, run: Run) -> float:
        """One step of one saga: 0 when it moved on, else how long to wait."""
        progress = run.progress
        assert progress.started is not None
        if progress.is_compensating:
            return await self._undo(run)
        step = next((step for step in run.saga.steps if not progress.finished(step.name, undo=False)), None)
        if step is not None and datetime.now(UTC) < progress.started.deadline_at:
            return await self._do(run, step)
        await self._put(run, TimeOutSaga(saga_id=run.id) if step else EndSaga(saga_id=run.id))
        return 0

    async def _do(self, run: Run, step: Step) -> float:
        tally = await self._ask_all(run, step, undo=False)
        broken = [failure for wanted, failure, _ in tally.failures if wanted is None or not step.each_alone]
        if broken:
            code, message = broken[0].code, broken[0].message
            await self._put(run, CompensateSaga(saga_id=run.id, step=step.name, code=code, message=message))
            return 0
        if tally.pauses:
            return self._patience(run, min(tally.pauses))
        await self._finish(run, step, tally, undo=False)
        return 0

    async def _undo(self, run: Run) -> float:
        """What was begun, the latest first: the steps that were done, and the one that was under way."""
        progress = run.progress
        begun = run.saga.steps[: len(progress.done) + 1]
        step = next((each for each in reversed(begun) if each.undo and not progress.finished(each.name, undo=True)), None)
        if step is not None:
            tally = await self._ask_all(run, step, undo=True)
            if tally.pauses:
                return min(tally.pauses)
            await self._finish(run, step, tally, undo=True)
            return 0
        await self._leave_letter(run)
        await self._put(run, EndSaga(saga_id=run.id))
        return 0

    async def _finish(self, run: Run, step: Step, tally: Tally, *, undo: bool) -> None:
        """What could not be done is left as a dead letter each, first: killed in between, it is found again."""
        for wanted, failure, attempts in tally.failures:
            if wanted is not None:
                not_done = NotDone(
                    run.saga.name,
                    letter_key(run.id, step, undo=undo),
                    failure,
                    attempts,
                    run.began_at,
                    run.story.cause,
                    wanted.command,
                    wanted.on_behalf_of,
                    run.id,
                )
                await self._letters.record(run.tenant, not_done, run.story.cause.correlation)
        failures = tuple(failure for _, failure, _ in tally.failures)
        await self._put(run, FinishStep(saga_id=run.id, step=step.name, undo=undo, answers=tuple(tally.answers), failures=failures))

    async def _leave_letter(self, run: Run) -> None:
        """The saga as a whole: replayed, it begins once more."""
        given_up = run.progress.compensating
        assert given_up is not None
        attempts = max((failed.attempt for failed in run.progress.failed.values() if failed.step == given_up.step), default=1)
        failure = Failure(code=given_up.code, message=given_up.message)
        not_done = NotDone(run.saga.name, run.id, failure, attempts, run.began_at, run.story.cause, saga_id=run.id)
        await self._letters.record(run.tenant, not_done, run.story.cause.correlation)

    async def _ask_all(self, run: Run, step: Step, *, undo: bool) -> Tally:
        """Every command of a step that is due. What was carried out before a kill is answered from memory."""
        tally = Tally([], [], [])
        asking = step.undo if undo else step.ask
        assert asking is not None
        if self._put_off(run, step, NO_COMMAND, None, tally, undo=undo):
            return tally
        try:
            every = await asking(run.story)
        except AWAY:
            raise
        except Refused as refused:
            failure = Failure(code=refused.code, message=str(refused)[:4_000])
            await self._failed(run, step, NO_COMMAND, failure, None, tally, undo=undo, again=refused.code in step.worth_waiting)
            return tally
        except Exception as error:  # noqa: BLE001 - said with its traceback, counted, and tried again
            _log.exception("step %s of saga %s failed", step.name, run.id)
            failure = Failure(code="step_failed", message=repr(error)[:4_000])
            await self._failed(run, step, NO_COMMAND, failure, None, tally, undo=undo, again=True)
            return tally
        for wanted in every:
            if tally.failures and not (undo or step.each_alone):
                break  # it is given up: whatever else were done of it would only have to be undone
            digest = digest_of(wanted.command)
            if not self._put_off(run, step, digest, wanted, tally, undo=undo):
                await self._ask(run, step, digest, wanted, tally, undo=undo)
        return tally

    def _put_off(self, run: Run, step: Step, digest: str, wanted: Wanted | None, tally: Tally, *, undo: bool) -> bool:
        """Whether it is not to be asked for now: it failed for good, or is not due again yet."""
        last = run.progress.last_failure(step.name, digest, undo=undo)
        if last is None:
            return False
        if last.retry_at is None:
            tally.failures.append((wanted, last.failure, last.attempt))
            return True
        left = (last.retry_at - datetime.now(UTC)).total_seconds()
        if left > 0:
            tally.pauses.append(left)
        return left > 0

    async def _ask(self, run: Run, step: Step, digest: str, wanted: Wanted, tally: Tally, *, undo: bool) -> None:
        reply = await self._reply(run, step, digest, wanted, undo=undo)
        if reply.ended == "done":
            tally.answers.append(reply.answer())
        elif reply.ended == "parked":
            tally.pauses.append(APPROVAL_POLL_SECONDS)
            if run.progress.approval(step.name, digest, undo=undo) is None:
                assert reply.action_id is not None
                parked = ParkStep(saga_id=run.id, step=step.name, undo=undo, command_digest=digest, approval_id=reply.action_id)
                await self._put(run, parked)
        else:
            again = reply.ended == "not_now" or reply.code in step.worth_waiting
            await self._failed(run, step, digest, reply.failure(), wanted, tally, undo=undo, again=again)

    async def _reply(self, run: Run, step: Step, digest: str, wanted: Wanted, *, undo: bool) -> Reply:
        """One attempt. Another one is made under another key, and only once this one is on record as failed."""
        last = run.progress.last_failure(step.name, digest, undo=undo)
        attempt = last.attempt + 1 if last else 1
        key = f"{run.id}:{'undo' if undo else 'do'}:{step.name}:{digest[:32]}:{attempt}"
        approval_id = wanted.approval_id
        if parked := run.progress.approval(step.name, digest, undo=undo):
            standing = await self._standing(run.tenant, parked)
            if standing == "pending":
                return Reply("parked", wanted.command, action_id=parked)
            if standing not in ("approved", "used"):
                return Reply("refused", wanted.command, code=f"approval_{standing}", message=f"Approval {parked} is {standing}.")
            key, approval_id = f"{key}:approved", parked
        try:
            by = await asker_for(self._ledger, self._rows, run.tenant, wanted.on_behalf_of)
        except Refused as refused:
            return Reply("refused", wanted.command, code=refused.code, message=str(refused))
        reason = f"Saga {run.saga.name} ({run.id}), {'to undo' if undo else 'step'} {step.name}."
        # Not written if the saga has moved on by then: somebody else may be undoing already what is being done here.
        stream = f"{SAGAS.category}:{run.id}"
        circumstances = {"approval_id": approval_id, "bound_to": ((stream, run.version),)}
        ask = ask_of(wanted.command, by, key, reason, run.story.cause.correlation, **circumstances)
        reply = await ask_once(self._path, ask, step.fine)
        if reply.code == "conflict" and reply.stream == stream:
            raise MovedOn
        return reply

    async def _standing(self, tenant: str, approval_id: str) -> str:
        approval: Approval = (await replayed(self._ledger, APPROVALS, tenant, f"{APPROVALS.category}:{approval_id}"))[0]
        return approval.status

    async def _failed(
        self, run: Run, step: Step, digest: str, failure: Failure, wanted: Wanted | None, tally: Tally, *, undo: bool, again: bool
    ) -> None:
        last = run.progress.last_failure(step.name, digest, undo=undo)
        attempt = last.attempt + 1 if last else 1
        pause = run.saga.retries.pause_seconds(attempt) if again and attempt < run.saga.retries.attempts else None
        retry_at = datetime.now(UTC) + timedelta(seconds=pause) if pause is not None else None
        await self._put(
            run,
            FailStep(saga_id=run.id, step=step.name, undo=undo, command_digest=digest, attempt=attempt, failure=failure, retry_at=retry_at),
        )
        if pause is None:
            tally.failures.append((wanted, failure, attempt))
        else:
            tally.pauses.append(pause)

    def _patience(self, run: Run, pause: float) -> float:
        """Not beyond its deadline."""
        assert run.progress.started is not None
        left = (run.progress.started.deadline_at - datetime.now(UTC)).total_seconds()
        return max(min(pause, left), 0.001)

    async def _put(self, run: Run, command: SagaCommand) -> None:
        """Puts on record how far it came."""
        ask = ask_of(command, asker(run.tenant), None, f"Saga {run.saga.name}.", run.story.cause.correlation, if_match=run.version)
        reply = await ask_once(self._path, ask)
        if reply.code == "conflict":
            raise MovedOn
        run.version = reply.version
        if reply.ended != "done":
            raise RuntimeError(f"saga {run.id} cannot put {command.command_name} on record: {reply.code} {reply.message}")


def letter_key(saga_id: str, step: Step, *, undo: bool) -> str:
    """What tells the letter of one step's command from that of another."""
    return f"{saga_id} {'undo' if undo else 'do'} {step.name}"
