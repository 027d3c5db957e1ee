// What the page says about a session, derived from what is known. Pure: no DOM, no network.

/** Everything the page can be in. `tone` colours it; `busy` shows that something is under way. */
export const VIEWS = Object.freeze({
  connecting: { label: "Connecting", tone: "quiet", busy: true },
  waiting: { label: "Waiting for the avatar", tone: "quiet", busy: true },
  idle: { label: "Idle", tone: "calm", busy: false },
  listening: { label: "Listening", tone: "attentive", busy: false },
  talking: { label: "Talking", tone: "lively", busy: false },
  recovering: { label: "Reconnecting", tone: "uneasy", busy: true },
  ending: { label: "Ending", tone: "quiet", busy: true },
  ended: { label: "Session ended", tone: "over", busy: false },
  failed: { label: "Session failed", tone: "failed", busy: false },
  elsewhere: { label: "Opened elsewhere", tone: "over", busy: false },
  refused: { label: "No access", tone: "failed", busy: false },
});

/** What connects the page to the room. */
export const LINK = Object.freeze({
  none: "none", // not joined
  joining: "joining",
  joined: "joined",
  reconnecting: "reconnecting", // livekit-client is at it
  elsewhere: "elsewhere", // the same access joined from another window
  refused: "refused", // no invitation
});

/** Where the person's own microphone stands. */
export const MICROPHONE = Object.freeze({
  off: "off",
  asking: "asking", // the browser asks the person
  on: "on",
  denied: "denied", // the person, or the browser for them, said no
  missing: "missing", // there is none
  busy: "busy", // another program has it, or its driver fails
  unusable: "unusable", // browsers give it to safe pages only
  lost: "lost", // unplugged, or taken back by the browser
  refused: "refused", // the room takes no sound from this page
});

/** Which way a microphone can go from where it stands. */
export const MICROPHONE_MOVES = Object.freeze({
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
    sentence: "Browsers give the microphone to pages on https or on this machine only.",
  },
  lost: {
    label: "Talk",
    sentence: "The microphone is gone: unplugged, or switched off by the browser.",
  },
  refused: { label: "Not allowed", sentence: "The room takes no sound from this page." },
};

/**
 * The microphone in words: a short one for its button, and a sentence where one is needed.
 *
 * @param {keyof MICROPHONE} microphone
 * @param {boolean} heard its sound goes into the room
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
 * @param {object|null} known.status the session's status as the server tells it
 * @param {boolean} known.picture frames of the avatar are arriving
 * @param {boolean} known.held they are not, and the last one stands in for them
 * @param {boolean} known.seen there has been a picture before
 * @param {boolean} known.audible the avatar can be heard at this moment
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

/** One sentence below the title of the card that covers the picture while there is none. */
export function sentenceOf(view, { status, problem, seen }) {
  switch (view) {
    case "connecting":
      return problem ?? "Opening a line to the room.";
    case "waiting":
      if (problem) return problem;
      if (BEFORE_LIVE.has(status?.state)) return "The session is starting. This takes a few seconds.";
      return seen ? "The picture has stopped. Waiting for it to return." : "It is on its way into the room.";
    case "recovering":
      return problem ?? "The connection is being restored. This usually takes a few seconds.";
    case "ending":
      return "The avatar is saying goodbye.";
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
