"""The file edgefl.toml on the boot partition: what a person writes into it, and what the device and tools make of it.

In an image it is a slot: SLOT_BYTES long, from MARKER to END, so that it can be found and overwritten in place without
knowing anything of FAT. A person may edit it with any editor; its length does not matter then.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from edgefl.config import check_document, merge
from edgefl.declared import dataclass
from edgefl.errors import ConfigError, EdgeflError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "edgefl.toml"

SLOT_BYTES = 16 * 1024
"""Room for a token (4 kB at most), some data sources and ssh keys."""

MAX_FILE_BYTES = 64 * 1024
"""What a person's editor may make of it; anything larger is no settings file."""

MARKER = "# edgefl.toml, the settings of this device."
END = "# end of edgefl.toml\n"

HEADER = (
    MARKER
    + """
# Change lines below with any editor, then put the card back and switch the device on. What came of it is written to
# edgefl-status.txt beside this file. Remove the # in front of a line to make it count:
#   token = "edgefl1-..."                  as `edgefl fleet invite` prints it; taken off the card by the device
#   site = "plant-2"                       devices of one site prefer each other
#   bootstrap = ["192.168.1.20:7321"]      devices to knock at, where the token names none
#   [data]
#   digits = "digits.npz"                  a file beside this one is copied to the device; or a path on the device
#   [wifi]
#   ssid = "plant"                         where there is no cable; the passphrase is taken off the card like the token
#   passphrase = "8 to 63 characters"
#   [gateway]
#   hostname = "press-4"                   otherwise it comes from the serial number
#   ssh_authorized_keys = ["ssh-ed25519 ..."]   without a key there is no ssh; the user is edgefl-admin
#   updates = "https://..."                where it looks once a day for a system that the fleet's owner signed
#   alone = true                           an update may stay although this device has found no other

"""
)

_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SSH_KEY = re.compile(r"(ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\n]*)?")
MAX_SSH_KEYS = 16
_WEB_ADDRESS = re.compile(r"https?://[!-~]{1,1000}")
_PASSPHRASE = re.compile(r"[ -~]{8,63}")
MAX_SSID_BYTES = 32


@dataclass(frozen=True, slots=True)
class CardSettings:
    """`daemon` are settings as in /etc/edgefl/edgefl.toml (tables `discovery` and `overlay` included), but `token`."""

    token: str = ""
    daemon: Mapping[str, Any] = field(default_factory=dict)
    hostname: str = ""
    ssh_keys: tuple[str, ...] = ()
    ssid: str = ""
    passphrase: str = ""
    updates: str = ""
    alone: bool = False

    @property
    def secret(self) -> bool:
        """Something is in it that must not stay on a card."""
        return bool(self.token or self.passphrase)

    def without_secrets(self) -> CardSettings:
        return replace(self, token="", passphrase="")

    @property
    def empty(self) -> bool:
        """Nothing was set: the slot is as the image has it."""
        return self == CardSettings()


def read(content: bytes) -> CardSettings:
    """The settings in the file's bytes; a byte order mark and CRLF, as Windows has them, are fine.

    Raises ConfigError naming the line.
    """
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{FILE} is larger than {MAX_FILE_BYTES} bytes", hint="is this the right file?")
    try:
        text = content.decode("utf-8-sig")
        document = tomllib.loads(text.replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{FILE}, line {line}: this is not UTF-8 text", hint="save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{FILE}: {error}", hint="correct that line; texts need quotes") from None

    token, daemon = "", dict[str, Any]()
    gateway, wifi = document.pop("gateway", {}), document.pop("wifi", {})
    for key, value in document.items():
        with _at_line(text, key):
            if key == "token":
                token = _token(value)
            else:
                merge(check_document(Path(FILE), {key: value}))
                daemon[key] = value
    hostname, keys, updates, alone = "", tuple[str, ...](), "", False
    if not isinstance(gateway, dict):
        raise ConfigError(f"{FILE}: gateway must be a table", hint="write [gateway] on a line of its own")
    for key, value in gateway.items():
        with _at_line(text, key):
            if key == "hostname":
                hostname = _hostname(value)
            elif key == "ssh_authorized_keys":
                keys = _ssh_keys(value)
            elif key == "updates":
                updates = _updates(value)
            elif key == "alone":
                alone = _alone(value)
            else:
                raise ConfigError(
                    f"unknown key {key!r} in [gateway]", hint="known: hostname, ssh_authorized_keys, updates, alone"
                )
    with _at_line(text, "wifi"):
        ssid, passphrase = _wifi(wifi)
    return CardSettings(token, daemon, hostname, keys, ssid, passphrase, updates, alone)


@contextmanager
def _at_line(text: str, key: str) -> Iterator[None]:
    """Errors inside name the line of this key."""
    try:
        yield
    except EdgeflError as error:
        pattern = re.compile(rf"""\s*\[?\s*["']?{re.escape(key)}["']?\s*[]=.]""")
        number = next((at for at, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)
        cause = error.cause.removeprefix(f"{FILE}: ")
        raise ConfigError(f"{FILE}, line {number}: {cause}", hint=error.hint) from None


def _token(value: Any) -> str:
    # Not above: it takes longer than all the rest, and after first boot no token is on the card.
    from edgefl.identity.token import parse as parse_token

    if not isinstance(value, str):
        raise ConfigError("token must be a text", hint="put the token in quotes")
    return parse_token(value).text if value.strip() else ""


def _hostname(value: Any) -> str:
    if not isinstance(value, str) or not _HOSTNAME.fullmatch(value):
        raise ConfigError("hostname must have 1 to 63 letters a-z, digits and hyphens", hint='for example "press-4"')
    return value


def _updates(value: Any) -> str:
    if not isinstance(value, str) or not _WEB_ADDRESS.fullmatch(value):
        raise ConfigError("updates must be a web address", hint='for example "https://example.org/edgefl-rpi.update"')
    return value


def _alone(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError("alone must be true or false", hint="without quotes")
    return value


def _wifi(table: Any) -> tuple[str, str]:
    """Name and passphrase of a network (IEEE 802.11: at most 32 bytes; 8 to 63 printable ASCII characters)."""
    if not isinstance(table, dict) or not table.keys() <= {"ssid", "passphrase"}:
        raise ConfigError("[wifi] has the keys ssid and passphrase", hint="remove the others")
    ssid, passphrase = table.get("ssid", ""), table.get("passphrase", "")
    if not isinstance(ssid, str) or len(ssid.encode()) > MAX_SSID_BYTES or not (ssid or not table):
        raise ConfigError(
            f"ssid must be a text of 1 to {MAX_SSID_BYTES} bytes", hint="put the network's name in quotes"
        )
    if not isinstance(passphrase, str) or (passphrase and not _PASSPHRASE.fullmatch(passphrase)):
        raise ConfigError("passphrase must have 8 to 63 plain characters", hint="as the access point has it")
    return ssid, passphrase


def _ssh_keys(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_SSH_KEYS:
        raise ConfigError(f"ssh_authorized_keys must be a list of at most {MAX_SSH_KEYS} keys", hint="use [ ]")
    for key in value:
        if not isinstance(key, str) or not _SSH_KEY.fullmatch(key):
            raise ConfigError(
                f"{str(key)[:20]!r} is no public ssh key", hint="copy the line of a .pub file; never a private key"
            )
    return tuple(value)


def render(settings: CardSettings, note: str = "") -> bytes:
    """A whole slot with these settings. Raises UsageError when they do not fit."""
    remark = "".join(f"# {line}\n" for line in note.splitlines())
    body = (HEADER + remark + to_toml(settings)).encode()
    room = SLOT_BYTES - len(body) - len(END)
    if room < 0:
        raise UsageError("these settings do not fit on the card", hint="use fewer ssh keys or data sources")
    padding = b" " * (room - 1) + b"\n" if room else b""
    return body + padding + END.encode()


def to_toml(settings: CardSettings) -> str:
    """The settings as TOML: plain values first, then tables."""
    lines = [f"token = {_quote(settings.token)}"] if settings.token else []
    lines += [f"{key} = {_value(value)}" for key, value in settings.daemon.items() if not isinstance(value, dict)]
    for key, value in settings.daemon.items():
        if isinstance(value, dict):
            lines += [f"[{key}]", *(f"{_quote(name)} = {_value(item)}" for name, item in value.items())]
    if settings.ssid:
        lines += ["[wifi]", f"ssid = {_quote(settings.ssid)}"]
        lines += [f"passphrase = {_quote(settings.passphrase)}"] if settings.passphrase else []
    gateway: dict[str, Any] = {}
    if settings.hostname:
        gateway["hostname"] = settings.hostname
    if settings.ssh_keys:
        gateway["ssh_authorized_keys"] = list(settings.ssh_keys)
    if settings.updates:
        gateway["updates"] = settings.updates
    if settings.alone:
        gateway["alone"] = True
    if gateway:
        lines += ["[gateway]", *(f"{name} = {_value(item)}" for name, item in gateway.items())]
    return "".join(f"{line}\n" for line in lines)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    quoted: Callable[[Any], str] = _quote
    return f"[{', '.join(map(quoted, value))}]" if isinstance(value, (list, tuple)) else quoted(value)


def _quote(text: str) -> str:
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
