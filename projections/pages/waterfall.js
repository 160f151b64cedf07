// A waterfall: the spectrum of a source as it comes, the newest at the top; only while somebody looks.

import { read } from "./asking.js";
import { h, put } from "./dom.js";

const ROWS = 100;
const BOTTOM = -100;
const TRY_MS = 2000;
const EVERY_MS = 250;

// To ask for it is to look: the node sends it for some seconds then. Where none comes, nothing is shown.
export class Waterfall {
  constructor(id) {
    this.id = id;
    this.canvas = h("canvas.waterfall", { role: "img", "aria-label": `Spectrum of ${id} over the last seconds, low frequencies left` });
    this.caption = h("figcaption");
    this.root = h("figure.chartbox", {}, this.canvas, this.caption);
    this.seen = false;
    this.latest = "";
    this.timer = setTimeout(() => this.ask(), EVERY_MS);
  }

  show(known, rate) {
    put(this.caption, `Spectrum${rate ? ` from 0 to ${rate / 2000} kHz` : ""}, the newest at the top`);
    this.root.classList.toggle("unknown", !known);
    return this.seen ? this.root : null;
  }

  async ask() {
    let wait = TRY_MS;
    try {
      const { data } = await read(`/api/audio/sources/${encodeURIComponent(this.id)}`, { spectrum: "true" });
      const level = document.hidden ? null : data.level;
      if (level?.spectrum?.length) {
        wait = EVERY_MS;
        this.seen = true;
        if (level.at !== this.latest) this.add(level.spectrum);
        this.latest = level.at;
      }
    } catch {
      // Asked again a little later.
    }
    if (this.timer !== null) this.timer = setTimeout(() => this.ask(), wait);
  }

  add(bands) {
    const { canvas } = this;
    if (canvas.width !== bands.length || canvas.height !== ROWS) {
      canvas.width = bands.length;
      canvas.height = ROWS;
    }
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(canvas, 0, 0, bands.length, ROWS - 1, 0, 1, bands.length, ROWS - 1);
    const line = context.createImageData(bands.length, 1);
    bands.forEach((level, index) => line.data.set(heat(Math.min(1, Math.max(0, (level - BOTTOM) / -BOTTOM))), index * 4));
    context.putImageData(line, 0, 0);
  }

  close() {
    clearTimeout(this.timer);
    this.timer = null;
  }
}

// From black through green and amber to white.
function heat(part) {
  const stops = [[8, 10, 12], [18, 74, 66], [58, 170, 118], [230, 180, 80], [255, 250, 235]];
  const at = part * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(at));
  return [0, 1, 2].map((n) => Math.round(stops[low][n] + (stops[low + 1][n] - stops[low][n]) * (at - low))).concat(255);
}
