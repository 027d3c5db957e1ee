// The page: starts the caller's session, shows the avatar, sends texts, stops them.
//
// Whoever the caller is, the server knows by a cookie that no script can read. Access to the room
// is asked for when it is needed and kept in memory only.

import { AvatarRoom } from "./avatar-room.js";

const STATUS_INTERVAL_MS = 1000;
const MAX_LINES = 50;
const BEFORE_LIVE = new Set(["REQUESTED", "MINTING", "STARTING", "CONNECTING"]);
const IN_ROOM = new Set(["LIVE", "RECOVERING"]);
const OVER = new Set(["ENDED", "FAILED"]);
const WORDS = {
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
let state = "none"; // the session's, as the server told last
let joining = false;
let generation = 0; // the LiveAvatar session whose room we are in, or were

/** What the server answered; its sentence as an Error where it refused. */
async function ask(method, path = "", body = undefined) {
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

function become(next) {
  state = next;
  byId("state").textContent = WORDS[state];
  document.body.dataset.state = state;
  const live = IN_ROOM.has(state);
  for (const id of ["text", "send", "stop"]) byId(id).disabled = !live;
  byId("start").disabled = live || BEFORE_LIVE.has(state) || state === "ENDING";
  byId("end").disabled = !(live || BEFORE_LIVE.has(state));
}

function complain(error) {
  byId("problem").hidden = error === null;
  byId("problem").textContent = error?.message ?? "";
}

/** Do something for a click; whatever goes wrong is told on the page. */
async function attempt(work) {
  complain(null);
  try {
    await work();
  } catch (error) {
    complain(error);
  }
}

/** Join the room with fresh access; the server answers when the avatar is live. */
async function join() {
  if (joining) return;
  joining = true;
  try {
    const access = await ask("POST", "/access");
    if (room.deleted && access.generation === generation) return; // the next one is on its way
    await room.join(access.livekit_url, access.token);
    generation = access.generation;
  } finally {
    joining = false;
  }
}

/**
 * Look how the session stands, and do what follows from it: this also makes up for a lost room, and
 * follows the session into the room of LiveAvatar's next one.
 */
async function look() {
  let moved = false;
  try {
    const standing = await ask("GET");
    become(standing.state);
    moved = standing.generation > generation;
  } catch (error) {
    if (error.status !== 404) return complain(error);
    become("none");
  }
  if (state === "LIVE" && (room.link === "none" || moved)) await attempt(join);
  if (OVER.has(state) || state === "none") {
    generation = 0; // the next session begins to count anew
    await room.leave();
  }
}

function note(text, told) {
  const line = document.createElement("li");
  const what = document.createElement("small");
  what.textContent = told;
  line.append(text, what);
  byId("said").prepend(line);
  while (byId("said").children.length > MAX_LINES) byId("said").lastElementChild.remove();
  return what;
}

byId("start").addEventListener("click", () =>
  attempt(async () => {
    await ask("POST");
    generation = 0;
    become("REQUESTED");
  }),
);

byId("end").addEventListener("click", () =>
  attempt(async () => {
    become("ENDING");
    await ask("DELETE");
  }),
);

byId("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (!text) return;
  byId("text").value = "";
  const what = note(text, "…");
  void attempt(async () => {
    try {
      const { outcome, heard_ms, broke_off } = await ask("POST", "/say", { text });
      const rest = broke_off ? ", the voice broke off" : "";
      what.textContent = `${outcome}, ${(heard_ms / 1000).toFixed(1)} s heard${rest}`;
    } catch (error) {
      what.textContent = "not said";
      throw error;
    }
  });
});

byId("stop").addEventListener("click", () => attempt(() => ask("POST", "/interrupt")));
byId("sound").addEventListener("click", () => room.startSound());
room.addEventListener("change", () => {
  byId("sound").hidden = !room.soundBlocked;
});
addEventListener("pagehide", () => void room.leave());

async function watch() {
  await look();
  setTimeout(watch, STATUS_INTERVAL_MS);
}
become("none");
void watch();
