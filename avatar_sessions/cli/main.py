"""The command line ``avatar-sessions``: what the client can do, for people and scripts.

Reads its words and leaves with an exit code; what the verbs do is in ``cli_commands``. It never
shows a traceback, nor a token that was not asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from avatar_sessions.contract.states import Pose, SessionState

USAGE: Final = 2
STOPPED: Final = 130
EPILOG: Final = """\
exit codes:
  0    done
  1    the session failed, the utterance was not spoken to its end, or the janitor could not
       see everything or end what it should
  2    wrong usage
  3    there is no such session, or it is over
  4    Temporal or its workers cannot be reached, or did not answer in time
  5    the session refused the command, it expired, or access could not be opened
  130  Ctrl-C (what was asked of the session goes on)

environment:
  TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_CONFIG_FILE, ...
                             Temporal's standard environment configuration
  AVATAR_SESSIONS_SEAL_KEYS  opens access tokens: needed by attach
  AVATAR_SESSIONS_TASK_QUEUE default avatar-sessions
"""


def main() -> NoReturn:
    """Run the command line and leave."""
    try:
        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = STOPPED
    with contextlib.suppress(BrokenPipeError):  # the reader has seen enough
        sys.stdout.flush()
        sys.stderr.flush()
    # Not sys.exit: the Temporal SDK's threads can abort an interpreter that finalizes right
    # after its last call ("PyGILState_Release ... finalizing", exit status 134).
    os._exit(status)


def run(words: Sequence[str]) -> int:
    """Run one command, and say how it went."""
    try:
        arguments = _parser().parse_args(words)
    except SystemExit as leaving:  # argparse has said why
        return USAGE if leaving.code else 0
    # Not at the top: help and usage errors need no SDK. A Ctrl-C while it loads leaves at once:
    # raised there, it comes out as other errors (pydantic makes a SchemaError of it).
    interrupted = signal.signal(signal.SIGINT, lambda *_: os._exit(STOPPED))
    from avatar_sessions.cli.commands import run_verb

    signal.signal(signal.SIGINT, interrupted)
    return run_verb(arguments)


# ------------------------------------------------------------------- words


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="avatar-sessions",
        description="Durable LiveAvatar sessions: start, command, watch and end them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of text")
    # The same word after the verb; suppressed there, so that it does not undo the one before.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="JSON instead of text"
    )
    keyed = argparse.ArgumentParser(add_help=False, parents=[common])
    keyed.add_argument("key", metavar="KEY", help="the session's key")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, explanation: str, *, has_key: bool = True) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=explanation,
            description=f"{explanation[0].upper()}{explanation[1:]}.",
            parents=[keyed if has_key else common],
        )

    _start_words(verb("start", "start a session, or find the one that runs under this key"))
    attach = verb("attach", "wait until the avatar is live, and get access to its room")
    attach.add_argument("--identity", help="this viewer's name, in a room of our own")
    _token_words(attach)
    _speak_words(verb("speak", "say a clip, after everything asked before; waits until it is over"))
    verb("interrupt", "fall silent now")
    pose = verb("pose", "look attentive, or idle")
    pose.add_argument("pose", choices=[one.value for one in Pose])
    verb("keep-alive", "restart the idle clocks")
    end = verb("end", "end the session, wait for its cleanup, show its report")
    end.add_argument(
        "--finish-speaking", action="store_true", help="let what was asked before be heard first"
    )
    verb("status", "show where the session stands")
    listing = verb("list", "list the sessions that run", has_key=False)
    listing.add_argument(
        "--state", choices=[one.value for one in SessionState], help="only these; also ended ones"
    )
    listing.add_argument("--tenant", help="only this tenant's")
    watch = verb("watch", "show every change of the session's status until it has ended")
    watch.add_argument("--every-s", type=_positive, default=1.0, help="seconds between questions")
    verb("report", "wait for the session's end, and show its report")
    janitor = verb(
        "janitor",
        "make one round of the janitor now: end what nobody lives in, show what was found",
        has_key=False,
    )
    janitor.add_argument("--dry-run", action="store_true", help="end nothing, only tell")
    janitor.add_argument(
        "--wait-s", type=_positive, default=90.0, metavar="S", help="for its finding; default 90"
    )
    verb("new-seal-key", "make a key for AVATAR_SESSIONS_SEAL_KEYS", has_key=False)
    return parser


def _start_words(start: argparse.ArgumentParser) -> None:
    start.add_argument("--avatar-id", required=True, metavar="UUID")
    start.add_argument("--sandbox", action="store_true", help="free, about a minute, avatar Wayne")
    start.add_argument("--max-duration-s", type=int, metavar="S", help="the session's own limit")
    start.add_argument("--idle-timeout-s", type=_positive, metavar="S", help="default 300")
    start.add_argument("--start-timeout-s", type=_positive, metavar="S", help="default 60")
    start.add_argument("--command-ttl-s", type=_positive, metavar="S", help="default 30")
    start.add_argument("--quality", choices=["very_high", "high", "medium", "low"])
    start.add_argument("--tenant", help="whose session it is: `list --tenant` finds it")
    start.add_argument(
        "--own-room",
        nargs="?",
        const="",
        metavar="NAME",
        help="a room on the workers' LiveKit server (write --own-room=NAME, or put KEY first)",
    )
    start.add_argument(
        "--say", metavar="FILE|URL", help="a clip that goes with the start: a greeting"
    )
    start.add_argument("--attach", action="store_true", help="wait until live, show the access")
    _token_words(start)


def _speak_words(speak: argparse.ArgumentParser) -> None:
    source = speak.add_mutually_exclusive_group(required=True)
    source.add_argument("--url", help="http or https; stands in history unless sealed")
    source.add_argument("--file", help="path inside the workers' clip folder")
    speak.add_argument("--seal", action="store_true", help="keep the --url out of history")
    speak.add_argument("--no-wait", action="store_true", help="return once it is asked for")
    speak.add_argument("--command-id", metavar="ID", help="repeats under one id are one utterance")
    speak.add_argument("--ttl-s", type=_positive, metavar="S", help="how long it may wait")


def _token_words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--show-tokens", action="store_true", help="show the LiveKit tokens (--json always does)"
    )


def _positive(word: str) -> float:
    number = float(word)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("must be more than zero")
    return number


if __name__ == "__main__":
    main()
