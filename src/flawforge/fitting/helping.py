"""`python -m flawforge.fitting.helping`: a further process of a fit on several devices, started by `fitting.devices`.

Standard input: one line of JSON (place, request, resume); its end means that the first process is gone. Standard output:
"ready". Standard error: why it stopped, in one sentence.
"""

from __future__ import annotations

import json
import os
import sys
import threading

from flawforge.fitting.devices import READY, Place
from flawforge.fitting.pipeline import take_part
from flawforge.fitting.planning import request_from
from flawforge.types import FlawforgeError


def main() -> int:
    """Plan as the first process did, then learn along; 0 when all is learnt, 1 with a sentence."""
    task = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_watch, daemon=True).start()
    try:
        take_part(request_from(task["request"]), Place(**task["place"]), task["resume"], lambda: print(READY, flush=True))
    except FlawforgeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _watch() -> None:
    """End with the first process, whatever this one waits for."""
    os.read(sys.stdin.fileno(), 1)  # not by way of sys.stdin, whose lock must be free when Python ends
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
