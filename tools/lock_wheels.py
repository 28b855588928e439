"""Pin the wheels of packages and images, with hashes, for every Python and architecture: firmware-images/locks/*.txt.

    .venv/bin/python tools/lock_wheels.py [cp313 …]

Run it when setup.cfg or the world has changed, then look at the difference. Both architectures get the same versions.
"""

from __future__ import annotations

import configparser
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edgefl.image.payload import ARCHITECTURES, platforms  # noqa: E402

PYTHONS = {
    "cp310": "3.10",  # Ubuntu 22.04, JetPack 6
    "cp311": "3.11",  # Debian 12
    "cp312": "3.12",  # Ubuntu 24.04, JetPack 7
    "cp313": "3.13",  # Debian 13
}

NEVER_IMPORTED = ("coloredlogs", "humanfriendly", "sympy", "mpmath")
"""What onnxruntime 1.23 wants for its tools alone."""


def wanted(python: str) -> list[str]:
    """What setup.cfg needs at run time, and multicast DNS. Markers are judged here: pip would by its own Python."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = [
        *parser["options"]["install_requires"].splitlines(),
        *parser["options.extras_require"]["mdns"].splitlines(),
    ]
    plain = [line.partition(";")[0].strip() for line in lines if line.strip()]
    return [line for line in plain if not line.startswith("tomli") or python == "cp310"]


def resolve(python: str, machine: str) -> dict[str, tuple[str, str]]:
    """name -> (version, sha256) of one wheel."""
    arguments = [word for name in platforms(machine) for word in ("--platform", name)]
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run",
            "--ignore-installed", "--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHONS[python],
            *arguments, "--target", "/nonexistent", "--report", "-", *wanted(python),
        ],
        stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    found = {}
    for item in json.loads(done.stdout)["install"]:
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        if item["metadata"]["name"].lower() not in NEVER_IMPORTED:
            found[item["metadata"]["name"].lower()] = item["metadata"]["version"], digest
    return found


def main() -> None:
    for python in sys.argv[1:] or PYTHONS:
        both = [resolve(python, machine) for machine in ARCHITECTURES.values()]
        if {name: version for name, (version, _) in both[0].items()} != {
            name: version for name, (version, _) in both[1].items()
        }:
            sys.exit(f"{python}: the architectures differ: {both}")
        lines = [f"# {python}: made by tools/lock_wheels.py; sha256 of the {' and '.join(ARCHITECTURES)} wheels\n"]
        for name, (version, _) in sorted(both[0].items()):
            digests = sorted({wheels[name][1] for wheels in both})
            lines.append(" \\\n    ".join([f"{name}=={version}", *(f"--hash=sha256:{one}" for one in digests)]) + "\n")
        path = ROOT / "firmware-images" / "locks" / f"{python}.txt"
        path.write_text("".join(lines))
        print(f"{path.relative_to(ROOT)}: {len(both[0])} packages")


if __name__ == "__main__":
    main()
