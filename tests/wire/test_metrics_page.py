"""The page of figures is served whatever some of its readers do."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Counter

from trialfleet.wire import metrics_page
from trialfleet.wire.metrics_page import MetricsPage


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


def page() -> MetricsPage:
    registry = CollectorRegistry()
    Counter("trials", "Trials.", registry=registry).inc(3)
    return MetricsPage(registry)


@pytest.mark.parametrize(
    ("request_line", "status", "said"),
    [
        (b"GET /metrics HTTP/1.1", b"200 OK", b"trials_total 3.0\n"),
        (b"GET /metrics?x=1 HTTP/1.1", b"200 OK", b"trials_total 3.0\n"),
        (b"HEAD /metrics HTTP/1.1", b"200 OK", b"\r\n\r\n"),
        (b"GET /other HTTP/1.1", b"404 Not Found", b"accepted: /metrics\n"),
        (b"POST /metrics HTTP/1.1", b"405 Method Not Allowed", b"accepted: GET\n"),
        (b"\x00\xff", b"405 Method Not Allowed", b"accepted: GET\n"),
    ],
)
def test_one_request(request_line: bytes, status: bytes, said: bytes) -> None:
    async def main() -> None:
        served = await page().listen("127.0.0.1", 0)
        try:
            answer = await ask(served.port, request_line + b"\r\nHost: x\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 " + status + b"\r\n")
            assert said in answer
        finally:
            await served.close()

    asyncio.run(main())


def test_silent_readers_keep_nobody_out() -> None:
    async def main() -> None:
        served = await page().listen("127.0.0.1", 0)
        silent = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(100)]
        try:
            answer = await ask(served.port, b"GET /metrics HTTP/1.1\r\n\r\n")
            assert b"trials_total 3.0" in answer
            assert len(served._readers) <= metrics_page._MAX_READERS
        finally:
            await served.close()
            for _, writer in silent:
                writer.close()

    asyncio.run(main())


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\n", b"x" * 100_000])
def test_who_does_not_finish_is_disconnected(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(metrics_page, "_READER_S", 0.05)

    async def main() -> None:
        served = await page().listen("127.0.0.1", 0)
        try:
            async with asyncio.timeout(30):
                reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
                writer.write(sent)
                with pytest.raises(ConnectionError):
                    if await reader.read() == b"":
                        raise ConnectionResetError
                writer.close()
        finally:
            await served.close()

    asyncio.run(main())


def test_a_port_that_is_taken() -> None:
    async def main() -> None:
        served = await page().listen("127.0.0.1", 0)
        try:
            with pytest.raises(OSError, match="address already in use"):
                await page().listen("127.0.0.1", served.port)
        finally:
            await served.close()

    asyncio.run(main())
