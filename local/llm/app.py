"""The endpoints of the stand-in for an LLM."""

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.faulty_http import FaultyResponse

if TYPE_CHECKING:
    from local.llm import LocalLLM


def build_llm_app(llm: "LocalLLM") -> Starlette:
    """The ASGI application of a stand-in."""

    async def chat(request: Request) -> Response:
        return FaultyResponse(llm.chat(await request.body()), llm.now())

    async def models(request: Request) -> Response:
        return FaultyResponse(llm.models(), llm.now())

    async def calls(request: Request) -> Response:
        """The number of calls, for other processes."""
        return JSONResponse({"count": len(llm.calls)})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/_control/calls", calls, methods=["GET"]),
        ]
    )
