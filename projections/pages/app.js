// The control room: which screen is open, and what all of them share.

import { lookUp } from "./access.js";
import { startChime } from "./chime.js";
import { h } from "./dom.js";
import { startLogin } from "./login.js";
import { drawShell, startShell, tickClock } from "./shell.js";
import { store } from "./store.js";
import * as alerts from "./alerts.js";
import * as audit from "./audit.js";
import * as commands from "./commands.js";
import * as source from "./source.js";
import * as system from "./system.js";
import * as tests from "./tests.js";
import * as wall from "./wall.js";

const SCREENS = [["/", wall], ["/alerts", alerts], ["/commands", commands], ["/tests", tests], ["/audit", audit], ["/system", system]];
const main = document.getElementById("main");
const nav = document.getElementById("nav");
let open = null;
let shown = "";

function screenOf(path) {
  const found = SCREENS.find(([at]) => at === path);
  if (found) return { screen: found[1], at: found[0] };
  const id = path.match(/^\/sources\/([^/]+)$/)?.[1];
  return id ? { screen: source, at: "/", id: decodeURIComponent(id) } : { screen: wall, at: "/" };
}

function show(moveFocus) {
  const path = location.pathname;
  if (path !== shown) {
    shown = path;
    const { screen, at, id } = screenOf(path);
    open?.close?.();
    main.replaceChildren();
    for (const link of nav.querySelectorAll("a")) {
      if (link.getAttribute("href") === at) {
        link.setAttribute("aria-current", path === at ? "page" : "true");
        link.scrollIntoView({ block: "nearest", inline: "nearest" });
      }
      else link.removeAttribute("aria-current");
    }
    document.title = path === "/" ? "Tocsin" : `${id ?? screen.title} · Tocsin`;
    main.dataset.screen = screen.title.toLowerCase();
    open = screen.open(main, id);
    scrollTo(0, 0);
  }
  if (moveFocus) main.focus({ preventScroll: true });
  open?.find?.(decodeURIComponent(location.hash.slice(1)));
}

nav.append(...SCREENS.map(([at, screen]) => h("li", {}, h("a", { href: at }, screen.title, h("span.count", { hidden: true })))));

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='/']");
  if (!link || link.target || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  if (link.pathname.startsWith("/api/")) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  show(true);
});
addEventListener("popstate", () => show(true));
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) lookUp();
});
addEventListener("zone", () => {
  shown = "";
  show(false);
});

function tick() {
  tickClock();
  drawShell();
  open?.tick?.();
}

startShell();
startLogin();
startChime(nav.querySelector("a[href='/alerts'] .count"));
show(false);
// The feed begins once it is known who asks.
lookUp().finally(() => store.start());
tick();
setInterval(tick, 1000);
