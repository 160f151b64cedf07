// Reading from the station, once.

import { authorization } from "./access.js";

const PATIENCE_MS = 20000;

export class Refused extends Error {}

// The envelope of a read: data, source, age_seconds, stale. Throws with words for a person.
export async function read(path, params = {}) {
  const response = await asked(path, params);
  return response.json();
}

export async function asked(path, params = {}) {
  const query = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  let response;
  try {
    response = await fetch(query.size ? `${path}?${query}` : path, {
      headers: authorization(),
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch {
    throw new Error("The station does not answer.");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const words = said.message || said.error?.detail || `the station answered ${response.status}`;
  if (response.status === 401 || response.status === 403) throw new Refused(words);
  throw new Error(words);
}

// Saves what a read gives under a name, with whatever allows to read it.
export async function save(path, params, name) {
  const response = await asked(path, params);
  const address = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = address;
  link.download = response.headers.get("Content-Disposition")?.match(/filename="([^"]+)"/)?.[1] || name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
