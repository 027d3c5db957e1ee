// The person's microphone: asked for, held, given back. Knows no page and no room.

import { MICROPHONE, MICROPHONE_MOVES } from "./state.js";

// The avatar's voice comes out of the same machine's loudspeakers: without echo cancellation the
// avatar would hear, and interrupt, itself.
const WANTED = {
  audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 },
};

// What getUserMedia rejects with, by name.
const PROBLEMS = {
  NotAllowedError: MICROPHONE.denied,
  SecurityError: MICROPHONE.denied,
  NotFoundError: MICROPHONE.missing,
  OverconstrainedError: MICROPHONE.missing,
};

export class Microphone extends EventTarget {
  #track = null;
  #asked = 0; // how often the person has been asked; an answer to an earlier question is none

  /** One of MICROPHONE. */
  state = MICROPHONE.off;

  /** The sound as a MediaStreamTrack, or null while the microphone is not on. */
  get track() {
    return this.#track;
  }

  /** Ask for the microphone; meant for a click's handler. How it went is told by `state`. */
  async switchOn() {
    if (this.state === MICROPHONE.on || this.state === MICROPHONE.asking) return;
    this.#become(MICROPHONE.asking);
    if (navigator.mediaDevices?.getUserMedia === undefined) {
      this.#become(MICROPHONE.unusable);
      return;
    }
    this.#asked += 1;
    const number = this.#asked;
    const stale = () => number !== this.#asked || this.state !== MICROPHONE.asking;
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia(WANTED);
    } catch (error) {
      if (stale()) return; // switched off before the person answered
      this.#become(PROBLEMS[error.name] ?? MICROPHONE.busy);
      return;
    }
    const [track] = stream.getAudioTracks();
    if (stale()) {
      track.stop();
      return;
    }
    this.#track = track;
    track.addEventListener("ended", () => {
      if (track === this.#track) this.#close(MICROPHONE.lost);
    });
    this.#become(MICROPHONE.on);
  }

  /** Give it back; the browser's sign that it is in use goes out. */
  switchOff() {
    if (this.state !== MICROPHONE.off) this.#close(MICROPHONE.off);
  }

  /** The room does not take it: give it back, and say so. */
  refuse() {
    if (this.state === MICROPHONE.on) this.#close(MICROPHONE.refused);
  }

  #close(state) {
    this.#track?.stop();
    this.#track = null;
    this.#become(state);
  }

  #become(state) {
    if (!MICROPHONE_MOVES[this.state].includes(state)) {
      throw new Error(`a microphone cannot go from ${this.state} to ${state}`);
    }
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }
}
