"""A trace collector: takes spans as OTLP over HTTP, decodes them, and keeps them for a test to look at."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

WAIT_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Span:
    """A span as it was sent; ids in hex, `parent` empty for the first of a trace."""

    name: str
    service: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]
    attributes: dict[str, Any]
    start_ns: int
    end_ns: int
    failed: bool


@dataclass
class Collector:
    """What was sent to a URL."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: bytes) -> None:
        asked = ExportTraceServiceRequest.FromString(body)
        with self.arrived:
            for resource in asked.resource_spans:
                service = attributes(resource.resource.attributes)["service.name"]
                self.spans += [spelled(one, service) for scope in resource.scope_spans for one in scope.spans]
            self.arrived.notify_all()

    def of_trace(self, trace: str, *names: str) -> dict[str, Span]:
        """The spans of a trace by name, once there is one of each of these names at least."""

        def found() -> dict[str, Span]:
            return {span.name: span for span in self.spans if span.trace == trace}

        with self.arrived:
            assert self.arrived.wait_for(lambda: set(names) <= set(found()), WAIT_SECONDS), (names, sorted(found()))
            return found()


def spelled(one: Any, service: str) -> Span:
    links = tuple(link.trace_id.hex() for link in one.links)
    ids = (one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex())
    failed = one.status.code == one.status.STATUS_CODE_ERROR
    return Span(one.name, service, *ids, links, attributes(one.attributes), one.start_time_unix_nano, one.end_time_unix_nano, failed)


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens on this machine."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.take(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
