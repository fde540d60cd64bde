"""Kafka by TLS and a login, as cloud brokers have it: who is let in, what is said when nobody is, no secret told."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hospital_assets.landing.streams import StreamError, open_stream
from hospital_assets.listeners import kafka
from hospital_assets.listeners.properties import read_properties, redacted
from hospital_assets.settings import SettingsError
from hospital_assets_tests.certificates import Authority
from hospital_assets_tests.kafka_proxy import Login, secured
from hospital_assets_tests.processes import free_port
from hospital_assets_tests.test_listeners import Kafka, Listener, lines_of, tansu_broker

#: As Azure Event Hubs has them.
USER, PASSWORD = "$ConnectionString", "Endpoint=sb://planted.example/;SharedAccessKey=planted+secret="


@dataclass
class Secured:
    """A broker behind TLS, and what a client of it has to know."""

    broker: Kafka
    authority: Authority
    folder: Path
    options: dict[str, str]

    def listen(self, data: Path, **changed: str | None) -> Listener:
        """A listener with the settings of a client that is let in, but for what has changed (None: left out)."""
        options = {**self.options, **{key.replace("_", "."): value for key, value in changed.items()}}
        config = self.folder / f"{data.name}.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in options.items() if value is not None))
        return Listener(data, *self.broker.listen, "--config", str(config), "--until-end")


@contextmanager
def behind_tls(folder: Path, mechanism: str | None) -> Iterator[Secured]:
    authority = Authority(folder, "authority")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("server"))
    options = {"security.protocol": "SSL", "ssl.ca.location": str(authority.file)}
    if mechanism is not None:
        options |= {"security.protocol": "SASL_SSL", "sasl.mechanism": mechanism}
        options |= {"sasl.username": USER, "sasl.password": PASSWORD}
    else:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.file)
        certificate, key = authority.issue("client")
        options |= {"ssl.certificate.location": str(certificate), "ssl.key.location": str(key)}
    port, outside = free_port(), free_port()
    with ExitStack() as stack:
        stack.enter_context(secured(outside, port, context, Login(mechanism, USER, PASSWORD) if mechanism else None))
        broker = stack.enter_context(tansu_broker(port, outside, **options))
        yield Secured(broker, authority, folder, options)


@pytest.fixture(
    scope="module",
    params=["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", None],
    ids=["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "a certificate of the client"],
)
def there(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Secured]:
    with behind_tls(tmp_path_factory.mktemp("tls"), request.param) as found:
        found.broker.produce(0, [b'{"n": %d}' % n for n in range(20)])
        yield found


@pytest.mark.slow
def test_who_is_known_is_let_in_and_the_secret_comes_from_the_environment(
    there: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENT_HUBS_CONNECTION", PASSWORD)
    has_login = "sasl.password" in there.options
    listener = there.listen(tmp_path, sasl_password="${EVENT_HUBS_CONNECTION}" if has_login else None, debug="all")
    said = listener.said()
    assert listener.process.returncode == 0, said
    assert lines_of(tmp_path / "landing" / "native" / "vitals") == [b'{"n": %d}' % n for n in range(20)]
    assert "planted" not in said


@pytest.mark.nightly
@pytest.mark.parametrize("debug", [None, "security,broker,conf"])
def test_who_is_not_let_in_is_told_why(there: Secured, tmp_path: Path, debug: str | None) -> None:
    stranger = Authority(tmp_path, "stranger")
    certificate, key = stranger.issue("nobody")
    wrong = {
        "the broker's certificate is not of the authority that is trusted": {"ssl_ca_location": str(stranger.file)}
    }
    if "sasl.password" in there.options:
        wrong["the login is refused; check sasl.mechanism"] = {"sasl_password": "planted, too"}
        other = "PLAIN" if there.options["sasl.mechanism"] != "PLAIN" else "SCRAM-SHA-256"
        wrong["check sasl.mechanism, sasl.username and sasl.password"] = {"sasl_mechanism": other}
    else:
        wrong["whether it wants a certificate"] = {"ssl_certificate_location": None, "ssl_key_location": None}
        strange = {"ssl_certificate_location": str(certificate), "ssl_key_location": str(key)}
        wrong["(ssl.certificate.location, ssl.key.location) or another one"] = strange
        wrong["it closes the connection at once; check security.protocol"] = {"security_protocol": "PLAINTEXT"}
    listeners = [there.listen(tmp_path / str(n), debug=debug, **changed) for n, changed in enumerate(wrong.values())]
    for number, (why, listener) in enumerate(zip(wrong, listeners, strict=True)):
        said = listener.said()
        assert listener.process.returncode == 2 and "no broker answers: " in said and why in said, said
        assert "planted" not in said and not lines_of(tmp_path / str(number) / "landing" / "native" / "vitals")
        assert ("rdkafka#" in said) == (debug is not None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"no.such.setting": "planted"}, "no.such.setting"),
        ({"security.protocol": "planted"}, 'Invalid value "…" for configuration property "security.protocol"'),
        ({"sasl.jaas.config": 'PlainLoginModule required password="planted";'}, "JAAS configuration is not supported"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"}, "sasl.username and sasl.password must be set"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "GSSAPI"}, "No provider for SASL mechanism GSSAPI"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512"}, "sasl.username and sasl.password"),
        (
            {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-1024"}
            | {"sasl.username": "u", "sasl.password": "planted"},
            "SCRAM-SHA-1024",
        ),
    ],
    ids=range(7),
)
def test_settings_that_cannot_be_used_are_said_in_words(tmp_path: Path, options: dict[str, str], said: str) -> None:
    import threading

    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    with open_stream(tmp_path, "s", ".jsonl") as landing, pytest.raises(StreamError, match=re.escape(said)) as told:
        kafka.listen_kafka("s", "127.0.0.1:1", landing, threading.Event(), options=options)
    assert "planted" not in str(told.value) and "cannot be used" in str(told.value)


def test_settings_name_variables_and_their_mistakes_quote_nothing(tmp_path: Path) -> None:
    file = tmp_path / "client.properties"
    file.write_text("# of the broker\nsasl.username=$ConnectionString\n\nsasl.password=${HUB}\nother=a${HUB}\n")
    assert read_properties(file, {"HUB": "x=y"}) == {
        "sasl.username": "$ConnectionString",
        "sasl.password": "x=y",
        "other": "a${HUB}",
    }
    with pytest.raises(SettingsError, match="line 4: set the environment variable HUB"):
        read_properties(file, {})
    file.write_text("planted\n")
    with pytest.raises(SettingsError, match="line 1: wants key=value") as told:
        read_properties(file, {})
    assert "planted" not in str(told.value)
    assert redacted("of planted user", {"sasl.password": "planted", "sasl.username": "user"}) == "of … user"
