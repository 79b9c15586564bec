// The way to the API: who one is, which moment one looks at, and every answer as data or as an ApiError.

const TOKEN = "aureus.session";
const MOMENT = "aureus.moment";

/** An error as the API tells it: code, message, details (with the remedy) and the request's id. */
export class ApiError extends Error {
  constructor(status, { code, message, details = {}, request_id: requestId = "" }) {
    super(message);
    Object.assign(this, { status, code, details, request_id: requestId });
  }
}

const stored = (name) => JSON.parse(sessionStorage.getItem(name) ?? "null");
const store = (name, value) => (value === null ? sessionStorage.removeItem(name) : sessionStorage.setItem(name, JSON.stringify(value)));

/** Whose session it is, or null. It lives in this tab and ends with it. */
export const session = () => stored(TOKEN);
/** The past moment that every read is about, `{asOf, position}`, or null for the present. */
export const moment = () => stored(MOMENT);

let writtenUpTo = 0; // reads wait for what this tab has written
let onEnd = () => {};

/** Calls `listener` when a request finds the session over. */
export const whenSessionEnds = (listener) => (onEnd = listener);

export function logOut() {
  store(TOKEN, null);
  store(MOMENT, null);
  writtenUpTo = 0;
}

export async function logIn(login, password) {
  store(TOKEN, await send("POST", "/v1/auth/token", {}, { login, password }));
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
  const answer = await reached(url + query(parameters), { signal, headers: { Accept: "text/event-stream" } });
  if (!answer.ok) throw refused(answer.status, await answer.json());
  return answer;
}

/** A key nobody else has. */
export const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

function query(parameters) {
  const given = Object.entries(parameters).flatMap(([name, value]) => [value].flat().map((one) => [name, one]));
  const kept = given.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return kept.length ? `?${new URLSearchParams(kept)}` : "";
}

const reached = (url, options) => {
  const token = session()?.access_token;
  return fetch(url, {
    ...options,
    headers: { Accept: "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}), ...options.headers },
    credentials: "omit",
  });
};

async function send(method, url, parameters, body, headers = {}) {
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
  throw refused(answer.status, told);
}

function refused(status, told) {
  const error = told.error ?? { code: "unexpected_answer", message: `The server answered ${status}.` };
  if (status === 401 && session()) {
    logOut();
    onEnd();
  }
  return new ApiError(status, error);
}
