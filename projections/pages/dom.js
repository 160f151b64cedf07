// Making elements: text from data is always text.

// h("td.when", { title: "…" }, "text", child, …): an element with classes, attributes and children.
// A property whose name begins with "on" is a listener; one that is null, undefined or false is left out.
export function h(what, given = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Parts of a page that stand below one another.
export function stack(...parts) {
  return h("div.stack", {}, parts);
}

// Written only where it changed, so that screen readers and selections are left in peace.
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Children in this order; those that are there already are not moved, so that they keep the focus.
export function order(parent, wanted) {
  wanted.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  while (parent.children.length > wanted.length) parent.lastElementChild.remove();
}

// A table that becomes a list on a narrow screen. `columns`: [class, heading, cell(row), numeric?].
// `rows` are made anew only where what they show has changed.
export class Rows {
  constructor(caption, columns, empty, attributes = () => ({})) {
    this.columns = columns;
    this.attributes = attributes;
    this.shown = "";
    this.body = h("tbody");
    this.none = h("p.empty", {}, empty);
    this.table = h(
      "table",
      {},
      h("caption.unseen", {}, caption),
      h("thead", {}, h("tr", {}, columns.map(([name, heading]) => h(`th.${name}`, { scope: "col" }, heading)))),
      this.body,
    );
    this.root = h("div.rows", {}, this.table, this.none);
    this.table.hidden = true;
  }

  show(rows, known = true) {
    const now = JSON.stringify(rows);
    this.root.classList.toggle("unknown", !known);
    if (now === this.shown) return;
    this.shown = now;
    this.none.hidden = rows.length > 0;
    this.table.hidden = rows.length === 0;
    this.body.replaceChildren(...rows.map((row) => this.row(row)));
  }

  row(row) {
    const cells = this.columns.map(([name, heading, cell]) => {
      const found = cell(row);
      const nil = found === null || found === undefined || found === "";
      return h(nil ? `td.${name}.nil` : `td.${name}`, { data: { label: heading } }, nil ? "—" : found);
    });
    return h("tr", this.attributes(row), cells);
  }

  again() {
    this.shown = "";
  }

  say(text) {
    put(this.none, text);
  }
}
