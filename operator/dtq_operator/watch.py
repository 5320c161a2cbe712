"""The watch: runs kopf in a thread with an event loop of its own, and passes on watch events.

kopf treats its event loop as its own: when it ends, it cancels every task that started after it, and it replaces the
signal handlers of the main thread. In its own thread it cannot cancel our tasks. Its shutdown is unbounded: it waits
for its tasks as long as they take, and watches nothing meanwhile; hence `END_SECONDS`.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import kopf
import structlog

from dtq.domain.errors import Unavailable
from dtq.domain.manifests import GROUP, VERSION
from dtq.runtime.loops import Retries, wait
from dtq_operator.events import COMPONENT
from dtq_operator.kube import PLURALS, Object
from dtq_operator.store import Key, key_of, version

RESTART_SECONDS: Final = 1.0
"""Pause before kopf is started again after its first failure, in seconds."""
LASTING_SECONDS: Final = 60.0
"""How long kopf must have run before its next failure counts as the first one, in seconds."""
KOPF_SECONDS: Final = 10.0
"""How long kopf's shutdown may take after its first task has ended, before its tasks are cancelled, in seconds."""
END_SECONDS: Final = 15.0
"""Longest wait for the end of kopf's thread, in seconds: more than kopf may take, less than a pod's grace period."""

CONNECTION_CLOSE_SECONDS: Final = 0.1
"""How long kopf's connections may take to close, in seconds, before the loop ends."""

EventCallback = Callable[[str | None, Key, Object], None]
"""Takes a watch event: `DELETED`, another type, or None for an object that existed before."""

_log = structlog.get_logger(__name__)


class Watch:
    """Watches every TaskType and QueueSet.

    Args:
        settings: kopf's.
        namespaces: the watched namespaces; empty means all.
        told: called in the loop that runs `run`, once for each event.
    """

    def __init__(self, settings: kopf.OperatorSettings, namespaces: tuple[str, ...], told: EventCallback) -> None:
        self._settings = settings
        self._namespaces = namespaces
        self._told = told
        self.versions: dict[Key, int] = {}
        """The newest version of each object that the watch itself has reported."""

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop`; if kopf ends on its own, start it again."""
        retries = Retries(first_seconds=RESTART_SECONDS)
        while not stop.is_set():
            began = time.monotonic()
            error = await self._one_life(stop)
            if stop.is_set():
                return
            if time.monotonic() - began > LASTING_SECONDS:
                retries.succeeded()
            retries.failed()
            _log.error("watch restarted", exc_info=error)
            await retries.pause(stop)

    async def _one_life(self, stop: asyncio.Event) -> BaseException | None:
        """Run kopf until it begins to end or `stop`, and wait a bounded time for its end; return what ended it."""
        ours = asyncio.get_running_loop()
        ending, ended = asyncio.Event(), asyncio.Event()

        async def main(stopping: asyncio.Event) -> None:
            await self._kopf(ours, stopping, lambda: ours.call_soon_threadsafe(ending.set))

        life = _KopfThread(main, lambda: ours.call_soon_threadsafe(ended.set))
        life.start()
        waiting = [asyncio.create_task(event.wait()) for event in (stop, ending, ended)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            life.end()
            if not await wait(ended, END_SECONDS):
                _log.warning("kopf thread abandoned", waited_seconds=END_SECONDS)
            for task in waiting:
                task.cancel()
        return life.error

    async def _kopf(
        self, ours: asyncio.AbstractEventLoop, stopping: asyncio.Event, ending: Callable[[], object]
    ) -> None:
        async def on_event(*, type: str | None, event: Any, param: Any = None, **_: Any) -> None:  # noqa: A002
            ours.call_soon_threadsafe(self._on_event, type, param, event["object"])

        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(_login)
        for kind, plural in PLURALS.items():
            kopf.on.event(GROUP, VERSION, plural, registry=registry, id=f"on-{plural}", param=kind)(on_event)
        before = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=self._settings,
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=stopping,
        )
        try:
            # Each of these tasks ends only when all of kopf ends.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            ending()
            async with asyncio.timeout(KOPF_SECONDS):
                await kopf.run_tasks(tasks, ignored=before)
        finally:
            await asyncio.sleep(CONNECTION_CLOSE_SECONDS)
        if not stopping.is_set():
            raise Unavailable("kopf ended unexpectedly")

    def _on_event(self, type_: str | None, kind: str, obj: Object) -> None:
        key = key_of(kind, obj)
        if type_ == "DELETED":
            self.versions.pop(key, None)
        else:
            self.versions[key] = version(obj)
        self._told(type_, key, obj)


class _KopfThread:
    """A thread with an event loop that runs one coroutine."""

    def __init__(self, main: Callable[[asyncio.Event], Any], ended: Callable[[], object]) -> None:
        self._main = main
        self._ended = ended
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)
        self.error: BaseException | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def end(self) -> None:
        """Ask the coroutine to end."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._main(self._stopping))
        except BaseException as error:  # noqa: BLE001 - the loop that waits for this thread reports it
            self.error = error
        finally:
            self._ended()


def _login(*, settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)


def configure() -> kopf.OperatorSettings:
    """Return kopf's settings: no peering, no scanning, bounded waits, few logs."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.posting.reporting_component = COMPONENT
    settings.watching.connect_timeout = 5
    settings.watching.client_timeout = 600
    settings.watching.inactivity_timeout = 70
    settings.watching.reconnect_backoff = 1.0
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = (1, 2, 3, 5, 8, 13)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    # It warns that it does not handle signals; that is intended: it runs in a thread.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    return settings
