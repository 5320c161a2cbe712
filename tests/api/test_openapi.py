"""The OpenAPI document: complete, true to the routes, and the same as the file that people read."""

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs
import pytest
import schemathesis
from starlette.routing import Route

from dtq_api import openapi, problems
from hack.openapi import FILE
from tests.api.conformance import conforms
from tests.api.world import Running

ROOT = Path(__file__).parents[2]
OPERATIONS = [
    (path, method, operation)
    for path, operations in openapi.document()["paths"].items()
    for method, operation in operations.items()
]
IDS = [f"{method} {path}" for path, method, _ in OPERATIONS]


async def test_the_api_shows_the_document(api: Running) -> None:
    answer = await api.client.get("/openapi.json")
    assert answer.content == openapi.text()


def test_the_file_of_the_document_is_fresh() -> None:
    assert FILE.read_bytes() == openapi.text(secured=True), "run `python -m hack.openapi`"
    done = subprocess.run([sys.executable, "-m", "hack.openapi", "--check"], cwd=ROOT, check=False, timeout=60)
    assert done.returncode == 0


def test_a_reader_of_openapi_understands_it() -> None:
    schema = schemathesis.openapi.from_dict(deepcopy(openapi.document()))
    schema.validate()
    assert len(list(schema.get_all_operations())) == len(OPERATIONS)


async def test_every_route_is_in_the_document_and_nothing_else(api: Running) -> None:
    routes = {
        (route.path, method.lower())
        for route in api.api.app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert routes == {(path, method) for path, method, _ in OPERATIONS}


def test_every_problem_type_is_documented() -> None:
    told = json.dumps(openapi.document()["paths"])
    of_the_router = {"NotFound", "MethodNotAllowed"}
    missing = {code for code in problems.KINDS if f"`{code}`" not in told} - of_the_router
    assert missing == set()
    assert all(code in openapi.document()["info"]["description"] for code in of_the_router)
    assert all(kind.meaning.endswith(".") for kind in problems.KINDS.values())


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=IDS)
def test_every_operation_parameter_and_answer_is_described(path: str, method: str, operation: dict[str, Any]) -> None:
    assert operation["operationId"]
    assert operation["summary"].endswith(".")
    assert operation["tags"]
    assert (method == "post" and path != "/tasks/{id}/cancel") == ("requestBody" in operation)
    for parameter in operation.get("parameters", []):
        assert parameter["description"].endswith(".")
    for status, answer in operation["responses"].items():
        assert answer["description"].endswith(".")
        assert answer["content"], status


def test_operation_ids_are_distinct() -> None:
    assert len({operation["operationId"] for _, _, operation in OPERATIONS}) == len(OPERATIONS)


def test_every_schema_is_one_and_its_example_satisfies_it() -> None:
    for name, schema in openapi.document()["components"]["schemas"].items():
        jsonschema_rs.meta.validate(schema)
        whole = schema | {"components": openapi.document()["components"]}
        validator = jsonschema_rs.Draft202012Validator(whole, offline=True)
        assert "example" not in schema or validator.is_valid(schema["example"]), name


@pytest.mark.parametrize(
    ("status", "body", "media_type"),
    [
        (500, {}, "application/problem+json"),
        (418, {}, "application/json"),
        (200, {"tasks": []}, "application/json"),
        (200, {"tasks": [], "next_cursor": None}, "text/plain"),
        (400, {"type": "https://dtq.dev/problems/NotFound"}, "application/problem+json"),
    ],
    ids=["500", "another status", "a field less", "another media type", "another problem type"],
)
async def test_an_answer_that_the_document_does_not_have_is_noticed(status: int, body: Any, media_type: str) -> None:
    request = httpx2.Request("GET", "http://api/tasks")
    answer = httpx2.Response(
        status, headers={"content-type": media_type}, content=json.dumps(body).encode(), request=request
    )
    with pytest.raises((AssertionError, jsonschema_rs.ValidationError)):
        await conforms(answer)
