// Lineage as a picture: sources on the left, what is made from them to the right, a curve for every edge.

import { el, svg } from "/console/ui.js";

const NODE = { width: 184, height: 44, gapX: 44, gapY: 14 };
const LETTERS_SHOWN = 20;

/**
 * The column of each dataset: one to the right of the rightmost it is made from.
 * A circle stops after as many rounds as there are nodes.
 */
function columnsOf(nodes, edges) {
  const columns = new Map(nodes.map((node) => [node.dataset_id, 0]));
  for (let round = 0; round < nodes.length; round += 1) {
    let moved = false;
    for (const { upstream_id: from, downstream_id: to } of edges) {
      if (columns.get(to) <= columns.get(from) && columns.get(from) + 1 < nodes.length) {
        columns.set(to, columns.get(from) + 1);
        moved = true;
      }
    }
    if (!moved) break;
  }
  return columns;
}

/**
 * Every edge as a chain through the columns between its ends: a long edge gets a place in each,
 * so that it is not drawn over a dataset.
 */
function chained(edges, columns) {
  return edges.map(({ upstream_id: from, downstream_id: to }) => {
    const between = Math.max(0, columns.get(to) - columns.get(from) - 1);
    const points = Array.from({ length: between }, (_, step) => ({ id: `${from} → ${to} ${step}`, column: columns.get(from) + step + 1 }));
    return [{ id: from, column: columns.get(from) }, ...points, { id: to, column: columns.get(to) }];
  });
}

/**
 * Where every dataset and every point of a chain is drawn: in its column,
 * near the height of what leads to it, so that few curves cross.
 */
function placed(nodes, chains, columns) {
  const columnOf = new Map(columns);
  chains.flat().forEach(({ id, column }) => columnOf.set(id, column));
  const leading = new Map();
  chains.forEach((chain) => chain.slice(1).forEach(({ id }, index) => leading.set(id, [...(leading.get(id) ?? []), chain[index].id])));
  const layers = Array.from({ length: Math.max(...columnOf.values()) + 1 }, (_, column) =>
    [...columnOf.keys()].filter((id) => columnOf.get(id) === column),
  );
  const tallest = Math.max(...layers.map((layer) => layer.length));
  const places = new Map();
  layers.forEach((layer, column) => {
    const wanted = (id) => {
      const heights = (leading.get(id) ?? []).filter((one) => places.has(one)).map((one) => places.get(one).y);
      return heights.length ? heights.reduce((sum, y) => sum + y, 0) / heights.length : 0;
    };
    const sorted = layer.map((id) => [wanted(id), id]).sort(([one], [other]) => one - other);
    sorted.forEach(([, id], row) => {
      const y = (row + (tallest - layer.length) / 2) * (NODE.height + NODE.gapY);
      places.set(id, { x: column * (NODE.width + NODE.gapX), y });
    });
  });
  return places;
}

const shortened = (text) => (text.length > LETTERS_SHOWN ? `…${text.slice(1 - LETTERS_SHOWN)}` : text);

function box(node, place, isCentre, href) {
  const name = node.name ?? node.dataset_id;
  const kind = isCentre ? "centre" : node.registered ? "" : "unknown";
  const drawn = svg(
    "g",
    { class: `node ${kind}`, transform: `translate(${place.x} ${place.y})` },
    svg("title", {}, node.dataset_id),
    svg("rect", { width: NODE.width, height: NODE.height, rx: 8 }),
    svg("text", { x: 12, y: 19 }, shortened(name)),
    svg(
      "text",
      { x: 12, y: 35, class: "small" },
      shortened(node.registered ? `${node.domain} · ${node.pii_level === "none" ? "no" : node.pii_level} PII` : "not in the catalog"),
    ),
  );
  return node.registered && !isCentre ? svg("a", { href: href(node.dataset_id), "aria-label": name }, drawn) : drawn;
}

/** A curve through the places of a chain; it crosses the columns between its ends in a straight line. */
function curve(chain) {
  const middle = (place) => place.y + NODE.height / 2;
  const [first, ...rest] = chain;
  let [x, y] = [first.x + NODE.width, middle(first)];
  const drawn = [`M${x} ${y}`];
  rest.forEach((place, index) => {
    const bend = Math.max(20, Math.abs(place.x - x) / 2);
    drawn.push(`C${x + bend} ${y} ${place.x - bend} ${middle(place)} ${place.x} ${middle(place)}`);
    [x, y] = [place.x + NODE.width, middle(place)];
    if (index < rest.length - 1) drawn.push(`H${x}`);
  });
  return svg("path", { class: "edge", d: drawn.join(" ") });
}

/** The graph around one dataset; `href` says where a dataset's page is. */
export function lineageGraph({ dataset_id: centre, nodes, edges }, href) {
  const columns = columnsOf(nodes, edges);
  const chains = chained(edges, columns);
  const places = placed(nodes, chains, columns);
  const [right, bottom] = ["x", "y"].map((axis) => Math.max(...[...places.values()].map((place) => place[axis])));
  const [width, height] = [right + NODE.width + 4, bottom + NODE.height + 4];
  const label = `Lineage: ${nodes.length} datasets, ${edges.length} edges, from sources on the left to what is made of them`;
  return el(
    "div",
    { class: "scroll", role: "region", "aria-label": label, tabindex: "0" },
    svg(
      "svg",
      { class: "lineage", viewBox: `-2 -2 ${width} ${height}`, width, height, "aria-label": label, role: "group" },
      chains.map((chain) => curve(chain.map(({ id }) => places.get(id)))),
      nodes.map((node) => box(node, places.get(node.dataset_id), node.dataset_id === centre, href)),
    ),
  );
}
