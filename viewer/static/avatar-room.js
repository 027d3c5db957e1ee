// The avatar in its LiveKit room, for any page: join, find the avatar, play it.
//
//   const room = new AvatarRoom({ video, audio });        // a <video> and an <audio> element
//   room.addEventListener("change", () => …room.link, room.track, room.soundBlocked…);
//   await room.join(livekitUrl, token);                   // rejects if the room cannot be joined
//   await room.join(nextUrl, nextToken);                  // moves: the old room is left for the new one
//   await room.speak(track);                              // a microphone's track; null: fall silent
//   await room.leave();
//
// Publishes nothing but that one track. Does not know what a session is, nor where access comes from.

import { Avatars } from "./avatars.js";
import { LINK } from "./state.js";

const MICROPHONE_SOURCE = 2; // LiveKit's number, among the sources that a token may publish

const REACH_TIMEOUT_MS = 8000;
const PUBLISH_AGAIN_MS = 2000;
const LINGER_MS = 5000; // how long a room that was moved from is kept for its picture
const FORBIDDEN = 403; // what livekit-client says when a token does not allow it

/** The room is not there, or not for us: worth another try with fresh access. */
export class RoomUnavailable extends Error {}

/**
 * Fires "change" when anything below has changed, "cut" right before the picture becomes another
 * one or none, and "refused" when the room does not take what is to be heard in it.
 */
export class AvatarRoom extends EventTarget {
  #elements;
  #livekit = null;
  #room = null;
  #avatars = null; // those of that room
  #joining = null; // the attempt to join another one
  #left = null; // the room that was moved from, while its picture is still the one to see
  #video = null;
  #audio = null;
  #own = null; // the track that is to be heard in the room
  #sent = null; // the one that is published there
  #publishing = null; // the room in which somebody is at making the two equal

  /** One of LINK: how the page hangs on the room. */
  link = LINK.none;

  /** True where the room we were in last was deleted: its access leads nowhere any more. */
  deleted = false;

  /** True while there is a video track of the avatar; its frames may still be on their way. */
  showing = false;

  /** @param {{video: HTMLVideoElement, audio: HTMLAudioElement}} elements where to play it */
  constructor(elements) {
    super();
    this.#elements = elements;
    document.addEventListener("visibilitychange", () => this.#spare());
  }

  /** True while another avatar is in the room, to take over from the one that is shown. */
  get handingOver() {
    return this.#avatars?.handingOver ?? false;
  }

  /** The avatar's audio as a MediaStreamTrack, or null while there is none. */
  get audioTrack() {
    return this.#audio?.mediaStreamTrack ?? null;
  }

  /** True while the browser wants a click before it plays sound. */
  get soundBlocked() {
    return this.#room !== null && !this.#room.canPlaybackAudio;
  }

  /** LiveKit's own opinion of whether the avatar speaks; works while sound is blocked. */
  get speaking() {
    return this.#avatars?.shown?.isSpeaking ?? false;
  }

  /** True while this participant may publish a microphone. */
  get maySpeak() {
    const { permissions } = this.#room?.localParticipant ?? {};
    if (permissions === undefined) return false;
    const sources = permissions.canPublishSources; // none named: all
    return permissions.canPublish && (!sources.length || sources.includes(MICROPHONE_SOURCE));
  }

  /** True while the track of `speak` goes into the room. */
  get heard() {
    return this.#sent !== null && this.#sent === this.#own && this.link === LINK.joined;
  }

  /**
   * Let this track be heard in the room, also in every room that is joined later; null: none any
   * more. The track stays the caller's: it is never stopped here. A room that does not take it is
   * told by the event "refused".
   *
   * @param {MediaStreamTrack|null} track
   */
  async speak(track) {
    this.#own = track;
    await this.#publish();
  }

  /**
   * Join with access for a viewer. A room that we are in is kept until the new one is joined, and
   * its picture until there is a new one.
   *
   * @throws {RoomUnavailable} the server cannot be reached or does not let us in
   */
  async join(livekitUrl, token) {
    await this.#joining?.room?.disconnect(false);
    const attempt = (this.#joining = { room: null });
    if (this.#room === null) this.#become(LINK.joining);
    try {
      this.#livekit ??= await load();
      await reach(livekitUrl);
      const { Room, LogLevel, setLogLevel } = this.#livekit;
      setLogLevel(LogLevel.error);
      // What the person says is theirs: a room that is left does not switch the microphone off.
      // No adaptive stream: a waiting avatar's picture is there when its turn comes.
      attempt.room = new Room({ stopLocalTrackOnUnpublish: false });
      this.#listen(attempt.room);
      if (attempt === this.#joining) await attempt.room.connect(livekitUrl, token);
      if (attempt !== this.#joining) throw new RoomUnavailable("The room was left again.");
    } catch (error) {
      await attempt.room?.disconnect(false);
      if (attempt === this.#joining) {
        this.#joining = null;
        if (this.#room === null) this.#become(LINK.none);
      }
      if (error instanceof RoomUnavailable) throw error;
      throw new RoomUnavailable("The room cannot be joined at the moment.", { cause: error });
    }
    this.#joining = null;
    this.#enter(attempt.room);
  }

  /** Leave, if joined. */
  async leave() {
    const [room, attempt] = [this.#room, this.#joining];
    this.#room = null;
    this.#joining = null;
    this.#forget();
    this.#drop();
    await Promise.all([room?.disconnect(false), attempt?.room?.disconnect(false)]);
    if (this.#room === null && this.#joining === null) this.#become(LINK.none);
  }

  /** Play sound after all; meant for a click's handler. */
  async startSound() {
    await this.#room?.startAudio();
    this.#changed();
  }

  /** A room is joined: it is the one that counts from now on. */
  #enter(room) {
    this.#forget();
    if (this.#room !== null) {
      const left = (this.#left = this.#room);
      setTimeout(() => {
        if (left !== this.#left) return;
        this.#forget();
        this.#pick();
      }, LINGER_MS);
    }
    this.#room = room;
    this.#sent = null;
    this.deleted = false;
    this.#avatars?.close();
    this.#avatars = new Avatars(room);
    this.#avatars.addEventListener("change", () => {
      if (room === this.#room) this.#pick();
    });
    this.#become(LINK.joined);
    this.#pick();
    void this.#publish();
  }

  /** Leave the room that was moved from. */
  #forget() {
    const left = this.#left;
    this.#left = null;
    void left?.disconnect(false);
  }

  #listen(room) {
    const { RoomEvent, DisconnectReason } = this.#livekit;
    const here = (handler) => (...details) => {
      if (room === this.#room) handler(...details); // news of a room we have left are old news
    };
    const pick = here(() => this.#pick());
    for (const event of [
      RoomEvent.TrackSubscribed,
      RoomEvent.TrackUnsubscribed,
      RoomEvent.ParticipantDisconnected,
    ]) {
      room.on(event, pick);
    }
    for (const event of [
      RoomEvent.AudioPlaybackStatusChanged,
      RoomEvent.ActiveSpeakersChanged,
      RoomEvent.ParticipantPermissionsChanged,
    ]) {
      room.on(event, here(() => this.#changed()));
    }
    room.on(
      RoomEvent.LocalTrackUnpublished,
      here((publication) => {
        if (publication.track?.mediaStreamTrack !== this.#sent) return;
        this.#sent = null; // the server's doing: ours is noted before it happens
        void this.#publish();
        this.#changed();
      }),
    );
    room.on(RoomEvent.SignalReconnecting, here(() => this.#become(LINK.reconnecting)));
    room.on(RoomEvent.Reconnecting, here(() => this.#become(LINK.reconnecting)));
    room.on(
      RoomEvent.Reconnected,
      here(() => {
        this.#become(LINK.joined); // what was published is published again by livekit-client
        void this.#publish(); // what has been asked for meanwhile
      }),
    );
    room.on(
      RoomEvent.Disconnected,
      here((reason) => {
        this.#room = null;
        this.deleted = reason === DisconnectReason.ROOM_DELETED;
        this.#drop();
        if (this.#joining !== null) this.#become(LINK.joining); // ourselves, perhaps, under one name
        else if (reason === DisconnectReason.DUPLICATE_IDENTITY) this.#become(LINK.elsewhere);
        else this.#become(LINK.none);
      }),
    );
    for (const event of [RoomEvent.TrackUnsubscribed, RoomEvent.Disconnected]) {
      room.on(event, () => {
        if (room !== this.#left) return;
        this.#forget();
        this.#pick();
      });
    }
  }

  /** Play the avatar's tracks and nobody else's: an agent's audio would be heard twice. */
  #pick() {
    const tracksOf = (publications) =>
      [...(publications?.values() ?? [])].map((one) => one.track).find((track) => track) ?? null;
    this.#avatars?.look();
    const avatar = this.#avatars?.shown;
    const video = tracksOf(avatar?.videoTrackPublications);
    const audio = tracksOf(avatar?.audioTrackPublications);
    if (audio !== null || this.#left === null) this.#hear(audio);
    if (this.#left !== null && (video?.mediaStreamTrack.muted ?? true)) {
      // Nothing has come yet: the old picture is better than none.
      const again = () => this.#pick();
      video?.mediaStreamTrack.addEventListener("unmute", again, { once: true });
    } else {
      this.#show(video);
      this.#forget();
    }
    this.showing = this.#video !== null;
    this.#spare();
    this.#changed();
  }

  #show(video) {
    if (video === this.#video) return;
    const [before, element] = [this.#video, this.#elements.video];
    if (before !== null) this.dispatchEvent(new Event("cut"));
    this.#video = video;
    video?.attach(element);
    if (before === null) return;
    if (video === null) {
      before.detach(element);
    } else {
      // The element plays on with the other track. Told to let go of it, livekit-client would have
      // it load anew, which shows black.
      before.attachedElements = [];
      before.detach();
    }
  }

  #hear(audio) {
    if (audio === this.#audio) return;
    const element = this.#elements.audio;
    const { muted } = element; // the person's choice, which attach() knows nothing of
    this.#audio?.detach(element);
    this.#audio = audio;
    audio?.attach(element);
    element.muted = muted;
  }

  /** Have nothing sent for a page that nobody sees. */
  #spare() {
    for (const { videoTrackPublications } of this.#room?.remoteParticipants.values() ?? []) {
      for (const publication of videoTrackPublications.values()) {
        if (publication.isEnabled === document.hidden) publication.setEnabled(!document.hidden);
      }
    }
  }

  /** Make what is published what is wanted; one attempt at a time, and again until it is so. */
  async #publish() {
    const room = this.#room;
    if (room === null || this.#publishing === room) return; // it looks again before it is done
    this.#publishing = room; // one in a room that was left may hang there for a while
    while (room === this.#room && this.link === LINK.joined && this.#sent !== this.#own) {
      await this.#publishOnce(room);
    }
    if (this.#publishing === room) this.#publishing = null;
    this.#changed();
  }

  async #publishOnce(room) {
    const [sent, wanted] = [this.#sent, this.#own];
    try {
      if (sent !== null) {
        this.#sent = null;
        await room.localParticipant.unpublishTrack(sent, false);
        return;
      }
      const source = this.#livekit.Track.Source.Microphone;
      await room.localParticipant.publishTrack(wanted, { source });
      if (room === this.#room) this.#sent = wanted;
    } catch (error) {
      if (room !== this.#room) return; // a room that we have left: the next one decides
      if (error.status === FORBIDDEN || !this.maySpeak) {
        this.#own = null;
        this.dispatchEvent(new Event("refused"));
      } else {
        await new Promise((resolve) => setTimeout(resolve, PUBLISH_AGAIN_MS));
      }
    }
  }

  #drop() {
    this.#sent = null;
    this.#avatars?.close();
    this.#avatars = null;
    this.#hear(null);
    this.#show(null);
    this.showing = false;
  }

  #become(link) {
    if (this.link === link) return;
    this.link = link;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

async function load() {
  try {
    return await import("livekit-client");
  } catch (error) {
    throw new RoomUnavailable("The part of the page that plays video could not be loaded.", {
      cause: error,
    });
  }
}

/**
 * Make sure that somebody answers there, before a token goes anywhere: browsers print the whole
 * address of a WebSocket that fails, and LiveKit's carries the token.
 */
async function reach(livekitUrl) {
  const url = new URL(livekitUrl);
  url.protocol = url.protocol.replace("ws", "http");
  try {
    await fetch(url, {
      mode: "no-cors",
      cache: "no-store",
      referrerPolicy: "no-referrer",
      signal: AbortSignal.timeout(REACH_TIMEOUT_MS),
    });
  } catch (error) {
    throw new RoomUnavailable("The LiveKit server cannot be reached from here.", { cause: error });
  }
}
