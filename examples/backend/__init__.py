"""A backend that runs sessions for its callers, and has their avatars speak texts.

    python -m examples.backend        then open http://127.0.0.1:8000/

    page ── POST /api/session ───────────▶ AvatarSessions.start        one session per caller
    page ── POST /api/session/access ────▶ Session.attach              waits until it is live
    page ── POST /api/session/say ───────▶ voice ─▶ one LiveSpeech per session, kept open, shared
    page ── POST /api/session/interrupt ─▶ the same LiveSpeech         interrupts the speech
    page ── GET, DELETE /api/session ────▶ Session.status, Session.end

It has **no login**, and yours needs one. A cookie identifies the browser, and every client that
reaches the port can start sessions, which cost money. Put your login into `caller.caller_of`, limit
what one account may start, and serve it over TLS. It listens on loopback by default. It also has no
language model: the avatar speaks the text that was typed.

Several processes can serve the same callers, because none keeps state. Each has its own connection
to a session that it speaks for; the owner plays their utterances one at a time.
"""
