"""The raw limit of HTTP: Starlette answers a POST of JSON with JSON and does nothing else."""

import sys

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def enqueue(request: Request) -> Response:
    """Decode the body, encode an answer."""
    msgspec.json.decode(await request.body())
    return Response(msgspec.json.encode({"status": "ENQUEUED"}), status_code=201, media_type="application/json")


async def ready(_: Request) -> Response:
    """Say that it listens."""
    return Response()


app = Starlette(routes=[Route("/enqueue", enqueue, methods=["POST"]), Route("/readyz", ready, methods=["GET"])])

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", loop="uvloop", http="httptools")
