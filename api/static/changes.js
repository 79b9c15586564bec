// What changed: between two moments, list by list and value by value; and everything that ever happened about one thing.

import { get, getNow, moment, path } from "/console/api.js";
import { chip, code, el, empty, field, filters, latest, link, muted, number, outcome, paged, select, table, time, words } from "/console/ui.js";

const TONES = { added: "good", changed: "wait", removed: "bad" };
const KINDS = ["dataset", "agent", "actor", "policy", "approval", "budget", "pipeline"];
const DAY = 86_400_000;

const shown = (value) =>
  value === null || value === undefined ? muted("nothing") : typeof value === "object" ? code(JSON.stringify(value)) : String(value);

/** A moment as the API takes it: what the field holds is a position, or a time of this computer's zone. */
const asked = (text) => (text && !/^\d+$/.test(text) ? new Date(text).toISOString() : text);

const local = (date) => new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);

export async function changes(page, { parameters, keep }) {
  const results = el("div", { class: "stack" });
  const search = latest(results, async (set) => {
    keep(set);
    const { from, to, context, id } = set;
    const ends = { from: asked(from) || "0", to: asked(to) || moment()?.asOf };
    let first;
    const list = await paged(
      async (cursor) => {
        const found = await getNow("/v1/diff", { ...ends, context, id, limit: 50, cursor });
        first ??= found;
        return found;
      },
      (items) => items.map(row),
      "Nothing differs between these moments.",
    );
    const counts = first.summary.filter((one) => one.added + one.changed + one.removed > 0);
    return el("div", { class: "stack" }, counts.length ? summary(first, counts) : "", list);
  });
  page.append(
    el("h1", {}, "Changes"),
    filters(
      search,
      field("From (a time, or a position)", el("input", { name: "from", value: parameters.from ?? local(new Date(Date.now() - DAY)) })),
      field("To (now, if left out)", el("input", { name: "to", value: parameters.to ?? "" })),
      field("Contexts", el("input", { name: "context", value: parameters.context, placeholder: "policies,catalog", spellcheck: "false" })),
      field("Id", el("input", { name: "id", value: parameters.id, placeholder: "of one thing", spellcheck: "false" })),
    ),
    finder(),
    results,
  );
  await search({ from: local(new Date(Date.now() - DAY)), ...parameters });
}

/** Leads to the timeline of one thing. */
function finder() {
  const go = (event) => {
    event.preventDefault();
    const { kind, of } = Object.fromEntries(new FormData(event.target));
    if (of) location.hash = `#/changes/${kind}/${encodeURIComponent(of)}`;
  };
  return el(
    "form",
    { class: "filters", onsubmit: go },
    field("Everything that happened to the", select("kind", "dataset", KINDS.map((kind) => [kind, kind]))),
    field("with the id", el("input", { name: "of", spellcheck: "false" })),
    el("button", {}, "Show its timeline"),
  );
}

const summary = ({ from_position: from, to_position: to }, counts) =>
  el(
    "section",
    { class: "card" },
    el("h2", {}, `From position ${number(from)} to ${number(to)}`),
    table(
      "How many rows differ",
      ["List", "Added", "Changed", "Removed"],
      counts.map((one) => [[words(one.kind), muted(` ${one.context}`)], number(one.added), number(one.changed), number(one.removed)]),
    ),
  );

const row = (one) =>
  el(
    "section",
    { class: "card" },
    el("h3", {}, chip(one.change, TONES[one.change]), ` ${words(one.kind)} `, code(one.id)),
    one.changes.length ? values(one.changes) : "",
    table(
      "By which events",
      ["Position", "Event", "Actor", "When", "Why"],
      one.events.map((event) => [
        number(event.position),
        event.action_id ? link(`#/audit/${event.action_id}`, event.type) : event.type,
        event.actor,
        time(event.at),
        event.reason ?? "",
      ]),
    ),
    one.events_count > one.events.length ? muted(`These are the latest of ${number(one.events_count)}.`) : "",
  );

const values = (differing) =>
  table(
    "What differs",
    ["Field", "Before", "After"],
    differing.map(({ field: name, before, after }) => [code(name), shown(before), shown(after)]),
  );

export async function timeline(page, { id }) {
  const [kind, ...rest] = id.split("/");
  const of = rest.join("/");
  page.append(
    el("p", {}, link("#/changes", "← Changes")),
    el("h1", {}, `${words(kind)} `, code(of)),
    await paged(
      (cursor) => get(path`/v1/timeline/${kind}/${of}`, { latest_first: true, limit: 50, cursor }),
      (items) => (items.length ? [entries(items)] : []),
      "Nothing happened.",
    ),
    empty("Newest first. What was refused is here too."),
  );
}

const entries = (items) =>
  table(
    "What happened, newest first",
    ["Position", "Event", "What it changed, and why", "Outcome", "Actor", "When"],
    items.map((one) => [
      number(one.position),
      one.action_id ? link(`#/audit/${one.action_id}`, one.type) : one.type,
      [one.change ?? "", one.message ? el("div", {}, one.message) : "", one.reason ? el("div", { class: "muted" }, one.reason) : ""],
      one.outcome ? [outcome(one.outcome), one.code ? muted(` ${one.code}`) : ""] : "",
      one.actor,
      time(one.at),
    ]),
  );
