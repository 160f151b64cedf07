// The audit: up to where the log is verified, and the wall as it was, with the difference to now.

import { read } from "./asking.js";
import { h, put, Rows } from "./dom.js";
import { store } from "./store.js";
import { ago, day, clock, isLocal, moment, span, time } from "./times.js";
import { says as result, SIGNS } from "./words.js";

const EVERY_MS = 5000;
const STEPS = 1000;
const WAIT_MS = 180;
const JUMPS = [["1 h", 3600], ["24 h", 86400], ["7 d", 604800]];
// Fields that say which event changed a source last; they are no change of their own.
const PASSING = new Set(["seq", "hash", "updated_at", "lane", "id", "as_of", "trouble", "level", "decoder", "since"]);

export const title = "Audit";

export function open(root) {
  const verdict = h("p.verdict", { role: "status" });
  const lanes = new Rows("Lanes", [
    ["source", "Lane", (one) => one.lane],
    ["number", "Verified up to", (one) => `event ${one.verified}`],
    ["number", "Archived up to", (one) => `event ${one.archived}`],
    ["when", "Looked at", (one) => (one.checked_at ? time(one.checked_at) : null)],
    ["when", "All of it at", (one) => (one.whole_at ? time(one.whole_at) : null)],
    ["says", "Fault", (one) => one.fault ?? "no fault"],
    ["key", "Hash", (one) => h("code", { title: one.hash }, one.hash.slice(0, 12))],
  ], "Waiting for the station…", (one) => ({ data: { is: one.fault ? "bad" : "" } }));
  const slider = h("input", { type: "range", id: "slider", min: "0", max: String(STEPS), value: String(STEPS), step: "1", "aria-label": "Moment to look at" });
  const at = h("input", { id: "moment", size: "19", spellcheck: "false", autocomplete: "off", "aria-label": "Moment to look at, as 2026-05-01 03:00:00" });
  const zone = h("span.zone");
  const jumps = h("div.spans", { role: "group", "aria-label": "Jump back" }, h("button", { type: "button", onclick: () => go(null) }, "Now"), JUMPS.map(([text, seconds]) => h("button", { type: "button", onclick: () => go(Date.now() - seconds * 1000) }, `−${text}`)));
  const status = h("p.rights", { role: "status", id: "past-status" });
  const ends = h("p.ends", {}, h("span"), h("span", {}, "now"));
  const then = h("ul.wall.small.then", { id: "then", "aria-label": "Sources as they were" });
  const difference = h("ul.difference", { id: "difference", "aria-label": "What is different now" });
  const commands = new Rows("Latest commands then", [
    ["when", "Finished", (one) => time(one.finished_at)],
    ["source", "Source", (one) => one.source],
    ["verb", "Command", (one) => one.type.replace(/^source\./, "")],
    ["result", "Outcome", (one) => h("span.pill", {}, one.outcome)],
    ["says", "What it says", result],
  ], "No command had its result by then.", (one) => ({ data: { outcome: one.outcome } }));
  root.append(
    h("section", { "aria-labelledby": "audit-title" }, h("div.heading", {}, h("h1", { id: "audit-title" }, "Audit"), verdict), lanes.root),
    h(
      "section",
      { "aria-labelledby": "past-title" },
      h("div.heading", {}, h("h2", { id: "past-title" }, "The station as it was"), status),
      h("div.travel", {}, h("label.moment", {}, at, zone), jumps, slider, ends),
      h("div.panels", {}, h("section", {}, h("h3", {}, "Sources then"), then), h("section", {}, h("h3", {}, "Different now"), difference)),
      h("h3", {}, "Latest commands then"),
      commands.root,
    ),
  );
  let began = null;
  let chosen = null;
  let past = null;
  let latest = 0;
  let waiting = 0;
  let timer = 0;
  let closed = false;

  async function look() {
    try {
      const { data } = await read("/api/audit/lanes");
      if (closed) return;
      lanes.say("Nothing was logged yet.");
      lanes.show(data.filter((one) => one.archived || one.verified));
      const first = data.map((one) => one.began_at).filter(Boolean).sort()[0];
      began = first ? new Date(first).getTime() : null;
      judge(data);
      frame();
      if (past === null && chosen === null && began !== null) ask();
    } catch (error) {
      if (closed) return;
      put(verdict, error.message);
      verdict.dataset.is = "unknown";
      lanes.root.classList.add("unknown");
    }
    timer = setTimeout(look, EVERY_MS);
  }

  function judge(data) {
    const wrong = data.filter((one) => one.fault);
    const total = data.reduce((sum, one) => sum + one.verified, 0);
    const waits = data.reduce((sum, one) => sum + Math.max(0, one.archived - one.verified), 0);
    const oldest = data.filter((one) => one.checked_at).map((one) => ago(one.checked_at)).sort((a, b) => b - a)[0];
    verdict.dataset.is = wrong.length ? "bad" : waits ? "warn" : "good";
    if (wrong.length) put(verdict, `✕ The log is not sound: ${wrong.map((one) => `${one.lane}: ${one.fault}`).join("; ")}`);
    else put(verdict, `✓ All ${total} events verified${waits ? `, ${waits} to come` : ""}${oldest === undefined ? "" : `, looked at ${span(oldest)} ago`}`);
  }

  function frame() {
    put(ends.firstChild, began === null ? "" : moment(began));
    put(zone, isLocal() ? "here" : "UTC");
    slider.disabled = began === null;
    const shown = chosen ?? Date.now();
    if (document.activeElement !== at) at.value = field(shown);
    if (document.activeElement !== slider || chosen === null) slider.value = String(position(shown));
    slider.setAttribute("aria-valuetext", chosen === null ? "now" : `${moment(shown)} ${isLocal() ? "here" : "UTC"}`);
  }

  function position(when) {
    return began === null ? STEPS : Math.round((STEPS * (when - began)) / Math.max(1, Date.now() - began));
  }

  function go(when) {
    chosen = when === null || when >= Date.now() ? null : Math.max(when, began ?? when);
    slider.value = String(position(chosen ?? Date.now()));
    frame();
    clearTimeout(waiting);
    waiting = setTimeout(ask, WAIT_MS);
  }

  async function ask() {
    const mine = (latest += 1);
    const when = new Date(chosen ?? Date.now());
    put(status, "Looking…");
    try {
      const answer = await read("/api/audit/state", { at: when.toISOString() });
      if (mine !== latest || closed) return;
      past = answer.data;
      const events = Object.values(past.lanes).reduce((sum, lane) => sum + lane.seq, 0);
      put(status, `As of ${moment(past.at)} ${isLocal() ? "here" : "UTC"}, after ${events} events`);
      draw();
    } catch (error) {
      if (mine === latest && !closed) put(status, error.message);
    }
  }

  function draw() {
    if (!past) return;
    then.replaceChildren(...past.sources.map(tile));
    if (!past.sources.length) then.append(h("li.nothing", {}, "There was no source then."));
    commands.show(past.commands.slice(0, 20));
    compare();
  }

  function compare() {
    if (!past || !store.sources) return;
    const found = changes(past.sources, [...store.sources.values()]);
    const now = JSON.stringify([found, store.known]);
    if (difference.dataset.shows === now) return;
    difference.dataset.shows = now;
    const lines = found.map(([sign, id, words]) => h("li", { data: { sign } }, h("b", { "aria-hidden": "true" }, sign), h("span.id", {}, id), h("span", {}, words)));
    difference.replaceChildren(...(lines.length ? lines : [h("li.nothing", {}, "Nothing: the sources are now as they were then.")]));
    difference.classList.toggle("unknown", !store.known);
  }

  slider.addEventListener("input", () => go(began + ((Date.now() - began) * Number(slider.value)) / STEPS));
  at.addEventListener("change", () => {
    const text = at.value.trim().replace(/\s+/, "T");
    const when = isLocal() ? new Date(text) : new Date(`${text.length === 10 ? `${text}T00:00:00` : text}Z`);
    at.setAttribute("aria-invalid", String(Number.isNaN(when.getTime())));
    if (Number.isNaN(when.getTime())) put(status, "That is no time: write it as 2026-05-01 03:00:00.");
    else go(when.getTime());
  });
  const end = store.on("sources link", compare);
  look();
  return {
    tick: frame,
    close() {
      closed = true;
      clearTimeout(timer);
      clearTimeout(waiting);
      end();
    },
  };
}

function tile(one) {
  return h("li.tile.small", { data: { source: one.id, state: one.state } }, h("article", {}, h("header", {}, h("h4.name", {}, one.name || one.id), h("p.state", {}, h("span.sign", { "aria-hidden": "true" }, SIGNS[one.state] || "•"), h("span.word", {}, one.state))), one.reason ? h("p.reason", {}, one.reason) : null));
}

// What is another now: [sign, id, words].
function changes(before, after) {
  const was = new Map(before.map((one) => [one.id, one]));
  const is = new Map(after.map((one) => [one.id, one]));
  const found = [];
  for (const [id, one] of is) if (!was.has(id)) found.push(["+", id, `added since; ${one.state}`]);
  for (const [id, one] of was) if (!is.has(id)) found.push(["−", id, `removed since; was ${one.state}`]);
  for (const [id, one] of is) {
    const old = was.get(id);
    if (!old) continue;
    for (const name of Object.keys(old)) {
      if (PASSING.has(name) || JSON.stringify(old[name]) === JSON.stringify(one[name]) || !(name in one)) continue;
      found.push(["~", id, `${name}: ${plain(old[name])} → ${plain(one[name])}`]);
    }
  }
  return found.sort(([, one], [, other]) => (one < other ? -1 : 1));
}

function plain(value) {
  if (value === null || value === "") return "none";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function field(when) {
  const date = new Date(when);
  return `${day(date)} ${clock(date)}`;
}
