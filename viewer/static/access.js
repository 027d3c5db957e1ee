// What the page asks of its server: access for a code, and the session's state. Every question is
// given up in time: whoever asks, asks again.

// A little longer than the server gives itself.
const ACCESS_TIMEOUT_MS = 30_000;
const STATUS_TIMEOUT_MS = 12_000;
const SPEECH_TIMEOUT_MS = 100_000;

/** The server will not let this page in; the text is for the person who reads the page. */
export class Refused extends Error {}

/** Not at the moment; worth another try. The text is for the person who reads the page. */
export class NotNow extends Error {}

/**
 * Access to the session of this page: `{session_key, status, can_say, livekit_url, token}`, the
 * last two null while the session is not live; `can_say`: `requestSpeech` will be answered. The
 * first call brings the code, which works once; after that the browser holds a cookie for this page.
 *
 * @param {string|null} code
 * @throws {Refused} no invitation, or one that is used or expired
 * @throws {NotNow} the server is away, or the session does not answer
 */
export async function requestAccess(code) {
  return ask("access", ACCESS_TIMEOUT_MS, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(code ? { code } : {}),
  });
}

/**
 * The session's state: `{status, next_in_s}`, the latter being when to ask again. Each answer is
 * the whole state, so that one that is lost costs nothing. A stream of events would hold one of
 * the six connections that a browser opens to a server over HTTP/1.1: six pages, and none of them
 * could ask for anything any more.
 *
 * @throws {Refused} the pass of this page is not valid any more
 * @throws {NotNow} the server is away, or the session does not answer
 */
export async function requestStatus() {
  return ask("status", STATUS_TIMEOUT_MS, {});
}

/**
 * Let the avatar say these words; returns when it has said them, or was interrupted.
 *
 * @param {string} text
 * @throws {Refused} not these words, or not from this page
 * @throws {NotNow} the server is away, or the avatar cannot speak just now
 */
export async function requestSpeech(text) {
  return ask("say", SPEECH_TIMEOUT_MS, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ text }),
  });
}

async function ask(what, timeoutMs, options) {
  let response;
  let answer;
  try {
    response = await fetch(`${location.pathname}/${what}`, {
      cache: "no-store",
      signal: AbortSignal.timeout(timeoutMs),
      ...options,
    });
    answer = await response.json(); // an answer that breaks off is none
  } catch {
    throw new NotNow("The viewer's server does not answer.");
  }
  if (response.ok) return answer;
  const message = answer.message ?? "The viewer's server could not answer.";
  throw response.status >= 500 ? new NotNow(message) : new Refused(message);
}

/** Take the one-time code out of the address, so that no bookmark or screenshot keeps it. */
export function takeCode() {
  const code = decodeURIComponent(location.hash.slice(1));
  if (code) history.replaceState(null, "", location.pathname);
  return code || null;
}
