// What needs somebody: alerts in force, and what goes on that people were told of.

import { write } from "./actions.js";
import { mayAct } from "./access.js";
import { h, order, put } from "./dom.js";
import { store } from "./store.js";
import { about, ago, hour } from "./times.js";
import { byGravity, eventName, gravity, inForce, places, plural } from "./words.js";

export function attention() {
  const alerts = h("ul.inforce", { "aria-label": "Alerts in force" });
  const episodes = h("ul.episodes", { "aria-label": "Needs somebody" });
  const root = h("section.attention", { "aria-label": "Needs attention" }, alerts, episodes);
  const shown = new Map();

  function draw() {
    const found = (store.topics.alerts?.data ?? []).filter((alert) => inForce(alert)).sort(byGravity);
    const cards = found.map((alert) => card(alert));
    const lines = (store.topics.episodes?.data ?? []).filter((one) => one.kind !== "alert").map((one) => line(one));
    order(alerts, cards);
    order(episodes, lines);
    alerts.hidden = cards.length === 0;
    episodes.hidden = lines.length === 0;
    root.hidden = alerts.hidden && episodes.hidden;
    root.classList.toggle("unknown", !store.known);
    for (const [key, element] of shown) if (!element.isConnected) shown.delete(key);
  }

  function card(alert) {
    const key = `alert ${alert.id}`;
    const words = [eventName(alert), places(alert, 3), `until ${hour(alert.expires_at)} · heard by ${plural(alert.sources.length, "receiver")}${alert.confirmed ? "" : " · unconfirmed"}`];
    if (!shown.has(key)) {
      const parts = [h("strong"), h("span.where"), h("span.when")];
      shown.set(key, h("li", { data: { gravity: gravity(alert), alert: alert.id } }, h("a", { href: `/alerts#${encodeURIComponent(alert.id)}` }, parts)));
    }
    const element = shown.get(key);
    words.forEach((text, index) => put(element.firstChild.children[index], text));
    return element;
  }

  function line(episode) {
    const key = `episode ${episode.id}`;
    if (!shown.has(key)) shown.set(key, episodeLine(episode));
    const element = shown.get(key);
    const by = episode.acknowledged_by;
    put(element.querySelector("b"), `${episode.kind.replace(/[._]/g, " ")}: ${episode.subject}`);
    put(element.querySelector(".detail"), `${episode.detail} · for ${about(ago(episode.opened_at))}`);
    put(element.querySelector(".by"), by ? `Seen to by ${by}` : "");
    const button = element.querySelector("button");
    if (button) button.hidden = Boolean(by) || !mayAct();
    return element;
  }

  const end = store.on("alerts episodes link", draw);
  draw();
  return { root, draw, close: end };
}

function episodeLine(episode) {
  const outcome = h("span.outcome", { role: "status", "aria-live": "polite" });
  const told = (kind, text) => {
    outcome.dataset.is = kind;
    put(outcome, text);
  };
  const path = `/api/audio/episodes/${encodeURIComponent(episode.id)}/acknowledge`;
  const about = { rule: episode.rule, subject: episode.subject };
  const button = h("button", { type: "button", "aria-label": `Acknowledge ${episode.kind} of ${episode.subject}`, onclick: () => write("acknowledge", path, told, about) }, "Acknowledge");
  return h("li", { data: { episode: episode.id } }, h("b"), h("span.detail"), h("span.by"), outcome, button);
}
