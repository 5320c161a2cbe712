"""JSON Schemas for kubeconform, made without a network from the pinned modules' own sources.

Strict: an unknown field is an error.
"""

import copy
import json
from pathlib import Path
from typing import Any, Final

import yaml

from hack.cluster.native import programs, versions

ROOT: Final = Path(__file__).resolve().parents[2]
DEFINITIONS: Final = "definitions.json"
LOCATION: Final = "{{ .ResourceKind }}{{ .KindSuffix }}.json"
_NEEDED: Final = {"keda": ("scaledobjects", "triggerauthentications"), "prometheus-operator": ("monitors", "rules")}
_INT_OR_STRING: Final = {"oneOf": [{"type": "string"}, {"type": "integer"}]}
_TYPES_OF_OUR_OWN: Final = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": _INT_OR_STRING,
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
}


class _Loader(yaml.CSafeLoader):
    """Safe; an enum may hold a bare `=`."""


def _equals(loader: _Loader, node: yaml.ScalarNode) -> str:
    return loader.construct_scalar(node)


_Loader.add_constructor("tag:yaml.org,2002:value", _equals)


def write(folder: Path) -> str:
    """Write the schemas and return the location that kubeconform is told."""
    _write_kubernetes(folder)
    for crd in _crds():
        _write_crd(folder, crd)
    return f"{folder}/{LOCATION}"


def _write_kubernetes(folder: Path) -> None:
    swagger = programs.source(versions.modules()["kubernetes"]) / "api/openapi-spec/swagger.json"
    definitions = json.loads(swagger.read_text())["definitions"]
    strict = {name: _TYPES_OF_OUR_OWN.get(name) or _strict(definition) for name, definition in definitions.items()}
    text = json.dumps(strict).replace("#/definitions/", f"{DEFINITIONS}#/")
    (folder / DEFINITIONS).write_text(text)
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            schema = {"$ref": f"{DEFINITIONS}#/{name}"}
            _write(folder, kind["kind"], kind["group"], kind["version"], schema)


def _crds() -> list[dict[str, Any]]:
    files = [*(ROOT / "crds").glob("*.yaml")]
    for name, folder in (("keda", "config/crd/bases"), ("prometheus-operator", "example/prometheus-operator-crd")):
        source = programs.source(versions.modules()[name]) / folder
        files += [file for file in source.glob("*.yaml") if file.stem.endswith(_NEEDED[name])]
    return [yaml.load(file.read_text(), Loader=_Loader) for file in files]


def _write_crd(folder: Path, crd: dict[str, Any]) -> None:
    spec = crd["spec"]
    for version in spec["versions"]:
        schema = _strict(copy.deepcopy(version["schema"]["openAPIV3Schema"]))
        schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}}
        _write(folder, spec["names"]["kind"], spec["group"], version["name"], schema)


def _write(folder: Path, kind: str, group: str, version: str, schema: dict[str, Any]) -> None:
    # kubeconform asks by the first part of a group only.
    name = "-".join(filter(None, (kind.lower(), group.partition(".")[0], version)))
    (folder / f"{name}.json").write_text(json.dumps(schema))


def _strict(schema: Any) -> Any:
    """A schema that refuses what it does not know, as kubectl's strict field validation does."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return _INT_OR_STRING
    made = {
        # A map of field names is not a schema, even if a field is called `properties`.
        key: {name: _strict(field) for name, field in value.items()} if key == "properties" else _strict(value)
        for key, value in schema.items()
    }
    open_ended = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if isinstance(made.get("properties"), dict) and not open_ended and made.get("type", "object") == "object":
        made["additionalProperties"] = False
    return made
