// A level over time on a canvas: the band between the quietest and the loudest, the mean, the peaks, and
// underneath in which state the source was. Where nothing was measured there is a gap, never a line.

import { h, put } from "./dom.js";
import { clock, day, isLocal, moment } from "./times.js";
import { decibels } from "./words.js";

const BOTTOM = -72;
// In pixels, of a page whose letters are not larger than others'.
const LEFT_PX = 38;
const RIBBON_PX = 10;
const FOOT_PX = 22;
const TOP_PX = 8;
const LINES = [0, -12, -24, -36, -48, -60];
const STEPS_S = [300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 1209600];

function legend() {
  const keys = [["mean", "--running", "mean"], ["band", "--band", "quietest to loudest"], ["peak", "--peak", "highest peak"], ["loud", "--loud", "loudness (LUFS)"]];
  const items = keys.map(([name, colour, text]) => {
    const item = h(`li.${name}`, {}, text);
    item.style.setProperty("--key", `var(${colour})`);
    return item;
  });
  return h("ul.legend", { "aria-hidden": "true" }, items);
}

export class LevelChart {
  constructor() {
    this.canvas = h("canvas.chart", { role: "img", tabindex: "0", "aria-label": "Level over time" });
    this.reading = h("p.reading", { role: "status" });
    this.root = h("figure.chartbox", {}, this.canvas, h("figcaption", {}, legend(), this.reading));
    this.root.querySelector(".loud").hidden = true;
    this.data = null;
    this.cursor = null;
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    this.canvas.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.measure();
    this.themed = () => this.draw();
    this.light = matchMedia("(prefers-color-scheme: light)");
    this.light.addEventListener("change", this.themed);
    addEventListener("theme", this.themed);
  }

  close() {
    this.light.removeEventListener("change", this.themed);
    removeEventListener("theme", this.themed);
  }

  // `levels` as /api/audio/sources/ID/levels has them, `states` as its history.
  show(levels, states) {
    this.data = levels && {
      from: new Date(levels.since).getTime(),
      to: new Date(levels.until).getTime(),
      span: levels.span * 1000,
      points: levels.levels.map((one) => ({ ...one, time: new Date(one.at).getTime() })),
    };
    this.states = states ?? [];
    this.root.querySelector(".loud").hidden = !this.data?.points.some((one) => Number.isFinite(one.loudness_lufs));
    this.canvas.setAttribute("aria-label", this.words());
    this.draw();
    this.say();
  }

  words() {
    const points = this.data?.points ?? [];
    if (!points.length) return "Level over time: nothing was measured";
    const peaks = points.map((one) => one.peak_dbfs ?? -Infinity);
    return `Level over time, ${points.length} spans from ${moment(points[0].at)}: highest peak ${decibels(Math.max(...peaks))} dBFS, latest mean ${decibels(points.at(-1).rms_dbfs)} dBFS`;
  }

  point(x) {
    if (!this.data) return;
    this.cursor = x === null ? null : this.nearest(this.timeAt(x));
    this.draw();
    this.say();
  }

  key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !this.data?.points.length) return;
    event.preventDefault();
    const index = this.cursor === null ? (by < 0 ? this.data.points.length : -1) : this.cursor;
    this.cursor = Math.max(0, Math.min(this.data.points.length - 1, index + by));
    this.draw();
    this.say();
  }

  say() {
    const point = this.data?.points[this.cursor ?? -1];
    if (!point) return put(this.reading, this.data && !this.data.points.length ? "Nothing was measured in this time." : "");
    const loud = point.loudness_lufs === null ? "" : `, loudness ${decibels(point.loudness_lufs)} LUFS`;
    const silent = point.silent > 0 ? `, silent ${Math.round(point.silent * 100)} % of the time` : "";
    return put(this.reading, `${moment(point.at)}: mean ${decibels(point.rms_dbfs)}, from ${decibels(point.rms_least)} to ${decibels(point.rms_most)}, peak ${decibels(point.peak_dbfs)} dBFS${loud}${silent}`);
  }

  nearest(time) {
    let best = null;
    this.data.points.forEach((point, index) => {
      const far = Math.abs(point.time + this.data.span / 2 - time);
      if (best === null || far < best.far) best = { far, index };
    });
    return best && best.far < Math.max(this.data.span, (this.data.to - this.data.from) / 100) ? best.index : null;
  }

  x(time) {
    return this.left + ((time - this.data.from) / (this.data.to - this.data.from)) * (this.wide - this.left);
  }

  timeAt(x) {
    return this.data.from + ((x - this.left) / (this.wide - this.left)) * (this.data.to - this.data.from);
  }

  y(level) {
    const part = (Math.max(BOTTOM, level ?? BOTTOM) - BOTTOM) / -BOTTOM;
    return this.top + (1 - part) * (this.high - this.top - this.ribbonHigh - this.foot - 6);
  }

  // A wall screen's letters are larger, and so is what stands beside them.
  measure() {
    this.scale = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16 || 1;
    [this.left, this.ribbonHigh, this.foot, this.top] = [LEFT_PX, RIBBON_PX, FOOT_PX, TOP_PX].map((one) => one * this.scale);
  }

  draw() {
    const { width, height } = this.canvas.getBoundingClientRect();
    if (!width || !height) return;
    this.measure();
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.wide = width;
    this.high = height;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    context.font = `${Math.round(11 * this.scale)}px ${style.fontFamily}`;
    this.grid(context, colour);
    if (!this.data) return;
    this.times(context, colour);
    for (const run of this.runs()) this.run(context, colour, run);
    this.ribbon(context, colour);
    const point = this.data.points[this.cursor ?? -1];
    if (!point) return;
    context.fillStyle = colour("--ink");
    context.fillRect(Math.round(this.x(point.time + this.data.span / 2)), this.top, 1, this.high - this.foot - this.top);
  }

  grid(context, colour) {
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const level of LINES) {
      const y = Math.round(this.y(level)) + 0.5;
      context.fillStyle = colour("--line");
      context.fillRect(this.left, y, this.wide - this.left, 1);
      context.fillStyle = colour("--faint");
      context.fillText(level === 0 ? "0" : `−${-level}`, this.left - 7 * this.scale, y);
    }
  }

  times(context, colour) {
    const seconds = (this.data.to - this.data.from) / 1000;
    const room = Math.max(2, Math.floor((this.wide - this.left) / (84 * this.scale)));
    const step = (STEPS_S.find((one) => seconds / one <= room) ?? STEPS_S.at(-1)) * 1000;
    const shift = isLocal() ? new Date().getTimezoneOffset() * 60000 : 0;
    context.textBaseline = "alphabetic";
    context.textAlign = "center";
    for (let at = Math.ceil((this.data.from - shift) / step) * step + shift; at <= this.data.to; at += step) {
      const x = Math.round(this.x(at)) + 0.5;
      context.fillStyle = colour("--line");
      context.fillRect(x, this.top, 1, this.high - this.foot - this.top);
      context.fillStyle = colour("--faint");
      const date = new Date(at);
      const text = step >= 86400000 ? day(date).slice(5) : clock(date).slice(0, 5);
      if (x > this.left + 16 * this.scale && x < this.wide - 16 * this.scale) context.fillText(text, x, this.high - 6 * this.scale);
    }
  }

  // Points that follow one another without a gap.
  runs() {
    const found = [];
    let before = -Infinity;
    for (const point of this.data.points) {
      if (point.time - before > this.data.span * 1.5) found.push([]);
      found.at(-1).push(point);
      before = point.time;
    }
    return found;
  }

  run(context, colour, points) {
    const edges = (name) => points.flatMap((one) => [[this.x(one.time), this.y(one[name])], [this.x(Math.min(this.data.to, one.time + this.data.span)), this.y(one[name])]]);
    const path = (corners) => corners.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.beginPath();
    path([...edges("rms_most"), ...edges("rms_least").reverse()]);
    context.closePath();
    context.fillStyle = colour("--band");
    context.fill();
    for (const [name, ink, wide] of [["peak_dbfs", "--peak", 1], ["rms_dbfs", "--running", 1.75]]) {
      context.beginPath();
      path(edges(name));
      context.strokeStyle = colour(ink);
      context.lineWidth = wide * this.scale;
      context.lineJoin = "round";
      context.stroke();
    }
    this.loudness(context, colour, points);
  }

  // Where all of a span was below the gate, or nobody measured it, there is no loudness: a gap.
  loudness(context, colour, points) {
    context.beginPath();
    let joined = false;
    for (const one of points) {
      const known = Number.isFinite(one.loudness_lufs);
      if (known) {
        const y = this.y(one.loudness_lufs);
        if (joined) context.lineTo(this.x(one.time), y);
        else context.moveTo(this.x(one.time), y);
        context.lineTo(this.x(Math.min(this.data.to, one.time + this.data.span)), y);
      }
      joined = known;
    }
    context.strokeStyle = colour("--loud");
    context.lineWidth = 1.25 * this.scale;
    context.lineJoin = "round";
    context.stroke();
  }

  ribbon(context, colour) {
    const y = this.high - this.foot - this.ribbonHigh;
    for (const one of this.states) {
      const from = Math.max(this.left, this.x(new Date(one.since).getTime()));
      const to = Math.min(this.wide, this.x(one.until ? new Date(one.until).getTime() : this.data.to));
      if (to <= this.left || from >= this.wide) continue;
      context.fillStyle = colour(`--${one.state}`);
      context.globalAlpha = one.state === "stopped" ? 0.35 : 1;
      context.fillRect(from, y, Math.max(1.5, to - from), this.ribbonHigh);
      context.globalAlpha = 1;
    }
  }
}
