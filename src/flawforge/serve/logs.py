"""Logs as JSON, one object per line on standard error, with the request's id."""

from __future__ import annotations

import datetime
import json
import logging
import sys
import traceback
from contextvars import ContextVar
from typing import Any

LOGGER = logging.getLogger("flawforge.serve")
REQUEST: ContextVar[str] = ContextVar("request", default="")


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        facts |= {"request_id": REQUEST.get()} if REQUEST.get() else {}
        facts |= getattr(record, "facts", {})
        if record.exc_info:
            facts["traceback"] = "".join(traceback.format_exception(*record.exc_info))[-4000:]
        return json.dumps(facts, default=str)


def log(event: str, level: int = logging.INFO, *, error: BaseException | None = None, **facts: Any) -> None:
    """One line: what happened, and facts on it. Nothing that a client sent stands outside a JSON string."""
    LOGGER.log(level, "%s", event, exc_info=error, extra={"facts": facts})


def to_standard_error() -> None:
    """Write the service's lines, and uvicorn's warnings, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for name, level in (("flawforge.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
