"""What a verification came to: for programs as JSON, for people as sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

MAX_PROBLEMS: Final = 100
FIELD_STATES: Final = ("open", "withheld", "erased", "missing", "decoy", "untold")
"""Shown; kept back; gone, with a certificate; gone without; nobody's; and of before decoys were kept: a decoy, or gone."""
NO_WITNESS: Final = (
    "No witness that you trust cosigned this checkpoint: whoever owns the database could have cut off the end of the ledger back to an "
    "older checkpoint, and whoever also holds the log key could show you another ledger, without this verification noticing. "
    "Name the witnesses you trust (--keys), or keep checkpoints yourself and verify against them (--checkpoint)."
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not hold: at which position, which check, what was found, and where that lies."""

    position: int | None
    check: str
    found: str
    where: str | None = None

    def __str__(self) -> str:
        place = [f"position {self.position}"] if self.position is not None else []
        return f"{', '.join([*place, *([self.where] if self.where else [])]) or 'as a whole'}: {self.check}: {self.found}"


@dataclass(frozen=True, slots=True)
class Cosigned:
    """That a witness saw this checkpoint, and when (RFC 3339)."""

    witness: str
    at: str

    @classmethod
    def of(cls, witness: str, posix_seconds: int) -> Cosigned:
        try:
            moment = datetime.fromtimestamp(posix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        except (ValueError, OverflowError, OSError):
            moment = f"second {posix_seconds}"
        return cls(witness, moment)


@dataclass(slots=True)
class Result:
    """Counts, what was found, and what nobody could find here."""

    what: Literal["ledger", "pack", "tiles"] = "ledger"
    mode: Literal["full", "tree"] = "full"
    ledger: str = ""
    tenant: str | None = None
    events: int = 0
    signatures: int = 0
    request_signatures: int = 0
    keys: int = 0
    streams: int = 0
    range: dict[str, Any] | None = None
    """Of a pack: from which position to which, and for what it was asked."""
    complete: bool | None = None
    """Whether nothing is missing in the range; None when that could not be looked at."""
    size: int = 0
    root: str = ""
    """Of the checkpoint: how many events it signs, and their root hash in base64."""
    cosigned: list[Cosigned] = field(default_factory=list)
    fields: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FIELD_STATES, 0))
    """Personal fields by what became of them."""
    disputed: list[int] = field(default_factory=list)
    root_key: str = ""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    untold: int = 0
    """Problems beyond the first hundred."""

    @property
    def ok(self) -> bool:
        return not self.problems

    def problem(self, check: str, found: str, position: int | None = None, where: str | None = None) -> None:
        self.add(Problem(position, check, found, where))

    def add(self, problem: Problem) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        else:
            self.untold += 1

    def as_json(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        members = asdict(self)
        checkpoint = {"size": members.pop("size"), "root": members.pop("root")}
        absent = [name for name in ("tenant", "range") if members[name] is None]
        told = {name: value for name, value in members.items() if name not in absent}
        return {"ok": self.ok, **told, "checkpoint": checkpoint}

    def sentences(self) -> list[str]:
        """What there is to say to people, the verdict first."""
        return [*(self._verdict() if self.ok else self._failure()), *(f"Note: {warning}" for warning in self.warnings)]

    def _verdict(self) -> list[str]:
        held = f"{_count(self.signatures, 'signature')}, " if self.mode == "full" else ""
        if self.what == "pack":
            proven = f"{held}all valid under keys valid at their positions, all in the tree" if held else "all in the tree"
            proven += f" of the checkpoint of size {self.size}, nothing missing in the range"
        else:
            proven = f"{held}{_count(self.streams, 'stream')} without a gap, every chain link, and the tree against"
            proven += f" the checkpoint of size {self.size}"
        lines = [f"Verified {_count(self.events, 'event')} of {self.ledger}: {proven}."]
        if self.range is not None:
            lines.append(f"  range      {self._period()}")
        lines.append(f"  root hash  {self.root}")
        lines.append(f"  root key   {self.root_key}")
        lines.append(f"  cosigned   {', '.join(f'by {one.witness} at {one.at}' for one in self.cosigned) or 'by no witness'}")
        if self.request_signatures:
            lines.append(f"  requests   {self.request_signatures} signed by whoever asked, with a key of their own")
        if self.what == "pack" and self.mode == "full":
            lines.append("  fields     " + ", ".join(f"{name} {self.fields[name]}" for name in _told_states(self.fields)))
        if self.disputed:
            lines.append(f"  disputed   {_count(len(self.disputed), 'event')} by a key in other hands by then: {_some(self.disputed)}")
        if self.mode == "tree":
            lines.append("Only the tree and the chains were checked: no event's signature, and not how its body is written.")
        return lines

    def _period(self) -> str:
        said = self.range or {}
        period = [f"{word} {said[word]}" for word in ("from", "to") if said[word] is not None]
        what = "everything" if said["scope"] == "everything" else _selection(said["selection"])
        return f"positions {said['after'] + 1} to {said['until']}: {', '.join([what, *period])}"

    def _failure(self) -> list[str]:
        count, ledger = len(self.problems) + self.untold, self.ledger or "a ledger without a name"
        return [
            f"NOT verified: {_count(count, 'check')} failed; {_count(self.events, 'event')} of {ledger} read.",
            *(f"  {problem}" for problem in self.problems),
            *([f"  and {self.untold} more"] if self.untold else []),
        ]


def _told_states(fields: dict[str, int]) -> list[str]:
    """All but what cannot be told, which is said only when there is some."""
    return [state for state in FIELD_STATES if state != "untold" or fields[state]]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _some(positions: Sequence[int], most: int = 10) -> str:
    shown = ", ".join(map(str, positions[:most]))
    return f"positions {shown}" + (f" and {len(positions) - most} more" if len(positions) > most else "")


def _selection(selection: dict[str, Any]) -> str:
    chosen = [f"{name} {', '.join(values)}" for name, values in selection.items() if isinstance(values, list) and values]
    return "; ".join(chosen) or "all events"
