"""The pages and the API of a server, as an ASGI app."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from featx.errors import FeatxError, ImageError
from featx.serve.batching import Batcher
from featx.serve.decoders import Decoders
from featx.serve.guard import Guard, Limits, Names, Refusal
from featx.serve.labelling import MOST_NEAREST, Answer, Embedder, Maps
from featx.serve.metrics import CONTENT_TYPE, Metrics
from featx.serve.neighbours import TrainingRows
from featx.serve.recent import RecentPictures
from featx.serve.replies import (
    PICTURE,
    STATUSES,
    TEXT,
    Answered,
    Drifted,
    Explained,
    Facts,
    Failed,
    Problem,
    Result,
    body,
    describe,
    drifted,
    explained,
    given_labels,
    reply,
)
from featx.serve.uploads import ByteCount, Upload, read_uploads
from featx.typing import JsonObject

log = logging.getLogger("featx")

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_PAGE = {
    "/": ("featx.serve", "page.html"),
    "/page.css": ("featx.serve", "page.css"),
    "/page.js": ("featx.serve", "page.js"),
    "/icon.svg": ("featx.serve", "icon.svg"),
}
"""Address -> room and file of each part of the page."""


@dataclass(frozen=True)
class Service:
    """The state that the app answers from.

    Parameters
    ----------
    facts
        What is served.
    embedder
        The network, for the batcher.
    decoders
        Processes that decode.
    batcher
        Labels pictures.
    training
        For the nearest images; None where they are not to be had.
    maps
        Explains pictures.
    recent
        The last pictures, for drift; None where they are not kept.
    token
        That requests must carry; empty for none.
    names
        Under which it may be reached.
    """

    facts: Facts
    embedder: Embedder
    decoders: Decoders
    batcher: Batcher
    training: TrainingRows | None
    maps: Maps
    recent: RecentPictures | None
    limits: Limits
    held: ByteCount
    metrics: Metrics
    token: str = ""
    names: Names = field(default_factory=Names)

    def close(self) -> None:
        """End the threads and free the network."""
        self.batcher.close()
        self.maps.close()
        self.decoders.close()
        self.embedder.close()


def make_app(service: Service) -> ASGIApp:
    """Build the app."""
    app = FastAPI(
        title="featx",
        description=f"Labels pictures with {service.facts.name}.",
        version="1",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    add_errors(app)
    add_files(app, _PAGE)
    token = [Depends(_token_check(service.token))]
    _add_pictures(app, service, token)
    _add_facts(app, service, token)

    @app.get("/healthz", summary="Whether the server is up")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    plain = app.openapi
    app.openapi = lambda: describe(plain(), bool(service.token))  # type: ignore[method-assign]
    return Guard(app, service.metrics, service.names)


def add_files(app: FastAPI, found: dict[str, tuple[str, str]]) -> None:
    """Serve files of the package: address -> room and file name."""
    for path, (room, name) in found.items():
        app.add_api_route(path, partial(file_of, room, name), include_in_schema=False)


def file_of(room: str, name: str) -> Response:
    """Answer with a file of the package, its type by its suffix."""
    data = (files(room) / name).read_bytes()
    return Response(data, media_type=_TYPES[name.rpartition(".")[2]])


_PROBLEMS: dict[int | str, JsonObject] = {
    status: {"model": Problem, "description": text} for status, text in STATUSES.items()
}
_WITHOUT_TOKEN: dict[int | str, JsonObject] = {401: _PROBLEMS[401]}


def _add_pictures(app: FastAPI, service: Service, token: list[Any]) -> None:
    """Add what is asked of pictures that are sent."""

    @app.post(
        "/v1/predict",
        summary="Label pictures",
        response_model=Answered,
        responses={
            **_PROBLEMS,
            422: {"model": Failed | Problem, "description": "no picture could be read"},
        },
        openapi_extra={"requestBody": body(service.limits.files)},
        dependencies=token,
    )
    async def predict(
        request: Request, nearest: Annotated[int, Query(ge=0, le=MOST_NEAREST)] = 5
    ) -> Response:
        with service.held.share() as share:
            with service.batcher.coming():
                uploads = await read_uploads(request, service.limits, share)
                waiting = service.batcher.submit([upload.data for upload in uploads])
            return _respond(await _results(service, uploads, waiting, nearest))

    @app.post(
        "/v1/explain",
        summary="Where the answer to one picture comes from",
        responses={
            **_PROBLEMS,
            404: {"model": Problem, "description": "no such class, or no such explanation"},
            422: {"model": Problem, "description": "the picture cannot be read"},
        },
        openapi_extra={"requestBody": body(1)},
        dependencies=token,
    )
    async def explain(
        request: Request, label: str | None = None, against: str | None = None
    ) -> Explained:
        with service.held.share() as share:
            with service.batcher.coming():
                uploads = await read_uploads(request, service.limits, share)
                if len(uploads) > 1:
                    raise Refusal(400, f"send one picture to be explained; got {len(uploads)}")
                waiting = service.batcher.submit([uploads[0].data])
            return await _explained(service, uploads[0].name, waiting[0], label, against)


def _add_facts(app: FastAPI, service: Service, token: list[Any]) -> None:
    """Add what is asked of the model and of the server."""

    @app.get(
        "/v1/drift",
        summary="Whether the last pictures are like those of the training",
        dependencies=token,
        responses=_WITHOUT_TOKEN,
    )
    def drift() -> Drifted:
        return drifted(service.recent)

    @app.get("/v1/model", summary="What is served", dependencies=token, responses=_WITHOUT_TOKEN)
    async def model() -> Facts:
        return service.facts

    @app.get(
        "/v1/training/{row}",
        summary="A training image, small",
        dependencies=token,
        response_class=Response,
        responses={
            200: PICTURE,
            404: {"model": Problem, "description": "not there, or not any more"},
            401: _PROBLEMS[401],
            422: {"model": Problem, "description": "a wrong value in the address"},
        },
    )
    def training(row: int) -> Response:
        found = service.training
        data = None if found is None or not 0 <= row < len(found) else found.picture(row)
        if data is None:
            raise Refusal(404, "no such training image, or it cannot be read any more")
        return Response(data, media_type="image/jpeg")

    @app.get(
        "/metrics",
        summary="For Prometheus",
        dependencies=token,
        response_class=Response,
        responses={200: TEXT, **_WITHOUT_TOKEN},
    )
    def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


async def _explained(
    service: Service, name: str, waiting: Future[Answer], label: str | None, against: str | None
) -> Explained:
    try:
        async with asyncio.timeout(service.limits.seconds):
            answer = await asyncio.wrap_future(waiting)
            found = await service.maps(answer.drawn, label, against)
    except TimeoutError:
        line = f"no map within {service.limits.seconds:g} s; `featx explain` takes its time"
        raise Refusal(503, line) from None
    except ImageError as error:
        raise Refusal(422, str(error)) from None
    except FeatxError as error:
        raise Refusal(404, str(error)) from None
    return explained(name, found)


async def _results(
    service: Service, uploads: list[Upload], waiting: list[Future[Answer]], nearest: int
) -> list[Result]:
    """Wait for the answers, and count them; a picture that cannot be read is a result too."""
    try:
        async with asyncio.timeout(service.limits.seconds):
            answers = await asyncio.gather(
                *map(asyncio.wrap_future, waiting), return_exceptions=True
            )
    except TimeoutError:
        line = f"no answer within {service.limits.seconds:g} s; try again"
        raise Refusal(503, line, retry_after=5) from None
    results = []
    for upload, answer in zip(uploads, answers, strict=True):
        if isinstance(answer, ImageError):
            service.metrics.pictures.labels("unreadable").inc()
            results.append(Result(name=upload.name, error=str(answer)))
            continue
        if isinstance(answer, BaseException):
            raise answer
        outcome = "unfamiliar" if answer.unfamiliar else "labelled"
        service.metrics.pictures.labels(outcome).inc()
        for name in given_labels(answer.row, service.facts.task):
            service.metrics.labels.labels(name).inc()
        results.append(reply(upload.name, answer, service.training, nearest))
    return results


def _respond(results: list[Result]) -> Response:
    if any(result.error is None for result in results):
        return Response(Answered(results=results).model_dump_json(), media_type="application/json")
    line = f"{results[0].name}: {results[0].error}"
    failed = Failed(error=line, results=results)
    return Response(failed.model_dump_json(), status_code=422, media_type="application/json")


def _token_check(token: str) -> Callable[..., Awaitable[None]]:
    """Make what refuses requests without the token; all of a wrong one is compared."""
    known = hashlib.sha256(token.encode()).digest()
    bearer = HTTPBearer(auto_error=False)

    async def check(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> None:
        asked = hashlib.sha256((given.credentials if given else "").encode()).digest()
        if token and not secrets.compare_digest(asked, known):
            raise Refusal(401, "wrong or missing token; send Authorization: Bearer TOKEN")

    # Names of a closure are not found when its annotations are read as text.
    check.__annotations__ = {
        "given": Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    }
    return check


def add_errors(app: FastAPI) -> None:
    """Answer every error with ``{"error": line}``."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
        if error.retry_after is not None:
            headers["retry-after"] = str(error.retry_after)
        return JSONResponse({"error": error.line}, error.status, headers)

    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "the server failed; its log says why"}, 500)
