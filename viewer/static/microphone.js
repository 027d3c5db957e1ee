// The viewer's microphone: requested, kept, released. Knows no page and no room.

import { MICROPHONE, MICROPHONE_TRANSITIONS } from "./state.js";

// Without echo cancellation the avatar's speech, played by this machine's loudspeakers, would be
// taken for the viewer's and interrupt the avatar.
const CONSTRAINTS = {
  audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 },
};

// States by the name of getUserMedia's error.
const STATE_OF_ERROR = {
  NotAllowedError: MICROPHONE.denied,
  SecurityError: MICROPHONE.denied,
  NotFoundError: MICROPHONE.missing,
  OverconstrainedError: MICROPHONE.missing,
};

export class Microphone extends EventTarget {
  #track = null;
  #requests = 0; // counts requests, so that a late answer to an earlier one is ignored

  /** One of MICROPHONE. */
  state = MICROPHONE.off;

  /** The audio as a MediaStreamTrack, or null while the microphone is not on. */
  get track() {
    return this.#track;
  }

  /** Request the microphone; call it from a click's handler. `state` holds the result. */
  async switchOn() {
    if (this.state === MICROPHONE.on || this.state === MICROPHONE.asking) return;
    this.#setState(MICROPHONE.asking);
    if (navigator.mediaDevices?.getUserMedia === undefined) {
      this.#setState(MICROPHONE.unusable);
      return;
    }
    this.#requests += 1;
    const number = this.#requests;
    const stale = () => number !== this.#requests || this.state !== MICROPHONE.asking;
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia(CONSTRAINTS);
    } catch (error) {
      if (stale()) return; // switched off before the viewer answered
      this.#setState(STATE_OF_ERROR[error.name] ?? MICROPHONE.busy);
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
    this.#setState(MICROPHONE.on);
  }

  /** Release the microphone; the browser's recording indicator goes off. */
  switchOff() {
    if (this.state !== MICROPHONE.off) this.#close(MICROPHONE.off);
  }

  /** Release the microphone because the room does not accept it. */
  refuse() {
    if (this.state === MICROPHONE.on) this.#close(MICROPHONE.refused);
  }

  #close(state) {
    this.#track?.stop();
    this.#track = null;
    this.#setState(state);
  }

  #setState(state) {
    if (!MICROPHONE_TRANSITIONS[this.state].includes(state)) {
      throw new Error(`a microphone cannot go from ${this.state} to ${state}`);
    }
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }
}
