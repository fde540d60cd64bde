"""What our processes write about their work: lines for people, or one JSON object a line for programs.

`HOSPITAL_LOG_FORMAT=json` asks for the latter. An object holds `time` (UTC), `level`, `logger`, `message` and
`process`; of an exception its kinds and where it was raised, not its text, which could hold a value of what was read.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

LOG_FORMAT = "HOSPITAL_LOG_FORMAT"
#: Our loggers are below it.
_OURS = "hospital"
_FORMATS = ("text", "json")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; never a second one, whatever the message holds."""
        said: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if record.exc_info and record.exc_info[1] is not None:
            said["exception"] = _described(record.exc_info[1])
        return json.dumps(said, ensure_ascii=True)


def _described(error: BaseException) -> list[dict[str, object]]:
    """An exception and what led to it, the last first: kinds and places."""
    found: list[dict[str, object]] = []
    cause: BaseException | None = error
    known: set[int] = set()
    while cause is not None and id(cause) not in known:
        known.add(id(cause))
        frames = traceback.extract_tb(cause.__traceback__)[-10:]
        places = [f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames]
        found.append({"type": type(cause).__name__, "at": places})
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return found


def is_json() -> bool:
    """Whether programs read what is written.

    Raises:
        ValueError: `HOSPITAL_LOG_FORMAT` is neither text nor json.
    """
    asked = os.environ.get(LOG_FORMAT) or "text"
    if asked not in _FORMATS:
        raise ValueError(f"{LOG_FORMAT} must be text or json, not '{asked}'")
    return asked == "json"


def start_logging(*loggers: str) -> bool:
    """Have what is logged written to standard error as JSON, where that is asked for; called where a process begins.

    Args:
        *loggers: whose records; of all where none is named.

    Returns:
        Whether it was asked for.

    Raises:
        ValueError: see `is_json`.
    """
    if not is_json():
        return False
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    for name in loggers or ("",):
        logger = logging.getLogger(name)
        if not any(isinstance(known.formatter, JsonFormatter) for known in logger.handlers):
            logger.addHandler(handler)
    # Ours also say what they do; of libraries only what goes wrong is of interest.
    logging.getLogger(_OURS).setLevel(logging.INFO)
    if not loggers:
        logging.captureWarnings(True)
        sys.excepthook = _ended
        threading.excepthook = lambda raised: _ended(raised.exc_type, raised.exc_value, raised.exc_traceback)
    return True


def _ended(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """An error that nobody caught, as a record."""
    if not issubclass(kind, KeyboardInterrupt):
        logging.getLogger(_OURS).critical("ended by an error", exc_info=error)


def teller(name: str, text: Callable[[str], str] = str, *, to: TextIO | None = None) -> Callable[[str], None]:
    """How a process that goes on says what it does: a line for people, or a record of a logger.

    Args:
        text: what people see of a line.
        to: where they see it; None for standard output.
    """
    if is_json():
        return lambda line: logging.getLogger(name).info("%s", line)
    return lambda line: print(text(line), file=to, flush=True)
