"""Where things are, and what a daemon is told: options over EDGEFL_* over TOML files over what the state remembers.

Files, in the order of rising weight: /etc/edgefl/edgefl.toml, /etc/edgefl/conf.d/*.toml (for root; under
$XDG_CONFIG_HOME/edgefl for an ordinary user), then the file given with --config. Click reads the environment.

A service is told its places by systemd (STATE_DIRECTORY and its like, systemd.exec(5)): they hold whatever its user is.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import Any

from edgefl.declared import dataclass
from edgefl.errors import ConfigError, UsageError
from edgefl.learning.policies import check_references
from edgefl.limits import DeviceLimits, parse_rate, parse_size, read_limits
from edgefl.trainer.running.providers import PROVIDERS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_PORT = 7321
"""The door; the ZeroMQ ports are the next two."""

DEFAULT_LISTEN = f"0.0.0.0:{DEFAULT_PORT}"

SOCKET_NAME = "edgefl.sock"
"""The control socket (edgefl/control.py)."""

ZONE_METHODS = ("site", "anchors", "landmarks")
"""How a device finds its zone (edgefl/overlay/zones.py)."""

PROFILES = ("node", "tiny", "gateway")
"""How many contacts a device keeps (edgefl/overlay/profile.py)."""

RULES = ("acbr", "smooth", "rtt", "klucb", "exp3")
"""How a device chooses among its candidate parents (edgefl/overlay/game/rules.py)."""

OVERLAY = {"zones": ZONE_METHODS, "profile": PROFILES, "rule": RULES}
"""The keys of the table [overlay], and what each may be; the first is the default."""

ROLES = ("auto", "leaf", "helper")
"""A node while others reach this device; a leaf in any case, which others ask for nothing; or a node that also carries
the models of applications which it is no member of (edgefl/overlay/volunteers.py)."""

MDNS = ("auto", "on", "off")
"""Look around on the local network: where it is a private one, always, never."""

CAPACITIES = ("auto", "constrained", "normal", "strong", "gateway")
"""The device's capacity class: as measured (edgefl/telemetry/capacity.py), or as it is told."""

TEXT_LIMITS = ("memory", "uplink", "site_uplink")
"""Keys of the table [limits] that are settings of their own; the others (limits.py) stay together."""

MAX_CONFIG_BYTES = 1024 * 1024


def default_state() -> Path:
    """Where a daemon keeps its state: the service's or the system's place, the user's own otherwise."""
    if told := os.environ.get("STATE_DIRECTORY"):
        return Path(told)
    if os.geteuid() == 0:
        return Path("/var/lib/edgefl")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "edgefl"


def default_config() -> Path:
    """Where configuration and a fleet's key are looked for."""
    if told := os.environ.get("CONFIGURATION_DIRECTORY"):
        return Path(told)
    if os.geteuid() == 0:
        return Path("/etc/edgefl")
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edgefl"


def control_socket(state: Path | None) -> Path:
    """The control socket of the daemon with this state directory. The default daemon of root has it in /run/edgefl."""
    if state is None and (told := os.environ.get("RUNTIME_DIRECTORY")):
        return Path(told) / SOCKET_NAME
    if state is None and os.geteuid() == 0:
        return Path("/run/edgefl") / SOCKET_NAME
    return (state or default_state()) / SOCKET_NAME


@dataclass(frozen=True, slots=True)
class Settings:
    """What one daemon is told. `listen` and `advertise` are HOST:PORT, `data` maps names to sources, `provider` is
    what ONNX Runtime trains on, `capacity` the class of the device, `mdns` whether to find others and be found on the
    local network, `role` whether to be a leaf in any case, or a helper of others. `zones` is how a device without a
    site finds its zone: not at all (`site`), by `anchors` or by `landmarks`; `profile` is how many contacts it keeps;
    `rule` is how it chooses its parents; in the file these three stand under [overlay]. `uplink` ("20 Mbit/s") bounds
    the rate at which models and updates are sent, `memory` ("256 MB") what the daemon may take; they stand under
    [limits], and empty means as much as there is. So does `site_uplink`, the rate of the line that the devices of
    `site` share: it bounds nothing, others choose their parents by it. `limits` is the rest of it (limits.py).
    `policies` maps the names that applications ask for to functions on this device's own Python path
    (edgefl/policies.py)."""

    listen: str = DEFAULT_LISTEN
    advertise: str = ""
    bootstrap: tuple[str, ...] = ()
    site: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    provider: str = "cpu"
    mdns: str = "auto"
    token: str = ""
    zones: str = "site"
    capacity: str = "auto"
    profile: str = "node"
    rule: str = "acbr"
    role: str = "auto"
    uplink: str = ""
    memory: str = ""
    policies: Mapping[str, str] = field(default_factory=dict)
    site_uplink: str = ""
    limits: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device_limits(self) -> DeviceLimits:
        """What the table [limits] means. Raises UsageError."""
        return read_limits(self.limits, memory=self.memory)

    def remembered(self) -> bytes:
        """What the state directory keeps: everything but the token, which is a secret and no longer needed."""
        kept = {**asdict(self), "token": ""}
        return json.dumps(kept).encode()


def from_memory(kept: bytes | None) -> dict[str, Any]:
    """The settings that `Settings.remembered` wrote; nothing when there are none (or of another version)."""
    if not kept:
        return {}
    document = json.loads(kept)
    names = {item.name for item in fields(Settings)}
    return {key: value for key, value in document.items() if key in names and value}


def read_files(extra: Path | None) -> dict[str, Any]:
    """The merged TOML files. Raises ConfigError naming file and key (and line, where TOML itself is broken)."""
    home = default_config()
    paths = [path for path in [home / "edgefl.toml", *sorted((home / "conf.d").glob("*.toml"))] if path.exists()]
    if extra is not None:
        paths.append(extra)
    merged: dict[str, Any] = {}
    for path in paths:
        found = _read(path)
        limits = {**merged.get("limits", {}), **found.get("limits", {})}
        merged.update(found)
        if limits:
            merged["limits"] = limits
    return merged


def service_token() -> dict[str, str]:
    """The token that systemd hands to the service (LoadCredential=token:…), as a layer; `-`, the unit's default, is
    none."""
    path = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / "token"
    given = path.is_file() and path.read_bytes()[:MAX_CONFIG_BYTES].strip() not in (b"", b"-")
    return {"token": f"file:{path}"} if given else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        if len(content) > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes", hint="is this a configuration file?")
        document: dict[str, Any] = tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="check the path and its permissions") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}", hint="correct that line; https://toml.io has the syntax") from None
    return check_document(path, document)


def check_document(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    """The settings in a TOML document (which is used up). Raises ConfigError naming `path` and the key."""
    discovery = _discovery(path, document.pop("discovery", {}))
    kinds: dict[str, type] = {item.name: str for item in fields(Settings)} | {
        "bootstrap": list,
        "data": dict,
        "policies": dict,
    }
    limits = _limits(path, document.pop("limits", {}))
    overlay = _overlay(path, document.pop("overlay", {}))
    for name in ("mdns", "limits", *OVERLAY, *TEXT_LIMITS):
        del kinds[name]  # they have their places in [discovery], [overlay] and [limits]
    for key, value in document.items():
        if key not in kinds:
            raise ConfigError(f"{path}: unknown key {key!r}", hint=f"known keys: {', '.join(sorted(kinds))}")
        if not isinstance(value, kinds[key]):
            raise ConfigError(f"{path}: {key} must be a {kinds[key].__name__}", hint=f"correct {key}")
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if not all(isinstance(part, str) for part in parts):
            raise ConfigError(f"{path}: {key} must hold texts", hint=f"put the values of {key} in quotes")
    return {**document, **discovery, **overlay, **limits}


def _discovery(path: Path, table: Any) -> dict[str, Any]:
    """The table [discovery]."""
    if not isinstance(table, dict) or set(table) - {"mdns"} or table.get("mdns", "auto") not in MDNS:
        raise ConfigError(f"{path}: [discovery] has one key, mdns, which is auto, on or off", hint='mdns = "auto"')
    return table


def _overlay(path: Path, table: Any) -> dict[str, Any]:
    """The table of what shapes the overlay."""
    if not isinstance(table, dict) or not table.keys() <= OVERLAY.keys():
        raise ConfigError(f"{path}: [overlay] has the keys {' and '.join(OVERLAY)}", hint="remove the others")
    for key, value in table.items():
        if value not in OVERLAY[key]:
            raise ConfigError(f"{path}: [overlay] {key} cannot be {value!r}", hint=f"one of {', '.join(OVERLAY[key])}")
    return table


def _limits(path: Path, table: Any) -> dict[str, Any]:
    """The table [limits]."""
    example = 'uplink = "20 Mbit/s" and memory = "256 MB"'
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: [limits] is a table", hint=example)
    texts = {key: table[key] for key in TEXT_LIMITS if key in table}
    if not all(isinstance(value, str) for value in texts.values()):
        raise ConfigError(f"{path}: {', '.join(TEXT_LIMITS)} in [limits] are texts", hint=example)
    rest = {key: value for key, value in table.items() if key not in texts}
    try:
        read_limits(rest)
    except UsageError as error:
        raise ConfigError(f"{path}: {error.cause}", hint=error.hint) from None
    return {**texts, **({"limits": rest} if rest else {})}


def merge(*layers: Mapping[str, Any]) -> Settings:
    """Settings from layers of rising weight; absent and empty values leave the layer below. Raises UsageError."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update({key: value for key, value in layer.items() if value})
    merged["bootstrap"] = tuple(merged.get("bootstrap", ()))
    settings = Settings(**merged)
    split_address(settings.listen, zero_allowed=True)
    parse_rate(settings.uplink)
    parse_rate(settings.site_uplink)
    parse_size(settings.memory)
    check_references(settings.policies)
    read_limits(settings.limits)
    if settings.provider not in PROVIDERS:
        raise UsageError(f"no provider {settings.provider!r}", hint=f"choose one of {', '.join(PROVIDERS)}")
    if settings.capacity not in CAPACITIES:
        raise UsageError(f"no capacity {settings.capacity!r}", hint=f"choose one of {', '.join(CAPACITIES)}")
    if settings.role not in ROLES:
        raise UsageError(f"no role {settings.role!r}", hint=f"choose one of {', '.join(ROLES)}")
    if settings.zones not in ZONE_METHODS:
        raise UsageError(
            f"no way of finding zones {settings.zones!r}", hint=f"[overlay] zones is one of {', '.join(ZONE_METHODS)}"
        )
    if settings.profile not in PROFILES:
        raise UsageError(f"no profile {settings.profile!r}", hint=f"choose one of {', '.join(PROFILES)}")
    if settings.rule not in RULES:
        raise UsageError(f"no rule {settings.rule!r}", hint=f"[overlay] rule is one of {', '.join(RULES)}")
    if settings.role not in ROLES:
        raise UsageError(f"no role {settings.role!r}", hint=f"choose one of {', '.join(ROLES)}")
    if settings.mdns not in MDNS:
        raise UsageError(f"mdns cannot be {settings.mdns!r}", hint=f"choose one of {', '.join(MDNS)}")
    for address in (*settings.bootstrap, *([settings.advertise] if settings.advertise else [])):
        split_address(address)
    return settings


def split_address(text: str, *, zero_allowed: bool = False) -> tuple[str, int]:
    """(host, port) of HOST:PORT or [IPv6]:PORT. Raises UsageError."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    ambiguous = ":" in bare and bare is host
    if not colon or not bare or ambiguous or not port.isdecimal() or not (not zero_allowed) <= int(port) <= 65535:
        raise UsageError(
            f"{text!r} is not HOST:PORT", hint=f"for example 192.168.1.20:{DEFAULT_PORT} or [fd00::1]:{DEFAULT_PORT}"
        )
    return bare, int(port)


def is_unspecified(host: str) -> bool:
    """Whether a listening address stands for all of this device's addresses (0.0.0.0 or ::)."""
    import ipaddress  # not above: first boot, which reads settings too, has no use for it

    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def parse_data(texts: tuple[str, ...]) -> dict[str, str]:
    """NAME=SOURCE options as a mapping; file sources become absolute, so that a restart finds them. UsageError."""
    sources = {}
    for item in texts:
        name, equals, source = item.partition("=")
        if not name or not equals or not source:
            raise UsageError(f"{item!r} is not NAME=SOURCE", hint="for example --data digits=/data/digits.npz")
        sources[name] = source if source.startswith("plugin:") else str(Path(source).absolute())
    return sources
