"""The base layer: what mmdebstrap is told, and that a layer is made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgefl.image import recipe as recipes
from edgefl.image.base import base_layer

HOME = Path(__file__).resolve().parents[2] / "firmware-images"


class Made:
    """Plays run_inside: the program whose last arguments are suite, target and sources."""

    def __init__(self) -> None:
        self.environments: list[dict[str, str]] = []

    def __call__(self, *command: str, log: Path, environment: dict[str, str]) -> None:
        Path(command[-2]).write_text(" ".join(command))
        self.environments.append(environment)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Made()
    monkeypatch.setattr("edgefl.image.base.run_inside", made)
    return made


def test_a_layer_is_kept_until_what_it_is_made_of_changes(made: Made, tmp_path: Path) -> None:
    recipe = recipes.load(HOME, "pc")
    first = base_layer(recipe, "deb http://a trixie main\n", tmp_path)
    assert base_layer(recipe, "deb http://a trixie main\n", tmp_path) == first
    assert len(made.environments) == 1
    assert base_layer(recipe, "deb http://b trixie main\n", tmp_path) != first
    assert not list(tmp_path.glob("*.part.tar"))


def test_the_initramfs_is_made_once(made: Made, tmp_path: Path) -> None:
    base_layer(recipes.load(HOME, "rpi"), "deb http://a trixie main\n", tmp_path)
    # initramfs-tools' hook for kernel packages obeys this variable; update-initramfs itself does not.
    assert made.environments[0]["INITRD"] == "No"
    finish = (HOME / "base" / "finish").read_text()
    assert finish.count("update-initramfs -c -k all") == 1
