// The viewer page: gets access, follows the session, joins the room, and says how things stand.

import { followStatus, NotNow, Refused, requestAccess, takeCode } from "./access.js";
import { AvatarRoom, RoomUnavailable } from "./avatar-room.js";
import { LevelMeter } from "./level.js";
import { Page } from "./page.js";
import { LINK, viewOf } from "./state.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8000;
const SETTLED_MS = 10_000; // a room that held this long was no flapping connection
const STALLED_MS = 4000; // no new frame for so long: there is no picture any more
const METER_INTERVAL_MS = 33;

const page = new Page();
const room = new AvatarRoom({ video: page.video, audio: page.voice });
const meter = new LevelMeter(page.bands);

const known = {
  refused: false,
  status: null,
  problem: null, // a sentence about what does not work at the moment
  sessionKey: null,
  seen: false, // there has been a picture
  endedAt: null,
};
let lastFrameAt = -Infinity;
let lastMeterAt = 0;

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

function onStatus(status) {
  known.status = status;
  if (over()) known.endedAt ??= Date.now();
  tell();
}

function onProblem(problem) {
  known.problem = problem;
  tell();
}

/** Get access, join, and do so again whenever the room is lost, until the session is over. */
async function watch(code) {
  let pauseMs = FIRST_PAUSE_MS;
  let following = false;
  while (!over()) {
    const startedAt = performance.now();
    try {
      const access = await requestAccess(code);
      known.sessionKey = access.session_key;
      known.problem = null;
      onStatus(access.status);
      if (!following && !over()) {
        followStatus(onStatus, onProblem);
        following = true;
      }
      if (access.token === null) {
        const { state } = access.status;
        await until(() => known.status.state !== state);
        continue;
      }
      await room.join(access.livekit_url, access.token);
      await until(() => over() || [LINK.none, LINK.elsewhere].includes(room.link));
      if (room.link === LINK.elsewhere) return;
    } catch (error) {
      if (error instanceof Refused) {
        known.refused = true;
        onProblem(error.message);
        return;
      }
      if (!(error instanceof NotNow || error instanceof RoomUnavailable)) throw error;
      onProblem(error.message);
    }
    if (performance.now() - startedAt > SETTLED_MS) pauseMs = FIRST_PAUSE_MS;
    await until(over, pauseMs);
    pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
  }
  await room.leave();
}

// ------------------------------------------------------------ what is seen and heard

function onFrame(now) {
  lastFrameAt = now;
  page.countFrame(now);
  if (!known.seen) {
    known.seen = true;
    tell();
  }
  page.video.requestVideoFrameCallback(onFrame);
}

function picture() {
  return room.link !== LINK.none && room.showing && performance.now() - lastFrameAt < STALLED_MS;
}

function show() {
  const sound = meter.read();
  const audible = meter.running ? sound.audible : room.speaking || known.status?.speaking === true;
  const link = known.refused ? LINK.refused : room.link;
  const shown = picture();
  const view = viewOf({
    link,
    status: known.status,
    picture: shown,
    seen: known.seen,
    audible,
  });
  page.show(view, shown, known);
  page.showSoundBlocked(room.audioTrack !== null && (room.soundBlocked || !meter.running));
  return sound;
}

function everyFrame(now) {
  if (now - lastMeterAt >= METER_INTERVAL_MS) {
    lastMeterAt = now;
    page.showLevel(show());
  }
  requestAnimationFrame(everyFrame);
}

let measured = null;
room.addEventListener("change", () => {
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
addEventListener("pagehide", () => void room.leave());

page.video.requestVideoFrameCallback(onFrame);
requestAnimationFrame(everyFrame);
setInterval(show, 1000); // also in a hidden tab, where no frames are drawn: the title tells

if (location.pathname.startsWith("/watch/")) {
  await watch(takeCode());
} else {
  known.refused = true;
  tell();
}
