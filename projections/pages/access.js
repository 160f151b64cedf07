// The token that allows to start and stop: it comes in the address (#token=…) and stays in this tab.

const KEY = "tocsin.token";
let token = "";

export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  try {
    if (given) sessionStorage.setItem(KEY, given);
    token = given || sessionStorage.getItem(KEY) || "";
  } catch {
    token = given || "";
  }
  if (given) history.replaceState(null, "", location.pathname + location.search);
  return Boolean(token);
}

export function dropToken() {
  token = "";
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    // Without storage there is nothing to remove.
  }
}

export function hasToken() {
  return Boolean(token);
}

export function authorization() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}
