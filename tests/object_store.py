"""A real S3 server on loopback, whose answers a test may spoil."""

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

CUT, CUT_AFTER = 0, -1
KEY, SECRET = "AKIDEXAMPLE", "s3cr3t-that-must-not-be-seen"


def never(*request: str) -> int | None:  # noqa: ARG001 - whatever is asked
    """Nothing goes wrong."""
    return None


def always(status: int) -> Callable[[str, str], int | None]:
    """Every request is answered with this status."""
    return lambda *request: status  # noqa: ARG005


@dataclass
class Faults:
    """What goes wrong: ``spoil(method, path)`` says how a request is answered.

    None serves it, a status is answered in its place, ``CUT`` cuts the line before anything was done, and ``CUT_AFTER``
    once it was done: the answer is lost, and who asked cannot know. It may also take its time.
    """

    spoil: Callable[[str, str], int | None] = never
    requests: list[tuple[str, str, int | None]] = field(default_factory=list)


class _Spoiled:
    """The server's application with the faults in front of it."""

    def __init__(self, application: Any, faults: Faults) -> None:
        self._application = application
        self._faults = faults

    def __call__(self, environment: dict[str, Any], start: Any) -> Iterable[bytes]:
        method, path = environment["REQUEST_METHOD"], environment["PATH_INFO"]
        status = self._faults.spoil(method, path)
        self._faults.requests.append((method, path, status))
        if status is None:
            served: Iterable[bytes] = self._application(environment, start)
            return served
        if status in (CUT, CUT_AFTER):
            if status == CUT_AFTER:
                b"".join(self._application(environment, lambda *answer: None))  # noqa: ARG005
            environment["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError("cut, as was asked")
        start(f"{status} Spoiled", [("Content-Type", "text/plain")])
        return [b"spoiled"]


class _Quiet(WSGIRequestHandler):
    """Says nothing of the lines that were cut on purpose."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """Nowhere."""

    def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
        """As asked."""


@contextlib.contextmanager
def serve() -> Iterator[tuple[str, Faults]]:
    """Run the server in a thread: its address and its faults."""
    import threading

    # Which takes seconds to import, and is not needed where these tests are only collected.
    from moto.server import DomainDispatcherApplication, create_backend_app

    faults = Faults()
    application = _Spoiled(DomainDispatcherApplication(create_backend_app), faults)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", faults
    finally:
        server.shutdown()
        thread.join()


def environment(address: str) -> dict[str, str]:
    """What the usual tools read: address, region and credentials."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ENDPOINT": address,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }


def client(address: str) -> Any:
    """A client of the server that is no part of what is tested."""
    import boto3

    options = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=address, **options)


def make_bucket(address: str, name: str) -> None:
    """Create a bucket."""
    client(address).create_bucket(Bucket=name)
