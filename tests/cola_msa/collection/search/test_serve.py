"""The endpoint: what it answers, what it refuses, where it listens, how it stops."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

import numpy as np
import pytest

from cola_msa.collection.search import serve as serve_lib
from cola_msa.collection.search import service as service_lib
from cola_msa.collection.search.build import build
from cola_msa.collection.search.contract import SearchError
from cola_msa.collection.search.index import open_index
from cola_msa.collection.search.query import query
from cola_msa.collection.search.serve import Endpoint, ServeError, serve
from cola_msa.collection.search.service import Service
from cola_msa.system.errors import UsageError
from tests.helpers import embedding_tables
from tests.helpers.commands import Command

KNOWN = "music/album0/track 4.ogg"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    columns = embedding_tables.sample_columns()
    columns["path"][7] = "m/caf\u00e9 \U0001f3b5.ogg"
    path = embedding_tables.write(root / "e.npz", columns)
    build(str(path), str(root / "index"), "cosine", "flat")
    return open_index(root / "index")


@contextlib.contextmanager
def running(service, host="127.0.0.1"):
    endpoint = Endpoint(service, host, 0)
    thread = threading.Thread(target=endpoint.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.shutdown()
        thread.join()
        endpoint.finish()


@pytest.fixture(scope="module")
def endpoint(index):
    with running(Service(index)) as found:
        yield found


def ask(endpoint, method, target, body=None, **headers):
    """Status, headers and JSON of an answer."""
    connection = http.client.HTTPConnection(*endpoint.server_address, timeout=20)
    try:
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, answer.headers, json.loads(content) if content else None
    finally:
        connection.close()


def raw(endpoint, *parts, pause=0.0):
    """Everything that comes back for bytes."""
    with socket.create_connection(endpoint.server_address, timeout=20) as connection:
        for part in parts:
            with contextlib.suppress(ConnectionError):
                connection.sendall(part)
            time.sleep(pause)
        found = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(1 << 16):
                found += part
    return found


def post(endpoint, value, target="/neighbours", **headers):
    body = value if isinstance(value, bytes | str) else json.dumps(value)
    return ask(endpoint, "POST", target, body, **headers)


def test_it_says_what_it_is(endpoint, index):
    status, headers, found = ask(endpoint, "GET", "/")
    assert status == 200 and headers["Content-Type"] == "application/json"
    assert found["clips"] == 12 and found["values"] == 16 and found["kind"] == "flat"
    assert found["model"] == embedding_tables.MODEL_HASH
    assert "POST /neighbours" in found["routes"]


def test_answers_are_those_of_query(endpoint, index):
    (expected,) = query(index, [KNOWN], 5)
    target = f"/neighbours?path={urllib.parse.quote(KNOWN)}&k=5"
    status, _, found = ask(endpoint, "GET", target)
    assert status == 200 and found == expected
    # Digits are a number, however many zeros stand before it.
    for digits in ("05", "0" * 40 + "5"):
        assert ask(endpoint, "GET", target.replace("k=5", f"k={digits}"))[2] == expected
    assert post(endpoint, {"path": KNOWN, "k": 5})[2] == expected
    row = index.find_path(KNOWN)
    values = index.vector(row).tolist()
    answers = post(
        endpoint, {"queries": [{"path": KNOWN}, {"vector": values}], "k": 5}
    )[2]["answers"]
    assert answers[0] == expected
    assert not answers[1]["in_index"]
    assert answers[1]["results"][0] == {
        "rank": 1,
        "path": KNOWN,
        "score": pytest.approx(1),
    }
    name = urllib.parse.quote("m/caf\u00e9 \U0001f3b5.ogg")
    assert ask(endpoint, "GET", f"/neighbours?path={name}")[2]["in_index"]
    assert len(ask(endpoint, "GET", f"/neighbours?path={name}")[2]["results"]) == 10


def test_indices_of_one_file_and_large_ones_are_served(index, tmp_path, monkeypatch):
    (expected,) = query(index, [KNOWN], 4)
    monkeypatch.setattr(service_lib, "_HELD_BYTES", 0)  # read for each query
    with running(Service(index)) as endpoint:
        assert post(endpoint, {"path": KNOWN, "k": 4})[2] == expected
    columns = embedding_tables.sample_columns()
    build(
        str(embedding_tables.write(tmp_path / "e.npz", columns)),
        str(tmp_path / "i.npz"),
        "cosine",
    )
    monkeypatch.undo()
    with running(Service(open_index(tmp_path / "i.npz"))) as endpoint:
        found = post(endpoint, {"path": KNOWN, "k": 4})[2]
        assert found["results"][0]["score"] == pytest.approx(
            expected["results"][0]["score"]
        )


@pytest.mark.parametrize(
    ("value", "status", "reason"),
    [
        (b"", 400, "no JSON"),
        (b"{", 400, "no JSON"),
        (b"\xff", 400, "no JSON"),
        (b"[" * 100_000, 400, "no JSON"),
        (b"[1]", 400, "no JSON object"),
        ({}, 400, "either a path or a vector"),
        ({"path": KNOWN, "vector": [1]}, 400, "either a path or a vector"),
        ({"path": 3}, 400, "path is no text"),
        ({"path": ""}, 400, "path is no text"),
        (b'{"path": "\\ud800"}', 400, "no Unicode"),
        ({"path": "/etc/passwd"}, 404, "no such path"),
        ({"path": "a\0b"}, 404, "no such path"),
        ({"path": KNOWN, "k": 0}, 400, "k is no whole number"),
        ({"path": KNOWN, "k": 1001}, 400, "k is no whole number"),
        ({"path": KNOWN, "k": 1.5}, 400, "k is no whole number"),
        ({"path": KNOWN, "k": True}, 400, "k is no whole number"),
        ({"path": KNOWN, "K": 3}, 400, "'K' is unknown"),
        ({"vector": [1, 2]}, 400, "the query has 2 values, the index 16"),
        ({"vector": []}, 400, "0 values"),
        ({"vector": "abc"}, 400, "no list of numbers"),
        ({"vector": [True] * 16}, 400, "no list of numbers"),
        ({"vector": [[1.0] * 16]}, 400, "no list of numbers"),
        ({"vector": [None] * 16}, 400, "no list of numbers"),
        (b'{"vector": [NaN' + b",1" * 15 + b"]}", 400, "not finite"),
        (b'{"vector": [1e999' + b",1" * 15 + b"]}", 400, "not finite"),
        (b'{"vector": [1' + b"0" * 400 + b",1" * 15 + b"]}", 400, "too large"),
        (b'{"k": 1' + b"0" * 5000 + b"}", 400, "no JSON"),
        ({"queries": []}, 400, "no list of 1 to 256"),
        ({"queries": [{"path": KNOWN}] * 257}, 400, "no list of 1 to 256"),
        ({"queries": {}}, 400, "no list of 1 to 256"),
        ({"queries": [3]}, 400, "no JSON object"),
        ({"queries": [{"path": KNOWN, "k": 3}]}, 400, "'k' is unknown"),
        ({"queries": [{"path": KNOWN}] * 200, "k": 1000}, 400, "ask in parts"),
    ],
    ids=lambda value: str(value)[:40] if not isinstance(value, int) else str(value),
)
def test_what_is_malformed_has_a_reason(endpoint, value, status, reason):
    found, _, answer = post(endpoint, value)
    assert found == status and reason in answer["error"]
    assert ask(endpoint, "GET", "/")[0] == 200


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/neighbours/", 404),
        ("GET", "/../index.json", 404),
        ("GET", "/neighbours", 400),
        ("GET", "/neighbours?path=", 400),
        ("GET", "/neighbours?path=a&path=b", 400),
        ("GET", "/neighbours?path=%ff", 400),
        ("GET", "/neighbours?path=a&k=x", 400),
        ("GET", "/neighbours?path=a&k=000", 400),
        ("GET", "/neighbours?path=a&k=" + "1" * 5000, 400),
        ("GET", "/neighbours?path=a&k=%C2%B2", 400),
        ("GET", "/neighbours?path=a&other=1", 400),
        ("GET", "/neighbours?" + "&" * 50_000, 400),
        ("GET", "/neighbours?path=nowhere", 404),
        ("GET", "/neighbours?path=" + "a" * 70_000, 414),
        ("POST", "/", 404),
        ("POST", "/audio", 404),
        ("PUT", "/neighbours", 501),
        ("DELETE", "/", 501),
        ("OPTIONS", "/neighbours", 403),
    ],
)
def test_addresses(endpoint, method, target, status):
    found, headers, answer = ask(
        endpoint, method, target, b"{}" if method == "POST" else None
    )
    assert found == status and isinstance(answer["error"], str)
    assert headers["Content-Type"] == "application/json"


def head(*lines, start="POST /neighbours HTTP/1.1", host="Host: 127.0.0.1"):
    return "\r\n".join([start, host, *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([head(f"Content-Length: {10**12}")], 413),
        ([head("Content-Length: " + "9" * 5000)], 413),
        ([head(f"Content-Length: {10**9}", "Expect: 100-continue")], 413),
        ([head("Content-Length: " + "0" * 30 + "2"), b"[]"], 400),
        ([head("Content-Length: -1")], 400),
        ([head("Content-Length: +5"), b"hello"], 400),
        ([head("Content-Length: 2", "Content-Length: 3"), b"{}"], 400),
        ([head("Transfer-Encoding: chunked"), b"2\r\n{}\r\n0\r\n\r\n"], 411),
        ([head()], 411),
        ([head("Content-Length: 2", host="X: y"), b"{}"], 400),
        ([head(start="GET / HTTP/1.1", host="Host: a.b\r\nHost: 127.0.0.1")], 400),
        ([head("Content-Length: 5", start="GET / HTTP/1.1"), b"hello"], 400),
        ([b"nonsense\r\n\r\n"], 400),
        ([b"GET / HTTP/9.9\r\n\r\n"], 505),
        ([b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"], 400),
        ([head(*(f"X-{n}: y" for n in range(200)), start="GET / HTTP/1.1")], 431),
        ([head("X: " + "y" * 70_000, start="GET / HTTP/1.1")], 431),
    ],
)
def test_requests_that_are_none(endpoint, parts, status):
    found = raw(endpoint, *parts)
    first = found.partition(b"\r\n")[0].split()
    if first[:1] == [b"HTTP/1.1"]:
        assert int(first[1]) == status
    assert json.loads(found.rpartition(b"\r\n\r\n")[2] or found)["error"]
    assert ask(endpoint, "GET", "/")[0] == 200


def test_who_sends_too_much_still_gets_the_answer(endpoint):
    body = bytes(20_000_000)
    connection = http.client.HTTPConnection(*endpoint.server_address, timeout=20)
    connection.request("POST", "/neighbours", body)  # raises where it is reset
    answer = connection.getresponse()
    assert answer.status == 413
    assert "at most" in json.loads(answer.read())["error"]
    connection.close()
    assert ask(endpoint, "GET", "/")[0] == 200


def test_who_sends_without_end_is_left(index, monkeypatch):
    monkeypatch.setattr(serve_lib, "_DROP_SECONDS", 0.3)
    with running(Service(index)) as endpoint:
        begin = time.monotonic()
        address = endpoint.server_address
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(head(f"Content-Length: {10**12}"))
            with pytest.raises(ConnectionError):
                while time.monotonic() < begin + 10:
                    connection.sendall(bytes(1 << 16))
        assert time.monotonic() - begin < 8


def test_a_body_may_be_announced(endpoint):
    body = json.dumps({"path": KNOWN}).encode()
    found = raw(
        endpoint,
        head(
            f"Content-Length: {len(body)}", "Expect: 100-continue", "Connection: close"
        ),
        body,
        pause=0.05,
    )
    assert found.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")


def test_a_connection_takes_many_requests(endpoint):
    connection = http.client.HTTPConnection(*endpoint.server_address, timeout=20)
    for _ in range(3):
        for method, target, body in (
            ("GET", "/", None),
            ("GET", "/neighbours?path=nowhere", None),
            ("POST", "/neighbours", json.dumps({"path": KNOWN})),
        ):
            connection.request(method, target, body)
            first = connection.sock
            answer = connection.getresponse()
            answer.read()
            assert connection.sock is first
    connection.close()


def test_slow_clients_are_left(index, monkeypatch):
    monkeypatch.setattr(serve_lib, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(serve_lib, "BODY_SECONDS", 0.3)
    with running(Service(index)) as endpoint:
        begin = time.monotonic()
        assert raw(endpoint, *[b"G"] * 10, pause=0.1) == b""
        # A byte now and then does not help.
        parts = [head("Content-Length: 1000"), *[b"{"] * 12]
        assert b" 408 " in raw(endpoint, *parts, pause=0.1)
        assert time.monotonic() - begin < 8
        assert ask(endpoint, "GET", "/")[0] == 200


def test_a_body_that_ends_early(endpoint):
    with socket.create_connection(endpoint.server_address, timeout=20) as connection:
        connection.sendall(head("Content-Length: 100") + b"{}")
        connection.shutdown(socket.SHUT_WR)
        assert b" 400 " in connection.recv(1 << 16)


def test_there_are_only_so_many_connections(index, monkeypatch):
    monkeypatch.setattr(serve_lib, "MAX_CONNECTIONS", 3)
    with running(Service(index)) as endpoint:
        held = [socket.create_connection(endpoint.server_address) for _ in range(3)]
        for connection in held:
            connection.sendall(b"GET")
        time.sleep(0.2)
        assert raw(endpoint).startswith(b"HTTP/1.1 503 ")
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 10
        while raw(endpoint, head(start="GET / HTTP/1.0")).split()[1] != b"200":
            assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("target", "headers", "status", "allowed"),
    [
        ("/", {"Host": "evil.example"}, 403, None),
        ("/", {"Host": "127.0.0.1.evil.example:80"}, 403, None),
        ("/", {"Host": "localhost:1"}, 200, None),
        ("/", {"Host": "[::1]:8765"}, 200, None),
        ("/", {"Host": "[::1"}, 403, None),
        ("/", {"Host": ""}, 403, None),
        ("/", {"Origin": "http://evil.example"}, 403, None),
        ("/", {"Origin": "null"}, 403, None),
        ("/", {"Origin": "http://127.0.0.1", "Host": "127.0.0.1"}, 200, None),
        ("/neighbours?path=P", {"Origin": "null"}, 200, "null"),
        ("/neighbours?path=P", {"Origin": "https://evil.example"}, 403, None),
        ("/neighbours?path=P", {"Origin": "null", "Host": "evil.example"}, 403, None),
        ("/neighbours?path=P", {"Sec-Fetch-Site": "cross-site"}, 403, None),
        ("/neighbours?path=P", {"Sec-Fetch-Site": "none"}, 200, None),
    ],
)
def test_pages_of_others_are_not_answered(endpoint, target, headers, status, allowed):
    target = target.replace("=P", f"={urllib.parse.quote(KNOWN)}")
    found, given, _ = ask(endpoint, "GET", target, **headers)
    assert found == status
    assert given["Access-Control-Allow-Origin"] == allowed


def test_a_page_from_the_disk_may_ask_for_a_path_alone(endpoint):
    status, headers, _ = ask(endpoint, "OPTIONS", "/neighbours", Origin="null")
    assert status == 204 and headers["Access-Control-Allow-Origin"] == "null"
    status, headers, _ = post(endpoint, {"path": KNOWN}, Origin="null")
    assert status == 403 and headers["Access-Control-Allow-Origin"] is None


def test_audio_is_embedded_and_thrown_away(index, monkeypatch):
    seen = []

    def open_embedder(index, model):
        def embed(path):
            content = open(path, "rb").read()
            seen.append(path)
            if content == b"noise":
                raise SearchError(f"--file={path}: no audio")
            return np.full(16, len(content), float)

        return embed

    monkeypatch.setattr(service_lib, "open_embedder", open_embedder)
    monkeypatch.setattr(serve_lib, "MAX_AUDIO_BYTES", 200_000)
    with running(Service(index, "model")) as endpoint:
        status, _, found = post(endpoint, b"x" * 150_000, "/audio?k=3")
        assert status == 200 and len(found["results"]) == 3
        assert found["query"] is None and not found["in_index"]
        status, _, found = post(endpoint, b"noise", "/audio")
        assert status == 400 and found["error"] == "the audio cannot be read: no audio"
        assert post(endpoint, b"noise", "/audio?k=0")[0] == 400
        assert (
            raw(endpoint, head("Content-Length: 200001", start="POST /audio HTTP/1.1"))[
                9:12
            ]
            == b"413"
        )
    assert len(seen) == 2 and not any(os.path.exists(path) for path in seen)


def test_many_ask_at_once(endpoint):
    expected = post(endpoint, {"path": KNOWN})[2]
    wrong = []

    def client():
        for _ in range(5):
            if post(endpoint, {"path": KNOWN})[2] != expected:
                wrong.append(1)

    threads = [threading.Thread(target=client) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_it_listens_on_one_address_alone(endpoint):
    port = endpoint.server_address[1]
    assert endpoint.server_address[0] == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)


@pytest.mark.parametrize("host", ["", " "])
def test_no_host_is_not_every_address(host):
    with pytest.raises(UsageError, match="--host names nothing"):
        serve("index", host, 0)


def test_addresses_that_cannot_be_listened_on(index, endpoint):
    with pytest.raises(ServeError, match="cannot be listened on .*; name another"):
        Endpoint(Service(index), "192.0.2.1", 0)
    with pytest.raises(ServeError, match="name another"):
        Endpoint(Service(index), "no.such.host.invalid", 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServeError, match="Address already in use"):
            Endpoint(Service(index), *taken.getsockname())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_at_a_signal(index, number):
    process = subprocess.Popen(
        [sys.executable, "-m", "cola_msa.search", "serve", f"--index={index.folder}"]
        + ["--port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "12 clips" in process.stdout.readline()
    url = process.stdout.readline().strip()
    place = urllib.parse.urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=20) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0 and err.strip().splitlines()[-1] == "stopped"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((place.hostname, place.port), timeout=5)


# A question that takes for ever, and a signal while a connection gets its thread.
SLOW = """
import sys, time
from cola_msa.collection.search import serve, service
serve._CLOSING_SECONDS = 0.2
service.Service.by_path = lambda *_: time.sleep(60)
serve.serve(sys.argv[1], "127.0.0.1", 0)
"""
AT_THE_HANDOVER = """
import os, signal, sys, threading, time
from cola_msa.collection.search import serve

start = threading.Thread.start

def start_and_signal(thread):
    start(thread)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)

answer = serve.Endpoint.finish_request

def answer_later(*arguments):
    time.sleep(0.3)
    answer(*arguments)

serve.Endpoint.finish_request = answer_later
threading.Thread.start = start_and_signal
serve.serve(sys.argv[1], "127.0.0.1", 0)
"""


@contextlib.contextmanager
def serving(code, index, tmp_path):
    """A process that runs a script, and where it listens."""
    (tmp_path / "script.py").write_text(code)
    process = Command("script", index.folder, cwd=tmp_path, log=tmp_path / "log")
    try:
        while "http://" not in (text := (tmp_path / "log").read_text()):
            assert process.poll() is None, text
            time.sleep(0.02)
        place = urllib.parse.urlsplit(text[text.index("http://") :].split()[0])
        yield process, (place.hostname, place.port)
    finally:
        process.kill()


def test_a_question_that_has_no_end_does_not_keep_it(index, tmp_path):
    """Nor does it end within what Python takes from under FAISS at its own end."""
    with serving(SLOW, index, tmp_path) as (process, address):
        with socket.create_connection(address, timeout=20) as client:
            client.sendall(head(start="GET /neighbours?path=a HTTP/1.1"))
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=10) == 0
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last == "stopped; 1 requests got no answer"


def test_a_signal_while_a_connection_is_taken_leaves_it_its_answer(index, tmp_path):
    with serving(AT_THE_HANDOVER, index, tmp_path) as (process, address):
        with socket.create_connection(address, timeout=20) as client:
            client.sendall(head(start="GET / HTTP/1.1"))
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        assert process.wait(timeout=10) == 0
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text and text.endswith("stopped\n")
