"""How an operator looks at a running Aureus: who may read its metrics, how it logs, and where its spans go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from infra.secret_files import secret_in
from infra.settings_error import SettingsError

Exporter = Literal["otlp", "console"]
LOG_FORMATS: Final = ("text", "json")
METRICS_TOKEN_LENGTH_MIN: Final = 16


@dataclass(frozen=True)
class Observing:
    """What of it was chosen."""

    metrics_token: str | None = field(default=None, repr=False)
    """What a scraper shows at /metrics; None answers this machine alone."""
    worker_metrics_port: int | None = None
    """Where a worker, which has no API, serves its metrics on 127.0.0.1; None serves none."""
    log_format: str = "text"
    access_log: bool = False
    traces: Exporter | None = None


def observing(given: Callable[[str], str | None], environment: Mapping[str, str]) -> Observing:
    """From AUREUS_METRICS_*, AUREUS_LOG_FORMAT, AUREUS_ACCESS_LOG and OpenTelemetry's own variables; raises SettingsError."""
    return Observing(
        metrics_token=_token(given("AUREUS_METRICS_TOKEN"), given("AUREUS_METRICS_TOKEN_FILE")),
        worker_metrics_port=_port(given("AUREUS_WORKER_METRICS_PORT")),
        log_format=_one_of("AUREUS_LOG_FORMAT", given("AUREUS_LOG_FORMAT") or Observing.log_format, LOG_FORMATS),
        access_log=_one_of("AUREUS_ACCESS_LOG", given("AUREUS_ACCESS_LOG") or "off", ("on", "off")) == "on",
        traces=_exporter(environment),
    )


def _exporter(environment: Mapping[str, str]) -> Exporter | None:
    """Where OpenTelemetry's own variables want spans to go; None when they name no place."""
    wanted = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or wanted == "none":
        return None
    if wanted == "console":
        return "console"
    named = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return "otlp" if named else None


def _one_of(name: str, text: str, known: tuple[str, ...]) -> str:
    if text.lower() not in known:
        raise SettingsError(name, f"{text[:20]!r} is not {' or '.join(known)}.", f"Write {' or '.join(known)}, or unset it.")
    return text.lower()


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65_536):
        raise SettingsError("AUREUS_WORKER_METRICS_PORT", f"{text[:20]!r} is not a port.", "Give a number from 1 to 65535, or unset it.")
    return int(text)


def _token(token: str | None, file: str | None) -> str | None:
    name = "AUREUS_METRICS_TOKEN" if token is not None else "AUREUS_METRICS_TOKEN_FILE"
    if token is None and file is not None:
        token = secret_in(name, Path(file), "token")
    if token is not None and not (len(token) >= METRICS_TOKEN_LENGTH_MIN and token.isascii() and token.isprintable() and " " not in token):
        rule = f"it has to be {METRICS_TOKEN_LENGTH_MIN} or more ASCII characters without a space."
        raise SettingsError(name, rule, "Make one: openssl rand -hex 32")
    return token
