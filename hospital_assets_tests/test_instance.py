"""The Dagster instance of a data directory: its home, and where its history is stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hospital_assets.automation.event_log import HospitalEventLogStorage
from hospital_assets.automation.instance import POSTGRES_URL, dagster_instance, prepare_dagster_home
from hospital_assets.settings import Settings, SettingsError


def test_a_home_has_the_package_s_settings_and_its_history_in_files(tmp_path: Path) -> None:
    with dagster_instance(Settings(tmp_path)) as instance:
        assert isinstance(instance.event_log_storage, HospitalEventLogStorage)
        assert not instance.telemetry_enabled
    written = yaml.safe_load((tmp_path / "dagster" / "dagster.yaml").read_text())
    assert written["concurrency"]["pools"]["default_limit"] == 1
    assert "run_storage" not in written


@pytest.mark.parametrize("url", ["postgresql://ada@db/dagster", "mysql://ada@db/dagster"])
def test_an_address_that_sqlalchemy_would_misread_is_refused_without_being_repeated(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES_URL, url)
    with pytest.raises(SettingsError, match=r"must begin with postgresql\+psycopg2://") as refused:
        prepare_dagster_home(Settings(tmp_path))
    assert "ada" not in str(refused.value)
