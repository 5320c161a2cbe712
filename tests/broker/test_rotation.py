"""A rotated broker password is used at the next connection, without a restart."""

import secrets
from pathlib import Path

from dtq.broker.publisher import Publisher
from dtq.runtime.environment import load
from dtq.runtime.settings import AllSettings
from tests.broker.world import World, running, up
from tests.support.addresses import BrokerVhost


async def test_a_link_comes_back_with_the_password_that_the_file_holds_by_then(
    world: World, broker_vhost: BrokerVhost, tmp_path: Path
) -> None:
    user = f"rotated-{secrets.token_hex(4)}"
    file = tmp_path / "password"
    call = broker_vhost.management.call

    def give(password: str) -> None:
        call("PUT", f"/api/users/{user}", {"password": password, "tags": ""})
        file.write_text(password + "\n")

    give("old p@ss:/%")
    call("PUT", f"/api/permissions/{world.vhost}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
    settings = load(
        {
            "DB_DSN": "postgresql://x@x/x",
            "RMQ_USER": user,
            "RMQ_PASS_FILE": str(file),
            "RMQ_HOST": broker_vhost.host,
            "RMQ_PORT": str(broker_vhost.port),
            "RMQ_VHOST": world.vhost,
        },
        AllSettings,
    )
    publisher = Publisher(
        lambda: settings.rmq_url,
        declare=world.declarer.declare,
        refusal=world.declarer.refusal,
        metrics=world.metrics,
        timeout_seconds=2.0,
    )
    try:
        async with running(publisher.broker):
            await up(publisher.broker)
            give("new")
            publisher.broker.invalidate("the test cuts it")
            await up(publisher.broker)
    finally:
        call("DELETE", f"/api/users/{user}")
