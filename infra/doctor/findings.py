"""What a check comes to: well, to be looked at, or wrong; and then what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Verdict = Literal["ok", "warn", "fail"]
WORST_LAST: Final[tuple[Verdict, ...]] = ("ok", "warn", "fail")


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` is stable, `found` what was seen, `remedy` what to do unless it is well. None of them holds a secret."""

    check: str
    verdict: Verdict
    found: str
    remedy: str | None = None


def well(check: str, found: str) -> Finding:
    return Finding(check, "ok", found)


def judged(check: str, found: str, remedy: str, *, warn: bool = False, fail: bool = False) -> Finding:
    """The finding as bad as it is said to be."""
    verdict: Verdict = "fail" if fail else "warn" if warn else "ok"
    return Finding(check, verdict, found, remedy if verdict != "ok" else None)


def worst(findings: Iterable[Finding]) -> Verdict:
    return max((finding.verdict for finding in findings), key=WORST_LAST.index, default="ok")


def named(names: Iterable[str], most: int = 5) -> str:
    """The first few of them, and how many there are besides."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
