"""The web page. Mounted last, so that /v1 is never hidden."""

from __future__ import annotations

from fastapi import FastAPI


def mount(app: FastAPI) -> None:
    """Add the page's routes; `app.state.service` holds what they need."""
