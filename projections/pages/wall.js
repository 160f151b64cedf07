// The wall: every source, what is in force, and what needs somebody.

import { attention } from "./attention.js";
import { rights } from "./controls.js";
import { h, order, put } from "./dom.js";
import { store } from "./store.js";
import { Tile } from "./tile.js";
import { STATES } from "./words.js";

const SMALL_FROM = 25;
const KEY = "tocsin.size";

export const title = "Wall";

export function open(root) {
  const tiles = new Map();
  const tally = h("ul.tally", { id: "tally", "aria-label": "Sources by state" });
  const list = h("ul.wall", { id: "tiles" });
  const empty = h("p.empty", { id: "empty" }, "Waiting for the station…");
  const search = h("input", { type: "search", id: "search", placeholder: "Find a source", "aria-label": "Find a source", autocomplete: "off" });
  const only = h("select", { id: "only", "aria-label": "Which sources" }, [["", "All states"], ["astray", "Not as they should be"], ...STATES.map((state) => [state, state])].map(([value, text]) => h("option", { value }, text)));
  const size = h("select", { id: "size", "aria-label": "Size of the tiles" }, [["", "Size: fitting"], ["whole", "Size: whole"], ["small", "Size: small"]].map(([value, text]) => h("option", { value }, text)));
  size.value = kept();
  const may = rights();
  const watch = attention();
  root.append(
    watch.root,
    h(
      "section",
      { id: "wall", "aria-labelledby": "sources-title" },
      h("div.heading", {}, h("h1", { id: "sources-title" }, "Sources"), tally, may.root, h("div.tools", {}, search, only, size)),
      list,
      empty,
    ),
  );
  let small = null;

  function wanted(view) {
    const text = search.value.trim().toLowerCase();
    if (text && !`${view.id} ${view.name} ${view.node}`.toLowerCase().includes(text)) return false;
    if (only.value === "astray") return view.desired === "running" && view.state !== "running";
    return !only.value || view.state === only.value;
  }

  function draw() {
    if (store.sources === null) {
      put(empty, store.refused ? "Nothing is shown to whoever may not read it." : "Waiting for the station…");
      return;
    }
    const known = store.known;
    const views = [...store.sources.values()];
    const shown = views.filter(wanted);
    const nowSmall = size.value ? size.value === "small" : shown.length >= SMALL_FROM;
    if (nowSmall !== small) {
      small = nowSmall;
      for (const tile of tiles.values()) tile.close();
      tiles.clear();
      list.classList.toggle("small", small);
    }
    const ids = new Set(shown.map((view) => view.id));
    for (const [id, tile] of tiles) {
      if (ids.has(id)) continue;
      tile.close();
      tiles.delete(id);
    }
    for (const view of shown) {
      if (!tiles.has(view.id)) tiles.set(view.id, new Tile(view.id, small));
      tiles.get(view.id).show(view, known);
    }
    order(list, shown.map((view) => tiles.get(view.id).root));
    empty.hidden = shown.length > 0;
    if (views.length) put(empty, "No source is as asked for.");
    else put(empty, known ? "This station has no sources yet. Add one with “tocsin source add”." : "No source was known.");
    drawTally(views, known);
  }

  function drawTally(views, known) {
    const counts = STATES.map((state) => [state, views.filter((view) => view.state === state).length]);
    const now = JSON.stringify([counts, known]);
    if (tally.dataset.shows === now) return;
    tally.dataset.shows = now;
    tally.classList.toggle("unknown", !known);
    if (!known) {
      tally.replaceChildren(h("li", {}, "States not known now"));
      return;
    }
    const told = counts.filter(([state, count]) => count > 0 || state === "running" || state === "failed");
    tally.replaceChildren(...told.map(([state, count]) => h(count ? "li" : "li.none", { data: { state } }, h("b", {}, String(count)), ` ${state}`)));
  }

  const hear = () => tiles.forEach((tile) => tile.hear());
  const allow = () => tiles.forEach((tile) => tile.allow());
  const ends = [store.on("sources link", draw), store.on("levels", hear)];
  for (const field of [search, only]) field.addEventListener("input", draw);
  size.addEventListener("input", () => {
    keep(size.value);
    draw();
  });
  addEventListener("rights", allow);
  draw();
  return {
    tick() {
      draw();
      watch.draw();
    },
    close() {
      ends.forEach((end) => end());
      removeEventListener("rights", allow);
      for (const tile of tiles.values()) tile.close();
      may.close();
      watch.close();
    },
  };
}

function kept() {
  try {
    return localStorage.getItem(KEY) || "";
  } catch {
    return "";
  }
}

function keep(size) {
  try {
    localStorage.setItem(KEY, size);
  } catch {
    // Then it lasts as long as the page.
  }
}
