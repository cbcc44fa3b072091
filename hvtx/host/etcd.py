"""etcd's v3 key-value interface over its JSON gateway.

Source: etcd.io/docs/v3.4/dev-guide/api_grpc_gateway.

Keys and values are base64 there, numbers texts. Every question is linearizable: it is answered by a
member that a quorum follows. A question that may have been heard and has no answer is asked of the
next endpoint: so what is asked must come to the same when it is asked twice.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import socket
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from urllib.parse import urlsplit

from hvtx.errors import HostRefused, NotPermitted
from hvtx.host import paths
from hvtx.model.typed import Any, NamedTuple

_ANSWER_MOST = 1 << 28  # bytes
_UNDECIDED = frozenset(
    ("1", "4", "8", "10", "14")
)  # gRPC: cancelled, deadline, exhausted, aborted, away


class Unanswered(Exception):
    """No endpoint answered in time; what was asked may have been done or not."""


class Kv(NamedTuple):
    """A key and its value."""

    key: str
    value: str


class Reply(NamedTuple):
    """The answer of a transaction."""

    succeeded: bool
    found: tuple[tuple[Kv, ...], ...]  # by its operations, in their order; of a put nothing
    identity: str  # of the cluster
    revision: int  # of its key space


class _Timely(io.RawIOBase):
    """What a socket receives until a moment: bytes that drip do not prolong it."""

    def __init__(self, sock: socket.socket, end: float) -> None:
        self._sock, self._end = sock, end
        self._file = sock.makefile("rb", buffering=0)  # the socket stays open for as long

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer that is whole at a moment, or not read."""

    def __init__(self, end: float, sock: socket.socket, *given: Any, **named: Any) -> None:
        super().__init__(sock, *given, **named)
        self.fp.close()
        self.fp = io.BufferedReader(_Timely(sock, end))


class Etcd:
    """Some endpoints of one etcd; they are tried in their order, the one that answered last first.

    ``timeout`` is in seconds, for one question to all of them together.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeout: float,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
    ) -> None:
        """Nothing is connected yet."""
        self._endpoints = list(endpoints)
        self._timeout = timeout
        self._files = ca, cert, key
        self._tls: ssl.SSLContext | None = None
        self._open: dict[str, http.client.HTTPConnection] = {}
        self.failures: dict[str, str] = {}  # by endpoint: why it did not answer last time

    def close(self) -> None:
        """Close the connections."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def txn(
        self,
        compare: Sequence[Mapping[str, Any]],
        success: Sequence[Mapping[str, Any]],
        failure: Sequence[Mapping[str, Any]] = (),
    ) -> Reply:
        """One transaction. Raises Unanswered, HostRefused (an answer that is no answer)."""
        asked = {"compare": list(compare), "success": list(success), "failure": list(failure)}
        said = self._ask("/v3/kv/txn", asked)
        try:
            succeeded = bool(said.get("succeeded"))
            found = tuple(_range_of(part) for part in said.get("responses", ()))
            header = _header(said)
        except (LookupError, TypeError, ValueError, AttributeError) as problem:
            raise _no_etcd(self._endpoints[0], 200) from problem
        if not header[0] or len(found) != len(success if succeeded else failure):
            raise _no_etcd(self._endpoints[0], 200)
        return Reply(succeeded, found, *header)

    def status(self, endpoint: str) -> str:
        """The version of one endpoint's etcd. Raises Unanswered, HostRefused."""
        said = self._one(endpoint, "/v3/maintenance/status", {}, time.monotonic() + self._timeout)
        return str(said.get("version", ""))

    def _ask(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        end = time.monotonic() + self._timeout
        self.failures = {}
        for turn, endpoint in enumerate(list(self._endpoints)):
            left = end - time.monotonic()
            if left <= 0:
                break
            share = time.monotonic() + left / (len(self._endpoints) - turn)
            try:
                said = self._one(endpoint, path, asked, share)
            except Unanswered as problem:
                self.failures[endpoint] = str(problem)
                continue
            self._endpoints.remove(endpoint)
            self._endpoints.insert(0, endpoint)
            return said
        raise Unanswered("; ".join(f"{where}: {why}" for where, why in self.failures.items()))

    def _one(
        self, endpoint: str, path: str, asked: Mapping[str, Any], end: float
    ) -> dict[str, Any]:
        body = json.dumps(asked).encode()
        headers = {"Content-Type": "application/json"}
        connection = self._connection(endpoint)
        try:
            connection.timeout = max(end - time.monotonic(), 0.05)
            if connection.sock is None:
                connection.connect()
            connection.sock.settimeout(max(end - time.monotonic(), 0.05))
            connection.response_class = partial(_Answer, end)  # type: ignore[assignment]
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            text = response.read(_ANSWER_MOST)
            status = response.status
        except (OSError, http.client.HTTPException) as problem:
            self._drop(endpoint)
            raise Unanswered(_why(problem)) from problem
        if response.will_close:
            self._drop(endpoint)
        return _said(endpoint, status, text)

    def _connection(self, endpoint: str) -> http.client.HTTPConnection:
        if endpoint not in self._open:
            place = urlsplit(endpoint)
            host, port = place.hostname or "", place.port or 2379
            self._open[endpoint] = (
                http.client.HTTPSConnection(host, port, context=self._context())
                if place.scheme == "https"
                else http.client.HTTPConnection(host, port)
            )
        return self._open[endpoint]

    def _context(self) -> ssl.SSLContext:
        """How endpoints are believed. Raises HostRefused, NotPermitted for files of no use."""
        if self._tls is None:
            ca, cert, key = self._files
            for name, path in (("ca", ca), ("cert", cert), ("key", key)):
                if path is not None:
                    _look(name, path)
            with _usable(f"ca {ca}"):
                context = ssl.create_default_context(cafile=ca)
            if cert is not None:
                with _usable(f"cert {cert} with key {key}"):
                    context.load_cert_chain(cert, key, password=partial(_locked, key))
            self._tls = context
        return self._tls

    def _drop(self, endpoint: str) -> None:
        with suppress(KeyError):
            self._open.pop(endpoint).close()


def _look(name: str, path: str) -> None:
    """Raises HostRefused, which names the file: Python's own error of certificates does not.

    And NotPermitted for a ``ca`` that others could have written: it says who is believed.
    """
    try:
        os.close(paths.open_believed(path) if name == "ca" else paths.open_regular(path))
    except paths.UnsafeError as unsafe:
        raise NotPermitted(
            f"refusing to use {name} {path} of [cluster]: {unsafe.strerror}",
            hint="make it and its directories writable by root alone (chown, chmod go-w,"
            f" setfacl -b {path})",
        ) from unsafe
    except OSError as problem:
        raise _no_certificate(f"{name} {path}", problem.strerror or str(problem)) from problem


@contextmanager
def _usable(named: str) -> Iterator[None]:
    try:
        yield
    except OSError as problem:  # ssl.SSLError is one
        raise _no_certificate(named, _why(problem)) from problem


def _locked(key: str | None) -> str:
    """In the place of a question at the terminal, which is OpenSSL's own answer to such a key."""
    raise HostRefused(
        f"key {key} of [cluster] is encrypted, and hvtx asks nobody for a passphrase",
        hint=f"openssl pkey -in {key} -out NEW_FILE writes it without one: name that, mode 0600",
    )


def _no_certificate(named: str, why: str) -> HostRefused:
    return HostRefused(
        f"{named} of [cluster] cannot be used: {why}",
        hint="ca, cert and key of [cluster] name files in PEM",
    )


def _why(problem: Exception) -> str:
    """What went wrong, in words: without numbers of errors, and of lines of Python's (pure)."""
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"its certificate is not believed: {problem.verify_message.rstrip('.')}"
    said = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    if not isinstance(problem, ssl.SSLError):
        return said
    if isinstance(problem, ssl.SSLEOFError):  # an alert that says why is lost to a reset
        return "it ended the connection: it may refuse the client's certificate, or not have TLS"
    words = said.rpartition(" (_ssl.c:")[0] or said
    return words.partition("] ")[2] or words


def _said(endpoint: str, status: int, text: bytes) -> dict[str, Any]:
    """The object of an answer. Raises Unanswered where etcd could not tell, HostRefused."""
    try:
        said = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as problem:
        if status >= 500:
            raise Unanswered(f"HTTP {status}") from problem
        raise _no_etcd(endpoint, status) from problem
    if status == 200 and "error" not in said:
        return said
    words = str(said.get("message") or said.get("error") or f"HTTP {status}")
    if status >= 500 or str(said.get("code")) in _UNDECIDED:
        raise Unanswered(words)
    raise HostRefused(f"etcd at {endpoint} refuses: {words}", hint="look at etcd's own log")


def _no_etcd(endpoint: str, status: int) -> HostRefused:
    return HostRefused(
        f"{endpoint} answers, and not as etcd does: HTTP {status}",
        hint="endpoints of [cluster] are those of etcd's clients, with its JSON gateway",
    )


def _header(said: Mapping[str, Any]) -> tuple[str, int]:
    header = said.get("header", {})
    return str(header.get("cluster_id", "")), int(header.get("revision", 0))


def _range_of(part: Mapping[str, Any]) -> tuple[Kv, ...]:
    found = (part.get("response_range") or {}).get("kvs", ())
    return tuple(Kv(_text(kv["key"]), _text(kv.get("value", ""))) for kv in found)


# -- parts of a transaction ------------------------------------------------------------------------


def absent(key: str) -> dict[str, Any]:
    """Holds if there is no such key."""
    return {"key": _base64(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}


def none_below(prefix: str) -> dict[str, Any]:
    """Holds if there is no key that begins so."""
    return {**absent(prefix), "range_end": _base64(_after(prefix))}


def equal(key: str, value: str) -> dict[str, Any]:
    """Holds if the key is there and has this value."""
    return {"key": _base64(key), "target": "VALUE", "result": "EQUAL", "value": _base64(value)}


def less(key: str, value: str) -> dict[str, Any]:
    """Holds if the key is there and its value sorts before this one."""
    return {"key": _base64(key), "target": "VALUE", "result": "LESS", "value": _base64(value)}


def put(key: str, value: str) -> dict[str, Any]:
    """Set a key."""
    return {"request_put": {"key": _base64(key), "value": _base64(value)}}


def delete(key: str) -> dict[str, Any]:
    """Remove a key."""
    return {"request_delete_range": {"key": _base64(key)}}


def get(key: str) -> dict[str, Any]:
    """Read a key."""
    return {"request_range": {"key": _base64(key)}}


def below(prefix: str, *, keys_only: bool = False) -> dict[str, Any]:
    """Read all keys that begin so."""
    end = _base64(_after(prefix))
    return {"request_range": {"key": _base64(prefix), "range_end": end, "keys_only": keys_only}}


def _after(prefix: str) -> str:
    """The first key after all that begin with an ASCII prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()


def _text(base64: str) -> str:
    return b64decode(base64).decode(errors="replace")
