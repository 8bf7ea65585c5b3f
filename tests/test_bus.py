"""The bus of a node that is alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from chatcore.bus import LocalBus
from chatcore.events import Durable, Message
from chatcore.testing import check_bus

BATCH = [Message("lobby", 1, "ada", datetime(2026, 1, 1, tzinfo=UTC), "hi")]


async def test_it_keeps_the_contract() -> None:
    await check_bus(LocalBus)


def test_a_batch_is_there_when_publish_returns_for_all_in_their_order() -> None:
    bus = LocalBus()
    seen: list[tuple[str, Sequence[Durable]]] = []
    bus.subscribe(lambda batch: seen.append(("hub", batch)))
    bus.subscribe(lambda batch: seen.append(("observer", batch)))
    bus.publish(BATCH)
    assert seen == [("hub", BATCH), ("observer", BATCH)]
    assert seen[0][1] is BATCH, "a batch stays the batch it was"


def test_without_a_listener_a_batch_is_gone() -> None:
    bus = LocalBus()
    seen: list[Sequence[Durable]] = []
    bus.publish(BATCH)
    bus.subscribe(seen.append)
    assert seen == []
