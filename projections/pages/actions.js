// Starting, stopping, restarting, acknowledging: what is shown is the real outcome, never "sent".

import { authorization, signature } from "./access.js";

const ASK_AGAIN_MS = 1000;
const ASK_FOR_MS = 60000;

export function act(source, verb, told) {
  return write(verb, `/api/audio/sources/${encodeURIComponent(source)}/${verb}`, told);
}

// Calls `told(kind, text)` as the command goes on; kinds: busy, good, bad, open.
// Resolves once nothing more will be told; "refused" where the token is not taken.
export async function write(verb, path, told, body = null) {
  told("busy", `${verb}: waiting for the outcome…`);
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { ...signature(), ...(body ? { "Content-Type": "application/json" } : {}) },
      body: body ? JSON.stringify(body) : null,
      cache: "no-store",
    });
  } catch {
    told("open", `${verb}: the connection broke; nobody here knows whether it was submitted`);
    return "";
  }
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401 || response.status === 403) {
    told("bad", `${verb} refused: ${answer.error?.detail || answer.command?.reason || "you may not do this here"}`);
    return response.status === 401 ? "refused" : "";
  }
  if (response.status === 202) {
    told("open", `${verb}: no answer yet; still asking`);
    return await askAgain(verb, response.headers.get("Location") || `/api/commands/${answer.command?.id}`, told);
  }
  if (answer.command?.outcome) {
    told(...inWords(verb, answer.command));
  } else {
    told("bad", `${verb}: ${answer.error?.detail || answer.error?.reason || `the station answered ${response.status}`}`);
  }
  return "";
}

async function askAgain(verb, location, told) {
  const until = Date.now() + ASK_FOR_MS;
  while (Date.now() < until) {
    await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN_MS));
    try {
      const response = await fetch(location, { headers: authorization(), cache: "no-store" });
      if (!response.ok) continue;
      const read = await response.json();
      if (read.data?.outcome) {
        told(...inWords(verb, read.data));
        return "";
      }
    } catch {
      // Asked again a second later.
    }
  }
  told("open", `${verb}: no answer within a minute; it may yet run`);
  return "";
}

export function inWords(verb, command) {
  const why = [command.reason, command.detail].filter(Boolean).join(": ");
  switch (command.outcome) {
    case "completed":
      return ["good", `${verb} completed${command.state ? `: now ${command.state}` : ""}`];
    case "superseded":
      return ["open", `${verb} superseded by a newer command`];
    default:
      return ["bad", `${verb} ${command.outcome}${why ? `: ${why}` : ""}`];
  }
}
