// The page: starts the caller's session, shows the avatar, sends texts, interrupts them.
//
// The server identifies the caller by a cookie that no script can read. Room access is requested when
// needed, and kept in memory only.

import { AvatarRoom } from "./avatar-room.js";

const STATUS_INTERVAL_MS = 1000;
const MAX_ITEMS = 50;
const BEFORE_LIVE = new Set(["REQUESTED", "MINTING", "STARTING", "CONNECTING"]);
const IN_ROOM = new Set(["LIVE", "RECOVERING"]);
const OVER = new Set(["ENDED", "FAILED"]);
const LABELS = {
  none: "No session",
  REQUESTED: "Starting",
  MINTING: "Starting",
  STARTING: "Starting",
  CONNECTING: "Starting",
  LIVE: "Live",
  RECOVERING: "Reconnecting",
  ENDING: "Ending",
  ENDED: "Ended",
  FAILED: "Failed",
};

const byId = (id) => document.getElementById(id);
const room = new AvatarRoom({ video: byId("avatar"), audio: byId("voice") });
let state = "none"; // the session's, from the last response
let joining = false;
let generation = 0; // of the room that was joined last

/** Send a request; returns the response, or throws its message. */
async function request(method, path = "", body = undefined) {
  const response = await fetch(`/api/session${path}`, {
    method,
    headers: body === undefined ? {} : { "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    const message = answer.message ?? `The server answered ${response.status}.`;
    throw Object.assign(new Error(message), { status: response.status });
  }
  return answer;
}

function setState(next) {
  state = next;
  byId("state").textContent = LABELS[state];
  document.body.dataset.state = state;
  const live = IN_ROOM.has(state);
  for (const id of ["text", "send", "stop"]) byId(id).disabled = !live;
  byId("start").disabled = live || BEFORE_LIVE.has(state) || state === "ENDING";
  byId("end").disabled = !(live || BEFORE_LIVE.has(state));
}

function showProblem(error) {
  byId("problem").hidden = error === null;
  byId("problem").textContent = error?.message ?? "";
}

/** Run an action; show its error on the page. */
async function attempt(work) {
  showProblem(null);
  try {
    await work();
  } catch (error) {
    showProblem(error);
  }
}

/** Join the room with fresh access; the server responds when the avatar is live. */
async function join() {
  if (joining) return;
  joining = true;
  try {
    const access = await request("POST", "/access");
    if (room.deleted && access.generation === generation) return; // the next room is not ready yet
    await room.join(access.livekit_url, access.token);
    generation = access.generation;
  } finally {
    joining = false;
  }
}

/**
 * Poll the session's state and act on it. This also rejoins a lost room, and follows the session into
 * the room of its next generation.
 */
async function poll() {
  let moved = false;
  try {
    const standing = await request("GET");
    setState(standing.state);
    moved = standing.generation > generation;
  } catch (error) {
    if (error.status !== 404) return showProblem(error);
    setState("none");
  }
  if (state === "LIVE" && (room.link === "none" || moved)) await attempt(join);
  if (OVER.has(state) || state === "none") {
    generation = 0; // the next session counts from 1 again
    await room.leave();
  }
}

function addText(text, result) {
  const item = document.createElement("li");
  const what = document.createElement("small");
  what.textContent = result;
  item.append(text, what);
  byId("said").prepend(item);
  while (byId("said").children.length > MAX_ITEMS) byId("said").lastElementChild.remove();
  return what;
}

byId("start").addEventListener("click", () =>
  attempt(async () => {
    await request("POST");
    generation = 0;
    setState("REQUESTED");
  }),
);

byId("end").addEventListener("click", () =>
  attempt(async () => {
    setState("ENDING");
    await request("DELETE");
  }),
);

byId("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (!text) return;
  byId("text").value = "";
  const what = addText(text, "…");
  void attempt(async () => {
    try {
      const { outcome, heard_ms, broke_off } = await request("POST", "/say", { text });
      const rest = broke_off ? ", the voice broke off" : "";
      what.textContent = `${outcome}, ${(heard_ms / 1000).toFixed(1)} s heard${rest}`;
    } catch (error) {
      what.textContent = "not spoken";
      throw error;
    }
  });
});

byId("stop").addEventListener("click", () => attempt(() => request("POST", "/interrupt")));
byId("sound").addEventListener("click", () => room.startSound());
room.addEventListener("change", () => {
  byId("sound").hidden = !room.soundBlocked;
});
addEventListener("pagehide", () => void room.leave());

async function watch() {
  await poll();
  setTimeout(watch, STATUS_INTERVAL_MS);
}
setState("none");
void watch();
