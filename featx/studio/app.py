"""The page of the studio and what it asks, as an ASGI app for one person on this machine."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel, Field
from starlette.types import ASGIApp

from featx.cache.cache import Cache, open_cache
from featx.cache.lock import WriterLock
from featx.errors import FeatxError, FitError
from featx.files import behind
from featx.fitting.options import FitOptions
from featx.heads import get_head
from featx.serve.app import add_errors, add_files, file_of
from featx.serve.guard import Guard, Names, Refusal
from featx.serve.server import address_of, answer, bind
from featx.studio.board import Board, Order
from featx.typing import JsonObject

_FILES = {
    "/page.css": ("featx.serve", "page.css"),
    "/icon.svg": ("featx.serve", "icon.svg"),
    "/studio.css": ("featx.studio", "studio.css"),
    "/studio.js": ("featx.studio", "studio.js"),
}
_HOST = "127.0.0.1"
_SMALL, _LARGE = 224, 900  # longest side of a picture
_MOST_ROWS = 200


class Labels(BaseModel):
    """A label for some rows, or none."""

    rows: list[int] = Field(min_length=1, max_length=10_000)
    label: str | None = Field(default=None, description="Null for no label.")
    reset: bool = Field(default=False, description="Drop the edits of these rows instead.")


def run(
    cache: Path,
    labels: Path | None,
    head: str,
    options: FitOptions,
    port: int,
    ready: Callable[..., None],
) -> None:
    """Answer until a signal comes; see `featx.studio.studio`."""
    if get_head(head).task == "regression":
        raise FitError(f"head {head} predicts a number; the studio takes a classifier, as logreg")
    with bind(_HOST, port) as listener, open_cache(cache) as file:
        whole = cache.resolve()
        target = behind(whole.with_name(f"{whole.stem}.labels.csv") if labels is None else labels)
        _answer(listener, file, target, head, options, ready)


def _answer(
    listener: socket.socket,
    file: Cache,
    target: Path,
    head: str,
    options: FitOptions,
    ready: Callable[..., None],
) -> None:
    with WriterLock(target):
        board = Board(file, target, head, options)
        secret = secrets.token_urlsafe(16)
        address = f"{address_of(_HOST, listener)}/?token={secret}"
        answer(
            listener,
            make_app(board, secret, listener.getsockname()[1]),
            lambda: ready(address, board),
        )


def make_app(board: Board, secret: str, port: int = 0) -> ASGIApp:
    """Build the app; whoever comes with the secret in the address gets it as a cookie."""
    app = FastAPI(title="featx studio", docs_url=None, redoc_url=None, openapi_url=None)
    add_errors(app)
    cookie = f"featx-studio-{port}"  # a browser does not part cookies by port
    known = [Depends(_secret_check(secret, cookie))]
    add_files(app, _FILES)  # the same for everybody

    @app.get("/")
    def enter(request: Request, token: str = "") -> Response:
        if secrets.compare_digest(token.encode(), secret.encode()):
            found: Response = RedirectResponse("/", 303)
            found.set_cookie(cookie, secret, httponly=True, samesite="strict")
            return found
        _require_secret(request, secret, cookie)
        return file_of("featx.studio", "studio.html")

    _add_rows(app, board, known)
    _add_work(app, board, known)
    return Guard(app, None, Names(local_only=True))


def _require_secret(request: Request, secret: str, cookie: str) -> None:
    given = request.cookies.get(cookie, "")
    if not secrets.compare_digest(given.encode(), secret.encode()):
        raise Refusal(401, "open the address that featx studio printed, with its token")


def _secret_check(secret: str, cookie: str) -> Callable[[Request], Awaitable[None]]:
    async def check(request: Request) -> None:
        _require_secret(request, secret, cookie)

    check.__annotations__ = {"request": Request}
    return check


def _add_rows(app: FastAPI, board: Board, known: Sequence[Any]) -> None:
    """Add what shows rows."""

    @app.get("/v1/rows", dependencies=known)
    def rows(
        order: Order = "all",
        label: str | None = None,
        find: str = "",
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=_MOST_ROWS)] = 60,
    ) -> JSONResponse:
        found = board.rows(order, label, find)
        shown = [board.describe(row) for row in found[offset : offset + limit]]
        return JSONResponse({"total": len(found), "rows": shown})

    @app.get("/v1/rows/{row}/near", dependencies=known)
    def near(row: int) -> JSONResponse:
        _require_row(board, row)
        return JSONResponse({"rows": [board.describe(other) for other in board.neighbours(row)]})

    @app.get("/v1/rows/{row}/picture", dependencies=known)
    def picture(row: int, large: bool = False) -> Response:
        _require_row(board, row)
        data = board.picture(row, _LARGE if large else _SMALL)
        if data is None:
            raise Refusal(404, "the picture cannot be read any more, or another lies there now")
        return Response(data, media_type="image/jpeg")


def _add_work(app: FastAPI, board: Board, known: Sequence[Any]) -> None:
    """Add what changes labels and fits."""

    @app.get("/v1/board", dependencies=known)
    def summary() -> JsonObject:
        return board.summary()

    @app.put("/v1/labels", dependencies=known)
    def labels(asked: Labels) -> JSONResponse:
        try:
            if asked.reset:
                board.reset(asked.rows)
            else:
                board.set_label(asked.rows, asked.label)
        except FeatxError as error:
            raise Refusal(422, str(error)) from None
        except OSError as error:
            line = f"{board.file} cannot be written, and nothing was changed: {error}"
            raise Refusal(507, line) from None
        return JSONResponse({"rows": [board.describe(row) for row in asked.rows]})

    @app.post("/v1/fit", status_code=202, dependencies=known)
    def fit() -> JsonObject:
        board.start_refit()
        return board.summary()


def _require_row(board: Board, row: int) -> None:
    if not 0 <= row < len(board):
        raise Refusal(404, f"row {row} does not exist: rows are 0 to {len(board) - 1}")
