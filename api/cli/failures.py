"""What can go wrong with a command, and the exit code that tells a script which it was."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """The exit codes scripts may rely on."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    WAITS_FOR_APPROVAL = 3
    REFUSED = 4
    NOT_FOUND = 5
    NOT_ALLOWED = 6
    UNREACHABLE = 7
    NOT_VERIFIED = 8
    OUTDATED = 9


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done; for an import: everything was allowed or unchanged",
    ExitCode.UNEXPECTED: "something unexpected went wrong, here or in the server",
    ExitCode.USAGE: "the command line or a value in it is not valid",
    ExitCode.WAITS_FOR_APPROVAL: "the action waits for an approval; for an import: part of it was blocked or waits",
    ExitCode.REFUSED: "a rule or a policy refused the action, or the entity has changed since (`--if-match`)",
    ExitCode.NOT_FOUND: "there is no such thing",
    ExitCode.NOT_ALLOWED: "not logged in, or the roles held do not allow it",
    ExitCode.UNREACHABLE: "the server could not be reached, or is not ready",
    ExitCode.NOT_VERIFIED: "verification found a ledger that does not prove itself",
    ExitCode.OUTDATED: "this version of the program does not know an event of the ledger, and stops before it",
}


class Failure(Exception):
    """A command that did not succeed: the error as the server (or this program) states it, and the exit code."""

    def __init__(self, exit_code: ExitCode, code: str, message: str, request_id: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.code = code
        self.message = message
        self.details = details
        self.request_id = request_id
        self.body: dict[str, Any] = {"error": {"code": code, "message": message, "details": details, "request_id": request_id}}

    @classmethod
    def answered(cls, status: int, body: Any, request_id: str | None = None) -> Failure:
        """The failure that an error answer of the server stands for."""
        error = body.get("error") if isinstance(body, dict) else None
        if not isinstance(error, dict):
            message = f"The server answered {status} without saying why; is this an Aureus server?"
            return cls(exit_code_of(status, ""), f"http_{status}", message, request_id)
        code = str(error.get("code", f"http_{status}"))
        details = error.get("details")
        failure = cls(exit_code_of(status, code), code, str(error.get("message", "")), error.get("request_id") or request_id)
        failure.details = details if isinstance(details, dict) else {}
        failure.body = body
        return failure

    @classmethod
    def parked(cls, result: dict[str, Any]) -> Failure:
        """What is said of a command that waits for an approval."""
        approval_id, roles, quorum = result.get("approval_id", "?"), result.get("approver_roles", []), result.get("quorum", 1)
        reasons = [policy["reason"] for policy in result.get("policy_results", []) if policy.get("outcome") == "require_approval"]
        approve = f"Somebody else runs `aureus approvals approve {approval_id}`"
        otherwise = f"then run the same again with --approval {approval_id}, or `aureus approvals carry-out {approval_id}`"
        failure = cls(
            ExitCode.WAITS_FOR_APPROVAL,
            "requires_approval",
            f"This waits for approval {approval_id} by {quorum} of: {', '.join(roles)}.",
            action_id=result.get("action_id"),
            reasons=reasons,
            remedy=f"{approve}: it is carried out then" if result.get("carry_out") else f"{approve}; {otherwise}",
        )
        failure.body = result
        return failure


def exit_code_of(status: int, code: str) -> ExitCode:
    """The exit code for an answer's HTTP status and error code."""
    if status == 404 or code.endswith("_not_found"):
        return ExitCode.NOT_FOUND
    if status == 403 and code.startswith("policy"):
        return ExitCode.REFUSED
    if status in (401, 403):
        return ExitCode.NOT_ALLOWED
    if status in (409, 412):
        return ExitCode.REFUSED
    if status in (502, 503, 504):
        return ExitCode.UNREACHABLE
    if 400 <= status < 500 and status != 429:
        return ExitCode.USAGE
    return ExitCode.UNEXPECTED
