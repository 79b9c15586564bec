// The overview: how large the ledger is, what its latest checkpoint says, how the read models stand, and what happens now.

import { get, getNow, moment } from "/console/api.js";
import { eventLine, eventsUpTo } from "/console/ledger.js";
import { follow } from "/console/live.js";
import { card, chip, code, el, facts, link, muted, number, outcome, refusal, table } from "/console/ui.js";

const REFRESH_MILLISECONDS = 1_000;
const EVENTS_SHOWN = 15;

/** A card that is filled when its data is there, and says why when it cannot be. */
function filling(title, load) {
  const body = el("div", {});
  const refresh = () =>
    load().then(
      (nodes) => body.replaceChildren(...[nodes].flat()),
      (error) => body.replaceChildren(refusal(error)),
    );
  return { node: card(title, body), refresh };
}

export async function overview(page, { signal }) {
  const cards = [
    filling("Ledger", checkpoint),
    filling("Latest actions", actions),
    filling("Read models", standings),
    filling("Waiting for a decision", pending),
  ];
  const latest = el("ol", { class: "events" });
  page.append(
    el("h1", {}, "Overview"),
    el(
      "div",
      { class: "grid" },
      cards.map(({ node }) => node),
    ),
    card("Latest events", latest),
  );
  const refreshAll = () => Promise.all(cards.map(({ refresh }) => refresh()));
  await Promise.all([refreshAll(), showEvents(latest, signal, soon(refreshAll, signal))]);
}

/** Does it a moment after it is asked for, however often that is. */
function soon(work, signal) {
  let waiting;
  return () => {
    waiting ??= setTimeout(() => {
      waiting = undefined;
      if (!signal.aborted) work();
    }, REFRESH_MILLISECONDS);
  };
}

async function checkpoint() {
  const past = moment();
  const { note, exact } = await signedNote(past?.position);
  const [origin, size, root] = note.split("\n");
  const signatures = note.split("\n").filter((line) => line.startsWith("\u2014"));
  return [
    el("p", { class: "figure" }, number(past?.position ?? Number(size)), muted(past ? " events by then" : " events")),
    exact ? null : el("p", { class: "note" }, "No checkpoint was signed at exactly that size; this is the latest, which covers it."),
    facts([
      ["Origin", code(origin)],
      ["Size", number(Number(size))],
      ["Root", code(root)],
      ["Signed", signatures.map((line) => el("div", {}, code(line)))],
      ["Witness", [signatures.length > 1 ? "cosigned" : "not cosigned yet", " ", link("#/proofs", "who watches")]],
    ]),
  ].filter(Boolean);
}

async function signedNote(size) {
  if (!size) return { note: await getNow("/v1/ledger/checkpoint"), exact: size === undefined };
  try {
    return { note: await getNow("/v1/ledger/checkpoint", { size }), exact: true };
  } catch (error) {
    if (error.code !== "checkpoint_not_found") throw error;
    return { note: await getNow("/v1/ledger/checkpoint"), exact: false };
  }
}

async function pending() {
  const { items, next_cursor: more } = await get("/v1/approvals", { status: "pending", sort: "expires_at", limit: 100 });
  return [
    el("p", { class: "figure" }, `${items.length}${more ? "+" : ""}`, muted(items.length === 1 ? " approval" : " approvals")),
    el(
      "ul",
      {},
      items.slice(0, 5).map((one) => el("li", {}, one.command ?? one.description, one.stream ? [" ", code(one.stream)] : "")),
    ),
    el("p", {}, link("#/approvals", "See the approvals")),
  ];
}

async function standings() {
  const { items } = await getNow("/v1/projections");
  const row = (one) => [
    one.name,
    number(one.position),
    one.stopped
      ? chip("stopped", "bad")
      : one.lag_events > 0
        ? chip(`${number(one.lag_events)} behind`, "wait")
        : chip("up to date", "good"),
  ];
  const stopped = items.filter((one) => one.stopped).map((one) => el("p", { class: "note" }, `${one.name}: ${one.stopped}`));
  return [
    moment() ? el("p", { class: "note" }, "As they stand now.") : "",
    table("Read models", ["Name", "Position", "Standing"], items.map(row)),
    ...stopped,
  ];
}

async function actions() {
  const { items } = await get("/v1/actions", { sort: "-position", limit: 8 });
  const row = (one) => [link(`#/audit/${one.id}`, one.action), outcome(one.outcome)];
  return table("Latest actions", ["Action", "Outcome"], items.map(row));
}

/** Shows the latest events and, while one looks at the present, those that follow as they come. */
async function showEvents(list, signal, happened) {
  const { items, next } = await eventsUpTo(moment()?.position, EVENTS_SHOWN);
  list.replaceChildren(...items.reverse().map((event) => el("li", {}, eventLine(event))));
  const tell = (event) => {
    list.prepend(el("li", { class: "new" }, eventLine(event)));
    while (list.children.length > EVENTS_SHOWN) list.lastChild.remove();
    happened();
  };
  follow("/v1/feeds/events", { after: next }, tell, signal);
}
