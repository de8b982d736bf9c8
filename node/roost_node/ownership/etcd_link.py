"""Connections to the members of an etcd cluster, and what a failed request means.

One channel for each endpoint, by name, so that DNS and TLS check each member as itself. One of them is
used until it fails or is silent, then the next. A request that changes something is sent once, over a
connection that stands: so "no connection" is certainly *not sent*. After that, only an error in etcd's
own words that says so means *not carried out*; anything else (broken, timed out, no leader, an error
from in between) means that nobody knows (O2).

Secrets are in no message, log line or repr.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from roost_node.ownership import etcd_pb2 as pb
from roost_node.ownership.coordinator import (
    CoordinatorDownError,
    CoordinatorRefusedError,
    UnansweredError,
)
from roost_node.ownership.etcd_api import AUTHENTICATE, STATUS, WATCH, Method, Q, R, Verdict, judge

_log = logging.getLogger(__name__)

VERSION_MIN = (3, 5, 9)
"""Elder ones are known to lose data or to answer twice (3.5.0 to 3.5.2 may corrupt their own)."""

PAUSE_S = 0.05
"""Between two attempts, so that a member that refuses at once is not asked in a loop."""

CONNECT_S = 0.3
"""How long one endpoint may take to connect before the next is tried."""

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.enable_retries", 0),  # the library must never send a write twice
    ("grpc.service_config_disable_resolution", 1),  # nor be told by DNS to
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),  # a silent watch is noticed; etcd forbids less than 5 s
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.max_receive_message_length", -1),  # 4,096 records are more than the usual 4 MiB
]


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """Where etcd is, and who we are to it."""

    endpoints: tuple[str, ...]  # host:port, with or without http:// or https://
    prefix: str = "/roost/default"
    ca: Path | None = None  # its authority's certificate (PEM); with it, or https://, TLS is used
    cert: Path | None = None  # our certificate and key, where etcd asks for them
    key: Path | None = None
    user: str = ""
    password: str = field(default="", repr=False)
    request_s: float = 2.0  # how long any request may take

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError("no endpoint of etcd: give at least one host:port")
        if (self.cert is None) != (self.key is None):
            raise ValueError("a certificate for etcd needs its key, and a key its certificate")
        if self.is_secure and any(one.startswith("http://") for one in self.endpoints):
            raise ValueError("an http:// endpoint beside TLS settings: say https:// or nothing")

    @property
    def is_secure(self) -> bool:
        """Whether TLS is used."""
        names_it = any(one.startswith("https://") for one in self.endpoints)
        return names_it or self.ca is not None or self.cert is not None


class LeaseGoneError(CoordinatorRefusedError):
    """The lease has run out; what needed it was not done."""


class _Endpoint:
    """One member: a channel that connects when it is used."""

    def __init__(self, name: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.name = name
        self.is_greeted = False
        self._credentials = credentials
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[str, Any] = {}

    @property
    def channel(self) -> grpc.aio.Channel:
        if self._channel is None:  # here, because it belongs to the running loop
            target = f"dns:///{self.name}"
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
            else:
                self._channel = grpc.aio.secure_channel(target, self._credentials, options=_OPTIONS)
        return self._channel

    def bound(self, method: Method[Q, R]) -> Any:
        """The method, on this channel."""
        call = self._calls.get(method.path)
        if call is None:
            make = self.channel.stream_stream if method.is_stream else self.channel.unary_unary
            call = self._calls[method.path] = make(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.reply.FromString,
            )
        return call

    def is_ready(self) -> bool:
        return self.channel.get_state() is grpc.ChannelConnectivity.READY

    async def connect(self, within_s: float) -> bool:
        """Try to; False as soon as it failed."""
        failed = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)
        try:
            async with asyncio.timeout(within_s):
                state = self.channel.get_state(try_to_connect=True)
                while state is not grpc.ChannelConnectivity.READY:
                    if state in failed:
                        return False
                    await self.channel.wait_for_state_change(state)
                    state = self.channel.get_state(try_to_connect=True)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()


class EtcdLink:
    """Sends requests to whichever member answers."""

    def __init__(self, options: EtcdOptions) -> None:
        self._options = options
        credentials = _credentials(options) if options.is_secure else None
        names = [one.removeprefix("https://").removeprefix("http://") for one in options.endpoints]
        self._endpoints = [_Endpoint(name.rstrip("/"), credentials) for name in names]
        self._current = 0
        self._token = ""

    async def ask(self, method: Method[Q, R], request: Q, within_s: float) -> R:
        """Send what changes nothing, or may be done twice, until it is answered.

        Raises `CoordinatorDownError` when the time is up.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        tokens = 1
        while True:
            endpoint = await self._connected(until)
            left_s = until - loop.time()
            share_s = left_s if len(self._endpoints) == 1 else left_s / 2  # leave time for another
            try:
                return await self._attempt(endpoint, method, request, share_s)
            except CoordinatorDownError:  # our name was not taken, or a stream ended unanswered
                if loop.time() + PAUSE_S >= until:
                    raise
            except grpc.aio.AioRpcError as error:
                verdict = judge(error.code(), error.details() or "")
                if verdict is Verdict.TOKEN and tokens:
                    tokens, self._token = 0, ""
                    continue
                if verdict is not Verdict.UNKNOWN:
                    raise _refusal(method, verdict, error) from None
                self._leave(endpoint)
                if loop.time() + PAUSE_S >= until:
                    raise CoordinatorDownError(_sentence(method, endpoint, error)) from None
            await asyncio.sleep(PAUSE_S)

    async def send(self, method: Method[Q, R], request: Q, within_s: float) -> R:
        """Send what changes something, once. Raises `UnansweredError` if nobody knows what became of it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        tokens = 1
        while True:
            endpoint = await self._connected(until)
            try:
                return await self._attempt(endpoint, method, request, until - loop.time())
            except grpc.aio.AioRpcError as error:
                verdict = judge(error.code(), error.details() or "")
                if verdict is Verdict.TOKEN and tokens:
                    tokens, self._token = 0, ""  # it was certainly not carried out
                    continue
                if verdict is not Verdict.UNKNOWN:
                    raise _refusal(method, verdict, error) from None
                self._leave(endpoint)
                raise UnansweredError(_sentence(method, endpoint, error)) from None

    async def watch(
        self, span: tuple[bytes, bytes], start: int, within_s: float
    ) -> AsyncGenerator[pb.WatchResponse, None]:
        """Replies of one watch, until it breaks (then it ends)."""
        endpoint = await self._connected(asyncio.get_running_loop().time() + within_s)
        # hasleader: a member that is cut off from the others ends the stream instead of being silent.
        metadata = (*await self._metadata(endpoint, within_s), ("hasleader", "true"))
        call = endpoint.bound(WATCH)(metadata=metadata)
        create = pb.WatchCreateRequest(key=span[0], range_end=span[1], start_revision=start)
        try:
            async with asyncio.timeout(within_s):
                await call.write(pb.WatchRequest(create_request=create))
                reply = await call.read()
            while reply is not grpc.aio.EOF:
                if reply.canceled:
                    self._token = ""  # a bad token looks like a missing right here
                yield reply
                reply = await call.read()
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            self._leave(endpoint)
            details = error.details() if isinstance(error, grpc.aio.AioRpcError) else "silent"
            _log.info("watch broken", extra={"endpoint": endpoint.name, "error": details})
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close all channels."""
        for endpoint in self._endpoints:
            await endpoint.close()

    async def _attempt(
        self, endpoint: _Endpoint, method: Method[Q, R], request: Q, within_s: float
    ) -> R:
        metadata = await self._metadata(endpoint, within_s)
        bound = endpoint.bound(method)
        if not method.is_stream:
            reply: R = await bound(request, timeout=within_s, metadata=metadata)
            return reply
        call = bound(timeout=within_s, metadata=metadata)
        try:
            await call.write(request)
            first = await call.read()
            if not isinstance(first, method.reply):
                raise CoordinatorDownError(f"etcd at {endpoint.name} ended the stream unanswered")
            return first
        finally:
            call.cancel()

    async def _connected(self, until: float) -> _Endpoint:
        """A member with a standing connection. Raises `CoordinatorDownError`: nothing was sent."""
        loop = asyncio.get_running_loop()
        count = len(self._endpoints)
        while True:
            for step in range(count):
                number = (self._current + step) % count
                endpoint = self._endpoints[number]
                left_s = until - loop.time()
                if left_s <= 0:
                    break
                share_s = left_s if count == 1 else min(left_s, CONNECT_S)
                if endpoint.is_ready() or await endpoint.connect(share_s):
                    self._current = number
                    await self._greet(endpoint)
                    return endpoint
            if until - loop.time() <= PAUSE_S:
                names = ", ".join(endpoint.name for endpoint in self._endpoints)
                raise CoordinatorDownError(f"no connection to etcd at {names}: nothing was sent")
            await asyncio.sleep(PAUSE_S)

    def _leave(self, endpoint: _Endpoint) -> None:
        """It failed: begin with the next one."""
        if self._endpoints[self._current] is endpoint:
            self._current = (self._current + 1) % len(self._endpoints)

    async def _greet(self, endpoint: _Endpoint) -> None:
        """Once for each member: is its version one to be warned of?"""
        if endpoint.is_greeted:
            return
        endpoint.is_greeted = True
        try:
            status = await endpoint.bound(STATUS)(pb.StatusRequest(), timeout=PAUSE_S * 10)
        except grpc.aio.AioRpcError:
            return  # what it is asked next will tell
        if _version(status.version) < VERSION_MIN:
            _log.warning(
                "etcd %s at %s is older than %s: it is known to lose or repeat what it was told; upgrade",
                *(status.version, endpoint.name, ".".join(map(str, VERSION_MIN))),
            )

    async def _metadata(self, endpoint: _Endpoint, within_s: float) -> tuple[tuple[str, str], ...]:
        """Our token. A request waits for it unsent, so that failing here is `CoordinatorDownError`."""
        if not self._options.user:
            return ()
        if not self._token:
            login = pb.AuthenticateRequest(name=self._options.user, password=self._options.password)
            try:
                reply = await endpoint.bound(AUTHENTICATE)(login, timeout=within_s)
            except grpc.aio.AioRpcError as error:
                details = error.details() or ""
                if "authentication is not enabled" in details:
                    _log.warning("etcd at %s asks for no password", endpoint.name)
                    return ()
                if judge(error.code(), details) is Verdict.UNKNOWN:
                    self._leave(endpoint)
                    raise CoordinatorDownError(_sentence(AUTHENTICATE, endpoint, error)) from None
                raise CoordinatorRefusedError(
                    f"etcd does not accept the user {self._options.user}: {details};"
                    " check name and password"
                ) from None
            self._token = reply.token
        return (("token", self._token),)


def _credentials(options: EtcdOptions) -> grpc.ChannelCredentials:
    def read(path: Path | None) -> bytes | None:
        return path.read_bytes() if path is not None else None

    return grpc.ssl_channel_credentials(read(options.ca), read(options.key), read(options.cert))


def _sentence(method: Method[Any, Any], endpoint: _Endpoint, error: grpc.aio.AioRpcError) -> str:
    what = method.path.rpartition("/")[2]
    return f"{what} at etcd {endpoint.name}: {error.code().name}, {error.details() or 'no details'}"


def _refusal(
    method: Method[Any, Any], verdict: Verdict, error: grpc.aio.AioRpcError
) -> CoordinatorDownError | CoordinatorRefusedError:
    sentence = f"{method.path.rpartition('/')[2]}: {error.details()}"
    if verdict is Verdict.FULL:
        return CoordinatorDownError(f"{sentence}: nothing was changed; make room in etcd")
    if verdict is Verdict.LEASE:
        return LeaseGoneError(sentence)
    return CoordinatorRefusedError(sentence)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.partition("-")[0].split(".") if part.isdigit())
