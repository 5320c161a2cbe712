"""Renders the chart in tests: with the pinned helm, from the value sets of its `ci/`, without a cluster."""

import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from hack.cluster.native import programs

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "charts/dtq"
VALUE_SETS: Final = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
KUBE_VERSION: Final = "1.34.4"
Object = dict[str, Any]


@cache
def helm() -> str:
    """Where helm is."""
    return str(programs.ensure(["helm"])["helm"])


def values_file(name: str) -> Path:
    """The file of a value set."""
    return CHART / "ci" / f"{name}-values.yaml"


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run helm; the caller looks at the exit code."""
    return subprocess.run([helm(), *arguments], capture_output=True, text=True, check=False, timeout=60)


def text(name: str = "minimal", overrides: Mapping[str, Any] | None = None, *more: str) -> str:
    """The manifests of a value set, with values over it, as helm prints them.

    Raises:
        AssertionError: helm refuses them.
    """
    done = template(name, overrides, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def template(
    name: str = "minimal", overrides: Mapping[str, Any] | None = None, *more: str
) -> "subprocess.CompletedProcess[str]":
    """Render a value set, with values over it, into the namespace dtq as release `dtq`."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(dict(overrides or {}), file)
        return run(
            *("template", "dtq", str(CHART), "--namespace", "dtq", "--kube-version", KUBE_VERSION),
            *("--values", str(values_file(name)), "--values", file.name, *more),
        )


def refusal(overrides: Mapping[str, Any]) -> str:
    """What helm says of values that it must refuse."""
    done = template("minimal", overrides)
    assert done.returncode != 0, "helm accepted the values"
    return done.stderr


@cache
def objects_of(name: str) -> tuple[Object, ...]:
    """The objects of a value set as it is."""
    return parse(text(name))


def objects(overrides: Mapping[str, Any], name: str = "minimal") -> tuple[Object, ...]:
    """The objects of a value set with values over it."""
    return parse(text(name, overrides))


def parse(manifests: str) -> tuple[Object, ...]:
    """The objects of a text."""
    return tuple(obj for obj in yaml.safe_load_all(manifests) if obj)


def of_kind(found: tuple[Object, ...], kind: str) -> dict[str, Object]:
    """Objects of a kind, by name."""
    return {obj["metadata"]["name"]: obj for obj in found if obj["kind"] == kind}


def pod_specs(found: tuple[Object, ...]) -> dict[str, Object]:
    """Every pod's spec, by `kind/name` of what makes it."""
    specs = {}
    for obj in found:
        spec = obj.get("spec") or {}
        template_ = spec if obj["kind"] == "Pod" else (spec.get("template") or {}).get("spec")
        if template_ and "containers" in template_:
            specs[f"{obj['kind']}/{obj['metadata']['name']}"] = template_
    return specs


def containers(spec: Object) -> list[Object]:
    """Every container of a pod, init containers first."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def env(container: Object) -> dict[str, str]:
    """Plain environment variables of a container."""
    return {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}
