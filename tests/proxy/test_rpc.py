"""gRPC's calls as our own server takes them, from gRPC's client and from one that misbehaves."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from h2.errors import ErrorCodes

from tests.proxy.running import TIMEOUT_S, eventually
from tests.proxy.serving import ECHO, PARK, Client, Serving, framed
from trialfleet import names
from trialfleet.proxy.rpc import Call, Refused

REFUSE = "/test.Test/Refuse"
POUR = "/test.Test/Pour"

Code = grpc.StatusCode


async def refuse(call: Call) -> None:
    """Refuse with the request as details."""
    raise Refused(Code.NOT_FOUND, (await call.read() or b"").decode())


async def pour(call: Call) -> None:
    """Write as many bytes as the request says, in messages of a MiB."""
    left = int(await call.read() or b"")
    while left:
        size = min(left, 1024 * 1024)
        await call.write(b"x" * size)
        left -= size


@pytest.fixture
def serving() -> Iterator[Serving]:
    with Serving({REFUSE: refuse, POUR: pour}) as serving:
        yield serving


@pytest.fixture
def client(serving: Serving) -> Client:
    return serving.client()


def error_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call.result(TIMEOUT_S)
    return caught.value.code(), caught.value.details() or ""


# -- gRPC's own client -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 16_379, 65_530, 65_531, 8 * 1024 * 1024])
def test_messages_of_any_size(serving: Serving, size: int) -> None:
    channel = serving.channel(("grpc.max_receive_message_length", -1))
    message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert channel.unary_unary(ECHO)(message, timeout=TIMEOUT_S) == message


def test_a_stream_both_ways(serving: Serving) -> None:
    sent = [b"%d" % number * 1000 for number in range(500)]
    call = serving.channel().stream_stream(ECHO)(iter(sent), timeout=TIMEOUT_S)
    assert list(call) == sent


def test_a_response_larger_than_every_window(serving: Serving) -> None:
    # Without it gRPC's client widens its windows while it reads.
    channel = serving.channel(("grpc.http2.bdp_probe", 0))
    parts = list(channel.unary_stream(POUR)(b"%d" % 10_000_000, timeout=TIMEOUT_S))
    assert sum(map(len, parts)) == 10_000_000


def test_many_calls_at_once_on_one_connection(serving: Serving) -> None:
    call = serving.channel().unary_unary(ECHO)
    sent = [b"%d" % number * (number * 10) for number in range(300)]
    answers = [call.future(message, timeout=TIMEOUT_S) for message in sent]
    assert [answer.result() for answer in answers] == sent


def test_many_calls_that_wait_on_one_connection(serving: Serving) -> None:
    channel = serving.channel()
    parked = [channel.stream_stream(PARK)(iter([b""]), timeout=TIMEOUT_S) for _ in range(200)]
    for _ in parked:
        assert serving.park.begun.acquire(timeout=TIMEOUT_S)
    assert serving.calls == 200
    assert channel.unary_unary(ECHO)(b"meanwhile", timeout=TIMEOUT_S) == b"meanwhile"
    for call in parked[::2]:
        call.cancel()
    eventually(lambda: serving.calls == 100)
    serving.release()
    assert all(list(call) == [b"released"] for call in parked[1::2])


@pytest.mark.parametrize(
    "details",
    [
        "100 % of 7 trials, 50%25",
        "größe: found „κ“, accepted: 1…9 🙂",
        'quotes "\\" and \t tabs',
        "%",
        " padded ",
        "",
        "\x7f\x01",
        "x" * 1000,
    ],
)
def test_details_arrive_as_they_are(serving: Serving, details: str) -> None:
    call = serving.channel().unary_unary(REFUSE).future(details.encode(), timeout=TIMEOUT_S)
    assert error_of(call) == (Code.NOT_FOUND, details)


def test_a_message_that_is_compressed(serving: Serving) -> None:
    channel = serving.channel(("grpc.default_compression_algorithm", int(grpc.Compression.Gzip)))
    call = channel.unary_unary(ECHO).future(b"x" * 10_000, timeout=TIMEOUT_S)
    assert error_of(call) == (Code.UNIMPLEMENTED, "messages may not be compressed")


def test_a_path_that_nothing_has(serving: Serving) -> None:
    channel = serving.channel()
    call = channel.unary_unary("/test.Test/Other").future(b"x" * 100_000, timeout=TIMEOUT_S)
    assert error_of(call) == (Code.UNIMPLEMENTED, "no method has the path '/test.Test/Other'")
    assert channel.unary_unary(ECHO)(b"x", timeout=TIMEOUT_S) == b"x"


def test_a_deadline_that_passes(serving: Serving) -> None:
    call = serving.channel().unary_unary(PARK).future(b"", timeout=0.1)
    assert error_of(call)[0] == Code.DEADLINE_EXCEEDED
    eventually(lambda: serving.calls == 0)


def test_a_caller_that_cancels(serving: Serving) -> None:
    call = serving.channel().unary_unary(PARK).future(b"")
    assert serving.park.begun.acquire(timeout=TIMEOUT_S)
    call.cancel()
    assert serving.park.cancelled.acquire(timeout=TIMEOUT_S)


def test_calls_beyond_those_that_may_be() -> None:
    with Serving(max_calls=2) as serving:
        channel, other = serving.channel(), serving.client()
        parked = [channel.unary_unary(PARK).future(b"") for _ in range(2)]
        eventually(lambda: serving.calls == 2)
        refused = other.reply(other.request(body=framed(b"x")))
        assert refused.code == Code.RESOURCE_EXHAUSTED
        assert refused.details == "2 calls are under way already"
        parked[0].cancel()
        eventually(lambda: serving.calls == 1)
        assert other.reply(other.request(body=framed(b"x"))).code == Code.OK
        parked[1].cancel()


def test_a_method_with_a_defect(caplog: pytest.LogCaptureFixture) -> None:
    async def defect(call: Call) -> None:
        await call.write(b"before")
        raise RuntimeError("the secret details")

    with Serving({"/test.Test/Defect": defect}) as serving, caplog.at_level(logging.ERROR):
        call = serving.channel().unary_stream("/test.Test/Defect")(b"", timeout=TIMEOUT_S)
        assert next(call) == b"before"
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value.code() == Code.INTERNAL
        assert caught.value.details() == "a defect; the proxy's log has more"
    (record,) = caplog.records
    assert record.exc_info is not None and record.exc_info[0] is RuntimeError


# -- requests in unusual pieces --------------------------------------------------------------------


def test_a_request_in_tiny_frames(client: Client) -> None:
    stream = client.request(body=None)
    for byte in framed(b"first") + framed(b"") + framed(b"third"):
        client.h2.send_data(stream, bytes([byte]))
        client.flush()
    client.h2.end_stream(stream)
    client.flush()
    reply = client.reply(stream)
    assert (reply.code, reply.messages) == (Code.OK, [b"first", b"", b"third"])


def test_a_connection_in_tiny_pieces(client: Client) -> None:
    stream = client.request(body=None)
    client.h2.send_data(stream, framed(b"x"), end_stream=True)
    for byte in client.h2.data_to_send():
        client.socket.sendall(bytes([byte]))
    assert client.reply(stream).messages == [b"x"]


def test_several_messages_in_one_frame(client: Client) -> None:
    sent = [b"x" * size for size in (0, 1, 1000, 0, 3)]
    body = b"".join(map(framed, sent))
    last = framed(b"in two")
    stream = client.request(body=body + last[:3], end=False)
    client.until(lambda: len(client.replies[stream].body) == len(body))
    client.h2.send_data(stream, last[3:], end_stream=True)
    client.flush()
    assert client.reply(stream).messages == [*sent, b"in two"]


def test_padding_counts_for_nothing(client: Client) -> None:
    stream = client.request(body=None)
    body = framed(b"x" * 300)
    for start in range(0, len(body), 100):
        client.h2.send_data(stream, body[start : start + 100], pad_length=255)
    client.h2.send_data(stream, b"", pad_length=100, end_stream=True)
    client.flush()
    assert client.reply(stream).messages == [b"x" * 300]


def test_padding_is_given_back(client: Client) -> None:
    """Bytes that are none of a message's would use the windows up otherwise."""
    stream = client.request(body=None)
    for _ in range(3 * 1024 * 1024 // 256):
        client.until(lambda: client.h2.local_flow_control_window(stream) > 256)
        client.h2.send_data(stream, b"", pad_length=255)
        client.flush()
    client.h2.send_data(stream, framed(b"x"), end_stream=True)
    client.flush()
    assert client.reply(stream).messages == [b"x"]


def test_headers_in_many_frames(client: Client) -> None:
    # A header block of more than a frame holds is continued.
    values = {f"x-{number}": "v" * 2000 for number in range(20)}
    client.h2.max_outbound_frame_size = 1000
    stream = client.request(body=framed(b"x"), headers=values)
    assert client.reply(stream).messages == [b"x"]


def test_requests_that_end_with_trailers(client: Client) -> None:
    stream = client.request(body=framed(b"x"), end=False)
    client.h2.send_headers(stream, [("x-trailer", "1")], end_stream=True)
    client.flush()
    assert client.reply(stream).messages == [b"x"]


def test_a_request_without_messages(client: Client) -> None:
    reply = client.reply(client.request(body=b""))
    assert (reply.code, reply.messages, reply.reset) == (Code.OK, [], None)
    assert reply.headers[":status"] == "200"
    assert reply.headers["content-type"] == "application/grpc"


# -- requests that are refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json"},
        {"content-type": ""},
        {":method": "GET"},
        {":method": "PUT"},
    ],
)
def test_what_is_no_grpc(client: Client, headers: dict[str, str]) -> None:
    reply = client.reply(client.request(body=framed(b"x"), headers=headers))
    assert reply.headers == {":status": "415"}
    assert client.reply(client.request(body=framed(b"x"))).messages == [b"x"]


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto"])
def test_what_is_grpc(client: Client, kind: str) -> None:
    stream = client.request(body=framed(b"x"), headers={"content-type": kind})
    assert client.reply(stream).messages == [b"x"]


def test_a_refusal_before_the_request_is_whole(client: Client) -> None:
    reply = client.reply(client.request("/test.Test/Other", framed(b"x"), end=False))
    assert reply.headers[":status"] == "200"
    assert reply.code == Code.UNIMPLEMENTED


def test_a_compressed_message_in_a_stream(client: Client) -> None:
    stream = client.request(body=framed(b"x"), end=False)
    client.until(lambda: bool(client.replies[stream].body))
    client.h2.send_data(stream, framed(b"x", compressed=True))
    client.flush()
    reply = client.reply(stream)
    assert (reply.code, reply.messages) == (Code.UNIMPLEMENTED, [b"x"])


def test_a_message_that_is_too_large_is_refused_by_its_prefix(client: Client) -> None:
    size = names.MAX_MESSAGE_BYTES + 1
    reply = client.reply(client.request(body=framed(b"", size=size), end=False))
    assert reply.code == Code.RESOURCE_EXHAUSTED
    expected = f"Received message larger than max ({size} vs. {names.MAX_MESSAGE_BYTES})"
    assert reply.details == expected
    assert client.reply(client.request(body=framed(b"x"))).messages == [b"x"]


def test_a_message_that_is_just_not_too_large(serving: Serving, client: Client) -> None:
    body = framed(b"", size=names.MAX_MESSAGE_BYTES)
    stream = client.request(body=body, end=False)
    client.settle()
    assert not client.replies[stream].over and serving.calls == 1


# -- calls that end early --------------------------------------------------------------------------


def test_a_deadline_ends_the_method(serving: Serving, client: Client) -> None:
    stream = client.request(PARK, framed(b""), headers={"grpc-timeout": "50m"})
    reply = client.reply(stream)
    assert (reply.code, reply.details) == (
        Code.DEADLINE_EXCEEDED,
        "the call's deadline has passed",
    )
    assert serving.park.cancelled.acquire(timeout=TIMEOUT_S)


@pytest.mark.parametrize("timeout", ["0n", "1u", "20m"])
def test_a_deadline_holds_before_the_request_is_whole(client: Client, timeout: str) -> None:
    stream = client.request(body=framed(b"xyz")[:6], headers={"grpc-timeout": timeout}, end=False)
    assert client.reply(stream).code == Code.DEADLINE_EXCEEDED


def test_a_call_whose_first_request_does_not_come(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialfleet.proxy.rpc._FIRST_REQUEST_S", 0.01)
    assert client.reply(client.request(ECHO, end=False)).code == Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize("timeout", ["99999999H", "60S", "1M", "soon", "-1S", "123456789m"])
def test_deadlines_that_do_not_pass(client: Client, timeout: str) -> None:
    stream = client.request(body=framed(b"x"), headers={"grpc-timeout": timeout})
    assert client.reply(stream).messages == [b"x"]


def test_a_reset_ends_the_method(serving: Serving, client: Client) -> None:
    stream = client.request(PARK, framed(b""))
    assert serving.park.begun.acquire(timeout=TIMEOUT_S)
    client.h2.reset_stream(stream, ErrorCodes.CANCEL)
    client.flush()
    assert serving.park.cancelled.acquire(timeout=TIMEOUT_S)
    eventually(lambda: serving.calls == 0)
    assert client.reply(client.request(body=framed(b"x"))).messages == [b"x"]


def test_a_lost_connection_ends_the_methods(serving: Serving, client: Client) -> None:
    for _ in range(3):
        client.request(PARK, framed(b""))
        assert serving.park.begun.acquire(timeout=TIMEOUT_S)
    client.request(body=framed(b"xyz")[:6], end=False)
    client.close()
    for _ in range(3):
        assert serving.park.cancelled.acquire(timeout=TIMEOUT_S)
    eventually(serving.is_idle)


def test_a_method_is_cancelled_once() -> None:
    """A caller resets the stream at its deadline, which is when it passes here too."""
    begun, cleaned = threading.Event(), threading.Event()

    async def cleans(call: Call) -> None:
        await call.read()
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cleaning = asyncio.Event()
            # Later than the deadline, which is due on the same loop.
            asyncio.get_running_loop().call_later(0.3, cleaning.set)
            await cleaning.wait()
            cleaned.set()
            raise

    with Serving({"/test.Test/Cleans": cleans}) as serving:
        client = serving.client()
        stream = client.request("/test.Test/Cleans", framed(b""), headers={"grpc-timeout": "250m"})
        assert begun.wait(TIMEOUT_S)
        client.h2.reset_stream(stream, ErrorCodes.CANCEL)
        client.flush()
        eventually(lambda: serving.calls == 0)
    assert cleaned.is_set()
