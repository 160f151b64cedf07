// An alert is heard and read out when it arrives, once sound was allowed; and counted beside its page.
//
// Two soft notes of our own: nothing like the tones that receivers listen for (853 + 960 Hz, 1050 Hz).

import { h, put } from "./dom.js";
import { store } from "./store.js";
import { eventName, gravity, inForce, sentence } from "./words.js";

const KEY = "tocsin.sound";
const NOTES = { warning: [587.33, 440, 587.33, 440], watch: [523.25, 392], statement: [523.25], test: [523.25], unknown: [523.25] };
const NOTE_S = 0.28;
const known = new Set();

// What was played, for whoever wants to know.
export const played = [];

let first = true;
let sound = null;
let wanted = stored();

function stored() {
  try {
    return localStorage.getItem(KEY) === "on";
  } catch {
    return false;
  }
}

function news(count) {
  const data = store.topics.alerts?.data;
  if (!data) return;
  const active = data.filter((alert) => inForce(alert));
  count.hidden = active.length === 0;
  put(count, active.length ? String(active.length) : "");
  count.title = active.length ? `${active.length} in force` : "";
  const arrived = data.filter((alert) => !known.has(alert.id));
  for (const alert of arrived) known.add(alert.id);
  if (first) {
    first = false;
    return;
  }
  for (const alert of arrived) announce(alert);
}

function announce(alert) {
  const said = document.getElementById("said");
  said.append(h("p", {}, `New alert: ${sentence(alert)}`));
  while (said.children.length > 5) said.firstChild.remove();
  const grave = gravity(alert);
  if (wanted) play(NOTES[grave], alert);
}

function play(notes, alert) {
  sound ??= new AudioContext();
  const ring = () => {
    let at = sound.currentTime + 0.03;
    for (const hertz of notes) {
      const tone = new OscillatorNode(sound, { frequency: hertz, type: "triangle" });
      const volume = new GainNode(sound, { gain: 0 });
      volume.gain.setValueAtTime(0, at);
      volume.gain.linearRampToValueAtTime(0.35, at + 0.02);
      volume.gain.exponentialRampToValueAtTime(0.001, at + NOTE_S * 1.6);
      tone.connect(volume).connect(sound.destination);
      tone.start(at);
      tone.stop(at + NOTE_S * 1.7);
      at += NOTE_S;
    }
    if (alert) played.push({ alert: alert.id, name: eventName(alert), notes: notes.length });
  };
  if (sound.state === "running") ring();
  else sound.resume().then(ring, () => draw());
}

function draw() {
  const button = document.getElementById("sound");
  const on = wanted && (!sound || sound.state === "running");
  button.setAttribute("aria-pressed", String(wanted));
  const text = wanted ? (on ? "Sound on" : "Sound: click to allow") : "Sound off";
  button.replaceChildren(h("span", { "aria-hidden": "true" }, wanted ? "♪" : "♪"), h("span.text", {}, text));
  button.title = "A sound when an alert arrives";
}

export function startChime(count) {
  const button = document.getElementById("sound");
  button.addEventListener("click", () => {
    wanted = !(wanted && (!sound || sound.state === "running"));
    try {
      localStorage.setItem(KEY, wanted ? "on" : "off");
    } catch {
      // Then it lasts as long as the page.
    }
    if (wanted) play(NOTES.test, null);
    draw();
    sound?.addEventListener("statechange", draw);
  });
  store.on("alerts", () => news(count));
  setInterval(() => news(count), 5000);
  draw();
}
