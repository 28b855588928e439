"""Settings: layers of rising weight, and files that are wrong say where."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefl import config, overlay
from edgefl.config import (
    CAPACITIES,
    Settings,
    control_socket,
    default_config,
    default_state,
    from_memory,
    is_unspecified,
    merge,
    parse_data,
    read_files,
    service_token,
    split_address,
)
from edgefl.errors import ConfigError, UsageError
from edgefl.limits import parse_rate, parse_size
from edgefl.telemetry.capacity import told
from edgefl.wire import Capacity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:7321", ("10.0.0.1", 7321)),
        ("gateway.local:1", ("gateway.local", 1)),
        ("[fd00::1]:65535", ("fd00::1", 65535)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":7321", "host:x", "host:0", "host:65536", "fd00::1:7321", "h:-1"]
)
def test_what_is_no_address_says_so(text: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        split_address(text)


def test_port_zero_only_where_it_means_any() -> None:
    assert split_address("127.0.0.1:0", zero_allowed=True) == ("127.0.0.1", 0)


def test_later_layers_win_and_empty_values_do_not() -> None:
    merged = merge(
        {"site": "attic", "listen": "0.0.0.0:1", "bootstrap": ["10.0.0.1:1"]},
        {"site": "cellar", "listen": "", "data": {"a": "b"}},
        {"bootstrap": ("10.0.0.2:2",), "token": None},
    )
    assert merged == Settings("0.0.0.0:1", "", ("10.0.0.2:2",), "cellar", {"a": "b"})
    with pytest.raises(UsageError, match="no provider 'tpu'"):
        merge({"provider": "tpu"})
    with pytest.raises(UsageError, match="no capacity 'huge'"):
        merge({"capacity": "huge"})
    with pytest.raises(UsageError):
        merge({"bootstrap": ["nonsense"]})
    with pytest.raises(UsageError):
        merge({"advertise": "10.0.0.1:0"})


def test_what_the_state_directory_remembers_is_no_secret() -> None:
    settings = Settings(token="secret", bootstrap=("10.0.0.1:1",), site="attic")
    assert b"secret" not in settings.remembered()
    assert merge(from_memory(settings.remembered())) == Settings(bootstrap=("10.0.0.1:1",), site="attic")
    assert from_memory(None) == {}


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefl.config.default_config", lambda: tmp_path)
    (tmp_path / "edgefl.toml").write_text('site = "attic"\nlisten = "0.0.0.0:1"\n')
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10.toml").write_text('site = "cellar"\n[data]\ndigits = "/d.npz"\n')
    extra = tmp_path / "extra.toml"
    extra.write_text('bootstrap = ["10.0.0.1:1"]\n')
    assert read_files(extra) == {
        "site": "cellar",
        "listen": "0.0.0.0:1",
        "data": {"digits": "/d.npz"},
        "bootstrap": ["10.0.0.1:1"],
    }


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("site = \nlisten = 1", "line 1"),
        ('sight = "attic"', "unknown key 'sight'"),
        ("site = 5", "site must be a str"),
        ("bootstrap = [5]", "bootstrap must hold texts"),
        ('bootstrap = "10.0.0.1:1"', "bootstrap must be a list"),
        ("\xff", "utf-8"),
    ],
)
def test_bad_files_name_file_and_place(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_files(path)
    assert "bad.toml" in caught.value.cause
    assert caught.value.exit_code == 78


def test_a_missing_file_is_an_error_only_when_it_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_files(tmp_path / "missing.toml")


def test_data_options_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_data(("digits=d.npz", "x=/abs.csv", "p=plugin:mine")) == {
        "digits": str(tmp_path / "d.npz"),
        "x": "/abs.csv",
        "p": "plugin:mine",
    }
    with pytest.raises(UsageError, match="NAME=SOURCE"):
        parse_data(("digits",))


def test_paths_of_root_and_of_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_state() == Path("/var/lib/edgefl")
    assert default_config() == Path("/etc/edgefl")
    assert control_socket(None) == Path("/run/edgefl/edgefl.sock")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    assert default_state() == tmp_path / "s" / "edgefl"
    assert default_config() == tmp_path / "c" / "edgefl"
    assert control_socket(None) == tmp_path / "s" / "edgefl" / "edgefl.sock"
    assert control_socket(tmp_path) == tmp_path / "edgefl.sock"


def test_addresses_that_stand_for_all() -> None:
    assert is_unspecified("0.0.0.0")
    assert is_unspecified("::")
    assert not is_unspecified("10.0.0.1")
    assert not is_unspecified("gateway.local")


def test_the_table_of_discovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "my.toml"
    file.write_text('site = "attic"\n[discovery]\nmdns = "off"\n')
    assert merge(read_files(file)).mdns == "off"
    assert merge().mdns == "auto"
    assert merge(from_memory(Settings(mdns="on").remembered())).mdns == "on"
    for wrong in ('[discovery]\nmdns = "maybe"', "[discovery]\nmdns = 1", "discovery = 1", "[discovery]\nx = 1"):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match="discovery"):
            read_files(file)
    file.write_text('mdns = "on"')
    with pytest.raises(ConfigError, match="unknown key 'mdns'"):
        read_files(file)
    with pytest.raises(UsageError, match="mdns"):
        merge({"mdns": "perhaps"})


def test_how_zones_are_found_stands_under_overlay(tmp_path: Path) -> None:
    path = tmp_path / "zones.toml"
    path.write_text('[overlay]\nzones = "anchors"\n')
    assert merge(read_files(path)).zones == "anchors"
    assert merge().zones == "site"
    for wrong in ('[overlay]\nzones = "guess"\n', "[overlay]\nzone = 1\n", "overlay = 3\n"):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match="overlay"):
            read_files(path)
    with pytest.raises(UsageError, match="guess"):
        merge({"zones": "guess"})


@pytest.mark.parametrize("name", CAPACITIES)
def test_a_capacity_class_is_told_by_its_name_and_remembered(name: str) -> None:
    settings = merge(from_memory(merge({"capacity": name}).remembered()))
    assert settings.capacity == name
    assert told(settings.capacity) is (None if name == "auto" else Capacity[name.upper()])


def test_every_capacity_class_can_be_told() -> None:
    assert set(CAPACITIES) == {"auto", *(capacity.name.lower() for capacity in Capacity)}


def test_a_capacity_class_in_a_file_is_a_text_and_options_win(tmp_path: Path) -> None:
    path = tmp_path / "edgefl.toml"
    path.write_text('capacity = "gateway"')
    assert merge(read_files(path)).capacity == "gateway"
    assert merge(read_files(path), {"capacity": "auto"}).capacity == "auto"
    path.write_text("capacity = 3")
    with pytest.raises(ConfigError, match="capacity must be a str"):
        read_files(path)


def test_a_service_has_the_places_that_systemd_tells_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STATE", "CONFIGURATION", "RUNTIME"):
        monkeypatch.setenv(f"{name}_DIRECTORY", str(tmp_path / name.lower()))
    assert default_state() == tmp_path / "state"
    assert default_config() == tmp_path / "configuration"
    assert control_socket(None).parent == tmp_path / "runtime"
    assert control_socket(tmp_path).parent == tmp_path


@pytest.mark.parametrize(("content", "given"), [("edgefl1-abc\n", True), ("-", False), ("", False), (None, False)])
def test_the_token_comes_as_a_credential(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, given: bool
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    if content is not None:
        (tmp_path / "token").write_text(content)
    assert service_token() == ({"token": f"file:{tmp_path / 'token'}"} if given else {})


@pytest.mark.parametrize(
    ("text", "bytes_s"),
    [("", 0.0), ("20 Mbit/s", 2.5e6), ("2.5 MB/s", 2.5e6), ("800 bit/s", 100.0), ("1 Gbit/s", 1.25e8)],
)
def test_rates(text: str, bytes_s: float) -> None:
    assert parse_rate(text) == bytes_s


def test_sizes() -> None:
    assert [parse_size(text) for text in ("", "256 MB", "1 GB", "512 kB", "7 B")] == [0, 256_000_000, 10**9, 512_000, 7]


@pytest.mark.parametrize("text", ["20", "Mbit/s", "20 Mbit", "-1 MB/s", "nan MB/s", "0 MB/s", "20 Tbit/s", "x MB/s"])
def test_what_is_no_rate_says_so(text: str) -> None:
    with pytest.raises(UsageError, match="no such quantity"):
        parse_rate(text)


def test_limits_stand_in_a_table_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "edgefl.toml"
    file.write_text('[limits]\nuplink = "20 Mbit/s"\nmemory = "256 MB"\n')
    settings = merge(read_files(file))
    assert (settings.uplink, settings.memory) == ("20 Mbit/s", "256 MB")
    for wrong in ("[limits]\nuplink = 20\n", '[limits]\ndownlink = "1 MB/s"\n', "limits = 3\n"):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match="limits"):
            read_files(file)
    with pytest.raises(UsageError, match="no such quantity"):
        merge({"uplink": "fast"})


def test_a_role_is_told_and_helping_is_no_default(tmp_path: Path) -> None:
    path = tmp_path / "edgefl.toml"
    path.write_text('role = "leaf"')
    assert merge(read_files(path)).role == "leaf"
    assert merge(read_files(path), {"role": "helper"}).role == "helper"
    assert Settings().role == "auto"
    with pytest.raises(UsageError, match="no role 'king'"):
        merge({"role": "king"})


def test_profile_and_role_are_told_and_the_profile_stands_in_its_table(tmp_path: Path) -> None:
    path = tmp_path / "edgefl.toml"
    path.write_text('role = "leaf"\n[overlay]\nprofile = "tiny"\nzones = "anchors"')
    settings = merge(read_files(path), {"profile": "gateway"})
    assert (settings.role, settings.profile, settings.zones) == ("leaf", "gateway", "anchors")
    assert set(config.PROFILES) == set(overlay.PROFILES)
    with pytest.raises(UsageError, match="no profile 'huge'"):
        merge({"profile": "huge"})
    with pytest.raises(UsageError, match="no role 'king'"):
        merge({"role": "king"})
    path.write_text('[overlay]\nprofile = "huge"')
    with pytest.raises(ConfigError, match="profile cannot be 'huge'"):
        read_files(path)
