"""A proxy in front of one server that can be shut, as if the server had died."""

import asyncio
from typing import Self

from tests.faults.proxy import Proxy


class SwitchableProxy(Proxy):
    """A proxy whose port can be closed and opened again."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._number = super().port
        return self

    @property
    def port(self) -> int:
        """The port of the proxy, open or shut."""
        return self._number

    async def shut(self) -> None:
        """Refuse new connections, and cut the existing ones."""
        assert self._server is not None
        self._server.close()
        self.reset()

    async def open(self) -> None:
        """Accept connections again."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._number)
