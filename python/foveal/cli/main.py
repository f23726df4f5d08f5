"""Entry of the command: picks the command, turns errors into messages and exit statuses."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable

from ..errors import Error
from . import flags
from .bench import bench
from .calibrate import calibrate
from .chat import chat
from .convert import convert
from .demo import demo
from .evaluate import evaluate
from .info import info
from .plan import plan
from .quantize import quantize
from .run import run

COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "chat": chat,
    "info": info,
    "bench": bench,
    "calibrate": calibrate,
    "convert": convert,
    "demo": demo,
    "evaluate": evaluate,
    "plan": plan,
    "quantize": quantize,
}


def main(argv: list[str] | None = None) -> int:
    """Runs `foveal` with `argv` (sys.argv without it) and returns the exit status."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")
    if hasattr(signal, "SIGPIPE") and argv is None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `foveal ... | head -1` ends quietly
    try:
        command, options = flags.parse(sys.argv[1:] if argv is None else argv)
        status = COMMANDS[command](options)
        sys.stdout.flush()
        return status
    except Error as e:
        print(f"foveal: {e}", file=sys.stderr)
        return e.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes at its end
        return 1
    except OSError as e:
        print(f"foveal: standard output: {e.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
