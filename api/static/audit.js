// The audit log: every action that was asked for and how it ended; and the sealed evidence of one of them.

import { get, moment, path } from "/console/api.js";
import { follow } from "/console/live.js";
import {
  card,
  chip,
  code,
  el,
  empty,
  facts,
  field,
  filters,
  folded,
  json,
  latest,
  link,
  muted,
  number,
  outcome,
  paged,
  refusal,
  select,
  table,
  tableRow,
  time,
} from "/console/ui.js";

const OUTCOMES = [
  ["", "any outcome"],
  ["allowed", "allowed"],
  ["blocked", "blocked"],
  ["requires_approval", "requires approval"],
];

export async function audit(page, { parameters, keep, signal }) {
  const results = el("div", {});
  let position;
  let following = new AbortController();
  const show = latest(results, (set) =>
    paged(
      async (cursor) => {
        const found = await get("/v1/actions", { ...set, sort: "-position", limit: 50, cursor });
        position ??= found.position;
        return found;
      },
      (items) => (items.length ? [actions(items)] : []),
      "No action matches.",
    ),
  );
  /** A new action comes first; there is one of each, however often it is told. */
  const arrive = ({ row }) => {
    if (!row || results.querySelector(`[data-action="${CSS.escape(row.id)}"]`)) return;
    const rows = results.querySelector("tbody");
    if (rows) rows.prepend(actionRow(row, "new"));
    else results.replaceChildren(actions([row]));
  };
  const search = async (set) => {
    keep(set);
    following.abort();
    following = new AbortController();
    const still = AbortSignal.any([signal, following.signal]);
    position = undefined;
    await show(set);
    const { q, ...filters } = set; // what is searched for as text, no feed can tell
    if (q || still.aborted) return;
    follow("/v1/feeds/changes", { ...filters, table: "actions", after: position }, ({ changes }) => changes.forEach(arrive), still);
  };
  page.append(
    el("h1", {}, "Audit"),
    filters(
      search,
      field("Search", el("input", { name: "q", type: "search", value: parameters.q, placeholder: "action, stream, reason" })),
      field("Actor", el("input", { name: "actor_id", value: parameters.actor_id, placeholder: "an actor's id", spellcheck: "false" })),
      field("Outcome", select("outcome", parameters.outcome ?? "", OUTCOMES)),
    ),
    results,
  );
  await search(parameters);
}

const actions = (items) =>
  table(
    "Actions, newest first",
    ["Position", "Action", "Outcome", "On", "Actor", "When"],
    items.map((one) => actionRow(one)),
  );

const actionRow = (one, tone) =>
  tableRow(
    [
      number(one.position),
      link(`#/audit/${one.id}`, one.action),
      [outcome(one.outcome), one.code ? muted(` ${one.code}`) : ""],
      code(one.stream),
      [one.actor_id, muted(` ${one.actor.role}`)],
      time(one.timestamp),
    ],
    { "data-action": one.id, class: tone },
  );

export async function evidence(page, { id }) {
  const pack = await get(path`/v1/evidence/${id}`);
  const policies = pack.policyChecks.map((one) => [code(one.policy), outcome(one.outcome), one.reason]);
  page.append(
    el("p", {}, link("#/audit", "← Audit")),
    el("h1", {}, pack.eventType, " ", outcome(pack.outcome)),
    pack.message
      ? el(
          "p",
          { class: "refusal" },
          pack.code ? [chip(pack.code, "bad"), " "] : null,
          pack.message,
          pack.facts?.remedy ? ` ${pack.facts.remedy}` : null,
        )
      : "",
    facts([
      ["By", [pack.actor, muted(` ${pack.kind}, ${pack.roles.join(", ")}`)]],
      ["When", time(pack.timestamp)],
      ["Why", pack.reason ?? muted("no reason was given")],
      ["On", [code(pack.stream), muted(` as of version ${pack.seen_version}`)]],
      ["Policies in force", code(pack.policy_version)],
    ]),
    card(
      "What the policies said",
      policies.length
        ? table("Policy results", ["Policy", "Said", "Because"], policies)
        : empty("No policy was asked: a rule or a role decided."),
    ),
    approvalOf(pack),
    card("What was asked", json(pack.inputs), facts([["Digest", code(pack.action_digest)]])),
    card("What came of it", outputs(pack)),
    files(pack),
    card("Seal", facts(sealed(pack)), ...verifying(pack)),
  );
}

function approvalOf({ approval, approval_id: id }) {
  if (!id) return "";
  if (!approval) return card("Approval", facts([["Approval", code(id)]]));
  return card(
    "Approval",
    facts([
      ["Approval", link("#/approvals", id)],
      ["Status", chip(approval.status)],
      ["Agreed", `${approval.agreed_count} of ${approval.quorum}`],
    ]),
  );
}

function outputs({ outputs: events, facts: found }) {
  if (events.length)
    return table(
      "Events",
      ["Event", "Stream", "Version"],
      events.map((one) => [code(one.type), code(one.stream), one.version]),
    );
  return [empty("Nothing changed."), found ? folded("The facts it was decided on", json(found)) : ""];
}

function files({ artifacts, files: known }) {
  if (!artifacts.length) return "";
  const row = (sha256) => {
    const file = known.find((one) => one.sha256 === sha256);
    const tests = file && file.passed !== null ? `${file.passed} passed, ${file.failed ?? 0} failed` : "";
    return [file?.name ?? muted("not registered here"), file ? words(file) : "", tests, code(sha256)];
  };
  return card("Artifacts", table("Artifacts", ["Name", "Kind", "Tests", "SHA-256"], artifacts.map(row)));
}

const words = ({ kind, size_bytes: size }) => `${kind.replaceAll("_", " ")}, ${number(size)} bytes`;

const sealed = ({ signature }) => [
  ["Event", code(signature.event_id)],
  ["Position", link(`#/ledger?at=${signature.position}`, number(signature.position))],
  ["Stream", [code(signature.stream), muted(` version ${signature.version}`)]],
  ["Leaf", code(signature.leaf)],
];

/** How to check the seal without believing this page: the whole ledger offline, or this entry's bytes here. */
function verifying({ id, signature }) {
  const result = el("div", { role: "status" });
  const check = async () => {
    try {
      const { entries } = await get("/v1/ledger/entries", { after: signature.position - 1, limit: 1 });
      const found = await leafOf(Uint8Array.from(atob(entries[0]), (letter) => letter.charCodeAt(0)));
      const same = found === signature.leaf;
      const told = same ? "The entry's bytes hash to this leaf. " : `The entry's bytes hash to ${found}, which is not this leaf. `;
      result.replaceChildren(
        el(
          "p",
          {},
          chip(same ? "same" : "different", same ? "good" : "bad"),
          " ",
          told,
          "That the leaf stands in the signed tree is what aureus verify proves.",
        ),
      );
    } catch (error) {
      result.replaceChildren(refusal(error));
    }
  };
  return [
    el("h3", {}, "How to verify it"),
    el(
      "p",
      {},
      "On a computer of your own, as auditor or admin, check every signature, every chain link and the tree, then show this pack:",
    ),
    el("pre", { tabindex: "0" }, `aureus verify\naureus evidence show ${id}`),
    el(
      "p",
      {},
      "The leaf is SHA-256 of a zero byte and the entry, which ",
      code(`/v1/ledger/entries?after=${signature.position - 1}&limit=1`),
      " hands out byte for byte.",
    ),
    moment() || !globalThis.crypto.subtle ? "" : el("p", {}, el("button", { type: "button", onclick: check }, "Hash the entry here")),
    result,
  ];
}

async function leafOf(entry) {
  const digest = await crypto.subtle.digest("SHA-256", Uint8Array.of(0, ...entry));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
