"""`python -m flawforge_runtime EXPORT PICTURE...`: judge pictures, one JSON line each, on a box without torch."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from flawforge_runtime import __version__
from flawforge_runtime.names import shown
from flawforge_runtime.types import FlawforgeError

NG_FOUND = 3  # exit code, as that of `flawforge inspect`


def main(arguments: Sequence[str] | None = None) -> int:
    """0 all judged; 1 a stated error, or a file or folder that could not be judged; 3 a reject, with --fail-on."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # as in flawforge: what matters is in `notes`
            return _judge(options)
    except FlawforgeError as error:
        _say(f"flawforge-runtime: {error}")
    except KeyboardInterrupt:
        _say("flawforge-runtime: Interrupted before the first picture.")
    except BrokenPipeError:  # the reader has seen enough, as `head` does; Python would say so once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _say(f"flawforge-runtime: {error.strerror or error}{f' at {error.filename}' if error.filename else ''}.")
    return 1


def _judge(options: argparse.Namespace) -> int:
    from flawforge_runtime.backends import load
    from flawforge_runtime.feed import Source, Tally, inspect_paths, row_of

    inspector = load(options.model, threads=options.threads, precision=options.precision)
    source = Source(options.paths, options.watch, sys.stdin, _say)
    tally = Tally()
    try:
        for result in inspect_paths(inspector, source):
            row = row_of(result, inspector.about["model_id"])
            print(json.dumps(row, allow_nan=False), flush=True)
            tally.add(row)
    except KeyboardInterrupt:
        if not source.watching:
            _say(f"flawforge-runtime: Interrupted; the rows so far are printed: {tally}.")
            return 1
        _say(f"The watch has ended: {tally}.")
    if tally.skipped or source.missed:
        return 1
    fails = {"ng": ("NG",), "review": ("NG", "REVIEW")}.get(options.fail_on, ())
    return NG_FOUND if any(tally.verdicts[verdict] for verdict in fails) else 0


def _say(sentence: str) -> None:
    with suppress(BrokenPipeError):
        print(shown(sentence), file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    about = "Judge pictures with an exported flawforge model: one JSON line each. A higher score is more anomalous."
    parser = argparse.ArgumentParser(prog="flawforge-runtime", description=about)
    parser.add_argument("model", type=Path, help="folder that `flawforge export` wrote")
    parser.add_argument(
        "paths", nargs="*", type=Path, help="pictures, or folders with all below; - reads paths from standard input"
    )
    parser.add_argument("--watch", type=Path, help="watch this folder and judge each new picture, until Ctrl-C")
    parser.add_argument("--threads", type=int, help="threads of the network, at most the cores [default: all]")
    parser.add_argument("--precision", default="float32", help="float32, or bfloat16 with OpenVINO [default: float32]")
    parser.add_argument(
        "--fail-on", choices=["ng", "review"], help="end with exit code 3 where a picture is NG (review: NG or REVIEW)"
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser


if __name__ == "__main__":
    sys.exit(main())
