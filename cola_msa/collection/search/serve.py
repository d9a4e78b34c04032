"""An index behind a local HTTP endpoint: a query without a start of Python.

Python's own server, with what it lacks for strangers: a time by which a request must
be there, a size that it must not exceed, a number of connections, and a look at who
asks. A page of the web runs in a browser on this machine: it may reach the endpoint by
a name of its own that leads here (so `Host` must be an address, `localhost` or
`--host`), or from another origin (so `Origin` must be absent, our own or, for GET
/neighbours alone, the `null` of a page from the disk, as a map is).
"""

import contextlib
import io
import ipaddress
import json
import os
import pathlib
import socket
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cola_msa.collection.search.contract import describe
from cola_msa.collection.search.index import open_index
from cola_msa.collection.search.service import (
    MAX_AUDIO_BYTES,
    MAX_BODY_BYTES,
    RequestError,
    Service,
)
from cola_msa.system.console import tell
from cola_msa.system.errors import UsageError, UserError
from cola_msa.system.signals import handled_by, stop_on_signals

MAX_CONNECTIONS = 256
HEAD_SECONDS = 10.0  # for a request's lines, and between two requests
BODY_SECONDS = 30.0
_CLOSING_SECONDS = 5.0  # that a request has left once the endpoint stops
_POLL_SECONDS = 0.1  # within which a signal is seen
_READ_BYTES = 1 << 16
_DROP_SECONDS = 2.0  # for the rest of a request that is refused


class ServeError(UserError):
    """An endpoint that cannot be opened; the message says why."""


class _StopError(Exception):
    """The endpoint was asked to stop."""


class _TimedInput(io.RawIOBase):
    """What a client sends, until a point in time."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self.deadline = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "cola_msa", ""
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer is one packet
    server: "Endpoint"

    def setup(self) -> None:
        super().setup()
        self._input = _TimedInput(self.connection)
        self.rfile = self._buffer = io.BufferedReader(self._input)
        self._origin: str | None = None

    def handle_one_request(self) -> None:
        self._input.deadline = time.monotonic() + HEAD_SECONDS
        self._origin = None
        with self.server.waiting(self.connection):
            # http.server reads it again, from what is here by then.
            with contextlib.suppress(ConnectionError, TimeoutError):
                self._buffer.peek(1)
        super().handle_one_request()
        if self.server.is_closing:
            self.close_connection = True

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        try:
            self._check_sender()
        except RequestError as error:
            self._refuse(error)
            return False
        return True

    def handle_expect_100(self) -> bool:
        """Says that the body may come, or why not, before it does."""
        try:
            self._body_bytes()
        except RequestError as error:
            self._refuse(error)
            return False
        return super().handle_expect_100()

    def _check_sender(self) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1:
            raise RequestError(400, "a request has one Host")
        if not self.server.is_own_name(hosts[0]):
            raise RequestError(403, "Host is neither an address nor localhost")
        origin = self.headers.get("Origin")
        is_page = self.command in ("GET", "OPTIONS") and self._route() == "/neighbours"
        if origin is None:
            if self.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
                raise RequestError(403, "pages of other sites are not answered")
        elif origin == "null" and is_page:
            self._origin = origin
        elif origin != f"http://{hosts[0]}":
            raise RequestError(403, "pages of other origins are not answered")

    def _route(self) -> str:
        return self.path.partition("?")[0]

    def do_GET(self) -> None:  # noqa: N802, as http.server calls it
        """Answers what has no body."""
        with self._refusing():
            if self._body_bytes(is_needed=False):
                raise RequestError(400, "a GET has no body")
            if self._route() == "/":
                self._send(200, self.server.service.describe())
            elif self._route() == "/neighbours":
                query = urllib.parse.urlsplit(self.path).query
                self._send(200, self.server.service.by_path(query))
            else:
                raise RequestError(404, "there is nothing; GET / says what there is")

    def do_POST(self) -> None:  # noqa: N802
        """Answers what has a body."""
        with self._refusing():
            size = self._body_bytes()
            if self._route() == "/neighbours":
                body = b"".join(self._body(size))
                self._send(200, self.server.service.by_json(body))
            elif self._route() == "/audio" and self.server.service.takes_audio:
                self._answer_audio(size)
            else:
                raise RequestError(404, "there is nothing; GET / says what there is")

    def do_OPTIONS(self) -> None:  # noqa: N802
        """Answers a browser that asks whether a page may ask."""
        with self._refusing():
            if self._origin is None:
                raise RequestError(403, "pages of other origins are not answered")
            self._send(204, None)

    def _answer_audio(self, size: int) -> None:
        with tempfile.TemporaryDirectory(dir=self.server.scratch) as folder:
            file = pathlib.Path(folder) / "audio"
            with open(file, "wb") as output:
                for part in self._body(size):
                    output.write(part)
            query = urllib.parse.urlsplit(self.path).query
            self._send(200, self.server.service.by_audio(query, file))

    def _body_bytes(self, is_needed: bool = True) -> int:
        """How long the body is, by its header."""
        if "Transfer-Encoding" in self.headers:
            raise RequestError(411, "a body has a Content-Length")
        lengths = self.headers.get_all("Content-Length", [])
        if not lengths and not is_needed:
            return 0
        if not lengths:
            raise RequestError(411, "a body has a Content-Length")
        length = lengths[0].strip()
        if len(lengths) > 1 or not (length.isascii() and length.isdigit()):
            raise RequestError(400, "Content-Length is no number")
        most = MAX_AUDIO_BYTES if self._route() == "/audio" else MAX_BODY_BYTES
        digits = length.lstrip("0")
        if len(digits) > 18 or int(digits or "0") > most:
            raise RequestError(413, f"a body has at most {most:,} bytes")
        return int(digits or "0")

    def _body(self, size: int) -> Any:
        """Yields the body in parts."""
        self._input.deadline = time.monotonic() + BODY_SECONDS
        while size:
            try:
                part = self.rfile.read(min(size, _READ_BYTES))
            except TimeoutError as error:
                raise RequestError(408, "the body came too slowly") from error
            if not part:
                raise RequestError(400, "the body ends early")
            size -= len(part)
            yield part

    @contextlib.contextmanager
    def _refusing(self) -> Any:
        try:
            yield
        except RequestError as error:
            self._refuse(error)
        except UserError as error:  # the index was damaged meanwhile
            self._refuse(RequestError(500, str(error)))

    def _refuse(self, error: RequestError) -> None:
        # What is left of the request is not read; a GET has been.
        if self.command != "GET" or error.status != 404:
            self.close_connection = True
        self._send(error.status, {"error": str(error)})
        if self.close_connection:
            self._drop_rest()

    def _drop_rest(self) -> None:
        """Reads on for a moment: who still sends sees no answer of a closed socket."""
        until = time.monotonic() + _DROP_SECONDS
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while (left := until - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(_READ_BYTES):
                    return

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """What http.server itself refuses, as JSON."""
        self.close_connection = True
        self._send(int(code), {"error": message or "cannot be answered"})

    def _send(self, status: int, content: Any) -> None:
        body = b"" if content is None else json.dumps(content).encode() + b"\n"
        self.connection.settimeout(BODY_SECONDS)
        self.send_response(status)
        if content is not None:
            self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        if self._origin is not None:
            self.send_header("Access-Control-Allow-Origin", self._origin)
            self.send_header("Access-Control-Allow-Private-Network", "true")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if getattr(self, "command", "") != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """Nothing: queries are nobody else's."""


class Endpoint(ThreadingHTTPServer):
    """The endpoint: listens on one address, with a thread for each connection.

    Attributes:
        service: What answers.
        is_closing: Whether connections end after their present request.
        scratch: A folder for what is sent; it goes with the endpoint.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, service: Service, host: str, port: int):
        """Binds the address.

        Args:
            service: What answers.
            host: An address, or a name that has one.
            port: 0 for one that is free.

        Raises:
            ServeError: If it cannot be bound.
        """
        self.service, self._host = service, host
        self.is_closing = self._is_asked_to_stop = False
        self._lock = threading.Lock()
        self._waiting: set[socket.socket] = set()
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self.address_family, address = found[0][0], found[0][4]
            super().__init__((str(address[0]), port), _Handler)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ServeError(
                f"--host={host} --port={port}: cannot be listened on ({reason}); name "
                "another"
            ) from error
        self._scratch = tempfile.TemporaryDirectory(
            prefix="cola_msa-serve-", ignore_cleanup_errors=True
        )
        self.scratch = self._scratch.name

    def server_bind(self) -> None:
        """Binds, and asks nobody for the machine's name."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        host, port = self.socket.getsockname()[:2]
        self.server_address = (host, port)
        self.server_name, self.server_port = host, port

    @property
    def url(self) -> str:
        """Where it is reached."""
        host = self.server_name
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.server_port}/"

    def is_own_name(self, host: str) -> bool:
        """Whether a `Host` is no name that somebody else has given to this machine."""
        try:
            name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in ("localhost", self._host.lower()):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Gives a connection a thread; there are MAX_CONNECTIONS at most."""
        if not self._places.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.settimeout(0)
                request.send(
                    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n"
                    b"Content-Length: 0\r\n\r\n"
                )
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers a connection's requests."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tells of defects; a client that goes away is none."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def stop(self, *_: Any) -> None:
        """Makes `serve_forever` return, soon; for signals.

        An exception from the signal itself could come where a connection is handed to
        its thread, and would close it there.
        """
        self._is_asked_to_stop = True

    def serve_forever(self, poll_interval: float = _POLL_SECONDS) -> None:
        """Answers until `stop`."""
        with contextlib.suppress(_StopError):
            super().serve_forever(poll_interval)

    def service_actions(self) -> None:
        """Between two connections, or after a while without one."""
        if self._is_asked_to_stop:
            raise _StopError

    @contextlib.contextmanager
    def waiting(self, connection: socket.socket) -> Iterator[None]:
        """Inside, a connection has no request yet, and ends once the endpoint does.

        What it has sent by then is read.
        """
        with self._lock:
            self._waiting.add(connection)
            if self.is_closing:
                _end_input(connection)
        try:
            yield
        finally:
            with self._lock:
                self._waiting.discard(connection)

    def finish(self) -> int:
        """Closes the address, and gives requests some seconds to be answered.

        Returns:
            How many requests have no answer by then.
        """
        self.server_close()
        with self._lock:
            self.is_closing = True
            for connection in self._waiting:
                _end_input(connection)
        deadline = time.monotonic() + _CLOSING_SECONDS
        num_left = MAX_CONNECTIONS
        while num_left and self._places.acquire(
            timeout=max(0.0, deadline - time.monotonic())
        ):
            num_left -= 1
        self._scratch.cleanup()
        return num_left


def _end_input(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client is gone
        connection.shutdown(socket.SHUT_RD)


def serve(path: str, host: str, port: int, model: str | None = None) -> None:
    """Answers queries until Ctrl-C or SIGTERM.

    Args:
        path: The index.
        host: The only address that is listened on.
        port: 0 for one that is free.
        model: Embeds audio that is sent; None for none.

    Raises:
        UsageError: If the host is empty, which would be all addresses.
        SearchError: If the index is none, or the model another than its own.
        ServeError: If the address cannot be bound.
    """
    if not host.strip():
        raise UsageError("--host names nothing; 127.0.0.1 is this machine alone")
    with stop_on_signals():
        index = open_index(path)
        endpoint = Endpoint(Service(index, model), host, port)
    with handled_by(endpoint.stop):
        try:
            tell(f"{path}: {describe(index)}", endpoint.url)
            endpoint.serve_forever()
        finally:
            num_left = endpoint.finish()
        if not num_left:
            tell("stopped", to=sys.stderr)
            return
        tell(f"stopped; {num_left} requests got no answer", to=sys.stderr)
        # Python's own end takes from under FAISS and TensorFlow what they work on.
        sys.stdout.flush()
        os._exit(0)
