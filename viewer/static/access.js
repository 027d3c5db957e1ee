// The page's requests to its server: access for a code, the session's status, text to speak. Every
// request has a timeout; callers retry.

// A little longer than the server's own timeouts.
const ACCESS_TIMEOUT_MS = 30_000;
const STATUS_TIMEOUT_MS = 12_000;
const SPEECH_TIMEOUT_MS = 100_000;

/** The server denies access to this page. The message is for the viewer. */
export class Refused extends Error {}

/** The server or the session does not answer now; retry. The message is for the viewer. */
export class Unavailable extends Error {}

/**
 * Access to this page's session: `{session_key, status, can_say, livekit_url, token, generation}`.
 * The last three are null while the session is not live; `can_say`: `requestSpeech` is available.
 * The first call redeems the code, which works once; after that the browser has a cookie.
 *
 * @param {string|null} code
 * @throws {Refused} no invitation, or one that is redeemed or expired
 * @throws {Unavailable} the server is unreachable, or the session does not answer
 */
export async function requestAccess(code) {
  return request("access", ACCESS_TIMEOUT_MS, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(code ? { code } : {}),
  });
}

/**
 * The session's state: `{status, next_in_s}`; poll again after `next_in_s`. Each response is the
 * whole state, so a lost one costs nothing. A stream of events would occupy one of the six
 * connections that a browser opens to a server over HTTP/1.1, and six pages would occupy all.
 *
 * @throws {Refused} this page's pass is no longer valid
 * @throws {Unavailable} the server is unreachable, or the session does not answer
 */
export async function requestStatus() {
  return request("status", STATUS_TIMEOUT_MS, {});
}

/**
 * Have the avatar speak a text; resolves when playback has completed or was interrupted.
 *
 * @param {string} text
 * @throws {Refused} the text is not accepted, or not from this page
 * @throws {Unavailable} the server is unreachable, or the avatar cannot speak now
 */
export async function requestSpeech(text) {
  return request("say", SPEECH_TIMEOUT_MS, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ text }),
  });
}

async function request(route, timeoutMs, options) {
  let response;
  let answer;
  try {
    response = await fetch(`${location.pathname}/${route}`, {
      cache: "no-store",
      signal: AbortSignal.timeout(timeoutMs),
      ...options,
    });
    answer = await response.json(); // a truncated response is a failure
  } catch {
    throw new Unavailable("The viewer's server does not answer.");
  }
  if (response.ok) return answer;
  const message = answer.message ?? "The viewer's server could not answer.";
  throw response.status >= 500 ? new Unavailable(message) : new Refused(message);
}

/** Remove the one-time code from the address, so that no bookmark or screenshot keeps it. */
export function takeCode() {
  const code = decodeURIComponent(location.hash.slice(1));
  if (code) history.replaceState(null, "", location.pathname);
  return code || null;
}
