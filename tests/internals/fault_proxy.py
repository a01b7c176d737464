"""A TCP proxy in front of a server, which makes the network slow, silent or gone."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class FaultProxy:
    """Forwards to a port of this machine; its attributes hold for open connections too."""

    def __init__(self, port: int) -> None:
        # Of the server: another one for connections that are opened later.
        self.target = port
        self.port = 0
        # Before each piece of what the server says.
        self.delay_s = 0.0
        # Connections stay open, and nothing comes through.
        self.silent = False
        # New connections are closed at once.
        self.down = False
        # Sent to the client in reply to everything, instead of forwarding it.
        self.refusal = b""
        # For servers without TLS: the certificate of new connections.
        self.tls: ssl.SSLContext | None = None
        # Whether the client asks for TLS in the protocol of PostgreSQL.
        self.is_postgres = False
        # How often something came from a client.
        self.received = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Close all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        """Close all connections, and wait until they have ended."""
        self.silent = False
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.down:
            writer.transport.abort()
            return
        with suppress(OSError, EOFError):
            if self.tls is not None:
                if self.is_postgres:
                    await reader.readexactly(8)
                    writer.write(b"S")
                await writer.start_tls(self.tls)
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers |= {writer, back}
            try:
                await asyncio.gather(
                    self._forward(reader, back, back=writer),
                    self._forward(there, writer, back=back, slow=True),
                )
            finally:
                self._writers -= {writer, back}
        writer.close()

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        back: asyncio.StreamWriter,
        slow: bool = False,
    ) -> None:
        try:
            while data := await reader.read(65536):
                self.received += not slow
                await asyncio.sleep(self.delay_s if slow else 0)
                while self.silent:
                    await asyncio.sleep(0.01)
                if writer.is_closing():
                    return
                if self.refusal and not slow:
                    back.write(self.refusal)
                    continue
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def fault_proxy(port: int) -> AsyncIterator[FaultProxy]:
    """A proxy in front of `port`, on a port of its own."""
    proxy = FaultProxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
