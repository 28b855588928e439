"""A boot waits for first boot's program: it imports what it needs, and nothing of the daemon's."""

from __future__ import annotations

import subprocess
import sys

import pytest

TAKE = "from edgefl.firstboot import host; from edgefl.firstboot.steps import take_settings; "


@pytest.mark.parametrize("verb", [TAKE, ""], ids=["take", "joined"])
def test_nothing_that_takes_long_is_imported_before_it_is_needed(verb: str) -> None:
    # What the interpreter itself starts with differs between installations, and is not ours.
    program = (
        f"import sys; own = set(sys.modules); import edgefl.firstboot.__main__; {verb}print(*set(sys.modules) - own)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "edgefl.firstboot.status" in loaded
    assert not loaded & {"asyncio", "ssl", "hashlib", "socket", "subprocess", "ipaddress", "shutil", "tempfile"}
    assert not loaded & {"click", "cbor2", "nacl", "zmq", "numpy", "edgefl.wire", "edgefl.control", "edgefl.daemon"}
