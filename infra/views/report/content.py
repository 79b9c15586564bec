"""What a report says, from what was gathered and from what the export says of itself: first the answer, then how to check it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from infra.views.report import charts
from infra.views.report.document import Block, Chart, Commands, Document, Figures, Pairs, Paragraph, Section, Table, plain
from infra.views.report.drawing import DARK, LIGHT, MIDDLE, SLATE
from infra.views.report.gather import OUTCOMES, Approval, Followed, Gathered, Outcomes
from infra.views.report.lists import (
    amount,
    approvals_table,
    budgets_table,
    carried_out_table,
    entities_table,
    keys_table,
    moment,
    moments_table,
    policies_table,
    stopped_table,
)
from infra.views.view import About

BARS: Final = 10
_HOUR: Final = 3_600
_WAITS: Final = (
    ("within an hour", _HOUR),
    ("within 4 hours", 4 * _HOUR),
    ("within a day", 24 * _HOUR),
    ("within 3 days", 72 * _HOUR),
    ("later", float("inf")),
)
_ENDED: Final = tuple(zip(OUTCOMES, (LIGHT, MIDDLE, DARK), strict=True))
_DECISIONS: Final = (("granted", LIGHT), ("open, expired or withdrawn", MIDDLE), ("rejected", DARK))
_MONEY: Final = (("spent", SLATE), ("still promised", MIDDLE), ("given back", LIGHT))
_SELECTED: Final = (
    ("datasets", "Datasets"),
    ("agents", "Agents"),
    ("actors", "Actors"),
    ("policies", "Policies"),
    ("jurisdictions", "Jurisdictions"),
)
_COUNTED: Final = (
    ("withheld_entries", "events kept back from this recipient; their positions stand in the manifest"),
    ("other_jurisdiction", "events about the same things under other jurisdictions, which were not asked for"),
    ("outside_period", "events about the same things before or after the period"),
)


def document(about: About, gathered: Gathered) -> Document:
    """The report of an export."""
    sections = (
        _summary(about, gathered),
        _exported(about, gathered),
        _left_out(about),
        _checking(about),
        _activity(gathered),
        _policies(gathered),
        _approvals(gathered),
        _budgets(gathered),
        _listed("What stood out", "Nothing stood out.", moments_table(gathered.moments)),
        _listed("Refused, or waiting for consent", "No action was refused or held.", stopped_table(gathered.stopped)),
        _listed("Carried out", "No action was carried out.", carried_out_table(gathered.carried_out)),
        _listed("What changed", "No entity changed.", entities_table(gathered.entities)),
        _listed("Keys of the ledger", "No key event is among the exported events.", keys_table(gathered.keys)),
    )
    subtitle = f"For {plain(about.recipient)}, from the ledger {plain(about.ledger)}"
    return Document(f"Export {plain(about.export_id)}", subtitle, about.created_at, sections)


def _listed(title: str, nothing: str, table: Table) -> Section:
    return Section(title, (table,) if table.rows else (Paragraph(nothing),))


# -- what it is, and how to check it


def _summary(about: About, gathered: Gathered) -> Section:
    counts = gathered.actions.counts
    asked = gathered.approvals.found.values()
    decided = [sum(approval.state == state for approval in asked) for state in ("granted", "rejected")]
    numbers = (
        (f"{gathered.entries:,}", "exported events"),
        (f"{counts['allowed']:,}", "actions carried out"),
        (f"{counts['requires approval']:,}", "held for consent"),
        (f"{counts['blocked']:,}", "refused"),
        (f"{decided[0]:,} / {decided[1]:,}", "consents given / denied"),
        (f"{_kinds(gathered.by_actor)}", "actors"),
    )
    count = len(about.witnesses)
    witnessed = (
        Paragraph(f"{count:,} witness{'' if count == 1 else 'es'} cosigned the checkpoint that all of it is proven against.")
        if count
        else Paragraph("No witness has cosigned the checkpoint of this export: nobody but the operator vouches for it.", warning=True)
    )
    rendering = Paragraph(
        "This report is a rendering for reading. What counts are the signed entries beside it in the same pack: every row here names "
        "the position of the entry it comes from."
    )
    return Section("In short", (Figures(numbers), rendering, witnessed))


def _kinds(followed: Followed[Any]) -> str:
    return f"{len(followed.found):,}{'+' if followed.others else ''}"


def _exported(about: About, gathered: Gathered) -> Section:
    selection = about.selection
    chosen = [(title, ", ".join(map(plain, selection[name]))) for name, title in _SELECTED if selection.get(name)]
    starts, ends = selection.get("from"), selection.get("to")
    period = f"from {moment(starts) + ' UTC' if starts else 'the beginning'} until {moment(ends) + ' UTC' if ends else 'the export'}"
    happened = f"{moment(gathered.first_at)} to {moment(gathered.last_at)} UTC" if gathered.entries else "none"
    rows = (
        ("Recipient", plain(about.recipient)),
        ("Ledger and tenant", f"{plain(about.ledger)}, {plain(about.tenant)}"),
        ("Made", f"{moment(about.created_at)} UTC"),
        *(chosen or [("About", "everything of the tenant")]),
        ("Period asked for", period),
        ("Positions", f"after {about.after:,}, up to {about.until:,}"),
        ("Events in it", happened),
    )
    return Section("What was exported", (Pairs(rows),))


def _left_out(about: About) -> Section:
    rows = [(f"{about.counts[name]:,}", said) for name, said in _COUNTED if about.counts.get(name)]
    blocks: list[Block] = [Pairs(tuple(rows))] if rows else [Paragraph("No event of the selection was kept back.")]
    withheld = about.profile.get("withhold_types") or []
    if withheld:
        blocks.append(Paragraph(f"Types of events that this recipient is not shown: {', '.join(map(plain, withheld))}."))
    purposes = about.profile.get("disclose") or []
    shown = f"some, kept for {', '.join(map(plain, purposes))}; they stand in the pack, not here" if purposes else "none"
    personal = f"Personal data is in no entry, only its salted digest. Of the values, this recipient is shown {shown}."
    blocks.append(Paragraph(personal))
    return Section("What was left out", tuple(blocks))


def _checking(about: About) -> Section:
    rows = (
        ("Checkpoint size", f"{about.checkpoint_size:,} events"),
        ("Root hash", plain(about.checkpoint_root)),
        *(("Witness", plain(line)) for line in about.witnesses),
    )
    how = Paragraph(
        "Take the verifier and the trust file from somewhere else than the operator who gave you the pack. The verifier needs Python "
        "and pynacl, and no network; it names every position and check that fails."
    )
    return Section("How to check it", (how, Commands(("python aureus_verify.py pack.zip --keys trust.json",)), Pairs(rows)))


# -- what happened


def _activity(gathered: Gathered) -> Section:
    if not gathered.entries:
        return Section("Activity", (Paragraph("Nothing happened."),))
    over = charts.spans(gathered.first_at[:10], gathered.last_at[:10])
    blocks: list[Block] = []
    if gathered.days:
        said = f"Actions per {charts.unit_of(over)}, by how they ended"
        blocks.append(Chart(said, charts.columns(said, over, _ENDED, gathered.days)))
        said = "Actions by actor"
        blocks.append(Chart(said, charts.bars(said, _ENDED, _most(gathered.by_actor))))
    if gathered.moment_days:
        said = f"What stood out, per {charts.unit_of(over)}"
        blocks.append(Chart(said, charts.timeline(said, over, gathered.moment_days)))
    return Section("Activity", tuple(blocks) or (Paragraph("No action is among the exported events."),))


def _most(followed: Followed[Outcomes]) -> list[tuple[str, list[int], str]]:
    """The bars of those with the most actions, and one for all others that are followed."""
    ranked = sorted(followed.found.items(), key=lambda item: (-item[1].total, item[0]))
    rows = [(plain(name), list(outcomes.counts.values()), f"{outcomes.total:,}") for name, outcomes in ranked[:BARS]]
    if rest := ranked[BARS:]:
        sums = [sum(outcomes.counts[outcome] for _, outcomes in rest) for outcome in OUTCOMES]
        rows.append((f"{len(rest):,} others", sums, f"{sum(sums):,}"))
    return rows


def _policies(gathered: Gathered) -> Section:
    if not gathered.by_policy.found:
        return Section("Policies that decided", (Paragraph("No policy decided on an exported action."),))
    said = "What each policy said about actions"
    chart = Chart(said, charts.bars(said, _ENDED, _most(gathered.by_policy)))
    return Section("Policies that decided", (chart, policies_table(gathered.by_policy)))


def _approvals(gathered: Gathered) -> Section:
    asked = list(gathered.approvals.found.values())
    if not asked:
        return Section("Consent", (Paragraph("Nobody's consent was asked for."),))
    said = "How long people took to decide"
    chart = Chart(said, charts.bars(said, _DECISIONS, list(_waits(asked))))
    return Section("Consent", (chart, approvals_table(gathered.approvals)))


def _waits(asked: Sequence[Approval]) -> Iterator[tuple[str, list[int], str]]:
    """A bar for each length of waiting, and those for what nobody decided or what was asked before."""
    low: float = -1
    for name, high in _WAITS:
        within = [approval.state for approval in asked if low < (-1 if (waited := approval.waited_seconds) is None else waited) <= high]
        yield name, [within.count("granted"), 0, within.count("rejected")], f"{len(within):,}"
        low = high
    undecided = sum(approval.state not in ("granted", "rejected") for approval in asked)
    yield "not decided by people", [0, undecided, 0], f"{undecided:,}"
    earlier = [approval.state for approval in asked if approval.state in ("granted", "rejected") and not approval.at]
    if earlier:
        yield "asked for before", [earlier.count("granted"), 0, earlier.count("rejected")], f"{len(earlier):,}"


def _budgets(gathered: Gathered) -> Section:
    if not gathered.budgets.found:
        return Section("Budgets", (Paragraph("No budget moved."),))
    blocks: list[Block] = []
    currencies = sorted({budget.currency for budget in gathered.budgets.found.values() if budget.promised})
    for currency in currencies[:3]:
        said = f"Promised money and what became of it, in {currency or 'an unknown currency'}"
        rows = _moved(gathered, currency)
        blocks.append(Chart(said, charts.bars(said, _MONEY, rows)))
    return Section("Budgets", (*blocks, budgets_table(gathered.budgets)))


def _moved(gathered: Gathered, currency: str) -> list[tuple[str, list[int], str]]:
    """The bars of the budgets of a currency on which most was promised, each on its own, without those below it."""
    moved = [(name, budget) for name, budget in gathered.budgets.found.items() if budget.currency == currency and budget.promised]
    moved.sort(key=lambda item: (-item[1].promised, item[0]))
    return [
        (
            plain(name),
            [budget.spent, max(budget.promised - budget.spent - budget.returned, 0), budget.returned],
            amount(budget.promised, currency),
        )
        for name, budget in moved[:BARS]
    ]
