// Times as an operator reads them: UTC, and how long ago.

const two = (number) => String(number).padStart(2, "0");

export function clock(date) {
  return `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}:${two(date.getUTCSeconds())}`;
}

export function moment(text) {
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return "unknown";
  const day = date.toISOString().slice(0, 10);
  return day === new Date().toISOString().slice(0, 10) ? clock(date) : `${day} ${clock(date)}`;
}

export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

export function since(text) {
  const seconds = (Date.now() - new Date(text).getTime()) / 1000;
  return Number.isNaN(seconds) ? "unknown" : `${moment(text)} · ${span(seconds)}`;
}
