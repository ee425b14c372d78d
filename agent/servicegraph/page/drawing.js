// Draws the graph as SVG. Every text comes in by textContent, so nothing in a name is ever markup.

import { LABEL_HEIGHT, ROW, curve, layOut, spread } from "./layout.js";
import { health, latency, percent, rate, traffic } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Replaces what the svg shows; `pick` is called with {node} or {edge} that is clicked, `picked` is the present one.
export function draw(svg, graph, picked, pick) {
  const layout = layOut(graph);
  const incoming = sums(graph.edges, "target");
  const outgoing = sums(graph.edges, "source");
  const shown = neighbourhood(graph, picked);
  const edges = element("g");
  const labels = element("g");
  const drawn = graph.edges.map((edge) => {
    const fan = outgoing.get(edge.source).edges - incoming.get(edge.target).edges;
    const text = words(edge);
    const width = labelWidth(text);
    const line = curve(layout.rows.get(edge.source), layout.rows.get(edge.target), fan, width);
    return { edge, line, text, label: { ...line.middle, width } };
  });
  spread(drawn.filter((one) => traffic(one.edge)).map((one) => one.label));
  for (const one of drawn) {
    const dim = shown && !shown.edges.has(one.edge);
    edges.append(drawEdge(one, dim, pick));
    if (traffic(one.edge)) labels.append(drawLabel(one, dim, picked, pick));
  }
  const groups = layout.groups.map((group) => drawGroup(group, layout, incoming, shown, picked, pick));
  svg.replaceChildren(edges, ...groups, labels);
  const bottom = Math.max(layout.height, ...drawn.map((one) => one.label.y + 20));
  return { width: layout.width, height: bottom };
}

function sums(edges, end) {
  const found = new Map();
  for (const edge of edges) {
    const sum = found.get(edge[end]) ?? { rate: 0, failed: 0, bytes: 0, tcp: true, edges: 0 };
    sum.edges += 1;
    sum.rate += edge.rate;
    sum.failed += edge.rate * edge.errors;
    sum.bytes += edge.bytesPerSecond;
    sum.tcp &&= edge.protocol === "tcp";
    found.set(edge[end], sum);
  }
  return found;
}

function neighbourhood(graph, picked) {
  if (!picked) return null;
  const touches = (edge) =>
    picked.node ? edge.source === picked.node || edge.target === picked.node
      : edge.source === picked.edge.source && edge.target === picked.edge.target;
  const edges = new Set(graph.edges.filter(touches));
  const nodes = new Set(picked.node ? [picked.node] : []);
  for (const edge of edges) nodes.add(edge.source).add(edge.target);
  return { edges, nodes };
}

function drawEdge({ edge, line }, dim, pick) {
  const kind = health(edge);
  const width = traffic(edge) ? Math.min(1.8 + Math.log10(1 + edge.rate) * 1.4, 6) : 1.4;
  const { x, y } = line.end;
  const made = element("g", { class: `edge ${kind} ${edge.protocol}${dim ? " dim" : ""}` },
    element("path", { class: "hit", d: line.path }),
    element("path", { class: "line", d: line.path, "stroke-width": width }),
    element("path", { class: "arrow", d: `M${x + 5} ${y}l-9 -5v10z` }));
  made.addEventListener("click", () => pick({ edge }));
  return made;
}

// The two lines of a label: lists of [class, text].
function words(edge) {
  const second = [];
  if (edge.p95 !== null && edge.p95 !== undefined) second.push(["", latency(edge.p95)]);
  if (edge.errors >= 0.0005) second.push(["share", percent(edge.errors)]);
  return [[["", rate(edge)]], second];
}

function labelWidth([first, second]) {
  const width = (parts) => parts.reduce((sum, [, text]) => sum + text.length * 6.9 + 6, -6);
  return Math.max(width(first) + 16, width(second)) + 16;
}

function drawLabel({ edge, label, text }, dim, picked, pick) {
  const is = picked?.edge && picked.edge.source === edge.source && picked.edge.target === edge.target;
  const height = text[1].length ? LABEL_HEIGHT : LABEL_HEIGHT - 14;
  const [left, top] = [label.x - label.width / 2, label.y - height / 2];
  const secure = edge.mtls === "yes";
  const first = line(text[0], label.x + 8, top + 14);
  const made = element("g", { class: `label ${health(edge)}${dim ? " dim" : ""}${is ? " picked" : ""}` },
    element("rect", { x: left, y: top, width: label.width, height, rx: 9 }),
    element("use", {
      href: secure ? "#lock" : "#open", class: secure ? "lock" : "open",
      x: label.x - text[0][0][1].length * 3.3 - 8, y: top + 4.5, width: 11, height: 11,
    }),
    first, line(text[1], label.x, top + 28));
  made.addEventListener("click", () => pick({ edge }));
  return made;
}

function line(parts, x, y) {
  const made = element("text", { x, y, "text-anchor": "middle" });
  parts.forEach(([kind, word], index) => {
    const part = element("tspan", { class: kind, dx: index ? 6 : 0 });
    part.textContent = word;
    made.append(part);
  });
  return made;
}

function drawGroup(group, layout, incoming, shown, picked, pick) {
  const made = element("g", { class: "group" },
    element("rect", { class: "box", x: group.x, y: group.y, width: group.width, height: group.height, rx: 11 }));
  const title = element("text", { class: "title", x: group.x + 13, y: group.y + 21 });
  title.textContent = shorten(group.service, 19);
  made.append(title);
  if (group.namespace && group.namespace !== "default") {
    const namespace = element("tspan", { class: "namespace", dx: 7 });
    namespace.textContent = shorten(group.namespace, Math.max(3, 17 - group.service.length));
    title.append(namespace);
  }
  for (const { name } of group.rows) {
    const sum = incoming.get(name) ?? { rate: 0, failed: 0, bytes: 0, tcp: false };
    made.append(drawRow(layout.rows.get(name), sum, shown && !shown.nodes.has(name), picked?.node === name, pick));
  }
  return made;
}

function drawRow(row, sum, dim, picked, pick) {
  const one = { rate: sum.rate, errors: sum.rate ? sum.failed / sum.rate : 0, bytesPerSecond: sum.bytes,
    protocol: sum.tcp ? "tcp" : "http" };
  const made = element("g", {
    class: `row ${health(one)}${dim ? " dim" : ""}${picked ? " picked" : ""}`, tabindex: 0, role: "button", "data-node": row.name,
  }, element("rect", { x: row.x, y: row.y, width: ROW.width, height: ROW.height, rx: 7 }),
  element("circle", { cx: row.x + 14, cy: row.y + ROW.height / 2, r: 4.5 }));
  const version = element("text", { x: row.x + 27, y: row.y + 21 });
  version.textContent = row.version ? shorten(row.version, 9) : "–";
  const side = element("text", { class: "rate", x: row.x + ROW.width - 11, y: row.y + 21 });
  side.textContent = traffic(one) ? rate(one) : "";
  const title = element("title");
  title.textContent = row.name;
  made.append(version, side, title);
  made.addEventListener("click", () => pick({ node: row.name }));
  made.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") pick({ node: row.name }); });
  return made;
}

function shorten(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}
