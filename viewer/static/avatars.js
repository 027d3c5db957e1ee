// Which of a room's participants is the avatar to show: one at a time, and the one that speaks.
//
// While a session goes from one LiveAvatar session to the next, a room of one's own has two avatars:
// the next one comes, waits in silence, takes over between two utterances, and the other one goes.
// Plays nothing, and does not know what a session is.

// What LiveAvatar calls its participant in rooms that it hosts. In a room of one's own the name
// is free, so that anybody else who publishes video counts too.
const HOSTED_IDENTITY = "heygen";
const GENERATION = /^(.+)-generation-(\d+)$/; // workflows/parts/provisioning.py names them so, from the second on

const LISTEN_MS = 40; // how often two avatars are listened to
const WINDOW_SAMPLES = 2048; // and for how long each time: 43 ms, so that nothing is missed
const LOUD = 0.005; // root mean square, -46 dB of full scale: codec noise stays below
const QUIET_MS = 200; // silent for so long: has nothing to say any more

/** "avatar-generation-3" → ["avatar", 3]; any other name is a first one. */
function parse(identity) {
  const [, name, number] = GENERATION.exec(identity) ?? [null, identity, "1"];
  return [name, Number(number)];
}

/** The avatars of one room. Fires "change" when another one is `shown` because it speaks. */
export class Avatars extends EventTarget {
  #room;
  #name = null; // what the shown one and its successors are called
  #listening = false;
  #closed = false;

  /** The participant to show, or null while there is none. */
  shown = null;

  /** @param {Room} room livekit-client's; joined */
  constructor(room) {
    super();
    this.#room = room;
  }

  /** True while another avatar is in the room, to take over or to go. */
  get handingOver() {
    return this.#all().length > 1;
  }

  /** Look who is there: whoever is shown stays so until they go. */
  look() {
    const all = this.#all();
    if (!all.includes(this.shown)) {
      // Of several the newest: an older one is about to go, or stuck. One that speaks is heard soon.
      const number = (one) => parse(one.identity)[1];
      this.shown = all.toSorted((one, other) => number(other) - number(one))[0] ?? null;
    }
    if (this.shown !== null) [this.#name] = parse(this.shown.identity);
    if (all.length > 1) void this.#listen();
  }

  /** Listen to nobody any more. */
  close() {
    this.#closed = true;
  }

  /** All that could be shown: those who show something and are called alike. */
  #all() {
    if (this.#closed) return [];
    const others = [...this.#room.remoteParticipants.values()];
    const shows = others.filter((one) => one.videoTrackPublications.size > 0);
    const hosted = shows.filter((one) => one.identity === HOSTED_IDENTITY);
    if (hosted.length > 0) return hosted;
    const named = (name) => shows.filter((one) => parse(one.identity)[0] === name);
    // A person with a camera succeeds nobody.
    const successors = named(this.#name);
    return successors.length > 0 || shows.length === 0 ? successors : named(parse(shows[0].identity)[0]);
  }

  /** While there are several: show the one that speaks. */
  async #listen() {
    if (this.#listening) return;
    this.#listening = true;
    const ears = new Ears();
    for (let all = this.#all(); all.length > 1; all = this.#all()) {
      ears.listenTo(all);
      const speaker = all.find((one) => one !== this.shown && ears.silentMs(one) === 0);
      if (speaker !== undefined && ears.silentMs(this.shown) > QUIET_MS) {
        this.shown = speaker;
        this.dispatchEvent(new Event("change"));
      }
      await new Promise((resolve) => setTimeout(resolve, LISTEN_MS));
    }
    this.#listening = false;
    await ears.close();
  }
}

/**
 * Who can be heard, of several, played or not. LiveKit's server tells who speaks half a second
 * later; its word counts where the browser lets nobody listen before a click.
 */
class Ears {
  #context = new AudioContext({ latencyHint: "interactive" });
  #wave = new Float32Array(WINDOW_SAMPLES);
  #ears = new Map(); // by participant: their track, what measures it, when they were audible

  /** Listen to these and to nobody else. */
  listenTo(participants) {
    for (const one of participants) {
      const track = trackOf(one)?.mediaStreamTrack ?? null;
      let ear = this.#ears.get(one);
      if (ear?.track !== track) {
        ear?.source?.disconnect();
        ear = { track, audibleAt: ear?.audibleAt ?? -Infinity, ...this.#measuring(track) };
        this.#ears.set(one, ear);
      }
      ear.audible = this.#context.state === "running" ? this.#isLoud(ear) : one.isSpeaking;
      if (ear.audible) ear.audibleAt = performance.now();
    }
  }

  /** For how long somebody has been silent; 0: they can be heard now. */
  silentMs(participant) {
    const { audible, audibleAt } = this.#ears.get(participant) ?? {};
    return audible ? 0 : performance.now() - (audibleAt ?? -Infinity);
  }

  async close() {
    await this.#context.close();
  }

  #measuring(track) {
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
