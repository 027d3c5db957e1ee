// The page's views and texts, derived from status and room. Pure: no DOM, no network.

/** The views of the page. `tone` sets its colour; `busy` shows an activity indicator. */
export const VIEWS = Object.freeze({
  connecting: { label: "Connecting", tone: "neutral", busy: true },
  waiting: { label: "Waiting for the avatar", tone: "neutral", busy: true },
  idle: { label: "Idle", tone: "calm", busy: false },
  listening: { label: "Listening", tone: "attentive", busy: false },
  talking: { label: "Talking", tone: "lively", busy: false },
  recovering: { label: "Reconnecting", tone: "uneasy", busy: true },
  ending: { label: "Ending", tone: "neutral", busy: true },
  ended: { label: "Session ended", tone: "over", busy: false },
  failed: { label: "Session failed", tone: "failed", busy: false },
  elsewhere: { label: "Opened elsewhere", tone: "over", busy: false },
  refused: { label: "No access", tone: "failed", busy: false },
});

/** The state of the connection to the room. */
export const LINK = Object.freeze({
  none: "none", // not joined
  joining: "joining",
  joined: "joined",
  reconnecting: "reconnecting", // livekit-client reconnects
  elsewhere: "elsewhere", // the same access joined from another window
  refused: "refused", // no invitation
});

/** The state of the viewer's microphone. */
export const MICROPHONE = Object.freeze({
  off: "off",
  asking: "asking", // the browser asks for permission
  on: "on",
  denied: "denied", // permission denied
  missing: "missing", // no device
  busy: "busy", // another program uses it, or its driver fails
  unusable: "unusable", // the page is not a secure context
  lost: "lost", // unplugged, or stopped by the browser
  refused: "refused", // the room does not accept audio from this page
});

/** The microphone's legal transitions. */
export const MICROPHONE_TRANSITIONS = Object.freeze({
  off: ["asking"],
  asking: ["on", "off", "denied", "missing", "busy", "unusable"],
  on: ["off", "lost", "refused"],
  denied: ["asking", "off"],
  missing: ["asking", "off"],
  busy: ["asking", "off"],
  unusable: ["asking", "off"],
  lost: ["asking", "off"],
  refused: ["asking", "off"],
});

const MICROPHONE_WORDS = {
  off: { label: "Talk", sentence: "" },
  asking: {
    label: "Asking",
    sentence: "Your browser asks whether this page may use the microphone.",
  },
  denied: {
    label: "Blocked",
    sentence: "The microphone is blocked. Allow it for this page in your browser, then try again.",
  },
  missing: {
    label: "No microphone",
    sentence: "No microphone was found. Plug one in, then try again.",
  },
  busy: {
    label: "Not available",
    sentence: "The microphone cannot be opened. Another program may be using it.",
  },
  unusable: {
    label: "Not available",
    sentence: "Browsers allow a microphone only on https pages, or pages of this machine.",
  },
  lost: {
    label: "Talk",
    sentence: "The microphone was unplugged, or switched off by the browser.",
  },
  refused: { label: "Not allowed", sentence: "This room does not accept audio from this page." },
};

/**
 * The microphone's texts: a label for its button, and a sentence where one is needed.
 *
 * @param {keyof MICROPHONE} microphone
 * @param {boolean} heard its track is published
 * @returns {{label: string, sentence: string}}
 */
export function microphoneWords(microphone, heard) {
  if (microphone !== MICROPHONE.on) return MICROPHONE_WORDS[microphone];
  return { label: heard ? "You are heard" : "Not heard yet", sentence: "" };
}

const FINAL_VIEWS = { ENDED: "ended", FAILED: "failed" };
const BEFORE_LIVE = new Set(["REQUESTED", "MINTING", "STARTING", "CONNECTING"]);

/**
 * Decide which view to show.
 *
 * @param {object} known
 * @param {string} known.link one of LINK
 * @param {object|null} known.status the session's status, from the server
 * @param {boolean} known.picture frames of the avatar arrive
 * @param {boolean} known.held they do not, and the last one is shown instead
 * @param {boolean} known.seen there has been a picture
 * @param {boolean} known.audible the avatar is audible now
 * @returns {keyof VIEWS}
 */
export function viewOf({ link, status, picture, held, seen, audible }) {
  const state = status?.state;
  if (FINAL_VIEWS[state]) return FINAL_VIEWS[state];
  if (link === LINK.refused) return "refused";
  if (link === LINK.elsewhere) return "elsewhere";
  if (state === "ENDING") return "ending";
  if (BEFORE_LIVE.has(state)) return "waiting";
  if (link === LINK.none || link === LINK.joining) return seen ? "recovering" : "connecting";
  if (link === LINK.reconnecting) return "recovering";
  if (state === "RECOVERING" && (picture || seen)) return "recovering";
  if (!picture) return held ? "recovering" : "waiting";
  if (audible) return "talking";
  return status?.pose === "listening" ? "listening" : "idle";
}

/** The sentence on the card that covers the page while there is no picture. */
export function sentenceOf(view, { status, problem, seen }) {
  switch (view) {
    case "connecting":
      return problem ?? "Connecting to the room.";
    case "waiting":
      if (problem) return problem;
      if (BEFORE_LIVE.has(status?.state)) return "The session is starting. This takes a few seconds.";
      return seen ? "The video has stopped. Waiting for it to return." : "The avatar is joining the room.";
    case "recovering":
      return problem ?? "The connection is being restored. This usually takes a few seconds.";
    case "ending":
      return "The session is ending.";
    case "ended":
    case "failed":
      return status?.reason ?? "The session is over.";
    case "elsewhere":
      return "This session is being watched in another window.";
    case "refused":
      return problem ?? "This page needs an invitation: open the link you were given.";
    default:
      return "";
  }
}

/** 75000 → "1:15", 3675000 → "1:01:15". */
export function clock(elapsedMs) {
  const seconds = Math.max(0, Math.floor(elapsedMs / 1000));
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const tail = `${h ? String(m).padStart(2, "0") : m}:${String(s).padStart(2, "0")}`;
  return h ? `${h}:${tail}` : tail;
}
