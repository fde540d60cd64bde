"""The services of an installation, each a process with its own restart: as units of systemd, or as containers.

Both state the same commands that `hospital dev` starts together, hardened: a user of their own, a file system that
is read-only but for the data directory, no new privileges, limited memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hospital_assets.files import make_folder, replace_text
from hospital_assets.settings import SettingsError

#: Settings of the environment, secrets among them: read by systemd before it gives up its rights.
ENVIRONMENT_FILE = Path("/etc/hospital/environment")
_TARGET = "hospital.target"
_CODE_SOCKET = Path("/run/hospital-code/code.sock")


@dataclass(frozen=True)
class Service:
    """A process that is kept going.

    Attributes:
        name: of its unit, after `hospital-`.
        description: what it is, as systemd shows it.
        command: of `hospital`, with its options.
        memory_megabytes: beyond, the system ends it, and it is started again.
        after: services that it looks for at its start.
        is_optional: whether it is installed only where asked for.
        answers: where it answers while it lives; empty where it listens nowhere.
    """

    name: str
    description: str
    command: str
    memory_megabytes: int
    after: tuple[str, ...] = ()
    is_optional: bool = False
    answers: str = ""

    @property
    def port(self) -> int | None:
        """Where it listens on this machine; None for a socket, or nowhere."""
        found = re.search(r":(\d+)(?:/|$)", self.answers)
        return int(found[1]) if found else None


SERVICES = (
    Service(
        "code",
        "Dagster's code server: the definitions, and the runs it starts",
        "dagster code",
        8_000,
        answers=f"unix:{_CODE_SOCKET}",
    ),
    Service("daemon", "Dagster's daemon: sensors, schedules, the queue of runs", "dagster daemon", 1_500, ("code",)),
    Service(
        "webserver",
        "Dagster's UI, on this machine only",
        "dagster webserver",
        1_500,
        ("code",),
        answers="http://127.0.0.1:3000/server_info",
    ),
    Service("dashboard", "The dashboard", "dashboard", 1_500, answers="http://127.0.0.1:8000/healthz"),
    Service("watch", "Loads what lands within seconds, and raises alerts", "watch", 4_000, is_optional=True),
    Service(
        "gateway",
        "Answers users' SQL from their role's publication",
        "serve",
        4_000,
        is_optional=True,
        answers="http://127.0.0.1:8321/healthz",
    ),
    Service(
        "hl7",
        "Lands HL7 v2 messages that arrive by MLLP",
        "listen hl7",
        500,
        is_optional=True,
        answers="tcp:127.0.0.1:2575",
    ),
)

_UNIT = """\
# Written by `hospital deploy systemd`. Change it with `systemctl edit`, which an upgrade leaves alone.
[Unit]
Description=hospital_assets: {description}
PartOf={target}
{after}
[Service]
User={user}
Group={user}
Environment=HOSPITAL_DATA_DIR={data_dir} HOSPITAL_CODE_SOCKET={code_socket}
Environment=XDG_CONFIG_HOME={keys}
EnvironmentFile=-{environment_file}
WorkingDirectory={data_dir}
ExecStart={program} {command}
{runtime}Restart=always
RestartSec=5
# Of one that is stopped while it starts.
SuccessExitStatus=130
# Runs and transactions end by themselves; what is cut off is made again.
TimeoutStopSec=60
KillMode=mixed
MemoryMax={memory}M
UMask=0077
ReadWritePaths={written}
ProtectSystem=strict
ProtectHome=true
PrivateTmp=true
PrivateDevices=true
NoNewPrivileges=true
ProtectClock=true
ProtectControlGroups=true
ProtectHostname=true
ProtectKernelLogs=true
ProtectKernelModules=true
ProtectKernelTunables=true
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
LockPersonality=true
CapabilityBoundingSet=
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy={target}
"""

_TARGET_UNIT = """\
# Written by `hospital deploy systemd`. Starts and stops all services: `systemctl start hospital.target`.
[Unit]
Description=hospital_assets: all services
Wants={wanted}

[Install]
WantedBy=multi-user.target
"""


def systemd_units(
    program: Path, data_dir: Path, user: str, keys: Path, optional: tuple[str, ...] = (), folders: tuple[Path, ...] = ()
) -> dict[str, str]:
    """The unit files, by name.

    Args:
        program: the installed `hospital` command.
        data_dir: of the installation, writable by the user.
        user: who the services run as, and their group.
        keys: folder of the keys and of the anchors of the audit log, outside the data directory, writable by the user.
        optional: names of optional services that are wanted, too.
        folders: others that they write, as that of a mirror outside the data directory.

    Raises:
        SettingsError: a path or name holds what systemd takes for something else.
    """
    for text in map(str, (program, data_dir, user, keys, *folders)):
        if not re.fullmatch(r"[\w./@+-]+", text, re.ASCII):
            raise SettingsError(f"'{text}' cannot stand in a unit: letters, digits and ./@+-_ only")
    units = {}
    for service in _chosen(optional):
        others = " ".join(f"hospital-{name}.service" for name in service.after)
        units[f"hospital-{service.name}.service"] = _UNIT.format(
            description=service.description,
            target=_TARGET,
            after=f"After=network-online.target {others}\nWants=network-online.target {others}\n".replace(" \n", "\n"),
            user=user,
            data_dir=data_dir,
            keys=keys,
            # One that is not there stops no service.
            written=" ".join([str(data_dir), str(keys), *(f"-{folder}" for folder in folders)]),
            environment_file=ENVIRONMENT_FILE,
            code_socket=_CODE_SOCKET,
            program=program,
            command=service.command,
            runtime="RuntimeDirectory=hospital-code\nRuntimeDirectoryMode=0700\n" if service.name == "code" else "",
            memory=service.memory_megabytes,
        )
    units[_TARGET] = _TARGET_UNIT.format(wanted=" ".join(units))
    return units


def _chosen(optional: tuple[str, ...]) -> list[Service]:
    return [service for service in SERVICES if not service.is_optional or service.name in optional]


_CONTAINERFILE = """\
# Written by `hospital deploy containers`. Beside it lies the wheel: pip wheel . --no-deps
FROM docker.io/library/python:3.11-slim-bookworm
RUN groupadd --gid {user} hospital && useradd --uid {user} --gid {user} --home-dir /data --no-create-home \\
    --shell /usr/sbin/nologin hospital && install -d -o {user} -g {user} -m 700 /data /keys {code_folder}
COPY hospital_assets-*.whl /tmp/
# Compiled here: nothing can be written at run time.
RUN for wheel in /tmp/hospital_assets-*.whl; do pip install --no-cache-dir --compile "$wheel[metrics]"; done \\
    && rm /tmp/hospital_assets-*.whl
ENV HOSPITAL_DATA_DIR=/data XDG_CONFIG_HOME=/keys HOSPITAL_CODE_SOCKET={code_socket} PYTHONDONTWRITEBYTECODE=1
USER {user}:{user}
WORKDIR /data
ENTRYPOINT ["hospital"]
"""

_COMPOSE = """\
# Written by `hospital deploy containers`. Change it in a compose.override.yaml, which an upgrade leaves alone.
# The network is the machine's: each listens where its unit would, at loopback unless its command says otherwise.
"""

#: Run by Python in the container, which has no curl; the address follows.
_HEALTH = {
    "http": "import urllib.request as r; r.urlopen({!r}, timeout=5)",
    "tcp": "import socket as s; s.create_connection({!r}, timeout=5)",
    "unix": "import socket as s; s.socket(s.AF_UNIX).connect({!r})",
}


def container_files(
    data_dir: Path,
    user: int,
    keys: Path,
    optional: tuple[str, ...] = (),
    backups: str = "",
    folders: tuple[Path, ...] = (),
) -> dict[str, str]:
    """A Containerfile, and a compose.yaml of the same services, by name.

    Args:
        data_dir: of the machine, writable by the user.
        user: number of the user and the group that they run as.
        keys: folder of the keys and of the anchors of the audit log, outside the data directory, writable by the user.
        optional: names of optional services that are wanted, too.
        backups: folder of backups, to say how they stand; empty where there is none.
        folders: others that they write, as that of a mirror outside the data directory.

    Raises:
        SettingsError: they would run as root.
    """
    import yaml

    if user == 0:
        raise SettingsError("services do not run as root: name another --user")
    services = {}
    for service in _chosen(optional):
        said = {
            "image": "hospital-assets",
            "build": {"context": ".", "dockerfile": "Containerfile"},
            "command": service.command.split(),
            "user": f"{user}:{user}",
            "network_mode": "host",
            "read_only": True,
            "tmpfs": ["/tmp"],  # noqa: S108  (of the container)
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "env_file": [{"path": str(ENVIRONMENT_FILE), "required": False}],
            "volumes": [
                *(f"{data_dir}:/data", f"{keys}:/keys", f"code:{_CODE_SOCKET.parent}"),
                *([f"{backups}:{backups}:ro"] if backups else []),
                *(f"{folder}:{folder}" for folder in folders),
            ],
            "mem_limit": f"{service.memory_megabytes}m",
            # Runs and transactions end by themselves; what is cut off is made again.
            "stop_grace_period": "60s",
            "restart": "unless-stopped",
            # Ends what a killed run has left.
            "init": True,
        }
        if service.answers:
            said["healthcheck"] = {
                "test": ["CMD", "python", "-c", health_of(service)],
                "interval": "30s",
                "timeout": "10s",
                "retries": 3,
                "start_period": "2m",
            }
        if service.after:
            said["depends_on"] = {name: {"condition": "service_healthy"} for name in service.after}
        services[service.name] = said
    compose = yaml.safe_dump({"name": "hospital", "services": services, "volumes": {"code": {}}}, sort_keys=False)
    return {
        "Containerfile": _CONTAINERFILE.format(user=user, code_folder=_CODE_SOCKET.parent, code_socket=_CODE_SOCKET),
        "compose.yaml": _COMPOSE + compose,
    }


def health_of(service: Service) -> str:
    """A line of Python that fails where a service does not answer."""
    kind, _, where = service.answers.partition(":")
    if kind == "tcp":
        return _HEALTH[kind].format((where.partition(":")[0], service.port))
    return _HEALTH[kind].format(service.answers if kind == "http" else where)


def write_units(units: dict[str, str], into: Path) -> list[Path]:
    """Write files into a folder, which others may read."""
    make_folder(into)
    for name, text in units.items():
        # systemd reads them as root, and complains of those that only the owner may read.
        replace_text(into / name, text, mode=0o644)
    return [into / name for name in units]
