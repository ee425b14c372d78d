// The page: asks for the graph every few seconds, and keeps what the operator has chosen (in the address, to be shared).

import { draw } from "./drawing.js";
import { SECURITY, bytes, health, latency, number, percent, rate, title, traffic } from "./words.js";

const REFRESH = 5000;
const svg = document.getElementById("graph");
const message = document.getElementById("message");
const details = document.getElementById("details");
const horizon = document.getElementById("horizon");
const filterEmpty = document.getElementById("filter-empty");

let graph = { nodes: {}, edges: [] };
let picked = null;
let size = { width: 1, height: 1 };
let view = null; // what part of the drawing is seen; null: all of it
let timer = 0;
let asked = 0;

readAddress();
for (const control of [horizon, filterEmpty]) {
  control.addEventListener("change", () => { writeAddress(); refresh(); });
}
document.getElementById("fit").addEventListener("click", () => { view = null; show(); });
window.addEventListener("resize", fit);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") pick(null); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
listenToPointer();
refresh();

function readAddress() {
  const given = new URLSearchParams(location.search);
  const wanted = given.get("time_horizon");
  if (wanted && ![...horizon.options].some((option) => option.value === wanted)) horizon.add(new Option(wanted, wanted));
  if (wanted) horizon.value = wanted;
  filterEmpty.checked = given.get("filter_empty") === "true";
  writeAddress();
}

function parameters() {
  return new URLSearchParams({ time_horizon: horizon.value, filter_empty: filterEmpty.checked }).toString();
}

function writeAddress() {
  history.replaceState(null, "", `?${parameters()}`);
  for (const [id, path] of [["json", "graph"], ["dot", "dotgraph"], ["svg", "dotviz"]]) {
    document.getElementById(id).href = `${path}?${parameters()}`;
  }
}

async function refresh() {
  clearTimeout(timer);
  const mine = (asked += 1);
  try {
    const response = await fetch(`graph?${parameters()}`, { signal: AbortSignal.timeout(20_000) });
    const text = await response.text();
    if (mine !== asked) return; // another question was asked meanwhile
    if (!response.ok) throw new Error(text.trim());
    graph = JSON.parse(text);
    state("live", `live, ${new Date().toLocaleTimeString()}`);
    show();
  } catch (error) {
    if (mine !== asked) return;
    state("lost", "no answer");
    say(error instanceof TypeError ? "hostmesh servicegraph does not answer." : error.message);
  }
  if (!document.hidden) timer = setTimeout(refresh, REFRESH);
}

function state(kind, text) {
  document.getElementById("status").className = kind;
  document.getElementById("status-text").textContent = text;
  svg.classList.toggle("stale", kind === "lost");
}

function say(text) {
  message.hidden = !text;
  message.textContent = text;
}

function show() {
  const empty = !Object.keys(graph.nodes).length;
  const span = horizon.selectedOptions[0].textContent;
  say(empty ? `Nobody has called anybody in the last ${span}.\nSend a request through the mesh: it shows after the next scrape.` : "");
  if (picked?.node && !graph.nodes[picked.node]) picked = null;
  if (picked?.edge) picked = sameEdge(picked.edge);
  size = draw(svg, graph, picked, pick);
  fit();
  showDetails();
}

function sameEdge(edge) {
  const found = graph.edges.find((one) => one.source === edge.source && one.target === edge.target && one.protocol === edge.protocol);
  return found ? { edge: found } : null;
}

function pick(what) {
  const again = what && picked && (what.node ? what.node === picked.node : what.edge === picked.edge);
  picked = again ? null : what;
  show();
}

// The whole drawing, never larger than life; or the part that wheel and pointer have chosen.
function fit() {
  const { clientWidth: wide, clientHeight: high } = svg;
  if (!view) {
    const margin = 26;
    const scale = Math.max((size.width + 2 * margin) / wide, (size.height + 2 * margin + 40) / high, 1 / 1.2);
    const [width, height] = [wide * scale, high * scale];
    svg.setAttribute("viewBox", `${(size.width - width) / 2} ${(size.height - height) / 2 + 20} ${width} ${height}`);
    return;
  }
  svg.setAttribute("viewBox", `${view.x} ${view.y} ${wide * view.scale} ${high * view.scale}`);
}

function present() {
  const box = svg.viewBox.baseVal;
  return view ?? { x: box.x, y: box.y, scale: box.width / svg.clientWidth };
}

function listenToPointer() {
  svg.addEventListener("wheel", (event) => {
    event.preventDefault();
    const now = present();
    const scale = Math.min(Math.max(now.scale * 1.0015 ** event.deltaY, 0.3), 12);
    const { offsetX: x, offsetY: y } = event;
    view = { x: now.x + x * (now.scale - scale), y: now.y + y * (now.scale - scale), scale };
    fit();
  }, { passive: false });
  let from = null;
  svg.addEventListener("pointerdown", (event) => {
    if (event.target === svg) from = { x: event.clientX, y: event.clientY, view: present(), moved: false };
  });
  window.addEventListener("pointermove", (event) => {
    if (!from) return;
    const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
    from.moved ||= Math.hypot(dx, dy) > 4;
    if (!from.moved) return;
    svg.classList.add("moving");
    view = { ...from.view, x: from.view.x - dx * from.view.scale, y: from.view.y - dy * from.view.scale };
    fit();
  });
  window.addEventListener("pointerup", () => {
    if (from && !from.moved && picked) pick(null);
    from = null;
    svg.classList.remove("moving");
  });
}

function showDetails() {
  if (picked?.node) details.replaceChildren(...nodeDetails(picked.node));
  else if (picked?.edge) details.replaceChildren(...edgeDetails(picked.edge));
  else details.replaceChildren(...overview());
}

function called(name) {
  return title(graph.nodes[name]);
}

function overview() {
  const busy = graph.edges.filter(traffic);
  const sum = busy.reduce((total, edge) => total + (edge.protocol === "tcp" ? 0 : edge.rate), 0);
  const text = `${Object.keys(graph.nodes).length} workloads, ${number(sum)} requests a second between them`;
  const edges = [...graph.edges].sort((a, b) => b.errors - a.errors || b.rate - a.rate);
  return [html("h2", "Calls"), html("p", text), table(edges, (edge) => [called(edge.target), `from ${called(edge.source)}`])];
}

function nodeDetails(name) {
  const node = graph.nodes[name];
  const parts = [html("h2", name), html("p", node.version ? `Version ${node.version} of ${node.service}` : `All of ${node.service}`)];
  const incoming = graph.edges.filter((edge) => edge.target === name);
  const outgoing = graph.edges.filter((edge) => edge.source === name);
  if (incoming.length) parts.push(html("h3", "Called by"), table(incoming, (edge) => [called(edge.source)]));
  if (outgoing.length) parts.push(html("h3", "Calls"), table(outgoing, (edge) => [called(edge.target)]));
  return parts;
}

function edgeDetails(edge) {
  const facts = [["protocol", edge.protocol === "tcp" ? "TCP" : edge.protocol === "grpc" ? "gRPC" : "HTTP"]];
  if (edge.protocol === "tcp") {
    facts.push(["new connections", `${number(edge.rate)} a second`], ["bytes", `${bytes(edge.bytesPerSecond)} a second`]);
  } else {
    facts.push(["requests", `${number(edge.rate)} a second`], ["errors", percent(edge.errors), health(edge)]);
    if (edge.p50 != null) facts.push(["half within", latency(edge.p50)]);
    if (edge.p95 != null) facts.push(["95 % within", latency(edge.p95)]);
  }
  facts.push(["connection", SECURITY[edge.mtls]]);
  const list = html("dl");
  for (const [term, text, kind] of facts) list.append(html("dt", term), html("dd", text, kind ? `${kind}-text` : ""));
  return [html("h2", called(edge.target)), html("p", `called by ${called(edge.source)}`), list];
}

function table(edges, name) {
  const made = html("table");
  const head = html("tr");
  head.append(...["", "rate", "errors", "p95", ""].map((text) => html("th", text)));
  made.append(head, ...edges.map((edge) => edgeRow(edge, name(edge))));
  return made;
}

function edgeRow(edge, [first, second]) {
  const row = html("tr", "", "pick");
  const who = html("td", first);
  if (second) who.append(html("small", second));
  const errors = html("td", edge.protocol === "tcp" ? "" : percent(edge.errors), `${health(edge)}-text`);
  const lock = html("td");
  const secure = edge.mtls === "yes";
  lock.innerHTML = `<svg width="12" height="12" class="${secure ? "lock" : "open"}"><use href="#${secure ? "lock" : "open"}"/></svg>`;
  lock.title = SECURITY[edge.mtls];
  row.append(who, html("td", rate(edge)), errors, html("td", edge.p95 == null ? "" : latency(edge.p95)), lock);
  row.addEventListener("click", () => pick({ edge }));
  return row;
}

function html(name, text = "", kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}
