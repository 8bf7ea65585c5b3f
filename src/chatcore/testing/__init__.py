"""A kit for tests: contract checks for every port, a clock, peers without a network, and faults.

What implements a port runs its check:

    def test_it_is_a_repository(tmp_path):
        check_repository(lambda: MyRepository(tmp_path))
"""

from chatcore.peer import MemoryLink
from chatcore.testing.clock import PATIENCE as PATIENCE  # of the tests here, and not promised
from chatcore.testing.clock import FakeClock, eventually
from chatcore.testing.contracts import LinkPeer, check_bus, check_link, check_repository
from chatcore.testing.peers import Transcript, connect
from chatcore.testing.proxy import (
    Cut,
    Delay,
    Fault,
    Proxy,
    Stall,
    Throttle,
    in_turn,
    random_cuts,
    random_faults,
)

__all__ = [
    "Cut",
    "Delay",
    "FakeClock",
    "Fault",
    "LinkPeer",
    "MemoryLink",
    "Proxy",
    "Stall",
    "Throttle",
    "Transcript",
    "check_bus",
    "check_link",
    "check_repository",
    "connect",
    "eventually",
    "in_turn",
    "random_cuts",
    "random_faults",
]
