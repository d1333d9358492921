"""Which WSGI server should carry the webhook?

Each server that is installed runs in a process of its own with the same small Flask application,
which decodes a filter call of 5,000 names and answers 5,000 scores. A client on a raw socket sends
calls one after another on one kept-alive connection, as kube-scheduler's cycle does, while two more
connections send small calls, as concurrent binds do. Servers take turns, so that ratios hold on a
noisy machine; milliseconds.
"""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import click
import msgspec
from flask import Flask, Response, request

from bench.figures import percentiles
from bench.report import Report, benchmark
from scheduler.core.errors import SchedulerError

__all__ = ["app", "command", "serve_cheroot", "serve_ours"]

NAMES = [f"node-{i:05d}" for i in range(5000)]
FRAGMENTS = [b'{"Host":"%b","Score":7}' % name.encode() for name in NAMES]
_CALL = ("-c", "import bench.servers, sys; getattr(bench.servers, sys.argv[1])(int(sys.argv[2]))")
COMMANDS = {
    "scheduler": [*_CALL, "serve_ours", "{port}"],
    "cheroot": [*_CALL, "serve_cheroot", "{port}"],
    "waitress": ["-m", "waitress", "--threads=4", "--listen=127.0.0.1:{port}", "bench.servers:app"],
    "gunicorn": [
        "-m", "gunicorn", "--worker-class=gthread", "--workers=1", "--threads=4",
        "--keep-alive=180", "--bind=127.0.0.1:{port}", "bench.servers:app",
    ],
    "granian": [
        "-m", "granian", "--interface=wsgi", "--workers=1", "--blocking-threads=4", "--no-ws",
        "--http=1", "--host=127.0.0.1", "--port={port}", "--log-level=error", "bench.servers:app",
    ],
}  # fmt: skip

app = Flask(__name__)


@benchmark("servers")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--calls", type=click.IntRange(1), default=200, show_default=True)
def command(report: Report, rounds: int, calls: int) -> None:
    """A row per server."""
    report.title = "A large answer beside small calls, and small calls alone, ms"
    names = [name for name in COMMANDS if importlib.util.find_spec(name)]
    results: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    with ExitStack() as stack:
        ports = {name: _start(stack, name) for name in names}
        for number in range(rounds + 1):
            for name, port in ports.items():
                times, small_alone = _round(port, calls if number else 20)
                if number:  # the first round warms up
                    results[name][0].extend(times)
                    results[name][1].extend(small_alone)
            report.progress(number, rounds)
    for name, (large_times, small_times) in results.items():
        large_p50, large_p99 = percentiles(large_times, 50, 99)
        small_p50, small_p99 = percentiles(small_times, 50, 99)
        report.add(
            server=name,
            large_p50=large_p50,
            large_p99=large_p99,
            small_p50=small_p50,
            small_p99=small_p99,
        )


class _Args(msgspec.Struct, rename="pascal"):
    node_names: list[str]


@app.post("/large")
def large() -> Response:
    """As expensive to carry as a prioritize call."""
    args = msgspec.json.decode(request.get_data(), type=_Args)
    answer = b"[" + b",".join(FRAGMENTS[: len(args.node_names)]) + b"]"
    return Response(answer, mimetype="application/json")


@app.post("/small")
def small() -> Response:
    """As small as a bind call."""
    return Response(b'{"Error":""}', mimetype="application/json")


def serve_ours(port: int) -> None:
    """What the extender runs on."""
    from scheduler.webhook.limits import Limits
    from scheduler.webhook.listener import Listener

    Listener("bench", ("127.0.0.1", port), app, threads=4, limits=Limits()).serve()


def serve_cheroot(port: int) -> None:
    """Cheroot has no command line that keeps connections as long as we need."""
    from cheroot.wsgi import Server

    server = Server(("127.0.0.1", port), app, numthreads=4, timeout=180)
    server.nodelay = True
    server.start()


def call(sock: socket.socket, path: str, body: bytes) -> tuple[float, bytes]:
    """One exchange: milliseconds until the whole answer is there, and its head."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    message = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    started = time.perf_counter()
    sock.sendall(message)
    received = b""
    while b"\r\n\r\n" not in received:
        received += sock.recv(1 << 20)
    headers, rest = received.split(b"\r\n\r\n", 1)
    fields = dict(line.lower().split(b": ", 1) for line in headers.split(b"\r\n")[1:])
    missing = int(fields[b"content-length"]) - len(rest)
    while missing > 0:
        missing -= len(sock.recv(1 << 20))
    return (time.perf_counter() - started) * 1000, headers


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _start(stack: ExitStack, name: str) -> int:
    port = _free_port()
    command = [sys.executable, *(part.format(port=port) for part in COMMANDS[name])]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)

    def stop() -> None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()

    stack.callback(stop)
    for _ in range(200):
        with suppress(OSError):
            _connect(port).close()
            return port
        time.sleep(0.05)
    raise SchedulerError(f"{name} did not start")


def _round(port: int, calls: int) -> tuple[list[float], list[float]]:
    """Serial large calls, with two callers of small ones beside them."""
    body = msgspec.json.encode({"Pod": {}, "Nodes": None, "NodeNames": NAMES})
    done = threading.Event()

    def bind() -> None:
        with _connect(port) as sock:
            while not done.wait(0.01):
                call(sock, "/small", b"{}")

    binders = [threading.Thread(target=bind) for _ in range(2)]
    with _connect(port) as sock:
        small_alone = [call(sock, "/small", b"{}")[0] for _ in range(calls)]
        for binder in binders:
            binder.start()
        times = []
        for _ in range(calls):
            elapsed, headers = call(sock, "/large", body)
            assert b"transfer-encoding" not in headers.lower()
            times.append(elapsed)
        done.set()
    for binder in binders:
        binder.join()
    return times, small_alone
