"""The services of an installation, each a process with its own restart, and their systemd units.

The units state the same commands that `hospital dev` starts together, hardened: a user of their own, a file system that
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
    """

    name: str
    description: str
    command: str
    memory_megabytes: int
    after: tuple[str, ...] = ()
    is_optional: bool = False


SERVICES = (
    Service("code", "Dagster's code server: the definitions, and the runs it starts", "dagster code", 8_000),
    Service("daemon", "Dagster's daemon: sensors, schedules, the queue of runs", "dagster daemon", 1_500, ("code",)),
    Service("webserver", "Dagster's UI, on this machine only", "dagster webserver", 1_500, ("code",)),
    Service("dashboard", "The dashboard", "dashboard", 1_500),
    Service("watch", "Loads what lands within seconds, and raises alerts", "watch", 4_000, is_optional=True),
    Service("gateway", "Answers users' SQL from their role's publication", "serve", 4_000, is_optional=True),
    Service("hl7", "Lands HL7 v2 messages that arrive by MLLP", "listen hl7", 500, is_optional=True),
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
Environment=HOSPITAL_DATA_DIR={data_dir} HOSPITAL_CODE_SOCKET=/run/hospital-code/code.sock
Environment=XDG_CONFIG_HOME={keys}
EnvironmentFile=-{environment_file}
WorkingDirectory={data_dir}
ExecStart={program} {command}
{runtime}Restart=always
RestartSec=5
# Runs and transactions end by themselves; what is cut off is made again.
TimeoutStopSec=60
KillMode=mixed
MemoryMax={memory}M
UMask=0077
ReadWritePaths={data_dir} {keys}
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
    program: Path, data_dir: Path, user: str, keys: Path, optional: tuple[str, ...] = ()
) -> dict[str, str]:
    """The unit files, by name.

    Args:
        program: the installed `hospital` command.
        data_dir: of the installation, writable by the user.
        user: who the services run as, and their group.
        keys: folder of the keys and of the anchors of the audit log, outside the data directory, writable by the user.
        optional: names of optional services that are wanted, too.

    Raises:
        SettingsError: a path or name holds what systemd takes for something else.
    """
    for text in (str(program), str(data_dir), user, str(keys)):
        if not re.fullmatch(r"[\w./@+-]+", text, re.ASCII):
            raise SettingsError(f"'{text}' cannot stand in a unit: letters, digits and ./@+-_ only")
    chosen = [service for service in SERVICES if not service.is_optional or service.name in optional]
    units = {}
    for service in chosen:
        others = " ".join(f"hospital-{name}.service" for name in service.after)
        units[f"hospital-{service.name}.service"] = _UNIT.format(
            description=service.description,
            target=_TARGET,
            after=f"After=network-online.target {others}\nWants=network-online.target {others}\n".replace(" \n", "\n"),
            user=user,
            data_dir=data_dir,
            keys=keys,
            environment_file=ENVIRONMENT_FILE,
            program=program,
            command=service.command,
            runtime="RuntimeDirectory=hospital-code\nRuntimeDirectoryMode=0700\n" if service.name == "code" else "",
            memory=service.memory_megabytes,
        )
    units[_TARGET] = _TARGET_UNIT.format(wanted=" ".join(units))
    return units


def write_units(units: dict[str, str], into: Path) -> list[Path]:
    """Write unit files into a folder."""
    make_folder(into)
    for name, text in units.items():
        # systemd reads them as root, and complains of those that only the owner may read.
        replace_text(into / name, text, mode=0o644)
    return [into / name for name in units]
