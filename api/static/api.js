// The way to the API: who one is, which moment one looks at, and every answer as data or as an ApiError.

const PROVIDED = "aureus.provided";
const MOMENT = "aureus.moment";
const LOCK = "aureus.refresh";
const COOKIES = /^\/v1\/auth\//; // they are for logging in, and for nothing else
const MARGIN_MS = 30_000;

/** An error as the API tells it: code, message, details (with the remedy) and the request's id. */
export class ApiError extends Error {
  constructor(status, { code, message, details = {}, request_id: requestId = "" }) {
    super(message);
    Object.assign(this, { status, code, details, request_id: requestId });
  }
}

const stored = (name) => JSON.parse(sessionStorage.getItem(name) ?? "null");
const store = (name, value) => (value === null ? sessionStorage.removeItem(name) : sessionStorage.setItem(name, JSON.stringify(value)));

let current = null; // the access token lives in this tab's memory alone; the refresh token in a cookie that no script can read

/** Whose session it is, or null. */
export const session = () => current;
/** The past moment that every read is about, `{asOf, position}`, or null for the present. */
export const moment = () => stored(MOMENT);

let writtenUpTo = 0; // reads wait for what this tab has written
let onEnd = () => {};

/** Calls `listener` when a request finds the session over. */
export const whenSessionEnds = (listener) => (onEnd = listener);

function forget() {
  current = null;
  store(MOMENT, null);
  writtenUpTo = 0;
}

/** Ends the session, at the server and here. */
export async function logOut() {
  await sent("/v1/auth/logout", { method: "POST" }).catch(() => {});
  forget();
}

/** Logs in; `more` is what the server may want besides: a code, a new password. */
export async function logIn(login, password, more = {}) {
  keep(await send("POST", "/v1/auth/token", {}, { login, password, cookie: true, ...more }));
  store(PROVIDED, null);
}

const keep = (tokens) => (current = { ...tokens, until: Date.now() + tokens.expires_in * 1000 });

/** Takes up the session that this browser has, if it has one. */
export const resume = () => refresh(null);

/** Gets the next access token for the cookie, which is good for one: whoever asks, in whatever tab, waits for who asked before. */
async function refresh(before) {
  const next = async () => {
    if (current !== before) return;
    const answer = await sent("/v1/auth/refresh", { method: "POST" }).catch(() => null);
    if (answer?.ok) keep(await answer.json());
    else if (answer) current = null;
  };
  await (navigator.locks ? navigator.locks.request(LOCK, next) : next());
  return current !== null && current !== before;
}

/** How people log in here: with a password or not, and through which identity providers. */
export const waysIn = () => send("GET", "/v1/auth/providers", {});

/** Goes to the identity provider, which sends the browser back to the page that it is on. */
export const leaveFor = async (provider) => location.assign((await send("GET", provider.login, { to: location.hash })).url);

/** Opens the session of whoever has just come back from there. */
export async function comeBack() {
  keep(await send("POST", "/v1/auth/oidc/session", {}));
  store(PROVIDED, true);
}

/** Ends the session there too, if it is that which this one came from: else the next click would log in again. Says whether it goes there. */
export async function leaveProvider() {
  const provided = stored(PROVIDED);
  store(PROVIDED, null);
  if (provided) location.assign((await send("GET", "/v1/auth/oidc/logout", {})).url);
  return Boolean(provided);
}

/** Looks at the past from now on; answers only when the API knows that moment. */
export async function lookAt(asOf) {
  const { position } = await send("GET", "/v1/budgets", { as_of: asOf, limit: 1 });
  store(MOMENT, { asOf, position });
}

export const returnToPresent = () => store(MOMENT, null);

/** A path whose parts are escaped: path`/v1/datasets/${id}`. */
export const path = (parts, ...values) => String.raw({ raw: parts }, ...values.map(encodeURIComponent));

/** Reads, at the moment that one looks at. */
export function get(url, parameters = {}) {
  const past = moment();
  const when = past ? { as_of: past.asOf } : writtenUpTo ? { at_least: writtenUpTo } : {};
  return send("GET", url, { ...parameters, ...when });
}

/** Reads what has no past: where the ledger and its read models stand now. */
export const getNow = (url, parameters = {}) => send("GET", url, parameters);

/** Sends a command; sent again with the same key it is carried out once. */
export async function command(url, body, key) {
  const answer = await send("POST", url, {}, body, { "Idempotency-Key": key });
  writtenUpTo = Math.max(writtenUpTo, answer.position);
  return answer;
}

/** The answer that tells a live feed, for as long as it goes on. */
export async function openFeed(url, parameters, signal) {
  const hadSession = current !== null;
  const answer = await reached(url + query(parameters), { signal, headers: { Accept: "text/event-stream" } });
  if (!answer.ok) throw refused(answer.status, await answer.json(), hadSession);
  return answer;
}

/** A key nobody else has. */
export const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

function query(parameters) {
  const given = Object.entries(parameters).flatMap(([name, value]) => [value].flat().map((one) => [name, one]));
  const kept = given.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return kept.length ? `?${new URLSearchParams(kept)}` : "";
}

/** The answer; when the session's token runs out, or is refused, the next one is had for it first. */
async function reached(url, options) {
  const before = current;
  if (before && Date.now() > before.until - MARGIN_MS) await refresh(before);
  const answer = await sent(url, options);
  return answer.status === 401 && before && (await refresh(before)) ? sent(url, options) : answer;
}

const sent = (url, options) => {
  const token = current?.access_token;
  return fetch(url, {
    ...options,
    headers: { Accept: "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}), ...options.headers },
    credentials: COOKIES.test(url) ? "same-origin" : "omit",
  });
};

async function send(method, url, parameters, body, headers = {}) {
  const hadSession = current !== null;
  let answer;
  try {
    answer = await reached(url + query(parameters), {
      method,
      headers: { ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new ApiError(0, {
      code: "unreachable",
      message: "Aureus does not answer.",
      details: { remedy: "See that it runs, then try again." },
    });
  }
  const isJson = (answer.headers.get("content-type") ?? "").includes("json");
  const told = isJson ? await answer.json() : await answer.text();
  if (answer.ok) return told;
  throw refused(answer.status, told, hadSession);
}

function refused(status, told, hadSession) {
  const error = told.error ?? { code: "unexpected_answer", message: `The server answered ${status}.` };
  if (status === 401 && hadSession) {
    forget();
    onEnd();
  }
  return new ApiError(status, error);
}
