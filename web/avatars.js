// Which of a room's participants is the avatar to show: one at a time, and the one that speaks.
//
// While a session goes from one LiveAvatar session to the next, a room of one's own has two avatars:
// the next one comes, waits in silence, takes over between two utterances, and the other one goes.
// Plays nothing, and does not know what a session is.

// What LiveAvatar calls its participant in rooms that it hosts. In a room of one's own the name
// is free, so that anybody else who publishes video counts too.
const HOSTED_IDENTITY = "heygen";
const GENERATION = /^(.+)-generation-(\d+)$/; // workflows/provider.py names them so, from the second on

const LISTEN_MS = 50; // how often two avatars are listened to
const LOUD = 0.005; // root mean square of full scale, -46 dB: codec noise stays below
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
  #measured = new WeakMap(); // what was known of an audio track when it was last measured
  #heardAt = new WeakMap(); // when a participant was last audible

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
    let all = this.#all();
    while (all.length > 1) {
      await Promise.all(all.map((one) => this.#hear(one)));
      all = this.#all();
      const silent = this.#silentMs(this.shown) > QUIET_MS;
      const speaker = all.find((one) => one !== this.shown && this.#silentMs(one) === 0);
      if (silent && speaker !== undefined) {
        this.shown = speaker;
        this.dispatchEvent(new Event("change"));
      }
      await new Promise((resolve) => setTimeout(resolve, LISTEN_MS));
      all = this.#all();
    }
    this.#listening = false;
  }

  /** For how long a participant has been silent, as of when it was last listened to. */
  #silentMs(participant) {
    const { at, audibleAt } = this.#heardAt.get(participant) ?? { at: 0, audibleAt: -Infinity };
    return at - audibleAt;
  }

  /**
   * Measure how loud a participant was since the last time. The browser knows that of every track
   * it receives, played or not; LiveKit's server tells who speaks half a second later.
   */
  async #hear(participant) {
    const track = [...participant.audioTrackPublications.values()].find((one) => one.track)?.track;
    const now = await energyOf(track);
    const before = this.#measured.get(track ?? participant);
    this.#measured.set(track ?? participant, now);
    const at = performance.now();
    const seconds = before === undefined ? 0 : now.seconds - before.seconds;
    // A browser that may not play sound yet decodes none, either.
    const audible =
      seconds > 0
        ? Math.sqrt((now.energy - before.energy) / seconds) > LOUD
        : participant.isSpeaking;
    const { audibleAt } = this.#heardAt.get(participant) ?? { audibleAt: -Infinity };
    this.#heardAt.set(participant, { at, audibleAt: audible ? at : audibleAt });
  }
}

/** How much sound a track has brought so far: the integral of its square, and its length. */
async function energyOf(track) {
  const report = await track?.getRTCStatsReport();
  for (const { type, totalAudioEnergy, totalSamplesDuration } of report?.values() ?? []) {
    if (type !== "inbound-rtp") continue;
    return { energy: totalAudioEnergy ?? 0, seconds: totalSamplesDuration ?? 0 };
  }
  return { energy: 0, seconds: 0 };
}
