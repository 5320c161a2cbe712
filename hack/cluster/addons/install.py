"""Installs addons into a cluster: images, objects, then a wait until each addon works.

The images come first, so that a cluster whose nodes cannot be given images stays unchanged.
"""

import platform
import tempfile
from pathlib import Path

from hack.cluster import images, kubectl
from hack.cluster.addons import keda, monitoring
from hack.cluster.addons.addon import Addon, Json, image
from hack.cluster.native import programs
from hack.cluster.providers import Provider
from hack.cluster.state import State
from hack.lib.errors import HackError
from hack.lib.report import step

ADDONS = {addon.name: addon for addon in (keda.ADDON, monitoring.ADDON)}
# The metrics adapter waits for a certificate that KEDA's operator makes; kubelet syncs it every minute or two.
READY_TIMEOUT_SECONDS = 300
APPLY_TIMEOUT_SECONDS = 120


def build(names: list[str]) -> None:
    """Build the programs of each addon, and fetch the sources that its objects are read from."""
    programs.ensure(program for name in names for program in ADDONS[name].programs)
    for name in names:
        ADDONS[name].objects()


def install(state: State, provider: Provider, names: list[str]) -> None:
    """Build, load and apply each addon; return when all of them work. Safe to repeat."""
    build(names)
    for name in names:
        addon = ADDONS[name]
        with step(f"images of {name}"):
            _load(state, provider, addon)
        with step(f"objects of {name}"):
            _apply(state, addon)
    for name in names:
        with step(f"{name} works"):
            _wait(state, ADDONS[name])


def _load(state: State, provider: Provider, addon: Addon) -> None:
    with tempfile.TemporaryDirectory(dir=state.folder) as folder:
        for name, path in programs.ensure(addon.programs).items():
            archive = Path(folder) / f"{name}.tar"
            machine = platform.machine()
            images.write_archive(archive, name=image(name), program=path, machine=machine, folder=addon.image_folder)
            provider.load(state, archive)
            archive.unlink()


def _apply(state: State, addon: Addon) -> None:
    objects = addon.objects()
    definitions = [item for item in objects if item["kind"] == "CustomResourceDefinition"]
    others = [item for item in objects if item["kind"] != "CustomResourceDefinition"]
    # A definition is too large for the last-applied annotation of kubectl: the server must merge.
    apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    _kubectl(state, *apply, manifest=_list(definitions))
    names = [f"crd/{_name(item)}" for item in definitions]
    _kubectl(state, "wait", "--for=condition=Established", f"--timeout={APPLY_TIMEOUT_SECONDS}s", *names)
    _kubectl(state, *apply, manifest=_list(others))


def _wait(state: State, addon: Addon) -> None:
    for resource, condition in addon.ready:
        asked = ("wait", "-n", addon.namespace, f"--for=condition={condition}", resource)
        try:
            kubectl.run(
                state.kubeconfig,
                *asked,
                f"--timeout={READY_TIMEOUT_SECONDS}s",
                timeout_seconds=READY_TIMEOUT_SECONDS,
            )
        except HackError as error:
            log = state.folder / "logs" / f"addon-{addon.name}.log"
            log.write_text(kubectl.run(state.kubeconfig, "describe", "pods,events", "-n", addon.namespace))
            raise HackError(f"the addon {addon.name} does not work: {error}", log=log) from error


def _kubectl(state: State, *arguments: str, manifest: Json | None = None) -> None:
    kubectl.run(state.kubeconfig, *arguments, manifest=manifest, timeout_seconds=APPLY_TIMEOUT_SECONDS)


def _list(items: list[Json]) -> Json:
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _name(item: Json) -> str:
    metadata = item["metadata"]
    assert isinstance(metadata, dict)
    return str(metadata["name"])
