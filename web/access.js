// What the page asks of its server: access for a code, and the session's state as it changes.

/** The server will not let this page in; the text is for the person who reads the page. */
export class Refused extends Error {}

/** Not at the moment; worth another try. The text is for the person who reads the page. */
export class NotNow extends Error {}

/**
 * Access to the session of this page: `{session_key, status, livekit_url, token}`, the last two
 * null while the session is not live. The first call brings the code, which works once; after
 * that the browser holds a cookie for this page.
 *
 * @param {string|null} code
 * @throws {Refused} no invitation, or one that is used or expired
 * @throws {NotNow} the server is away, or the session does not answer
 */
export async function requestAccess(code) {
  let response;
  try {
    response = await fetch(`${location.pathname}/access`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(code ? { code } : {}),
      cache: "no-store",
    });
  } catch {
    throw new NotNow("The viewer's server does not answer.");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const message = answer.message ?? "The viewer's server could not answer.";
  throw response.status >= 500 ? new NotNow(message) : new Refused(message);
}

/**
 * Follow the session's state until its end.
 *
 * @param {(status: object) => void} onStatus each change, the present state first
 * @param {(problem: string|null) => void} onProblem why there is no news at the moment; null: there is
 * @returns {() => void} stops following
 */
export function followStatus(onStatus, onProblem) {
  const source = new EventSource(`${location.pathname}/events`);
  source.addEventListener("status", (event) => {
    const status = JSON.parse(event.data);
    if (["ENDED", "FAILED"].includes(status.state)) source.close(); // or it would reconnect
    onProblem(null);
    onStatus(status);
  });
  source.addEventListener("trouble", (event) => onProblem(JSON.parse(event.data).message));
  source.addEventListener("error", () => onProblem("The viewer's server does not answer."));
  return () => source.close();
}

/** Take the one-time code out of the address, so that no bookmark or screenshot keeps it. */
export function takeCode() {
  const code = decodeURIComponent(location.hash.slice(1));
  if (code) history.replaceState(null, "", location.pathname);
  return code || null;
}
