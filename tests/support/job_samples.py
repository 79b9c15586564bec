"""Samples of the events of jobs and of the separation of duties."""

from __future__ import annotations

from collections.abc import Iterator

from domain import duties, jobs
from domain.kernel import Event
from domain.values import Role

JOB = "01990000-0000-7000-8000-000000000007"
SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def job_samples() -> Iterator[Event]:
    yield jobs.JobStarted(job_id=JOB, asked_by="usr-ana", items=4_711, on_failure="stop", input_sha256=SHA, scopes=("catalog", "read"))
    yield jobs.JobProgressed(job_id=JOB, done=256, allowed=250, parked=4, refused=2, results_sha256=SHA)
    yield jobs.JobCancelled(job_id=JOB, comment="Das falsche Quartal")
    yield jobs.JobFinished(job_id=JOB, ending="failed", code="asker_gone", message="usr-ana does not act any more.")


def duty_samples() -> Iterator[Event]:
    rule = duties.DutyRule(
        rule_id="four-eyes",
        reason="Wer anlegt, gibt nicht frei",
        roles_apart=(Role.ADMIN, Role.AUDITOR),
        commands_apart=("pipelines.register_pipeline", "pipelines.deploy_version"),
    )
    yield duties.RuleDefined(rule=rule)
    yield duties.RuleRemoved(rule_id="four-eyes")
