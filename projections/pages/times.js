// Times as an operator reads them: UTC or as here, and how long ago.

const KEY = "tocsin.zone";
const two = (number) => String(number).padStart(2, "0");
let zone = stored() === "local" ? "local" : "utc";

function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

export function isLocal() {
  return zone === "local";
}

export function switchZone() {
  zone = isLocal() ? "utc" : "local";
  try {
    localStorage.setItem(KEY, zone);
  } catch {
    // Then it lasts as long as the page.
  }
  dispatchEvent(new Event("zone"));
}

export function zoneName() {
  return isLocal() ? "local" : "UTC";
}

export function clock(date, local = isLocal()) {
  return local
    ? `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`
    : `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}:${two(date.getUTCSeconds())}`;
}

export function day(date, local = isLocal()) {
  return local
    ? `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`
    : date.toISOString().slice(0, 10);
}

export function moment(text) {
  const date = new Date(text);
  if (!text || Number.isNaN(date.getTime())) return "unknown";
  return day(date) === day(new Date()) ? clock(date) : `${day(date)} ${clock(date)}`;
}

// Hours and minutes, as in a sentence, where a date is not to be broken.
export function hour(text) {
  const date = new Date(text);
  if (!text || Number.isNaN(date.getTime())) return "unknown";
  const short = clock(date).slice(0, 5);
  return day(date) === day(new Date()) ? short : `${day(date)} ${short}`.replaceAll("-", "\u2011");
}

// A <time> in the chosen zone, the other one in its title.
export function time(text) {
  const element = document.createElement("time");
  const date = new Date(text);
  element.textContent = moment(text);
  if (text && !Number.isNaN(date.getTime())) {
    element.dateTime = date.toISOString();
    element.title = `${day(date, false)} ${clock(date, false)} UTC, ${day(date, true)} ${clock(date, true)} here`;
  }
  return element;
}

export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

// The largest unit alone.
export function about(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h`;
  return `${Math.floor(whole / 86400)} d`;
}

export function ago(text) {
  return (Date.now() - new Date(text).getTime()) / 1000;
}

// A moment of another day has no use for its seconds.
export function since(text) {
  const seconds = ago(text);
  if (Number.isNaN(seconds)) return "unknown";
  return seconds < 86400 ? `${moment(text)} · ${span(seconds)}` : `${hour(text)} · ${about(seconds)}`;
}
