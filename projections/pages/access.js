// Who uses the page: a session with its key and role; or, where the station has none, a token kept for this tab.
//
// The token comes in the address (#token=…) or is typed in; it leaves the address at once.

const KEY = "tocsin.token";
const SIGNED_IN = "tocsin.signed-in";
const MAY_ACT = ["operator", "engineer"];
let token = "";
let session = null;
let refusal = "";

// What the station says of who we are; tells `rights` where that is another than before.
export async function lookUp() {
  const given = fromAddress();
  token = given ? "" : kept(sessionStorage, KEY);
  if (given) {
    await signIn(given).catch((error) => (refusal = error.message));
  } else if (kept(localStorage, SIGNED_IN)) {
    session = await told(await ask("GET"));
    if (!session) drop();
  }
  dispatchEvent(new Event("rights"));
}

// Throws with words for a person.
export async function signIn(given) {
  refusal = "";
  const response = await ask("POST", { token: given });
  if (response.status === 404 || response.status === 405) {
    token = given;
    keep(sessionStorage, KEY, given);
  } else if (response.ok) {
    session = await told(response);
    drop();
    keep(localStorage, SIGNED_IN, "yes");
  } else {
    const said = await response.json().catch(() => ({}));
    throw new Error(said.error?.detail || `the station answered ${response.status}`);
  }
  dispatchEvent(new Event("rights"));
}

export async function signOut() {
  if (session) await ask("DELETE");
  session = null;
  drop();
  dispatchEvent(new Event("rights"));
}

// Why the token of the address was not taken, if it was not.
export function refused() {
  return refusal;
}

export function isKnown() {
  return Boolean(session || token);
}

// Whether starting and the like may be tried; the station judges.
export function mayAct() {
  return session ? MAY_ACT.includes(session.role) : Boolean(token);
}

export function whoIs() {
  return session ? `as ${session.key}, ${session.role}` : token ? "with a token" : "";
}

// Headers with which to read.
export function authorization() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

// Headers with which to write: what shows that our own page asks.
export function signature() {
  return { ...authorization(), ...(session?.csrf ? { "X-Tocsin-CSRF": session.csrf } : {}) };
}

function fromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) history.replaceState(null, "", location.pathname + location.search);
  return given || "";
}

async function ask(method, body = null) {
  try {
    return await fetch("/api/session", {
      method,
      headers: { ...signature(), ...(body ? { "Content-Type": "application/json" } : {}) },
      body: body ? JSON.stringify(body) : null,
      cache: "no-store",
    });
  } catch {
    return new Response("{}", { status: 503 });
  }
}

async function told(response) {
  const said = response.ok ? await response.json().catch(() => null) : null;
  return said?.key ? said : null;
}

function drop() {
  token = "";
  try {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(SIGNED_IN);
  } catch {
    // Without storage there is nothing to remove.
  }
}

function kept(storage, name) {
  try {
    return storage.getItem(name) || "";
  } catch {
    return "";
  }
}

function keep(storage, name, value) {
  try {
    storage.setItem(name, value);
  } catch {
    // Then it lasts as long as the page.
  }
}
