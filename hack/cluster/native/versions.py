"""Reads versions.toml: the programs and how each is built. An unknown name or a malformed file is an error."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from hack.lib.errors import HackError

HERE = Path(__file__).resolve().parent
VERSIONS_FILE = HERE / "versions.toml"
GOMOD_FOLDER = HERE / "gomod"


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A pinned Go module and the programs built from it."""

    name: str
    path: str
    version: str
    build: Literal["module", "install"]
    ldflags: tuple[str, ...]
    tags: tuple[str, ...]
    programs: dict[str, str]

    @property
    def folder(self) -> Path:
        """The committed Go module it is built in (`build = "module"`)."""
        return GOMOD_FOLDER / self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program: its name and the package it is built from."""

    name: str
    module: Module

    @property
    def package(self) -> str:
        """Its main package: an import path, or `.` for the committed module's own."""
        place = self.module.programs[self.name]
        return place if place == "." else "/".join(filter(None, (self.module.path, place)))

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of `go build`: tags that leave parts out, then the linker flags."""
        tags = ("-tags", ",".join(self.module.tags)) if self.module.tags else ()
        return (*tags, "-ldflags", self.ldflags)

    @property
    def ldflags(self) -> str:
        """The linker flags: without debug information, with the version."""
        version = self.module.version
        major, minor = _major_minor(version)
        kubernetes_major, kubernetes_minor = _major_minor(modules()["kubernetes"].version)
        facts = {
            "version": version,
            "major": major,
            "minor": minor,
            "kubernetes_major": kubernetes_major,
            "kubernetes_minor": kubernetes_minor,
        }
        stated = (flag.format_map(facts) for flag in self.module.ldflags)
        return " ".join(("-s -w", *stated))


def _major_minor(version: str) -> tuple[str, str]:
    major, minor, *_ = [*version.removeprefix("v").split("."), ""]
    return major, minor


def _module(name: str, table: dict[str, object]) -> Module:
    match table:
        case {
            "path": str(path),
            "version": str(version),
            "build": "module" | "install" as build,
            "programs": dict(programs),
        }:
            flags, tags = table.get("ldflags", []), table.get("tags", [])
            assert isinstance(flags, list)
            assert isinstance(tags, list)
            return Module(
                name=name,
                path=path,
                version=version,
                build=build,
                ldflags=tuple(map(str, flags)),
                tags=tuple(map(str, tags)),
                programs={str(key): str(value) for key, value in programs.items()},
            )
        case _:
            raise HackError(f"{VERSIONS_FILE}: [modules.{name}] is malformed: {table}")


@cache
def modules() -> dict[str, Module]:
    """Every pinned module, by its name."""
    tables = tomllib.loads(VERSIONS_FILE.read_text())["modules"]
    return {name: _module(name, table) for name, table in tables.items()}


@cache
def debian_packages() -> dict[str, str]:
    """Package name to the command (or file) that shows that it is installed."""
    table = tomllib.loads(VERSIONS_FILE.read_text())["debian"]
    return {str(name): str(command) for name, command in table.items()}


def program(name: str) -> Program:
    """The pinned program called `name`."""
    for module in modules().values():
        if name in module.programs:
            return Program(name=name, module=module)
    known = ", ".join(sorted(program_names()))
    raise HackError(f"{name}: not a program of {VERSIONS_FILE}", next_step=f"choose one of {known}")


def program_names() -> list[str]:
    """Every program's name, in the file's order."""
    return [name for module in modules().values() for name in module.programs]


def node_image() -> str:
    """The image that kind makes its node from."""
    return str(tomllib.loads(VERSIONS_FILE.read_text())["kind"]["node_image"])
