// What codes and states are called.

import { clock, day, hour } from "./times.js";

export const SIGNS = { running: "▶", starting: "◔", stalled: "‖", failed: "✕", stopped: "■" };
export const STATES = ["running", "starting", "stalled", "failed", "stopped"];
const KINDS = { file: "Recording", stream: "Stream", device: "Sound card", pipe: "Pipe" };
const CHANNELS = { 1: "mono", 2: "stereo" };

export function aboutSource(view) {
  const what = [view.id, KINDS[view.kind] || view.kind || "unknown kind"];
  if (view.rate) what.push(`${view.rate / 1000} kHz`);
  if (view.channels) what.push(CHANNELS[view.channels] || `${view.channels} channels`);
  what.push(`on ${view.node}`);
  return what.join(" · ");
}

export function doubtOf(trouble) {
  return trouble.startsWith("ingest node ") ? `The ${trouble}.` : "Its events cannot be followed now.";
}

export function decibels(level, digits = 1) {
  if (level === null || level === undefined || level === -Infinity) return "−∞";
  return (level < 0 ? "−" : "") + Math.abs(level).toFixed(digits);
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  for (; count >= 1000 && step < units.length - 1; step += 1) count /= 1000;
  return `${count >= 100 || step === 0 ? Math.round(count) : count.toFixed(1)} ${units[step]}`;
}

export function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

// How grave an event is, for colour, sound and order. The older codes (TOR, SVR, EAN) say it in their names
// alone; the newer ones in their last letter too (47 CFR 11.31), whatever we know of them.
export function gravity({ event, event_name: name }) {
  if (!event) return "unknown";
  if (["RWT", "RMT", "NPT", "DMO"].includes(event)) return "test";
  if (event === "EAN" || /warning|emergency/i.test(name ?? "")) return "warning";
  if (/watch/i.test(name ?? "")) return "watch";
  if (name) return "statement";
  return { W: "warning", E: "warning", A: "watch" }[event.at(-1)] ?? "statement";
}

const GRAVITIES = ["warning", "watch", "unknown", "statement", "test"];

// The gravest first, then the latest.
export function byGravity(one, other) {
  const grave = (alert) => GRAVITIES.indexOf(gravity(alert));
  return grave(one) - grave(other) || (one.last_at < other.last_at ? 1 : -1);
}

export function inForce(alert, at = Date.now()) {
  return Boolean(alert.expires_at) && new Date(alert.expires_at).getTime() > at;
}

export function eventName(alert) {
  return alert.event_name || (alert.event ? `Event ${alert.event}` : "Message without a readable event");
}

export function places(alert, most = 6) {
  const names = alert.locations.map((place) => place.name || `area ${place.code}`);
  if (names.length <= most) return list(names);
  return `${names.slice(0, most).join("; ")} and ${names.length - most} more areas`;
}

function list(names) {
  if (names.length < 2) return names[0] || "no named area";
  const between = names.some((name) => name.includes(",")) ? "; " : ", ";
  return `${names.slice(0, -1).join(between)} and ${names[names.length - 1]}`;
}

// The alert as a person would say it.
export function sentence(alert) {
  const who = alert.originator_name || (alert.originator ? `Originator ${alert.originator}` : "Somebody");
  const from = alert.station ? ` (${alert.station.trim()})` : "";
  const what = alert.event_name || (alert.event ? `an event with the code ${alert.event}` : "a message whose event cannot be read");
  const named = alert.event_name ? `${/^[AEIOU]/.test(what) ? "an" : "a"} ${what}` : what;
  const when = alert.issued_at ? `, issued at ${hour(alert.issued_at)}` : "";
  const until = alert.expires_at ? ` and in force until ${later(alert.expires_at, alert.issued_at)}` : "";
  return `${capital(who)}${from}: ${named} for ${places(alert)}${when}${until}.`;
}

// A time after another one: its day only where that is another day.
function later(text, before) {
  const date = new Date(text);
  return before && day(date) === day(new Date(before)) ? clock(date).slice(0, 5) : hour(text);
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

// What a command's result says beside its outcome.
export function says(command) {
  if (command.outcome === "completed") return command.state ? `now ${command.state}` : "";
  if (command.outcome === "superseded") return command.by ? `by ${command.by}` : "";
  return [command.reason, command.detail].filter(Boolean).join(": ");
}
