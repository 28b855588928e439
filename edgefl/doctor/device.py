"""What the doctor says about the device itself: each check is a pure function of what it is told."""

from __future__ import annotations

from edgefl.doctor.facts import NEEDED, OPTIONAL, Facts
from edgefl.doctor.verdict import Check, fail, ok, warn

OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 14)

MIN_FREE_BYTES, LOW_FREE_BYTES = 64 << 20, 512 << 20
"""Below the first, a model of 25 MB and its successor do not fit; below the second, the next applications may not."""

SLOW_WRITE_S = 1.0
"""A good SD card syncs 4 kB in 5 to 50 ms; a dying one takes seconds."""

MIN_MEMORY_BYTES, LOW_MEMORY_BYTES = 64 << 20, 256 << 20
"""The daemon takes 70 MB idle; training the models of the demonstration as much again."""

HOT_C, VERY_HOT_C = 75.0, 85.0
"""A Raspberry Pi begins to slow down at 80 and is throttled hard at 85 degrees."""


def check_device(facts: Facts) -> list[Check]:
    """From the interpreter to the heat."""
    return [
        check_python(facts),
        check_packages(facts),
        check_onnxruntime(facts),
        check_zmq(facts),
        check_configuration(facts),
        check_disk(facts),
        check_memory(facts),
        check_temperature(facts),
        check_throttling(facts),
        check_power_mode(facts),
    ]


def check_python(facts: Facts) -> Check:
    found = ".".join(map(str, facts.python))
    where = f"Python {found} on {facts.machine}, {facts.libc.strip() or 'a libc of unknown kind'}"
    if facts.python[:2] < OLDEST_PYTHON:
        return fail("python", f"{where}: edgefl needs 3.10 or later", "install a newer Python, and edgefl with it")
    if facts.python[:2] > NEWEST_PYTHON:
        return warn("python", f"{where}: edgefl was tested with 3.10 to 3.14", "use one of these if something fails")
    return ok("python", where)


def check_packages(facts: Facts) -> Check:
    missing = [name for name in NEEDED if facts.packages.get(name) is None]
    old = [
        f"{name} {found}"
        for name, least in NEEDED.items()
        if (found := facts.packages.get(name)) is not None and _major(found) < least
    ]
    if missing or old:
        parts = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"too old: {', '.join(old)}"] * bool(old)
        return fail("packages", "; ".join(parts), "pip install --upgrade edgefl")
    said = [f"{name} {facts.packages[name]}" for name in NEEDED]
    said += [
        f"{name} {found}" if (found := facts.packages.get(name)) else f"{name} absent ({use})"
        for name, use in OPTIONAL.items()
    ]
    return ok("packages", ", ".join(said))


def _major(version: str) -> int:
    head = version.partition(".")[0]
    return int(head) if head.isdecimal() else 0


def check_onnxruntime(facts: Facts) -> Check:
    if isinstance(facts.onnxruntime, str):
        return fail("onnxruntime", f"onnxruntime {facts.onnxruntime}", "pip install --force-reinstall onnxruntime")
    version, providers = facts.onnxruntime
    said = f"onnxruntime {version} runs on {', '.join(name.removesuffix('ExecutionProvider') for name in providers)}"
    if facts.provider == "cuda" and "CUDAExecutionProvider" not in providers:
        return fail(
            "onnxruntime",
            f"{said}, and this device is told to train on cuda",
            "install an onnxruntime with CUDA (on a Jetson, its vendor's), or use --provider cpu",
        )
    return ok("onnxruntime", said)


def check_zmq(facts: Facts) -> Check:
    if not facts.curve:
        return fail(
            "encryption", f"libzmq {facts.libzmq} was built without CURVE", "pip install --force-reinstall pyzmq"
        )
    return ok("encryption", f"libzmq {facts.libzmq} with CURVE")


def check_configuration(facts: Facts) -> Check:
    cause, hint = facts.config_error
    return fail("configuration", cause, hint) if cause else ok("configuration", "the configuration can be read")


def check_disk(facts: Facts) -> Check:
    disk = facts.disk
    room = f"{_size(disk.free_bytes)} free"
    if disk.error:
        return fail(
            "disk",
            f"cannot write to {disk.path}: {disk.error}",
            "run this as the daemon's user, free some room, or name another directory with --state",
        )
    if disk.free_bytes < MIN_FREE_BYTES:
        return fail("disk", f"{disk.path}: {room}, too little for a model", "free some room")
    if disk.write_s is not None and disk.write_s > SLOW_WRITE_S:
        return warn(
            "disk",
            f"{disk.path}: writing 4 kB took {disk.write_s:.1f} s",
            "is the card worn out, or the disk busy? try another one",
        )
    if disk.free_bytes < LOW_FREE_BYTES:
        return warn("disk", f"{disk.path}: only {room}", "free some room before taking part in more applications")
    if disk.write_s is None:
        return ok("disk", f"{disk.path} does not exist yet and can be made; {room}")
    return ok("disk", f"{disk.path}: {room}, writing 4 kB took {1000 * disk.write_s:.0f} ms")


def check_memory(facts: Facts) -> Check:
    said = f"{_size(facts.memory_available_bytes)} of {_size(facts.memory_bytes)} memory available"
    if facts.memory_available_bytes < MIN_MEMORY_BYTES:
        return fail("memory", f"{said}: too little to start or to train", "stop other programs, or add swap")
    if facts.memory_available_bytes < LOW_MEMORY_BYTES:
        return warn("memory", f"{said}: large models will not train", "stop other programs")
    return ok("memory", said)


def check_temperature(facts: Facts) -> Check:
    if facts.temperature_c is None:
        return ok("temperature", "this device has no thermometer that can be read: not checked")
    said = f"the hottest sensor is at {facts.temperature_c:.0f} °C"
    if facts.temperature_c >= VERY_HOT_C:
        return fail("temperature", f"{said}: the device will slow down or stop", "cool it")
    if facts.temperature_c >= HOT_C:
        return warn("temperature", f"{said}: training will make it hotter", "cool it, or expect it to slow down")
    return ok("temperature", said)


def check_throttling(facts: Facts) -> Check:
    if facts.throttling is None:
        return ok("throttling", "this device does not tell whether it is throttled: not checked")
    if facts.throttling:
        weak = "voltage" in facts.throttling or "current" in facts.throttling
        step = "use a stronger power supply" if weak else "cool it"
        return warn("throttling", f"the processor was slowed down: {facts.throttling}", step)
    return ok("throttling", "the processor has not been slowed down")


def check_power_mode(facts: Facts) -> Check:
    """Of a Jetson: its maker ships several, and the slow ones are the default on some."""
    if facts.power_mode is None:
        return ok("power mode", "this device has none that can be chosen")
    if facts.power_mode.startswith("MAXN"):
        return ok("power mode", f"{facts.power_mode}, the fastest")
    said = f"{facts.power_mode}: training takes as long as this mode lets it"
    return ok("power mode", f"{said} (sudo nvpmodel -m 0 chooses the fastest)")


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GB" if count >= 1 << 30 else f"{count >> 20} MB"
