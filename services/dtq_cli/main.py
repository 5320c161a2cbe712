"""The command `dtq`: arguments, exit codes and output.

Each process is imported only by its own sub-command, so that an image needs only the extra of its process.
"""

import asyncio
import importlib
import os
import sys
from collections.abc import Coroutine
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import typer

from dtq.domain.durations import parse_duration
from dtq.domain.errors import Rejected, Unavailable
from dtq.runtime import failpoints, logs
from dtq.runtime.environment import load, masked, unknown_names
from dtq.runtime.loops import end_on_signals
from dtq.runtime.settings import (
    AllSettings,
    ApiSettings,
    CommonSettings,
    DatabaseSettings,
    MaintenanceSettings,
    OperatorSettings,
    WorkerSettings,
)

EXIT_USAGE: Final = 2
EXIT_NOT_FOUND: Final = 3
EXIT_REFUSED: Final = 4
EXIT_UNAVAILABLE: Final = 5

app = typer.Typer(
    name="dtq",
    help="A Kubernetes-native distributed task queue. Settings come from the environment: see `dtq config --help`.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
migrations_help = "Apply the database's migrations; safe to repeat and to run at the same time."
T = TypeVar("T")
S = TypeVar("S", bound=DatabaseSettings)


@app.command()
def api() -> None:
    """Run the HTTP API and the maintenance loops until SIGTERM."""
    _process("dtq_api.main", ApiSettings)


@app.command()
def maintenance() -> None:
    """Run only the maintenance roles until SIGTERM; set DTQ_API_MAINTENANCE=off for the APIs."""
    _process("dtq_maintenance.main", MaintenanceSettings)


@app.command()
def worker() -> None:
    """Run a worker until SIGTERM, then drain."""
    _process("dtq_worker.main", WorkerSettings)


@app.command()
def operator() -> None:
    """Run the Kubernetes operator until SIGTERM."""
    _process("dtq_operator.main", OperatorSettings)


@app.command(help=migrations_help)
def migrate(
    status: Annotated[
        bool, typer.Option("--status", help="Show the applied and the pending migrations; change nothing.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Fail if a migration is pending; change nothing.")] = False,
    roles: Annotated[
        bool, typer.Option("--roles", help="Also create the database roles, and grant each what its process needs.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--print", help="With --roles: print the SQL for an administrator; change nothing.")
    ] = False,
    wait: Annotated[
        str, typer.Option(help="How long to wait for the database, and with --check for the schema.")
    ] = "0s",
) -> None:
    """Apply or show the migrations."""
    from dtq_db import migrations  # noqa: PLC0415

    chosen = settings(DatabaseSettings)
    seconds = _seconds(wait)
    if show:
        if not roles:
            raise typer.BadParameter("--print is for --roles")
        print(_run(migrations.patiently(lambda: migrations.roles_script(chosen.dsn), seconds)), end="")
        return
    if check:
        _run(migrations.patiently(lambda: migrations.check(chosen.dsn), seconds))
        print("the schema is up to date")
        return
    if status:
        found = _run(migrations.status(chosen.dsn))
        for name in found.applied:
            print(f"applied  {name}")
        for name in found.pending:
            print(f"pending  {name}")
        return
    applied = _run(migrations.patiently(lambda: migrations.migrate(chosen.dsn, with_roles=roles), seconds))
    for name in applied:
        print(f"applied  {name}")
    if not applied:
        print("nothing to apply: the schema is up to date")
    if roles:
        print("the roles exist and have their grants: grant each process's user its role")


@app.command()
def config() -> None:
    """Show the settings in force, by variable name, with secrets masked."""
    for name, value in masked(settings(AllSettings)).items():
        print(f"{name}={value}")


@app.command()
def apply(
    file: Annotated[Path, typer.Option("--file", "-f", help="A YAML file, a folder of them, or - for stdin.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan for the current state; change nothing.")
    ] = False,
    if_absent: Annotated[
        bool, typer.Option("--if-absent", help="Keep objects that are already declared, even if they differ.")
    ] = False,
) -> None:
    """Apply TaskType and QueueSet manifests to Postgres and RabbitMQ."""
    from dtq_cli import manifests  # noqa: PLC0415

    refused = _run(
        manifests.apply(settings(CommonSettings), manifests.read(file), dry_run=dry_run, if_absent=if_absent)
    )
    if refused:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def delete(
    file: Annotated[Path, typer.Option("--file", "-f", help="A YAML file, a folder of them, or - for stdin.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan for the current state; change nothing.")
    ] = False,
) -> None:
    """Delete the objects that manifests declare, as the deletionPolicy of each says."""
    from dtq_cli import manifests  # noqa: PLC0415

    refused = _run(manifests.delete(settings(CommonSettings), manifests.read(file), dry_run=dry_run))
    if refused:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def get(
    kind: Annotated[str, typer.Argument(help="tasktypes (tt) or queuesets (qs).")],
    name: Annotated[str | None, typer.Argument(help="The name of one object.")] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="The format: table, name or json.")] = "table",
) -> None:
    """Show the declared task types or queue sets."""
    from dtq_cli import manifests  # noqa: PLC0415

    if not _run(manifests.get(settings(CommonSettings), kind, name, output)):
        raise typer.Exit(EXIT_NOT_FOUND)


@app.command()
def token(
    name: Annotated[str, typer.Argument(help="The name of the caller, such as keda; the policy calls it token:NAME.")],
    expires: Annotated[
        str | None, typer.Option(help="The first day on which the token is refused, such as 2027-01-31.")
    ] = None,
) -> None:
    """Create a bearer token; print it, and its line for DTQ_AUTH_TOKENS_FILE, which contains only its hash."""
    from dtq_api.auth.tokens import new_token  # noqa: PLC0415

    try:
        until = date.fromisoformat(expires) if expires else None
    except ValueError as error:
        raise typer.BadParameter("must be a date such as 2027-01-31") from error
    made, line = new_token(name, until)
    print(f"token: {made}\nline:  {line}")


@app.command(name="version")
def show_version() -> None:
    """Show the version."""
    print(f"dtq {version('dtq')}")


def settings(kind: type[S]) -> S:
    """Return the settings of a process, or exit with a list of all mistakes."""
    for name in unknown_names(os.environ):
        print(f"dtq: warning: {name} is set, but no setting has that name", file=sys.stderr)
    return load(os.environ, kind)


def main() -> None:
    """Run the command; an expected error becomes one message and an exit code."""
    try:
        app()
    except Rejected as error:
        _end(str(error), EXIT_USAGE)
    except Unavailable as error:
        _end(f"{error}\ntry again when it answers; nothing was left half-done", EXIT_UNAVAILABLE)


def _process(module: str, kind: type[CommonSettings]) -> None:
    end_on_signals()
    chosen = settings(kind)
    logs.configure(level=chosen.log_level, json=chosen.log_format == "json")
    failpoints.arm(chosen.failpoints)
    try:
        importlib.import_module(module).main(chosen)
    except OSError as error:
        _end(str(error), 1)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise Rejected("InvalidOption", f"--wait: {error}") from error


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def _end(message: str, code: int) -> NoReturn:
    print(f"dtq: {message}", file=sys.stderr)
    raise SystemExit(code)
