"""Commands of our pages, run as they are printed. `make test` runs them with smaller amounts, `.ci/run` as printed."""

from __future__ import annotations

import os
from collections.abc import Mapping

AS_PRINTED = bool(os.environ.get("FLAWFORGE_AS_PRINTED"))


def smaller(text: str, amounts: Mapping[str, str]) -> str:
    """The text with each phrase that it prints replaced by one that costs less, unless FLAWFORGE_AS_PRINTED is set.

    Every key must be in the text, so that a page that changes is noticed.
    """
    for shown, less in amounts.items():
        assert shown in text, f"the page no longer prints {shown!r}"
        text = text if AS_PRINTED else text.replace(shown, less)
    return text
