"""POST /v1/inspect: pictures in, verdicts out, once they are on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from flawforge.serve.answers import Fault, Inspected, NotJudged, faults, result_of
from flawforge.serve.gate import Refused
from flawforge.serve.judging import not_judged
from flawforge.serve.service import Service
from flawforge.serve.who import Operator, The
from flawforge.serve.work import Full, Job
from flawforge.store import reviews
from flawforge.store.kept import sha256_of
from flawforge.store.opening import Unreachable
from flawforge.store.verdicts import KeyTaken, Verdict, check_text, same_request, with_key
from flawforge.types import ConfigError, FlawforgeError, ModelError
from flawforge_runtime.names import shown

ROUTER = APIRouter()
FIELDS = ("model", "part_id", "station")
AGAIN = 2  # seconds after which a store that cannot be written is tried again
TYPES = ("image/png", "image/jpeg", "image/tiff", "image/bmp", "image/webp", "application/octet-stream")
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "additionalProperties": False,
                    "properties": {
                        "files": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}},
                        "model": {"type": "string", "description": "Name of a served model; the first one by default."},
                        "part_id": {"type": "string", "maxLength": 200},
                        "station": {"type": "string", "maxLength": 200},
                    },
                }
            },
            **{name: {"schema": {"type": "string", "format": "binary"}} for name in TYPES},
        },
    }
}


@dataclass(frozen=True)
class Upload:
    """What a request brought: (name, bytes) of each picture, and its fields."""

    pictures: tuple[tuple[str, bytes], ...]
    fields: dict[str, str]


@ROUTER.post(
    "/v1/inspect",
    response_model=Inspected,
    responses=faults(400, 401, 403, 404, 408, 409, 413, 415, 503)
    | {
        422: {
            "model": Inspected | Fault,
            "description": "A picture was not judged, or a value is not allowed.",
        }
    },
    openapi_extra=BODY,
    summary="Judge pictures",
)
async def inspect(
    request: Request,
    response: Response,
    service: The,
    _: Operator,
    model: Annotated[str, Query(max_length=200, description="Name of a served model; the first one by default.")] = "",
    part_id: Annotated[str, Query(max_length=200, examples=["A-0815"])] = "",
    station: Annotated[str, Query(max_length=200, examples=["press 3"])] = "",
    idempotency_key: Annotated[
        str | None,
        Header(
            max_length=100,
            min_length=1,
            description="The same key with the same pictures and fields is judged and recorded once, however often it is "
            "sent; with others it is refused.",
        ),
    ] = None,
) -> Any:
    """Judge one or several pictures: multipart/form-data with `files`, or one picture as the body.

    200 means that every picture was judged and is recorded. 422 means that at least one was not: its entry holds `error`,
    and the others are recorded. A part without a verdict is not OK. After 503, send the same again
    with the same Idempotency-Key.
    """
    upload = await _upload(request, service)
    fields = {"model": model, "part_id": part_id, "station": station} | {k: v for k, v in upload.fields.items() if v}
    for name, text in {**fields, "Idempotency-Key": idempotency_key or ""}.items():
        _allowed(name, text)
    try:
        served = service.shelf.get(fields["model"])
    except ModelError as error:
        raise Refused(404, str(error)) from None
    jobs = [
        Job(
            data=data,
            sha256=sha256_of(data),
            picture=name,
            station=fields["station"] or service.settings.station,
            part_id=fields["part_id"],
            key=_key(idempotency_key, index),
        )
        for index, (name, data) in enumerate(upload.pictures)
    ]
    outcomes, known = await judge_all(service, served.name, jobs)
    missed = [
        not_judged(job, served.name, str(outcome))
        for job, outcome in zip(jobs, outcomes, strict=True)
        if not isinstance(outcome, Verdict)
    ]
    if missed:
        await run_in_threadpool(service.missed, missed)
        response.status_code = 422
    said = await run_in_threadpool(_reviews, service, known) if known else {}
    entries = [
        result_of(outcome, said.get(outcome.id))
        if isinstance(outcome, Verdict)
        else NotJudged(picture=job.picture, error=str(outcome))
        for job, outcome in zip(jobs, outcomes, strict=True)
    ]
    return Inspected(results=entries)


def _key(key: str | None, index: int) -> str | None:
    return None if key is None else f"{key}/{index}"


def _allowed(name: str, text: str) -> None:
    try:
        check_text(name, text)
    except ConfigError as error:
        raise Refused(422, str(error)) from None


async def judge_all(service: Service, model: str, jobs: Sequence[Job]) -> tuple[list[Verdict | FlawforgeError], list[int]]:
    """The recorded verdict of each job, or why that picture was not judged; and the ids that were recorded before.

    Raises Refused 503 where there is no place, the store cannot be written or time is up; 409 for a key that was used for
    something else. What was recorded before that stays, and the same key finds it.
    """
    try:
        known = {}
        for index, job in enumerate(jobs):
            if job.key is not None and (verdict := await run_in_threadpool(with_key, service.store, job.key)):
                same_request(verdict, sha256=job.sha256, model=model, part_id=job.part_id, station=job.station)
                known[index] = verdict
        new = [job for index, job in enumerate(jobs) if index not in known]
        service.lines[model].submit(new)
        futures = [asyncio.wrap_future(job.done) for job in new]
        if futures:
            await asyncio.wait(futures, timeout=service.settings.answer_seconds)
    except (Full, Unreachable, KeyTaken) as error:
        raise _refused(error) from None
    if not all(future.done() for future in futures):
        for future in futures:
            future.cancel()
        raise Refused(503, "The verdict took too long; send the same again with the same Idempotency-Key.", AGAIN)
    errors = [future.exception() for future in futures]
    for failed in errors:
        if isinstance(failed, Unreachable | KeyTaken):
            raise _refused(failed)
    judged = iter([failed or future.result() for failed, future in zip(errors, futures, strict=True)])
    outcomes = [known[index] if index in known else _said(next(judged)) for index in range(len(jobs))]
    return outcomes, [verdict.id for verdict in known.values()]


def _said(outcome: Verdict | BaseException) -> Verdict | FlawforgeError:
    if isinstance(outcome, Verdict | FlawforgeError):
        return outcome
    raise outcome


def _refused(error: FlawforgeError) -> Refused:
    if isinstance(error, Full):
        return Refused(503, str(error), error.wait)
    return Refused(409, str(error)) if isinstance(error, KeyTaken) else Refused(503, str(error), AGAIN)


def _reviews(service: Service, known: Sequence[int]) -> dict[int, reviews.Review]:
    """The newest review of verdicts that were recorded before; a new one has none."""
    try:
        return reviews.latest(service.store, known)
    except Unreachable as error:
        raise Refused(503, str(error), AGAIN) from None


async def _upload(request: Request, service: Service) -> Upload:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        upload = await _multipart(request, service)
    elif kind in TYPES:
        upload = Upload((("", await request.body()),), {})
    else:
        raise Refused(
            415,
            f"The body's type is {shown(kind)[:80] or 'not given'}; send multipart/form-data, or one of {', '.join(TYPES)}.",
        )
    if not upload.pictures:
        raise Refused(422, "No picture was sent; send one or more in the field files.")
    return upload


class _WholeParser(MultiPartParser):
    """Starlette's, which also refuses a body that is cut: of that one it would drop the last part without a word."""

    ended = False

    def on_end(self) -> None:
        """The closing boundary has been read."""
        self.ended = True

    async def parse(self) -> FormData:
        """The form. Raises Refused where the closing boundary is missing, or more than white space follows it."""
        self.stream = self._whole(self.stream)
        return await super().parse()

    async def _whole(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        closing = b"\r\n--" + parse_options_header(self.headers["content-type"])[1][b"boundary"] + b"--"
        before = b"\r\n"  # the last bytes of what came: a boundary may be in two pieces
        async for piece in stream:
            ended = self.ended
            yield piece  # to the parser, which goes through it before it asks for the next
            if self.ended:
                _, found, after = (b"", closing, piece) if ended else (before + piece).partition(closing)
                if not found or after.strip(b" \t\r\n"):
                    raise Refused(400, "Bytes follow the closing boundary of the body; send every part before it.")
            before = (before + piece[-len(closing) :])[-len(closing) :]
        if not self.ended:
            raise Refused(
                400,
                "The body ends before its closing boundary, so a part may be cut or missing; send all parts and the closing "
                "boundary.",
            )


async def _multipart(request: Request, service: Service) -> Upload:
    settings = service.settings
    most = settings.most_files
    parser = _WholeParser(request.headers, request.stream(), max_files=most, max_fields=len(FIELDS), max_part_size=4096)
    parser.spool_max_size = settings.most_bytes + 1  # in memory, which is bounded; the file system may be read-only
    try:
        form = await parser.parse()
    except MultiPartException as error:
        many = error.message.startswith("Too many files")
        if error.message.startswith("Too many fields"):
            raise Refused(422, f"More fields were sent than there are; allowed are files, {', '.join(FIELDS)}.") from None
        sentence = f"The body is no multipart/form-data that can be read ({error.message.rstrip('.')}); "
        raise Refused(413 if many else 400, sentence + f"send at most {most} pictures in files.") from None
    except (KeyError, UnicodeDecodeError, ValueError):
        raise Refused(
            400, "The body is no multipart/form-data that can be read; send its boundary and UTF-8 names."
        ) from None
    pictures, fields = [], {}
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "files":
                    raise Refused(422, f"The field {shown(name)[:80]} holds a file; send pictures in files.")
                name, data = picture_name(value.filename or ""), await value.read()
                if name or data:  # a form in which no file was chosen sends neither
                    pictures.append((name, data))
            elif name in FIELDS:
                fields[name] = value
            elif name == "files":
                raise Refused(422, "The field files was sent as text and must be a file; with curl: -F files=@part.png.")
            else:
                raise Refused(422, f"The field {shown(name)[:80]} is unknown; allowed are files, {', '.join(FIELDS)}.")
    finally:
        await form.close()
    return Upload(tuple(pictures), fields)


def picture_name(name: str) -> str:
    """The last part of the name that a client gave its file, printable and short: a label, never a path."""
    return shown(name.replace("\\", "/").rsplit("/", 1)[-1])[:200]
