"""The report of an export: it says what happened, it can be believed to show nothing else, and it stays a size to be read."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from domain.kernel import JsonObject
from infra.views import View, ViewEvent
from infra.views.report import HTML, PDF
from infra.views.report.charts import spans, unit_of
from infra.views.report.content import document
from infra.views.report.document import Chart, Document, Table, plain
from infra.views.report.drawing import DARK, LIGHT, MIDDLE, WIDTH, Rect, Text
from infra.views.report.gather import FOLLOWED, LISTED, Gathered
from tests.support.exported import HOSTILE, about, governed, one_of_each, view_event
from tests.support.kernel import policies
from tests.support.pdf import text_of

pytestmark = pytest.mark.anyio

VOID: Final = {"meta", "col"}
MARKUP: Final = set(
    "html head meta title style body header p h1 nav ol li a main section h2 ul b dl div dt dd pre figure figcaption table colgroup col "
    "thead tbody tr th td svg rect line text".split()
)


@pytest.fixture(scope="module")
async def events(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[ViewEvent]]:
    folder = tmp_path_factory.mktemp("governed")
    async with policies(folder / "policies") as engine:
        yield await governed(folder, engine)


def gathered(events: list[ViewEvent]) -> Gathered:
    found = Gathered()
    for event in events:
        found.see(event)
    return found


def report(events: list[ViewEvent], **said: Any) -> Document:
    return document(about(events, **said), gathered(events))


def written(form: View, folder: Path, events: list[ViewEvent], **said: Any) -> bytes:
    target = folder / form.name
    writing = form.open(about(events, **said), target)
    writing.add(events)
    writing.close()
    return target.read_bytes()


def table(told: Document, section: str) -> Table:
    (found,) = [block for part in told.sections if part.title == section for block in part.blocks if isinstance(block, Table)]
    return found


def texts(told: Document) -> str:
    """All that a report says outside of its charts."""
    return str([[block for block in section.blocks if not isinstance(block, Chart)] for section in told.sections])


# -- what it says


async def test_it_counts_what_happened(events: list[ViewEvent]) -> None:
    found = gathered(events)
    assert found.actions.counts == {"allowed": 35, "requires approval": 3, "blocked": 5}
    assert found.by_actor.found["usr-ben"].counts == {"allowed": 0, "requires approval": 1, "blocked": 0}
    assert found.by_policy.found["no_z"].counts == {"allowed": 0, "requires approval": 0, "blocked": 1}
    assert sum(sum(day.values()) for day in found.days.values()) == found.actions.total == 43
    ingest = found.budgets.found["lake.ingest"]
    assert (ingest.promised, ingest.spent, ingest.returned, ingest.limit) == (55_000, 45_000, 10_000, 60_000)
    assert (found.budgets.found["lake"].limit, found.budgets.found["lake"].promised) == (120_000, 0)


async def test_every_row_names_the_position_it_comes_from(events: list[ViewEvent]) -> None:
    told = report(events)
    by_position = {event.position: event.body for event in events}
    for section, ended in (("Refused, or waiting for consent", "blocked"), ("Carried out", "")):
        rows = table(told, section).rows
        assert rows
        for row in rows:
            body = by_position[int(row[0])]
            assert (row[2], row[3]) == (body["actor"], body["data"]["intent"]["command"])
            assert ended != "blocked" or row[5] in ("blocked", "requires approval")
    assert [by_position[int(row[0])]["type"] for row in table(told, "Keys of the ledger").rows] == ["keys.key_added"] * 3
    stood_out = {row[2] for row in table(told, "What stood out").rows}
    assert {"agent stopped: agt-boss", "deployment failed: report", "threshold reached: lake"} <= stood_out


async def test_consent_is_shown_with_who_gave_it_and_after_how_long(events: list[ViewEvent]) -> None:
    rows = table(report(events), "Consent").rows
    assert [(row[2], row[4], row[5], row[6], row[7]) for row in rows] == [
        ("usr-ana", "medium", "granted, used", "usr-app", "5 h 0 min"),
        ("usr-ben", "medium", "rejected", "usr-app", "5 h 0 min"),
        ("usr-ana", "medium", "open", "", ""),
    ]


async def test_changes_are_told_by_entity(events: list[ViewEvent]) -> None:
    rows = {row[0]: row for row in table(report(events), "What changed").rows}
    assert rows["dataset:sales.orders"][1:4] == ("4", "1 to 4", "dataset refreshed")
    assert not any(name.startswith(("action:", "approval:", "keys:")) for name in rows)


async def test_it_says_for_whom_about_what_what_is_missing_and_how_to_check(events: list[ViewEvent]) -> None:
    told = texts(
        report(
            events,
            selection={"datasets": ["crm.people"], "jurisdictions": ["EU"], "from": "2026-04-01T00:00:00.000000Z", "to": None},
            counts={"entries": 87, "withheld_entries": 12, "outside_period": 1_234},
            profile={"name": "regulator", "disclose": ["governance"], "withhold_types": ["notifications.notification_sent"]},
            witnesses=("w1.example cosigned it at 2026-07-01T09:00:04Z",),
        )
    )
    for said in (
        "Data protection authority",
        "crm.people",
        "from 2026-04-01 00:00 UTC until the export",
        "('12', 'events kept back",
        "('1,234', 'events about the same things before or after",
        "notifications.notification_sent",
        "kept for governance",
        "w1.example cosigned it",
        "1 witness cosigned",
        "python aureus_verify.py pack.zip --keys trust.json",
        "5FNSRstymaKaMtSjQ9rXFuXvLjIbUYF9yW+dbf2XOps=",
    ):
        assert said in told
    assert "No witness" not in told
    assert "No witness has cosigned" in texts(report(events))
    assert "everything of the tenant" in texts(report(events))


# -- what it cannot be made to say


class Strict(HTMLParser):
    """Reads HTML and remembers its elements, attributes and text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def typed_everywhere() -> list[ViewEvent]:
    """Events in which every text that somebody can choose is hostile."""
    intent = {"command": HOSTILE, "digest": "0" * 64, "stream": HOSTILE, "seen_version": 0, "roles": [], "kind": "person", "inputs": {}}
    results = [{"policy": HOSTILE, "outcome": "block", "reason": HOSTILE}]
    ended = {"intent": intent, "policy_version": HOSTILE, "policy_results": results, "artifacts": []}
    opened = {"budget_id": HOSTILE, "label": HOSTILE, "currency": "EUR", "limit_minor": 1}
    reserved = {"budget_id": HOSTILE, "amount_minor": 500, "reservation_id": "r", "path": []}
    asked = {"approval_id": HOSTILE, "type": HOSTILE, "requester": HOSTILE, "risk_level": HOSTILE, "command": HOSTILE}
    told: tuple[tuple[str, JsonObject, JsonObject], ...] = (
        ("actions.action_blocked", ended | {"code": HOSTILE, "message": HOSTILE}, {"actor": HOSTILE}),
        ("actions.action_allowed", ended | {"outputs": []}, {"actor": HOSTILE}),
        ("budgets.budget_opened", opened, {"stream": HOSTILE}),
        ("budgets.funds_reserved", reserved, {}),
        ("approvals.approval_requested", asked, {}),
        ("agents.agent_stopped", {"agent_id": HOSTILE, "reason": HOSTILE, "stopped_by": HOSTILE}, {"stream": f"agent:{HOSTILE}"}),
        ("keys.key_added", {"key_id": HOSTILE, "role": HOSTILE, "custody": HOSTILE}, {"stream": "keys:ledger"}),
    )
    return [view_event(position, name, data, **members) for position, (name, data, members) in enumerate(told, 1)]


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    said = {"recipient": HOSTILE, "export_id": HOSTILE, "selection": {"datasets": [HOSTILE]}, "witnesses": [HOSTILE]}
    source = written(HTML, tmp_path, typed_everywhere(), **said, profile={"disclose": [HOSTILE], "withhold_types": [HOSTILE]}).decode()
    read = Strict(source)
    assert read.elements == MARKUP
    assert not {name for name in read.attributes if name.startswith("on")} | {"src"} & read.attributes
    assert sum(HOSTILE in text for text in read.texts) >= 15  # it is shown, as what it is
    assert "<script" not in source


def test_characters_that_hide_or_turn_others_are_shown_as_what_they_are_not() -> None:
    assert plain("a\u202egnp.exe\x07b\u200bc\n  d") == "a\ufffdgnp.exe\ufffdb\ufffdc d"
    assert plain("Straße, Žluťoučký, Ελλάδα, Кёльн, 東京") == "Straße, Žluťoučký, Ελλάδα, Кёльн, 東京"
    assert len(plain("x" * 10_000)) == 240


async def test_the_file_needs_nothing_else(events: list[ViewEvent], tmp_path: Path) -> None:
    source = written(HTML, tmp_path, events).decode()
    assert "default-src 'none'" in source
    for outside in ("http:", "https:", "url(", "@import", "<link", "<script", "<img"):
        assert outside not in source
    page = written(PDF, tmp_path, events)
    for active in (b"/JavaScript", b"/JS", b"/Launch", b"/URI", b"/EmbeddedFile", b"/AA"):
        assert active not in page


async def test_charts_are_drawings_that_stay_within_their_frame(events: list[ViewEvent]) -> None:
    drawn = [block.drawing for section in report(events).sections for block in section.blocks if isinstance(block, Chart)]
    assert len(drawn) == 7
    for drawing in drawn:
        for shape in drawing.shapes:
            if isinstance(shape, Rect):
                assert shape.x >= 0
                assert shape.x + shape.width <= WIDTH + 0.01
                assert shape.y + shape.height <= drawing.height
            elif isinstance(shape, Text):
                assert 0 <= shape.x <= WIDTH
                assert 0 <= shape.y <= drawing.height
    actions = drawn[0]
    bars = [shape for shape in actions.shapes if isinstance(shape, Rect) and shape.title.endswith("blocked")]
    assert sum(int(bar.title.split(": ")[1].split()[0]) for bar in bars) == 5


def luminance(color: str) -> float:
    """As it is printed in black and white: 0 is black, 1 is white."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_series_are_told_apart_without_colours() -> None:
    shades = [luminance(paint.fill) for paint in (LIGHT, MIDDLE, DARK)]
    contrasts = [(lighter + 0.05) / (darker + 0.05) for lighter, darker in pairwise(shades)]
    assert min(contrasts) > 1.9


async def test_the_pdf_says_what_the_html_says(events: list[ViewEvent], tmp_path: Path) -> None:
    shown = Strict(written(HTML, tmp_path, events).decode()).texts
    page = " ".join(text_of(written(PDF, tmp_path, events)).split())
    for row in table(report(events), "Refused, or waiting for consent").rows:
        assert row[3] in shown
        assert row[3] in page
    for said in (
        "Export exp-1",
        "No witness has cosigned",
        "Actions per day, by how they ended",
        "Müller &",
        "python aureus_verify.py",
        "</script>",
    ):
        assert any(said in text for text in shown), said
        assert said in page, said


def test_letters_the_pdf_has_no_shape_for_are_marked_and_all_others_stay(tmp_path: Path) -> None:
    page = text_of(written(PDF, tmp_path, one_of_each(), recipient="Ελλάδα Кёльн Žluťoučký 東京"))
    assert "For Ελλάδα Кёльн Žluťoučký \ufffd\ufffd, from" in " ".join(page.split())


async def test_svg_is_well_formed(events: list[ViewEvent], tmp_path: Path) -> None:
    source = written(HTML, tmp_path, events).decode()
    parts = source.split("<svg ")[1:]
    assert len(parts) == 7
    for part in parts:
        drawing = ET.fromstring("<svg " + part.partition("</svg>")[0] + "</svg>")
        assert drawing[0].text


# -- how large it gets


def busy(count: int) -> list[ViewEvent]:
    """Refused actions of as many actors under as many policies, and changes of as many entities."""
    intent = {"command": "x.y", "digest": "", "stream": "s", "seen_version": 0, "roles": [], "kind": "person", "inputs": {}}
    found = []
    for number in range(count):
        results = [{"policy": f"p{number}", "outcome": "block", "reason": "R"}]
        data = {"intent": intent, "policy_version": "v", "policy_results": results, "code": "c", "message": "M", "artifacts": []}
        at = datetime.fromtimestamp(1_772_500_000 + number * 60, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
        found.append(view_event(2 * number + 1, "actions.action_blocked", data, actor=f"usr-{number}", at=at))
        found.append(view_event(2 * number + 2, "catalog.dataset_reinstated", {}, stream=f"dataset:{number}", at=at))
    return found


def test_long_tables_are_cut_and_say_how_much_more_there_is_and_where() -> None:
    told = report(busy(LISTED + 5))
    cut = table(told, "Refused, or waiting for consent")
    assert (len(cut.rows), cut.more) == (LISTED, "and 5 more actions: all of them are in views/events.parquet")
    assert table(told, "What changed").more == "and 5 more like these: all of them are in views/events.parquet"
    bars = [section.blocks[0] for section in told.sections if section.title == "Policies that decided"]
    assert isinstance(bars[0], Chart)
    assert any(isinstance(shape, Text) and shape.text == f"{LISTED - 5} others" for shape in bars[0].drawing.shapes)


def test_no_more_is_remembered_than_is_followed() -> None:
    found = gathered(busy(FOLLOWED + 7))
    assert len(found.by_actor.found) == len(found.by_policy.found) == len(found.entities.found) == FOLLOWED
    assert (found.by_actor.others, found.entities.others, found.actions.total) == (7, 7, FOLLOWED + 7)
    more = table(document(about([]), found), "What changed").more
    assert more == f"and {FOLLOWED - LISTED:,} more like these, and 7 changes of other entities: all of them are in views/events.parquet"


@pytest.mark.parametrize(
    ("first", "last", "unit", "count"),
    [
        ("2026-04-01", "2026-04-01", "day", 1),
        ("2026-04-01", "2026-05-31", "day", 61),
        ("2026-04-01", "2026-06-30", "week", 14),
        ("2024-02-29", "2026-06-30", "month", 29),
        ("1999-12-31", "2026-01-01", "year", 28),
    ],
)
def test_time_is_cut_as_fine_as_fits(first: str, last: str, unit: str, count: int) -> None:
    over = spans(first, last)
    assert (unit_of(over), len(over)) == (unit, count)
    assert over[0].begins.isoformat() <= first
    assert over[-1].begins.isoformat() <= last < over[-1].ends.isoformat()
    assert all(one.ends == after.begins for one, after in pairwise(over))
