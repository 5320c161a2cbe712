"""The commands of the local stack, step by step. Every failure is a `HackError`."""

import shutil
import time
from pathlib import Path
from typing import NoReturn

from hack.lib import report
from hack.lib.errors import HackError
from hack.stack import compose, demo, packages
from hack.stack.app import App
from hack.stack.compose import Compose
from hack.stack.handover import become
from hack.stack.native import Native
from hack.stack.provider import Part, Provider
from hack.stack.rabbitmq import USER
from hack.stack.settings import ROOT, Settings

SAMPLES = "examples/"
KEPT_IN_STATE = ("run", "log", "env", "stack.json")


def up(settings: Settings, wanted: str) -> None:
    """Start everything: servers, schema, samples, API, worker; a task proves that it works."""
    started = time.monotonic()
    app = App(settings)
    provider = _servers(settings, wanted)
    with report.step("Bringing the database's schema up to date: dtq migrate"):
        app.command("migrate")
    with report.step(f"Declaring the missing sample queues and types: dtq apply -f {SAMPLES}"):
        declared, unchanged = declare_samples(app)
    with report.step("Starting the API and a worker"):
        app.start()
    if unchanged:
        demo.run(app.url("api"), app.process("worker").log)
    else:
        report.say(f"==> The objects of {SAMPLES} have been changed and are kept: no sample task is run ({declared})")
    _tell(settings, app, provider, time.monotonic() - started)


def declare_samples(app: App) -> tuple[Path, bool]:
    """Declare the samples that are not there yet; return the log, and whether all are as their files say."""
    log = app.command("apply", "--if-absent", "-f", SAMPLES, may_be_refused=True)
    return log, demo.is_unchanged(app.command("apply", "--dry-run", "-f", SAMPLES, may_be_refused=True))


def down(settings: Settings) -> None:
    """Stop every process; the data stays."""
    _stop(_saved(settings))
    report.say("Everything is stopped. The data is kept: `make up` uses it again, `make destroy` deletes it.")


def destroy(settings: Settings) -> None:
    """Stop every process and delete the data of the stack."""
    saved = _saved(settings)
    App(saved).stop()
    with report.step("Deleting Postgres and RabbitMQ"):
        _known(saved).destroy()
    # Delete by name: a person may have chosen the folder and keep other things in it.
    for name in KEPT_IN_STATE:
        path = saved.state / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if saved.state.is_dir() and not any(saved.state.iterdir()):
        saved.state.rmdir()
    report.say("The local stack is deleted.")


def install(settings: Settings) -> None:
    """Install the packages of the servers and of the tests; nothing is started."""
    packages.ensure(settings.log_folder / "apt.log", for_tests=True)


def servers(settings: Settings) -> None:
    """Start Postgres and RabbitMQ only."""
    _servers(settings, "")


def run_dtq(settings: Settings, arguments: list[str]) -> NoReturn:
    """Run a command of dtq on the stack's servers, in the foreground."""
    app = App(settings)
    if arguments[:1] != ["config"]:
        with settings.lock():
            _servers(settings, "")
    if arguments[:1] in (["api"], ["worker"]):
        app.stop(arguments[0])
    app.become(*arguments)


def processes(settings: Settings) -> None:
    """Print what runs, where, and whether it is healthy."""
    saved = _saved(settings)
    parts = [*_known(saved).parts(), *App(saved).parts()]
    report.table([("part", "port", "pid", "state"), *(_row(part) for part in parts)])


def follow_logs(settings: Settings) -> NoReturn:
    """Print the end of each log, and follow all logs."""
    saved = _saved(settings)
    logs = [log for log in [*App(saved).logs(), *_known(saved).logs()] if log.exists()]
    if not logs:
        raise HackError("there is no log yet.", next_step="`make up`.")
    become("tail", "-n", "20", "-F", *map(str, logs))


def database_shell(settings: Settings, arguments: list[str]) -> NoReturn:
    """Open an SQL shell on the stack's database."""
    saved = _saved(settings)
    _known(saved).database_shell(arguments)


def _servers(settings: Settings, wanted: str) -> Provider:
    saved = _saved(settings)
    provider = _chosen(settings, wanted)
    if saved.ports != settings.ports or settings.provider not in ("", provider.name):
        report.say("==> The stack moves to other ports or another provider")
        _stop(saved)
    settings.save(provider.name)
    provider.start()
    return provider


def _stop(saved: Settings) -> None:
    App(saved).stop()
    provider = _known(saved)
    if any(part.process or part.healthy for part in provider.parts()):
        with report.step("Stopping Postgres and RabbitMQ"):
            provider.stop()


def _saved(settings: Settings) -> Settings:
    """Return the settings of the last `up`: what must be stopped may use other ports than the next `up`."""
    return settings.with_ports(settings.saved_ports or settings.ports)


def _known(settings: Settings) -> Provider:
    """Return the provider of the last `up`, without choosing one."""
    return Compose(settings) if settings.provider == "compose" else Native(settings)


def _chosen(settings: Settings, wanted: str) -> Provider:
    name = wanted or settings.provider
    if not name:
        obstacle = compose.obstacle()
        name = "native" if obstacle else "compose"
        reason = f"private processes, since {obstacle}" if obstacle else "containers, by Docker Compose"
        report.say(f"==> Postgres and RabbitMQ: {reason}")
    return Compose(settings) if name == "compose" else Native(settings)


def _short(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def _row(part: Part) -> tuple[str, ...]:
    state = "well" if part.healthy else "does not answer" if part.process else "stopped"
    return (part.name, str(part.port), str(part.process.pid) if part.process else "-", state)


def _tell(settings: Settings, app: App, provider: Provider, seconds: float) -> None:
    base = app.url("api")
    password = settings.home / "stack.json"
    print(
        f"""
dtq is up ({provider.name} servers, {seconds:.0f} s).

    API         {base}/          OpenAPI {base}/openapi.json
    health      {base}/healthz   metrics {base}/metrics
    worker      {app.url("worker")}/metrics
    RabbitMQ    http://127.0.0.1:{settings.ports["management"]}/  user {USER}, password in {password}

Try next:

    curl -s {base}/enqueue -H 'Content-Type: application/json' \\
        -d '{{"type": "email.send.v1", "payload": {{"to": "you@example.com", "subject": "Hi"}}}}'
    make ps          what runs
    make logs        follow the logs
    make db-shell    look at the tables
    set -a; . {_short(settings.state / "env")}; set +a; .venv/bin/dtq --help
    make down        stop, keep the data
""",
        flush=True,
    )
