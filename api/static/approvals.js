// Approvals: what waits for a decision comes first, each with all that one has to know to decide on it.

import { command, get, moment, newKey, path, session } from "/console/api.js";
import { follow } from "/console/live.js";
import { chip, code, duration, el, facts, field, folded, json, link, muted, paged, refusal, time, words } from "/console/ui.js";

const SETTLED = ["approved", "rejected", "withdrawn", "expired", "voided", "used"];
const TONES = { pending: "wait", approved: "good", used: "good", rejected: "bad", voided: "bad" };
const RISKS = { high: "bad", medium: "wait", low: "plain" };

export async function approvals(page, { signal }) {
  const positions = [];
  const load = (status, sort) => async (cursor) => {
    const found = await get("/v1/approvals", { status, sort, limit: 20, cursor });
    positions.push(found.position);
    return found;
  };
  const show = (items) => items.map(approval);
  const [waiting, settled] = await Promise.all([
    paged(load("pending", "expires_at"), show, "Nothing waits for a decision."),
    paged(load(SETTLED, "-changed_at"), show, "Nothing has been decided."),
  ]);
  page.append(el("h1", {}, "Approvals"), el("h2", {}, "Waiting for a decision"), waiting, el("h2", {}, "Decided"), settled);
  const place = ({ row }) => {
    const shown = page.querySelector(`[data-approval="${CSS.escape(row.approval_id)}"]`);
    if (shown?.dataset.standing === standing(row) || (shown && inUse(shown))) return;
    shown?.remove();
    const list = row.status === "pending" ? waiting : settled;
    list.querySelector(".empty")?.remove();
    list.prepend(approval(row));
  };
  follow("/v1/feeds/changes", { table: "approvals", after: Math.min(...positions) }, ({ changes }) => changes.forEach(place), signal);
}

/** What of an approval changes while one looks at it. */
const standing = (row) => [row.status, row.decisions.length, row.escalated_at].join();

/** Somebody writes a comment there, or has just pressed a button: it stays until they are done. */
const inUse = (card) => card.matches(":focus-within, :has(button:disabled)") || [...card.querySelectorAll("textarea")].some((one) => one.value);

function approval(row) {
  const expired = !moment() && ["pending", "approved"].includes(row.status) && new Date(row.expires_at) < new Date();
  const left = (new Date(row.expires_at) - new Date()) / 1_000;
  const heading = [
    chip(row.status, TONES[row.status]),
    " ",
    chip(`${row.risk_level} risk`, RISKS[row.risk_level]),
    " ",
    chip(words(row.type)),
  ];
  return el(
    "article",
    { class: "card approval", "data-approval": row.approval_id, "data-standing": standing(row) },
    el("h3", {}, row.command ?? row.description),
    el("p", {}, heading, expired ? chip("its time has passed", "bad") : null),
    row.command ? el("p", {}, row.description) : null,
    facts([
      [
        "Asked by",
        [row.requester, row.requester === session().actor ? " (you)" : "", row.requester_owner ? muted(` for ${row.requester_owner}`) : ""],
      ],
      ["Asked", time(row.requested_at)],
      ["On", row.stream && code(row.stream)],
      [
        "Needs",
        `${row.quorum} ${row.quorum === 1 ? "person" : "people"} of role ${[...row.approver_roles, ...row.escalated_to].join(" or ")}; ${row.agreed_count} agreed`,
      ],
      [
        "Expires",
        row.status === "pending" || row.status === "approved"
          ? [time(row.expires_at), left > 0 && !moment() ? muted(` in ${duration(left)}`) : ""]
          : null,
      ],
      ["Used", row.used_by_action && [time(row.used_at), " ", link(`#/audit/${row.used_by_action}`, "evidence")]],
      ["Escalated", row.escalated_at && time(row.escalated_at)],
      ["Withdrawn", row.withdrawal_comment],
      ["Voided", row.void_reason],
    ]),
    row.decisions.map(decision),
    folded(
      "What exactly is asked",
      row.inputs ? json(row.inputs) : null,
      facts([
        ["Digest", code(row.action_digest)],
        ["Policies", row.policy_version && code(row.policy_version)],
      ]),
    ),
    el("p", {}, link(`#/audit/${row.evidence_action_id}`, "Evidence of the request")),
    moment() || expired ? null : choices(row),
  );
}

const decision = (one) =>
  el(
    "p",
    { class: "decision" },
    chip(one.decision, one.decision === "agreed" ? "good" : "bad"),
    ` ${one.approver}${one.on_behalf_of ? ` for ${one.on_behalf_of}` : ""} (${one.roles.join(", ")}), `,
    time(one.at),
    one.comment ? el("q", {}, one.comment) : null,
  );

/** The requester may withdraw; anybody else may try to decide, and is told by the rules when it is not for them. */
function choices(row) {
  const own = row.requester === session().actor;
  if (own && ["pending", "approved"].includes(row.status)) {
    const hint =
      row.status === "approved" && row.command
        ? `Approved: send the same command again with the header Aureus-Approval: ${row.approval_id}`
        : "Somebody else decides on what you asked for.";
    return [el("p", { class: "note" }, hint), form(row, [["withdraw", "Withdraw", ""]])];
  }
  if (row.status !== "pending") return null;
  return form(row, [
    ["approve", "Approve", "main"],
    ["reject", "Reject", "danger"],
  ]);
}

function form(row, buttons) {
  const answer = el("div", { role: "status" });
  const keys = Object.fromEntries(buttons.map(([what]) => [what, newKey()]));
  const send = async (event) => {
    event.preventDefault();
    const what = event.submitter.value;
    const pressed = [...event.target.querySelectorAll("button")];
    const comment = new FormData(event.target).get("comment").trim();
    pressed.forEach((button) => (button.disabled = true));
    try {
      await command(decide(what, row.approval_id), comment ? { comment } : {}, keys[what]);
      const now = await get(path`/v1/approvals/${row.approval_id}`);
      const settled = approval(now);
      event.target.closest("article").replaceWith(settled);
      settled.prepend(el("p", { class: "note", role: "status" }, `Done: it is ${words(now.status)}.`));
    } catch (error) {
      if (error.status) keys[what] = newKey(); // answered: the next try is another request
      answer.replaceChildren(refusal(error));
      pressed.forEach((button) => (button.disabled = false));
    }
  };
  const made = el(
    "form",
    { class: "decide", onsubmit: send },
    field("Comment", el("textarea", { name: "comment", rows: 2, maxlength: 4_000 })),
    el(
      "div",
      { class: "buttons" },
      buttons.map(([value, label, tone]) => el("button", { name: "what", value, class: tone }, label)),
    ),
    answer,
  );
  return made;
}

const ROUTES = {
  approve: (id) => path`/v1/approvals/${id}/approve`,
  reject: (id) => path`/v1/approvals/${id}/reject`,
  withdraw: (id) => path`/v1/approvals/${id}/withdraw`,
};
const decide = (what, id) => ROUTES[what](id);
