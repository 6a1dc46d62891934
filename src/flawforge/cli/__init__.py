"""The command line: parse, call the library, print."""

from flawforge.cli.app import main

__all__ = ["main"]
