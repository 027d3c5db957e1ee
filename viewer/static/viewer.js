// The viewer page: requests access, polls the status, joins the room, and renders the state.

import {
  Unavailable,
  Refused,
  requestAccess,
  requestSpeech,
  requestStatus,
  takeCode,
} from "./access.js";
import { AvatarRoom, RoomUnavailable } from "./avatar-room.js";
import { LastPicture } from "./last-picture.js";
import { LevelMeter } from "./level.js";
import { Microphone } from "./microphone.js";
import { Page } from "./page.js";
import { LINK, MICROPHONE, viewOf } from "./state.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8000;
const SETTLED_MS = 10_000; // a connection that lasted this long resets the backoff
const STALLED_MS = 4000; // without a new frame for this long there is no picture
const NO_PICTURE_MS = 10_000; // live and joined without a picture for this long: rejoin
const HOLD_MS = 15_000; // how long the last picture is shown instead of the next one
const SETTLING_MS = 4000; // after a change, a picture is expected within this time
const METER_INTERVAL_MS = 33;

const page = new Page();
const room = new AvatarRoom({ video: page.video, audio: page.voice });
const lastPicture = new LastPicture(page.video, page.last);
const meter = new LevelMeter(page.bands);
const microphone = new Microphone();
let ownMeter = null; // made at the first click: browsers block audio before

const known = {
  refused: false,
  status: null,
  problems: { access: null, status: null }, // why there is no room, why there is no status
  get problem() {
    return this.problems.access ?? this.problems.status;
  },
  sessionKey: null,
  generation: null, // that the joined room belongs to; null: the room is the session's own
  seen: false, // there has been a picture
  endedAt: null,
  canSay: false, // the server can speak typed text
  speakingText: false,
  maySpeak: false, // the last room would accept a microphone
};
let lastFrameAt = -Infinity;
let lastMeterAt = 0;
let pictureOkAt = -Infinity; // when there last was a picture, or a reason for having none
let changedAt = -Infinity; // when room or session last changed
let lastSituation = ""; // their state at that time
let requested = 0; // the number of the latest status request
let answered = 0; // the number of the request that the known status answers

// ------------------------------------------------------------ notification of changes

let change = deferred();

function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve) => (parts.resolve = resolve));
  return parts;
}

function notify() {
  change.resolve();
  change = deferred();
  show();
}

/** Wait until `condition()` is true or the timeout; checked at every change. */
async function until(condition, timeoutMs = Infinity) {
  const end = performance.now() + timeoutMs;
  while (!condition() && performance.now() < end) {
    const left = Math.min(end - performance.now(), LONGEST_PAUSE_MS);
    await Promise.race([change.promise, new Promise((resolve) => setTimeout(resolve, left))]);
  }
}

// ------------------------------------------------------------ access and status

const over = () => ["ENDED", "FAILED"].includes(known.status?.state);

/** The session has moved to a later generation, which has another room. */
const moved = () => known.generation !== null && known.status.generation > known.generation;

/**
 * Send a request whose response carries the session's status. Keep the status unless a later request
 * was answered first: responses overtake each other, and a stale one must be ignored.
 */
async function withStatus(request) {
  requested += 1;
  const number = requested;
  const answer = await request();
  if (number > answered && !over()) {
    answered = number;
    known.status = answer.status;
    known.problems.status = null;
    if (over()) known.endedAt ??= Date.now();
    notify();
  }
  return answer;
}

function onProblem(kind, sentence) {
  known.problems[kind] = sentence;
  notify();
}

/** Poll the status until the session is over. */
async function poll() {
  let pauseMs = FIRST_PAUSE_MS;
  while (!over()) {
    try {
      const { next_in_s } = await withStatus(requestStatus);
      pauseMs = FIRST_PAUSE_MS;
      await until(over, next_in_s * 1000);
    } catch (error) {
      if (error instanceof Refused) return; // the pass expired; the next access request reports it
      if (!(error instanceof Unavailable)) throw error;
      onProblem("status", error.message);
      await until(over, pauseMs);
      pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
    }
  }
}

/**
 * Request access and join, and again whenever the room is lost or the session moves to another one,
 * until the session is over.
 */
async function watch(code) {
  let pauseMs = FIRST_PAUSE_MS;
  let polling = false;
  let leftFor = 0; // the latest generation that a room was left for
  while (!over()) {
    const startedAt = performance.now();
    try {
      const access = await withStatus(() => requestAccess(code));
      known.sessionKey = access.session_key;
      known.canSay = access.can_say;
      known.problems.access = null;
      if (!polling) void poll();
      polling = true;
      if (access.token === null) {
        const { state } = access.status;
        await until(() => known.status.state !== state, LONGEST_PAUSE_MS);
        continue;
      }
      if (room.deleted && access.generation !== null && access.generation === known.generation) {
        // Access to a deleted room. Its LiveAvatar session is over: the status will say so.
        await until(() => over() || moved(), pauseMs);
        pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
        continue;
      }
      await room.join(access.livekit_url, access.token);
      known.generation = access.generation;
      pictureOkAt = performance.now();
      await until(
        () =>
          over() ||
          [LINK.none, LINK.elsewhere].includes(room.link) ||
          pictureless() ||
          moved(),
      );
      if (room.link === LINK.elsewhere) return;
      if (moved() && known.status.generation > leftFor) {
        leftFor = known.status.generation; // `join` joins the next room, then leaves this one
        pauseMs = FIRST_PAUSE_MS;
        continue;
      }
      if (pictureless()) await room.leave();
      if (performance.now() - startedAt > SETTLED_MS) {
        pauseMs = FIRST_PAUSE_MS;
        continue;
      }
    } catch (error) {
      if (error instanceof Refused) {
        known.refused = true;
        onProblem("access", error.message);
        return;
      }
      if (!(error instanceof Unavailable || error instanceof RoomUnavailable)) throw error;
      onProblem("access", error.message);
    }
    await until(over, pauseMs);
    pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
  }
  await room.leave();
}

/** `watch`; releases the microphone however that ends. */
async function watchAndTalk(code) {
  try {
    await watch(code);
  } finally {
    microphone.switchOff();
  }
}

// ------------------------------------------------------------ microphone and typed text

microphone.addEventListener("change", () => {
  if (microphone.track !== null) ownMeter ??= new LevelMeter(page.ownBands);
  ownMeter?.follow(microphone.track);
  void ownMeter?.resume();
  void room.speak(microphone.track);
  notify();
});
room.addEventListener("refused", () => microphone.refuse());

page.onTalk(() => {
  if ([MICROPHONE.on, MICROPHONE.asking].includes(microphone.state)) microphone.switchOff();
  else void microphone.switchOn();
});

page.onSay(async (text) => {
  known.speakingText = true;
  notify();
  try {
    await requestSpeech(text);
    page.noteSay("");
  } catch (error) {
    if (!(error instanceof Unavailable || error instanceof Refused)) throw error;
    page.noteSay(error.message);
  } finally {
    known.speakingText = false;
    notify();
  }
});

// ------------------------------------------------------------ rendering

function onFrame(now, frame) {
  page.video.requestVideoFrameCallback(onFrame);
  if (!lastPicture.take(frame)) return;
  lastFrameAt = now;
  page.countFrame(now);
  if (!known.seen) {
    known.seen = true;
    notify();
  }
}

function hasPicture() {
  return room.link !== LINK.none && room.showing && performance.now() - lastFrameAt < STALLED_MS;
}

/**
 * Whether to show the last picture instead of the next one: during a recovery, a move to another room
 * or a rejoin, but not where the video has stopped without a known reason.
 */
function holdsPicture() {
  const now = performance.now();
  const { state } = known.status ?? {};
  const situation = `${room.link} ${room.showing} ${state} ${known.status?.generation}`;
  if (situation !== lastSituation) [lastSituation, changedAt] = [situation, now];
  const changing =
    state === "RECOVERING" || room.link !== LINK.joined || now - changedAt < SETTLING_MS;
  return known.seen && changing && now - lastFrameAt < HOLD_MS;
}

/** The session is live and its room joined, and there has been no picture for too long. */
function pictureless() {
  return performance.now() - pictureOkAt > NO_PICTURE_MS;
}

function show() {
  const sound = meter.read();
  const audible = meter.running ? sound.audible : room.speaking || known.status?.speaking === true;
  const link = known.refused ? LINK.refused : room.link;
  const shown = hasPicture();
  const held = holdsPicture() && !shown;
  const due = known.status?.state === "LIVE" && room.link === LINK.joined && !document.hidden;
  if (shown || !due) pictureOkAt = performance.now();
  const view = viewOf({
    link,
    status: known.status,
    picture: shown,
    held,
    seen: known.seen,
    audible,
  });
  page.show(view, shown ? "live" : held ? "held" : known.seen ? "still" : "none", known);
  page.showSoundBlocked(room.audioTrack !== null && (room.soundBlocked || !meter.running));
  if (room.link === LINK.joined) known.maySpeak = room.maySpeak; // between two rooms it keeps its value
  page.showMicrophone(known.maySpeak && !over(), microphone.state, room.heard);
  page.showSay(known.canSay && !over(), known.speakingText);
  return sound;
}

function everyFrame(now) {
  if (now - lastMeterAt >= METER_INTERVAL_MS) {
    lastMeterAt = now;
    page.showLevel(show());
    if (microphone.track !== null) page.showOwnLevel(ownMeter.read());
  }
  requestAnimationFrame(everyFrame);
}

let measured = null;
room.addEventListener("cut", () => lastPicture.keep());
room.addEventListener("change", () => {
  lastPicture.closely = room.handingOver;
  if (room.audioTrack !== measured) {
    measured = room.audioTrack;
    meter.follow(measured);
  }
  notify();
});

page.onUnblock(async () => {
  await Promise.all([room.startSound(), meter.resume()]);
  notify();
});
page.onTakeOver(() => location.reload());
document.addEventListener("visibilitychange", () => {
  lastFrameAt = performance.now(); // a hidden page gets no frames: restart the timeout
});
addEventListener("pagehide", () => {
  microphone.switchOff();
  void room.leave();
});

page.video.requestVideoFrameCallback(onFrame);
requestAnimationFrame(everyFrame);
setInterval(show, 1000); // also in a hidden tab, which draws no frames: updates the title

if (location.pathname.startsWith("/watch/")) {
  await watchAndTalk(takeCode());
} else {
  known.refused = true;
  notify();
}
