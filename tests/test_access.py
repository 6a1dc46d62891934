"""Who may ask: token files as random lines, roles as an order, and loopback as the standard library has it."""

from __future__ import annotations

import ipaddress
import string
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flawforge.serve.access import ROLES, SHORTEST, VARIABLE, Person, Tokens, check_host, is_loopback, read_tokens
from flawforge.types import ConfigError

NAMES = st.text(string.ascii_letters + "äöüß.-_", min_size=1, max_size=12)
SECRETS = st.text(string.ascii_letters + string.digits + "+/=_-§é", min_size=SHORTEST, max_size=40)
PEOPLE = st.lists(st.tuples(st.sampled_from(ROLES), NAMES, SECRETS), min_size=1, max_size=6, unique_by=lambda row: row[2])
SPACE = st.text(" \t", min_size=1, max_size=3)


def tokens_of(text: str) -> Tokens:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokens"
        file.write_bytes(text.encode())
        return read_tokens(file, {})


@settings(max_examples=50, deadline=None)
@given(people=PEOPLE, space=SPACE, end=st.sampled_from(["\n", "\r\n"]), mark=st.sampled_from(["", "\ufeff"]), data=st.data())
def test_every_token_of_a_file_is_its_persons_and_no_other_is(
    people: list[tuple[str, str, str]], space: str, end: str, mark: str, data: st.DataObject
) -> None:
    """Between comments and empty lines, with either end of a line, also as a Windows editor saves UTF-8."""
    lines = [space.join(row) for row in people]
    for extra in ("# a comment", "", "   ", "  # another"):
        lines.insert(data.draw(st.integers(0, len(lines))), extra)
    text = mark + end.join(lines)
    for tokens in (tokens_of(text), read_tokens(None, {VARIABLE: text.removeprefix("\ufeff")})):
        assert [tokens.person(secret) for _, _, secret in people] == [Person(name, role) for role, name, _ in people]
        for _, _, secret in people:
            for other in (secret[:-1], secret + "x", secret.swapcase(), "", " " + secret):
                if other not in {known for _, _, known in people}:
                    assert tokens.person(other) is None
            assert secret not in repr(tokens)


@settings(max_examples=40, deadline=None)
@given(people=PEOPLE, data=st.data())
def test_one_bad_line_refuses_the_file_by_its_number(people: list[tuple[str, str, str]], data: st.DataObject) -> None:
    role, name, secret = people[0]
    bad = data.draw(st.sampled_from([f"{role} {name}", f"{role} {name} {secret} more", f"root {name} {secret}x", secret]))
    place = data.draw(st.integers(0, len(people)))
    lines = [" ".join(row) for row in people]
    lines.insert(place, bad)
    with pytest.raises(
        ConfigError, match=rf"^Line {place + 1} of .* is not of the form that is needed: each line is ROLE"
    ) as error:
        tokens_of("\n".join(lines))
    assert secret not in str(error.value)


@pytest.mark.parametrize("length", [1, SHORTEST - 1])
def test_a_short_token_is_refused_without_being_shown(length: int) -> None:
    with pytest.raises(ConfigError, match=f"The token of anna in .* has {length} characters, at least {SHORTEST}") as error:
        tokens_of(f"admin anna {'§' * length}")
    assert "§" not in str(error.value)
    tokens_of(f"admin anna {'§' * SHORTEST}")


def test_a_token_in_two_lines_is_refused_whoever_has_it() -> None:
    line = f"operator anna {'x' * SHORTEST}"
    with pytest.raises(ConfigError, match=r"The token of bert in .* is there twice; give everybody"):
        tokens_of(f"{line}\nadmin bert {'x' * SHORTEST}")


def test_what_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_bytes(b"operator anna \xff\xfe")
    with pytest.raises(ConfigError, match=r"The token file .* cannot be read \(.*utf-8.*\); each line is ROLE NAME TOKEN"):
        read_tokens(tmp_path / "tokens", {})


def test_roles_are_an_order() -> None:
    people = [Person("x", role) for role in ROLES]
    assert [[person.may(role) for role in ROLES] for person in people] == [[True, False], [True, True]]


@given(st.ip_addresses())
def test_an_address_is_loopback_as_the_standard_library_has_it(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    own = address.is_loopback
    assert is_loopback(str(address)) == own
    assert is_loopback(f"[{address}]") == own


@given(st.ip_addresses(v=4, network="127.0.0.0/8"), st.text(string.printable, max_size=20))
def test_only_this_machine_is_let_in_without_tokens(address: ipaddress.IPv4Address, name: str) -> None:
    check_host(str(address), Tokens())
    assume(name != "localhost" and not is_loopback(name))
    with pytest.raises(ConfigError, match="lets other machines in"):
        check_host(name, Tokens())
    check_host(name, Tokens(((b"", Person("anna", "operator")),)))
