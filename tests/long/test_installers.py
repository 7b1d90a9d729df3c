"""Debian by real installers, from a CD to a template to a server made of it: what a person does once by hand."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.stack import Stack
from tests.long import debian_cd, fai_cd, mirror, template

pytestmark = [pytest.mark.long, pytest.mark.timeout(5 * 3600), pytest.mark.images("rescue")]

# What they say of themselves on the serial console, in this order.
DEBIAN_STEPS = (
    "Detecting network hardware", "Loading additional components", "Installing the base system",
    "Select and install software", "Installing GRUB boot loader", "Finishing the installation",
)  # fmt: skip
FAI_STEPS = (
    "Calling task_partition", "Calling task_extrbase", "Calling task_instsoft", "Calling task_configure",
    "Calling task_finish", "Calling task_faiend",
)  # fmt: skip
# Components that an installation by Debian's installer can't do without, for mirrors that leave some out.
UDEBS = ("partman-target", "partman-basicfilesystems", "user-setup-udeb", "grub-installer", "finish-install")


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[mirror.Mirror]:
    """A mirror of Debian for the guests."""
    upstream = mirror.source(tmp_path / "apt")
    assert upstream, f"apt has no source of Debian {mirror.SUITE} on this host, so there is nothing to install from"
    with tempfile.TemporaryDirectory(prefix="pk-mirror-") as place, mirror.serving(upstream, Path(place)) as served:
        yield served


@pytest.fixture
def place() -> Iterator[Path]:
    """Room for gigabytes, which pytest would keep."""
    with tempfile.TemporaryDirectory(prefix="pk-long-") as made:
        yield Path(made)


@pytest.fixture
def whole_debian(debian: mirror.Mirror) -> mirror.Mirror:
    """A mirror that has Debian's installer too."""
    if lacks := debian.lacks(UDEBS):
        pytest.skip(f"this host's mirror of Debian lists parts of the installer that it has not: {', '.join(lacks)}")
    return debian


@pytest.fixture
def fai() -> None:
    """What makes a CD with FAI is there."""
    if lacks := fai_cd.missing():
        pytest.skip(f"making a CD with FAI needs {', '.join(lacks)}")


def test_debians_own_installer(
    whole_debian: mirror.Mirror, cloud: Stack, place: Path, record_property: template.Note
) -> None:
    key = Path(f"{cloud.key}.pub").read_text().strip()
    cd = debian_cd.write(place / "cd.iso", debian_cd.Answers("template", mirror.SUITE, whole_debian.port, key))
    server = template.installed(cloud, place, cd, DEBIAN_STEPS, record_property)
    assert any("/linux-image-" in path for path in whole_debian.fetched), "no kernel was installed"
    template.is_good(cloud, place, server)
    template.makes_others(cloud, place, server)


def test_fully_automatic_installation(
    fai: None, debian: mirror.Mirror, cloud: Stack, place: Path, record_property: template.Note
) -> None:
    key = Path(f"{cloud.key}.pub").read_text().strip()
    cd = fai_cd.write(place / "cd.iso", place / "fai", fai_cd.Wanted(mirror.SUITE, debian.port, key))
    server = template.installed(cloud, place, cd, FAI_STEPS, record_property)
    template.is_good(cloud, place, server)
    template.makes_others(cloud, place, server)
