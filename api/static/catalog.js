// The catalog: finding datasets, and one dataset with its schema, owners, freshness, lineage, meaning and history.

import { get, lookAt, path } from "/console/api.js";
import { lineageGraph } from "/console/lineage.js";
import {
  card,
  chip,
  code,
  duration,
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
  paged,
  refusal,
  select,
  table,
  time,
} from "/console/ui.js";

const PII = { none: "plain", low: "wait", high: "bad" };
const options = (any, values) => [["", any], ...values.map((value) => [value, value])];

export async function catalog(page, { parameters, keep }) {
  const results = el("div", {});
  const search = latest(results, (set) => {
    keep(set);
    return paged(
      (cursor) => get("/v1/datasets", { sort: "name", ...set, limit: 50, cursor }),
      (items) => (items.length ? [datasets(items)] : []),
      "No dataset matches.",
    );
  });
  page.append(
    el("h1", {}, "Catalog"),
    filters(
      search,
      field("Search", el("input", { name: "q", type: "search", value: parameters.q, placeholder: "id, name or description" })),
      field("Personal data", select("pii_level", parameters.pii_level ?? "", options("any level", ["none", "low", "high"]))),
      field("Jurisdiction", select("jurisdiction", parameters.jurisdiction ?? "", options("any", ["US", "EU", "UK", "APAC", "multi"]))),
      field("Environment", select("environment", parameters.environment ?? "", options("any", ["dev", "staging", "production"]))),
      field("Status", select("status", parameters.status ?? "", options("any", ["active", "deprecated"]))),
    ),
    results,
  );
  await search(parameters);
}

const pii = (level) => chip(level === "none" ? "no PII" : `${level} PII`, PII[level]);
const href = (id) => `#/catalog/${encodeURIComponent(id)}`;

const datasets = (items) =>
  table(
    "Datasets",
    ["Name", "Domain", "Personal data", "Jurisdiction", "Environment", "Owners", "Columns"],
    items.map((row) => [
      [
        link(href(row.dataset_id), row.name),
        row.status === "active" ? "" : [" ", chip(row.status)],
        el("div", { class: "id" }, row.dataset_id),
      ],
      row.domain,
      pii(row.pii_level),
      row.jurisdiction,
      row.environment,
      row.owner_ids.length ? row.owner_ids.join(", ") : muted("none"),
      number(row.columns.length),
    ]),
  );

export async function dataset(page, { id, reload }) {
  const row = await get(path`/v1/datasets/${id}`);
  const part = (title, load) => {
    const body = el("div", {});
    load().then(
      (nodes) => body.replaceChildren(...[nodes].flat()),
      (error) => body.replaceChildren(refusal(error)),
    );
    return card(title, body);
  };
  page.append(
    el("p", {}, link("#/catalog", "← Catalog")),
    el("h1", {}, row.name, " ", pii(row.pii_level), " ", row.status === "active" ? "" : chip(row.status, "wait")),
    el("p", { class: "id" }, row.dataset_id),
    el("p", {}, row.description ?? ""),
    el("p", {}, link(`#/changes/dataset/${encodeURIComponent(id)}`, "Everything that happened to it")),
    row.deprecation_reason
      ? el(
          "p",
          { class: "note" },
          row.deprecation_reason,
          row.replaced_by ? [" Use ", link(href(row.replaced_by), row.replaced_by), " instead."] : "",
        )
      : "",
    facts([
      ["Domain", row.domain],
      ["Jurisdiction", row.jurisdiction],
      ["Environment", row.environment],
      ["Tags", row.tags.length ? row.tags.map((tag) => [chip(tag), " "]) : muted("none")],
      ["Owners", row.owners.length ? row.owners.map((owner) => el("div", {}, owner.owner_id, muted(` ${owner.role}`))) : muted("nobody")],
      ["Registered", [time(row.registered_at), muted(` by ${row.registered_by}`)]],
      ["Changed", time(row.changed_at)],
    ]),
    part("Freshness", () => freshness(id)),
    part("Lineage", () => lineage(id)),
    card(`Schema, version ${row.schema_version}`, schema(row.columns)),
    part("Meaning", () => meaning(id)),
    row.contract ? card("Contract", folded("The contract as it was recorded", json(row.contract))) : "",
    part("History", () => history(id, reload)),
  );
}

async function freshness(id) {
  const found = await get(path`/v1/datasets/${id}/freshness`);
  if (!found.freshness_sla) return empty("No freshness is promised.");
  return [
    el("p", {}, found.fresh ? chip("fresh", "good") : chip("stale", "bad")),
    facts([
      ["Promised", `every ${found.freshness_sla}`],
      [
        "Last refreshed",
        found.last_refresh_at ? [time(found.last_refresh_at), muted(` ${duration(found.age_seconds)} before`)] : muted("never"),
      ],
      ["Due", found.due_at && time(found.due_at)],
    ]),
  ];
}

async function lineage(id) {
  const graph = await get(path`/v1/datasets/${id}/lineage`);
  return graph.edges.length ? lineageGraph(graph, href) : empty("Nothing is known of where it comes from or where it goes.");
}

function schema(columns) {
  if (!columns.length) return empty("No columns are known.");
  const row = (column) => [
    [code(column.name), column.primary_key ? [" ", chip("key")] : ""],
    column.type ?? muted("unknown"),
    [column.pii && column.pii !== "none" ? pii(column.pii) : "", column.classification ? [" ", chip(column.classification)] : ""],
    column.nullable === false ? "required" : "",
    column.description ?? "",
  ];
  return table("Columns", ["Column", "Type", "Privacy", "Nulls", "Description"], columns.map(row));
}

async function meaning(id) {
  const { items } = await get(path`/v1/datasets/${id}/terms`);
  if (!items.length) return empty("No column is linked to a term of the glossary.");
  return table(
    "Terms",
    ["Column", "Term", "Definition"],
    items.map((one) => [code(one.column), one.term?.name ?? one.term_id, one.term?.definition ?? ""]),
  );
}

async function history(id, reload) {
  const { items } = await get(path`/v1/datasets/${id}/history`);
  const look = (position) => async () => {
    await lookAt(String(position));
    reload();
  };
  const row = (one) => [
    number(one.position),
    link(`#/audit/${one.action_id}`, one.type),
    one.actor,
    time(one.at),
    el(
      "button",
      { type: "button", class: "small", onclick: look(one.position), "aria-label": `Look at it as of position ${one.position}` },
      "as it was then",
    ),
  ];
  return table("What happened to it, newest first", ["Position", "Event", "Actor", "When", ""], items.reverse().map(row));
}
