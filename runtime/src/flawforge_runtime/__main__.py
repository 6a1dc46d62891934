"""`python -m flawforge_runtime EXPORT PICTURE...`: judge pictures, one JSON line each, on a box without torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from flawforge_runtime import __version__
from flawforge_runtime.types import Decision, FlawforgeError


def main(arguments: Sequence[str] | None = None) -> int:
    """0 all judged; 1 a stated error, or a file that could not be judged."""
    options = _parser().parse_args(arguments)
    failed = 0
    try:
        from flawforge_runtime.backends import load
        from flawforge_runtime.feed import row
        from flawforge_runtime.inspector import inspect_paths

        inspector = load(options.model, threads=options.threads, precision=options.precision)
        for result in inspect_paths(inspector, _paths(options)):
            if isinstance(result, Decision):
                print(json.dumps(row(result, inspector.about["model_id"])), flush=True)
            else:
                failed += 1
                print(json.dumps({"image_path": str(result[0]), "error": result[1]}), flush=True)
    except FlawforgeError as error:
        print(f"flawforge-runtime: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1 if failed else 0
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    about = "Judge pictures with an exported flawforge model: one JSON line each. A higher score is stranger."
    parser = argparse.ArgumentParser(prog="flawforge-runtime", description=about)
    parser.add_argument("model", type=Path, help="folder that `flawforge export` wrote")
    parser.add_argument("paths", nargs="*", type=Path, help="pictures or folders; - reads paths from standard input")
    parser.add_argument("--watch", type=Path, help="judge pictures as they come to lie in this folder, until Ctrl-C")
    parser.add_argument("--threads", type=int, help="threads of the network, at most the cores [default: all]")
    parser.add_argument("--precision", default="float32", help="float32, or bfloat16 with OpenVINO [default: float32]")
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def _paths(options: argparse.Namespace) -> Iterator[Path]:
    from flawforge_runtime.feed import piped, spread_out, watched

    for path in options.paths:
        yield from piped(sys.stdin) if str(path) == "-" else spread_out([path])
    if options.watch is not None:
        yield from watched(options.watch)


if __name__ == "__main__":
    sys.exit(main())
