"""`command_http_32` and `read_http`: a governed command and a view over HTTP, beside FastAPI that does far less."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from bench.aureus import Server, found, serving
from bench.lab import CannotMeasure, Lab
from bench.load import put_load, render
from bench.measure import Figure, Goal, Sample
from bench.peers import web
from bench.peers.web import IN_FLIGHT, TREES, VIEW_BYTES, VIEWS

_DEFINITION_BYTES: Final = VIEW_BYTES - 300
"""What a term's view holds besides its definition takes about 300 bytes."""


@contextmanager
def aureus(lab: Lab) -> Iterator[Server]:
    home = lab.subfolder("home")
    with lab.database("ours") as dsn:
        lab.run(found(home, dsn))
        with serving(home, dsn) as server:
            yield server


@contextmanager
def commands(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """Reserving money, one minor unit at a time, on as many trees as there may be commands in flight, and as many again.

    Each request is authenticated by its token, validated, judged by the policies, decided on the budget's state,
    appended with its evidence, signed, and durable before it is answered.
    """
    with aureus(lab) as server:
        for tree in range(TREES):
            server.post("/v1/budgets", {"budget_id": f"bench-{tree}", "label": "Bench", "currency": "EUR", "limit_minor": 10**12})
        body = json.dumps({"amount_minor": 1}).encode()
        folder = lab.subfolder("load")

        def one_round() -> Sample:
            token = server.bearer()
            requests = [render("POST", f"/v1/budgets/bench-{tree}/reserve", token, body) for tree in range(TREES)]
            return put_load(server.port, requests, folder, connections=IN_FLIGHT, seconds=lab.round_seconds)

        yield one_round


@contextmanager
def reads(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """Views of 2 kB by id: glossary terms with long definitions, read with a token, in their tenant, with their ETag."""
    with aureus(lab) as server:
        _define_terms(server)
        folder = lab.subfolder("load")

        def one_round() -> Sample:
            token = server.bearer()
            requests = [render("GET", f"/v1/terms/term-{number}", token) for number in range(VIEWS)]
            return put_load(server.port, requests, folder, connections=IN_FLIGHT, seconds=lab.round_seconds)

        yield one_round


def _define_terms(server: Server) -> None:
    position = 0
    for number in range(VIEWS):
        term = {"term_id": f"term-{number}", "name": f"Term {number}", "definition": "x" * _DEFINITION_BYTES}
        position = server.post("/v1/terms", term)["position"]
    view = server.get("/v1/terms/term-0", at_least=position)
    if view.status_code != 200 or not 0.9 < len(view.content) / VIEW_BYTES < 1.1:
        raise CannotMeasure(
            f"the view that is read should be {VIEW_BYTES} bytes; GET answered {view.status_code}, {len(view.content)} bytes"
        )


FIGURES: Final = (
    Figure(
        "command_http_32",
        ours=commands,
        peers={"validate": web.validates, "append": web.appends},
        goals=(
            Goal("validate", "rate", "requests/s", 0.5, name="validate"),
            Goal("append", "p99_ms", "ms (p99)", 2.0, better="lower", name="append_p99"),
        ),
    ),
    Figure("read_http", ours=reads, peers={"row": web.reads}, goals=(Goal("row", "rate", "requests/s", 0.8),)),
)
