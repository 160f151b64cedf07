// Listening in: the sound of a source as its node sends it, where the station offers that.

import { authorization } from "./access.js";
import { h } from "./dom.js";

// A source that can be listened to says where in `listen`.
export function listening(id) {
  const player = h("audio", { controls: true, preload: "none", "aria-label": `Sound of ${id}` });
  const button = h("button", { type: "button", "aria-pressed": "false", onclick: () => switchOver() }, "Listen in");
  const says = h("span.outcome", { role: "status" });
  const root = h("p.listen", {}, button, player, says);
  player.hidden = true;
  let address = null;
  player.addEventListener("error", () => {
    if (player.src) says.textContent = "The sound cannot be had from its node now.";
  });

  function switchOver() {
    const on = player.hidden;
    player.hidden = !on;
    button.setAttribute("aria-pressed", String(on));
    button.textContent = on ? "Stop listening" : "Listen in";
    says.textContent = "";
    if (on) {
      player.src = address;
      player.play().catch(() => (says.textContent = "The browser did not allow the sound; press play."));
    } else {
      silence();
    }
  }

  function silence() {
    player.pause();
    player.removeAttribute("src");
    player.load();
  }

  return {
    show(view, known) {
      address = view.listen ?? null;
      button.disabled = !known && player.hidden;
      // An <audio> cannot send a token along: only a session can listen.
      return address && !authorization().Authorization ? root : null;
    },
    close: silence,
  };
}
