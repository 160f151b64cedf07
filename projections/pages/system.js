// What the station runs on: lanes and who owns them, Redis and its Sentinels, nodes and their clocks, breakers.

import { read } from "./asking.js";
import { h, put, Rows, stack } from "./dom.js";
import { store } from "./store.js";
import { moment, span } from "./times.js";
import { bytes } from "./words.js";

const EVERY_MS = 2000;
const CLOCK_OFF_S = 1;

export const title = "System";

export function open(root) {
  const says = h("p.rights", { role: "status" });
  const cards = h("dl.cards");
  const lanes = new Rows("Lanes", [
    ["source", "Lane", (one) => one.lane],
    ["verb", "Owner", (one) => one.owner ?? "nobody"],
    ["number", "Waiting", (one) => figure(one.waiting)],
    ["number", "Parked", (one) => figure(one.parked)],
    ["number", "Last event", (one) => figure(one.head)],
    ["number", "Not folded", (one) => figure(one.behind)],
    ["number", "Not archived", (one) => figure(one.unarchived)],
    ["says", "Trouble", (one) => one.trouble],
  ], "No lane is known.", (one) => ({ data: { is: one.trouble || (one.waiting && !one.owner) ? "bad" : "" } }));
  const sentinels = new Rows("Sentinels", [
    ["source", "Sentinel", (one) => one.address],
    ["verb", "Names as primary", (one) => one.primary ?? "does not answer"],
    ["number", "Epoch", (one) => figure(one.epoch)],
    ["number", "Replicas", (one) => figure(one.replicas?.length ?? null)],
    ["says", "Sees", (one) => faults(one)],
  ], "This station has no Sentinels.", (one) => ({ data: { is: one.primary === null || faults(one) !== "no fault" ? "bad" : "" } }));
  const nodes = new Rows("Ingest nodes", [
    ["source", "Node", (one) => one.name],
    ["verb", "Last heard", (one) => (one.age_seconds === null ? "not now" : `${one.age_seconds.toFixed(1)} s ago`)],
    ["number", "Clock", clockOf],
    ["number", "Disk free", (one) => (one.disk ? `${bytes(one.disk.free)} of ${bytes(one.disk.size)}` : null)],
    ["says", "Lanes", (one) => one.lanes?.join(", ")],
    ["key", "Version", (one) => one.version],
  ], "No node is known.", (one) => ({ data: { is: one.age_seconds === null || one.age_seconds > 15 || Math.abs(one.clock_offset ?? 0) > CLOCK_OFF_S ? "bad" : "" } }));
  const breakers = new Rows("Breakers", [
    ["source", "Of", (one) => one.of],
    ["verb", "Around", (one) => one.around],
    ["result", "Is", (one) => h("span.pill", {}, one.state)],
    ["number", "Opened", (one) => figure(one.opened)],
    ["says", "Because", (one) => one.detail],
  ], "No breaker is known.", (one) => ({ data: { outcome: one.state === "closed" ? "completed" : "failed" } }));
  const folds = new Rows("Projections", [
    ["source", "Projection", (one) => one.projection],
    ["verb", "Lane", (one) => one.lane],
    ["number", "At event", (one) => figure(one.seq)],
    ["when", "Whole at", (one) => (one.checked_at ? moment(one.checked_at) : null)],
    ["says", "Trouble", (one) => one.trouble],
  ], "Where the projections stand is not known now.", (one) => ({ data: { is: one.trouble ? "bad" : "" } }));
  const part = (name, rows) => h("section", {}, h("h2", {}, name), rows.root);
  const unused = h("p.rights");
  const wide = (name, rows) => h("section.wide", {}, h("h2", {}, name), rows.root, unused);
  root.append(
    h("div.heading", {}, h("h1", {}, "System"), says),
    cards,
    h("div.panels", {}, wide("Lanes", lanes), stack(part("Sentinels", sentinels)), stack(part("Ingest nodes", nodes), part("Breakers", breakers))),
    h("details.folds", {}, h("summary", {}, "Projections, by lane"), folds.root),
  );
  let timer = 0;
  let closed = false;

  async function ask() {
    try {
      const { data } = await read("/api/audio/system");
      if (closed) return;
      put(says, "");
      show(data, true);
    } catch (error) {
      if (closed) return;
      put(says, error.message);
      for (const rows of [lanes, sentinels, nodes, breakers, folds]) rows.root.classList.add("unknown");
      cards.classList.add("unknown");
    }
    timer = setTimeout(ask, EVERY_MS);
  }

  function show(data) {
    cards.classList.remove("unknown");
    const replicas = data.replicas === null ? "replicas not known" : `${data.replicas} of ${data.replicas_wanted} replicas in step`;
    const moved = data.redis.moved ? `Failed over from ${data.redis.moved.before} at ${moment(data.redis.moved.at)}.` : "";
    const facts = [
      ["Audio service", data.service.status, data.service.message, { healthy: "good", stale: "warn" }[data.service.status] ?? "bad"],
      ["Redis", data.redis.state, `${data.redis.message} ${moved}`, { up: "good", failover: "warn" }[data.redis.state] ?? "bad"],
      ["Replication", data.replicas === null ? "not known" : `${data.replicas} / ${data.replicas_wanted}`, replicas, data.replicas === null || data.replicas < data.replicas_wanted ? "warn" : "good"],
      ["Postgres", data.postgres, data.postgres === "up" ? "Answers." : "Does not answer: read models and archive stand still.", data.postgres === "up" ? "good" : "bad"],
    ];
    const now = JSON.stringify(facts);
    if (cards.dataset.shows !== now) {
      cards.dataset.shows = now;
      cards.replaceChildren(...facts.map(([name, value, more, is]) => h("div", { data: { is } }, h("dt", {}, name), h("dd", {}, h("b", {}, value), h("span", {}, more)))));
    }
    const used = (data.lanes ?? []).filter((one) => one.owner || one.head || one.folded || one.waiting || one.parked || one.trouble);
    const idle = (data.lanes ?? []).filter((one) => !used.includes(one)).map((one) => one.lane);
    lanes.show(used, data.lanes !== null);
    put(unused, idle.length ? `Nothing has happened yet in ${idle.join(", ")}; nobody owns ${idle.length === 1 ? "it" : "them"}.` : "");
    lanes.say(data.lanes === null ? "The lanes are not known now." : "No lane is known.");
    sentinels.show(data.redis.sentinels);
    nodes.show(data.nodes ?? [], data.nodes !== null);
    nodes.say(data.nodes === null ? "The nodes are not known now." : "No node is known.");
    breakers.show(standing(data.breakers));
    folds.show((data.projections ?? []).filter((one) => one.seq > 0 || one.trouble), data.projections !== null);
  }

  ask();
  const end = store.on("link", () => root.classList.toggle("doubtful", !store.connected));
  return {
    close() {
      closed = true;
      clearTimeout(timer);
      end();
      root.classList.remove("doubtful");
    },
  };
}

function figure(value) {
  return value === null || value === undefined ? null : String(value);
}

function faults(sentinel) {
  if (sentinel.primary === null) return "nothing: it does not answer";
  const found = sentinel.flags.filter((flag) => flag !== "master");
  return found.length ? found.join(", ") : "no fault";
}

function clockOf(node) {
  if (node.clock_offset === null) return null;
  const off = node.clock_offset;
  if (Math.abs(off) < 0.05) return "right";
  return `${Math.abs(off) < 10 ? Math.abs(off).toFixed(2) : Math.round(Math.abs(off))} s ${off > 0 ? "ahead" : "behind"}`;
}

function standing(breakers) {
  const found = Object.entries(breakers.web).map(([around, one]) => ({ of: "web process", around, ...one }));
  for (const [node, theirs] of Object.entries(breakers.nodes ?? {})) {
    for (const [around, one] of Object.entries(theirs ?? {})) found.push({ of: `node ${node}`, around, ...one });
  }
  return found.map(({ of, around, state, opened, detail, retry_in }) => ({ of, around, state, opened, detail: detail || (retry_in ? `tried again in ${span(retry_in)}` : "") }));
}
