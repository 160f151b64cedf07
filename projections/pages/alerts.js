// Alerts in plain words: each incident once, whoever heard it, with what was recorded of it.

import { read } from "./asking.js";
import { evidence } from "./evidence.js";
import { h, put } from "./dom.js";
import { store } from "./store.js";
import { ago, about, time } from "./times.js";
import { eventName, gravity, inForce, plural, sentence } from "./words.js";

const WAIT_MS = 300;
const MOST = 100;

export const title = "Alerts";

export function open(root) {
  const county = h("input", { id: "county", list: "counties", inputmode: "numeric", placeholder: "as 20103", autocomplete: "off" });
  const counties = h("datalist", { id: "counties" });
  const event = h("input", { id: "event", list: "events", placeholder: "as TOR", autocomplete: "off", maxlength: "3" });
  const events = h("datalist", { id: "events" });
  const active = h("input", { type: "checkbox", id: "active" });
  const says = h("p.rights", { role: "status" });
  const list = h("ol.incidents", { "aria-label": "Alerts, the latest first" });
  const empty = h("p.empty", {}, "Waiting for the station…");
  const cards = new Map();
  let found = null;
  let asked = 0;
  let latest = 0;

  root.append(
    h(
      "section",
      { "aria-labelledby": "alerts-title" },
      h("div.heading", {}, h("h1", { id: "alerts-title" }, "Alerts"), says),
      h(
        "form.filters",
        { role: "search", onsubmit: (submitted) => submitted.preventDefault() },
        h("label", {}, h("span", {}, "County"), county, counties),
        h("label", {}, h("span", {}, "Event"), event, events),
        h("label.check", {}, active, h("span", {}, "In force only")),
      ),
      list,
      empty,
    ),
  );

  const filter = () => ({ county: county.value.replace(/\D/g, "").slice(-5), event: event.value.trim().toUpperCase() });

  function filtered() {
    const { county: place, event: code } = filter();
    return place.length === 5 || code.length === 3;
  }

  async function ask() {
    const mine = (latest += 1);
    const { county: place, event: code } = filter();
    try {
      const answer = await read("/api/audio/alerts", {
        limit: MOST,
        county: place.length === 5 ? place : "",
        event: /^[A-Z]{3}$/.test(code) ? code : "",
        active: active.checked ? "true" : "",
      });
      if (mine !== latest) return;
      found = answer;
      put(says, "");
    } catch (error) {
      if (mine === latest) put(says, error.message);
    }
    draw();
  }

  function changed() {
    clearTimeout(asked);
    if (filtered()) {
      asked = setTimeout(ask, WAIT_MS);
    } else {
      latest += 1;
      found = null;
      put(says, "");
      draw();
    }
  }

  function draw() {
    const answer = found ?? store.topics.alerts;
    if (!answer?.data) {
      put(empty, answer?.message ? "The alerts cannot be read now." : "Waiting for the station…");
      empty.hidden = false;
      return;
    }
    offer();
    const shown = answer.data.filter((alert) => !active.checked || inForce(alert));
    const ids = new Set(shown.map((alert) => alert.id));
    for (const id of cards.keys()) if (!ids.has(id)) cards.delete(id);
    const elements = shown.map((alert) => {
      const now = JSON.stringify(alert);
      const kept = cards.get(alert.id);
      if (kept?.now !== now) cards.set(alert.id, { now, alert, element: card(alert, kept?.element) });
      const { element } = cards.get(alert.id);
      standing(element, alert);
      return element;
    });
    if (elements.some((element, index) => list.children[index] !== element) || list.children.length !== elements.length) {
      list.replaceChildren(...elements);
    }
    list.classList.toggle("unknown", !store.known);
    empty.hidden = shown.length > 0;
    put(empty, filtered() || active.checked ? "No alert is as asked for." : "No alert was heard yet.");
  }

  function offer() {
    const places = new Map();
    const codes = new Map();
    for (const alert of store.topics.alerts?.data ?? []) {
      for (const place of alert.locations) places.set(place.code.slice(-5), place.name || place.code);
      if (alert.event) codes.set(alert.event, alert.event_name || alert.event);
    }
    fill(counties, places);
    fill(events, codes);
  }

  for (const field of [county, event]) field.addEventListener("input", changed);
  active.addEventListener("change", () => (filtered() ? changed() : draw()));
  const ends = [
    store.on("alerts", () => (filtered() ? ask() : draw())),
    store.on("link", draw),
  ];
  draw();
  return {
    tick: () => cards.forEach(({ element, alert }) => standing(element, alert)),
    close: () => ends.forEach((end) => end()),
    find(id) {
      const element = id && document.getElementById(`alert-${id}`);
      if (!element) return;
      element.querySelector("details").open = true;
      element.scrollIntoView({ block: "start" });
    },
  };
}

function fill(list, options) {
  const now = JSON.stringify([...options]);
  if (list.dataset.shows === now) return;
  list.dataset.shows = now;
  list.replaceChildren(...[...options].map(([value, label]) => h("option", { value, label: `${value} ${label}` })));
}

// In force, ended, or of the past: it changes while nothing is told.
function standing(element, alert) {
  const now = inForce(alert);
  element.classList.toggle("past", !now);
  const left = alert.expires_at ? -ago(alert.expires_at) : 0;
  put(element.querySelector(".standing"), now ? `In force for ${about(left)} more` : alert.expires_at ? "No longer in force" : "Its end cannot be read");
}

function card(alert, before) {
  const details = h(
    "details",
    { open: before?.querySelector("details").open ?? false },
    h("summary", {}, `Heard by ${plural(alert.sources.length, "receiver")}, ${plural(alert.heard, "time")}`),
    heard(alert),
    alert.problems.length ? h("p.problems", {}, `What is wrong with its header: ${alert.problems.join("; ")}.`) : null,
    h("p.raw", {}, h("code", {}, alert.header)),
  );
  return h(
    "li.incident",
    { id: `alert-${alert.id}`, data: { gravity: gravity(alert), alert: alert.id } },
    h(
      "article",
      {},
      h("header", {}, h("h2", {}, eventName(alert)), h("p.standing")),
      h("p.sentence", {}, sentence(alert)),
      h("p.marks", {}, "Heard ", time(alert.first_at), alert.confirmed ? h("span.chip", { data: { is: "good" } }, "Confirmed") : h("span.chip", { data: { is: "warn" } }, "Unconfirmed")),
      evidence(alert),
      details,
    ),
  );
}

function heard(alert) {
  const rows = alert.sources.map((one) =>
    h(
      "li",
      {},
      h("a", { href: `/sources/${encodeURIComponent(one.source)}` }, one.source),
      h("span", {}, `${plural(one.heard, "time")}, first `, time(one.first_at)),
      h("span", {}, one.confirmed ? "confirmed" : "unconfirmed", one.confidence === null ? "" : ` · ${Math.round(one.confidence * 100)} % sure`),
      h("span", {}, one.ended_at ? ["ended ", time(one.ended_at)] : "no end heard"),
    ),
  );
  return h("ul.hearings", {}, rows);
}
