// Budgets as a tree: what each level may spend, what is promised and spent of it, and what is left.

import { get } from "/console/api.js";
import { chip, el, empty, folded, money, muted, paged, refusal, svg, table, time } from "/console/ui.js";

const PAGE_ROWS = 500;

export async function budgets(page) {
  const rows = [];
  let cursor;
  do {
    const answer = await get("/v1/budgets", { sort: "budget_id", limit: PAGE_ROWS, cursor });
    rows.push(...answer.items);
    cursor = answer.next_cursor;
  } while (cursor);
  const legend = el(
    "p",
    { class: "legend" },
    el("span", { class: "key spent" }, "spent"),
    el("span", { class: "key reserved" }, "reserved"),
    el("span", { class: "key available" }, "available"),
  );
  page.append(el("h1", {}, "Budgets"));
  if (!rows.length) return void page.append(empty("No budget is open. An admin or approver opens one: aureus budgets open."));
  const roots = rows.filter((row) => row.parent_id === null);
  page.append(legend, ...roots.map((root) => el("section", { class: "card" }, el("ul", { class: "tree" }, branch(root, rows)))));
}

const branch = (row, rows) => {
  const below = rows.filter((one) => one.parent_id === row.budget_id);
  return el(
    "li",
    {},
    budget(row),
    below.length
      ? el(
          "ul",
          {},
          below.map((one) => branch(one, rows)),
        )
      : null,
  );
};

function budget(row) {
  const sum = (minor) => money(minor, row.currency);
  const amounts = [
    ["Limit", row.limit_minor],
    ["Reserved", row.reserved_minor],
    ["Spent", row.spent_minor],
    ["Available", row.available_minor],
  ];
  const reached = row.reached_percent.map((percent) => chip(`${percent}% reached`, percent >= 100 ? "bad" : "wait"));
  return el(
    "div",
    { class: "budget" },
    el(
      row.parent_id === null ? "h2" : "h3",
      {},
      row.label,
      " ",
      muted(row.budget_id),
      " ",
      reached,
      row.status === "open" ? null : chip(row.status),
    ),
    bar(row),
    el(
      "dl",
      { class: "amounts" },
      amounts.map(([name, minor]) => el("div", {}, el("dt", {}, name), el("dd", {}, sum(minor)))),
    ),
    reservations(row),
  );
}

function bar(row) {
  const share = (minor) => (row.limit_minor ? (100 * minor) / row.limit_minor : 0);
  const [spent, reserved] = [share(row.spent_minor), share(row.reserved_minor)];
  const told = [`${Math.round(spent)}% spent`, `${Math.round(reserved)}% reserved`, `${Math.round(100 - spent - reserved)}% available`];
  const label = `${row.label}: ${told.join(", ")}`;
  const part = (kind, x, width) => svg("rect", { class: kind, x, y: 0, width, height: 10 });
  return svg(
    "svg",
    { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": label },
    part("available", 0, 100),
    part("spent", 0, spent),
    part("reserved", spent, reserved),
  );
}

function reservations(row) {
  const headings = ["Reservation", "Amount", "Spent", "Status", "Reserved by", "Reserved", "Settled"];
  const line = (one) => [
    one.reservation_id,
    money(one.amount_minor, row.currency),
    money(one.spent_minor, row.currency),
    chip(one.status),
    one.reserved_by,
    time(one.reserved_at),
    time(one.settled_at),
  ];
  const shown = folded("Reservations");
  const load = (cursor) => get("/v1/reservations", { budget_id: row.budget_id, sort: "-reserved_at", cursor });
  const show = (items) => (items.length ? [table(`Reservations on ${row.label}`, headings, items.map(line))] : []);
  const open = () =>
    paged(load, show, "Nothing was reserved on this budget itself.").then(
      (list) => shown.append(list),
      (error) => shown.append(refusal(error)),
    );
  shown.addEventListener("toggle", open, { once: true });
  return shown;
}
