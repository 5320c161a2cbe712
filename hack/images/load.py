"""Loads images into the cluster: each under its own tag, and under the name that the chart uses by default.

Skips an archive that is already loaded: its path names its content, and the cluster's folder ends with the cluster.
"""

from pathlib import Path
from typing import Any

import yaml

from hack.cluster import providers
from hack.cluster.state import State
from hack.images import builder
from hack.images.recipes import ROOT, Recipe
from hack.lib.errors import HackError
from hack.lib.report import step

CHART = ROOT / "charts" / "dtq"


def load(recipe: Recipe, cache: Path, state: State) -> None:
    """Load an image into the cluster; build it if necessary.

    Raises:
        HackError: there is no cluster, or its nodes cannot be given images.
    """
    name = state.provider()
    if name is None:
        raise HackError(f"no cluster in {state.folder}", next_step="make cluster-up")
    archive = builder.build(recipe, cache)
    noted = state.folder / "images" / recipe.name
    further = chart_name(recipe)
    what = f"{archive}\n{further}\n"
    if noted.exists() and noted.read_text() == what:
        return
    with step(f"load {recipe.reference}"):
        provider = providers.by_name(name)
        provider.load(state, archive)
        provider.tag(state, recipe.reference, further)
    noted.parent.mkdir(exist_ok=True)
    noted.write_text(what)


def chart_name(recipe: Recipe) -> str:
    """Return the name of the image that the chart uses by default."""
    values: Any = yaml.safe_load((CHART / "values.yaml").read_text())
    if recipe.name == "dtq":
        version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
        return f"{values['image']['repository']}:{version}"
    return str(values["demo"][recipe.name.removeprefix("dtq-demo-")]["image"])
