"""The command line. Exit codes: 0 done, 1 failed, 2 wrong arguments."""

import argparse
import sys
from pathlib import Path

from hack.cluster.state import State, default_state
from hack.images import base, builder, sbom
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
        if name == "sbom":
            made.add_argument("--archive", type=Path, metavar="FILE", help="of an image that is already built")
    for name, text in (
        ("pin", "write the digest that the registry has now for the base into the Dockerfiles"),
        ("audit", "ask OSV for known vulnerabilities of the Python packages in the image; fails if there are any"),
    ):
        commands.add_parser(name, help=text, description=text).set_defaults(names=[])
    return root


def main() -> int:
    """Run the command of the command line."""
    arguments = parser()
    options = arguments.parse_args()
    if options.command == "audit":
        return sbom.audit()
    if options.command == "pin":
        return _pin(options.cache)
    unknown = sorted(set(options.names) - set(recipes()))
    if unknown:
        arguments.error(f"no image {', '.join(unknown)}: there are {', '.join(recipes())}")
    names = options.names or (["dtq"] if options.command == "sbom" else list(recipes()))
    if options.command == "sbom" and names != ["dtq"]:
        arguments.error("sbom: only dtq's own image has one; the demo servers are plain Debian")
    chosen = [recipe for name, recipe in recipes().items() if name in names]
    try:
        for recipe in chosen:
            print(_line(options, recipe), flush=True)
    except HackError as error:
        say(f"error: {error}")
        return 1
    return 0


def _pin(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        print(base.renew(folder / "pin.log"))
    except HackError as error:
        say(f"error: {error}")
        return 1
    return 0


def _line(options: argparse.Namespace, recipe: Recipe) -> str:
    folder = options.cache.resolve()
    if options.command == "tags":
        return recipe.reference
    if options.command == "load":
        load(recipe, folder, State(default_state().resolve()))
        return recipe.reference
    if options.command == "sbom":
        return sbom.of(recipe, options.archive or builder.build(recipe, folder))
    archive = builder.build(recipe, folder)
    if recipe.name == "dtq":
        sbom.attach(recipe, archive)
    return f"{recipe.reference} {archive}"


if __name__ == "__main__":
    sys.exit(main())
