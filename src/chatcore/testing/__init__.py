"""A kit for tests: contract checks for every port, a clock, peers without a network, and faults.

What implements a port runs its check:

    def test_it_is_a_repository(tmp_path):
        check_repository(lambda: MyRepository(tmp_path))
"""

from chatcore.peer import MemoryLink
from chatcore.testing.clock import PATIENCE as PATIENCE  # of the tests here, and not promised
from chatcore.testing.clock import FakeClock, eventually
from chatcore.testing.contracts import LinkPeer, check_bus, check_link, check_repository
from chatcore.testing.faulty import (
    Call,
    Failure,
    FaultyRepository,
    Hold,
    LostOutcome,
    Pause,
    Refusal,
    RepositoryScript,
    failing,
    full,
)
from chatcore.testing.history import Log, Violation, check_history, read_logs
from chatcore.testing.peers import Transcript, connect
from chatcore.testing.proxy import (
    Cut,
    Delay,
    Fault,
    Proxy,
    ProxyScript,
    Stall,
    Throttle,
    in_turn,
    random_cuts,
    random_faults,
)
from chatcore.testing.record import Reading, Record, Recorded, Sent

__all__ = [
    "Call",
    "Cut",
    "Delay",
    "Failure",
    "FakeClock",
    "Fault",
    "FaultyRepository",
    "Hold",
    "LinkPeer",
    "Log",
    "LostOutcome",
    "MemoryLink",
    "Pause",
    "Proxy",
    "ProxyScript",
    "Reading",
    "Record",
    "Recorded",
    "Refusal",
    "RepositoryScript",
    "Sent",
    "Stall",
    "Throttle",
    "Transcript",
    "Violation",
    "check_bus",
    "check_history",
    "check_link",
    "check_repository",
    "connect",
    "eventually",
    "failing",
    "full",
    "in_turn",
    "random_cuts",
    "random_faults",
    "read_logs",
]
