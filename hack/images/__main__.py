"""The command line. Exit codes: 0 done, 1 failed, 2 wrong arguments."""

import argparse
import sys
from pathlib import Path

from hack.cluster.state import State, default_state
from hack.images import builder, sbom
from hack.images.load import load
from hack.images.recipes import Recipe, recipes
from hack.lib.errors import HackError
from hack.lib.report import say

DESCRIPTION = """\
Build dtq's images without a registry, from the same Dockerfiles that an engine reads. Linux, as root.

Archives are kept by content: the same checkout gives the same tag and is built once."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    root = argparse.ArgumentParser(
        prog="python -m hack.images", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root.add_argument(
        "--cache", type=Path, default=builder.default_folder(), metavar="DIR", help="where archives are (%(default)s)"
    )
    commands = root.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, text in (
        ("build", "build what is not in the cache; prints reference and archive, one image a line"),
        ("tags", "print the references that this checkout gives, and build nothing"),
        ("load", "put images into the cluster of `make cluster-up`, by their own names and by the chart's"),
        ("sbom", "print what an image is made of, as CycloneDX JSON; builds it if need be (dtq when no NAME is given)"),
    ):
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(recipes())}; all when none is given")
    return root


def main() -> int:
    """Run the command of the command line."""
    arguments = parser()
    options = arguments.parse_args()
    unknown = sorted(set(options.names) - set(recipes()))
    if unknown:
        arguments.error(f"no image {', '.join(unknown)}: there are {', '.join(recipes())}")
    names = options.names or (["dtq"] if options.command == "sbom" else list(recipes()))
    if options.command == "sbom" and names != ["dtq"]:
        arguments.error("sbom: only dtq's own image has one; the demo servers are plain Debian")
    chosen = [recipe for name, recipe in recipes().items() if name in names]
    try:
        for recipe in chosen:
            print(_line(options.command, recipe, options.cache.resolve()), flush=True)
    except HackError as error:
        say(f"error: {error}")
        return 1
    return 0


def _line(command: str, recipe: Recipe, folder: Path) -> str:
    if command == "tags":
        return recipe.reference
    if command == "load":
        load(recipe, folder, State(default_state().resolve()))
        return recipe.reference
    archive = builder.build(recipe, folder)
    return sbom.of(recipe, archive) if command == "sbom" else f"{recipe.reference} {archive}"


if __name__ == "__main__":
    sys.exit(main())
