"""Compares an answer with the OpenAPI document: status, media type, headers and body.

Checks every answer that a test gets from the API in this process; a 500 always fails.
"""

import json
import re
from functools import cache
from typing import Any

import httpx2
import jsonschema_rs

from dtq_api import openapi, problems


async def conforms(answer: httpx2.Response) -> None:
    """Fail unless the document has this answer."""
    await answer.aread()
    method, path = answer.request.method.lower(), answer.request.url.path
    assert answer.status_code != 500, f"{method} {path}: {answer.text}"
    operation = _operation(method, path)
    if operation is None:
        assert answer.status_code in (401, 404, 405, 429), f"{method} {path} is not documented: {answer.status_code}"
        return
    documented = operation["responses"].get(str(answer.status_code))
    assert documented is not None, f"{method} {path}: {answer.status_code} is not documented: {answer.text}"
    media_type = answer.headers["content-type"].split(";")[0]
    assert media_type in documented["content"], f"{method} {path}: {answer.status_code} with {media_type}"
    for name, header in documented.get("headers", {}).items():
        assert not header.get("required") or name in answer.headers, f"{method} {path}: no {name}"
    if media_type.endswith("json") and method != "head":
        where = (path_of(path) or "", method, answer.status_code, media_type)
        _validator(*where).validate(json.loads(answer.content))
    if media_type == problems.MEDIA_TYPE:
        assert answer.json()["status"] == answer.status_code


def path_of(path: str) -> str | None:
    """The documented path that a request's path means."""
    for template in openapi.document()["paths"]:
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path):
            return str(template)
    return None


def _operation(method: str, path: str) -> dict[str, Any] | None:
    template = path_of(path)
    operations = openapi.document()["paths"][template] if template else {}
    operation: dict[str, Any] | None = operations.get("get" if method == "head" else method)
    return operation


@cache
def _validator(template: str, method: str, status: int, media_type: str) -> jsonschema_rs.Draft202012Validator:
    document = openapi.document()
    response = document["paths"][template][method]["responses"][str(status)]
    schema = response["content"][media_type]["schema"] | {"components": document["components"]}
    return jsonschema_rs.Draft202012Validator(schema, offline=True, validate_formats=True)
