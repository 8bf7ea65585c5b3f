"""Frames wait in order, within bounds, and none is lost or served too late."""

from __future__ import annotations

import asyncio

import pytest

from chat_transports.inbox import FULL, FULL_BYTES, Inbox
from chatcore.errors import LinkClosed


class Transport:
    """Counts how often it was told to go on."""

    resumed = 0

    def __call__(self) -> None:
        self.resumed += 1


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def inbox(transport: Transport) -> Inbox:
    return Inbox(transport)


async def test_frames_come_out_as_they_went_in(inbox: Inbox, transport: Transport) -> None:
    frames = [b"%d" % number for number in range(FULL - 1)]
    assert [True] * len(frames) == [inbox.put(frame) for frame in frames]
    assert frames == [await inbox.get() for _ in frames]
    assert transport.resumed == 0, "it was never asked to pause"


async def test_who_waits_gets_the_next_frame(inbox: Inbox) -> None:
    waiting = asyncio.ensure_future(inbox.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    inbox.put(b"late")
    assert await waiting == b"late"


async def test_a_full_one_pauses_and_resumes_once_when_it_is_empty(
    inbox: Inbox, transport: Transport
) -> None:
    frames = [b"%d" % number for number in range(FULL + 3)]
    asked = [inbox.put(frame) for frame in frames]
    assert asked == [True] * (FULL - 1) + [False] * 4, "and still it takes what comes"
    assert frames[:-1] == [await inbox.get() for _ in frames[:-1]]
    assert not inbox.put(b"more"), "a pause lasts until all is taken"
    assert transport.resumed == 0
    assert [frames[-1], b"more"] == [await inbox.get(), await inbox.get()]
    assert transport.resumed == 1
    assert inbox.put(b"again")
    await inbox.get()
    assert transport.resumed == 1


async def test_it_can_be_full_again(inbox: Inbox, transport: Transport) -> None:
    for times in (1, 2, 3):
        assert [inbox.put(b"x") for _ in range(FULL)][-1] is False
        for _ in range(FULL):
            await inbox.get()
        assert times == transport.resumed


async def test_after_the_end_what_is_here_may_still_be_asked_for(inbox: Inbox) -> None:
    inbox.put(b"1")
    inbox.put(b"2")
    inbox.finish()
    assert [await inbox.get(), await inbox.get()] == [b"1", b"2"]
    for _ in range(2):
        with pytest.raises(LinkClosed):
            await inbox.get()


async def test_closed_nothing_is_served_any_more(inbox: Inbox) -> None:
    inbox.put(b"1")
    inbox.close()
    with pytest.raises(LinkClosed):
        await inbox.get()
    inbox.finish()
    with pytest.raises(LinkClosed):
        await inbox.get()


async def test_what_comes_after_close_is_dropped(inbox: Inbox) -> None:
    """A peer whose bytes were on their way must not be obeyed after its `bye`."""
    inbox.close()
    inbox.put(b"too late")
    with pytest.raises(LinkClosed):
        await inbox.get()


@pytest.mark.parametrize("end", ["finish", "close"])
async def test_who_waits_learns_of_the_end(inbox: Inbox, end: str) -> None:
    waiting = asyncio.ensure_future(inbox.get())
    await asyncio.sleep(0)
    getattr(inbox, end)()
    with pytest.raises(LinkClosed):
        await waiting


@pytest.mark.parametrize("before", [True, False])
async def test_cancelling_loses_nothing(inbox: Inbox, before: bool) -> None:
    """Whether the frame comes just before the cancelling or just after."""
    waiting = asyncio.ensure_future(inbox.get())
    await asyncio.sleep(0)
    if before:
        inbox.put(b"kept")
    waiting.cancel()
    await asyncio.wait([waiting])
    if not before:
        inbox.put(b"kept")
    assert await inbox.get() == b"kept"


async def test_it_is_full_of_few_long_frames_too(inbox: Inbox, transport: Transport) -> None:
    half = b"x" * (FULL_BYTES // 2)
    for _ in range(2):  # and counts anew once it was emptied
        assert [inbox.put(half), inbox.put(half)] == [True, False]
        assert [half, half] == [await inbox.get(), await inbox.get()]
    assert transport.resumed == 2
