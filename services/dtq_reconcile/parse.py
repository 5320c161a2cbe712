"""Reading manifests: YAML text becomes TaskType and QueueSet values, or problems that name file, object and path."""

from typing import Any, Final

import yaml
from pydantic import ValidationError

from dtq.domain.errors import Problem, Rejected
from dtq.domain.json_text import unstorable
from dtq.domain.manifests import API_VERSION, Manifest, QueueSet, TaskType
from dtq_reconcile.kubectl_yaml import documents

TEXT_BYTES_MAX: Final = 8 * 1_048_576
"""Largest manifest file, in bytes: enough for thousands of objects, too small for a memory bomb."""
_MODELS: Final[dict[str, type[TaskType] | type[QueueSet]]] = {"TaskType": TaskType, "QueueSet": QueueSet}


def parse(text: str, source: str = "") -> list[Manifest]:
    """Return the manifests of a YAML text, in its order; the caller applies QueueSets first.

    Problems name the file as `source`.

    Raises:
        Rejected: `InvalidManifest`, with every problem of every document.
    """
    prefix = f"{source}: " if source else ""
    if len(text.encode("utf-8", "replace")) > TEXT_BYTES_MAX:
        raise Rejected("InvalidManifest", f"{prefix}the text is larger than {TEXT_BYTES_MAX} bytes: split it")
    try:
        found = [document for document in documents(text) if document is not None]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise Rejected("InvalidManifest", f"{prefix}not valid YAML: {str(error)[:300]}") from error
    problems: list[Problem] = []
    manifests = [
        manifest for at, document in enumerate(found, 1) if (manifest := _manifest(document, at, prefix, problems))
    ]
    if problems:
        listing = "\n".join(f"  {problem.path}: {problem.message}" for problem in problems)
        raise Rejected("InvalidManifest", f"{len(problems)} problem(s):\n{listing}", tuple(problems))
    return manifests


def _manifest(document: Any, at: int, prefix: str, problems: list[Problem]) -> Manifest | None:
    where = f"{prefix}document {at}"
    if not isinstance(document, dict):
        problems.append(Problem(path=where, message="is not an object"))
        return None
    kind, version = document.get("kind"), document.get("apiVersion")
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    where = f"{prefix}{kind}/{name}" if kind and name else where
    model = _MODELS.get(kind) if isinstance(kind, str) else None
    if model is None or version != API_VERSION:
        message = f"is {version} {kind}; dtq supports {API_VERSION} {' and '.join(_MODELS)}"
        problems.append(Problem(path=where, message=message))
        return None
    unreadable = [Problem(path=f"{where} {path}".strip(), message=message) for path, message in unstorable(document)]
    if unreadable:
        problems += unreadable
        return None
    try:
        return model.model_validate({key: value for key, value in document.items() if key != "status"})
    except ValidationError as error:
        problems += [
            Problem(path=f"{where} {_path(part['loc'])}".strip(), message=_message(part))
            for part in error.errors(include_url=False, include_input=False)
        ]
        return None


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _message(part: Any) -> str:
    if part["type"] == "extra_forbidden":
        return "unknown field: remove it, or correct its spelling"
    return str(part["msg"]).removeprefix("Value error, ")
