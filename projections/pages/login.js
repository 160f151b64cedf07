// Signing in and out: a button in the bar, and a form that asks for the token.

import { isKnown, signIn, signOut, whoIs } from "./access.js";
import { h, put } from "./dom.js";
import { store } from "./store.js";

export function startLogin() {
  const button = document.getElementById("who");
  const field = h("input", { id: "token", type: "password", autocomplete: "current-password", required: true, "aria-describedby": "token-help" });
  const says = h("p.outcome", { role: "alert" });
  const dialog = h(
    "dialog",
    { "aria-labelledby": "login-title" },
    h(
      "form",
      { method: "dialog", onsubmit: (event) => enter(event) },
      h("h2", { id: "login-title" }, "Sign in"),
      h("label", { for: "token" }, "Token"),
      field,
      h("p.rights", { id: "token-help" }, "The token of your key, or the link that ", h("code", {}, "tocsin dashboard"), " prints on the station’s machine."),
      says,
      h("div.acts", {}, h("button", { type: "button", onclick: () => dialog.close() }, "Not now"), h("button", { type: "submit", class: "main" }, "Sign in")),
    ),
  );
  document.body.append(dialog);
  let offered = false;

  async function enter(event) {
    event.preventDefault();
    put(says, "");
    try {
      await signIn(field.value.trim());
      field.value = "";
      dialog.close();
    } catch (error) {
      says.dataset.is = "bad";
      put(says, `Refused: ${error.message}`);
      field.focus();
    }
  }

  function draw() {
    put(button, isKnown() ? "Sign out" : "Sign in");
    button.title = isKnown() ? `Signed in ${whoIs()}` : "";
    // Asked of whoever may not even read; others find the button.
    if (store.refused && !offered && !dialog.open) {
      offered = true;
      dialog.showModal();
    }
  }

  button.addEventListener("click", () => (isKnown() ? signOut() : dialog.showModal()));
  addEventListener("rights", draw);
  store.on("link", draw);
  draw();
}
