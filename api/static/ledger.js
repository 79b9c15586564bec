// The ledger: the signed events themselves, newest first, as they stand in the log.

import { get, getNow, moment } from "/console/api.js";
import { el, empty, json, link, muted, number, refusal, time } from "/console/ui.js";

const PAGE_EVENTS = 50;

/** The last `limit` events up to a position, or of all; `next` is where the log goes on. */
export async function eventsUpTo(position, limit) {
  const asked = position === undefined ? { tail: true, limit } : { after: Math.max(0, position - limit), limit };
  const page = await get("/v1/ledger/events", asked);
  return { items: page.items.filter((event) => position === undefined || event.position <= position), next: page.next_after };
}

/** One line about an event. */
export const eventLine = (event) => [
  el("span", { class: "position" }, number(event.position)),
  " ",
  el("strong", {}, event.type),
  " ",
  el("span", { class: "stream" }, event.stream),
  " ",
  muted(event.actor, " · ", time(event.at)),
];

export async function ledger(page, { parameters }) {
  const list = el("ol", { class: "events raw" });
  const older = el("button", { type: "button", class: "more" }, "Older events");
  page.append(
    el("h1", {}, "Ledger"),
    el(
      "p",
      { class: "muted" },
      "Every event as it was signed, newest first. Open one to see its bytes as JSON; ",
      link("#/overview", "the checkpoint"),
      " covers them all.",
    ),
    list,
  );
  const end = moment()?.position ?? (await getNow("/v1/ledger/events", { tail: true, limit: 1 })).next_after;
  let position = Math.min(Number(parameters.at) || end, end);
  const load = async () => {
    const { items } = await eventsUpTo(position, Math.min(PAGE_EVENTS, Math.max(position, 1)));
    list.append(...items.reverse().map((event) => el("li", {}, opened(event))));
    position = Math.max(0, position - PAGE_EVENTS);
    if (position === 0) older.remove();
  };
  older.addEventListener("click", () => load().catch((error) => older.before(refusal(error))));
  page.append(older);
  await load();
  if (!list.children.length) list.replaceWith(empty("Nothing has happened yet."));
}

function opened(event) {
  const { position, ...body } = event;
  const action = event.stream.startsWith("action:") ? event.stream.slice("action:".length) : event.causation;
  const shown = el("details", {}, el("summary", {}, eventLine(event)));
  const fill = () =>
    shown.append(json(body), action ? el("p", {}, link(`#/audit/${action}`, "The evidence of the action it belongs to")) : "");
  shown.addEventListener("toggle", fill, { once: true });
  return shown;
}
