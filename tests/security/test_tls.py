"""TLS on every connection: the API, Postgres and RabbitMQ with certificates of an authority of the test's own."""

import asyncio
import os
import secrets
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import pytest_asyncio

from dtq.domain.errors import Rejected
from dtq_api.server_certificate import REFRESH_SECONDS, ServerCertificate
from dtq_db.migrations import migrate
from hack.cluster.pki import Identity, Pki
from hack.lib import ports
from hack.stack.account import Account
from hack.stack.postgres import Postgres
from hack.stack.rabbitmq import RabbitMQ
from tests.support.addresses import vhost_of
from tests.support.rabbitmqctl import rabbitmqctl
from tests.support.system import START_SECONDS, System, completed, dtq_command, opened
from tests.support.waiting import eventually

NAME = "localhost"
"""The one name that the servers' certificates hold: their address 127.0.0.1 is a wrong name."""
MANIFESTS = """
{apiVersion: dtq.dev/v1alpha1, kind: QueueSet, metadata: {name: default}, spec: {queues: [{name: default}]}}
---
{apiVersion: dtq.dev/v1alpha1, kind: TaskType, metadata: {name: sample.note.v1}, spec: {}}
"""


def authority(folder: Path) -> Pki:
    """A new authority, with a certificate `server` for NAME."""
    pki = Pki(folder)
    pki.authority("ca")
    pki.leaf("server", Identity(user="server", names=(NAME,)))
    return pki


def given_to(account: str, pki: Pki, home: Path) -> dict[str, Path]:
    """Copy certificates and key to where a server reads them, as the account that it runs as."""
    folder = home / "tls"
    Account.packaged(account).make_folder(folder)
    files = {"ca": pki.certificate("ca"), "certificate": pki.certificate("server"), "key": pki.key("server")}
    for name, file in files.items():
        Account.packaged(account).write(folder / name, file.read_text())
    return {name: folder / name for name in files}


@dataclass(frozen=True, slots=True, kw_only=True)
class Secured:
    """A Postgres and a RabbitMQ that speak TLS, and the settings that trust them."""

    postgres: Postgres
    rabbitmq: RabbitMQ
    pki: Pki
    amqps_port: int

    def dsn(self, *, host: str = NAME, ca: Path | None = None) -> str:
        parts = urlsplit(self.postgres.dsn())
        address = f"{parts.netloc.rpartition('@')[0]}@{host}:{self.postgres.port}"
        return f"postgresql://{address}{parts.path}?sslmode=verify-full&sslrootcert={ca or self.pki.certificate('ca')}"

    @property
    def environ(self) -> dict[str, str]:
        return {
            "DB_DSN": self.dsn(),
            "RMQ_HOST": NAME,
            "RMQ_PORT": str(self.amqps_port),
            "RMQ_TLS": "on",
            "RMQ_CA_FILE": str(self.pki.certificate("ca")),
        }


@pytest_asyncio.fixture(loop_scope="session")
async def secured(
    own_postgres: Callable[[], Awaitable[Postgres]],
    own_rabbitmq: Callable[[], Awaitable[RabbitMQ]],
    tmp_path: Path,
) -> AsyncIterator[Secured]:
    pki = authority(tmp_path / "pki")
    postgres, rabbitmq = await asyncio.gather(own_postgres(), own_rabbitmq())
    files = given_to("postgres", pki, postgres.home)
    for setting, value in {
        "ssl_cert_file": files["certificate"],
        "ssl_key_file": files["key"],
        "ssl": "on",
    }.items():
        postgres.sql(f"ALTER SYSTEM SET {setting} = '{value}'")
    postgres.sql("SELECT pg_reload_conf()")
    await eventually(lambda: uses_tls(postgres), "Postgres has read its certificate")
    files = given_to("rabbitmq", pki, rabbitmq.home)
    [port] = ports.choose(1)
    options = f'[{{cacertfile,"{files["ca"]}"}},{{certfile,"{files["certificate"]}"}},{{keyfile,"{files["key"]}"}}]'
    await rabbitmqctl(rabbitmq, "eval", f"rabbit_networking:start_ssl_listener({port}, {options}, 2).")
    made = Secured(postgres=postgres, rabbitmq=rabbitmq, pki=pki, amqps_port=port)
    await migrate(made.dsn())
    yield made


async def uses_tls(postgres: Postgres) -> bool:
    return postgres.sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == "t"


@contextmanager
def system_of(secured: Secured, folder: Path, **environ: str) -> Iterator[System]:
    vhost = vhost_of(secured.rabbitmq)
    with opened(folder, secured.dsn(), vhost, **(secured.environ | {"QUEUES": "default"} | environ)) as system:
        yield system


def client_of(ca: Path, address: str) -> httpx2.AsyncClient:
    context = ssl.create_default_context(cafile=str(ca))
    return httpx2.AsyncClient(verify=context, base_url=f"https://{NAME}:{address.rpartition(':')[2]}")


async def test_a_task_runs_with_tls_on_every_connection(secured: Secured, tmp_path: Path) -> None:
    ca, certificate, key = (secured.pki.certificate("ca"), secured.pki.certificate("server"), secured.pki.key("server"))
    with system_of(secured, tmp_path) as system:
        system.run("apply", "-f", "-", stdin=MANIFESTS)
        api = system.api(DTQ_TLS_CERT_FILE=str(certificate), DTQ_TLS_KEY_FILE=str(key))
        await system.worker().ready()
        async with client_of(ca, api.address) as client:

            async def ready() -> bool:
                assert api.popen.poll() is None, api.tail()
                try:
                    return (await client.get("/readyz")).status_code == 200
                except httpx2.TransportError:
                    return False

            await eventually(ready, lambda: f"the API is ready: {api.tail()}", START_SECONDS)
            accepted = await client.post("/enqueue", json={"type": "sample.note.v1", "payload": {}})
            assert accepted.status_code == 201, accepted.text
            task = f"/tasks/{accepted.json()['id']}"

            async def succeeded() -> bool:
                return bool((await client.get(task)).json()["status"] == "SUCCEEDED")

            await eventually(succeeded, "the task has succeeded")
        sessions = secured.postgres.sql(
            "SELECT ssl, count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
            " WHERE application_name LIKE 'dtq%' GROUP BY ssl"
        )
        assert sessions.startswith("t|"), sessions
        assert "\n" not in sessions

        async def counted() -> bool:
            connections = secured.rabbitmq.management.call("GET", "/api/connections")
            return {connection.get("ssl") for connection in connections} == {True}

        await eventually(counted, "every connection of RabbitMQ uses TLS")
        async with httpx2.AsyncClient() as plain:
            with pytest.raises(httpx2.TransportError):
                await plain.get(f"http://{api.address}/livez")
        stranger = authority(tmp_path / "stranger").certificate("ca")
        async with client_of(stranger, api.address) as client:
            with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get("/livez")


FORKING = """
import asyncio, os, ssl, sys
from dtq_worker import event_loop

async def main():
    context = ssl.create_default_context(cafile=sys.argv[2])
    links = [await asyncio.open_connection("localhost", int(sys.argv[1]), ssl=context) for _ in range(2)]
    links[0][1].close()
    await links[0][1].wait_closed()
    descriptor = links[1][1].get_extra_info("socket").fileno()
    if child := os.fork():
        print("exit code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        links[1][1].write(b"still here")
        await links[1][1].drain()
        links[1][1].close()
    else:
        os._exit(0 if os.readlink(f"/proc/self/fd/{descriptor}") == os.devnull else 1)

event_loop.run(main())
"""


async def test_a_forked_handler_does_not_keep_a_tls_connection_of_its_worker(tmp_path: Path) -> None:
    pki = authority(tmp_path / "pki")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki.certificate("server"), pki.key("server"))
    received: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0, ssl=context) as listener:
        port = str(listener.sockets[0].getsockname()[1])
        command = [sys.executable, "-c", FORKING, port, str(pki.certificate("ca"))]
        done = await asyncio.to_thread(completed, command, dict(os.environ))
    assert (done.returncode, done.stdout) == (0, "exit code 0\n"), done.stderr

    async def heard() -> bool:
        return sorted(received) == [b"", b"still here"]

    await eventually(heard, "the worker's connection outlives the fork")


async def test_a_wrong_authority_and_a_wrong_name_are_refused_with_what_to_do(secured: Secured, tmp_path: Path) -> None:
    stranger = authority(tmp_path / "stranger").certificate("ca")
    postgres = "dtq: Postgres's certificate is refused ({}): name the file of its authority as sslrootcert in DB_DSN"
    rabbitmq = "dtq: RabbitMQ's certificate is refused ({}): name the file of its authority in RMQ_CA_FILE"
    address = "IP address mismatch, certificate is not valid for '127.0.0.1'."
    unknown = "self-signed certificate in certificate chain", "unable to get local issuer certificate"
    cases = [
        ({"DB_DSN": secured.dsn(ca=stranger)}, postgres, unknown),
        ({"DB_DSN": secured.dsn(host="127.0.0.1")}, postgres, (address,)),
        ({"RMQ_CA_FILE": str(stranger)}, rabbitmq, unknown),
        ({"RMQ_HOST": "127.0.0.1"}, rabbitmq, (address,)),
        ({"RMQ_PORT": str(secured.rabbitmq.port)}, "dtq: TLS with RabbitMQ fails ({}): check that RMQ_PORT", ()),
        ({"RMQ_CA_FILE": str(secured.pki.key("ca"))}, "dtq: TLS with RabbitMQ fails ({}): check", ()),
    ]
    with system_of(secured, tmp_path) as system:
        for environ, told, reasons in cases:
            done = await asyncio.to_thread(
                completed, dtq_command("apply", "-f", "-"), {**system.environ, **environ}, stdin=MANIFESTS
            )
            assert done.returncode == 5, done.stderr
            start, _, end = told.partition("{}")
            assert start in done.stderr
            assert end in done.stderr
            assert not reasons or any(reason in done.stderr for reason in reasons), done.stderr
            assert "Traceback" not in done.stderr
        # A long-lived process waits, and its log says the same.
        worker = system.worker(RMQ_CA_FILE=str(stranger))

        async def logged() -> bool:
            assert worker.popen.poll() is None, worker.tail()
            return "RabbitMQ's certificate is refused" in worker.log.read_text()

        await eventually(logged, worker.tail, START_SECONDS)


async def test_files_that_do_not_fit_end_the_start_and_say_why(tmp_path: Path) -> None:
    pki = authority(tmp_path / "pki")
    pki.leaf("other", Identity(user="other", names=(NAME,)))
    locked = tmp_path / "locked.key"
    encrypted = ("openssl", "pkey", "-aes256", "-passout", "pass:x", "-in", str(pki.key("server")), "-out", str(locked))
    assert (await asyncio.to_thread(completed, encrypted, dict(os.environ))).returncode == 0
    base = {
        **os.environ,
        "DB_DSN": "postgresql://dtq@127.0.0.1:9/dtq",
        "RMQ_USER": "u",
        "RMQ_PASS": secrets.token_hex(4),
        "RMQ_HOST": "127.0.0.1",
        "HTTP_PORT": "127.0.0.1:0",
        "DTQ_TLS_CERT_FILE": str(pki.certificate("server")),
    }
    cases = {
        str(pki.key("other")): f"DTQ_TLS_CERT_FILE: {pki.certificate('server')} cannot be used with DTQ_TLS_KEY_FILE",
        str(locked): "must be PEM without a password",
        "/nowhere": "DTQ_TLS_KEY_FILE: names /nowhere, which cannot be read: check the mount",
        "": "DTQ_TLS_KEY_FILE: and DTQ_TLS_CERT_FILE belong together: set both, or none",
    }
    for key, told in cases.items():
        environ = base | ({"DTQ_TLS_KEY_FILE": key} if key else {})
        done = await asyncio.to_thread(completed, dtq_command("api"), environ)
        assert done.returncode == 2, done.stderr
        assert told in done.stderr
        assert "Traceback" not in done.stderr


async def test_a_renewed_certificate_is_used_without_a_restart_and_a_broken_one_is_not(tmp_path: Path) -> None:
    assert REFRESH_SECONDS <= 60
    pki = authority(tmp_path / "pki")
    used = Pki(tmp_path / "used")
    used.folder.mkdir()

    def install(name: str, key: str | None = None) -> None:
        used.key("server").write_text(pki.key(key or name).read_text())
        used.certificate("server").write_text(pki.certificate(name).read_text())

    async def shown() -> bytes:
        trusting = ssl.create_default_context(cafile=str(pki.certificate("ca")))
        _, writer = await asyncio.open_connection(NAME, port, ssl=trusting)
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return found

    def expected(name: str) -> bytes:
        return ssl.PEM_cert_to_DER_cert(pki.certificate(name).read_text())

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    install("server")
    certificate = ServerCertificate(used.certificate("server"), used.key("server"))
    listener = await asyncio.start_server(close, "127.0.0.1", 0, ssl=certificate.context)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        assert await shown() == expected("server")
        pki.leaf("renewed", Identity(user="server", names=(NAME,)))
        install("renewed", key="server")
        await certificate.refresh()
        assert await shown() == expected("server")
        install("renewed")
        await certificate.refresh()
        # The key alone was replaced: the certificate's file is the same, but it did not fit before.
        assert await shown() == expected("renewed")
        used.certificate("server").write_text("nonsense")
        await certificate.refresh()
        assert await shown() == expected("renewed")
    with pytest.raises(Rejected, match="cannot be used with DTQ_TLS_KEY_FILE"):
        ServerCertificate(used.certificate("server"), used.key("server"))
