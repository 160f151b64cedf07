// A level meter: dBFS on a linear scale of decibels, −60 to 0. null is digital silence (−∞).

const BOTTOM = -60;
const HOLD_MS = 1500;

export function decibels(level) {
  if (level === null || level === undefined) return "−∞";
  return (level < 0 ? "−" : "") + Math.abs(level).toFixed(1);
}

function part(level) {
  if (level === null) return 0;
  return Math.min(1, Math.max(0, (level - BOTTOM) / -BOTTOM));
}

export class Meter {
  constructor(root) {
    this.root = root;
    this.mask = root.querySelector(".mask");
    this.hold = root.querySelector(".hold");
    this.rms = root.querySelector(".rms");
    this.peak = root.querySelector(".peak");
    this.held = null;
    this.heldUntil = 0;
  }

  // `level` as the read API gives it, or null where none is known: that is not silence.
  show(level) {
    this.root.classList.toggle("unheard", level === null);
    if (level === null) {
      this.held = null;
      this.paint(0, 0);
      this.rms.textContent = "—";
      this.peak.textContent = "—";
      this.root.setAttribute("aria-label", "No level known");
      return;
    }
    const now = performance.now();
    const peak = level.peak_dbfs;
    if (this.held === null || now > this.heldUntil || (peak ?? -Infinity) >= this.held) {
      this.held = peak ?? -Infinity;
      this.heldUntil = now + HOLD_MS;
    }
    this.paint(part(level.rms_dbfs), part(Number.isFinite(this.held) ? this.held : null));
    this.rms.textContent = decibels(level.rms_dbfs);
    this.peak.textContent = decibels(peak);
    this.root.classList.toggle("hot", peak !== null && peak >= -1);
    const silent = level.rms_dbfs === null ? "digital silence" : `RMS ${decibels(level.rms_dbfs)} dBFS`;
    this.root.setAttribute("aria-label", `Level: ${silent}, peak ${decibels(peak)} dBFS`);
  }

  paint(rms, peak) {
    this.mask.style.transform = `scaleX(${(1 - rms).toFixed(4)})`;
    this.hold.style.transform = `translateX(${(peak * 100).toFixed(2)}%)`;
    this.hold.style.opacity = peak > 0 ? 1 : 0;
  }
}
