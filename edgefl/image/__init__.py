"""From recipes and wheels to packages and card images, rootless and reproducible; and what a user does with an image.

recipe.py      what a target consists of (firmware-images/*.toml)
payload.py     pinned wheels unpacked into a virtual environment of the target, without running anything of it
package.py     the .deb around it
namespace.py   a user namespace of one's own, with its own binfmt_misc: no root, nothing global
base.py        the base layer: Debian's packages, cached by content
assembly.py    base + package + overlay -> file systems -> one disk image
bundle.py      the system in an image as one signed update for devices that have another
bill.py        checksum, bill of materials, Raspberry Pi Imager's manifest
disk.py        partitions and the settings slot inside an image: found and overwritten without FAT code
customize.py   settings into an image, or into many
check.py       is this image whole?
flash.py       onto a card: only onto what is removable, and read back
machine.py     QEMU: boot an image, reset it, keep its serial console
guest.py       an emulated device beside a fleet of this machine, with its card and its ssh
trial.py       the proof: an image joins the fleet, trains, loses its power, is back
mistake_trial.py, cut_trial.py, update_trial.py, idle_trial.py, boot_trial.py
               mistakes on the card; power cuts in first boot; updates that are ill; memory and writes of an idle
               device; what edgefl adds to a boot
"""
