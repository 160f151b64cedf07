// The control room: follows the feed, keeps the wall, and says at once when it no longer knows.

import { authorization, hasToken, takeToken } from "./access.js";
import { keepFresh, refresh } from "./commands.js";
import { follow } from "./feed.js";
import { put, Tile } from "./tile.js";
import { clock, span } from "./times.js";

const UNHEARD_MS = 3000;
const UNCONFIRMED_S = 5;
const HEALTH_EVERY_MS = 5000;
const STATES = ["running", "starting", "stalled", "failed", "stopped"];

const at = (id) => document.getElementById(id);
const tiles = new Map();
let frame = null;
let frameAt = 0;
let heardAt = performance.now();
let connected = false;
let refused = false;
let unavailable = false;
let order = "";

function told(message) {
  if (message.event === "lost") {
    connected = false;
  } else if (message.event === "refused") {
    refused = true;
  } else {
    connected = true;
    refused = false;
    heardAt = performance.now();
    unavailable = message.event === "unavailable";
    if (message.event === "sources") {
      frame = message.data;
      frameAt = heardAt;
    }
  }
  draw();
}

// What is wrong with what is shown, in words; null where nothing is.
function doubt() {
  if (refused) return ["lost", "This station shows its data only with its token. Run “tocsin dashboard” for a link."];
  if (!frame && connected && !unavailable) return null;
  const silent = performance.now() - heardAt;
  const shown = frame ? ` What is shown was so ${span((performance.now() - frameAt) / 1000 + (frame.age_seconds ?? 0))} ago.` : "";
  if (!connected && (frame || silent > UNHEARD_MS)) {
    return ["lost", `No connection to the station.${shown} Trying again…`];
  }
  if (silent > UNHEARD_MS) return ["lost", `The station has fallen silent.${shown}`];
  if (unavailable) return ["lost", `The station answers, but neither Redis nor Postgres can be read.${shown}`];
  if (!frame) return null;
  const age = frame.age_seconds;
  const from = frame.source === "database" ? " Levels are not known: the data come from the database." : "";
  if (frame.stale) {
    const when = age === null ? "nobody knows since when" : `last confirmed ${span(age)} ago`;
    return ["stale", `The data are stale: ${when}.${from}`];
  }
  if (age > UNCONFIRMED_S) return ["stale", `The data have not been confirmed for ${span(age)}.${from}`];
  return null;
}

function draw() {
  const wrong = doubt();
  const known = wrong === null;
  document.body.dataset.link = wrong ? wrong[0] : frame ? "live" : "waiting";
  say(wrong);
  lamp("link", wrong ? (wrong[0] === "lost" ? "bad" : "warn") : frame ? "good" : "unknown", linkWord(wrong));
  if (wrong?.[0] === "lost") lamp("service", "unknown", "unknown");
  if (frame) drawWall(frame.data, known);
}

function linkWord(wrong) {
  if (wrong) return wrong[0] === "lost" ? "lost" : "stale";
  if (!frame) return "waiting";
  return frame.source === "database" ? "from database" : "live";
}

function say(wrong) {
  const banner = at("banner");
  if (!wrong) {
    banner.hidden = true;
    banner.dataset.is = "";
    return;
  }
  // Its numbers change every second; it is an alert only when it appears or becomes another one.
  const changed = banner.hidden || banner.dataset.is !== wrong[0];
  banner.setAttribute("aria-live", changed ? "assertive" : "off");
  banner.dataset.is = wrong[0];
  banner.hidden = false;
  put(banner, wrong[1]);
}

function lamp(id, is, says) {
  const root = at(id);
  root.dataset.is = is;
  put(root.querySelector(".says"), says);
}

function drawWall(views, known) {
  const ids = views.map((view) => view.id);
  for (const [id, tile] of tiles) {
    if (!ids.includes(id)) {
      tile.root.remove();
      tiles.delete(id);
    }
  }
  for (const view of views) {
    if (!tiles.has(view.id)) tiles.set(view.id, new Tile(view.id, allow));
    tiles.get(view.id).show(view, known);
  }
  if (ids.join("\n") !== order) {
    order = ids.join("\n");
    at("tiles").replaceChildren(...ids.map((id) => tiles.get(id).root));
  }
  at("empty").hidden = views.length > 0;
  put(at("empty"), known ? "This station has no sources yet. Add one with “tocsin source add”." : "No source was known.");
  drawTally(views, known);
}

function drawTally(views, known) {
  const tally = at("tally");
  const counts = STATES.map((state) => [state, views.filter((view) => view.state === state).length]);
  const now = JSON.stringify([counts, known]);
  if (tally.dataset.shows === now) return;
  tally.dataset.shows = now;
  tally.classList.toggle("unknown", !known);
  if (!known) {
    const item = document.createElement("li");
    item.textContent = "States not known now";
    tally.replaceChildren(item);
    return;
  }
  tally.replaceChildren(
    ...counts
      .filter(([state, count]) => count > 0 || state === "running" || state === "failed")
      .map(([state, count]) => {
        const item = document.createElement("li");
        item.dataset.state = state;
        item.classList.toggle("none", count === 0);
        const number = document.createElement("b");
        number.textContent = String(count);
        item.append(number, ` ${state}`);
        return item;
      }),
  );
}

function allow() {
  const rights = at("rights");
  rights.replaceChildren();
  if (!hasToken()) {
    const command = document.createElement("code");
    command.textContent = "tocsin dashboard";
    rights.append("Read only. Open the link that ", command, " prints to start and stop sources.");
  }
  for (const tile of tiles.values()) tile.allow();
}

async function askHealth() {
  try {
    const response = await fetch("/api/audio/health/service", {
      headers: authorization(),
      cache: "no-store",
      signal: AbortSignal.timeout(4500),
    });
    const health = await response.json();
    const is = { healthy: "good", stale: "warn", down: "bad", error: "bad" }[health.status] || "unknown";
    lamp("service", is, health.status || "unknown");
    at("service").title = health.message || "";
  } catch {
    lamp("service", "unknown", "unknown");
    at("service").title = "";
  }
}

function tick() {
  const now = new Date();
  put(at("utc"), clock(now));
  put(at("local"), `${now.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })} here`);
  for (const tile of tiles.values()) tile.tick();
  draw();
}

takeToken();
allow();
addEventListener("hashchange", () => {
  if (takeToken()) {
    allow();
    refresh();
    askHealth();
  }
});
follow("/api/audio/live", authorization, told);
keepFresh();
askHealth();
setInterval(askHealth, HEALTH_EVERY_MS);
tick();
setInterval(tick, 1000);
