"""Who may ask: bearer tokens from a file or the environment, with a name and a role each."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flawforge.types import ConfigError

ROLES = ("operator", "admin")  # the second may do all that the first may
SHORTEST = 16  # characters of a token
VARIABLE = "FLAWFORGE_TOKENS"
FORM = "each line is ROLE NAME TOKEN, with operator or admin as the role"


@dataclass(frozen=True)
class Person:
    """Who asks: the name that reviews are signed with, and one of ROLES."""

    name: str
    role: str

    def may(self, role: str) -> bool:
        """Whether the own role is this one or above it."""
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True)
class Tokens:
    """The SHA-256 of every token, and whose it is; empty = nobody is asked who they are, on loopback alone."""

    known: tuple[tuple[bytes, Person], ...] = ()

    def person(self, token: str) -> Person | None:
        """Whose token this is; None = nobody's. Takes the same time whichever token was tried."""
        digest, found = _digest(token), None
        for known, person in self.known:
            if hmac.compare_digest(digest, known):
                found = person
        return found


NOBODY_ASKED = Person("local", "admin")  # where there are no tokens


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def read_tokens(file: Path | None, environment: Mapping[str, str]) -> Tokens:
    """Tokens of a file, or of the lines in FLAWFORGE_TOKENS where no file is given.

    Raises ConfigError for a file that cannot be read, a line of another form, a short token, one that is there twice.
    """
    where = str(file) if file is not None else VARIABLE
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The token file {file} cannot be read ({error}); {FORM}.") from None
    else:
        text = environment.get(VARIABLE, "")
    known: dict[bytes, Person] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3 or words[0] not in ROLES:
            raise ConfigError(f"Line {number} of {where} is not of the form that is needed: {FORM}.")
        role, name, token = words
        if len(token) < SHORTEST:
            raise ConfigError(
                f"The token of {name} in {where} has {len(token)} characters, at least {SHORTEST} are needed; make one "
                "with: openssl rand -hex 24"
            )
        if _digest(token) in known:
            raise ConfigError(f"The token of {name} in {where} is there twice; give everybody a token of their own.")
        known[_digest(token)] = Person(name, role)
    if file is not None and not known:
        raise ConfigError(f"The token file {file} holds no token; {FORM}.")
    return Tokens(tuple(known.items()))


def check_host(host: str, tokens: Tokens) -> None:
    """Raises ConfigError where others could reach the service and nobody would be asked who they are."""
    if not tokens.known and not is_loopback(host):
        raise ConfigError(
            f"--host {host} lets other machines in, and there are no tokens; give --token-file FILE, or leave --host at "
            "127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address that is bound or asked for."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
