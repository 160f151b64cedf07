// The latest commands and what became of them.

import { authorization } from "./access.js";
import { moment, span } from "./times.js";

const EVERY_MS = 2500;
const body = document.getElementById("commands");
const none = document.getElementById("no-commands");
const asOf = document.getElementById("commands-as-of");
let readAt = 0;
let shown = "";
let asking = false;

export async function refresh() {
  if (asking) return;
  asking = true;
  try {
    const abort = AbortSignal.timeout(6000);
    const response = await fetch("/api/commands?limit=25", { headers: authorization(), cache: "no-store", signal: abort });
    if (!response.ok) throw new Error(String(response.status));
    const read = await response.json();
    readAt = Date.now();
    show(read.data);
    asOf.textContent = read.stale
      ? `may be incomplete: ${read.age_seconds === null ? "not confirmed" : `last confirmed ${span(read.age_seconds)} ago`}`
      : "";
    body.parentElement.classList.toggle("unknown", read.stale);
  } catch {
    body.parentElement.classList.add("unknown");
    none.textContent = "The commands cannot be read now.";
    asOf.textContent = readAt ? `not updated for ${span((Date.now() - readAt) / 1000)}` : "";
  } finally {
    asking = false;
  }
}

export function keepFresh() {
  refresh();
  setInterval(refresh, EVERY_MS);
}

function show(commands) {
  const now = JSON.stringify(commands);
  none.hidden = commands.length > 0;
  none.textContent = "No command has been given yet.";
  if (now === shown) return;
  shown = now;
  body.replaceChildren(...commands.map(row));
}

function row(command) {
  const line = document.createElement("tr");
  const verb = command.type.replace(/^source\./, "");
  const says = {
    completed: command.state ? `now ${command.state}` : "",
    superseded: command.by ? `by ${command.by}` : "",
  }[command.outcome] ?? [command.reason, command.detail].filter(Boolean).join(": ");
  const cells = [
    ["when", "Finished", moment(command.finished_at)],
    ["source", "Source", command.source || "—"],
    ["verb", "Command", verb],
    ["result", "Outcome", command.outcome],
    ["says", "What it says", says || "—"],
    ["key", "Signed by", command.key || "—"],
  ];
  for (const [name, label, text] of cells) {
    const cell = document.createElement("td");
    cell.className = name;
    cell.dataset.label = label;
    if (name === "result") {
      const word = document.createElement("span");
      word.className = "pill";
      word.textContent = text;
      cell.append(word);
    } else {
      cell.textContent = text;
    }
    line.append(cell);
  }
  line.dataset.outcome = command.outcome;
  line.title = command.id;
  return line;
}
