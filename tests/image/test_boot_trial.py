"""What the trial of boot times reads out of a guest: nothing here starts one."""

from __future__ import annotations

import pytest

from edgefl.image.boot_trial import MASKED, cpu_of, joined_at, up_at, with_words
from edgefl.image.guest import TrialError
from edgefl.update.bootloader import entry
from edgefl.update.slots import Running


def test_words_are_added_to_the_command_line_and_taken_away_again() -> None:
    text = entry(Running("a", 0, "pc"), "root=PARTUUID=x edgefl.slot=a ro quiet")
    masked = with_words(text, "".join(f" systemd.mask={unit}" for unit in MASKED))
    assert masked.splitlines()[-1].startswith(
        "options root=PARTUUID=x edgefl.slot=a ro quiet systemd.mask=edgefl.service"
    )
    assert masked.splitlines()[:-1] == text.splitlines()[:-1]
    assert with_words(masked, "") == text
    assert with_words("ro quiet\r\n", " systemd.mask=x") == "ro quiet systemd.mask=x\n"


def test_every_unit_that_starts_at_boot_is_masked() -> None:
    from edgefl.image.assembly import UNITS

    of_the_image = {"growdata.service", "zram.service", "update.timer"}  # the timer waits for twenty minutes
    assert {"edgefl.service", *(f"edgefl-{unit}" for unit in UNITS if unit not in of_the_image)} == set(MASKED)


def test_the_time_stands_beside_the_words() -> None:
    console = (
        "[   12.5] python[200]: device 0123456789abcdef listens\r\n[   31.004321] python[200]: joined the fleet\r\n"
    )
    assert joined_at(console) == 31.004321
    with pytest.raises(TrialError):
        joined_at("joined the fleet\n")


def test_up_is_the_later_of_services_and_network() -> None:
    # As a guest said it.
    real = "ActiveEnterTimestampMonotonic=71195227\ninactive\n75.80\n1795753649.813549961\n1795753629.947997709\n"
    assert up_at(real) == 71.195227
    told = "ActiveEnterTimestampMonotonic=9500000\ninactive\n20.00\n1000.50\n{}\n"
    assert up_at(told.format("988.5")) == 9.5  # an address after 8 s
    assert up_at(told.format("993.0")) == 12.5
    for wrong in ("500.0", "1100.0"):
        with pytest.raises(TrialError, match="clock was set"):
            up_at(told.format(wrong))
    with pytest.raises(TrialError, match="no boot without edgefl"):
        up_at(told.replace("inactive", "active").format("988.5"))
    with pytest.raises(TrialError):
        up_at("ActiveEnterTimestampMonotonic=9500000\ninactive\n20.00\n1000.50\n")


def test_processor_time_of_units_that_ran() -> None:
    values = ("2500000000", "500000000", "18446744073709551615", "[not set]")
    assert cpu_of("\n\n".join(f"CPUUsageNSec={value}" for value in values) + "\n") == 3.0
