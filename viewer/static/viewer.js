// The viewer page: gets access, follows the session, joins the room, and says how things stand.

import {
  NotNow,
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
const SETTLED_MS = 10_000; // a room that held this long was no flapping connection
const STALLED_MS = 4000; // no new frame for so long: there is no picture any more
const NO_PICTURE_MS = 10_000; // live, joined, and nothing to see for so long: join again
const HOLD_MS = 15_000; // how long the last picture stands in for the next one
const SETTLING_MS = 4000; // something has changed just now: the next picture is on its way
const METER_INTERVAL_MS = 33;

const page = new Page();
const room = new AvatarRoom({ video: page.video, audio: page.voice });
const lastPicture = new LastPicture(page.video, page.last);
const meter = new LevelMeter(page.bands);
const microphone = new Microphone();
let ownMeter = null; // made at the first click: browsers let no page measure sound before

const known = {
  refused: false,
  status: null,
  problems: { way: null, news: null }, // what keeps us out of the room, what keeps us from news
  get problem() {
    return this.problems.way ?? this.problems.news;
  },
  sessionKey: null,
  generation: null, // of LiveAvatar's session whose room we are in; null: a room that outlives it
  seen: false, // there has been a picture
  endedAt: null,
  maySay: false, // the server can make speech of words
  saying: false,
  maySpeak: false, // the last room would take a microphone
};
let lastFrameAt = -Infinity;
let lastMeterAt = 0;
let fineAt = -Infinity; // when there last was a picture, or a reason why there is none
let unsettledAt = -Infinity; // when there last was anything new about the room or the session
let situation = ""; // what was new then
let asked = 0; // how many questions about the session went out
let answered = 0; // which of them the known status answers

// ------------------------------------------------------------ waiting for news

let news = deferred();

function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve) => (parts.resolve = resolve));
  return parts;
}

function tell() {
  news.resolve();
  news = deferred();
  show();
}

/** Wait until `holds()`; looks whenever anything changed, and at the latest after `timeoutMs`. */
async function until(holds, timeoutMs = Infinity) {
  const end = performance.now() + timeoutMs;
  while (!holds() && performance.now() < end) {
    const left = Math.min(end - performance.now(), LONGEST_PAUSE_MS);
    await Promise.race([news.promise, new Promise((resolve) => setTimeout(resolve, left))]);
  }
}

// ------------------------------------------------------------ the session's life

const over = () => ["ENDED", "FAILED"].includes(known.status?.state);

/** The session goes on in another LiveAvatar session, which has a room of its own. */
const moved = () => known.generation !== null && known.status.generation > known.generation;

/**
 * Ask something whose answer carries the session's status, and note it unless a later question
 * has been answered before: answers overtake each other, and an old state must not stay.
 */
async function askStatus(request) {
  asked += 1;
  const number = asked;
  const answer = await request();
  if (number > answered && !over()) {
    answered = number;
    known.status = answer.status;
    known.problems.news = null;
    if (over()) known.endedAt ??= Date.now();
    tell();
  }
  return answer;
}

function onProblem(what, sentence) {
  known.problems[what] = sentence;
  tell();
}

/** Keep the status fresh until the session is over. */
async function follow() {
  let pauseMs = FIRST_PAUSE_MS;
  while (!over()) {
    try {
      const { next_in_s } = await askStatus(requestStatus);
      pauseMs = FIRST_PAUSE_MS;
      await until(over, next_in_s * 1000);
    } catch (error) {
      if (error instanceof Refused) return; // no pass any more; who needs access hears it, too
      if (!(error instanceof NotNow)) throw error;
      onProblem("news", error.message);
      await until(over, pauseMs);
      pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
    }
  }
}

/**
 * Get access, join, and do so again whenever the room is lost or the session moves to another one,
 * until the session is over.
 */
async function watch(code) {
  let pauseMs = FIRST_PAUSE_MS;
  let following = false;
  let goneFor = 0; // the newest generation that a room was left for
  while (!over()) {
    const startedAt = performance.now();
    try {
      const access = await askStatus(() => requestAccess(code));
      known.sessionKey = access.session_key;
      known.maySay = access.can_say;
      known.problems.way = null;
      if (!following) void follow();
      following = true;
      if (access.token === null) {
        const { state } = access.status;
        await until(() => known.status.state !== state, LONGEST_PAUSE_MS);
        continue;
      }
      if (room.deleted && access.generation !== null && access.generation === known.generation) {
        // Access to a room that is no more. LiveAvatar's session is over: news of it will come.
        await until(() => over() || moved(), pauseMs);
        pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
        continue;
      }
      await room.join(access.livekit_url, access.token);
      known.generation = access.generation;
      fineAt = performance.now();
      await until(
        () =>
          over() ||
          [LINK.none, LINK.elsewhere].includes(room.link) ||
          pictureless() ||
          moved(),
      );
      if (room.link === LINK.elsewhere) return;
      if (moved() && known.status.generation > goneFor) {
        goneFor = known.status.generation; // the room we are in is left when the next one is joined
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
        onProblem("way", error.message);
        return;
      }
      if (!(error instanceof NotNow || error instanceof RoomUnavailable)) throw error;
      onProblem("way", error.message);
    }
    await until(over, pauseMs);
    pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
  }
  await room.leave();
}

/** As `watch`; however that ends, nobody hears this page any more. */
async function watchAndTalk(code) {
  try {
    await watch(code);
  } finally {
    microphone.switchOff();
  }
}

// ------------------------------------------------------------ what the person says

microphone.addEventListener("change", () => {
  if (microphone.track !== null) ownMeter ??= new LevelMeter(page.ownBands);
  ownMeter?.follow(microphone.track);
  void ownMeter?.resume();
  void room.speak(microphone.track);
  tell();
});
room.addEventListener("refused", () => microphone.refuse());

page.onTalk(() => {
  if ([MICROPHONE.on, MICROPHONE.asking].includes(microphone.state)) microphone.switchOff();
  else void microphone.switchOn();
});

page.onSay(async (text) => {
  known.saying = true;
  tell();
  try {
    await requestSpeech(text);
    page.noteSay("");
  } catch (error) {
    if (!(error instanceof NotNow || error instanceof Refused)) throw error;
    page.noteSay(error.message);
  } finally {
    known.saying = false;
    tell();
  }
});

// ------------------------------------------------------------ what is seen and heard

function onFrame(now, frame) {
  page.video.requestVideoFrameCallback(onFrame);
  if (!lastPicture.take(frame)) return;
  lastFrameAt = now;
  page.countFrame(now);
  if (!known.seen) {
    known.seen = true;
    tell();
  }
}

function picture() {
  return room.link !== LINK.none && room.showing && performance.now() - lastFrameAt < STALLED_MS;
}

/**
 * The last picture stands in for the next one: the session goes on elsewhere, or this page gets
 * back into the room. Not where the picture has stopped and nothing is known to be under way.
 */
function held() {
  const now = performance.now();
  const { state } = known.status ?? {};
  const seems = `${room.link} ${room.showing} ${state} ${known.status?.generation}`;
  if (seems !== situation) [situation, unsettledAt] = [seems, now];
  const underWay =
    state === "RECOVERING" || room.link !== LINK.joined || now - unsettledAt < SETTLING_MS;
  return known.seen && underWay && now - lastFrameAt < HOLD_MS;
}

/** The session is live, we are in its room, and for long there is nothing to see. */
function pictureless() {
  return performance.now() - fineAt > NO_PICTURE_MS;
}

function show() {
  const sound = meter.read();
  const audible = meter.running ? sound.audible : room.speaking || known.status?.speaking === true;
  const link = known.refused ? LINK.refused : room.link;
  const shown = picture();
  const stands = held() && !shown;
  const due = known.status?.state === "LIVE" && room.link === LINK.joined && !document.hidden;
  if (shown || !due) fineAt = performance.now();
  const view = viewOf({
    link,
    status: known.status,
    picture: shown,
    held: stands,
    seen: known.seen,
    audible,
  });
  page.show(view, shown ? "live" : stands ? "held" : known.seen ? "still" : "none", known);
  page.showSoundBlocked(room.audioTrack !== null && (room.soundBlocked || !meter.running));
  if (room.link === LINK.joined) known.maySpeak = room.maySpeak; // between two rooms: as before
  page.showMicrophone(known.maySpeak && !over(), microphone.state, room.heard);
  page.showSay(known.maySay && !over(), known.saying);
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
  tell();
});

page.onUnblock(async () => {
  await Promise.all([room.startSound(), meter.resume()]);
  tell();
});
page.onTakeOver(() => location.reload());
document.addEventListener("visibilitychange", () => {
  lastFrameAt = performance.now(); // hidden pages get no frames; give the picture time to return
});
addEventListener("pagehide", () => {
  microphone.switchOff();
  void room.leave();
});

page.video.requestVideoFrameCallback(onFrame);
requestAnimationFrame(everyFrame);
setInterval(show, 1000); // also in a hidden tab, where no frames are drawn: the title tells

if (location.pathname.startsWith("/watch/")) {
  await watchAndTalk(takeCode());
} else {
  known.refused = true;
  tell();
}
