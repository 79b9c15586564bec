"""Settings: read once, and refused with field, rule and remedy when Aureus could not live with them."""

import os
from pathlib import Path

import pytest

from domain.values import Role
from infra.settings import Settings, SettingsError
from infra.token_settings import TokenSettings


def settings(home: Path, **environment: str) -> Settings:
    return Settings.from_environment({"AUREUS_HOME": str(home), **environment})


def test_a_home_is_made_private_and_everything_else_has_a_default(tmp_path: Path) -> None:
    found = settings(tmp_path / "deep" / "home")
    assert found == Settings(home=tmp_path / "deep" / "home")
    assert (found.host, found.port, found.database_url, found.tenant, found.log_level) == ("127.0.0.1", 8420, None, "demo", "info")
    assert found.home.stat().st_mode & 0o777 == 0o700


def test_without_a_home_it_is_in_the_user_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings.from_environment({}).home == tmp_path / ".aureus"


def test_what_the_environment_says(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        AUREUS_PORT="9000",
        AUREUS_INDEX_MINUTES="15",
        AUREUS_HOST="0.0.0.0",
        DATABASE_URL="postgresql://aureus:secret@db:5432/aureus",
        AUREUS_TENANT="acme",
        AUREUS_ORIGIN="ledger.example.org/main",
        AUREUS_POLICIES=str(tmp_path),
        AUREUS_LOG_LEVEL="DEBUG",
    )
    assert (found.port, found.host, found.tenant, found.origin) == (9000, "0.0.0.0", "acme", "ledger.example.org/main")
    assert (found.policies, found.log_level, found.index_minutes) == (tmp_path, "debug", 15)


def test_an_opa_is_reached_in_private_and_its_token_is_not_shown(tmp_path: Path) -> None:
    found = settings(tmp_path, AUREUS_OPA_URL="https://opa.example.org:8181", AUREUS_OPA_TOKEN="secret")
    assert (found.opa_url, found.opa_token) == ("https://opa.example.org:8181", "secret")
    assert "secret" not in repr(found)
    assert settings(tmp_path, AUREUS_OPA_URL="http://127.0.0.1:8181").opa_url == "http://127.0.0.1:8181"
    with pytest.raises(SettingsError) as refused:
        settings(tmp_path, AUREUS_OPA_URL="https://aureus:secret@opa.example.org")
    assert "secret" not in str(refused.value)


def test_an_empty_value_is_no_value(tmp_path: Path) -> None:
    assert settings(tmp_path, AUREUS_PORT="", DATABASE_URL=" ", AUREUS_ORIGIN="") == Settings(home=tmp_path)


def test_nothing_of_it_can_be_changed_later(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        settings(tmp_path).port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUREUS_PORT", "0"),
        ("AUREUS_PORT", "65536"),
        ("AUREUS_PORT", "-1"),
        ("AUREUS_PORT", "http"),
        ("AUREUS_PORT", "9" * 5_000),
        ("AUREUS_INDEX_MINUTES", "0"),
        ("AUREUS_INDEX_MINUTES", "hourly"),
        ("DATABASE_URL", "mysql://db/aureus"),
        ("AUREUS_ORIGIN", "two words"),
        ("AUREUS_ORIGIN", "a+b"),
        ("AUREUS_ORIGIN", "line\nbreak"),
        ("AUREUS_TENANT", "a:b"),
        ("AUREUS_TENANT", "ümlaut"),
        ("AUREUS_POLICIES", "/nowhere/at/all"),
        ("AUREUS_LOG_LEVEL", "loud"),
        ("AUREUS_OPA_URL", "opa.example.org:8181"),
        ("AUREUS_OPA_URL", "http://opa.example.org:8181"),
        ("AUREUS_OPA_URL", "https://opa.example.org/v1/data"),
        ("AUREUS_OPA_URL", "https://opa.example.org:port"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(tmp_path, **{name: value})
    assert refused.value.field == name
    assert refused.value.rule
    assert refused.value.remedy


def test_a_password_in_a_database_url_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(tmp_path, DATABASE_URL="mysql://aureus:secret@db/aureus")
    assert "secret" not in str(refused.value)
    assert "secret" not in repr(settings(tmp_path, DATABASE_URL="postgresql://aureus:secret@db/aureus"))


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_home_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(mode)
    with pytest.raises(SettingsError, match="written to by other accounts") as refused:
        settings(tmp_path / "home")
    assert refused.value.remedy == f"Close it: chmod go-w {tmp_path / 'home'}"


def test_a_home_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    monkeypatch.setattr("infra.settings.os.geteuid", lambda: owner + 1)
    with pytest.raises(SettingsError, match=f"belongs to user id {owner}") as refused:
        settings(tmp_path)
    assert refused.value.field == "AUREUS_HOME"


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(SettingsError, match="is not a folder"):
        settings(tmp_path / "home")
    with pytest.raises(SettingsError, match="cannot be created"):
        settings(tmp_path / "home" / "below")


SECRETS = {
    "DATABASE_URL": "postgresql://aureus:s3cr3t@db/aureus",
    "AUREUS_VAULT_KEYS_URL": "postgresql://aureus:s3cr3t@db/keys",
    "AUREUS_S3_ACCESS_KEY": "AKIA",
    "AUREUS_S3_SECRET_KEY": "s3cr3t",
    "AUREUS_OPA_TOKEN": "s3cr3t-token",
    "AUREUS_METRICS_TOKEN": "s3cr3t-token-of-a-scraper",
}


def test_every_secret_can_be_in_a_file_that_nobody_else_reads(tmp_path: Path) -> None:
    named = {"AUREUS_BLOBS": "s3://evidence", "AUREUS_OPA_URL": "http://127.0.0.1:8181"}
    files = {}
    for name, secret in SECRETS.items():
        (tmp_path / name).write_text(f"{secret}\n")
        (tmp_path / name).chmod(0o600)
        files[f"{name}_FILE"] = str(tmp_path / name)
    assert settings(tmp_path / "home", **named, **files) == settings(tmp_path / "home", **named, **SECRETS)
    for name in SECRETS:
        (tmp_path / name).chmod(0o644)
        with pytest.raises(SettingsError) as refused:
            settings(tmp_path / "home", **named, **files)
        assert (refused.value.field, refused.value.remedy) == (f"{name}_FILE", f"Close it: chmod 0600 {tmp_path / name}")
        (tmp_path / name).chmod(0o600)


def test_what_is_told_to_administrators_and_who_operates_it(tmp_path: Path) -> None:
    found = settings(tmp_path, AUREUS_ALERT_PERCENT="cpu=95, disk=70", AUREUS_ALERT_SECONDS="5", AUREUS_OPERATOR_TENANT="bank").operations
    assert (dict(found.alert_percent)["cpu"], dict(found.alert_percent)["disk"], dict(found.alert_percent)["memory"]) == (95, 70, 80)
    assert (found.alert_every_seconds, found.operator_tenant) == (5, "bank")
    assert set(dict(settings(tmp_path, AUREUS_ALERT_PERCENT="90").operations.alert_percent).values()) == {90}
    for wrong in ("0", "101", "ninety", "gpu=50", "cpu="):
        with pytest.raises(SettingsError) as refused:
            settings(tmp_path, AUREUS_ALERT_PERCENT=wrong)
        assert refused.value.field == "AUREUS_ALERT_PERCENT"


def test_how_people_log_in_is_chosen(tmp_path: Path) -> None:
    assert settings(tmp_path).tokens == TokenSettings(900, passwords=True, second_factor_roles=frozenset())
    day = settings(tmp_path, AUREUS_TOKEN_HOURS="24", AUREUS_TOTP_ROLES="admin, approver").tokens
    assert (day.access_seconds, day.second_factor_roles) == (86_400, frozenset({Role.ADMIN, Role.APPROVER}))
    assert not settings(tmp_path, AUREUS_PASSWORDS="off", AUREUS_DEMO="off").tokens.passwords
    for name, wrong in (
        *(("AUREUS_TOKEN_HOURS", text) for text in ("0", "25", "1.5", "-1", "day")),
        *(("AUREUS_PASSWORDS", text) for text in ("no", "off")),
        ("AUREUS_TOTP_ROLES", "admin,emperor"),
    ):
        with pytest.raises(SettingsError) as refused:
            settings(tmp_path, **{name: wrong})
        assert refused.value.field == name
