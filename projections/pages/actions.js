// Starting, stopping, restarting: what is shown is the real outcome, never "sent".

import { authorization } from "./access.js";

const ASK_AGAIN_MS = 1000;
const ASK_FOR_MS = 60000;

// Calls `told(kind, text)` as the command goes on; kinds: busy, good, bad, open.
// Resolves once nothing more will be told; "refused" where the token is not taken.
export async function act(source, verb, told) {
  told("busy", `${verb}: waiting for the outcome…`);
  let response;
  try {
    response = await fetch(`/api/audio/sources/${encodeURIComponent(source)}/${verb}`, {
      method: "POST",
      headers: authorization(),
      cache: "no-store",
    });
  } catch {
    told("open", `${verb}: the connection broke; nobody here knows whether it was submitted`);
    return "";
  }
  const body = await response.json().catch(() => ({}));
  if (response.status === 401 || response.status === 403) {
    told("bad", `${verb} refused: ${body.error?.detail || "the token is not valid"}`);
    return response.status === 401 ? "refused" : "";
  }
  if (response.status === 202) {
    told("open", `${verb}: no answer yet; still asking`);
    return await askAgain(verb, response.headers.get("Location") || `/api/commands/${body.command?.id}`, told);
  }
  if (body.command?.outcome) {
    told(...inWords(verb, body.command));
  } else {
    told("bad", `${verb}: ${body.error?.detail || body.error?.reason || `the station answered ${response.status}`}`);
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
