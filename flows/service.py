"""A champion behind HTTP: who is served, what a request may be, and what it is answered.

POST /invocations     predictions; x-graft-model: NAME/VERSION says who made them
GET  /ready           200 with name, version, precision and since when; 503 while nothing is
GET  /health, /ping   200 while the process lives

Whatever is refused is one line, {"message": "…"}.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tasks.champion import Champion, Precision, champion_version, load_champion
from tasks.progress import logger
from tasks.request import Refused, requested
from tasks.served import Log, consents
from tasks.tracking import without_credentials

BYTES = 1_000_000
"""Of a body."""
WAITING = 100
"""Requests that are answered, one after the other, or wait for it; more are sent away, to come
again. Of 50 clients on two cores, 2 and 4 at once answered a tenth more, within the noise; but two
threads must not use one tokenizer."""
PATHS = "/invocations (POST), /ready, /health and /ping (GET)"


class Service:
    """One model's champion, whichever it is, asked by many."""

    def __init__(self, name: str, precision: Precision = "float32", log: Log | None = None) -> None:
        """Nothing is served before `look`; `log` keeps requests that say so."""
        self.name, self.precision, self.log = name, precision, log
        self.champion: Champion | None = None
        self._served: tuple[str, int] | None = None
        self._waiting = 0
        self._turn = asyncio.Lock()
        self._threads = ThreadPoolExecutor(1, "predict")

    def look(self) -> Champion | None:
        """Serve the registry's champion from now on; returned if it is another one than before.

        Who is being answered meanwhile is answered by the one before.

        Raises:
            SourceUnavailable: there is none, or it cannot be loaded.
            TrackingError: MLflow does not answer.
        """
        found = champion_version(self.name)
        if found == self._served:
            return None
        version, _ = found
        self.champion = load_champion(self.name, version, self.precision)
        self._served = found
        return self.champion

    async def invocations(self, request: Request) -> Response:
        """Answer a request, or say why not."""
        try:
            body = await read(request)
            return await self._in_turn(request, body)
        except Refused as refused:
            return refusal(refused.status, refused.message)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except asyncio.CancelledError:  # its grace is over
            return refusal(503, "the server was stopped before this was answered; try again")
        except Exception as error:
            said = " ".join(without_credentials(str(error)).split())
            logger.warning("a request failed: %s: %s", type(error).__name__, said)
            return refusal(500, "the model failed at this request; the server's log says how")

    async def _in_turn(self, request: Request, body: bytes) -> Response:
        if self._waiting >= WAITING:
            raise Refused(503, "too many requests are waiting; try again in a second")
        self._waiting += 1
        try:
            async with self._turn:
                if await request.is_disconnected():
                    raise ClientDisconnect
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._threads, self._answer, body)
        finally:
            self._waiting -= 1

    def _answer(self, body: bytes) -> Response:
        champion = self.champion
        if champion is None:
            raise Refused(503, f"{self.name} is being loaded; try again in a second")
        rows = requested(body, champion.columns)
        told = f'{{"predictions":{champion.answer(rows)}}}'
        if self.log and consents(body):
            self.log.keep(champion.version, rows)
        by = {"x-graft-model": f"{champion.name}/{champion.version}"}
        return Response(told, media_type="application/json", headers=by)

    async def ready(self) -> Response:
        """Who answers."""
        champion = self.champion
        if champion is None:
            return refusal(503, f"{self.name} is being loaded; try again in a second")
        told = {"name": champion.name, "version": champion.version}
        return JSONResponse(told | {"precision": champion.precision, "since": champion.since})


async def read(request: Request) -> bytes:
    """The body of a request.

    Raises:
        Refused: 413, 415.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, f"'{kind[:50]}' cannot be read; send content-type: application/json")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BYTES:
            raise Refused(413, f"a body may have {BYTES:,} bytes: send several requests")
    return bytes(body)


async def alive() -> Response:
    """Whether it serves or not."""
    return JSONResponse({"alive": True})


def refusal(status: int, message: str) -> Response:
    """What who asked reads."""
    again = {"retry-after": "1"} if status == 503 else {}
    return JSONResponse({"message": message}, status, headers=again)


async def no_such_path(request: Request, error: Exception) -> Response:
    """Anything but what there is."""
    return refusal(404, f"there is no '{request.url.path[:50]}'; there are {PATHS}")


async def no_such_method(request: Request, error: Exception) -> Response:
    """GET /invocations, and the like."""
    answer = refusal(405, f"{request.method} is not for '{request.url.path}'; there are {PATHS}")
    assert isinstance(error, HTTPException)
    answer.headers.update(error.headers or {})
    return answer


def application(service: Service) -> FastAPI:
    """The service as an ASGI application."""
    made = FastAPI(
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers={404: no_such_path, 405: no_such_method},
    )
    made.add_api_route("/invocations", service.invocations, methods=["POST"])
    for path, told in (("/ready", service.ready), ("/health", alive), ("/ping", alive)):
        made.add_api_route(path, told, methods=["GET", "HEAD"])
    return made
