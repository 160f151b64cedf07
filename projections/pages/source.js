// One source: what it does, how it sounded, what was wrong with it, what it was told.

import { mayAct } from "./access.js";
import { write } from "./actions.js";
import { read } from "./asking.js";
import { LevelChart } from "./chart.js";
import { commandRows } from "./commands.js";
import { Controls, rights } from "./controls.js";
import { h, order, put, Rows, stack } from "./dom.js";
import { player } from "./evidence.js";
import { listening } from "./listening.js";
import { Meter } from "./meter.js";
import { store } from "./store.js";
import { meterParts, remarks, showFigures } from "./tile.js";
import { since, span, time } from "./times.js";
import { Waterfall } from "./waterfall.js";
import { aboutSource, doubtOf, eventName, SIGNS } from "./words.js";

const SPANS = [["1", "1 h"], ["6", "6 h"], ["24", "24 h"], ["168", "7 d"], ["720", "30 d"]];
const EVERY_MS = 10000;

export const title = "Source";

export function open(root, id) {
  const sign = h("span.sign", { "aria-hidden": "true" });
  const word = h("span.word");
  const heading = h("h1.name", {}, id);
  const what = h("p.about");
  const reason = h("p.reason", { hidden: true });
  const facts = h("p.facts");
  const chips = h("ul.chips", { "aria-label": "Remarks" });
  const controls = new Controls(id);
  const inject = injecting(id);
  const may = rights();
  const box = meterParts(false);
  const live = h("div.live");
  const chart = new LevelChart();
  const hours = h("div.spans", { role: "group", "aria-label": "How far back" }, SPANS.map(([value, text]) => h("button", { type: "button", "aria-pressed": String(value === "6"), data: { hours: value }, onclick: () => choose(value) }, text)));
  const conditions = new Rows("Conditions, the latest first", [
    ["when", "Opened", (one) => time(one.opened_at)],
    ["verb", "Condition", (one) => one.condition.replaceAll("_", " ")],
    ["took", "Lasted", (one) => (one.closed_at ? span((new Date(one.closed_at) - new Date(one.opened_at)) / 1000) : "open")],
    ["says", "What it says", (one) => one.detail],
    ["key", "Acknowledged by", (one) => one.acknowledged_by ?? (one.closed_at || !mayAct() ? null : acknowledging(id, one))],
  ], "Nothing was wrong in this time.", (one) => ({ data: { is: one.closed_at ? "" : "bad" } }));
  const states = new Rows("States, the latest first", [
    ["when", "Since", (one) => time(one.since)],
    ["result", "State", (one) => h("span.pill", {}, one.state)],
    ["took", "For", (one) => (one.until ? span((new Date(one.until) - new Date(one.since)) / 1000) : "until now")],
    ["says", "Reason", (one) => one.reason],
    ["key", "On", (one) => one.node],
  ], "No state is known of this time.", (one) => ({ data: { state: one.state } }));
  const commands = commandRows("Commands of this source, the latest first", false);
  const heard = new Rows("Alerts it heard, the latest first", [
    ["when", "Heard", (one) => time(one.sources.find((each) => each.source === id)?.last_at ?? one.last_at)],
    ["verb", "Alert", (one) => h("a", { href: `/alerts#${encodeURIComponent(one.id)}` }, eventName(one))],
    ["says", "For", (one) => one.locations.map((place) => place.name || place.code).join("; ")],
    ["result", "Reception", (one) => h("span.pill", {}, one.confirmed ? "confirmed" : "unconfirmed")],
  ], "It has heard no alert yet.", (one) => ({ data: { outcome: one.confirmed ? "completed" : "expired" } }));
  const recorded = new Rows("Recordings of it, the latest first", [
    ["when", "Begun", (one) => time(one.begun_at)],
    ["verb", "Of", (one) => `${one.kind === "alert" ? "an alert" : "all that sounds"}${one.injected ? ", a test" : ""}`],
    ["took", "Long", (one) => (one.seconds ? span(one.seconds) : null)],
    ["says", "Sound", (one) => sound(one)],
    ["result", "Is", (one) => h("span.pill", {}, one.state)],
  ], "Nothing of it is recorded.", (one) => ({ data: { outcome: one.state === "finished" ? "completed" : one.state === "failed" ? "failed" : "expired" } }));
  const says = h("p.rights", { role: "status" });
  const part = (name, rows) => h("section", {}, h("h2", {}, name), rows.root);
  const body = h("div.source");
  const gone = h("p.empty", {}, "Waiting for the station…");
  root.append(gone, body);
  body.append(
    h("p.back", {}, h("a", { href: "/" }, "← All sources")),
    h("header.heading", {}, heading, h("p.state", {}, sign, word), what, may.root),
    reason,
    h("div.now", {}, h("div.sound", {}, box, facts, chips, live), h("div.do", {}, controls.acts, controls.outcome, inject.root)),
    h("section", {}, h("div.heading", {}, h("h2", {}, "Level"), says, hours), chart.root),
    h("div.panels", {}, stack(part("Conditions", conditions), part("Commands", commands), part("Recordings", recorded)), stack(part("States", states), part("Alerts heard", heard))),
  );
  const meter = new Meter(box);
  const listen = listening(id);
  const waterfall = new Waterfall(id);
  let wanted = "6";
  let timer = 0;
  let latest = 0;
  let figuresAt = 0;

  function choose(value) {
    wanted = value;
    for (const button of hours.children) button.setAttribute("aria-pressed", String(button.dataset.hours === value));
    ask();
  }

  async function ask() {
    clearTimeout(timer);
    const mine = (latest += 1);
    const path = `/api/audio/sources/${encodeURIComponent(id)}`;
    try {
      const [levels, past, results, alerts, kept] = await Promise.all([
        read(`${path}/levels`, { hours: wanted }),
        read(`${path}/history`, { hours: wanted }),
        read("/api/commands", { source: id, limit: 20 }),
        read("/api/audio/alerts", { source: id, limit: 20 }),
        read("/api/audio/recordings", { source: id, limit: 20 }),
      ]);
      if (mine !== latest) return;
      chart.show(levels.data, past.data.states);
      conditions.show(past.data.conditions, !past.stale);
      states.show(past.data.states, !past.stale);
      commands.show(results.data, !results.stale);
      heard.show(alerts.data, !alerts.stale);
      // Whoever listens to one is left in peace.
      if (![...recorded.root.querySelectorAll("audio")].some((one) => !one.paused)) recorded.show(kept.data, !kept.stale);
      put(says, "");
    } catch (error) {
      if (mine !== latest) return;
      put(says, error.message);
      for (const rows of [conditions, states, commands, heard, recorded]) rows.root.classList.add("unknown");
    }
    timer = setTimeout(ask, EVERY_MS);
  }

  function draw() {
    const view = store.sources?.get(id);
    body.hidden = !view;
    gone.hidden = Boolean(view);
    if (!view) {
      if (store.sources) put(gone, store.known ? `This station has no source “${id}”.` : "The source is not known now.");
      return;
    }
    const inDoubt = !store.known || Boolean(view.trouble);
    body.dataset.state = view.state;
    body.classList.toggle("unknown", inDoubt);
    put(heading, view.name || id);
    put(sign, inDoubt ? "?" : SIGNS[view.state] || "•");
    put(word, inDoubt ? `was ${view.state}` : view.state);
    put(what, aboutSource(view));
    const why = view.trouble ? doubtOf(view.trouble) : view.reason || "";
    put(reason, why);
    reason.hidden = !why;
    put(facts, wish(view, inDoubt));
    const found = remarks(view);
    if (chips.dataset.shows !== JSON.stringify(found)) {
      chips.dataset.shows = JSON.stringify(found);
      chips.replaceChildren(...found.map(([kind, text]) => h("li.chip", { data: { is: kind } }, text)));
    }
    order(live, [listen.show(view, !inDoubt), waterfall.show(!inDoubt, view.rate)].filter(Boolean));
    hear();
  }

  function hear() {
    const view = store.sources?.get(id);
    if (!view) return;
    const level = store.known ? store.level(view) : null;
    meter.show(level);
    const now = performance.now();
    if (now - figuresAt < 250) return;
    figuresAt = now;
    showFigures(box, level);
  }

  const allow = () => {
    controls.allow();
    inject.allow();
    conditions.again();
  };
  const ends = [store.on("sources link conditions", draw), store.on("levels", hear), store.on("commands", () => ask())];
  addEventListener("rights", allow);
  draw();
  ask();
  return {
    tick: draw,
    close() {
      latest += 1;
      clearTimeout(timer);
      ends.forEach((end) => end());
      removeEventListener("rights", allow);
      meter.close();
      chart.close();
      listen.close();
      waterfall.close();
      may.close();
    },
  };
}

// A recording's player, or why there is none.
function sound(recording) {
  if (recording.state === "finished") return h("ul.evidence", {}, player(recording));
  return recording.reason;
}

function wish(view, inDoubt) {
  if (inDoubt) return `Should be ${view.desired}; what it does now is not known.`;
  const astray = view.desired === view.state ? "" : `Should be ${view.desired}. `;
  return `${astray}${view.state.charAt(0).toUpperCase()}${view.state.slice(1)} since ${since(view.since)}.`;
}

// A condition that goes on, to be acknowledged by whoever may.
function acknowledging(id, condition) {
  const outcome = h("span.outcome", { role: "status", "aria-live": "polite" });
  const told = (kind, text) => {
    outcome.dataset.is = kind;
    put(outcome, text);
  };
  const path = `/api/audio/sources/${encodeURIComponent(id)}/acknowledge`;
  const name = `Acknowledge ${condition.condition.replaceAll("_", " ")}`;
  return [h("button", { type: "button", "aria-label": name, onclick: () => write("acknowledge", path, told, { episode: condition.id }) }, "Acknowledge"), outcome];
}

// Playing a recording of the node through the source, as a test.
function injecting(id) {
  const file = h("input", { id: "inject-path", placeholder: "/path/on/its/node.wav", autocomplete: "off", spellcheck: "false", required: true });
  const button = h("button", { type: "submit" }, "Inject as a test");
  const outcome = h("p.outcome", { role: "status", "aria-live": "polite" });
  const told = (kind, text) => {
    outcome.dataset.is = kind;
    put(outcome, text);
  };
  const send = (event) => {
    event.preventDefault();
    write("inject", `/api/audio/sources/${encodeURIComponent(id)}/inject`, told, { path: file.value.trim() });
  };
  const root = h("details.inject", {}, h("summary", {}, "Inject a test"), h("form", { onsubmit: send }, h("label", { for: "inject-path" }, "A recording on its node"), file, button), outcome);
  const allow = () => (root.hidden = !mayAct());
  allow();
  return { root, allow };
}
