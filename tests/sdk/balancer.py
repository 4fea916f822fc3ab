"""nginx before two guards, by the shipped configuration: answers stream, and what was sent is never sent again.

The guards are played here; nginx is Debian's.
"""

import contextlib
import http.client
import re
import socket
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness import ROOT, count_failures, end

CONFIG = ROOT / "deploy" / "nginx" / "spendguard.conf"
DEFAULTS = (ROOT / "config" / "spendguard.toml").read_text()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Guard:
    """Answers by the path, and counts what it was sent."""

    def __init__(self):
        guard = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self):
                guard.seen.append((self.command, self.path))
                guard.began.append(time.monotonic())
                length = int(self.headers.get("content-length", 0))
                if self.path == "/break":
                    self.rfile.read(length)
                    self.close_connection = True
                    return
                if self.path == "/first-bytes":
                    guard.first = self.rfile.read(1)
                    guard.got_first.set()
                    length -= 1
                self.rfile.read(length)
                getattr(self, "stream" if self.path == "/stream" else "whole")()

            do_GET = do_POST = do_DELETE = answer

            def whole(self):
                self.send_response(503 if self.path == "/503" else 200)
                self.send_header("x-guard", guard.name)
                self.send_header("x-should-retry", "true")
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def stream(self):
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for number in range(3):
                    event = f"data: {number}\n\n".encode()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                    self.wfile.flush()
                    # The next comes only once the client has this one.
                    if not guard.go_on.acquire(timeout=5):
                        guard.stuck = True
                        return
                self.wfile.write(b"0\r\n\r\n")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.name = str(self.port)
        self.forget()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def forget(self):
        self.seen, self.began, self.stuck = [], [], False
        self.go_on, self.got_first = threading.Semaphore(0), threading.Event()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Nginx:
    """The shipped configuration, with guards and ports of this test."""

    def __init__(self, guards):
        self.guards = guards
        self.port, self.admin_port = free_port(), free_port()

    def pointed(self, folder):
        text = CONFIG.read_text()
        addresses = [f"127.0.0.1:{guard if isinstance(guard, int) else guard.port}" for guard in self.guards]
        places = {
            "listen 8080;": f"listen 127.0.0.1:{self.port};",
            "listen 8081;": f"listen 127.0.0.1:{self.admin_port};",
            "/tmp/": f"{folder}/",
            # Debian's nginx is older than the image that the file is for.
            " resolve ": " ",
        }
        for name, address in zip("ab", addresses):
            places |= {f"guard-{name}:8080": address, f"guard-{name}:8081": address}
        for place, other in places.items():
            assert place in text, place
            text = text.replace(place, other)
        return text

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        # Workers of a root's nginx are another user's.
        Path(self.folder.name).chmod(0o777)
        config = Path(self.folder.name) / "nginx.conf"
        config.write_text(self.pointed(self.folder.name))
        arguments = ["nginx", "-c", str(config), "-e", f"{self.folder.name}/error.log"]
        tested = subprocess.run([*arguments, "-t"], capture_output=True, text=True)
        assert tested.returncode == 0, tested.stderr
        self.process = subprocess.Popen([*arguments, "-g", "daemon off;"], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            time.sleep(0.05)
        raise AssertionError("nginx does not listen")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)
        self.folder.cleanup()

    def ask(self, method, path, body=None, port=None):
        """The status and the headers."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=20)
        connection.request(method, path, body)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, answer.headers

    def written(self):
        """The files that nginx put bodies into."""
        return [path for path in Path(self.folder.name).rglob("*") if path.is_file() and path.parent != Path(self.folder.name)]


@contextlib.contextmanager
def both():
    guards = [Guard(), Guard()]
    try:
        with Nginx(guards) as nginx:
            yield nginx, guards
    finally:
        for guard in guards:
            guard.stop()


def seen(guards):
    return [one for guard in guards for one in guard.seen]


def an_event_arrives_before_the_next_is_sent():
    with both() as (nginx, guards):
        connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=20)
        connection.request("POST", "/stream", b"{}")
        answer = connection.getresponse()
        for number in range(3):
            assert answer.read(len("data: 0\n\n")) == f"data: {number}\n\n".encode()
            for guard in guards:
                guard.go_on.release()
        assert answer.read() == b"" and not any(guard.stuck for guard in guards)


def a_request_reaches_the_guard_as_it_is_sent_and_no_file():
    with both() as (nginx, guards):
        size = 1024 * 1024
        connection = socket.create_connection(("127.0.0.1", nginx.port), 20)
        connection.sendall(b"POST /first-bytes HTTP/1.1\r\nhost: g\r\nconnection: close\r\ncontent-length: %d\r\n\r\nx" % size)
        until = time.monotonic() + 5
        while not any(guard.got_first.is_set() for guard in guards):
            assert time.monotonic() < until, "nginx waits for the whole body"
            time.sleep(0.01)
        connection.sendall(b"x" * (size - 1))
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 200")
        assert nginx.written() == []


def a_post_that_was_sent_is_not_sent_again():
    # A body that has begun can't be sent again; without one only the method says that it must not be.
    for body in (b"{}", None):
        with both() as (nginx, guards):
            status, _ = nginx.ask("POST", "/break", body)
            assert status == 502 and seen(guards) == [("POST", "/break")], (status, seen(guards))


def a_read_that_broke_off_is_repeated_once():
    with both() as (nginx, guards):
        status, _ = nginx.ask("GET", "/break")
        assert status == 502 and seen(guards) == [("GET", "/break")] * 2, (status, seen(guards))


def a_refusal_of_a_guard_is_the_answer():
    with both() as (nginx, guards):
        for method in ("POST", "GET"):
            status, headers = nginx.ask(method, "/503", b"{}")
            assert status == 503 and headers["x-should-retry"] == "true"
        assert len(seen(guards)) == 2, seen(guards)


def requests_go_to_the_other_guard_while_one_is_down():
    guard = Guard()
    with Nginx([free_port(), guard]) as nginx:
        for _ in range(20):
            assert nginx.ask("POST", "/whole", b"{}")[0] == 200
        assert len(guard.seen) == 20
    guard.stop()


def both_guards_serve_clients_and_one_serves_an_operator():
    with both() as (nginx, guards):
        for _ in range(20):
            nginx.ask("POST", "/whole", b"{}")
        assert all(len(guard.seen) >= 5 for guard in guards), [len(guard.seen) for guard in guards]
        served = {nginx.ask("GET", "/", port=nginx.admin_port)[1]["x-guard"] for _ in range(20)}
        assert len(served) == 1, served


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|m|h)", text).groups()
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def times_and_sizes_fit_to_the_guards():
    text = CONFIG.read_text()
    set_to = lambda name: re.search(rf"^\s*{name} (\S+);", text, re.MULTILINE)[1]
    default = lambda name: re.search(rf'^#{name} = "(\S+)"', DEFAULTS, re.MULTILINE)[1]
    assert seconds(set_to("proxy_read_timeout")) > seconds(default("response_timeout"))
    assert seconds(set_to("keepalive_timeout")) < seconds(default("idle_timeout"))
    assert set_to("client_max_body_size") == "64m" and default("request_body_max") == "64MiB"
    directives = re.sub(r"#.*", "", text)
    assert set_to("proxy_buffering") == set_to("proxy_request_buffering") == "off"
    assert "non_idempotent" not in directives and "http_5" not in directives


def main():
    tests = [
        an_event_arrives_before_the_next_is_sent,
        a_request_reaches_the_guard_as_it_is_sent_and_no_file,
        a_post_that_was_sent_is_not_sent_again,
        a_read_that_broke_off_is_repeated_once,
        a_refusal_of_a_guard_is_the_answer,
        requests_go_to_the_other_guard_while_one_is_down,
        both_guards_serve_clients_and_one_serves_an_operator,
        times_and_sizes_fit_to_the_guards,
    ]
    end("balancer", tests, count_failures(tests))


if __name__ == "__main__":
    main()
