"""Reading the facts of a device: this one, and ones that are set up to be broken."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from edgefl.config import Settings
from edgefl.doctor import gather
from edgefl.doctor.facts import (
    INTEL_THROTTLED,
    NVPMODEL_NAMES,
    NVPMODEL_STATUS,
    PI_THROTTLED,
    disk_fact,
    held_by,
    onnxruntime_fact,
    ports_fact,
    power_mode,
    temperature,
    throttling,
    token_fact,
    version_of,
)
from edgefl.errors import ConfigError
from edgefl.identity.fleet import FleetKey
from edgefl.identity.token import Bootstrap, fingerprint
from edgefl.store import Store, remembered_settings
from tests.doctor.sample import daemon


def test_this_machine(tmp_path: Path) -> None:
    found = gather(lambda: Settings(listen="127.0.0.1:0"), tmp_path / "state", tmp_path / "no.sock", None)
    assert found.python == sys.version_info[:3]
    assert found.packages["pyzmq"]
    assert not isinstance(found.onnxruntime, str)
    assert "CPUExecutionProvider" in found.onnxruntime[1]
    assert found.curve
    assert found.clock > found.newest_file
    assert 0 < found.memory_available_bytes < found.memory_bytes
    assert (found.disk.exists, found.disk.error) == (False, "")
    assert (found.ports, found.token, found.daemon, found.daemon_error) == ((), None, None, "")


def test_settings_that_cannot_be_read_are_a_fact(tmp_path: Path) -> None:
    def broken() -> Settings:
        raise ConfigError("edgefl.toml: unknown key 'x'", hint="known keys")

    assert gather(broken, tmp_path, tmp_path / "no.sock", "nonsense").config_error == (
        "edgefl.toml: unknown key 'x'",
        "known keys",
    )


def test_the_state_directory_is_really_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = disk_fact(tmp_path)
    assert found.exists
    assert found.free_bytes > 0
    assert found.write_s is not None
    assert list(tmp_path.iterdir()) == [], "and left as it was"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert disk_fact(tmp_path).error == "No space left on device"
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    assert "not writable" in disk_fact(tmp_path / "a" / "b").error


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "signal 4"),
        ("raise ImportError('wrong ELF class')", "wrong ELF class"),
        ("pass", "no reason given"),
    ],
)
def test_an_onnxruntime_that_cannot_be_used(code: str, says: str) -> None:
    found = onnxruntime_fact((sys.executable, "-c", code))
    assert isinstance(found, str)
    assert says in found
    assert "cannot be imported" in str(onnxruntime_fact(("/no/such/program",)))


def test_a_jetson_tells_its_power_mode_and_its_over_current(tmp_path: Path) -> None:
    assert power_mode(tmp_path) is None
    status, names = tmp_path / NVPMODEL_STATUS, tmp_path / NVPMODEL_NAMES
    for path in (status, names):
        path.parent.mkdir(parents=True)
    status.write_text("pmode:0001 fmode:quiet\n")
    assert power_mode(tmp_path) == "1"
    names.write_text("< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=15W >\n")
    assert power_mode(tmp_path) == "15W"
    status.write_text("pmode:0000 fmode:quiet\n")
    assert power_mode(tmp_path) == "MAXN"
    status.write_text("nothing known\n")
    assert power_mode(tmp_path) is None
    counters = tmp_path / "class/hwmon/hwmon3"
    counters.mkdir(parents=True)
    for number, count in ((1, 0), (3, 4)):
        (counters / f"oc{number}_event_cnt").write_text(f"{count}\n")
    assert throttling(tmp_path) == "over-current 4 times since it was switched on"
    (counters / "oc3_event_cnt").write_text("0\n")
    assert throttling(tmp_path) == ""


def test_throttling_as_two_kinds_of_processors_tell_it(tmp_path: Path) -> None:
    assert throttling(tmp_path) is None
    intel = tmp_path / INTEL_THROTTLED
    intel.parent.mkdir(parents=True)
    intel.write_text("0\n")
    assert throttling(tmp_path) == ""
    intel.write_text("7\n")
    assert "7 times" in str(throttling(tmp_path))
    pi = tmp_path / PI_THROTTLED
    pi.parent.mkdir(parents=True)
    for bits, said in [
        ("0", ""),
        ("5", "under-voltage, throttled"),
        ("50000", "under-voltage since"),
        ("x", "7 times"),
    ]:
        pi.write_text(f"{bits}\n")
        assert said in str(throttling(tmp_path))


def test_a_thermometer_that_is_absent_or_broken() -> None:
    class Psutil:
        @staticmethod
        def sensors_temperatures() -> dict[str, list[object]]:
            raise OSError("driver")

    assert temperature(Psutil) is None
    Psutil.sensors_temperatures = staticmethod(dict)  # type: ignore[assignment]
    assert temperature(Psutil) is None


def test_ports_that_are_free_taken_or_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert "use" in held_by("127.0.0.1", port)
        taken = ports_fact(Settings(listen=f"127.0.0.1:{port}"), None)
        assert [found.use for found in taken] == ["door", "links", "broadcast"]
        assert taken[0].held_by
    assert held_by("127.0.0.1", port) == ""
    assert held_by("192.0.2.1", port), "no address of ours"
    assert held_by("127.0.0.1", 70000)
    assert ports_fact(Settings(listen="127.0.0.1:0"), None) == ()
    assert {found.held_by for found in ports_fact(Settings(), daemon())} == {"daemon"}


def test_a_token_is_read_and_its_secret_is_not_kept(tmp_path: Path) -> None:
    key = FleetKey.generate()
    token = key.invite([Bootstrap("192.0.2.1", 7321)], uses=3)
    found = token_fact(token.text)
    assert (found.fleet, found.doors, found.uses, found.error) == (fingerprint(key.public), 1, 3, "")
    assert found.serial == token.enrolment.serial.hex()
    assert token.text not in repr(found)
    file = tmp_path / "token"
    file.write_text(token.text)
    assert token_fact(f"file:{file}") == found
    assert "cut off" in token_fact(token.text[:-9]).error
    assert token_fact(f"file:{tmp_path / 'none'}").error


def test_what_a_daemon_remembers_can_be_read_beside_it(tmp_path: Path) -> None:
    assert remembered_settings(tmp_path / "none") is None
    store = Store(tmp_path)
    assert remembered_settings(tmp_path) is None
    store.write_setting("settings", b"{}")
    assert remembered_settings(tmp_path) == b"{}"
    store.close()
    assert remembered_settings(tmp_path) == b"{}"
    assert version_of("no-such-package-of-ours") is None
