"""A real driver on a state directory of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.machine.image import ImageManifest
from tests.hypervisor.qemu.machines import bring, make_image


@pytest.fixture
def host(tmp_path: Path) -> Iterator[QemuHypervisor]:
    host = QemuHypervisor(tmp_path / "state", "tcg")
    yield host
    host.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


@pytest.fixture
def image(host: QemuHypervisor, source: Path) -> ImageManifest:
    image = make_image(source)
    assert bring(host, image, source).done
    return image
