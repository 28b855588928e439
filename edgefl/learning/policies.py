"""Which policies of the device's owner an application wants: names in its manifest, and nothing but names.

    privacy=clip_and_noise,select=charging_only

What a name stands for is the device owner's business: a function in the configuration of the device, from its own
Python path. A device that has no policy of that name takes no part. (Totoro's owner-supplied functions; there they come
with the application, here no code ever comes from the network.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgefl.errors import UsageError

HOOKS = ("select", "compress", "aggregate", "privacy")
"""In which places a policy acts: take part in this round; this device's delta on its way out, twice (`privacy` first);
the next model at the root."""

MAX_POLICIES_BYTES = 128

REFERENCE = re.compile(r"(?P<module>[\w.]+):(?P<function>\w+)(:(?P<options>\w+=[^,=]+(,\w+=[^,=]+)*))?")
"""What a name stands for on a device: module:function[:key=number,…]."""

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,31}")


def parse_policies(text: str) -> dict[str, str]:
    """{hook: name} of HOOK=NAME[,…]; empty for an empty text. Raises UsageError."""
    if len(text.encode()) > MAX_POLICIES_BYTES:
        raise UsageError(f"the policies take more than {MAX_POLICIES_BYTES} bytes", hint="give them shorter names")
    found: dict[str, str] = {}
    for part in text.split(",") if text else ():
        hook, equals, name = part.partition("=")
        if hook not in HOOKS or not equals:
            raise UsageError(f"{part!r} is no policy", hint=f"HOOK=NAME, where HOOK is one of {', '.join(HOOKS)}")
        if hook in found:
            raise UsageError(f"{hook} is given twice", hint="one policy for each hook")
        if not NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot be a policy's name", hint="letters, digits, dots, dashes; a letter first"
            )
        found[hook] = name
    return found


def check_references(table: Mapping[str, str]) -> None:
    """Raises UsageError for a name or a reference of a device's policies that cannot be one. Nothing is imported."""
    for name, reference in table.items():
        if not NAME.fullmatch(name) or not REFERENCE.fullmatch(reference):
            raise UsageError(
                f"[policies] {name} = {reference!r} is no policy",
                hint='NAME = "module:function" or "module:function:key=number", for example '
                'clip_and_noise = "edgefl.policies:clip_and_noise:clip=1.0,noise=0.8"',
            )
