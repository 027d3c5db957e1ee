"""The command line ``avatar-sessions``: the client for people and scripts.

This module parses the arguments and exits with a code; :mod:`avatar_sessions.cli.commands` runs the
verbs. The command line never shows a traceback, nor a token that was not requested.
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
  1    the session failed, the utterance was not played to its end, or the janitor could not
       check everything or end what it should
  2    wrong usage
  3    there is no such session, or it is over
  4    Temporal or its workers cannot be reached, or did not answer in time
  5    the session refused the command, it expired, or access could not be opened
  130  Ctrl-C (what was requested of the session continues)

environment:
  TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_CONFIG_FILE, ...
                             Temporal's standard environment configuration
  AVATAR_SESSIONS_SEAL_KEYS  opens access tokens: needed by attach
  AVATAR_SESSIONS_TASK_QUEUE the workers' task queue; default avatar-sessions
  A misspelt AVATAR_SESSIONS_ variable is named on standard error.
"""


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = STOPPED
    with contextlib.suppress(BrokenPipeError):  # the reader has closed the pipe
        sys.stdout.flush()
        sys.stderr.flush()
    # Not sys.exit: the Temporal SDK's threads can abort an interpreter that finalizes right
    # after its last call ("PyGILState_Release ... finalizing", exit status 134).
    os._exit(status)


def run(argv: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as exiting:  # argparse has printed why
        return USAGE if exiting.code else 0
    # Not at the top: help and usage errors need no SDK. A Ctrl-C while it loads exits immediately:
    # KeyboardInterrupt in an import comes out as other errors (pydantic makes a SchemaError of it).
    interrupted = signal.signal(signal.SIGINT, lambda *_: os._exit(STOPPED))
    from avatar_sessions.cli.commands import run_verb

    signal.signal(signal.SIGINT, interrupted)
    return run_verb(arguments)


# ---------------------------------------------------------------- arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="avatar-sessions",
        description="Durable LiveAvatar sessions: start, command, watch and end them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_ShowVersion, help="show the installed version")
    parser.add_argument("--json", action="store_true", help="JSON instead of text")
    # Also after the verb; suppressed there, so that its default does not undo one before the verb.
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

    _add_start(verb("start", "start a session, or find the one that runs under this key"))
    attach = verb("attach", "wait until the avatar is live, and get access to its room")
    attach.add_argument("--identity", help="this viewer's identity in an own room")
    _add_show_tokens(attach)
    _add_speak(verb("speak", "play a clip after all speech before it, and wait until it is over"))
    verb("interrupt", "stop speaking now")
    pose = verb("pose", "set what the avatar does while it is silent")
    pose.add_argument("pose", choices=[one.value for one in Pose])
    verb("keep-alive", "restart the idle timeouts")
    end = verb("end", "end the session, wait for its cleanup, show its report")
    end.add_argument(
        "--finish-speaking",
        action="store_true",
        help="play the speech requested before to its end first",
    )
    verb("status", "show the session's status")
    _add_list(verb("list", "list the running sessions", has_key=False))
    watch = verb("watch", "show every change of the session's status until it has ended")
    watch.add_argument("--every-s", type=_positive, default=1.0, help="seconds between two queries")
    verb("report", "wait until the session has ended, and show its report")
    _add_janitor(
        verb(
            "janitor",
            "run one round of the janitor now: end sessions and rooms whose workflow has closed",
            has_key=False,
        )
    )
    verb("new-seal-key", "make a key for AVATAR_SESSIONS_SEAL_KEYS", has_key=False)
    return parser


def _add_start(start: argparse.ArgumentParser) -> None:
    start.add_argument("--avatar-id", required=True, metavar="UUID")
    start.add_argument("--sandbox", action="store_true", help="free, about a minute, avatar Wayne")
    start.add_argument("--max-duration-s", type=int, metavar="S", help="the session's own limit")
    start.add_argument("--idle-timeout-s", type=_positive, metavar="S", help="default 300")
    start.add_argument("--start-timeout-s", type=_positive, metavar="S", help="default 60")
    start.add_argument("--command-ttl-s", type=_positive, metavar="S", help="default 30")
    start.add_argument("--quality", choices=["very_high", "high", "medium", "low"])
    start.add_argument("--tenant", help="the session's tenant: `list --tenant` finds it")
    start.add_argument(
        "--own-room",
        nargs="?",
        const="",
        metavar="NAME",
        help="use a room on the workers' LiveKit server (write --own-room=NAME, or put KEY first)",
    )
    start.add_argument(
        "--say", metavar="FILE|URL", help="a clip that is sent with the start, such as a greeting"
    )
    start.add_argument(
        "--attach", action="store_true", help="wait until the avatar is live, and show the access"
    )
    _add_show_tokens(start)


def _add_speak(speak: argparse.ArgumentParser) -> None:
    source = speak.add_mutually_exclusive_group(required=True)
    source.add_argument("--url", help="http or https; workflow history shows it without --seal")
    source.add_argument("--file", help="a path in the workers' clip folder")
    speak.add_argument("--seal", action="store_true", help="encrypt the --url in workflow history")
    speak.add_argument(
        "--no-wait", action="store_true", help="return once Temporal has the request"
    )
    speak.add_argument(
        "--command-id", metavar="ID", help="repeats with the same id are one utterance"
    )
    speak.add_argument(
        "--ttl-s", type=_positive, metavar="S", help="how long it may wait for the avatar"
    )


def _add_list(listing: argparse.ArgumentParser) -> None:
    listing.add_argument(
        "--state",
        choices=[one.value for one in SessionState],
        help="only sessions in this state, ended ones too",
    )
    listing.add_argument("--tenant", help="only this tenant's sessions")


def _add_janitor(janitor: argparse.ArgumentParser) -> None:
    janitor.add_argument(
        "--dry-run", action="store_true", help="report what would be ended, and end nothing"
    )
    janitor.add_argument(
        "--wait-s",
        type=_positive,
        default=90.0,
        metavar="S",
        help="how long to wait for the findings; default 90",
    )


def _add_show_tokens(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--show-tokens", action="store_true", help="show the LiveKit tokens (--json always does)"
    )


class _ShowVersion(argparse.Action):
    """Print the version of the installed package, and exit."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version  # slow to load, and rarely needed

        sys.stdout.write(f"{parser.prog} {version('liveavatar-sessions')}\n")
        parser.exit()


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("must be more than zero")
    return number


if __name__ == "__main__":
    main()
