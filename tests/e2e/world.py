"""What the steps of the mission share: the release, the recorder, the measurements, and the history to judge."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.e2e.kube import Kube, Object
from tests.e2e.recorder import Recorder
from tests.e2e.release import CLIENT, FAILING, NAME, NAMESPACE, STEADY, Release
from tests.e2e.watching import Replicas
from tests.faults import history
from tests.faults.checker import Verdict, check_folder
from tests.faults.invariants.index import Limits

LOAD_EVERY_SECONDS = 0.25
LOAD_TASK_SECONDS = 0.5
ASK_SECONDS = 30
CONTROL_SECONDS = 90
DEAD_LETTERS_MAX = 100
API = f"http://{NAME}-api.{NAMESPACE}.svc:8080"
ROTATED = "rotated-by-e2e"
LIMITS = Limits(
    # A burst waits for pods to start, and there are more tasks than slots.
    waiting_seconds=150.0,
    terminal_seconds=240.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the mission, and how long it took."""

    name: str
    seconds: float


@contextmanager
def measured(steps: list[Step], name: str) -> Iterator[None]:
    """Measure a step; a failed step is not recorded."""
    begun = time.monotonic()
    yield
    steps.append(Step(name=name, seconds=time.monotonic() - begun))


@dataclass(slots=True, kw_only=True)
class World:
    """One run of the mission."""

    kube: Kube
    release: Release
    recorder: Recorder
    folder: Path
    started_at: float
    steps: list[Step] = field(default_factory=list)
    replicas: list[Replicas] = field(default_factory=list)
    rules: list[Object] = field(default_factory=list)
    dashboard_queries: int = 0
    faults: list[history.Injected] = field(default_factory=list)
    verdict: Verdict | None = None
    failing: int = 0

    def step(self, name: str) -> AbstractContextManager[None]:
        """Measure a step for the report."""
        return measured(self.steps, name)

    def finished(self, what: str, *, seconds: float) -> None:
        """Wait until all that was ordered was accepted, and has succeeded."""

        def done() -> bool:
            ordered = self.recorder.ordered
            return self.recorder.accepted == ordered <= self.recorder.succeeded + self.failing

        try:
            self.kube.until(f"{what} succeeds", done, namespace=NAMESPACE, seconds=seconds)
        except Exception as error:
            counts = f"{self.recorder.ordered} ordered, {self.recorder.accepted} accepted, {self.recorder.succeeded} ok"
            last = self.recorder.calls[-1] if self.recorder.calls else None
            raise AssertionError(f"{counts}; last answer: {last}\n{error}") from error

    def order(self, type_: str, tasks: int, *, seconds: float) -> None:
        """Order tasks that take so long, all at once."""
        for _ in range(tasks):
            self.recorder.order(type_, {"seconds": seconds})

    def load(self, tasks: int) -> None:
        """Order short tasks, all at once."""
        self.order(STEADY, tasks, seconds=LOAD_TASK_SECONDS)

    @contextmanager
    def under_load(self) -> Iterator[None]:
        """Order a task every quarter of a second while something happens; afterwards all of them must succeed."""
        over = threading.Event()

        def order() -> None:
            while not over.wait(LOAD_EVERY_SECONDS):
                self.load(1)

        thread = threading.Thread(target=order)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        self.finished("the load", seconds=240)

    @contextmanager
    def fault(self, name: str, target: str = "") -> Iterator[None]:
        """Record what is broken and until when: the checker excuses tasks that wait meanwhile."""
        at = time.time()
        yield
        self.faults.append(history.Injected(at=at, until=time.time(), name=name, target=target))

    def ask_api(self, path: str, body: Object | None = None, *, token: str | None = None) -> int:
        """Send a request to the API's Service from the client's pod; return the status."""
        return int(self._ask(f"{API}{path}", body, f"Bearer {token}" if token else None)["status"])

    def hint(self, queue: str) -> Any:
        """Return the scaling hint of a queue, as KEDA reads it."""
        said = self._ask(f"{API}/queues/{queue}/scaling", None, f"Bearer {self.release.token}")
        assert said["status"] == HTTPStatus.OK, said
        return json.loads(said["body"])

    def rows(self, columns: str, type_: str) -> list[list[str]]:
        """Return columns of the rows of a type's tasks."""
        dsn = self.release.secret(f"{NAME}-demo-postgres")["dsn"]
        asked = f"SELECT {columns} FROM tasks WHERE type = '{type_}' ORDER BY id"
        return [line.split("|") for line in self.release.psql(dsn, asked)]

    def _ask(self, url: str, body: Object | None, authorization: str | None) -> Any:
        asked = json.dumps({"url": url, "body": body, "authorization": authorization})
        client = ("exec", "-n", NAMESPACE, CLIENT, "--", "python", "/e2e/ask.py")
        return json.loads(self.kube.run(*client, asked, timeout_seconds=ASK_SECONDS))

    def dead_letters(self) -> list[history.DeadLetter]:
        """Return the messages of the dead letter queue, which stay there."""
        login = self.release.secret(f"{NAME}-demo-rabbitmq")
        basic = base64.b64encode(f"{login['username']}:{login['password']}".encode()).decode()
        url = f"http://{NAME}-demo-rabbitmq.{NAMESPACE}.svc:15672/api/queues/%2F/tasks.dlq/get"
        body = {"count": DEAD_LETTERS_MAX, "ackmode": "ack_requeue_true", "encoding": "auto"}
        said = self._ask(url, body, f"Basic {basic}")
        assert said["status"] == HTTPStatus.OK, said
        return [history.DeadLetter(id=json.loads(message["payload"])["id"]) for message in json.loads(said["body"])]

    def queues(self) -> dict[str, int]:
        """Return the number of messages in each queue of the broker."""
        said = self._control("list_queues", "name", "messages", "--no-table-headers")
        return {name: int(count) for name, count in (line.split("\t") for line in said.splitlines() if line)}

    def rotate_database_password(self) -> None:
        """Change the password of the database user, first in its Secret, then in Postgres; every session ends."""
        old = self.release.secret(f"{NAME}-demo-postgres")
        self._patch_secret("demo-postgres", dsn=old["dsn"].replace(old["password"], ROTATED), password=ROTATED)
        self.release.psql(
            old["dsn"],
            f"ALTER ROLE dtq PASSWORD '{ROTATED}'",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'dtq'",
        )

    def rotate_broker_password(self) -> None:
        """Change the password of the broker's user, first in its Secret, then in RabbitMQ; every connection ends."""
        self._patch_secret("demo-rabbitmq", password=ROTATED)
        user = self.release.secret(f"{NAME}-demo-rabbitmq")["username"]
        self._control("change_password", user, ROTATED)
        self._control("close_all_connections", "rotated")

    def _patch_secret(self, part: str, **values: str) -> None:
        patch = json.dumps({"stringData": values})
        self.kube.run("patch", "secret", f"{NAME}-{part}", "-n", NAMESPACE, "--type=merge", "-p", patch)

    def _control(self, *command: str) -> str:
        broker = ("exec", "-n", NAMESPACE, f"{NAME}-demo-rabbitmq-0", "--", "rabbitmqctl", "-q")
        return self.kube.run(*broker, *command, timeout_seconds=CONTROL_SECONDS)

    def restrict_broker(self, configure: str) -> None:
        """Let dtq's user declare only what matches an expression."""
        user = self.release.secret(f"{NAME}-demo-rabbitmq")["username"]
        self._control("set_permissions", "-p", "/", user, configure, ".*", ".*")

    def order_failing(self, type_: str = FAILING) -> None:
        """Order a task whose every attempt fails."""
        self.failing += 1
        self.recorder.order(type_, {})

    def open_rows(self) -> int:
        """Return how many tasks have not ended."""
        dsn = self.release.secret(f"{NAME}-demo-postgres")["dsn"]
        (count,) = self.release.psql(dsn, "SELECT count(*) FROM tasks WHERE status IN ('ENQUEUED', 'RUNNING')")
        return int(count)

    def take_rows(self) -> None:
        """Save the rows of Postgres and the messages of the broker beside the records of the recorder."""
        dsn = self.release.secret(f"{NAME}-demo-postgres")["dsn"]
        for kind, table in (("tasks", "tasks"), ("events", "task_events"), ("workers", "workers")):
            history.write(self.folder, kind, self.release.psql(dsn, f"SELECT to_jsonb(t) FROM {table} t"))
        history.write(self.folder, "dlq", self.dead_letters())
        history.write(self.folder, "span", [history.Span(started_at=self.started_at, ended_at=time.time())])

    def judge(self) -> Verdict:
        """Return the verdict of the fault suite's checker on the saved history."""
        history.write(self.folder, "faults", self.faults)
        self.verdict = check_folder(self.folder, LIMITS)
        return self.verdict
