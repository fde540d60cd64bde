"""The installation of docs/operations.md, line by line, in a Debian that has nothing yet.

A root that mmdebstrap makes takes the place of the machine; there is no systemd in it, so what the units say is started
by hand: their commands, users and variables, in a network of its own, where nobody has their ports. Packages come
from a folder that pip fills here, with whatever index this machine has. Skipped where the tools or rights are missing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
PASSWORD = "correct horse battery"  # noqa: S105
UNITS = "/etc/systemd/system"
DEBIAN = "bookworm"
#: Run as the root's own Python: signs in over TLS, as nobody is let in otherwise, and looks at pages.
LOOK = """
import ssl, sys, time, urllib.error, urllib.parse, urllib.request
from http.cookiejar import CookieJar

address, authority, password = sys.argv[1:]
trusting = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=authority))
opener = urllib.request.build_opener(trusting, urllib.request.HTTPCookieProcessor(CookieJar()))

def get(path, form=None):
    data = None if form is None else urllib.parse.urlencode(form).encode()
    with opener.open(address + path, data, timeout=120) as answer:
        return answer.url, answer.read().decode()

for started in (address + "/healthz", "http://127.0.0.1:3000/server_info"):
    for _ in range(480):
        try:
            opener.open(started, timeout=120).close()
            break
        except urllib.error.URLError as error:
            assert not isinstance(error.reason, ssl.SSLError), error
            time.sleep(0.5)
    else:
        raise AssertionError(started + " does not answer")
assert get("/overview")[0].endswith("/login?next=overview"), "shown without a sign-in"
url, page = get("/login", {"name": "ann", "password": password, "next": "overview"})
assert url.endswith("/overview") and "<svg" in page, url
assert get("/readyz")
print("signed in, and shown the overview")
"""


def commands() -> list[str]:
    """The first block of the section on the installation."""
    section = PAGE.partition("## Install\n")[2].partition("\n## ")[0]
    (block, *_) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return str(block).strip().splitlines()


def test_the_installation_is_ten_commands_at_most_and_the_units_come_last() -> None:
    lines = commands()
    assert len(lines) <= 10 and lines[-1] == "systemctl daemon-reload && systemctl enable --now hospital.target"


def in_root(root: Path, script: str, *, network: bool, text: str = "") -> str:
    """Run a script of bash in a root, in processes and mounts of its own, which end with it."""
    # Without a network it has loopback alone.
    inside = f"""
        set -e
        mount -t proc proc {root}/proc
        mount --rbind /dev {root}/dev
        mount -t tmpfs tmpfs {root}/run
        {"" if network else "ip link set lo up"}
        exec chroot {root} env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \\
            DEBIAN_FRONTEND=noninteractive PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels bash -e -c "$1"
    """
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", *([] if network else ["--net"])]
    done = subprocess.run([*apart, "bash", "-c", inside, "bash", script], input=text, text=True, capture_output=True)
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def started_by_hand(root: Path) -> str:
    """A script that starts what `hospital.target` wants as its units say: in the background, as their user."""
    lines = []
    (wanted,) = re.findall(r"^Wants=(.*)$", (root / UNITS[1:] / "hospital.target").read_text(), re.MULTILINE)
    for name in wanted.split():
        unit = root / UNITS[1:] / name
        text = "\n".join(path.read_text() for path in [unit, *sorted(Path(f"{unit}.d").glob("*.conf"))])
        # An empty one forgets those before it.
        command = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)[-1]
        (user,) = re.findall(r"^User=(.*)$", text, re.MULTILINE)
        variables = " ".join(re.findall(r"^Environment=(.*)$", text, re.MULTILINE))
        folders = re.findall(r"^RuntimeDirectory=(.*)$", text, re.MULTILINE)
        lines += [f"install -d -o {user} -g {user} -m 700 /run/{folder}" for folder in folders]
        (where,) = re.findall(r"^WorkingDirectory=(.*)$", text, re.MULTILINE)
        lines.append(
            f"(umask 077; cd {where}; exec runuser -u {user} -- env {variables} {command}) > /tmp/{name}.log 2>&1 &"
        )
    return "\n".join(lines)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_from_an_empty_debian_to_a_signed_in_page_over_tls(tmp_path: Path) -> None:
    missing = [name for name in ("mmdebstrap", "unshare", "chroot", "ip") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"NOT TESTED: an installation on Debian needs root and {', '.join(missing) or 'nothing else'}")
    if sys.version_info[:2] != (3, 11):
        pytest.skip("NOT TESTED: packages are gathered by this Python, and Debian 12 has 3.11")
    if subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("NOT TESTED: namespaces are not allowed here")
    root = tmp_path / "root"
    made = subprocess.run(["mmdebstrap", "--variant=minbase", DEBIAN, str(root)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"NOT TESTED: no Debian could be had: {made.stderr[-300:]}")
    shutil.copyfile("/etc/resolv.conf", root / "etc" / "resolv.conf")
    with (root / "etc" / "hosts").open("a") as hosts:
        hosts.write("127.0.0.1 localhost ed.example.org\n")
    wheel = gathered(root, tmp_path / "source")

    *lines, _ = commands()
    for number, line in enumerate(lines):
        # The shell's function stays known, as it would to who types.
        known = next((one for one in lines[:number] if one.startswith("as_hospital()")), "")
        text = f"{PASSWORD}\n" if "users add" in line else ""
        in_root(root, f"{known}\n{line.replace('WHEEL', wheel)}", network=True, text=text)

    (root / "look.py").write_text(LOOK)
    look = f"/opt/hospital/bin/python /look.py https://ed.example.org:8000 /etc/hospital/ed.pem '{PASSWORD}'"
    said = in_root(root, f"{started_by_hand(root)}\n{look} || (tail -n 30 /tmp/*.log; exit 1)", network=False)
    assert "signed in, and shown the overview" in said
    logs = {path.name: path.read_text() for path in (root / "tmp").glob("hospital-*.log")}
    assert len(logs) == 5 and not [name for name, text in logs.items() if "Traceback" in text], logs


def gathered(root: Path, source: Path) -> str:
    """The package of this tree and all that it needs, as wheels in the root; its own path there."""
    ignored = shutil.ignore_patterns(".git", ".venv", "data", "build", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, source, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(root / "wheels")]
    subprocess.run([*pip, "--constraint", str(source / "requirements.txt"), str(source)], check=True)
    (wheel,) = (root / "wheels").glob("hospital_assets-*.whl")
    return f"/wheels/{wheel.name}"
