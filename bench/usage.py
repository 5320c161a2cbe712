"""What a measurement used: CPU seconds by part, WAL, statements and commits of one database."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from bench.cost import cpu_seconds
from bench.servers import Servers
from hack.lib import processes

_COUNTERS: Final = """
SELECT coalesce(sum(s.wal_bytes), 0)::bigint AS wal_bytes, coalesce(sum(s.calls), 0)::bigint AS statements,
    pg_stat_get_db_xact_commit(d.oid) AS commits
FROM pg_database d LEFT JOIN pg_stat_statements s ON s.dbid = d.oid AND s.toplevel
WHERE d.datname = $1 GROUP BY d.oid
"""
"""The WAL is that of statements: the server's own position would include the vacuum of the contestant before."""
COUNTED: Final = ("wal_bytes", "statements", "commits")


@dataclass(frozen=True, slots=True)
class Usage:
    """Counters at one moment, or what was used between two."""

    cpu_seconds: Mapping[str, float]
    counters: Mapping[str, int]

    @classmethod
    async def now(cls, servers: Servers, database: str) -> Self:
        """Read the counters of the servers."""
        row: Any = await servers.admin.fetchrow(_COUNTERS, database)
        return cls(server_cpu(servers), {name: row[name] for name in COUNTED})

    def since(self, earlier: "Usage") -> "Usage":
        """Return what was used from an earlier moment to this one."""
        return Usage(
            {name: seconds - earlier.cpu_seconds.get(name, 0.0) for name, seconds in self.cpu_seconds.items()},
            {name: count - earlier.counters[name] for name, count in self.counters.items()},
        )


def server_cpu(servers: Servers) -> dict[str, float]:
    """Return the CPU seconds of both servers so far."""
    return {
        "postgres": family_cpu([servers.postgres.process.identity]),
        "rabbitmq": family_cpu([servers.rabbitmq.process.identity]),
    }


def family_cpu(leaders: Iterable[processes.Identity | None]) -> float:
    """Return the CPU seconds of processes, of their descendants, and of those that have ended."""
    everyone = [member for leader in leaders if leader for member in (leader, *processes.family(leader))]
    return sum(cpu_seconds(member.pid) for member in everyone)
