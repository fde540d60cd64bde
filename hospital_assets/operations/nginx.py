"""The configuration of nginx as the reverse proxy of an installation: one name and certificate for all of it.

Dagster's UI has no users. Here it is shown under `/dagster` to whom the dashboard lets see it: nginx asks the dashboard
before each request (`auth_request`), with the cookie of who asks.
"""

from __future__ import annotations

import re
from pathlib import Path

from hospital_assets.files import make_folder, replace_text
from hospital_assets.settings import SettingsError

FILE = "hospital.conf"
PREFIX = "/dagster"

_CIPHERS = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)
# TLS is Mozilla's "intermediate" (Server Side TLS 5.7): TLS 1.2 and 1.3, forward secrecy, no CBC.
_CONFIGURATION = """\
# Written by `hospital deploy nginx`. Belongs where nginx.conf includes files within `http`, as in /etc/nginx/conf.d.

map $http_upgrade $hospital_connection {
    default upgrade;
    '' close;
}

server {
    listen [HTTP_PORT];
    listen [::]:[HTTP_PORT];
    server_name [NAME];
    server_tokens off;
    return 301 https://[NAME]$request_uri;
}

server {
    listen [HTTPS_PORT] ssl http2;
    listen [::]:[HTTPS_PORT] ssl http2;
    server_name [NAME];
    server_tokens off;
    absolute_redirect off;

    ssl_certificate [CERTIFICATE];
    ssl_certificate_key [CERTIFICATE_KEY];
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ciphers [CIPHERS];
    ssl_prefer_server_ciphers off;
    ssl_session_cache shared:hospital:10m;
    ssl_session_timeout 1d;
    ssl_session_tickets off;
    add_header Strict-Transport-Security "max-age=31536000" always;

    client_max_body_size 1m;
    proxy_http_version 1.1;
    proxy_connect_timeout 5s;
    # Who asks is said by this proxy alone: what the client claims is replaced, not added to.
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host "";
    proxy_set_header Forwarded "";
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $hospital_connection;

    # The dashboard; the stream of the live board beats every few seconds.
    location / {
        proxy_pass http://127.0.0.1:[DASHBOARD_PORT];
        proxy_read_timeout 60s;
    }

    # How the systems stand is for the monitoring, which asks the dashboard itself.
    location = /metrics {
        return 404;
    }

    # The address holds a code of the identity provider.
    location = /login/callback {
        access_log off;
        proxy_pass http://127.0.0.1:[DASHBOARD_PORT];
    }

    # SQL for programs; a query takes longer than a page.
    location /v1/ {
        proxy_pass http://127.0.0.1:[GATEWAY_PORT];
        proxy_read_timeout 120s;
    }

    # Dagster's UI, for roles whose `pages` in the policy name `dagster`.
    location ~ ^[PREFIX](/|$) {
        auth_request /hospital-may-dagster;
        error_page 401 = @hospital_sign_in;
        proxy_pass http://127.0.0.1:[DAGSTER_PORT];
        # A WebSocket is asked about when it is opened: one that is silent for so long ends, and is asked about again.
        proxy_read_timeout 60s;
        client_max_body_size 10m;
    }

    location = /hospital-may-dagster {
        internal;
        proxy_pass http://127.0.0.1:[DASHBOARD_PORT]/may/dagster;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
    }

    location @hospital_sign_in {
        return 302 /login?next=dagster;
    }
}
"""


def nginx_configuration(
    name: str,
    certificate: Path,
    certificate_key: Path,
    *,
    dashboard_port: int = 8000,
    dagster_port: int = 3000,
    gateway_port: int = 8321,
    https_port: int = 443,
    http_port: int = 80,
) -> str:
    """The configuration of one server name.

    Args:
        name: host name that people use.
        certificate: PEM file with the chain, the server's own first.
        certificate_key: PEM file with its key.
        dashboard_port: where `hospital dashboard` listens on this machine.
        dagster_port: where `hospital dagster webserver` does.
        gateway_port: where `hospital serve` does.
        https_port: where nginx listens.
        http_port: where it listens to send people to https.

    Raises:
        SettingsError: a name or path holds what nginx takes for something else.
    """
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", name):
        raise SettingsError(f"'{name}' is no host name: say it as in ed.example.org, without https:// and port")
    values: dict[str, object] = {"NAME": name, "PREFIX": PREFIX, "CIPHERS": _CIPHERS}
    for key, path in (("CERTIFICATE", certificate), ("CERTIFICATE_KEY", certificate_key)):
        if not re.fullmatch(r"/[\w./@+-]+", str(path), re.ASCII):
            raise SettingsError(f"'{path}' must be a whole path of letters, digits and ./@+-_ only")
        values[key] = path
    values |= {"DASHBOARD_PORT": dashboard_port, "DAGSTER_PORT": dagster_port, "GATEWAY_PORT": gateway_port}
    values |= {"HTTPS_PORT": https_port, "HTTP_PORT": http_port}
    return re.sub(r"\[([A-Z_]+)\]", lambda found: str(values[found[1]]), _CONFIGURATION)


def write_configuration(text: str, into: Path) -> Path:
    """Write the configuration into a folder."""
    make_folder(into)
    replace_text(into / FILE, text, mode=0o644)
    return into / FILE
