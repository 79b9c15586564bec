// Building blocks of the pages. Text only ever enters the document as text nodes, so no datum can become markup.

const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const el = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

export const link = (href, ...children) => el("a", { href }, ...children);
export const code = (text) => el("code", {}, String(text));
export const muted = (...children) => el("span", { class: "muted" }, ...children);
export const chip = (text, tone = "plain") => el("span", { class: `chip ${tone}` }, String(text));
export const card = (title, ...children) => el("section", { class: "card" }, el("h2", {}, title), ...children);
export const empty = (text) => el("p", { class: "empty" }, text);

export const words = (name) => String(name).replaceAll("_", " ");
export const number = (value) => new Intl.NumberFormat().format(value);

const OUTCOMES = {
  allowed: ["allowed", "good"],
  blocked: ["blocked", "bad"],
  requires_approval: ["requires approval", "wait"],
  allow: ["allow", "good"],
  block: ["block", "bad"],
  require_approval: ["require approval", "wait"],
};
export const outcome = (value) => chip(...(OUTCOMES[value] ?? [words(value)]));

const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
export const time = (text) => (text ? el("time", { datetime: text, title: text }, MOMENT.format(new Date(text))) : "–");

export function duration(seconds) {
  const units = [
    [86_400, "day"],
    [3_600, "hour"],
    [60, "minute"],
    [1, "second"],
  ];
  const [size, unit] = units.find(([size]) => Math.abs(seconds) >= size) ?? units.at(-1);
  const count = Math.round(Math.abs(seconds) / size);
  return `${count} ${unit}${count === 1 ? "" : "s"}`;
}

export function money(minor, currency) {
  const format = new Intl.NumberFormat(undefined, { style: "currency", currency });
  return format.format(minor / 10 ** format.resolvedOptions().maximumFractionDigits);
}

/** Names and values, side by side; what is null is left out. */
export const facts = (entries) =>
  el(
    "dl",
    { class: "facts" },
    entries
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );

/** A row of a table. */
export const tableRow = (cells, attributes = {}) =>
  el(
    "tr",
    attributes,
    cells.map((cell) => el("td", {}, cell)),
  );

/** A table that scrolls by itself where it is wider than the page. */
export const table = (caption, headings, rows) =>
  el(
    "div",
    { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" },
    el(
      "table",
      {},
      el("caption", { class: "hidden" }, caption),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          headings.map((heading) => el("th", { scope: "col" }, heading)),
        ),
      ),
      el(
        "tbody",
        {},
        rows.map((row) => (row instanceof Node ? row : tableRow(row))),
      ),
    ),
  );

export const json = (value) => el("pre", { tabindex: "0" }, JSON.stringify(value, null, 2));
export const folded = (summary, ...children) => el("details", {}, el("summary", {}, summary), ...children);

/** What the API said no to: its code, its sentence, what would help, and the id to ask the operator about. */
export function refusal(error) {
  const { details = {}, request_id: requestId } = error;
  return el(
    "div",
    { class: "refusal", role: "alert" },
    el("p", {}, chip(error.code ?? "error", "bad"), " ", el("strong", {}, error.message)),
    details.remedy ? el("p", {}, details.remedy) : null,
    details.action_id ? el("p", {}, link(`#/audit/${details.action_id}`, "The refusal is on record: see its evidence")) : null,
    requestId ? el("p", { class: "muted" }, "Request ", code(requestId)) : null,
  );
}

/** A labelled field. */
export const field = (label, control) => el("label", { class: "field" }, el("span", {}, label), control);

export const select = (name, value, options) =>
  el(
    "select",
    { name },
    options.map(([option, label]) => el("option", { value: option, selected: option === value }, label)),
  );

/** A form of filters: `changed` gets what is set, a moment after the last keystroke. */
export function filters(changed, ...fields) {
  let waiting;
  const tell = () => {
    clearTimeout(waiting);
    changed(Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== "")));
  };
  const form = el(
    "form",
    {
      class: "filters",
      role: "search",
      onsubmit: (event) => {
        event.preventDefault();
        tell();
      },
      oninput: () => {
        clearTimeout(waiting);
        waiting = setTimeout(tell, 250);
      },
    },
    ...fields,
  );
  return form;
}

/** A list that loads page by page: `load(cursor)` answers `{items, next_cursor}`, `show(items)` makes nodes of them. */
export async function paged(load, show, none) {
  const button = el("button", { type: "button", class: "more" }, "Show more");
  const list = el("div", { class: "stack" });
  let cursor;
  const next = async () => {
    const page = await load(cursor);
    cursor = page.next_cursor;
    button.before(...show(page.items));
    if (!cursor) button.remove();
  };
  button.addEventListener("click", () => next().catch((error) => button.before(refusal(error))));
  list.append(button);
  await next();
  if (!list.children.length) list.append(empty(none));
  return list;
}

/** Shows what was searched for last, whichever answer comes first; `results` is where. */
export function latest(results, search) {
  let asked = 0;
  return async (...given) => {
    asked += 1;
    const turn = asked;
    const found = await search(...given).catch(refusal);
    if (turn === asked) results.replaceChildren(found);
  };
}
