"""Small images made of plain bytes: what disk.py looks at, and nothing else."""

from __future__ import annotations

import struct
from pathlib import Path

from edgefl.firstboot.settings import CardSettings, render

BOOT, ROOT, SPARE, DATA = (4 << 20, 1 << 20), (8 << 20, 1 << 20), (9 << 20, 1 << 20), (12 << 20, 1 << 20)
"""Start and size of the partitions, in bytes."""

SLOT_AT = 70 * 512
"""Of the slot in the boot partition."""


def image(path: Path, *, gpt: bool = False, slots: tuple[int, ...] = (SLOT_AT,)) -> Path:
    content = bytearray(13 << 20)
    content[510:512] = b"\x55\xaa"
    if gpt:
        content[446:462] = struct.pack("<8BII", 0, 0, 2, 0, 0xEE, 255, 255, 255, 1, len(content) // 512 - 1)
        content[512:520] = b"EFI PART"
        struct.pack_into("<QII", content, 512 + 72, 2, 128, 128)
        for number, (start, size) in enumerate((BOOT, ROOT, SPARE, DATA)):
            at = 1024 + 128 * number
            content[at : at + 16] = bytes([number + 1]) * 16
            struct.pack_into("<QQ", content, at + 32, start // 512, (start + size) // 512 - 1)
    else:
        for number, (start, size) in enumerate((BOOT, ROOT, SPARE, DATA)):
            entry = struct.pack("<8BII", 0, 0, 0, 0, 0x0C, 0, 0, 0, start // 512, size // 512)
            content[446 + 16 * number : 462 + 16 * number] = entry
    for (start, _), label in ((ROOT, b"edgefl-root"), (DATA, b"edgefl-data")):
        content[start + 1080 : start + 1082] = b"\x53\xef"
        content[start + 1144 : start + 1144 + len(label)] = label
    slot = render(CardSettings())
    for at in slots:
        content[BOOT[0] + at : BOOT[0] + at + len(slot)] = slot
    path.write_bytes(content)
    return path
