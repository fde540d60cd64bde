"""An S3 server for tests: moto's, on a port of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests


@contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch, bucket: str) -> Iterator[None]:
    """A server with an empty bucket that the environment names, until the block ends; skips where moto is not there."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed (pip install 'moto[server]')")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "planted-key-id",
        "AWS_SECRET_ACCESS_KEY": "planted-secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        # Buckets belong to the process, not to a server in it.
        requests.post(f"http://{host}:{port}/moto-api/reset", timeout=30).raise_for_status()
        requests.put(f"http://{host}:{port}/{bucket}", timeout=30).raise_for_status()
        yield
    finally:
        server.stop()
