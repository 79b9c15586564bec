// The console's frame: logging in, finding the page that the address names, and the moment one looks at.

import {
  comeBack,
  leaveFor,
  leaveProvider,
  logIn,
  logOut,
  lookAt,
  moment,
  resume,
  returnToPresent,
  session,
  waysIn,
  whenSessionEnds,
} from "/console/api.js";
import { approvals } from "/console/approvals.js";
import { audit, evidence } from "/console/audit.js";
import { budgets } from "/console/budgets.js";
import { catalog, dataset } from "/console/catalog.js";
import { changes, timeline } from "/console/changes.js";
import { ledger } from "/console/ledger.js";
import { overview } from "/console/overview.js";
import { proofs } from "/console/proofs.js";
import { chip, el, field, link, refusal } from "/console/ui.js";

const PAGES = [
  { name: "overview", title: "Overview", list: overview },
  { name: "catalog", title: "Catalog", list: catalog, one: dataset },
  { name: "approvals", title: "Approvals", list: approvals },
  { name: "budgets", title: "Budgets", list: budgets },
  { name: "audit", title: "Audit", list: audit, one: evidence },
  { name: "changes", title: "Changes", list: changes, one: timeline },
  { name: "ledger", title: "Ledger", list: ledger },
  { name: "proofs", title: "Proofs", list: proofs },
];

const header = document.getElementById("header");
const banner = document.getElementById("moment");
const main = document.getElementById("main");
let current = new AbortController();

/** What the address names: #/<page>/<id>?<parameters>. */
function address() {
  const [route, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...id] = route.split("/");
  return { name: name || "overview", id: decodeURIComponent(id.join("/")), parameters: Object.fromEntries(new URLSearchParams(query)) };
}

/** Keeps what is set on a page in its address, so that it can be linked to; nothing is loaded again. */
function keep(parameters) {
  const query = new URLSearchParams(parameters).toString();
  history.replaceState(null, "", location.hash.split("?")[0] + (query ? `?${query}` : ""));
}

async function show({ focus = false } = {}) {
  current.abort();
  current = new AbortController();
  const { signal } = current;
  if (!session()) return showLogin();
  const { name, id, parameters } = address();
  const page = PAGES.find((one) => one.name === name) ?? PAGES[0];
  showFrame(page);
  const content = el("div", { class: "page" });
  main.replaceChildren(content);
  main.setAttribute("aria-busy", "true");
  document.title = `${page.title} · Aureus`;
  try {
    const draw = id && page.one ? page.one : page.list;
    await draw(content, { id, parameters, keep, signal, reload: show });
  } catch (error) {
    if (!signal.aborted)
      content.replaceChildren(el("h1", {}, page.title), refusal(error), el("p", {}, link(`#/${page.name}`, `← ${page.title}`)));
  }
  if (signal.aborted) return;
  main.removeAttribute("aria-busy");
  if (focus) main.focus({ preventScroll: true });
}

function showFrame(page) {
  const links = PAGES.map(({ name, title }) => el("a", { href: `#/${name}`, "aria-current": name === page.name && "page" }, title));
  const { actor, roles } = session();
  const leave = async () => {
    await logOut();
    // Nobody logs in again before the session there has ended as well.
    if (!(await leaveProvider().catch(() => false))) show();
  };
  header.replaceChildren(
    el("a", { class: "brand", href: "#/overview" }, el("img", { src: "/console/icon.svg", alt: "", width: 24, height: 24 }), "Aureus"),
    el("nav", { "aria-label": "Pages" }, links),
    momentControl(),
    el("div", { class: "me" }, el("span", { title: actor }, roles.join(", ")), el("button", { type: "button", onclick: leave }, "Log out")),
  );
  showMoment();
}

function showMoment() {
  const past = moment();
  document.body.classList.toggle("past", past !== null);
  if (!past) return banner.replaceChildren();
  const when = past.asOf === String(past.position) ? "" : ` (${new Date(past.asOf).toLocaleString()})`;
  banner.replaceChildren(
    el("p", {}, chip("the past", "wait"), ` You see Aureus as it stood at position ${past.position}${when}. Nothing can be decided here.`),
    el("button", { type: "button", onclick: toPresent }, "Return to the present"),
  );
}

function toPresent() {
  returnToPresent();
  show();
}

/** Chooses the moment that every page is about, by ledger position or by time. */
function momentControl() {
  const past = moment();
  const problem = el("div", {});
  const position = el("input", { name: "position", type: "number", min: 0, step: 1, inputmode: "numeric", value: past?.position });
  const at = el("input", { name: "at", type: "datetime-local", step: 1 });
  const look = async (event) => {
    event.preventDefault();
    try {
      await lookAt(at.value ? new Date(at.value).toISOString() : position.value);
      show();
    } catch (error) {
      problem.replaceChildren(refusal(error));
    }
  };
  const form = el(
    "form",
    { onsubmit: look },
    field("Ledger position", position),
    field("or a time (of this computer's zone)", at),
    el(
      "div",
      { class: "buttons" },
      el("button", { class: "main" }, "Look"),
      past && el("button", { type: "button", onclick: toPresent }, "Present"),
    ),
    problem,
  );
  const close = (event) => {
    if (event.key !== "Escape") return;
    event.currentTarget.open = false;
    event.currentTarget.firstChild.focus();
  };
  return el(
    "details",
    { class: "asof", onkeydown: close },
    el("summary", {}, "As of: ", el("strong", {}, past ? `position ${past.position}` : "now")),
    form,
  );
}

function showLogin(ended = false, refused = null) {
  header.replaceChildren();
  banner.replaceChildren();
  document.body.classList.remove("past");
  document.title = "Log in · Aureus";
  const problem = el(
    "div",
    {},
    ended ? el("p", { class: "note", role: "status" }, "Your session has ended. Log in to go on where you were.") : null,
    refused && refusal(refused),
  );
  const enter = async (event) => {
    event.preventDefault();
    const { login, password, ...more } = Object.fromEntries(new FormData(event.target));
    try {
      await logIn(login, password, more);
      await show({ focus: true });
    } catch (error) {
      problem.replaceChildren(refusal(error));
      askFor(error.code);
    }
  };
  const wanted = el("div", {});
  const BESIDES = {
    second_factor_needed: ["Code", { name: "code", autocomplete: "one-time-code" }],
    password_must_change: ["New password", { name: "new_password", type: "password", autocomplete: "new-password" }],
  };
  /** What the server wants besides a password gets a field of its own. */
  const askFor = (code) => {
    const [label, attributes] = BESIDES[code] ?? [];
    if (!label || wanted.querySelector(`[name=${attributes.name}]`)) return;
    const input = el("input", { ...attributes, required: true });
    wanted.append(field(label, input));
    input.focus();
  };
  const login = el("input", { name: "login", autocomplete: "username", required: true, autocapitalize: "none", spellcheck: "false" });
  main.removeAttribute("aria-busy");
  main.replaceChildren(
    el(
      "form",
      { class: "login card", onsubmit: enter },
      el("img", { src: "/console/icon.svg", alt: "", width: 48, height: 48 }),
      el("h1", {}, "Aureus"),
      el("p", { class: "muted" }, "Every governance action, signed and provable."),
      field("Login", login),
      field("Password", el("input", { name: "password", type: "password", autocomplete: "current-password", required: true })),
      wanted,
      el("button", { class: "main" }, "Log in"),
      providerButtons((error) => problem.replaceChildren(refusal(error))),
      problem,
      el(
        "p",
        { class: "muted" },
        "Trying the demo? Its logins and where their passwords lie are printed where Aureus was started. ",
        link("/docs", "API"),
      ),
    ),
  );
  login.focus();
}

/** A button for each identity provider, as soon as it is known which there are. */
function providerButtons(fail) {
  const buttons = el("div", { class: "providers" });
  const button = (provider) =>
    el("button", { type: "button", onclick: () => leaveFor(provider).catch(fail) }, `Log in with ${provider.name}`);
  waysIn().then(({ password, providers }) => {
    buttons.replaceChildren(...providers.map(button));
    if (!password) for (const one of main.querySelectorAll(".login .field, .login > .main")) one.remove();
  }, fail);
  return buttons;
}

/** Whoever comes back from an identity provider has a session to open first. */
async function start() {
  if (new URLSearchParams(location.search).has("welcome")) {
    history.replaceState(null, "", `/${location.hash}`);
    try {
      await comeBack();
    } catch (error) {
      return showLogin(false, error);
    }
  } else await resume();
  show();
}

whenSessionEnds(() => {
  current.abort();
  showLogin(true);
});
addEventListener("hashchange", () => show({ focus: true }));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
start();
