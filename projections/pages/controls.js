// The buttons of a source, and what became of what they asked for.

import { act } from "./actions.js";
import { isKnown, mayAct, refused, signOut } from "./access.js";
import { h } from "./dom.js";

const VERBS = ["start", "stop", "restart"];

export class Controls {
  constructor(id) {
    this.id = id;
    this.latest = 0;
    this.outcome = h("p.outcome", { role: "status", "aria-live": "polite" });
    this.buttons = VERBS.map((verb) =>
      h("button", { type: "button", "aria-label": `${capital(verb)} ${id}`, data: { verb }, onclick: () => this.act(verb) }, capital(verb)),
    );
    this.acts = h("div.acts", {}, this.buttons);
    this.allow();
  }

  allow() {
    for (const button of this.buttons) {
      button.disabled = !mayAct();
      if (mayAct()) button.removeAttribute("aria-describedby");
      else button.setAttribute("aria-describedby", "rights");
    }
  }

  async act(verb) {
    const mine = (this.latest += 1);
    const end = await act(this.id, verb, (kind, text) => {
      if (mine !== this.latest) return;
      this.outcome.dataset.is = kind;
      this.outcome.textContent = text;
    });
    if (end === "refused") await signOut();
  }
}

// Why the buttons cannot be used, where they cannot.
export function rights() {
  const root = h("p.rights", { id: "rights" });
  const say = () => {
    root.replaceChildren();
    if (mayAct()) return;
    if (refused()) root.append(`The token was refused: ${refused()}. `);
    if (isKnown()) root.append("Read only: your role may not start and stop sources.");
    else root.append("Read only. Sign in, or open the link that ", h("code", {}, "tocsin dashboard"), " prints, to start and stop sources.");
  };
  say();
  addEventListener("rights", say);
  return { root, close: () => removeEventListener("rights", say) };
}

function capital(word) {
  return word.charAt(0).toUpperCase() + word.slice(1);
}
