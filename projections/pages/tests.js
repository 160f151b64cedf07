// The weekly-test log: which source heard a test in which week, and the station log as a file.

import { read, save } from "./asking.js";
import { h, put, Rows } from "./dom.js";
import { store } from "./store.js";
import { about, ago, day, time } from "./times.js";

const WEEKS = 8;
const DAYS = 400;
const DAY_MS = 86400000;
const AGAIN_MS = 30000;

export const title = "Tests";

export function open(root) {
  const says = h("p.rights", { role: "status" });
  const grid = h("div.weeks", { role: "region", tabindex: "0", "aria-label": "Tests by week" });
  const kinds = h("select", { id: "kinds" }, h("option", { value: "tests" }, "Tests"), h("option", { value: "all" }, "Everything received"));
  const button = h("button", { type: "button", id: "export", onclick: () => keep() }, "Export as CSV");
  const rows = new Rows(
    "What was received, the latest first",
    [
      ["when", "Received", (one) => time(one.received_at)],
      ["source", "Source", (one) => h("a", { href: `/sources/${encodeURIComponent(one.source)}` }, one.source)],
      ["verb", "Event", (one) => one.event_name || one.event],
      ["says", "From", (one) => [one.station?.trim(), one.places.join("; ")].filter(Boolean).join(" · ")],
      ["result", "Reception", (one) => h("span.pill", {}, one.confirmed ? "confirmed" : "unconfirmed")],
    ],
    "Waiting for the station…",
    (one) => ({ data: { outcome: one.confirmed ? "completed" : "expired" }, title: one.header }),
  );
  root.append(
    h(
      "section",
      { "aria-labelledby": "tests-title" },
      h("div.heading", {}, h("h1", { id: "tests-title" }, "Weekly tests"), says),
      grid,
      h("div.heading", {}, h("h2", {}, "Station log"), h("div.tools", {}, h("label", {}, h("span.unseen", {}, "What the log holds"), kinds), button)),
      rows.root,
    ),
  );
  let log = null;
  let timer = 0;

  async function ask() {
    clearTimeout(timer);
    try {
      const answer = await read("/api/audio/log", { days: DAYS, kinds: kinds.value });
      log = answer.data;
      put(says, "");
      rows.say("Nothing was received yet.");
      rows.show(log, !answer.stale);
      draw();
    } catch (error) {
      put(says, error.message);
      rows.root.classList.add("unknown");
    }
    timer = setTimeout(ask, AGAIN_MS);
  }

  async function keep() {
    button.disabled = true;
    try {
      await save("/api/audio/log.csv", { days: DAYS, kinds: kinds.value }, "station-log.csv");
      put(says, "The log was saved.");
    } catch (error) {
      put(says, error.message);
    }
    button.disabled = false;
  }

  function draw() {
    if (!log || !store.sources) return;
    const weeks = lastWeeks(WEEKS);
    const heard = new Map();
    for (const one of log) {
      if (one.event !== "RWT" && one.event !== "RMT") continue;
      const at = new Date(one.received_at).getTime();
      const week = weeks.findIndex((start) => at >= start && at < start + 7 * DAY_MS);
      if (week < 0) continue;
      const key = `${one.source} ${week}`;
      if (!heard.has(key) || one.confirmed) heard.set(key, one);
    }
    const views = [...store.sources.values()];
    const now = JSON.stringify([views.map((view) => [view.id, view.name, view.decoder]), [...heard.keys()], weeks[0], day(new Date())]);
    if (grid.dataset.shows === now) return;
    grid.dataset.shows = now;
    grid.replaceChildren(
      views.length ? table(views, weeks, heard) : h("p.empty", {}, "This station has no sources yet."),
    );
  }

  kinds.addEventListener("input", () => {
    rows.again();
    ask();
  });
  const ends = [store.on("sources", draw), store.on("alerts", () => ask())];
  ask();
  return {
    close() {
      clearTimeout(timer);
      ends.forEach((end) => end());
    },
  };
}

function table(views, weeks, heard) {
  const head = weeks.map((start) => h("th", { scope: "col" }, day(new Date(start), false).slice(5)));
  const lines = views.map((view) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, h("a", { href: `/sources/${encodeURIComponent(view.id)}` }, view.name || view.id), h("small", {}, last(view))),
      weeks.map((start, week) => cell(view, start, heard.get(`${view.id} ${week}`))),
    ),
  );
  return h("table", {}, h("caption", {}, "Weeks from Monday (UTC): weekly or monthly test heard"), h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Source"), head)), h("tbody", {}, lines));
}

function last(view) {
  const at = view.decoder?.last_test_at;
  return at ? `last ${about(ago(at))} ago` : "none heard yet";
}

function cell(view, start, one) {
  if (one) return h("td", { data: { is: one.confirmed ? "good" : "warn" }, title: one.header }, one.confirmed ? "✓" : "?", h("span.unseen", {}, one.confirmed ? " heard" : " heard, unconfirmed"), h("small", {}, day(new Date(one.received_at), false).slice(8)));
  const listened = view.decoder?.since && new Date(view.decoder.since).getTime() < start;
  const over = start + 7 * DAY_MS < Date.now();
  if (listened && over) return h("td", { data: { is: "bad" } }, "✕", h("span.unseen", {}, " missed"));
  return h("td", { data: { is: "none" } }, over ? "–" : "…", h("span.unseen", {}, over ? " did not listen all week" : " this week"));
}

// When the last weeks began, the oldest first.
function lastWeeks(count) {
  const today = new Date();
  const midnight = Date.UTC(today.getUTCFullYear(), today.getUTCMonth(), today.getUTCDate());
  const monday = midnight - ((today.getUTCDay() + 6) % 7) * DAY_MS;
  return Array.from({ length: count }, (_, index) => monday - (count - 1 - index) * 7 * DAY_MS);
}
