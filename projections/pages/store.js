// What is known of the station, from the live feed; screens are told when some of it changes.

import { authorization } from "./access.js";
import { follow } from "./feed.js";
import { span } from "./times.js";

const UNHEARD_MS = 3000;
const UNCONFIRMED_S = 5;
const LEVEL_KEPT_MS = 1500;

class Store extends EventTarget {
  sources = null;
  meta = null;
  topics = {};
  levels = new Map();
  heardAt = performance.now();
  sourcesAt = 0;
  connected = false;
  refused = false;
  unavailable = false;

  start() {
    follow("/api/audio/live", authorization, (message) => this.take(message));
  }

  take({ event, data }) {
    if (event === "lost") {
      this.connected = false;
      return this.tell("link");
    }
    if (event === "refused") {
      this.refused = true;
      return this.tell("link");
    }
    const news = !this.connected || this.refused || this.unavailable;
    this.connected = true;
    this.refused = false;
    this.heardAt = performance.now();
    if (event === "levels") {
      this.hear(data);
      this.tell("levels");
    } else if (event === "sources" || event === "changed") {
      this.unavailable = false;
      this.change(event, data);
      this.tell("sources");
      this.tell("link");
      return undefined;
    } else if (event === "unavailable") {
      this.unavailable = true;
      this.tell("link");
    } else {
      this.topics[event] = data;
      this.tell(event);
    }
    if (news) this.tell("link");
    return undefined;
  }

  change(event, data) {
    this.sourcesAt = performance.now();
    this.meta = { source: data.source, age: data.age_seconds, stale: data.stale };
    const views = event === "sources" ? new Map() : this.sources;
    if (views === null) return;
    for (const view of event === "sources" ? data.data : data.changed) views.set(view.id, view);
    for (const id of data.removed ?? []) views.delete(id);
    this.sources = new Map([...views].sort(([one], [other]) => (one < other ? -1 : 1)));
    for (const id of this.levels.keys()) if (!this.sources.has(id)) this.levels.delete(id);
  }

  hear({ fields, levels }) {
    const now = performance.now();
    for (const [id, figures] of Object.entries(levels)) {
      const level = { heardAt: now };
      fields.forEach((name, index) => (level[name] = figures[index]));
      level.measuredAt = now - Math.max(0, level.age ?? 0) * 1000;
      this.levels.set(id, level);
    }
  }

  // The level of a source now; null where none is known, which is not silence.
  level(view) {
    const level = this.levels.get(view.id);
    if (!level || view.state !== "running" || view.trouble) return null;
    return performance.now() - level.heardAt > LEVEL_KEPT_MS ? null : level;
  }

  get known() {
    return this.doubt() === null;
  }

  // What is wrong with what is shown: [kind, words]; null where nothing is.
  doubt() {
    if (this.refused) return ["lost", "This station shows its data only to those who may read it. Sign in, or open the link that “tocsin dashboard” prints."];
    const redis = this.topics.station?.redis;
    // Sources are told at least once a second, whatever else is.
    const heard = this.meta && !this.unavailable ? Math.min(this.heardAt, this.sourcesAt) : this.heardAt;
    const silent = performance.now() - heard;
    const shown = this.meta ? ` What is shown was so ${span((performance.now() - this.sourcesAt) / 1000 + (this.meta.age ?? 0))} ago.` : "";
    if (!this.connected && (this.sources || silent > UNHEARD_MS)) {
      return ["lost", `No connection to the station.${shown} Trying again…`];
    }
    if (silent > UNHEARD_MS) return ["lost", `The station has fallen silent.${shown}`];
    if (this.connected && redis?.state === "failover") return ["failover", `${redis.message} Commands wait or are refused until it is done.${shown}`];
    if (this.unavailable) return ["lost", `The station answers, but neither Redis nor Postgres can be read.${shown}`];
    if (!this.meta) return null;
    const age = this.meta.age;
    const from = this.meta.source === "database" ? " Levels are not known: the data come from the database." : "";
    const why = redis?.state === "away" ? ` ${redis.message}` : "";
    if (this.meta.stale) {
      const when = age === null ? "nobody knows since when" : `last confirmed ${span(age)} ago`;
      return ["stale", `The data are stale: ${when}.${why}${from}`];
    }
    if (age > UNCONFIRMED_S) return ["stale", `The data have not been confirmed for ${span(age)}.${why}${from}`];
    return null;
  }

  tell(topic) {
    this.dispatchEvent(new Event(topic));
  }

  // Calls `told` at each of the topics; returns what ends it.
  on(topics, told) {
    const names = topics.split(" ");
    for (const name of names) this.addEventListener(name, told);
    return () => names.forEach((name) => this.removeEventListener(name, told));
  }
}

export const store = new Store();
