"""What the operator's tests share: one namespace, one database, one virtual host, and bounded waits for their state."""

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg

from dtq.runtime.environment import load
from dtq.runtime.settings import OperatorSettings
from hack.cluster import kubectl
from hack.lib.errors import HackError
from hack.stack.management import Management
from tests.operator.switchable_proxy import SwitchableProxy
from tests.support.addresses import BrokerVhost
from tests.support.kube_api import ApiError, KubeApi, Object
from tests.support.waiting import CHANGE_SECONDS, eventually

GROUP_PATH: Final = "/apis/dtq.dev/v1alpha1"
PLURALS: Final = {"TaskType": "tasktypes", "QueueSet": "queuesets"}
TYPE: Final = "email.send.v1"


@dataclass(slots=True, kw_only=True)
class World:
    """A namespace of a real API server beside a database and a virtual host of its own."""

    kube: KubeApi
    kubeconfig: Path
    namespace: str
    dsn: str
    broker: BrokerVhost
    other_namespaces: list[str] = field(default_factory=list)

    # What people declare.

    def task_type(self, name: str = TYPE, *, annotations: Mapping[str, str] | None = None, **spec: Any) -> Object:
        """A TaskType."""
        return self._object("TaskType", name, annotations, spec)

    def queue_set(self, name: str = "default", *, annotations: Mapping[str, str] | None = None, **spec: Any) -> Object:
        """Return a QueueSet with one queue and one retry delay, in the test's virtual host."""
        small = {
            "namespace": "tasks",
            "queues": [{"name": "default"}],
            "retry": {"delaysSeconds": [5]},
        }
        return self._object("QueueSet", name, annotations, small | spec)

    def _object(self, kind: str, name: str, annotations: Mapping[str, str] | None, spec: Object) -> Object:
        metadata: Object = {"name": name, "namespace": self.namespace}
        if annotations:
            metadata["annotations"] = dict(annotations)
        return {"apiVersion": "dtq.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}

    async def create(self, *objects: Object) -> None:
        """Create objects, in this order."""
        for obj in objects:
            await self.kube.call("POST", self.path(obj["kind"], namespace=obj["metadata"]["namespace"]), obj)

    async def until_created(self, obj: Object) -> None:
        """Create an object that is refused until the change of its definition is in force."""

        async def created() -> bool:
            try:
                await self.create(obj)
            except ApiError as error:
                if error.status == HTTPStatus.UNPROCESSABLE_ENTITY:
                    return False
                raise
            return True

        await eventually(created, f"{obj['metadata']['name']} is let in", CHANGE_SECONDS)

    async def create_ready(self, *objects: Object) -> None:
        """Create objects, each once the one before is ready."""
        for obj in objects:
            await self.create(obj)
            await self.until(obj, "Ready", "True")

    async def patch(self, obj: Object, change: Object) -> Object:
        """Merge a change into an object."""
        changed: Object = await self.kube.call("PATCH", self.path_of(obj), change)
        return changed

    async def delete(self, obj: Object) -> None:
        """Ask for an object's deletion."""
        await self.kube.call("DELETE", self.path_of(obj))

    async def get(self, obj: Object) -> Object | None:
        """An object as it is now, or None."""
        return await self.kube.find(self.path_of(obj))

    def path(self, kind: str, name: str = "", *, namespace: str = "") -> str:
        """Return the path of the objects of a kind."""
        return f"{GROUP_PATH}/namespaces/{namespace or self.namespace}/{PLURALS[kind]}" + (f"/{name}" if name else "")

    def path_of(self, obj: Object) -> str:
        """Return the path of an object."""
        meta = obj["metadata"]
        return self.path(obj["kind"], meta["name"], namespace=meta["namespace"])

    async def kubectl(self, *arguments: str, manifest: object = None) -> str:
        """Run kubectl in the test's namespace; return its output."""
        return await asyncio.to_thread(
            kubectl.run, self.kubeconfig, "--namespace", self.namespace, *arguments, manifest=manifest
        )

    async def create_deployment(self, name: str, replicas: int = 1) -> None:
        """A Deployment; no controller runs here, so it never has a pod."""
        labels = {"app": name}
        spec = {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "worker", "image": "localhost/dtq"}]},
            },
        }
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}
        await self.kube.call("POST", f"/apis/apps/v1/namespaces/{self.namespace}/deployments", body)

    async def replicas(self, name: str) -> int:
        """Replicas that a Deployment should have."""
        found = await self.kube.call("GET", f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{name}")
        return int(found["spec"]["replicas"])

    async def create_autoscaler(self, deployment: str) -> None:
        """A HorizontalPodAutoscaler of a Deployment."""
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment}
        body = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": f"{deployment}-hpa"},
            "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3},
        }
        await self.kube.call("POST", f"/apis/autoscaling/v2/namespaces/{self.namespace}/horizontalpodautoscalers", body)

    async def another_namespace(self) -> str:
        """Create another namespace; return its name."""
        name = f"other-{secrets.token_hex(4)}"
        await self.kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        self.other_namespaces.append(name)
        return name

    def moved(self, obj: Object, namespace: str) -> Object:
        """The same object in another namespace."""
        return obj | {"metadata": obj["metadata"] | {"namespace": namespace}}

    async def create_or_keep(self, obj: Object) -> None:
        """Create an object unless it exists."""
        if await self.get(obj) is None:
            await self.create(obj)

    # What the operator writes.

    async def finalizers(self, obj: Object) -> list[str]:
        """An object's finalizers."""
        found = await self.get(obj)
        assert found is not None
        finalizers: list[str] = found["metadata"].get("finalizers", [])
        return finalizers

    async def conditions(self, obj: Object) -> dict[str, tuple[str, str]]:
        """Status and reason of each condition."""
        found = await self.get(obj) or {}
        return {
            condition["type"]: (condition["status"], condition["reason"])
            for condition in found.get("status", {}).get("conditions", [])
        }

    async def until(
        self, obj: Object, type_: str, status: str, reason: str | None = None, *, seconds: float = CHANGE_SECONDS
    ) -> Object:
        """Wait until the object has a condition for its present generation; return the object."""
        last: Any = None

        async def said() -> Object | None:
            nonlocal last
            found = await self.get(obj)
            last = (found or {}).get("status")
            if found is None:
                return None
            for condition in found.get("status", {}).get("conditions", []):
                fits = (
                    condition["type"] == type_
                    and condition["status"] == status
                    and reason in (None, condition["reason"])
                )
                if fits and condition.get("observedGeneration") == found["metadata"]["generation"]:
                    return found
            return None

        what = f"{obj['kind']} {obj['metadata']['name']}: {type_}={status}/{reason or '*'}"
        return await eventually(said, lambda: f"{what}; status: {json.dumps(last)}", seconds)

    async def until_gone(self, obj: Object, *, seconds: float = CHANGE_SECONDS) -> None:
        """Wait until an object is gone."""

        async def gone() -> bool:
            return await self.get(obj) is None

        await eventually(gone, f"{obj['metadata']['name']} is gone", seconds)

    async def events(self, obj: Object) -> list[tuple[str, str, str]]:
        """Type, reason and message of each event about an object."""
        meta = obj["metadata"]
        query = {"fieldSelector": f"involvedObject.name={meta['name']},involvedObject.kind={obj['kind']}"}
        found = await self.kube.call("GET", f"/api/v1/namespaces/{meta['namespace']}/events", query=query)
        return [(event["type"], event["reason"], event["message"]) for event in found["items"]]

    async def until_unclaimed(self, kind: str, name: str) -> None:
        """Wait until a name has no claim."""

        async def unclaimed() -> bool:
            return (kind, name) not in await self.claims()

        await eventually(unclaimed, f"{name} is let go of", CHANGE_SECONDS)

    async def until_event(self, obj: Object, reason: str, *, seconds: float = CHANGE_SECONDS) -> str:
        """Wait until an event is recorded; return its message."""

        async def recorded() -> str | None:
            return next((message for _, why, message in await self.events(obj) if why == reason), None)

        return await eventually(recorded, f"event {reason}", seconds)

    # What Postgres holds.

    async def sql(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run a statement."""
        connection = await asyncpg.connect(self.dsn)
        try:
            rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
        finally:
            await connection.close()
        return rows

    async def row(self, name: str = TYPE) -> asyncpg.Record | None:
        """A task type's row, or None."""
        rows = await self.sql("SELECT * FROM task_type WHERE type = $1", name)
        return rows[0] if rows else None

    async def claims(self) -> dict[tuple[str, str], str]:
        """The owner's namespace, by kind and name."""
        rows = await self.sql("SELECT kind, key, owner_namespace FROM resource_claim")
        return {(row["kind"], row["key"]): row["owner_namespace"] for row in rows}

    async def add_task(self, type_: str = TYPE, *, queue_set: str = "default", queue: str = "default") -> None:
        """Store a task that is not published."""
        await self.sql(
            "INSERT INTO tasks (id, type, status, payload, queue_set, queue, max_attempts, needs_publish, publish_at)"
            " VALUES (gen_random_uuid(), $1, 'ENQUEUED', '{}', $2, $3, 5, false, now())",
            type_,
            queue_set,
            queue,
        )

    async def add_worker(
        self, *, namespace: str | None = "tasks", queues: Sequence[str] = ("default",), types: Sequence[str] = (TYPE,)
    ) -> UUID:
        """Register a worker whose lease holds for an hour."""
        id_ = uuid4()
        await self.sql("SELECT dtq_register($1, 'w', $2, $3, 4, 3600, $4)", id_, list(queues), list(types), namespace)
        return id_

    async def end_worker(self, id_: UUID) -> datetime:
        """End a worker's lease; return when that was."""
        await self.sql("SELECT dtq_expire($1)", id_)
        (row,) = await self.sql("SELECT lease_expires_at FROM workers WHERE id = $1", id_)
        ended: datetime = row["lease_expires_at"]
        return ended

    # What RabbitMQ holds.

    async def broker_call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the management interface; `{vhost}` in the path stands for the test's."""
        vhost = quote(self.broker.vhost, safe="")
        return await asyncio.to_thread(self.management.call, method, path.format(vhost=vhost), body)

    @property
    def management(self) -> Management:
        """The broker's management interface."""
        return self.broker.management

    async def queues(self) -> dict[str, Object]:
        """Every queue of the virtual host, by name."""
        return {queue["name"]: queue for queue in await self.broker_call("GET", "/api/queues/{vhost}")}

    async def bindings(self) -> set[tuple[str, str, str]]:
        """Every binding to a named exchange: exchange, queue, routing key."""
        found = await self.broker_call("GET", "/api/bindings/{vhost}")
        return {
            (binding["source"], binding["destination"], binding["routing_key"])
            for binding in found
            if binding["source"]
        }

    async def exchanges(self) -> set[str]:
        """Return the names of the declared exchanges."""
        found = await self.broker_call("GET", "/api/exchanges/{vhost}")
        return {exchange["name"] for exchange in found if exchange["name"] and not exchange["name"].startswith("amq.")}

    async def publish(self, queue: str, count: int = 1) -> None:
        """Put messages into a queue."""
        body = {"properties": {"delivery_mode": 2}, "routing_key": queue, "payload": "{}", "payload_encoding": "string"}
        for _ in range(count):
            await self.broker_call("POST", "/api/exchanges/{vhost}/amq.default/publish", body)

    async def enqueue(self, count: int, *, queue: str = "default", queue_set: str = "default") -> None:
        """Store waiting tasks of a queue."""
        await self.sql(
            "INSERT INTO task_type (type, default_queue) VALUES ('waits.v1', 'default') ON CONFLICT DO NOTHING"
        )
        await self.sql(
            "INSERT INTO tasks (id, type, queue_set, queue, status, payload, needs_publish, publish_at)"
            " SELECT gen_random_uuid(), 'waits.v1', $2, $3, 'ENQUEUED', '{}', false, now()"
            " FROM generate_series(1, $1)",
            count,
            queue_set,
            queue,
        )

    async def hide_tasks(self) -> None:
        """Make every statement on the tasks fail, so that the backlog is unknown; the other tables answer."""
        await self.sql("ALTER TABLE tasks RENAME TO hidden_tasks")

    async def rebuild_vhost(self) -> None:
        """Delete the virtual host with all that is in it, and create it again."""
        await asyncio.to_thread(self.management.delete_vhost, self.broker.vhost)
        await asyncio.to_thread(self.management.create_vhost, self.broker.vhost)

    async def allow(self, *, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
        """Change what our user may do in the virtual host."""
        rights = {"configure": configure, "write": write, "read": read}
        await self.broker_call("PUT", f"/api/permissions/{{vhost}}/{self.broker.user}", rights)

    # The environment of the processes.

    def environ(self, **more: str) -> dict[str, str]:
        """The environment of a process of dtq."""
        return {
            **self.broker.environ(self.dsn),
            "DTQ_WATCH_NAMESPACES": ",".join([self.namespace, *self.other_namespaces]),
            "DTQ_OPERATOR_HTTP_PORT": "127.0.0.1:0",
            "DTQ_RESYNC_SECONDS": "1s",
        } | more

    def through(self, postgres: SwitchableProxy, rabbitmq: SwitchableProxy) -> dict[str, str]:
        """Return the environment of a process that uses these proxies."""
        parts = urlsplit(self.dsn)
        user = parts.netloc.rpartition("@")[0]
        dsn = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{postgres.port}"))
        return {"DB_DSN": dsn, "RMQ_HOST": "127.0.0.1", "RMQ_PORT": str(rabbitmq.port)}

    def settings(self, **more: str) -> OperatorSettings:
        """Return the settings of an operator."""
        return load(self.environ(**more), OperatorSettings)


def is_missing(error: HackError) -> bool:
    """Whether the management interface answered that there is no such thing."""
    return ": 404 " in str(error)
