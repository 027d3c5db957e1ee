// The avatar in its LiveKit room, for any page: join, find the avatar, play it.
//
//   const room = new AvatarRoom({ video, audio });        // a <video> and an <audio> element
//   room.addEventListener("change", () => …room.link, room.track, room.soundBlocked…);
//   await room.join(livekitUrl, token);                   // rejects if the room cannot be joined
//   await room.speak(track);                              // a microphone's track; null: fall silent
//   await room.leave();
//
// Publishes nothing but that one track. Does not know what a session is, nor where access comes from.

import { LINK } from "./state.js";

const MICROPHONE_SOURCE = 2; // LiveKit's number, among the sources that a token may publish

// What LiveAvatar calls its participant in rooms that it hosts. In a room of one's own the name
// is free, so that anybody else who publishes video counts too.
const HOSTED_AVATAR_IDENTITY = "heygen";
const REACH_TIMEOUT_MS = 8000;
const PUBLISH_AGAIN_MS = 2000;
const FORBIDDEN = 403; // what livekit-client says when a token does not allow it

/** The room is not there, or not for us: worth another try with fresh access. */
export class RoomUnavailable extends Error {}

export class AvatarRoom extends EventTarget {
  #elements;
  #livekit = null;
  #room = null;
  #video = null;
  #audio = null;
  #own = null; // the track that is to be heard in the room
  #sent = null; // the one that is published there
  #publishing = null; // the room in which somebody is at making the two equal

  /** One of LINK: how the page hangs on the room. */
  link = LINK.none;

  /** @param {{video: HTMLVideoElement, audio: HTMLAudioElement}} elements where to play it */
  constructor(elements) {
    super();
    this.#elements = elements;
  }

  /** True while there is a video track of the avatar; its frames may still be on their way. */
  get showing() {
    return this.#video !== null;
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
    return this.#avatar()?.isSpeaking ?? false;
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
   * Join with access for a viewer.
   *
   * @throws {RoomUnavailable} the server cannot be reached or does not let us in
   */
  async join(livekitUrl, token) {
    await this.leave();
    this.#become(LINK.joining);
    try {
      this.#livekit ??= await load();
      await reach(livekitUrl);
      const { Room, LogLevel, setLogLevel } = this.#livekit;
      setLogLevel(LogLevel.error);
      // What the person says is theirs: a room that is left does not switch the microphone off.
      this.#room = new Room({ adaptiveStream: true, stopLocalTrackOnUnpublish: false });
      this.#listen(this.#room);
      await this.#room.connect(livekitUrl, token);
      this.#become(LINK.joined);
      this.#pick();
      void this.#publish();
    } catch (error) {
      await this.leave();
      if (error instanceof RoomUnavailable) throw error;
      throw new RoomUnavailable("The room cannot be joined at the moment.", { cause: error });
    }
  }

  /** Leave, if joined. */
  async leave() {
    const room = this.#room;
    this.#room = null;
    this.#drop();
    await room?.disconnect(false);
    this.#become(LINK.none);
  }

  /** Play sound after all; meant for a click's handler. */
  async startSound() {
    await this.#room?.startAudio();
    this.#changed();
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
        this.#drop();
        const stolen = reason === DisconnectReason.DUPLICATE_IDENTITY;
        this.#become(stolen ? LINK.elsewhere : LINK.none);
      }),
    );
  }

  /** The participant that is the avatar: the hosted name, else the first that shows a picture. */
  #avatar() {
    const others = [...(this.#room?.remoteParticipants.values() ?? [])];
    const shows = (participant) => participant.videoTrackPublications.size > 0;
    return (
      others.find((one) => one.identity === HOSTED_AVATAR_IDENTITY && shows(one)) ??
      others.find(shows) ??
      null
    );
  }

  /** Play the avatar's tracks and nobody else's: an agent's audio would be heard twice. */
  #pick() {
    const tracksOf = (publications) =>
      [...(publications?.values() ?? [])].map((one) => one.track).find((track) => track) ?? null;
    const avatar = this.#avatar();
    const video = tracksOf(avatar?.videoTrackPublications);
    const audio = tracksOf(avatar?.audioTrackPublications);
    if (video !== this.#video) {
      this.#video?.detach(this.#elements.video);
      this.#video = video;
      video?.attach(this.#elements.video);
    }
    if (audio !== this.#audio) {
      this.#audio?.detach(this.#elements.audio);
      this.#audio = audio;
      audio?.attach(this.#elements.audio);
    }
    this.#changed();
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
    this.#video?.detach(this.#elements.video);
    this.#audio?.detach(this.#elements.audio);
    this.#audio = null;
    this.#video = null;
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
