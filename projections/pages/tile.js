// One source on the wall: whole, or small where there are many.

import { Controls } from "./controls.js";
import { h, put } from "./dom.js";
import { Meter } from "./meter.js";
import { store } from "./store.js";
import { about, ago, since } from "./times.js";
import { aboutSource, decibels, doubtOf, SIGNS } from "./words.js";

const OVERDUE_S = 8 * 86400;
const SCALE = ["−60", "−48", "−36", "−24", "−12", "0"];
// What the feed may tell beside RMS and peak, and what it is called.
const FIGURES = [
  ["momentary_lufs", "M LUFS"],
  ["short_term_lufs", "S LUFS"],
  ["integrated_lufs", "I LUFS"],
  ["true_peak_dbtp", "dBTP"],
];

export function meterParts(small) {
  return h(
    "div.meter.unheard",
    { role: "img", "aria-label": "No level known" },
    h("canvas.trough"),
    small ? null : h("div.scale", { "aria-hidden": "true" }, SCALE.map((mark) => h("span", {}, mark))),
    h(
      "dl.figures",
      {},
      h("div", {}, h("dt", {}, small ? "RMS" : "RMS dBFS"), h("dd.rms", {}, "—")),
      h("div", {}, h("dt", {}, small ? "Peak" : "Peak dBFS"), h("dd.peak", {}, "—")),
    ),
    small ? null : h("dl.figures.more", { hidden: true }, FIGURES.map(([name, title]) => h("div", { data: { figure: name } }, h("dt", {}, title), h("dd", {}, "—")))),
  );
}

export function showFigures(meter, level) {
  // A source whose node has no such meters has none here either: that is not −∞.
  const measured = Number.isFinite(level?.range_lu);
  const more = meter.querySelector(".more");
  more.hidden = !measured;
  if (!measured) return;
  for (const one of more.children) put(one.lastChild, decibels(level[one.dataset.figure] ?? null));
}

export class Tile {
  constructor(id, small) {
    this.id = id;
    this.small = small;
    this.figuresAt = 0;
    const part = (name, tag = "p") => (this[name] = h(`${tag}.${name}`));
    this.sign = h("span.sign", { "aria-hidden": "true" });
    this.link = h("a", { href: `/sources/${encodeURIComponent(id)}` });
    this.box = meterParts(small);
    const head = h("header", {}, h("h2.name", {}, this.link), h("p.state", {}, this.sign, part("word", "span")), small ? null : part("about"));
    this.chips = h("ul.chips", { "aria-label": "Remarks" });
    if (!small) this.controls = new Controls(id);
    this.root = h(
      small ? "li.tile.small" : "li.tile",
      { data: { source: id } },
      h(
        "article",
        {},
        head,
        this.box,
        small ? null : [part("reason"), h("p.facts", {}, h("span.wish", {}, "Should be ", part("desired", "b"), "; is "), part("observed", "b"), part("since", "span"))],
        this.chips,
        small ? null : [this.controls.outcome, this.controls.acts],
      ),
    );
    this.meter = new Meter(this.box);
  }

  close() {
    this.meter.close();
  }

  allow() {
    this.controls?.allow();
  }

  // `known` is false where nobody can say whether this is still so.
  show(view, known) {
    this.view = view;
    this.known = known;
    const { root } = this;
    const inDoubt = !known || Boolean(view.trouble);
    root.dataset.state = view.state;
    root.classList.toggle("unknown", inDoubt);
    root.classList.toggle("astray", view.desired === "running" && view.state !== "running");
    put(this.link, view.name || view.id);
    put(this.sign, inDoubt ? "?" : SIGNS[view.state] || "•");
    put(this.word, inDoubt ? `was ${view.state}` : view.state);
    if (!this.small) {
      put(this.about, aboutSource(view));
      put(this.desired, view.desired);
      put(this.observed, inDoubt ? "not known now" : view.state);
      this.desired.parentElement.hidden = !inDoubt && view.desired === view.state;
      this.since.hidden = inDoubt;
      const reason = view.trouble ? doubtOf(view.trouble) : view.reason || "";
      put(this.reason, reason);
      this.reason.hidden = !reason;
    }
    this.hear();
    this.tick();
  }

  hear() {
    if (!this.view) return;
    const level = this.known ? store.level(this.view) : null;
    this.meter.show(level);
    const now = performance.now();
    if (this.small || now - this.figuresAt < 250) return;
    this.figuresAt = now;
    showFigures(this.box, level);
  }

  tick() {
    if (!this.view) return;
    if (!this.small) put(this.since, ` since ${since(this.view.since)}`);
    const chips = remarks(this.view, this.small);
    const now = JSON.stringify(chips);
    if (this.chips.dataset.shows === now) return;
    this.chips.dataset.shows = now;
    this.chips.hidden = chips.length === 0;
    this.chips.replaceChildren(...chips.map(([kind, text]) => h("li.chip", { data: { is: kind } }, text)));
  }
}

// What is worth a word beside the state: [kind, text].
export function remarks(view, small = false) {
  const found = [];
  for (const one of store.topics.conditions?.data ?? []) {
    if (one.source !== view.id) continue;
    found.push(["bad", `${capital(one.condition.replace(/[._]/g, " "))} for ${about(ago(one.opened_at))}`]);
  }
  for (const group of store.topics.groups?.data ?? []) {
    if (!group.members.includes(view.id)) continue;
    const counts = group.active === view.id;
    const name = group.name || group.id;
    if (!small) found.push([counts ? "good" : "plain", counts ? `Counts for ${name}` : `In reserve for ${name}`]);
    else if (counts) found.push(["good", name]);
  }
  const decoder = view.decoder;
  if (decoder && view.desired === "running") {
    const test = decoder.last_test_at;
    const late = ago(test ?? decoder.since) > OVERDUE_S;
    if (late) found.push(["warn", test ? `No weekly test for ${about(ago(test))}` : "No weekly test yet"]);
    else if (!small) found.push(["plain", test ? `Weekly test ${about(ago(test))} ago` : "No weekly test yet"]);
  }
  return found;
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
