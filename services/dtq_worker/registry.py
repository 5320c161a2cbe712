"""The registry: loads the handler of each type from modules and entry points.

An import error, a type with two handlers, or no handler at all stops the start.
"""

import importlib
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from types import ModuleType
from typing import Final

from dtq.domain.errors import Problem, Rejected
from dtq.handlers import Handler

ENTRY_POINT_GROUP: Final = "dtq.handlers"
"""The entry point group in which packages list their handler modules."""


def load(modules: Iterable[str]) -> Mapping[str, Handler]:
    """Return the handlers of the named modules and of installed packages, by type.

    Raises:
        Rejected: `InvalidHandlers`, with every problem.
    """
    problems: list[Problem] = []
    found: dict[str, tuple[str, Handler]] = {}
    names = [*modules, *(point.value for point in entry_points(group=ENTRY_POINT_GROUP))]
    for name in dict.fromkeys(names):
        module = _import(name, problems)
        for handler in _handlers(module) if module else ():
            other = found.get(handler.type)
            if other is not None and other[1] is not handler:
                message = f"type {handler.type} already has a handler in {other[0]}: remove one"
                problems.append(Problem(path=name, message=message))
            found.setdefault(handler.type, (name, handler))
    if not found and not problems:
        problems.append(
            Problem(
                path="WORKER_HANDLERS", message="no module has a function with @handler: name a module that has one"
            )
        )
    if problems:
        listing = "\n".join(f"  {problem.path}: {problem.message}" for problem in problems)
        raise Rejected("InvalidHandlers", f"handlers cannot be loaded:\n{listing}", tuple(problems))
    return {type_: handler for type_, (_, handler) in found.items()}


def _import(name: str, problems: list[Problem]) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - a foreign module may raise anything, and must be named
        problems.append(Problem(path=name, message=f"cannot be imported: {type(error).__name__}: {error}"))
        return None


def _handlers(module: ModuleType) -> list[Handler]:
    return [value for value in vars(module).values() if isinstance(value, Handler)]
