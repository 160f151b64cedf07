// The live feed: server-sent events over fetch, which can carry the token and be watched for silence.

const SILENT_MS = 3500;
const LONGEST_WAIT_MS = 4000;

// Calls back with {event, data} for each frame, and with {event: "lost", reason} whenever it breaks.
// Never ends; begins again with growing waits.
export async function follow(url, headers, told) {
  let failures = 0;
  let last = "";
  for (;;) {
    const abort = new AbortController();
    let watchdog = setTimeout(() => abort.abort(), SILENT_MS);
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => abort.abort(), SILENT_MS);
    };
    try {
      const more = last ? { "Last-Event-ID": last } : {};
      const response = await fetch(url, {
        headers: { Accept: "text/event-stream", ...headers(), ...more },
        cache: "no-store",
        signal: abort.signal,
      });
      if (response.status === 401) {
        told({ event: "refused" });
        throw new Error("refused");
      }
      if (!response.ok) throw new Error(`answered ${response.status}`);
      await frames(response.body, (frame) => {
        alive();
        failures = 0;
        if (frame.id) last = frame.id;
        told(frame);
      }, alive);
      throw new Error("the feed ended");
    } catch (error) {
      told({ event: "lost", reason: String(error.message || error) });
    } finally {
      clearTimeout(watchdog);
      abort.abort();
    }
    const wait = Math.min(LONGEST_WAIT_MS, 300 * 2 ** Math.min(failures, 8));
    failures += 1;
    await new Promise((resolve) => setTimeout(resolve, wait * (0.5 + Math.random() / 2)));
  }
}

async function frames(body, told, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    alive();
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const frame = parse(part);
      if (frame) told(frame);
    }
  }
}

function parse(part) {
  const frame = { event: "message", id: "", data: null };
  const data = [];
  for (const line of part.split("\n")) {
    const cut = line.indexOf(":");
    const field = cut < 0 ? line : line.slice(0, cut);
    const value = cut < 0 ? "" : line.slice(cut + 1).replace(/^ /, "");
    if (field === "event") frame.event = value;
    if (field === "id") frame.id = value;
    if (field === "data") data.push(value);
  }
  if (!data.length) return null;
  frame.data = JSON.parse(data.join("\n"));
  return frame;
}
