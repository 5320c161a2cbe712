"""The command line of the local stack: `python -m hack.stack --help`.

A problem that a person can fix is reported without a traceback.
"""

import argparse
import os
import subprocess
import sys

from hack.lib.errors import HackError
from hack.stack import commands
from hack.stack.settings import Settings

CHANGING = {
    "down": commands.down,
    "destroy": commands.destroy,
    "install": commands.install,
    "servers": commands.servers,
}
SIMPLE = {
    "ps": commands.processes,
    "logs": commands.follow_logs,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hack.stack", description="dtq's local stack.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    up = verbs.add_parser("up", help=commands.up.__doc__)
    up.add_argument(
        "--provider",
        choices=("native", "compose"),
        default="",
        help="where the servers come from; by default containers where they work, else packages",
    )
    for name, action in {**CHANGING, **SIMPLE}.items():
        verbs.add_parser(name, help=action.__doc__)
    for name, text in (("dtq", commands.run_dtq.__doc__), ("db-shell", commands.database_shell.__doc__)):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on as they are")
    return parser


def main() -> int:
    """Run one command; the exit code is 1 after a reported failure."""
    given = _parser().parse_args()
    try:
        settings = Settings.load(os.environ, forgiving=given.verb == "destroy")
        match given.verb:
            case "up":
                with settings.lock():
                    commands.up(settings, given.provider)
            case "dtq":
                commands.run_dtq(settings, given.arguments)
            case "db-shell":
                commands.database_shell(settings, given.arguments)
            case verb if verb in CHANGING:
                with settings.lock():
                    CHANGING[verb](settings)
            case verb:
                SIMPLE[verb](settings)
    except HackError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"\nThe system refused: {error}.", file=sys.stderr)
        print(
            "Fix: free the disk or the rights that it names (was the stack started as another user?); "
            "`make destroy` starts over.",
            file=sys.stderr,
        )
        return 1
    except subprocess.TimeoutExpired as error:
        print(f"\n`{' '.join(map(str, error.cmd))}` did not end in {error.timeout:g} s.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The processes that were started keep running: `make down` stops them.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
