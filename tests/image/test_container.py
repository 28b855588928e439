"""The container's recipe, read: what it copies is there, what it installs is pinned, and it runs as nobody's root."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edgefl.config import DEFAULT_PORT
from edgefl.image.payload import python_of

ROOT = Path(__file__).resolve().parents[2]


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Containerfile, with continued lines joined (containerfile(5))."""
    joined = re.sub(r"\\\n\s*", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


RECIPE = instructions((ROOT / "firmware-images/Containerfile").read_text())


def of(name: str) -> list[str]:
    return [rest for word, rest in RECIPE if word == name]


def test_it_is_one_stage_on_a_named_python() -> None:
    (base,) = of("FROM")
    name, _, tag = base.partition(":")
    assert name.count("/") >= 2, "a full name asks no registry that nobody chose"
    lock = next(re.findall(r"locks/(cp\d+)\.txt", rest)[0] for rest in of("COPY") if "locks/" in rest)
    assert tag.startswith(python_of(Path(f"{lock}.txt")))


@pytest.mark.parametrize("arguments", of("COPY"))
def test_what_is_copied_is_there(arguments: str) -> None:
    *sources, _ = arguments.split()
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source


def test_every_package_is_pinned_by_its_hash() -> None:
    installs = [part for rest in of("RUN") for part in rest.split("&&") if "pip install" in part]
    assert installs
    for part in installs:
        assert "--no-deps" in part, part
        assert "--require-hashes" in part or part.rstrip().endswith("/source"), part
    assert not of("ADD")
    assert not any(word in rest for rest in of("RUN") for word in ("curl", "wget", "apt-get", "http"))


def test_it_runs_as_its_own_user_with_its_state_outside() -> None:
    words = [word for word, _ in RECIPE]
    assert of("USER") == ["edgefl"]
    assert words.index("USER") > max(at for at, word in enumerate(words) if word == "RUN")
    (volume,) = of("VOLUME")
    assert f"STATE_DIRECTORY={volume}" in " ".join(of("ENV"))
    assert json.loads(of("ENTRYPOINT")[0]) == ["edgefl"]
    assert json.loads(of("CMD")[0]) == ["join"]
    assert of("EXPOSE") == [f"{DEFAULT_PORT}-{DEFAULT_PORT + 2}"]
