"""A device's keys: made once, private, never half there."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.errors import ConfigError, StorageError
from edgefl.identity.keys import KEY_FILE, DeviceKeys, curve_bound, load_or_create, node_id_of, signed_by


def test_the_same_directory_gives_the_same_device(tmp_path: Path) -> None:
    first = load_or_create(tmp_path / "state")
    again = load_or_create(tmp_path / "state")
    assert (again.public, again.curve_public, again.node_id) == (first.public, first.curve_public, first.node_id)
    assert first.node_id == node_id_of(first.public)
    assert 0 <= first.node_id < 1 << 64


def test_two_devices_differ(tmp_path: Path) -> None:
    assert load_or_create(tmp_path / "a").node_id != load_or_create(tmp_path / "b").node_id


def test_the_key_file_is_private_and_nothing_else_is_left(tmp_path: Path) -> None:
    load_or_create(tmp_path)
    path = tmp_path / KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in tmp_path.iterdir()] == [KEY_FILE]


def test_a_key_file_that_others_can_read_is_refused_with_the_next_step(tmp_path: Path) -> None:
    load_or_create(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o640)
    with pytest.raises(ConfigError) as caught:
        load_or_create(tmp_path)
    assert "0640" in caught.value.cause
    assert caught.value.hint == f"chmod 600 {tmp_path / KEY_FILE}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"edgefl device key 1\n",
        b"edgefl device key 1\nzz\nzz\n",
        b"\xff\xfe",
        b"edgefl device key 1\n" + b"g" * 64,
    ],
)
def test_a_damaged_key_file_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / KEY_FILE
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="damaged"):
        load_or_create(tmp_path)
    assert path.read_bytes() == content


def test_a_temporary_file_of_a_killed_process_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / f".{KEY_FILE}.new").write_bytes(b"half a key")
    keys = load_or_create(tmp_path)
    assert load_or_create(tmp_path).public == keys.public
    assert [item.name for item in tmp_path.iterdir()] == [KEY_FILE]


def test_an_unwritable_directory_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((StorageError, ConfigError)):
        load_or_create(tmp_path / "file" / "state")


def test_killed_at_any_system_call_the_directory_stays_usable(tmp_path: Path) -> None:
    """Given a first start killed before its n-th file operation, then the next start finds keys or makes them."""
    program = """
import os, signal, sys
from pathlib import Path
from edgefl.identity.keys import load_or_create
left = int(sys.argv[2])
def dying(original):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return call
for name in ("open", "fchmod", "ftruncate", "write", "fsync", "rename", "mkdir", "close"):
    setattr(os, name, dying(getattr(os, name)))
load_or_create(Path(sys.argv[1]))
"""
    for count in range(0, 12, 2):
        directory = tmp_path / str(count)
        done = subprocess.run(
            [sys.executable, "-c", program, str(directory), str(count)], capture_output=True, timeout=60
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        assert load_or_create(directory).public == load_or_create(directory).public


def test_processes_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from edgefl.identity.keys import load_or_create;"
        "print(load_or_create(Path(sys.argv[1])).node_id)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "state")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) for _ in range(3)]
    assert len({process.communicate(timeout=60)[0] for process in running}) == 1


def test_secrets_do_not_show() -> None:
    keys = DeviceKeys.generate()
    secrets = keys.encode().decode().split("\n")[1:3]
    assert all(secret not in repr(keys) for secret in secrets)


def test_curve_keys_in_the_form_that_zeromq_takes() -> None:
    import zmq

    public, secret = DeviceKeys.generate().curve_z85()
    assert (len(public), len(secret)) == (40, 40)
    assert zmq.curve_public(secret) == public


def test_the_curve_key_is_bound_to_the_device() -> None:
    keys, other = DeviceKeys.generate(), DeviceKeys.generate()
    assert curve_bound(keys.public, keys.curve_public, keys.binding)
    assert not curve_bound(keys.public, other.curve_public, keys.binding)
    assert not curve_bound(other.public, keys.curve_public, keys.binding)


@given(public=st.binary(max_size=40), data=st.binary(max_size=40), signature=st.binary(max_size=70))
def test_checking_a_signature_never_raises(public: bytes, data: bytes, signature: bytes) -> None:
    assert not signed_by(public, data, signature)


@given(st.binary(max_size=200))
def test_any_bytes_are_keys_or_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - UnicodeDecodeError is one too
        DeviceKeys.decode(data)
