"""The wall clock jumps by a day in all of Paddock's processes while things are under way."""

import pytest

from paddock.base import clock
from tests.guests.stack import Stack, until

pytestmark = [pytest.mark.guest, pytest.mark.slow]

DAY = 24 * 3600


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_create_and_shutdown_end_as_asked(cloud: Stack, jump: int) -> None:
    """The clock jumps in the create, and jumps back while the guest shuts down."""
    try:
        server, action = cloud.create("timeless")
        cloud.clock.write_text(f"{jump}\n")
        cloud.done(action)
        shown = cloud.ready(server)
        assert 0 < shown["x_ready"]["after_seconds"] < 90
        asked = cloud.power(server, "shutdown")
        until(lambda: cloud.action(asked)["x_waiting_for"], 10, "the shutdown to wait for the guest")
        cloud.clock.write_text("0\n")
        cloud.done(asked)
        assert cloud.server(server)["status"] == "off"
        assert clock.now()
    finally:
        cloud.clock.unlink(missing_ok=True)
