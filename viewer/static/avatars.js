// Decides which participant of a room is the avatar to show: one at a time, the one that speaks.
//
// During a rotation from one LiveAvatar session to the next, a room on your own LiveKit has two
// avatars: the next one joins, is silent, takes over between two utterances, and the first one leaves.
// Plays nothing, and knows no session.

// The avatar's identity in rooms that LiveAvatar hosts. On your own LiveKit the identity is free, so
// any participant with video can be the avatar.
const HOSTED_IDENTITY = "heygen";
const GENERATION = /^(.+)-generation-(\d+)$/; // as workflows/parts names them, from the second on

const MEASURE_MS = 40; // how often the loudness of two avatars is measured
const WINDOW_SAMPLES = 2048; // 43 ms: longer than MEASURE_MS, so that nothing is missed
const LOUD = 0.005; // root mean square, -46 dBFS: above codec noise
const SILENT_MS = 200; // an avatar that has been silent for this long can be replaced

/** "avatar-generation-3" → ["avatar", 3]; any other identity is number 1. */
function parse(identity) {
  const [, name, number] = GENERATION.exec(identity) ?? [null, identity, "1"];
  return [name, Number(number)];
}

/** The avatars of one room. Fires "change" when `shown` changes because another one speaks. */
export class Avatars extends EventTarget {
  #room;
  #name = null; // the identity of the shown avatar, without its generation
  #measuring = false;
  #closed = false;

  /** The participant to show, or null while there is none. */
  shown = null;

  /** @param {Room} room livekit-client's; joined */
  constructor(room) {
    super();
    this.#room = room;
  }

  /** True while a second avatar is in the room, about to take over or to leave. */
  get handingOver() {
    return this.#all().length > 1;
  }

  /** Update `shown` from the room's participants: the shown avatar stays until it leaves. */
  update() {
    const all = this.#all();
    if (!all.includes(this.shown)) {
      // The newest of several: an older one is about to leave. If it still speaks, it is shown soon.
      const number = (one) => parse(one.identity)[1];
      this.shown = all.toSorted((one, other) => number(other) - number(one))[0] ?? null;
    }
    if (this.shown !== null) [this.#name] = parse(this.shown.identity);
    if (all.length > 1) void this.#showSpeaker();
  }

  /** Stop measuring. */
  close() {
    this.#closed = true;
  }

  /** All avatars: participants with video whose identities differ in the generation only. */
  #all() {
    if (this.#closed) return [];
    const others = [...this.#room.remoteParticipants.values()];
    const withVideo = others.filter((one) => one.videoTrackPublications.size > 0);
    const hosted = withVideo.filter((one) => one.identity === HOSTED_IDENTITY);
    if (hosted.length > 0) return hosted;
    const named = (name) => withVideo.filter((one) => parse(one.identity)[0] === name);
    // A person with a camera has another name, and is no successor.
    const successors = named(this.#name);
    if (successors.length > 0 || withVideo.length === 0) return successors;
    return named(parse(withVideo[0].identity)[0]);
  }

  /** While there are several avatars, show the one that speaks. */
  async #showSpeaker() {
    if (this.#measuring) return;
    this.#measuring = true;
    const speech = new SpeechDetector();
    for (let all = this.#all(); all.length > 1; all = this.#all()) {
      speech.measure(all);
      const speaker = all.find((one) => one !== this.shown && speech.silentMs(one) === 0);
      if (speaker !== undefined && speech.silentMs(this.shown) > SILENT_MS) {
        this.shown = speaker;
        this.dispatchEvent(new Event("change"));
      }
      await new Promise((resolve) => setTimeout(resolve, MEASURE_MS));
    }
    this.#measuring = false;
    await speech.close();
  }
}

/**
 * Measures which of several participants is audible, whether they are played or not. LiveKit's own
 * active speaker comes half a second later; it is used while the browser blocks audio.
 */
class SpeechDetector {
  #context = new AudioContext({ latencyHint: "interactive" });
  #wave = new Float32Array(WINDOW_SAMPLES);
  #states = new Map(); // by participant: track, analyser, when it was last audible

  /** Measure these participants now. */
  measure(participants) {
    for (const one of participants) {
      const track = trackOf(one)?.mediaStreamTrack ?? null;
      let state = this.#states.get(one);
      if (state?.track !== track) {
        state?.source?.disconnect();
        state = { track, audibleAt: state?.audibleAt ?? -Infinity, ...this.#analyse(track) };
        this.#states.set(one, state);
      }
      state.audible = this.#context.state === "running" ? this.#isLoud(state) : one.isSpeaking;
      if (state.audible) state.audibleAt = performance.now();
    }
  }

  /** How long the participant has been silent, in ms; 0: audible now. */
  silentMs(participant) {
    const { audible, audibleAt } = this.#states.get(participant) ?? {};
    return audible ? 0 : performance.now() - (audibleAt ?? -Infinity);
  }

  async close() {
    await this.#context.close();
  }

  #analyse(track) {
    if (track === null) return {};
    const analyser = new AnalyserNode(this.#context, { fftSize: WINDOW_SAMPLES });
    const mediaStream = new MediaStream([track]);
    const source = new MediaStreamAudioSourceNode(this.#context, { mediaStream });
    source.connect(analyser);
    return { source, analyser };
  }

  #isLoud({ analyser }) {
    if (analyser === undefined) return false;
    analyser.getFloatTimeDomainData(this.#wave);
    let power = 0;
    for (const sample of this.#wave) power += sample * sample;
    return Math.sqrt(power / this.#wave.length) > LOUD;
  }
}

function trackOf(participant) {
  const publications = [...participant.audioTrackPublications.values()];
  return publications.find((one) => one.track)?.track ?? null;
}
