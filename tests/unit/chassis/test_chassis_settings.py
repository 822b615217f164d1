from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.chassis.errors import InvalidArgument
from troupe.chassis.service import ServiceSettings
from troupe.chassis.settings import SecretStr, setting


class Orchestra(ServiceSettings):
    service: ClassVar[str] = "orchestra"

    listen: str = setting(default="127.0.0.1:7099", description="where it plays")
    turn_cap: int = setting(default=8, ge=1, description="turns at once")
    halls: list[Path] = setting(default_factory=list, description="directories")
    store: str = setting(default="sqlite:///scores.db", description="where the scores are")
    passphrase: SecretStr = setting(
        default=SecretStr(""), min_length=0, max_length=12, description="for the stage door"
    )


class Choir(ServiceSettings):
    service: ClassVar[str] = "choir"

    voices: int = setting(default=4, description="voices")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "troupe.toml"


@given(flag=st.booleans(), environment=st.booleans(), own=st.booleans(), shared=st.booleans())
def test_flags_win_over_environment_over_the_services_table_over_the_file_over_defaults(
    tmp_path_factory: pytest.TempPathFactory, flag: bool, environment: bool, own: bool, shared: bool
) -> None:
    # Given a value from any subset of the sources
    content = ("turn_cap = 4\n" if shared else "") + ("[orchestra]\nturn_cap = 3\n" if own else "")
    path = tmp_path_factory.mktemp("settings") / "troupe.toml"
    path.write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        if environment:
            patch.setenv("TROUPE_TURN_CAP", "2")
        # When they are merged
        settings = Orchestra.load({"turn_cap": 1 if flag else None}, config=str(path))
    # Then the first that has one wins, and a default is known as such
    given_by = [value for value, is_given in ((1, flag), (2, environment), (3, own), (4, shared)) if is_given]
    assert settings.turn_cap == (given_by[0] if given_by else 8)
    assert ("turn_cap" in settings.model_fields_set) is bool(given_by)


def test_an_empty_variable_is_no_value(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("turn_cap = 3")
    monkeypatch.setenv("TROUPE_TURN_CAP", "")
    assert Orchestra.load(config=str(config)).turn_cap == 3


def test_the_file_can_be_named_by_the_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('halls = ["/a", "/b"]')
    monkeypatch.setenv("TROUPE_CONFIG", str(config))
    assert Orchestra.load().halls == [Path("/a"), Path("/b")]


def test_lists_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROUPE_HALLS", '["/a"]')
    assert Orchestra.load().halls == [Path("/a")]


def test_other_services_tables_and_shared_settings_are_no_concern(config: Path) -> None:
    config.write_text("voices = 6\n[choir]\nanything = 1\n[carpenters]\nwood = true")
    assert Orchestra.load(config=str(config)).turn_cap == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[orchestra]\nturn_cp = 3", "orchestra has no setting turn_cp; did you mean turn_cap?"),
        ("lisen = '127.0.0.1:1'", "orchestra has no setting lisen; did you mean listen?"),
        ("[orchestra]\nzzz = 3", "orchestra has no setting zzz; --print-settings lists them"),
        ("zzz = 3", "orchestra has no setting zzz; what one service alone has goes into its table"),
        ("[orchstra]\nturn_cap = 3", "no service is called orchstra; did you mean [orchestra]?"),
        ("orchestra = 3", "orchestra must be a table"),
        ("turn_cap =", "Invalid value (at end of document)"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(config: Path, content: str, message: str) -> None:
    config.write_text(content)
    with pytest.raises(InvalidArgument) as caught:
        Orchestra.load(config=str(config))
    assert str(caught.value) == f"settings file {config}: {message}"
    assert caught.value.reason == "BAD_CONFIG"


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=f"no settings file at {tmp_path}/none") as caught:
        Orchestra.load(config=str(tmp_path / "none"))
    assert caught.value.reason == "NO_CONFIG"


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="Is a directory"):
        Orchestra.load(config=str(tmp_path))


def test_a_bad_flag_names_the_flag() -> None:
    with pytest.raises(InvalidArgument) as caught:
        Orchestra.load({"turn_cap": 0})
    assert str(caught.value) == "--turn-cap: Input should be greater than or equal to 1 (got 0)"
    assert caught.value.reason == "BAD_SETTING"


def test_a_bad_variable_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROUPE_LISTEN", "7070")
    with pytest.raises(InvalidArgument) as caught:
        Orchestra.load()
    assert str(caught.value) == ("TROUPE_LISTEN: '7070' is not host:port, such as 127.0.0.1:7070 (got '7070')")


def test_a_bad_list_in_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROUPE_HALLS", "/a:/b")
    with pytest.raises(InvalidArgument, match=r"^TROUPE_HALLS is not the JSON that it must be$"):
        Orchestra.load()


def test_a_bad_value_in_the_file_names_both(config: Path) -> None:
    config.write_text("turn_cap = 'many'\nstop_grace = -1")
    with pytest.raises(InvalidArgument) as caught:
        Orchestra.load(config=str(config))
    assert str(caught.value).startswith(f"stop_grace in {config}: Input should be greater than or equal to 0")
    assert str(caught.value).endswith("(got -1) (and 1 more)")


def test_a_bad_secret_is_not_repeated() -> None:
    with pytest.raises(InvalidArgument) as caught:
        Orchestra.load({"passphrase": "open sesame, please"})
    assert "sesame" not in str(caught.value)
    assert str(caught.value).startswith("--passphrase: ")


def test_settings_that_do_not_go_together_are_said() -> None:
    with pytest.raises(InvalidArgument, match=r"^tls_cert and tls_key go together: give both or none$"):
        Orchestra.load({"tls_cert": "a.pem"})
    with pytest.raises(InvalidArgument, match=r"^tls_ca asks clients for certificates"):
        Orchestra.load({"tls_ca": "ca.pem"})


@pytest.mark.parametrize(
    ("name", "value"), [("listen", ""), ("metrics_listen", "9464"), ("otlp_endpoint", "host:4317")]
)
def test_addresses_and_urls_are_checked(name: str, value: str) -> None:
    with pytest.raises(InvalidArgument):
        Orchestra.load({name: value})


def test_shown_masks_secrets_also_in_urls() -> None:
    shown = Orchestra.load({"passphrase": "sesame", "store": "redis://me:sesame@host:6379/0"}).shown()
    assert "sesame" not in str(shown)
    assert shown["store"] == "redis://me:**********@host:6379/0"
    assert shown["listen"] == "127.0.0.1:7099"
    assert shown["passphrase"] == "**********"


def test_every_setting_of_a_service_says_what_it_is() -> None:
    assert all(field.description for field in ServiceSettings.model_fields.values())
