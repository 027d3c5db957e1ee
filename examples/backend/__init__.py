"""A backend with a voice agent's part: sessions for callers, a page to watch, texts to be said.

    python -m examples.backend        then open http://127.0.0.1:8000/

    page ── POST /api/session ───────────▶ AvatarSessions.start        one session a caller
    page ── POST /api/session/access ────▶ Session.attach              waits until it is live
    page ── POST /api/session/say ───────▶ voice ─▶ one LiveSpeech a session, kept open, shared
    page ── POST /api/session/interrupt ─▶ the same LiveSpeech         cuts what is being said
    page ── GET, DELETE /api/session ────▶ Session.status, Session.end

What it leaves out, and you must not: **a login**. A cookie tells one browser from another, and
whoever reaches the port may start sessions, which cost money. Put your own login into
`caller.caller_of`, limit what one account may start, and serve it over TLS. It listens on loopback
until you say otherwise. It also leaves out a language model: what is said is what was typed.

Several processes of it may serve the same callers: nothing here has to be remembered. Each has a
connection of its own to a session it speaks for; the avatar has one mouth, and says it in turn.
"""
