// Numbers as people read them, and how an edge fares. Pure.

export const GOOD_SHARE = 0.001;
export const BAD_SHARE = 0.05;

export function traffic(edge) {
  return edge.rate > 0 || edge.bytesPerSecond > 0;
}

export function health(edge) {
  if (!traffic(edge)) return "idle";
  return edge.errors >= BAD_SHARE ? "bad" : edge.errors >= GOOD_SHARE ? "fair" : "good";
}

export function number(value) {
  if (value === 0) return "0";
  if (value < 0.01) return "<0.01";
  if (value < 10) return value.toFixed(value < 1 ? 2 : 1);
  if (value < 10_000) return Math.round(value).toString();
  return value < 1e6 ? `${(value / 1e3).toFixed(1)}k` : `${(value / 1e6).toFixed(1)}M`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let step = 0;
  while (value >= 1024 && step < units.length - 1) { value /= 1024; step += 1; }
  return `${value < 10 && step ? value.toFixed(1) : Math.round(value)} ${units[step]}`;
}

export function rate(edge) {
  return edge.protocol === "tcp" ? `${bytes(edge.bytesPerSecond)}/s` : `${number(edge.rate)}/s`;
}

export function latency(milliseconds) {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(milliseconds < 10_000 ? 1 : 0)} s`;
  return `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
}

export function percent(share) {
  return `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;
}

export const SECURITY = {
  yes: "mutual TLS", no: "plain text", partly: "mutual TLS in part", unknown: "not known",
};

// A workload in few words: service and version, the namespace unless it is the default one.
export function title(node) {
  return [node.service, node.version, node.namespace && node.namespace !== "default" ? `(${node.namespace})` : ""]
    .filter(Boolean).join(" ");
}
