"""A kit for tests: contract checks for every port, a clock, and peers without a network.

What implements a port runs its check:

    def test_it_is_a_repository(tmp_path):
        check_repository(lambda: MyRepository(tmp_path))
"""

from chatcore.peer import MemoryLink
from chatcore.testing.clock import PATIENCE as PATIENCE  # of the tests here, and not promised
from chatcore.testing.clock import FakeClock, eventually
from chatcore.testing.contracts import LinkPeer, check_bus, check_link, check_repository
from chatcore.testing.peers import Transcript, connect

__all__ = [
    "FakeClock",
    "LinkPeer",
    "MemoryLink",
    "Transcript",
    "check_bus",
    "check_link",
    "check_repository",
    "connect",
    "eventually",
]
