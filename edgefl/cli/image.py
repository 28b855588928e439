"""`edgefl image`: build, customise, check, test and flash images for cards and gateways; build the Debian package."""

from __future__ import annotations

from pathlib import Path

import click

from edgefl.cli.output import emit_json, emit_pairs, json_option, note, report_errors


@click.group()
def image() -> None:
    """Build, customise, check, test and flash images; build the Debian package."""


def _recipes(given: Path | None) -> Path:
    from edgefl.errors import UsageError

    found = given or Path(__file__).resolve().parents[2] / "firmware-images"
    if not (found / "locks").is_dir():
        raise UsageError(f"there are no recipes at {found}", hint="run this in a clone of edgefl, or give --recipes")
    return found


recipes_option = click.option(
    "--recipes",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder firmware-images of a clone.  [default: of the clone that edgefl runs from]",
)


@image.command()
@click.option("--python", default="cp313", help="Python of the device: cp310, cp311, cp312 (Ubuntu), cp313 (Debian 13).")
@click.option("--arch", type=click.Choice(["amd64", "arm64"]), default="amd64", help="Architecture of the device.")
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("dist"), help="Where to.")
@recipes_option
@json_option
@report_errors
def package(python: str, arch: str, out: Path, recipes: Path | None, as_json: bool) -> None:
    """Build the Debian package for one Python and architecture; needs pip's index or cache, and dpkg-deb."""
    from edgefl.errors import UsageError
    from edgefl.image.package import build_package

    home = _recipes(recipes)
    lock = home / "locks" / f"{python}.txt"
    if not lock.exists():
        known = ", ".join(sorted(path.stem for path in lock.parent.glob("*.txt")))
        raise UsageError(f"no wheels are pinned for {python!r}", hint=f"choose one of {known}")
    built = build_package(home, lock, arch, out, extra_files())
    if as_json:
        emit_json({"package": str(built), "size_bytes": built.stat().st_size})
    else:
        click.echo(built)


def extra_files() -> dict[str, bytes]:
    """What the package has besides: made from the commands themselves."""
    from edgefl.cli.manual import COMPLETION_FILES, MANUAL_FILE, completion, manual

    return {
        MANUAL_FILE: manual(),
        **{path: completion(shell).encode() for shell, path in COMPLETION_FILES.items()},
    }
