// Listening in: what a source sounds like now, a little late; it costs nothing until somebody asks.
//
// Fetched and not left to an <audio>: that cannot carry a token, and keeps its listener seconds behind.

import { authorization } from "./access.js";
import { h, put } from "./dom.js";

const RATE = 24000;
const HEADER_BYTES = 44;
const LEAD_S = 0.3;
const FARTHEST_S = 1.5;

export function listening(id) {
  const button = h("button", { type: "button", "aria-pressed": "false", onclick: () => (ear ? silence() : begin()) }, "Listen in");
  const says = h("span.outcome", { role: "status", "aria-live": "polite" });
  const root = h("p.listen", {}, button, says);
  let ear = null;

  function draw(text, is = "") {
    button.setAttribute("aria-pressed", String(Boolean(ear)));
    button.textContent = ear ? "Stop listening" : "Listen in";
    says.dataset.is = is;
    put(says, text);
  }

  async function begin() {
    const mine = (ear = { stop: new AbortController(), sound: new AudioContext({ sampleRate: RATE }) });
    draw("Asking its node…");
    let end = "The sound has ended.";
    try {
      // Within the click: else the browser would not allow it.
      await mine.sound.resume();
      const response = await fetch(`/api/audio/sources/${encodeURIComponent(id)}/sound`, { headers: authorization(), cache: "no-store", signal: mine.stop.signal });
      if (!response.ok) {
        const said = await response.json().catch(() => ({}));
        end = said.message || `The station answered ${response.status}.`;
      } else {
        await follow(response.body.getReader(), mine);
      }
    } catch (error) {
      if (mine.stop.signal.aborted) return;
      end = error.name === "NotAllowedError" ? "The browser did not allow the sound." : "The sound cannot be had now.";
    }
    if (ear !== mine) return;
    release();
    draw(end, "bad");
  }

  async function follow(reader, mine) {
    let skip = HEADER_BYTES;
    let rest = new Uint8Array(0);
    let at = 0;
    for (;;) {
      const { done, value } = await reader.read();
      if (done || ear !== mine) return;
      const bytes = new Uint8Array(rest.length + value.length);
      bytes.set(rest);
      bytes.set(value, rest.length);
      const from = Math.min(skip, bytes.length);
      skip -= from;
      const count = (bytes.length - from) >> 1;
      rest = bytes.slice(from + 2 * count);
      if (!count) continue;
      at = play(mine.sound, new DataView(bytes.buffer, from, 2 * count), at);
      root.dataset.played = String(Number(root.dataset.played || 0) + count / RATE);
      if (says.dataset.is !== "good") draw("Live, about a second late.", "good");
    }
  }

  // Behind the piece before, or with a new lead where that is over; what would come much too late is left out.
  function play(sound, view, at) {
    const now = sound.currentTime;
    const start = at < now ? now + LEAD_S : at;
    if (start - now > FARTHEST_S) return at;
    const count = view.byteLength / 2;
    const buffer = sound.createBuffer(1, count, RATE);
    const samples = buffer.getChannelData(0);
    for (let n = 0; n < count; n += 1) samples[n] = view.getInt16(2 * n, true) / 32768;
    const piece = new AudioBufferSourceNode(sound, { buffer });
    piece.connect(sound.destination);
    piece.start(start);
    return start + count / RATE;
  }

  function release() {
    ear?.stop.abort();
    ear?.sound.close();
    ear = null;
  }

  function silence() {
    release();
    draw("");
  }

  return {
    // Whoever listens goes on, whatever is known: the sound says itself when it ends.
    show(view, known) {
      button.disabled = !ear && (!known || view.state !== "running");
      return root;
    },
    close: release,
  };
}
