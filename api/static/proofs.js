// The proofs: who watches the ledger from outside, which keys sign it, and what was handed to others to verify for themselves.

import { get, getNow, moment } from "/console/api.js";
import { card, chip, code, el, facts, link, muted, number, paged, refusal, table, time } from "/console/ui.js";

const PAGE_ROWS = 100;

/** A card that says why it is empty when what belongs in it cannot be had. */
async function filled(title, load) {
  const nodes = await load().catch((error) => [refusal(error)]);
  return card(title, ...[nodes].flat());
}

export async function proofs(page) {
  page.append(
    el("h1", {}, "Proofs"),
    el("p", { class: "muted" }, "What stands behind this ledger besides the word of whoever runs it."),
    ...(await Promise.all([filled("Witnesses", witnesses), filled("Keys", keys), filled("Exports", exports), filled("Check it yourself", yourself)])),
  );
}

const STANDINGS = { agrees: "good", contradicts: "bad", "not asked yet": "wait" };

async function witnesses() {
  const told = await getNow("/v1/witnesses");
  const row = (one) => [
    [one.name, el("div", { class: "muted" }, one.stands)],
    [chip(one.standing, STANDINGS[one.standing]), one.last_error ? el("div", { class: "muted" }, one.last_error) : ""],
    number(one.size),
    time(one.at),
    one.lag_events ? `${number(one.lag_events)} events` : "none",
  ];
  const elsewhere = told.witnesses.some((one) => one.stands === "elsewhere");
  const standing = told.fulfilled ? (elsewhere ? chip("witnessed", "good") : chip("by its own witness", "wait")) : chip("not witnessed", "bad");
  return [
    moment() ? el("p", { class: "note" }, "As they stand now.") : "",
    el("p", {}, standing, " ", told.summary),
    facts([
      ["Ledger", `${number(told.size)} events`],
      ["Cosigned", told.witnessed ? `${number(told.witnessed)} events, by at least ${told.required}` : null],
      ["Timestamps", told.timestamps.length ? told.timestamps.map((one) => el("div", {}, `${one.authority}: ${number(one.size)} events, `, time(one.at))) : null],
    ]),
    told.witnesses.length ? table("Witnesses", ["Witness", "Standing", "Cosigned", "When", "Behind"], told.witnesses.map(row)) : "",
  ];
}

const KEY_TONES = { active: "good", rotated: "plain", revoked: "bad" };

async function keys() {
  const row = (one) => [
    el("span", { title: one.key_id }, code(one.key_id.slice(0, 16))),
    [one.role, one.holder ? muted(` ${one.holder}`) : ""],
    one.custody,
    chip(one.status, KEY_TONES[one.status]),
    number(one.added_position),
    one.ended_position ? number(one.ended_position) : "–",
    one.compromised_since ? chip(`disputed from ${number(one.compromised_since)}`, "bad") : "",
  ];
  const headings = ["Key", "Role", "Custody", "Status", "Valid after", "Up to", ""];
  const load = (cursor) => get("/v1/keys", { sort: "added_position", limit: PAGE_ROWS, cursor });
  return [await paged(load, (items) => (items.length ? [table("Keys", headings, items.map(row))] : []), "No key was known then.")];
}

/** What a pack is about: the names that were asked for, the laws, and the days of its period. */
function about({ everything, selection }) {
  const { starts_at: from, ends_at: to, jurisdictions = [], ...named } = selection;
  const names = everything ? ["everything"] : Object.values(named).flat();
  const day = (text) => (text ? text.slice(0, 10) : "…");
  return [
    names.join(", "),
    jurisdictions.length ? muted(` ${jurisdictions.join(", ")}`) : "",
    from || to ? el("div", { class: "muted" }, `${day(from)} to ${day(to)}`) : "",
  ];
}

const EXPORT_TONES = { sealed: "good", failed: "bad", cancelled: "plain" };

async function exports() {
  const row = (one) => [
    [one.recipient, el("div", { class: "muted", title: one.sha256 }, code(one.export_id))],
    [chip(one.status, EXPORT_TONES[one.status] ?? "wait"), one.failure ? el("div", { class: "muted" }, one.failure) : ""],
    about(one),
    one.entries === null ? "–" : [number(one.entries), one.withheld_entries ? muted(` ${number(one.withheld_entries)} withheld`) : ""],
    [one.requested_by, el("div", { class: "muted" }, time(one.requested_at))],
    one.downloads ? [number(one.downloads), el("div", { class: "muted" }, one.downloaded_by.join(", "))] : "not yet",
  ];
  const headings = ["For", "Status", "About", "Events", "Asked by", "Fetched"];
  const load = (cursor) => get("/v1/exports", { sort: "-requested_at", limit: PAGE_ROWS, cursor });
  const none = "Nothing was handed out. An auditor or an admin asks for a pack: aureus export --dataset ... -o pack.zip";
  return [await paged(load, (items) => (items.length ? [table("Exports", headings, items.map(row))] : []), none)];
}

async function yourself() {
  const { ledger, root_key_id: root } = await getNow("/v1/ledger/keys");
  const step = (what, command) => el("li", {}, what, el("pre", { tabindex: "0" }, command));
  return [
    el(
      "ol",
      { class: "steps" },
      step("Every signature, link and the tree of the live ledger, on your machine:", "aureus verify --keys trust.json"),
      step("A pack that you were handed, where this server was never seen:", "python aureus_verify.py pack.zip --keys trust.json"),
    ),
    facts([
      ["Ledger", code(ledger)],
      ["Root key", code(root)],
    ]),
    el("p", { class: "note" }, "This page tells you the root key as this server does: compare it with what you were given on another way."),
    el("p", {}, link("/v1/verifier", "aureus_verify.py"), muted(" one file; it needs Python and pynacl, and nothing of this server.")),
  ];
}
