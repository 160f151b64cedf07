// Level meters: dBFS on a linear scale of decibels, −60 to 0. null is digital silence (−∞).
//
// All of them are painted in one loop, in every frame while they move; each on a small canvas of its own, from
// two strips that are drawn once for a width: the dark scale and the lit one.

import { put } from "./dom.js";
import { decibels } from "./words.js";

const BOTTOM = -60;
const SEGMENTS = 30;
const HOLD_MS = 1500;
const FALL_PER_S = 24;
const EASE_MS = 70;
const WORDS_EVERY_MS = 250;
const LABEL_EVERY_MS = 1000;
const strips = new Map();
const meters = new Set();
const still = matchMedia("(prefers-reduced-motion: reduce)");

// What the loop did, for whoever measures it.
export const painted = { frames: 0, meters: 0, oldest: 0 };

let before = 0;
let running = false;

function loop(now) {
  if (!running) return;
  const passed = Math.min(100, now - before);
  before = now;
  // A frame's own time may lie before what has come since.
  const drawn = performance.now();
  let count = 0;
  let oldest = 0;
  for (const meter of meters) {
    if (!meter.visible) continue;
    meter.step(now, passed);
    if (meter.level !== null) {
      count += 1;
      oldest = Math.max(oldest, drawn - meter.level.measuredAt);
    }
  }
  painted.frames += 1;
  painted.meters = count;
  painted.oldest = oldest;
  requestAnimationFrame(loop);
}

function run() {
  if (running || document.hidden || meters.size === 0) return;
  running = true;
  before = performance.now();
  requestAnimationFrame(loop);
}

document.addEventListener("visibilitychange", () => {
  running = false;
  run();
});

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) entry.target.meter.visible = entry.isIntersecting;
}, { rootMargin: "100px" });

const sized = new ResizeObserver((entries) => {
  for (const entry of entries) entry.target.meter.fit(entry.contentRect);
});

matchMedia("(prefers-color-scheme: light)").addEventListener("change", repaint);
addEventListener("theme", repaint);

function repaint() {
  strips.clear();
  for (const meter of meters) meter.fit(meter.canvas.getBoundingClientRect());
}

export class Meter {
  constructor(root) {
    this.root = root;
    this.canvas = root.querySelector("canvas");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.rms = root.querySelector(".rms");
    this.peak = root.querySelector(".peak");
    this.level = null;
    this.visible = true;
    this.bar = BOTTOM;
    this.top = BOTTOM;
    this.held = BOTTOM;
    this.heldUntil = 0;
    this.wordsAt = 0;
    this.labelAt = 0;
    this.canvas.meter = this;
    meters.add(this);
    seen.observe(this.canvas);
    sized.observe(this.canvas);
    run();
  }

  close() {
    meters.delete(this);
    seen.unobserve(this.canvas);
    sized.unobserve(this.canvas);
    if (meters.size === 0) running = false;
  }

  fit({ width, height }) {
    const ratio = devicePixelRatio || 1;
    const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (!wide || !high) return;
    if (this.canvas.width !== wide || this.canvas.height !== high) {
      this.canvas.width = wide;
      this.canvas.height = high;
    }
    this.strips = stripsOf(this.canvas, wide, high, ratio);
    this.paint();
  }

  // `level` as the feed gives it, or null where none is known: that is not silence.
  show(level) {
    const known = level !== null;
    if (known !== (this.level !== null)) {
      this.root.classList.toggle("unheard", !known);
      this.wordsAt = this.labelAt = 0;
    }
    this.level = level;
    const now = performance.now();
    if (!known) {
      this.bar = this.top = this.held = BOTTOM;
    } else {
      const peak = level.peak_dbfs ?? BOTTOM;
      if (peak >= this.held || now > this.heldUntil) {
        this.held = Math.max(peak, BOTTOM);
        this.heldUntil = now + HOLD_MS;
      }
    }
    if (now - this.wordsAt >= WORDS_EVERY_MS) this.say(now);
  }

  say(now) {
    this.wordsAt = now;
    const { level } = this;
    put(this.rms, level ? decibels(level.rms_dbfs) : "—");
    put(this.peak, level ? decibels(level.peak_dbfs) : "—");
    this.root.classList.toggle("hot", level !== null && level.peak_dbfs !== null && level.peak_dbfs >= -1);
    if (now - this.labelAt < LABEL_EVERY_MS) return;
    this.labelAt = now;
    this.root.setAttribute("aria-label", label(level));
  }

  step(now, passed) {
    const { level } = this;
    if (level !== null) {
      const rms = Math.max(BOTTOM, level.rms_dbfs ?? BOTTOM);
      const peak = Math.max(BOTTOM, level.peak_dbfs ?? BOTTOM);
      if (still.matches) {
        this.bar = rms;
        this.top = peak;
      } else {
        this.bar += (rms - this.bar) * (1 - Math.exp(-passed / EASE_MS));
        this.top = Math.max(peak, this.top - (FALL_PER_S * passed) / 1000);
      }
      if (now > this.heldUntil) this.held = Math.max(peak, this.held - (FALL_PER_S * passed) / 1000);
    }
    this.paint();
  }

  paint() {
    if (!this.strips) return;
    const { width, height } = this.canvas;
    const { dark, lit, dim, hold } = this.strips;
    const { context } = this;
    context.drawImage(dark, 0, 0);
    if (this.level === null) return;
    const top = part(this.top, width);
    const bar = part(this.bar, width);
    if (top > bar) context.drawImage(dim, 0, 0, top, height, 0, 0, top, height);
    if (bar > 0) context.drawImage(lit, 0, 0, bar, height, 0, 0, bar, height);
    const held = part(this.held, width);
    if (held > 0) {
      context.fillStyle = hold;
      context.fillRect(Math.max(0, held - Math.max(2, height / 9)), 0, Math.max(2, height / 9), height);
    }
  }
}

function label(level) {
  if (level === null) return "No level known";
  const rms = level.rms_dbfs === null ? "digital silence" : `RMS ${decibels(level.rms_dbfs)} dBFS`;
  return `Level: ${rms}, peak ${decibels(level.peak_dbfs)} dBFS`;
}

function part(level, width) {
  return Math.round(Math.min(1, Math.max(0, (level - BOTTOM) / -BOTTOM)) * width);
}

function stripsOf(canvas, width, height, ratio) {
  const key = `${width}x${height}`;
  if (!strips.has(key)) {
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const zones = [[0.7, colour("--low")], [0.9, colour("--mid")], [1, colour("--top")]];
    const trough = colour("--trough");
    const segments = Math.min(SEGMENTS, Math.floor(width / (4 * ratio)));
    const draw = (alpha) => strip(width, height, segments, Math.max(1, Math.round(ratio)), zones, trough, alpha);
    strips.set(key, { dark: draw(0.1), dim: draw(0.42), lit: draw(1), hold: colour("--hold") });
  }
  return strips.get(key);
}

function strip(width, height, segments, gap, zones, trough, alpha) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { alpha: false });
  context.fillStyle = trough;
  context.fillRect(0, 0, width, height);
  context.globalAlpha = alpha;
  for (let n = 0; n < segments; n += 1) {
    const from = Math.round((n * width) / segments);
    const to = Math.round(((n + 1) * width) / segments) - gap;
    context.fillStyle = zones.find(([upto]) => (n + 0.5) / segments < upto)[1];
    context.fillRect(from, 0, to - from, height);
  }
  return canvas;
}
