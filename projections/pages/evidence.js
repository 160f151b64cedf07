// What was recorded of an alert: players for the recordings in which it was heard.

import { asked, read } from "./asking.js";
import { h } from "./dom.js";

const FRESH_MS = 10000;
const MOST = 200;
let known = null;
let readAt = -Infinity;

// The latest recordings; none where the station keeps none.
function recordings() {
  if (performance.now() - readAt > FRESH_MS) {
    readAt = performance.now();
    known = read("/api/audio/recordings", { limit: MOST }).then(({ data }) => data).catch(() => []);
  }
  return known;
}

export function evidence(alert) {
  const root = h("ul.evidence", { "aria-label": "Evidence" });
  const heard = new Set(alert.sources.flatMap((one) => one.hearings.map((hearing) => hearing.id)));
  recordings().then((all) => {
    const found = all.filter((one) => one.state === "finished" && one.hearings.some((id) => heard.has(id)));
    root.replaceChildren(...found.map(player));
  });
  return root;
}

export function player(recording) {
  const name = `Recording of ${recording.source}${recording.seconds ? `, ${Math.round(recording.seconds)} s` : ""}`;
  const says = h("span.outcome", { role: "status" });
  const button = h("button", { type: "button", onclick: () => load() }, `▶ ${name}`);
  const root = h("li", {}, button, says);

  // Fetched when asked for: an <audio> cannot carry a token.
  async function load() {
    button.disabled = true;
    try {
      const response = await asked(`/api/audio/recordings/${encodeURIComponent(recording.id)}/audio`);
      const audio = h("audio", { controls: true, autoplay: true, "aria-label": name });
      audio.src = URL.createObjectURL(await response.blob());
      root.replaceChildren(h("span", {}, name), audio);
      audio.focus();
    } catch (error) {
      says.dataset.is = "bad";
      says.textContent = error.message;
      button.disabled = false;
    }
  }

  return root;
}
