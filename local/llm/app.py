"""The endpoints of the stand-in for an LLM."""

from email import message_from_bytes
from email.policy import HTTP
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

    async def responses(request: Request) -> Response:
        return FaultyResponse(llm.respond(await request.body()), llm.now())

    async def files(request: Request) -> Response:
        if request.method == "GET":
            return FaultyResponse(llm.batches.list_files(request.query_params.get("purpose")), llm.now())
        upload = _form(request.headers["content-type"], await request.body())
        filename, content = upload["file"]
        purpose = upload["purpose"][1].decode()
        return FaultyResponse(llm.batches.add_file(filename, purpose, content), llm.now())

    async def file(request: Request) -> Response:
        file_id = request.path_params["file_id"]
        reply = llm.batches.delete_file(file_id) if request.method == "DELETE" else llm.batches.file(file_id)
        return FaultyResponse(reply, llm.now())

    async def content(request: Request) -> Response:
        return FaultyResponse(llm.batches.content(request.path_params["file_id"]), llm.now())

    async def batches(request: Request) -> Response:
        if request.method == "GET":
            return FaultyResponse(llm.batches.list_batches(), llm.now())
        return FaultyResponse(llm.batches.create(await request.json()), llm.now())

    async def batch(request: Request) -> Response:
        return FaultyResponse(llm.batches.batch(request.path_params["batch_id"]), llm.now())

    async def cancel(request: Request) -> Response:
        return FaultyResponse(llm.batches.cancel(request.path_params["batch_id"]), llm.now())

    async def models(request: Request) -> Response:
        return FaultyResponse(llm.models(), llm.now())

    async def calls(request: Request) -> Response:
        """The number of calls, for other processes."""
        return JSONResponse({"count": len(llm.calls)})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/responses", responses, methods=["POST"]),
            Route("/v1/files", files, methods=["GET", "POST"]),
            Route("/v1/files/{file_id}", file, methods=["GET", "DELETE"]),
            Route("/v1/files/{file_id}/content", content, methods=["GET"]),
            Route("/v1/batches", batches, methods=["GET", "POST"]),
            Route("/v1/batches/{batch_id}", batch, methods=["GET"]),
            Route("/v1/batches/{batch_id}/cancel", cancel, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/_control/calls", calls, methods=["GET"]),
        ]
    )


def _form(content_type: str, body: bytes) -> dict[str, tuple[str, bytes]]:
    """The fields of a multipart form by name, each with its file name and content."""
    form = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body, policy=HTTP)
    fields = {}
    for part in form.iter_parts():
        payload = part.get_payload(decode=True)
        name = part.get_param("name", header="content-disposition")
        assert isinstance(payload, bytes) and isinstance(name, str)
        fields[name] = (part.get_filename() or "", payload)
    return fields
