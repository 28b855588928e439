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
@click.option(
    "--python", default="cp313", help="Python of the device: cp310, cp311, cp312 (Ubuntu), cp313 (Debian 13)."
)
@click.option("--arch", type=click.Choice(["amd64", "arm64"]), default="amd64", help="Architecture of the device.")
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("dist"), help="Where to.")
@click.option(
    "--compression", type=click.Choice(["xz", "zstd", "none"]), default="xz", help="Smallest, quicker, for a quick try."
)
@recipes_option
@json_option
@report_errors
def package(python: str, arch: str, out: Path, compression: str, recipes: Path | None, as_json: bool) -> None:
    """Build the Debian package for one Python and architecture; needs pip's index or cache, and dpkg-deb."""
    from edgefl.errors import UsageError
    from edgefl.image.package import build_package
    from edgefl.image.payload import default_cache

    home = _recipes(recipes)
    lock = home / "locks" / f"{python}.txt"
    if not lock.exists():
        known = ", ".join(sorted(path.stem for path in lock.parent.glob("*.txt")))
        raise UsageError(f"no wheels are pinned for {python!r}", hint=f"choose one of {known}")
    built = build_package(home, lock, arch, out, extra_files(), cache=default_cache(), compression=compression)
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


@image.command()
@click.argument("target", metavar="rpi|rpi5|pc|arm64")
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="The image: .img, or .img.zst to have both."
)
@click.option(
    "--sources",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A sources.list with the Debian archive.  [default: this machine's own]",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where base layers are kept.  [default: ~/.cache/edgefl/images]",
)
@recipes_option
@json_option
@report_errors
def build(
    target: str, out: Path | None, sources: Path | None, cache: Path | None, recipes: Path | None, as_json: bool
) -> None:
    """Build an image from this clone, without root: for a Raspberry Pi 3, 4 or Zero 2 W (rpi) or 5 (rpi5), or for a PC
    or gateway with UEFI (pc; with 64-bit ARM: arm64).

    Needs mmdebstrap, genimage, mtools, dosfstools, uidmap (and qemu-user-static for ARM on a PC). The first build
    fetches Debian's packages and keeps them; later ones are quick. SOURCE_DATE_EPOCH sets the time of all files.
    """
    import time

    from edgefl.image.build import build_image
    from edgefl.image.payload import default_cache
    from edgefl.image.recipe import load

    began = time.monotonic()
    made = build_image(
        load(_recipes(recipes), target),
        (out or Path(f"edgefl-{target}.img")).absolute(),
        extra_files(),
        sources=sources,
        cache=(cache or default_cache()).absolute(),
        say=lambda text: note(f"{time.monotonic() - began:6.1f} s  {text}"),
    )
    if as_json:
        emit_json({"files": [str(path) for path in made], "seconds": round(time.monotonic() - began, 1)})
    else:
        emit_pairs([(path.name, f"{path.stat().st_size:,} bytes") for path in made])


@image.command()
@click.argument("file", metavar="IMAGE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--token", "tokens", multiple=True, metavar="TEXT|file:PATH", help="Join token; several for --count.")
@click.option(
    "--fleet",
    type=click.Path(path_type=Path),
    help="Or the fleet's key (or its directory): a token for one device is made for each image; needs --bootstrap.",
)
@click.option("--bootstrap", multiple=True, metavar="HOST:PORT", help="Door of a device of the fleet.")
@click.option("--site", default="", metavar="NAME", help="Name of the place: devices of one site prefer each other.")
@click.option(
    "--data",
    multiple=True,
    metavar="NAME=SOURCE",
    help="Data to train on: a file beside edgefl.toml, or on the device.",
)
@click.option("--ssh-key", multiple=True, metavar="FILE", help="Public ssh key of who may log in as edgefl-admin.")
@click.option("--hostname", default="", metavar="NAME", help="Name of the device.  [default: from its serial number]")
@click.option("--updates", default="", metavar="URL", help="Where the device looks for updates of its system, daily.")
@click.option("--alone", is_flag=True, help="An update may stay although the device has found no other.")
@click.option("--count", default=1, type=click.IntRange(1, 999), help="Make so many copies, IMAGE-001 and so on.")
@json_option
@report_errors
def customize(
    file: Path,
    tokens: tuple[str, ...],
    fleet: Path | None,
    bootstrap: tuple[str, ...],
    site: str,
    data: tuple[str, ...],
    ssh_key: tuple[str, ...],
    hostname: str,
    updates: str,
    alone: bool,
    count: int,
    as_json: bool,
) -> None:
    """Write settings into IMAGE, in place: without root, without mounting anything. With --count, into copies of it."""
    from dataclasses import replace

    from edgefl.daemon.membership import read_token
    from edgefl.errors import UsageError
    from edgefl.firstboot.settings import CardSettings
    from edgefl.image.customize import write_copies, write_settings

    texts = [read_token(text).strip() for text in tokens]
    if not all(texts):
        raise UsageError("the token is empty", hint="write what edgefl fleet invite prints into that file")
    if fleet is not None:
        texts += _invite(fleet, bootstrap, site, count)
    if len(texts) not in (0, 1, count):
        raise UsageError(f"{len(texts)} tokens for {count} images", hint="give one for all, or one for each")
    sources = {}
    for item in data:
        name, equals, source = item.partition("=")
        if not name or not equals or not source:
            raise UsageError(f"{item!r} is not NAME=SOURCE", hint="for example --data digits=digits.npz")
        sources[name] = source
    daemon = {"site": site, "bootstrap": list(bootstrap), "data": sources}
    daemon = {key: value for key, value in daemon.items() if value}
    keys = tuple(Path(name).read_text().strip() for name in ssh_key)
    shared = CardSettings("", daemon, hostname, keys, updates=updates, alone=alone)
    settings = [replace(shared, token=text) for text in (texts * count)[:count] or [""] * count]
    if count == 1:
        write_settings(file, settings[0])
        made = [file]
    else:
        made = write_copies(file, settings)
    if as_json:
        emit_json({"images": [str(path) for path in made]})
    else:
        for path in made:
            click.echo(path)


def _invite(fleet: Path, bootstrap: tuple[str, ...], site: str, count: int) -> list[str]:
    """A token for one device, `count` times."""
    from edgefl.config import split_address
    from edgefl.errors import UsageError
    from edgefl.identity.fleet import FleetKey
    from edgefl.identity.token import Bootstrap

    if not bootstrap:
        raise UsageError("a token must name a device to knock at", hint="give --bootstrap HOST:PORT")
    doors = [Bootstrap(*split_address(text)) for text in bootstrap]
    key = FleetKey.load(fleet)
    return [key.invite(doors, site=site, uses=1).text for _ in range(count)]


@image.command()
@click.argument("file", metavar="IMAGE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--fleet", required=True, type=click.Path(path_type=Path), help="The fleet's key (or its directory).")
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="The update.  [default: IMAGE.update]"
)
@click.option("--serial", type=click.IntRange(1, 2**53), help="Devices take only a higher one.  [default: the time]")
@json_option
@report_errors
def bundle(file: Path, fleet: Path, out: Path | None, serial: int | None, as_json: bool) -> None:
    """The system in IMAGE as an update for the devices of a fleet that run an older image of the same target.

    Copy it into /data/incoming of a device (scp, as edgefl-admin), or put it where `updates` of their settings points.
    A device starts it on trial, and goes back to what it had unless the new system is healthy.
    """
    import time

    from edgefl.identity.fleet import FleetKey
    from edgefl.image.bundle import make_bundle

    made = out or file.with_suffix(".update")
    manifest = make_bundle(file, made.absolute(), FleetKey.load(fleet), serial or int(time.time()))
    if as_json:
        emit_json({"update": str(made), "serial": manifest.serial, "size_bytes": made.stat().st_size})
    else:
        emit_pairs([("update", made), ("serial", manifest.serial), ("bytes", f"{made.stat().st_size:,}")])


@image.command()
@click.argument("file", metavar="IMAGE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
@report_errors
def check(file: Path, as_json: bool) -> None:
    """Is IMAGE whole, and what is it set to? Exit code 1 if not."""
    from edgefl.image.check import check_image

    found, wrong = check_image(file)
    if as_json:
        emit_json({"found": found, "problems": [{"cause": cause, "hint": hint} for cause, hint in wrong]})
    else:
        for text in found:
            click.echo(text)
        for cause, hint in wrong:
            click.echo(f"problem: {cause}\n  next: {hint}")
    if wrong:
        raise SystemExit(1)


@image.command()
@click.argument("file", metavar="IMAGE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("device", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Do not ask.")
@report_errors
def flash(file: Path, device: Path, yes: bool) -> None:
    """Write IMAGE to the card DEVICE and read it back. Refuses what is not removable, is mounted or too small."""
    from edgefl.image.disk import partitions
    from edgefl.image.flash import examine, refuse, write_and_verify

    partitions(file)
    disk = examine(device)
    refuse(disk, file.stat().st_size)
    if not yes:
        click.confirm(f"Overwrite {device} ({disk.model or 'unknown'}, {disk.size >> 30} GB)?", abort=True)
    with click.progressbar(length=2 * file.stat().st_size, label=f"{device}: writing, reading back") as bar:
        at = 0

        def say(done: int, _: int) -> None:
            nonlocal at
            bar.update(done - at)
            at = done

        write_and_verify(file, device, say)
    click.echo(f"{device} holds the image; it can be taken out")


@image.command()
@click.argument("file", metavar="IMAGE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--target", type=click.Choice(["pc", "rpi", "arm64"]), help="What it is for.  [default: as it says]")
@click.option("--board", type=click.Choice(["raspi3b"]), help="Start it as QEMU's model of this board.")
@click.option(
    "--what",
    type=click.Choice(["train", "mistakes", "cuts", "updates", "idle", "boot"]),
    default="train",
    show_default=True,
    help="Join, train and survive a power cut; mistakes on the card; power cuts in first boot; ill and healthy "
    "updates; memory and writes when idle; what edgefl adds to a boot.",
)
@click.option("--cuts", default=12, show_default=True, type=click.IntRange(1), help="How many power cuts.")
@click.option("--seed", default=0, show_default=True, help="Draws the instants of the cuts.")
@click.option("--minutes", default=20.0, show_default=True, help="How long idle writes are counted.")
@click.option("--boots", default=3, show_default=True, type=click.IntRange(1), help="How many of each kind, for boot.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("image-test"), help="A new folder for logs."
)
@json_option
@report_errors
def test(
    file: Path,
    target: str | None,
    board: str | None,
    what: str,
    cuts: int,
    seed: int,
    minutes: float,
    boots: int,
    out: Path,
    as_json: bool,
) -> None:
    """Boot IMAGE in QEMU beside a fleet of this machine: it must join, train, and come back after a power cut.

    Takes some minutes (with --what cuts or updates: half an hour). The serial console and what was measured stay in
    the folder.
    """
    import time

    from edgefl.errors import UsageError
    from edgefl.image.boot_trial import run_boots
    from edgefl.image.bundle import target_of
    from edgefl.image.check import check_image
    from edgefl.image.cut_trial import run_cuts
    from edgefl.image.guest import Guest
    from edgefl.image.idle_trial import run_idle
    from edgefl.image.mistake_trial import run_mistakes
    from edgefl.image.trial import run_trial
    from edgefl.image.update_trial import run_updates

    if out.exists():
        raise UsageError(f"{out} exists already", hint="name a new folder with --out")
    _, wrong = check_image(file)
    if wrong:
        raise UsageError(wrong[0][0], hint=wrong[0][1])
    began = time.monotonic()
    guest = Guest(
        file.absolute(),
        target or target_of(file),
        out.absolute(),
        lambda text: note(f"{time.monotonic() - began:6.1f} s  {text}"),
        board or "",
    )
    trials = {
        "train": lambda: run_trial(guest),
        "mistakes": lambda: run_mistakes(guest),
        "cuts": lambda: run_cuts(guest, cuts, seed),
        "updates": lambda: run_updates(guest),
        "idle": lambda: run_idle(guest, minutes),
        "boot": lambda: run_boots(guest, boots),
    }
    measured = trials[what]()
    if as_json:
        emit_json({"passed": True, "console": str(guest.console), **measured})
    else:
        emit_pairs([*measured.items(), ("console", guest.console)])
