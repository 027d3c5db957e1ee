// The avatar in its LiveKit room, for any page: joins the room, finds the avatar, plays it.
//
//   const room = new AvatarRoom({ video, audio });        // a <video> and an <audio> element
//   room.addEventListener("change", () => …room.link, room.track, room.soundBlocked…);
//   await room.join(livekitUrl, token);                   // rejects if it cannot join
//   await room.join(nextUrl, nextToken);                  // moves: joins, then leaves the old room
//   await room.speak(track);                              // a microphone's track; null: unpublish it
//   await room.leave();
//
// Publishes that one track only. Knows no session, and does not request access.

import { Avatars } from "./avatars.js";
import { LINK } from "./state.js";

const MICROPHONE_SOURCE = 2; // LiveKit's number, among the sources that a token may publish

const PROBE_TIMEOUT_MS = 8000;
const PUBLISH_AGAIN_MS = 2000;
const LINGER_MS = 5000; // how long the previous room is kept for its picture
const FORBIDDEN = 403; // livekit-client's status where the token does not allow it

/** The room cannot be joined; retry with fresh access. */
export class RoomUnavailable extends Error {}

/**
 * Fires "change" when a property below has changed, "cut" right before the picture is replaced or
 * removed, and "refused" when the room does not accept the microphone's track.
 */
export class AvatarRoom extends EventTarget {
  #elements;
  #livekit = null;
  #room = null;
  #avatars = null; // the avatars in that room
  #joining = null; // the attempt to join another room
  #previous = null; // the room before, while its picture is still shown
  #video = null;
  #audio = null;
  #wanted = null; // the track to publish
  #published = null; // the track that is published in the room
  #publishing = null; // the room in which `#publish` runs

  /** One of LINK: the state of the connection to the room. */
  link = LINK.none;

  /** True if the last room was deleted: access to it is worthless. */
  deleted = false;

  /** True while the avatar has a video track; its first frame may still be on its way. */
  showing = false;

  /** @param {{video: HTMLVideoElement, audio: HTMLAudioElement}} elements where to play it */
  constructor(elements) {
    super();
    this.#elements = elements;
    document.addEventListener("visibilitychange", () => this.#pauseHiddenVideo());
  }

  /** True while a second avatar is in the room, to replace the one that is shown. */
  get handingOver() {
    return this.#avatars?.handingOver ?? false;
  }

  /** The avatar's audio as a MediaStreamTrack, or null while there is none. */
  get audioTrack() {
    return this.#audio?.mediaStreamTrack ?? null;
  }

  /** True while the browser blocks sound until a click. */
  get soundBlocked() {
    return this.#room !== null && !this.#room.canPlaybackAudio;
  }

  /** Whether the avatar speaks, according to LiveKit; works while sound is blocked. */
  get speaking() {
    return this.#avatars?.shown?.isSpeaking ?? false;
  }

  /** True while this participant may publish a microphone. */
  get maySpeak() {
    const { permissions } = this.#room?.localParticipant ?? {};
    if (permissions === undefined) return false;
    const sources = permissions.canPublishSources; // empty: all
    return permissions.canPublish && (!sources.length || sources.includes(MICROPHONE_SOURCE));
  }

  /** True while the track given to `speak` is published. */
  get heard() {
    return this.#published !== null && this.#published === this.#wanted && this.link === LINK.joined;
  }

  /**
   * Publish this track, in this room and in every room that is joined later; null: unpublish. The
   * track stays the caller's and is never stopped here. The event "refused" reports a room that does
   * not accept it.
   *
   * @param {MediaStreamTrack|null} track
   */
  async speak(track) {
    this.#wanted = track;
    await this.#publish();
  }

  /**
   * Join a room with a viewer's access. The current room is left when the new one is joined, and its
   * picture stays until the new one has a picture.
   *
   * @throws {RoomUnavailable} the server is unreachable or refuses the access
   */
  async join(livekitUrl, token) {
    await this.#joining?.room?.disconnect(false);
    const attempt = (this.#joining = { room: null });
    if (this.#room === null) this.#setLink(LINK.joining);
    try {
      this.#livekit ??= await load();
      await probe(livekitUrl);
      const { Room, LogLevel, setLogLevel } = this.#livekit;
      setLogLevel(LogLevel.error);
      // stopLocalTrackOnUnpublish: the microphone outlives a room. No adaptive stream: the video of
      // an avatar that is not shown yet must be there when it replaces the current one.
      attempt.room = new Room({ stopLocalTrackOnUnpublish: false });
      this.#listen(attempt.room);
      if (attempt === this.#joining) await attempt.room.connect(livekitUrl, token);
      if (attempt !== this.#joining) throw new RoomUnavailable("The room was left while joining.");
    } catch (error) {
      await attempt.room?.disconnect(false);
      if (attempt === this.#joining) {
        this.#joining = null;
        if (this.#room === null) this.#setLink(LINK.none);
      }
      if (error instanceof RoomUnavailable) throw error;
      throw new RoomUnavailable("The room cannot be joined now.", { cause: error });
    }
    this.#joining = null;
    this.#joined(attempt.room);
  }

  /** Leave, if joined. */
  async leave() {
    const [room, attempt] = [this.#room, this.#joining];
    this.#room = null;
    this.#joining = null;
    this.#leavePrevious();
    this.#reset();
    await Promise.all([room?.disconnect(false), attempt?.room?.disconnect(false)]);
    if (this.#room === null && this.#joining === null) this.#setLink(LINK.none);
  }

  /** Start blocked sound; call it from a click's handler. */
  async startSound() {
    await this.#room?.startAudio();
    this.#changed();
  }

  /** Make a joined room the current one. */
  #joined(room) {
    this.#leavePrevious();
    if (this.#room !== null) {
      const previous = (this.#previous = this.#room);
      setTimeout(() => {
        if (previous !== this.#previous) return;
        this.#leavePrevious();
        this.#update();
      }, LINGER_MS);
    }
    this.#room = room;
    this.#published = null;
    this.deleted = false;
    this.#avatars?.close();
    this.#avatars = new Avatars(room);
    this.#avatars.addEventListener("change", () => {
      if (room === this.#room) this.#update();
    });
    this.#setLink(LINK.joined);
    this.#update();
    void this.#publish();
  }

  /** Leave the previous room, if it is still kept. */
  #leavePrevious() {
    const previous = this.#previous;
    this.#previous = null;
    void previous?.disconnect(false);
  }

  #listen(room) {
    const { RoomEvent, DisconnectReason } = this.#livekit;
    const ifCurrent = (handler) => (...details) => {
      if (room === this.#room) handler(...details); // events of a previous room are stale
    };
    const update = ifCurrent(() => this.#update());
    for (const event of [
      RoomEvent.TrackSubscribed,
      RoomEvent.TrackUnsubscribed,
      RoomEvent.ParticipantDisconnected,
    ]) {
      room.on(event, update);
    }
    for (const event of [
      RoomEvent.AudioPlaybackStatusChanged,
      RoomEvent.ActiveSpeakersChanged,
      RoomEvent.ParticipantPermissionsChanged,
    ]) {
      room.on(event, ifCurrent(() => this.#changed()));
    }
    room.on(
      RoomEvent.LocalTrackUnpublished,
      ifCurrent((publication) => {
        if (publication.track?.mediaStreamTrack !== this.#published) return;
        this.#published = null; // by the server: our own unpublishing clears it before
        void this.#publish();
        this.#changed();
      }),
    );
    room.on(RoomEvent.SignalReconnecting, ifCurrent(() => this.#setLink(LINK.reconnecting)));
    room.on(RoomEvent.Reconnecting, ifCurrent(() => this.#setLink(LINK.reconnecting)));
    room.on(
      RoomEvent.Reconnected,
      ifCurrent(() => {
        this.#setLink(LINK.joined); // livekit-client publishes again what was published
        void this.#publish(); // and what was requested meanwhile
      }),
    );
    room.on(
      RoomEvent.Disconnected,
      ifCurrent((reason) => {
        this.#room = null;
        this.deleted = reason === DisconnectReason.ROOM_DELETED;
        this.#reset();
        // With DUPLICATE_IDENTITY, perhaps our own new connection replaced this one.
        if (this.#joining !== null) this.#setLink(LINK.joining);
        else if (reason === DisconnectReason.DUPLICATE_IDENTITY) this.#setLink(LINK.elsewhere);
        else this.#setLink(LINK.none);
      }),
    );
    for (const event of [RoomEvent.TrackUnsubscribed, RoomEvent.Disconnected]) {
      room.on(event, () => {
        if (room !== this.#previous) return;
        this.#leavePrevious();
        this.#update();
      });
    }
  }

  /** Play only the avatar's tracks: with an agent's audio the speech would be heard twice. */
  #update() {
    const tracksOf = (publications) =>
      [...(publications?.values() ?? [])].map((one) => one.track).find((track) => track) ?? null;
    this.#avatars?.update();
    const avatar = this.#avatars?.shown;
    const video = tracksOf(avatar?.videoTrackPublications);
    const audio = tracksOf(avatar?.audioTrackPublications);
    if (audio !== null || this.#previous === null) this.#playAudio(audio);
    if (this.#previous !== null && (video?.mediaStreamTrack.muted ?? true)) {
      // No frame yet: keep the previous picture.
      const onFirstFrame = () => this.#update();
      video?.mediaStreamTrack.addEventListener("unmute", onFirstFrame, { once: true });
    } else {
      this.#playVideo(video);
      this.#leavePrevious();
    }
    this.showing = this.#video !== null;
    this.#pauseHiddenVideo();
    this.#changed();
  }

  #playVideo(video) {
    if (video === this.#video) return;
    const [before, element] = [this.#video, this.#elements.video];
    if (before !== null) this.dispatchEvent(new Event("cut"));
    this.#video = video;
    video?.attach(element);
    if (before === null) return;
    if (video === null) {
      before.detach(element);
    } else {
      // The element already plays the next track. livekit-client's detach would reload it, which
      // shows black, so it must not know the element.
      before.attachedElements = [];
      before.detach();
    }
  }

  #playAudio(audio) {
    if (audio === this.#audio) return;
    const element = this.#elements.audio;
    const { muted } = element; // the viewer's choice, which attach() would overwrite
    this.#audio?.detach(element);
    this.#audio = audio;
    audio?.attach(element);
    element.muted = muted;
  }

  /** Stop receiving video while the page is hidden. */
  #pauseHiddenVideo() {
    for (const { videoTrackPublications } of this.#room?.remoteParticipants.values() ?? []) {
      for (const publication of videoTrackPublications.values()) {
        if (publication.isEnabled === document.hidden) publication.setEnabled(!document.hidden);
      }
    }
  }

  /** Publish or unpublish until `#published` is `#wanted`; one attempt at a time. */
  async #publish() {
    const room = this.#room;
    if (room === null || this.#publishing === room) return; // the running call checks again
    this.#publishing = room; // a call for a previous room may still hang
    while (room === this.#room && this.link === LINK.joined && this.#published !== this.#wanted) {
      await this.#publishOnce(room);
    }
    if (this.#publishing === room) this.#publishing = null;
    this.#changed();
  }

  async #publishOnce(room) {
    const [published, wanted] = [this.#published, this.#wanted];
    try {
      if (published !== null) {
        this.#published = null;
        await room.localParticipant.unpublishTrack(published, false);
        return;
      }
      const source = this.#livekit.Track.Source.Microphone;
      await room.localParticipant.publishTrack(wanted, { source });
      if (room === this.#room) this.#published = wanted;
    } catch (error) {
      if (room !== this.#room) return; // a previous room: the current one decides
      if (error.status === FORBIDDEN || !this.maySpeak) {
        this.#wanted = null;
        this.dispatchEvent(new Event("refused"));
      } else {
        await new Promise((resolve) => setTimeout(resolve, PUBLISH_AGAIN_MS));
      }
    }
  }

  #reset() {
    this.#published = null;
    this.#avatars?.close();
    this.#avatars = null;
    this.#playAudio(null);
    this.#playVideo(null);
    this.showing = false;
  }

  #setLink(link) {
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
 * Check that the server answers before a token is sent to it: browsers log the whole address of a
 * WebSocket that fails, and LiveKit's address carries the token.
 */
async function probe(livekitUrl) {
  const url = new URL(livekitUrl);
  url.protocol = url.protocol.replace("ws", "http");
  try {
    await fetch(url, {
      mode: "no-cors",
      cache: "no-store",
      referrerPolicy: "no-referrer",
      signal: AbortSignal.timeout(PROBE_TIMEOUT_MS),
    });
  } catch (error) {
    throw new RoomUnavailable("The LiveKit server cannot be reached from here.", { cause: error });
  }
}
