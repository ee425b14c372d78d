// Where everything is drawn: services in columns from callers to called, their versions as rows. Pure, touches no page.

const ROW = { width: 146, height: 34, gap: 10 };
const HEAD = 32;
const PAD = 10;
const COLUMN_GAP = 124;
const GROUP_GAP = 40;

export { ROW };
export const LABEL_HEIGHT = 34;

// graph: {nodes, edges} of /graph. Returns {groups, rows, width, height}; rows by node name.
export function layOut(graph) {
  const groups = groupNodes(graph.nodes);
  const calls = groupCalls(graph, groups);
  const columns = toColumns(groups, calls);
  orderColumns(columns, calls);
  return place(columns);
}

function groupNodes(nodes) {
  const groups = new Map();
  for (const [name, node] of Object.entries(nodes)) {
    const key = `${node.namespace}/${node.service}`;
    if (!groups.has(key)) groups.set(key, { key, service: node.service, namespace: node.namespace, rows: [] });
    groups.get(key).rows.push({ name, version: node.version });
  }
  for (const group of groups.values()) {
    group.rows.sort((a, b) => a.version.localeCompare(b.version, undefined, { numeric: true }));
    group.width = ROW.width + 2 * PAD;
    group.height = HEAD + group.rows.length * (ROW.height + ROW.gap) - ROW.gap + PAD;
  }
  return groups;
}

// Who calls whom among services: key -> set of keys. Calls that would close a circle are left out, so that columns end.
function groupCalls(graph, groups) {
  const owner = new Map();
  for (const group of groups.values()) for (const row of group.rows) owner.set(row.name, group.key);
  const all = new Map([...groups.keys()].map((key) => [key, new Set()]));
  const called = new Set();
  for (const edge of graph.edges) {
    const [from, to] = [owner.get(edge.source), owner.get(edge.target)];
    if (from === to) continue;
    all.get(from).add(to);
    called.add(to);
  }
  const forward = new Map([...groups.keys()].map((key) => [key, new Set()]));
  const state = new Map();
  const visit = (root) => {
    const stack = [[root, [...all.get(root)].sort()]];
    state.set(root, "open");
    while (stack.length) {
      const [key, left] = stack.at(-1);
      if (!left.length) {
        state.set(key, "done");
        stack.pop();
        continue;
      }
      const next = left.shift();
      if (state.get(next) === "open") continue;
      forward.get(key).add(next);
      if (!state.has(next)) {
        state.set(next, "open");
        stack.push([next, [...all.get(next)].sort()]);
      }
    }
  };
  const keys = [...groups.keys()].sort();
  for (const key of keys.filter((one) => !called.has(one))) if (!state.has(key)) visit(key);
  for (const key of keys) if (!state.has(key)) visit(key);
  return forward;
}

// Each service stands right of all its callers.
function toColumns(groups, calls) {
  const depth = new Map([...groups.keys()].map((key) => [key, 0]));
  const waiting = new Map([...groups.keys()].map((key) => [key, 0]));
  for (const targets of calls.values()) for (const to of targets) waiting.set(to, waiting.get(to) + 1);
  const ready = [...groups.keys()].filter((key) => !waiting.get(key));
  while (ready.length) {
    const key = ready.pop();
    for (const to of calls.get(key)) {
      depth.set(to, Math.max(depth.get(to), depth.get(key) + 1));
      waiting.set(to, waiting.get(to) - 1);
      if (!waiting.get(to)) ready.push(to);
    }
  }
  const columns = [];
  for (const group of [...groups.values()].sort((a, b) => a.key.localeCompare(b.key))) {
    (columns[depth.get(group.key)] ??= []).push(group);
  }
  return columns;
}

// Fewer crossings: each service goes where its callers and its called ones are on average, a few times over.
function orderColumns(columns, calls) {
  const neighbours = new Map();
  const note = (key, other) => neighbours.set(key, [...(neighbours.get(key) ?? []), other]);
  for (const [from, targets] of calls) for (const to of targets) { note(from, to); note(to, from); }
  for (let sweep = 0; sweep < 6; sweep += 1) {
    const position = new Map();
    for (const column of columns) column.forEach((group, index) => position.set(group.key, (index + 0.5) / column.length));
    for (const column of columns) {
      const wish = (group) => {
        const near = neighbours.get(group.key) ?? [];
        if (!near.length) return position.get(group.key);
        return near.reduce((sum, key) => sum + position.get(key), 0) / near.length;
      };
      column.sort((a, b) => wish(a) - wish(b) || a.key.localeCompare(b.key));
    }
  }
}

function place(columns) {
  const heights = columns.map((column) => column.reduce((sum, group) => sum + group.height + GROUP_GAP, -GROUP_GAP));
  const height = Math.max(0, ...heights);
  const rows = new Map();
  const groups = [];
  columns.forEach((column, index) => {
    const x = index * (ROW.width + 2 * PAD + COLUMN_GAP);
    let y = (height - heights[index]) / 2;
    for (const group of column) {
      groups.push({ ...group, x, y });
      group.rows.forEach((row, number) => {
        rows.set(row.name, { ...row, x: x + PAD, y: y + HEAD + number * (ROW.height + ROW.gap) });
      });
      y += group.height + GROUP_GAP;
    }
  });
  const width = Math.max(0, columns.length * (ROW.width + 2 * PAD + COLUMN_GAP) - COLUMN_GAP);
  return { groups, rows, width, height };
}

// The curve of an edge as a path, and where its label of that width stands: between two columns, where the edge is most
// alone. fan > 0: the caller has more edges there than the called one, so near the called one; fan < 0: near the caller.
export function curve(from, to, fan, width) {
  const start = { x: from.x + ROW.width, y: from.y + ROW.height / 2 };
  const end = { x: to.x - 5, y: to.y + ROW.height / 2 };
  if (end.x > start.x) {
    const bend = Math.min(Math.max((end.x - start.x) / 2, 50), 150);
    const ends = [start, { x: start.x + bend, y: start.y }, { x: end.x - bend, y: end.y }, end];
    const room = PAD + 4 + width / 2;
    const first = start.x + COLUMN_GAP * 0.4;
    const last = end.x - COLUMN_GAP * 0.4;
    const x = fan < 0 ? Math.max(first, start.x + room) : Math.min(fan ? last : last - COLUMN_GAP * 0.1, end.x + 5 - room);
    return { path: bezier(ends), middle: atX(ends, x), end };
  }
  // Backwards, or to itself: around, below.
  const low = Math.max(start.y, end.y) + 90;
  const ends = [start, { x: start.x + 130, y: low }, { x: end.x - 130, y: low }, end];
  return { path: bezier(ends), middle: at(ends, 0.5), end };
}

// The point of a curve that only goes to the right.
function atX(ends, x) {
  let [low, high] = [0, 1];
  for (let step = 0; step < 20; step += 1) {
    const middle = (low + high) / 2;
    if (at(ends, middle).x < x) low = middle; else high = middle;
  }
  return { x, y: at(ends, low).y };
}

function bezier([a, b, c, d]) {
  return `M${a.x} ${a.y}C${b.x} ${b.y} ${c.x} ${c.y} ${d.x} ${d.y}`;
}

function at([a, b, c, d], t) {
  const u = 1 - t;
  const mix = (axis) => u ** 3 * a[axis] + 3 * u * u * t * b[axis] + 3 * u * t * t * c[axis] + t ** 3 * d[axis];
  return { x: mix("x"), y: mix("y") };
}

// Moves labels down until none covers another one.
export function spread(labels) {
  const done = [];
  for (const label of [...labels].sort((a, b) => a.y - b.y)) {
    const near = done.filter((other) => Math.abs(other.x - label.x) < (other.width + label.width) / 2 + 4);
    for (const other of near.sort((a, b) => a.y - b.y)) {
      if (label.y - other.y < LABEL_HEIGHT + 3) label.y = other.y + LABEL_HEIGHT + 3;
    }
    done.push(label);
  }
}
