// The page's elements: renders what `viewer.js` passes. Decides nothing, knows no network.

import { clock, MICROPHONE, microphoneWords, sentenceOf, VIEWS } from "./state.js";

const STILL_INTERVAL_MS = 250;
const METER_BARS = 24;
const OWN_BARS = 5;
const NOTE_MS = 12_000; // how long a note stays over the picture
const COVERED = new Set(["connecting", "waiting", "ended", "failed", "elsewhere", "refused"]);

const byId = (id) => document.getElementById(id);
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

export class Page {
  video = byId("avatar");
  last = byId("last"); // the last picture, shown until the next one arrives
  voice = byId("voice");
  bands = METER_BARS / 2;
  ownBands = OWN_BARS;
  #bars = Array.from({ length: METER_BARS }, () => document.createElement("i"));
  #ownBars = Array.from({ length: OWN_BARS }, () => document.createElement("i"));
  #notes = {}; // by topic (microphone, say): the sentence, and until when to show it
  #glow = byId("glow").getContext("2d", { alpha: false });
  #still = byId("still").getContext("2d"); // the last picture, blurred behind the card that covers it
  #stillAt = -Infinity;
  #frames = []; // timestamps of the last second's frames
  #factsAt = null;
  #rendered = {}; // the value that each element shows, to write changes only

  constructor() {
    byId("meter").append(...this.#bars);
    byId("own-level").append(...this.#ownBars);
    byId("sound").addEventListener("click", () => this.#toggleSound());
    const player = byId("player");
    const fullscreen = byId("fullscreen");
    fullscreen.hidden = !document.fullscreenEnabled;
    fullscreen.addEventListener("click", () =>
      document.fullscreenElement ? document.exitFullscreen() : player.requestFullscreen(),
    );
    document.addEventListener("fullscreenchange", () => {
      const label = document.fullscreenElement ? "Leave full screen" : "Full screen";
      fullscreen.ariaLabel = label;
      fullscreen.title = label;
    });
  }

  onUnblock(handler) {
    byId("unblock").addEventListener("click", handler);
  }

  onTakeOver(handler) {
    byId("take-over").addEventListener("click", handler);
  }

  onTalk(handler) {
    byId("talk").addEventListener("click", handler);
  }

  /** `handler` gets the text, and resolves when the avatar has spoken it or could not. */
  onSay(handler) {
    byId("say").addEventListener("submit", (event) => {
      event.preventDefault();
      const field = byId("say-text");
      const text = field.value.trim();
      if (!text || byId("say-button").disabled) return;
      field.value = "";
      void handler(text);
    });
  }

  /**
   * Show a view (a key of VIEWS) of a session. `picture`: "live" while frames arrive, "held" while
   * the last frame replaces them, "still" when it has for too long, "none" before the first.
   */
  show(view, picture, known) {
    const { label, tone, busy } = VIEWS[view];
    const covered = COVERED.has(view) || !["live", "held"].includes(picture);
    this.#set("view", view, (value) => {
      document.body.dataset.view = value;
      document.body.dataset.tone = tone;
      document.body.dataset.busy = String(busy);
      byId("state").textContent = label;
    });
    this.#set("covered", covered, (value) => {
      byId("veil").toggleAttribute("inert", !value);
      document.body.dataset.covered = String(value);
    });
    if (covered) this.#showVeil(view, label, known);
    this.#set("picture", picture, (value) => {
      document.body.dataset.picture = value;
      if (value === "live") return;
      byId("facts").textContent = "";
      this.#factsAt = null; // a rate needs a full second
    });
    this.#set("key", known.sessionKey ?? "", (value) => (byId("session-key").textContent = value));
    this.#set("title", `${label} · ${known.sessionKey ?? "Avatar session"}`, (value) => {
      document.title = value;
    });
    this.#showElapsed(known);
  }

  /** Show a measurement of LevelMeter.read(). */
  showLevel({ dbfs, bands }) {
    const middle = METER_BARS / 2;
    this.#bars.forEach((bar, i) => {
      const band = bands[i < middle ? middle - 1 - i : i - middle]; // low frequencies in the middle
      bar.style.setProperty("--h", band.toFixed(3));
    });
    byId("meter").ariaValueNow = dbfs.toFixed(1);
  }

  /** Offer "Click for sound" while the browser blocks sound. */
  showSoundBlocked(blocked) {
    this.#set("blocked", blocked, (value) => {
      byId("unblock").hidden = !value;
      byId("sound").hidden = value;
    });
  }

  /** Show the microphone's state; `offered`: the room would accept it. */
  showMicrophone(offered, microphone, heard) {
    const on = microphone === MICROPHONE.on;
    const { label, sentence } = microphoneWords(microphone, heard);
    this.#set("microphone", `${offered || on} ${microphone} ${heard}`, () => {
      byId("microphone").hidden = !(offered || on);
      byId("own-level").hidden = !on;
      byId("talk-label").textContent = label;
      const button = byId("talk");
      button.ariaPressed = String(on);
      button.title = on ? "Turn your microphone off" : "Turn your microphone on";
    });
    this.#set("microphone note", sentence, () => {
      const lasting = microphone === MICROPHONE.asking;
      this.#note("microphone", sentence, lasting ? Infinity : NOTE_MS);
    });
    this.#showNote();
  }

  /** Show the level of the viewer's microphone. */
  showOwnLevel({ dbfs, bands }) {
    const order = [3, 1, 0, 2, 4]; // low frequencies in the middle
    this.#ownBars.forEach((bar, i) => bar.style.setProperty("--h", bands[order[i]].toFixed(3)));
    byId("own-level").ariaValueNow = dbfs.toFixed(1);
  }

  /** Show the input field; `speaking`: a text is being spoken. */
  showSay(offered, speaking) {
    this.#set("say", `${offered} ${speaking}`, () => {
      byId("say").hidden = !offered;
      byId("say-button").disabled = speaking;
      byId("say-button").textContent = speaking ? "Speaking…" : "Say";
      document.body.dataset.say = String(offered);
    });
  }

  /** Show for a while why a text was not spoken; "": clear it. */
  noteSay(sentence) {
    this.#note("say", sentence, NOTE_MS);
    this.#showNote();
  }

  #note(topic, sentence, forMs) {
    this.#notes[topic] = { sentence, until: performance.now() + forMs };
  }

  #showNote() {
    const due = Object.values(this.#notes).filter(
      ({ sentence, until }) => sentence && performance.now() < until,
    );
    this.#set("note", due.map(({ sentence }) => sentence).join(" "), (value) => {
      byId("note").textContent = value;
      byId("note").hidden = value === "";
    });
  }

  /** Count a new frame of the avatar. */
  countFrame(now) {
    this.#frames.push(now);
    while (this.#frames[0] < now - 1000) this.#frames.shift();
    if (now - this.#stillAt > STILL_INTERVAL_MS) {
      const glowing = !reducedMotion.matches || this.#stillAt < 0;
      this.#stillAt = now;
      this.#still.drawImage(this.video, 0, 0, 320, 180);
      if (glowing) this.#drawGlow();
    }
    this.#factsAt ??= now;
    if (now - this.#factsAt > 1000) {
      this.#factsAt = now;
      const { videoWidth, videoHeight } = this.video;
      const rate = this.#frames.length;
      byId("facts").textContent = `${videoWidth} × ${videoHeight} · ${rate} fps`;
    }
  }

  /**
   * Draw the picture's colours for the page's background. Blurred here at a tiny size: the same blur
   * in CSS, on the whole window, leaves 6 frames a second on a machine without a GPU.
   */
  #drawGlow() {
    const { width, height } = this.#glow.canvas;
    this.#glow.filter = "blur(7px) saturate(1.3) brightness(0.5)";
    this.#glow.drawImage(this.#still.canvas, -8, -8, width + 16, height + 16);
  }

  #showVeil(view, label, known) {
    this.#set("veil", view, (value) => {
      byId("veil-title").textContent = label;
      byId("take-over").hidden = value !== "elsewhere";
    });
    this.#set("sentence", sentenceOf(view, known), (value) => {
      byId("veil-sentence").textContent = value;
    });
    const detail = view === "ended" || view === "failed" ? (known.status?.detail ?? "") : "";
    this.#set("detail", detail, (value) => {
      byId("veil-detail").textContent = value;
      byId("veil-detail").hidden = value === "";
    });
  }

  #showElapsed({ status, endedAt }) {
    const liveAt = Date.parse(status?.live_at ?? "");
    if (Number.isNaN(liveAt)) return;
    this.#set("elapsed", clock((endedAt ?? Date.now()) - liveAt), (value) => {
      byId("elapsed").textContent = value;
      byId("elapsed").hidden = false;
      byId("veil-lasted").textContent = `The avatar was live for ${value}.`;
    });
    this.#set("over", endedAt !== null, (value) => (byId("veil-lasted").hidden = !value));
  }

  #toggleSound() {
    this.voice.muted = !this.voice.muted;
    const label = this.voice.muted ? "Unmute" : "Mute";
    const button = byId("sound");
    button.ariaPressed = String(this.voice.muted);
    button.ariaLabel = label;
    button.title = label;
  }

  #set(name, value, write) {
    if (this.#rendered[name] === value) return;
    this.#rendered[name] = value;
    write(value);
  }
}
