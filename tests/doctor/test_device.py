"""What is said about a device, with facts made up: every check has its ok, and each failure its next step."""

from __future__ import annotations

import re
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path

import pytest

from edgefl.doctor.device import check_device
from edgefl.doctor.facts import NEEDED, OPTIONAL, Disk, Facts
from edgefl.doctor.verdict import Check, Verdict
from tests.doctor.sample import WELL, facts

ROOT = Path(__file__).resolve().parents[2]


def named(name: str, given: Facts) -> Check:
    (found,) = [check for check in check_device(given) if check.name == name]
    return found


def test_a_device_with_which_all_is_well() -> None:
    checks = check_device(WELL)
    assert [check.name for check in checks] == [
        "python", "packages", "onnxruntime", "encryption", "configuration", "disk", "memory", "temperature",
        "throttling", "power mode",
    ]  # fmt: skip
    assert {check.verdict for check in checks} == {Verdict.OK}
    assert not any(check.next for check in checks)
    assert checks[0].as_dict() == {
        "name": "python", "verdict": "ok", "says": "Python 3.11.7 on aarch64, glibc 2.36", "next": "",
    }  # fmt: skip


DISK = WELL.disk


@pytest.mark.parametrize(
    ("name", "given", "verdict", "says"),
    [
        ("python", facts(python=(3, 9, 2)), "fail", "needs 3.10"),
        ("python", facts(python=(3, 15, 0)), "warn", "tested with 3.10 to 3.14"),
        ("python", facts(libc=" "), "ok", "libc of unknown kind"),
        ("packages", facts(packages={**WELL.packages, "pyzmq": None}), "fail", "missing: pyzmq"),
        ("packages", facts(packages={**WELL.packages, "cbor2": "5.9"}), "fail", "too old: cbor2 5.9"),
        ("packages", facts(packages={**WELL.packages, "cbor2": "dev"}), "fail", "too old: cbor2 dev"),
        ("packages", WELL, "ok", "onnx absent (making models trainable)"),
        ("onnxruntime", facts(onnxruntime="cannot be imported: no such file"), "fail", "no such file"),
        ("onnxruntime", facts(provider="cuda"), "fail", "told to train on cuda"),
        (
            "onnxruntime",
            facts(provider="cuda", onnxruntime=("1.23.2", ["CUDAExecutionProvider", "CPUExecutionProvider"])),
            "ok",
            "runs on CUDA, CPU",
        ),
        ("encryption", facts(curve=False), "fail", "without CURVE"),
        ("configuration", facts(config_error=("edgefl.toml: unknown key 'x'", "known keys: ")), "fail", "unknown key"),
        ("disk", facts(disk=replace(DISK, error="No space left on device")), "fail", "No space left"),
        ("disk", facts(disk=replace(DISK, free_bytes=10 << 20)), "fail", "10 MB free, too little"),
        ("disk", facts(disk=replace(DISK, free_bytes=100 << 20)), "warn", "only 100 MB free"),
        ("disk", facts(disk=replace(DISK, write_s=4.2)), "warn", "took 4.2 s"),
        ("disk", facts(disk=Disk("/new", exists=False, free_bytes=1 << 30)), "ok", "does not exist yet"),
        ("disk", WELL, "ok", "8.0 GB free, writing 4 kB took 10 ms"),
        ("memory", facts(memory_available_bytes=20 << 20), "fail", "20 MB of 4.0 GB"),
        ("memory", facts(memory_available_bytes=200 << 20), "warn", "large models"),
        ("temperature", facts(temperature_c=None), "ok", "not checked"),
        ("temperature", facts(temperature_c=76.4), "warn", "76 °C"),
        ("temperature", facts(temperature_c=90.0), "fail", "slow down or stop"),
        ("throttling", facts(throttling=None), "ok", "not checked"),
        ("throttling", facts(throttling="under-voltage"), "warn", "under-voltage"),
        ("throttling", facts(throttling="throttled"), "warn", "throttled"),
        ("power mode", facts(power_mode="MAXN_SUPER"), "ok", "the fastest"),
        ("power mode", facts(power_mode="15W"), "ok", "nvpmodel -m 0"),
    ],
)
def test_each_check(name: str, given: Facts, verdict: str, says: str) -> None:
    found = named(name, given)
    assert found.verdict.value == verdict
    assert says in found.says
    assert bool(found.next) is (verdict != "ok")


def test_weak_power_needs_another_step_than_heat() -> None:
    assert "power supply" in named("throttling", facts(throttling="under-voltage")).next
    assert "cool" in named("throttling", facts(throttling="throttled for heat 3 times")).next


def test_the_packages_are_those_of_the_installation() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split("\n")
    wanted = [re.fullmatch(r"([\w-]+)>=(\d+)[\d.]*", line) for line in lines if line and ";" not in line]
    assert {match[1]: int(match[2]) for match in wanted if match} == NEEDED
    extras = "\n".join(setup["options.extras_require"].values())
    assert all(f"{name}>=" in extras for name in OPTIONAL)
