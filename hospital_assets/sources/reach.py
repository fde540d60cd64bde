"""Whether sources elsewhere answer now, and what time it is there: one short look at each, which brings nothing.

Belongs here: the looks. Does not: what went wrong in words, which each kind of source says itself.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from hospital_assets.landing.profile import Export, Source
from hospital_assets.sources.databases import open_database
from hospital_assets.sources.queries import url_of
from hospital_assets.sources.remote import RemoteError, open_remote
from hospital_assets.sources.smart import FhirServer, LaterError, refusal

#: Until a source has to have answered a step; and until the look is given up, whatever it waits for.
STEP_SECONDS, LOOK_SECONDS = 5, 20
#: A header states whole seconds.
_WHOLE_SECOND = timedelta(seconds=1)

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Reached:
    """What a look at a source came to.

    Attributes:
        problem: why it does not answer, in words, without a secret; empty where it does.
        ahead: how far its clock is ahead of ours; None where it tells no time.
    """

    problem: str = ""
    ahead: timedelta | None = None


def reach(
    sources: Mapping[str, Source],
    clock: Clock,
    environment: Mapping[str, str] = os.environ,
    seconds: float = LOOK_SECONDS,
) -> dict[str, Reached]:
    """Look at sources, all at once.

    Args:
        environment: says who asks.
        seconds: how long it may take; a source that has not answered by then is given up, not waited for.
    """
    found: dict[str, Reached] = {}

    def look(name: str, source: Source) -> None:
        try:
            found[name] = Reached(ahead=_look(source, clock, environment))
        except RemoteError as error:
            found[name] = Reached(str(error))
        except Exception as error:
            # Its text could hold an address with its password.
            found[name] = Reached(f"it cannot be looked at ({type(error).__name__})")

    # A mounted share that hangs can be waited for without end, and not be ended.
    threads = {name: threading.Thread(target=look, args=(name, sources[name]), daemon=True) for name in sources}
    for thread in threads.values():
        thread.start()
    ends = clock() + timedelta(seconds=seconds)
    for thread in threads.values():
        thread.join(max(0.0, (ends - clock()).total_seconds()))
    late = Reached(f"it does not answer within {seconds:.0f} s; is it up, and does the network lead there?")
    return {name: found.get(name, late) for name in threads}


def _look(source: Source, clock: Clock, environment: Mapping[str, str]) -> timedelta | None:
    if source.fhir is not None:
        return _look_at_server(source.fhir, clock, environment)
    if source.address is None:
        with open_database(url_of(source.database or "", environment), STEP_SECONDS) as database:
            before = clock()
            return apart(database.now(), before, clock())
    with open_remote(source.address, environment, STEP_SECONDS) as there:
        next(iter(there.entries()), None)
    return _by_header(_store_of(source.address, environment), clock)


def _look_at_server(export: Export, clock: Clock, environment: Mapping[str, str]) -> timedelta | None:
    with FhirServer(export, environment, clock, (STEP_SECONDS, STEP_SECONDS)) as server:
        before = clock()
        try:
            with server.ask("GET", f"{export.url}/metadata", accept="application/fhir+json") as answer:
                if answer.status_code != 200:
                    raise refusal(answer, "it does not say what it can")
                return _apart_by(answer.headers.get("date", ""), before, clock())
        except LaterError:
            # It has too much to do, and is there.
            return None


def _store_of(address: str, environment: Mapping[str, str]) -> str:
    """Where an object store answers, without who asks; empty where that is not known."""
    parts = urlsplit(address)
    if parts.scheme == "s3":
        region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
        stated = urlsplit(environment.get("AWS_ENDPOINT_URL") or environment.get("AWS_ENDPOINT") or "")
        port = f":{stated.port}" if stated.port else ""
        return f"{stated.scheme}://{stated.hostname}{port}" if stated.hostname else f"https://s3.{region}.amazonaws.com"
    return "https://storage.googleapis.com" if parts.scheme == "gs" else ""


def _by_header(url: str, clock: Clock) -> timedelta | None:
    """How far the clock of an HTTP server is ahead, by any answer of it; None where it gives none."""
    import requests

    if not url:
        return None
    before = clock()
    with contextlib.suppress(requests.RequestException), requests.Session() as session:
        # Who asks is nobody's business here, be it from ~/.netrc.
        session.auth = lambda request: request
        answer = session.head(url, timeout=STEP_SECONDS, allow_redirects=False)
        return _apart_by(answer.headers.get("date", ""), before, clock())
    return None


def _apart_by(header: str, before: datetime, after: datetime) -> timedelta | None:
    try:
        return apart(parsedate_to_datetime(header), before, after, _WHOLE_SECOND)
    except (ValueError, TypeError):  # none, or without a zone
        return None


def apart(stated: datetime, before: datetime, after: datetime, width: timedelta = timedelta(0)) -> timedelta:
    """How far another clock is ahead of ours at least, when it was asked between two moments; negative: behind.

    Args:
        stated: what it said; it was that or up to `width` later.
        before: when it was asked, by our clock.
        after: when it had answered.
        width: how coarsely it is stated.
    """
    if stated > after:
        return stated - after
    return min(stated + width - before, timedelta(0))
