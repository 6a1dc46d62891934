"""The dependency of every route that asks who is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from flawforge.serve.access import NOBODY_ASKED, Person
from flawforge.serve.gate import Refused
from flawforge.serve.service import Service
from flawforge_runtime.names import shown

COOKIE = "flawforge_session"
BEARER = HTTPBearer(auto_error=False, description="A token of the token file. Without tokens, on loopback, leave it out.")


def service_of(request: Request) -> Service:
    """The running service."""
    service: Service = request.app.state.service
    return service


def person_of(request: Request, token: HTTPAuthorizationCredentials | None) -> Person:
    """Who asks, by token or session. Raises Refused 401."""
    service = service_of(request)
    person: Person | None = None
    if not service.tokens.known:
        person = NOBODY_ASKED
    elif token is not None:
        person = service.tokens.person(token.credentials)
    elif COOKIE in request.cookies:
        person = service.sessions.person(request.cookies[COOKIE])
    if person is None:
        sentence = "No token was given that this service knows; send Authorization: Bearer TOKEN."
        raise Refused(401, sentence, headers={"WWW-Authenticate": "Bearer"})
    request.state.who = person.name
    return person


def begin_session(request: Request, response: Response, service: Service, person: Person) -> None:
    """Give the page a cookie that no script can read and that no other site's page can send."""
    name = service.sessions.begin(person)
    response.set_cookie(
        COOKIE, name, httponly=True, samesite="strict", secure=request.url.scheme == "https", max_age=12 * 3600
    )


def _check_parameters(request: Request) -> None:
    """Raises Refused 422 for a parameter that the route does not have: misspelt, a filter would let everything through.

    Routes that are not in /openapi.json, those of the web page, are left alone.
    """
    path = request.app.openapi()["paths"].get(request.scope["route"].path)
    if path is None or not request.query_params:
        return
    taken = path[request.method.lower()].get("parameters", ())
    allowed = [each["name"] for each in taken if each["in"] == "query"]
    for name in request.query_params:
        if name not in allowed:
            which = f"allowed are {', '.join(allowed)}" if allowed else "this address takes none"
            raise Refused(422, f"The parameter {shown(name)[:80]} is unknown; {which}.")


def _needs(role: str) -> Callable[..., Person]:
    def check(request: Request, token: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> Person:
        person = person_of(request, token)
        if not person.may(role):
            raise Refused(403, f"The token of {person.name} has the role {person.role}; this needs {role}.")
        _check_parameters(request)
        return person

    return check


The = Annotated[Service, Depends(service_of)]
Operator = Annotated[Person, Depends(_needs("operator"))]
Admin = Annotated[Person, Depends(_needs("admin"))]
