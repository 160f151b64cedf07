// What stands around every screen: the bar with its lamps and clock, the banner, the notice of a failover.

import { h, put } from "./dom.js";
import { store } from "./store.js";
import { clock, isLocal, span, switchZone } from "./times.js";

const at = (id) => document.getElementById(id);
const MOVED_FOR_S = 120;
const THEME = "tocsin.theme";
const THEMES = ["auto", "dark", "light"];
const THEME_SIGNS = { auto: "◐", dark: "●", light: "○" };

export function drawShell() {
  const wrong = store.doubt();
  document.body.dataset.link = wrong ? wrong[0] : store.sources ? "live" : "waiting";
  say(wrong);
  const lost = wrong?.[0] === "lost";
  lamp("link", wrong ? (lost ? "bad" : "warn") : store.sources ? "good" : "unknown", linkWord(wrong));
  const station = lost ? null : store.topics.station;
  drawService(station?.service);
  drawRedis(station?.redis);
}

function linkWord(wrong) {
  if (wrong) return wrong[0] === "lost" ? "lost" : "stale";
  if (!store.sources) return "waiting";
  return store.meta.source === "database" ? "from database" : "live";
}

function drawService(service) {
  const is = { healthy: "good", stale: "warn", down: "bad", error: "bad" }[service?.status] || "unknown";
  lamp("service", is, service?.status || "unknown", service?.message);
}

function drawRedis(redis) {
  const is = { up: "good", away: "bad", failover: "warn" }[redis?.state] || "unknown";
  lamp("redis", is, redis?.state || "unknown", redis?.message);
  const moved = redis?.moved;
  const seconds = moved ? (Date.now() - new Date(moved.at).getTime()) / 1000 : Infinity;
  const notice = at("notice");
  if (seconds > MOVED_FOR_S || redis.state !== "up") {
    notice.hidden = true;
    return;
  }
  notice.hidden = false;
  put(notice, `Redis failed over from ${moved.before} to ${moved.after} ${span(seconds)} ago. The station goes on with the new primary.`);
}

// Its numbers change every second; it is an alert only when it appears or becomes another one.
function say(wrong) {
  const banner = at("banner");
  if (!wrong) {
    banner.hidden = true;
    banner.dataset.is = "";
    return;
  }
  const changed = banner.hidden || banner.dataset.is !== wrong[0];
  banner.setAttribute("aria-live", changed ? "assertive" : "off");
  banner.dataset.is = wrong[0];
  banner.hidden = false;
  put(banner, wrong[1]);
}

function lamp(id, is, says, title = "") {
  const root = at(id);
  root.dataset.is = is;
  put(root.querySelector(".says"), says);
  if (root.title !== (title || "")) root.title = title || "";
}

export function tickClock() {
  const now = new Date();
  const local = isLocal();
  put(at("utc"), clock(now));
  put(at("zone"), local ? "here" : "UTC");
  put(at("local"), `${clock(now, !local).slice(0, 5)} ${local ? "UTC" : "here"}`);
}

function theme() {
  try {
    return localStorage.getItem(THEME) || "auto";
  } catch {
    return "auto";
  }
}

function showTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  const button = at("theme");
  button.replaceChildren(h("span", { "aria-hidden": "true" }, THEME_SIGNS[name]), h("span.unseen", {}, `Theme: ${name}`));
  button.title = `Theme: ${name}`;
  dispatchEvent(new Event("theme"));
}

export function startShell() {
  showTheme(theme());
  at("theme").addEventListener("click", () => {
    const name = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
    try {
      localStorage.setItem(THEME, name);
    } catch {
      // Then it lasts as long as the page.
    }
    showTheme(name);
  });
  at("clock").addEventListener("click", () => {
    switchZone();
    tickClock();
  });
  store.on("link sources station", drawShell);
}

