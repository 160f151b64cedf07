// The command log: what was asked, by whom, and what became of it.

import { read } from "./asking.js";
import { h, put, Rows } from "./dom.js";
import { store } from "./store.js";
import { span, time } from "./times.js";
import { says } from "./words.js";

const MORE = 500;
const OUTCOMES = ["completed", "failed", "rejected", "superseded", "expired"];

export const title = "Commands";

export function commandRows(caption, withSource = true) {
  const columns = [
    ["when", "Finished", (one) => time(one.finished_at)],
    ["source", "Source", (one) => (one.source ? h("a", { href: `/sources/${encodeURIComponent(one.source)}` }, one.source) : "")],
    ["verb", "Command", (one) => one.type.replace(/^source\./, "")],
    ["result", "Outcome", (one) => h("span.pill", {}, one.outcome)],
    ["says", "What it says", says],
    ["took", "Took", took],
    ["key", "Signed by", (one) => one.key],
  ];
  return new Rows(caption, columns.filter(([name]) => withSource || name !== "source"), "No command has been given yet.", (one) => ({
    title: one.id,
    data: { outcome: one.outcome, command: one.id },
  }));
}

function took(command) {
  if (!command.received_at) return "";
  const seconds = (new Date(command.finished_at) - new Date(command.received_at)) / 1000;
  if (!(seconds >= 0)) return "";
  return seconds < 10 ? `${seconds.toFixed(2)} s` : span(seconds);
}

export function open(root) {
  const rows = commandRows("Commands, the latest first");
  rows.body.id = "commands";
  rows.say("Waiting for the station…");
  const asOf = h("p.rights", { role: "status" });
  const source = h("input", { id: "of-source", type: "search", placeholder: "All sources", autocomplete: "off" });
  const outcome = h("select", { id: "of-outcome" }, h("option", { value: "" }, "All outcomes"), OUTCOMES.map((one) => h("option", {}, one)));
  const more = h("button", { type: "button", onclick: () => ask() }, "Show older ones");
  let older = [];
  root.append(
    h(
      "section",
      { "aria-labelledby": "commands-title" },
      h("div.heading", {}, h("h1", { id: "commands-title" }, "Commands"), asOf),
      h("form.filters", { role: "search", onsubmit: (event) => event.preventDefault() }, h("label", {}, h("span", {}, "Source"), source), h("label", {}, h("span", {}, "Outcome"), outcome)),
      rows.root,
      h("p.more", {}, more),
    ),
  );

  async function ask() {
    more.disabled = true;
    try {
      older = (await read("/api/commands", { limit: MORE })).data;
      more.hidden = true;
    } catch (error) {
      put(asOf, error.message);
    }
    more.disabled = false;
    draw();
  }

  function draw() {
    const answer = store.topics.commands;
    if (!answer) return;
    if (!answer.data) {
      rows.say("The commands cannot be read now.");
      rows.root.classList.add("unknown");
      return;
    }
    const seen = new Set(answer.data.map((one) => `${one.lane} ${one.seq}`));
    const all = [...answer.data, ...older.filter((one) => !seen.has(`${one.lane} ${one.seq}`))];
    const text = source.value.trim().toLowerCase();
    const shown = all.filter((one) => (!text || one.source.includes(text)) && (!outcome.value || one.outcome === outcome.value));
    rows.say(all.length ? "No command is as asked for." : "No command has been given yet.");
    rows.show(shown, store.known && !answer.stale);
    put(asOf, answer.stale ? `may be incomplete: ${answer.age_seconds === null ? "not confirmed" : `last confirmed ${span(answer.age_seconds)} ago`}` : "");
  }

  source.addEventListener("input", draw);
  outcome.addEventListener("input", draw);
  const end = store.on("commands link", draw);
  draw();
  return { close: end };
}
