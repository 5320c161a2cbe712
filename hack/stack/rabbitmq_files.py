"""The files and the environment that make a RabbitMQ node private.

The node never reads the system's configuration, cookie or plug-in list.
"""

import secrets
from pathlib import Path

from hack.lib.ports import HOST
from hack.stack.account import Account

CONFIG = """\
default_user = {user}
default_pass = {password}
listeners.tcp.default = 127.0.0.1:{port}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management_port}
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 200MB
raft.wal_max_size_bytes = 67108864
collect_statistics_interval = {statistics_milliseconds}
log.console = true
log.file = false
"""
# The Erlang distribution listens on loopback only; idle schedulers do not spin; and once its applications are
# closed, the node does not wait five seconds for a process of its own that never answers.
ERLANG_FLAGS = "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none -shutdown_time 2000"


def environ(home: Path, *, port: int, distribution_port: int, epmd_port: int) -> dict[str, str]:
    """The whole environment of the node; rabbitmqctl works with the same one."""
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": str(home),
        "ERL_EPMD_ADDRESS": HOST,
        "ERL_EPMD_PORT": str(epmd_port),
        "RABBITMQ_NODENAME": "dtq@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "RABBITMQ_CONF_ENV_FILE": str(home / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG_FLAGS,
    }


def write(
    account: Account,
    home: Path,
    *,
    user: str,
    password: str,
    port: int,
    management_port: int,
    statistics_milliseconds: int,
) -> None:
    """Write the folders and files; the cookie is made once, the rest follows the settings."""
    account.make_folder(home, mode=0o755)
    for name in ("data", "log"):
        account.make_folder(home / name)
    config = CONFIG.format(
        user=user,
        password=password,
        port=port,
        management_port=management_port,
        statistics_milliseconds=statistics_milliseconds,
    )
    account.write(home / "rabbitmq.conf", config)
    account.write(home / "rabbitmq-env.conf", "")
    account.write(home / "advanced.config", "[].\n")
    account.write(home / "enabled_plugins", "[rabbitmq_management].\n")
    if not (home / ".erlang.cookie").exists():
        account.write(home / ".erlang.cookie", secrets.token_hex(24), mode=0o400)
