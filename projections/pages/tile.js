// One source on the wall.

import { act } from "./actions.js";
import { dropToken, hasToken } from "./access.js";
import { Meter } from "./meter.js";
import { since } from "./times.js";

const SIGNS = { running: "▶", starting: "◔", stalled: "‖", failed: "✕", stopped: "■" };
const KINDS = { file: "Recording", stream: "Stream", device: "Sound card", pipe: "Pipe" };
const template = document.getElementById("tile");

export class Tile {
  constructor(id, rightsChanged) {
    this.id = id;
    this.view = null;
    this.latest = 0;
    this.root = template.content.firstElementChild.cloneNode(true);
    this.parts = {};
    for (const name of ["name", "state", "sign", "word", "about", "reason", "desired", "observed", "since", "outcome"]) {
      this.parts[name] = this.root.querySelector(`.${name}`);
    }
    this.meter = new Meter(this.root.querySelector(".meter"));
    this.root.dataset.source = id;
    this.buttons = [...this.root.querySelectorAll("button")];
    for (const button of this.buttons) {
      button.addEventListener("click", () => this.act(button.dataset.verb, rightsChanged));
    }
    this.allow();
  }

  allow() {
    for (const button of this.buttons) {
      button.disabled = !hasToken();
      button.setAttribute("aria-label", `${button.textContent} ${this.id}`);
      if (hasToken()) button.removeAttribute("aria-describedby");
      else button.setAttribute("aria-describedby", "rights");
    }
  }

  async act(verb, rightsChanged) {
    const mine = (this.latest += 1);
    const end = await act(this.id, verb, (kind, text) => {
      if (mine !== this.latest) return;
      this.parts.outcome.dataset.is = kind;
      this.parts.outcome.textContent = text;
    });
    if (end === "refused") {
      dropToken();
      rightsChanged();
    }
  }

  // `known` is false where nobody can say whether this is still so.
  show(view, known) {
    this.view = view;
    const { parts, root } = this;
    const inDoubt = !known || Boolean(view.trouble);
    root.dataset.state = view.state;
    root.classList.toggle("unknown", inDoubt);
    root.classList.toggle("astray", view.desired === "running" && view.state !== "running");
    put(parts.name, view.name || view.id);
    put(parts.sign, inDoubt ? "?" : SIGNS[view.state] || "•");
    put(parts.word, inDoubt ? `was ${view.state}` : view.state);
    put(parts.about, about(view));
    put(parts.desired, view.desired);
    put(parts.observed, inDoubt ? "not known now" : view.state);
    parts.since.hidden = inDoubt;
    const reason = view.trouble ? "Its events cannot be followed now." : view.reason || "";
    put(parts.reason, reason);
    parts.reason.hidden = !reason;
    this.meter.show(inDoubt ? null : view.level);
    this.tick();
  }

  tick() {
    if (this.view) put(this.parts.since, `since ${since(this.view.since)}`);
  }
}

function about(view) {
  const what = [view.id, KINDS[view.kind] || view.kind || "unknown kind"];
  if (view.rate) what.push(`${view.rate / 1000} kHz`);
  if (view.channels) what.push({ 1: "mono", 2: "stereo" }[view.channels] || `${view.channels} channels`);
  what.push(`on ${view.node}`);
  return what.join(" · ");
}

// Written only where it changed, so that screen readers and selections are left in peace.
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
