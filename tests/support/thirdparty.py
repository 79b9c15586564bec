"""The program in Go that checks a log with other people's libraries, as scripts/thirdparty.sh builds it, and what it is given to check."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

BINARY: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aureus" / "bin" / "thirdparty"


def third_party(place: Path, log_key: str, *options: str | Path) -> dict[str, Any]:
    """Its result on a folder or a zip; what it says when it was asked wrongly fails the test."""
    if not BINARY.is_file():
        pytest.fail(f"{BINARY} is missing; build it: scripts/thirdparty.sh", pytrace=False)
    ran = subprocess.run([BINARY, "-log", log_key, *options, place], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode in (0, 1), ran.stderr
    result: dict[str, Any] = json.loads(ran.stdout)
    assert result["ok"] is (ran.returncode == 0)
    return result


def checks(result: dict[str, Any]) -> set[str]:
    """The names of the checks that did not hold."""
    return {problem["check"] for problem in result["problems"]}
