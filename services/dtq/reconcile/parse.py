"""Reading manifests: YAML text becomes TaskType and QueueSet values, or problems that name the line's document.

Owns the YAML reader. Must never build an object that YAML asks for: only plain data is read.
"""

from collections.abc import Hashable
from typing import Any, Final

import yaml
from pydantic import ValidationError

from dtq.domain.errors import Problem, Rejected
from dtq.domain.manifests import API_VERSION, Manifest, QueueSet, TaskType

TEXT_BYTES_MAX: Final = 8 * 1_048_576
"""Largest manifest file, in bytes: thousands of objects, and no memory bomb."""
_MODELS: Final[dict[str, type[TaskType] | type[QueueSet]]] = {"TaskType": TaskType, "QueueSet": QueueSet}


class _Loader(yaml.SafeLoader):
    """Safe, and strict about keys that are given twice; anchors are refused, as they can explode."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def parse(text: str) -> list[Manifest]:
    """Return the manifests of a YAML text, in its order; QueueSets are to be applied first.

    Raises:
        Rejected: `InvalidManifest`, with every problem of every document.
    """
    if len(text.encode()) > TEXT_BYTES_MAX:
        raise Rejected("InvalidManifest", f"the text is larger than {TEXT_BYTES_MAX} bytes: split it")
    try:
        documents = [one for one in yaml.load_all(text, Loader=_Loader) if one is not None]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise Rejected("InvalidManifest", f"not YAML: {str(error)[:300]}") from error
    problems: list[Problem] = []
    manifests = [manifest for at, one in enumerate(documents, 1) if (manifest := _manifest(one, at, problems))]
    if problems:
        listing = "\n".join(f"  {problem.path}: {problem.message}" for problem in problems)
        raise Rejected("InvalidManifest", f"{len(problems)} problem(s):\n{listing}", tuple(problems))
    return manifests


def _manifest(document: Any, at: int, problems: list[Problem]) -> Manifest | None:
    where = f"document {at}"
    if not isinstance(document, dict):
        problems.append(Problem(path=where, message="is not an object"))
        return None
    kind, version = document.get("kind"), document.get("apiVersion")
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    where = f"{kind}/{name}" if kind and name else where
    model = _MODELS.get(kind) if isinstance(kind, str) else None
    if model is None or version != API_VERSION:
        message = f"is {version} {kind}; dtq knows {API_VERSION} {' and '.join(_MODELS)}"
        problems.append(Problem(path=where, message=message))
        return None
    try:
        return model.model_validate({key: value for key, value in document.items() if key != "status"})
    except ValidationError as error:
        problems += [
            Problem(path=f"{where} {'.'.join(map(str, part['loc']))}".strip(), message=_message(part))
            for part in error.errors(include_url=False, include_input=False)
        ]
        return None


def _message(part: Any) -> str:
    if part["type"] == "extra_forbidden":
        return "unknown field: remove it, or correct its spelling"
    return str(part["msg"]).removeprefix("Value error, ")
