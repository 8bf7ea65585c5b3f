"""Contract checks: what any implementation of a port must do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Protocol, cast

import orjson
from attrs import evolve

from chatcore.errors import (
    ChatError,
    Conflict,
    Forbidden,
    LinkClosed,
    NotFound,
    NotMember,
    RateLimited,
    TxnConflict,
)
from chatcore.events import Delete, Duplicate, Durable, Edit, Member, Message, Stored
from chatcore.model import MAX_FRAME, TOMBSTONE, Account, Closing, Draft, Limits, Room, User
from chatcore.ports import Bus, Link, Repository, StraightLink
from chatcore.testing.clock import PATIENCE, eventually
from chatcore.testing.drafts import (
    LOBBY,
    NOW,
    SECRET,
    all_stored,
    delete,
    edit,
    member,
    say,
    types_of,
)
from chatcore.testing.messages import MESSAGES
from chatcore.testing.moderation import MODERATION
from chatcore.testing.retention import RETENTION
from chatcore.testing.searching import SEARCHING


class LinkPeer(Protocol):
    """The other side of a link that is being checked."""

    async def send(self, frame: bytes) -> None:
        """Send one frame."""

    async def receive(self) -> bytes:
        """Return the next frame.  Raises LinkClosed when there are no more."""

    async def close(self) -> None:
        """Be gone."""


async def check_link(
    connected: Callable[[], AbstractAsyncContextManager[tuple[Link, LinkPeer]]],
    *,
    is_straight: bool = True,
) -> None:
    """Check that a Link does what ports.Link promises; `connected` makes a pair, open.

    A StraightLink has a straight way once it has written something, or none at all where
    it is said that it is not `is_straight` there.
    """
    event = Message("lobby", 1, "ada", datetime(2026, 1, 1, tzinfo=UTC), "x" * 1000)

    async with connected() as (link, peer), asyncio.timeout(PATIENCE):
        # Frames arrive whole and in order, in both directions.
        sent = [b'{"n":%d}' % n for n in range(100)] + [b'"' + b"x" * 60_000 + b'"']
        for frame in sent:
            await peer.send(frame)
        assert sent == [await link.receive() for _ in sent]
        frames = [link.wire.encode(event) for _ in range(3)]
        link.write(frames[0])
        link.write(frames[1] + frames[2])
        told = [await peer.receive() for _ in frames]
        assert b"x" * 1000 in told[0]
        expected = orjson.loads(told[0])  # a wire may have framed it
        assert [expected] * 3 == [orjson.loads(frame) for frame in told]

        # Cancelling receive loses nothing.
        receiving = asyncio.ensure_future(link.receive())
        await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
        await peer.send(b'"after"')
        assert await link.receive() == b'"after"'

        # A frame that is too long comes cut, or ends the link; memory is bounded.
        await peer.send(b'"' + b"y" * (MAX_FRAME - 2) + b'"')
        assert len(await link.receive()) == MAX_FRAME

        # What was written before close arrives; after it, writing does nothing.
        link.write(frames[0])
        link.close(4001, "shutdown")
        link.close(4505, "again")
        link.write(frames[1])
        with contextlib.suppress(LinkClosed):
            while True:
                await link.receive()
        assert orjson.loads(await peer.receive()) == expected
        try:
            extra = await peer.receive()
        except LinkClosed:
            pass
        else:
            raise AssertionError(f"a frame after close: {extra!r}")
        await link.closed()
        await link.drained()
        assert link.pending == 0

    async with connected() as (link, peer), asyncio.timeout(PATIENCE):
        # A peer that stops reading makes `pending` grow, and write still returns at once.
        batch = link.wire.encode(event) * 60
        while link.pending < 4 * MAX_FRAME:
            link.write(batch)
        drained = asyncio.ensure_future(link.drained())
        await asyncio.sleep(0)
        assert not drained.done()
        # As it reads, the link drains.
        while not drained.done():
            await peer.receive()
            await asyncio.sleep(0)
        assert link.pending < MAX_FRAME

    async with connected() as (link, peer), asyncio.timeout(PATIENCE):
        if isinstance(link, StraightLink):
            await _check_straight(link, peer, is_straight)

    async with connected() as (link, peer), asyncio.timeout(PATIENCE):
        # A peer that is gone raises LinkClosed, in everyone who waits.
        await peer.close()
        with contextlib.suppress(LinkClosed):
            while True:
                await link.receive()
        link.write(link.wire.encode(event))
        await link.drained()
        link.close(4001, "shutdown")
        await link.closed()


async def _check_straight(link: StraightLink, peer: LinkPeer, is_straight: bool) -> None:
    """Check that the straight way is there while little waits, and that each change is told."""
    frame = link.wire.encode(Message("lobby", 1, "ada", datetime(2026, 1, 1, tzinfo=UTC), "x"))
    link.write(frame)
    await peer.receive()
    transport = link.straight
    if not is_straight:
        assert transport is None
        return
    assert transport is not None
    told = [True]
    link.watch(lambda: told.append(link.straight is not None))
    transport.write(frame)
    link.write(frame)
    assert await peer.receive() == await peer.receive()
    while told[-1]:
        transport.write(frame * 60)
    draining = asyncio.ensure_future(link.drained())
    while not draining.done():
        await peer.receive()
        await asyncio.sleep(0)
    assert link.straight is transport
    link.close(4001, "shutdown")
    assert told == [True, False, True, False], "and at once"
    link.watch(None)


async def check_bus(make: Callable[[], Bus]) -> None:
    """Check that a Bus delivers what was published, to all, in this node's order."""
    bus = make()
    seen: tuple[list[Durable], list[Durable]] = ([], [])
    for events in seen:
        bus.subscribe(events.extend)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    published: list[Durable] = [
        Member("lobby", 1, "ada", now, "ada", "join", "member"),
        *(Message("lobby", seq, "ada", now, f"text {seq}\n☃ \U0001f600") for seq in range(2, 50)),
    ]
    bus.publish(published[:1])
    bus.publish(published[1:20])
    bus.publish(published[20:])
    await eventually(lambda: all(len(events) >= len(published) for events in seen))
    for events in seen:
        assert events == published


def check_repository(make: Callable[[], Repository]) -> None:
    """Check that a Repository does what ports.Repository promises; `make` gives an empty one."""
    for check in (
        _accounts,
        _tokens,
        _disabled,
        _what_somebody_said,
        _an_accounts_end,
        _log_order,
        _retries,
        _membership_rules,
        _pages,
        _edits,
        _deletions,
        _deletions_within_a_batch,
        _rooms_and_members,
        *MESSAGES,
        *MODERATION,
        *SEARCHING,
        *RETENTION,
        _outcomes_can_be_looked_up,
    ):
        repository = make()
        repository.claim()
        repository.open()
        try:
            for name in ("ada", "bob", "cyd"):
                assert repository.add_user(User(name, name.title()), f"hash of {name}")
            assert repository.add_room(LOBBY)
            check(repository)
        finally:
            repository.close()
            repository.close()


def _accounts(repository: Repository) -> None:
    ada = Account(user=User("ada", "Ada"), password_hash="hash of ada")
    assert repository.user("ada") == ada
    assert repository.user("nobody") is None
    assert not repository.add_user(User("ada", "Ada again"), "x"), "a name is taken once"
    assert not repository.add_user(User("\u0430da", "Look-alike"), "x"), "or what looks like it"
    host = Account(user=User("host", "A host's"), password_hash=None)
    assert repository.add_user(host.user, None)
    assert repository.user("host") == host
    repository.set_password("host", "first")
    repository.set_password("host", "another")
    repository.set_password("nobody", "of no use")
    assert repository.user("host") == evolve(host, password_hash="another")
    assert repository.user("nobody") is None

    robot = User("robot", "R2", bot=True)
    assert repository.add_user(robot, None)
    assert repository.user("robot") == Account(user=robot, password_hash=None)
    assert repository.set_profile(User("robot", "C3 \u2603"))
    assert repository.set_profile(User("host", "A host's", bot=True))
    assert not repository.set_profile(User("nobody", "of no use"))
    assert repository.user("robot") == Account(user=User("robot", "C3 \u2603"), password_hash=None)
    repository.append([member("host", "join"), member("robot", "join")])
    listed = [(m.display_name, m.bot) for m in repository.members("lobby", "", 9)]
    assert listed == [("A host's", True), ("C3 \u2603", False)]
    assert [a.user.username for a in repository.users("", 9)] == [
        *("ada", "bob", "cyd", "host", "robot")
    ]
    assert repository.users("ada", 1) == [repository.user("bob")]


def _tokens(repository: Repository) -> None:
    later = NOW + timedelta(days=1)
    repository.add_token(b"1" * 32, "ada", later, NOW)
    repository.add_token(b"2" * 32, "ada", later, NOW)
    repository.add_token(b"3" * 32, "bob", later, NOW)
    assert repository.token(b"1" * 32, NOW) == (User("ada", "Ada"), later)
    assert repository.token(b"1" * 32, later) is None, "expired"
    assert repository.token(b"0" * 32, NOW) is None
    much_later = later + timedelta(days=1)
    repository.add_token(b"4" * 32, "bob", much_later, NOW)
    repository.add_token(b"5" * 32, "bob", much_later, later)
    known = [repository.token(digest * 32, NOW) is not None for digest in (b"1", b"3", b"4", b"5")]
    assert known == [True, False, True, True], "a new one has the user's expired ones forgotten"
    repository.remove_token(b"1" * 32)
    assert repository.token(b"1" * 32, NOW) is None
    repository.remove_tokens("ada")
    assert repository.token(b"2" * 32, NOW) is None
    assert repository.token(b"4" * 32, NOW) is not None

    assert repository.tokens("bob") == [much_later, much_later]
    repository.set_password("bob", "new", keep=b"4" * 32)
    assert len(repository.tokens("bob")) == 2, "only where it is asked for"
    repository.set_password("bob", "new", revoke=True, keep=b"4" * 32)
    assert repository.token(b"4" * 32, NOW) is not None
    assert repository.token(b"5" * 32, NOW) is None
    repository.set_password("bob", "newer", revoke=True)
    assert repository.tokens("bob") == []
    assert not repository.add_token(b"6" * 32, "nobody", later, NOW)
    repository.add_token(b"6" * 32, "ada", later, NOW)
    repository.add_token(b"7" * 32, "ada", later, NOW)
    found = repository.logins(["ada", "bob", "nobody"])
    assert {name: {*digests} for name, digests in found.items()} == {
        "ada": {b"6" * 32, b"7" * 32},
        "bob": set(),
    }


def _disabled(repository: Repository) -> None:
    later = NOW + timedelta(days=1)
    repository.append([member("ada", "join"), say("ada", "2", txn_id="t")])
    repository.add_token(b"1" * 32, "ada", later, NOW)
    assert repository.disable("ada")
    assert not repository.disable("ada")
    assert not repository.disable("nobody")
    ada = repository.user("ada")
    assert ada is not None
    assert (ada.status, ada.password_hash, ada.user) == (
        *("disabled", "hash of ada"),
        User("ada", "Ada"),
    )
    assert repository.token(b"1" * 32, NOW) is None
    assert not repository.add_token(b"2" * 32, "ada", later, NOW)
    assert repository.logins(["ada", "bob"]).keys() == {"bob"}
    haunted = Room("haunted")
    outcomes = repository.append(
        [
            say("ada", "3"),
            say("ada", "2", txn_id="t"),
            member("ada", "join", haunted, creates=True, role="owner"),
            member("ada", "leave", as_host=True),
        ]
    )
    assert types_of(outcomes) == [Forbidden, Duplicate, Forbidden, Stored]
    assert repository.room("haunted") is None
    assert repository.enable("ada")
    assert not repository.enable("ada")
    assert not repository.enable("nobody")
    assert types_of(repository.append([member("ada", "join"), say("ada", "5")])) == [Stored] * 2


def _what_somebody_said(repository: Repository) -> None:
    repository.append(
        [
            member("ada", "join"),
            member("bob", "join"),
            member("ada", "join", SECRET, creates=True, role="owner"),
            *(say("bob", f"b{n}") for n in range(5)),
            say("ada", "lobby 8"),
            say("ada", "secret 2", SECRET),
            edit("ada", 8, "lobby 8, edited"),
            delete("ada", 3, reason="rude", as_host=True),
            delete("ada", 8, reason="wrong"),
            say("ada", "lobby 12"),
            delete("bob", 12, reason="dull", as_host=True),
            delete("bob", 4, reason="his own affair"),
        ]
    )
    found: list[Durable] = []
    after: int | None = 0
    while after is not None:
        some, after = repository.said("ada", after, 2)
        assert len(some) <= 2
        found += some
    assert [(e.room, e.seq) for e in found] == [
        *(("lobby", 1), ("secret", 1), ("lobby", 8), ("secret", 2)),
        *(("lobby", seq) for seq in (9, 10, 11, 12, 13)),
    ], "in the order in which they were stored, and who deleted what they said"
    assert found[2] == Message("lobby", 8, "ada", NOW, "", erased=True)
    assert repository.said("nobody", 0, 9) == ([], None)

    deletions = [event for event in found if isinstance(event, Delete)]
    assert [event.reason for event in deletions] == ["rude", "wrong", "dull"]
    repository.redact(deletions[1:])
    again = [event for event in repository.read("lobby", 9, 99, 9) if isinstance(event, Delete)]
    assert [event.reason for event in again] == ["rude", None, None, "his own affair"]
    assert again[1] == evolve(deletions[1], reason=None)


def _an_accounts_end(repository: Repository) -> None:
    later = NOW + timedelta(days=1)
    drafts = [member("ada", "join"), member("bob", "join"), say("ada", "3", txn_id="t3")]
    drafts += [say("ada", f"{n}", txn_id=f"t{n}") for n in range(4, 7)]
    repository.append([*drafts, say("bob", "7", txn_id="t3"), member("ada", "leave")])
    repository.add_token(b"1" * 32, "ada", later, NOW)
    assert repository.closing_accounts() == []
    gone = Account(user=User("ada", TOMBSTONE), password_hash=None, status="deleted")

    assert repository.close_account("nobody", "keep") is None
    for asked, noted in (("keep", "keep"), ("forget", "forget"), ("erase", "forget")):
        assert repository.close_account("ada", cast(Closing, asked)) == evolve(
            gone, closing=cast(Closing, noted)
        )
    assert repository.closing_accounts() == [repository.user("ada")]
    assert repository.token(b"1" * 32, NOW) is None
    assert not repository.add_token(b"2" * 32, "ada", later, NOW)
    assert not repository.enable("ada")
    assert not repository.disable("ada")
    repository.set_password("ada", "back again")
    assert not repository.set_profile(User("ada", "Ada"))
    assert not repository.add_user(User("ada", "Another"), "x"), "the name stays taken"

    outcomes = repository.append(
        [
            member("ada", "join"),
            delete("ada", 3),
            delete("ada", 3, as_host=True),
            delete("ada", 3, as_host=True),
            delete("ada", 2, as_host=True),
            member("ada", "leave", as_host=True),
        ]
    )
    assert types_of(outcomes) == [Forbidden, Forbidden, Stored, Duplicate, NotFound, NotMember], (
        "where they are no member any more, too"
    )
    assert repository.read("lobby", 2, 3, 9) == [Message("lobby", 3, "ada", NOW, "", erased=True)]
    assert [repository.forget_txns("ada", 3) for _ in range(2)] == [True, False]
    retries = [say("ada", "4", txn_id="t4"), say("bob", "7", txn_id="t3")]
    assert types_of(repository.append(retries)) == [Forbidden, Duplicate]

    repository.account_closed("ada", "erase")
    assert repository.closing_accounts() == [repository.user("ada")], "more was asked for meanwhile"
    repository.account_closed("ada", "forget")
    assert repository.closing_accounts() == []
    assert repository.user("ada") == gone


def _log_order(repository: Repository) -> None:
    assert repository.append([]) == []
    assert repository.head("lobby", 10) == (1, 0, [])
    texts = ["hello", 'tab\tnewline\n"quotes" \\ back', "☃ \U0001f600 é", "x" * 4000]
    events = all_stored(
        repository.append([member("ada", "join"), *(say("ada", text) for text in texts)])
    )
    assert [event.seq for event in events] == [1, 2, 3, 4, 5]
    assert events[0] == Member("lobby", 1, "ada", NOW, "ada", "join", "member")
    assert events[1:] == [Message("lobby", n + 2, "ada", NOW, t) for n, t in enumerate(texts)]
    assert events == list(repository.read("lobby", 0, 99, 99)), "what was told is what is kept"
    assert repository.head("lobby", 2) == (1, 5, events[3:])

    # One refused draft fails alone and takes no seq; rooms count apart.
    outcomes = repository.append(
        [
            say("ada", "six"),
            say("bob", "not a member"),
            say("ada", "refused", refusal=RateLimited("slow down")),
            say("nobody", "no such user"),
            say("ada", "no such room", Room("nowhere")),
            member("ada", "join", SECRET, creates=True, role="owner"),
            say("ada", "one", SECRET),
            say("ada", "seven"),
        ]
    )
    assert types_of(outcomes) == [
        Stored,
        NotMember,
        RateLimited,
        NotFound,
        NotFound,
        Stored,
        Stored,
        Stored,
    ]
    assert [event.seq for event in repository.read("lobby", 5, 99, 99)] == [6, 7]
    assert [event.seq for event in repository.read("secret", 0, 99, 99)] == [1, 2]


def _retries(repository: Repository) -> None:
    repository.append([member("ada", "join"), member("bob", "join")])
    first, again = repository.append(
        [say("ada", "once", txn_id="t1"), say("ada", "once", txn_id="t1")]
    )
    assert isinstance(first, Stored)
    assert again == Duplicate(first.event.seq, NOW), "in one batch"
    repository.append([member("ada", "leave")])
    outcomes = repository.append(
        [
            say("ada", "once", txn_id="t1", refusal=RateLimited("slow down")),
            say("ada", "other", txn_id="t1"),
            say("bob", "once", txn_id="t1"),
        ]
    )
    assert outcomes[0] == again, "before roles and rates, and in another batch"
    assert isinstance(outcomes[1], TxnConflict)
    assert isinstance(outcomes[2], Stored), "another user's is another"
    refused = repository.append(
        [say("bob", "later", txn_id="t2", refusal=RateLimited("slow down"))]
    )
    assert types_of(refused) == [RateLimited]
    assert types_of(repository.append([say("bob", "later", txn_id="t2")])) == [Stored]


def _membership_rules(repository: Repository) -> None:
    create = member("ada", "join", SECRET, creates=True, role="owner")
    twin = Room("secret", epoch="e3")
    look_alike = Room("\u0455ecret", epoch="e4")
    outcomes = repository.append(
        [
            create,
            member("bob", "join", twin, creates=True, role="owner"),
            member("bob", "join", look_alike, creates=True, role="owner"),
            member("bob", "join", SECRET),
            say("bob", "let me in", SECRET),
            member("bob", "join"),
            member("bob", "join"),
            say("bob", "hello"),
            member("bob", "leave"),
            say("bob", "still here?"),
            member("bob", "leave"),
            member("bob", "join"),
        ]
    )
    assert types_of(outcomes) == [
        Stored,
        Conflict,
        Conflict,
        NotFound,
        NotFound,
        Stored,
        Conflict,
        Stored,
        Stored,
        NotMember,
        NotMember,
        Stored,
    ]
    assert repository.room("secret") == SECRET
    assert getattr(repository.room("secret"), "epoch", None) == "e2"
    assert repository.room("\u0455ecret") is None
    assert not repository.add_room(twin)

    ada = repository.membership("secret", "ada")
    assert ada is not None
    assert (ada.room, ada.role, ada.epoch, ada.head) == (SECRET, "owner", "e2", 1)
    bob = repository.membership("lobby", "bob")
    assert bob is not None
    assert (bob.head, bob.read, bob.unread) == (4, 4, 0), "who joins has read what was before"
    owner = member("cyd", "join", role="owner")
    repository.append([owner, say("cyd", "1"), say("cyd", "2")])
    bob, cyd = repository.membership("lobby", "bob"), repository.membership("lobby", "cyd")
    assert bob is not None
    assert cyd is not None
    assert (bob.head, bob.read, bob.unread) == (7, 4, 2), "messages count, other events do not"
    assert (cyd.read, cyd.unread) == (7, 0), "who sends has read"
    before = repository.membership("lobby", "bob", 6)
    assert before is not None
    assert (before.head, before.unread) == (6, 1), "as of a seq"
    repository.append([say("bob", "3")])
    assert [membership.unread for membership in repository.memberships("bob")] == [0]
    promoted = {"username": "bob", "action": "role", "role": "moderator"}
    role = Draft(room=LOBBY, sender="cyd", kind="member", body=promoted, timestamp=NOW)
    repository.append([say("cyd", "4"), role])
    bob = repository.membership("lobby", "bob")
    assert bob is not None
    assert (bob.role, bob.read, bob.unread) == ("moderator", 8, 1), "a role reads nothing"
    assert repository.membership("secret", "bob") is None
    assert repository.membership("nowhere", "bob") is None

    ghost = member("ghost", "join", Room("haunted"), creates=True, role="owner")
    assert types_of(repository.append([say("ada", "x", SECRET), ghost])) == [Stored, NotFound]
    assert repository.room("haunted") is None, "nobody's room is not left behind"


def _pages(repository: Repository) -> None:
    drafts = [member("ada", "join"), member("bob", "join")]
    drafts += [say("ada", f"m{n}") for n in range(3, 8)]
    drafts += [member("bob", "leave"), say("ada", "m9"), say("ada", "m10")]
    repository.append(drafts)

    def seqs(events: Sequence[Durable]) -> list[int]:
        return [event.seq for event in events]

    assert seqs(repository.read("lobby", 0, 10, 4)) == [1, 2, 3, 4]
    assert seqs(repository.read("lobby", 4, 6, 99)) == [5, 6]
    assert seqs(repository.read("lobby", 10, 99, 99)) == []

    def messages(after: int, before: int, limit: int, *, newest: bool) -> list[int]:
        return seqs(repository.messages("lobby", after, before, limit, newest=newest, upto=99))

    assert messages(0, 99, 3, newest=True) == [7, 9, 10]
    assert messages(0, 9, 3, newest=True) == [5, 6, 7]
    assert messages(6, 99, 2, newest=False) == [7, 9]
    assert messages(0, 3, 9, newest=False) == []
    assert messages(0, 99, 0, newest=True) == []
    assert seqs(repository.head("lobby", 3)[2]) == [8, 9, 10]


def _edits(repository: Repository) -> None:
    later = NOW + timedelta(minutes=1)
    repository.append(
        [
            member("ada", "join"),
            member("bob", "join"),
            say("ada", "three"),
            say("bob", "four"),
            member("ada", "join", SECRET, creates=True, role="owner"),
            say("ada", "two, elsewhere", SECRET),
        ]
    )
    unread = repository.membership("lobby", "bob")
    outcomes = repository.append(
        [
            edit("ada", 3, "III", txn_id="e1"),
            edit("ada", 3, "III", txn_id="e1"),
            edit("ada", 3, "3", txn_id="e1"),
            edit("bob", 3, "not bob's"),
            edit("ada", 2, "no message"),
            edit("ada", 5, "an edit"),
            edit("ada", 99, "above the head"),
            edit("ada", 0, "below the first"),
            edit("cyd", 3, "not a member"),
            edit("cyd", 2, "nor here", SECRET),
            edit("ada", 3, "3", refusal=RateLimited("slow down")),
            edit("ada", 2, "2", SECRET),
            say("ada", "six"),
            edit("ada", 6, "6"),
        ]
    )
    assert types_of(outcomes) == [
        Stored,
        Duplicate,
        TxnConflict,
        Forbidden,
        *[NotFound] * 4,
        NotMember,
        NotFound,
        RateLimited,
        Stored,
        Stored,
        Stored,
    ]
    first = Edit("lobby", 5, "ada", later, 3, "III")
    assert getattr(outcomes[0], "event", None) == first
    assert outcomes[1] == Duplicate(5, later)
    repository.append([edit("ada", 3, "3")])
    last = Edit("lobby", 8, "ada", later, 3, "3")
    log = repository.read("lobby", 0, 99, 99)
    three, six = Message("lobby", 3, "ada", NOW, "three"), Message("lobby", 6, "ada", NOW, "six")
    assert [log[2], log[4], log[5], log[6], log[7]] == [
        three,
        first,
        six,
        Edit("lobby", 7, "ada", later, 6, "6"),
        last,
    ], "the log has what was said, and what was made of it"

    def messages(limit: int, upto: int) -> list[Message | Edit]:
        return [*repository.messages("lobby", 0, 5, limit, newest=False, upto=upto)]

    four = Message("lobby", 4, "bob", NOW, "four")
    assert messages(1, 99) == [three, last], "the newest of its edits, beside what was asked for"
    assert messages(2, 7) == [three, four, first], "and none above a head"
    assert messages(2, 4) == [three, four]
    elsewhere = repository.messages("secret", 0, 9, 9, newest=True, upto=99)
    assert [event.content for event in elsewhere] == ["two, elsewhere", "2"]

    bob = repository.membership("lobby", "bob")
    assert unread is not None
    assert bob is not None
    assert (unread.unread, bob.unread, bob.read) == (0, 1, 4), "an edit is no message"
    bobs = [edit("bob", 4, "IV")]
    assert types_of(repository.append(bobs)) == [Stored]
    bob = repository.membership("lobby", "bob")
    assert bob is not None
    assert (bob.unread, bob.read) == (1, 4), "and who edits has read nothing"
    assert list(repository.stored(bobs, [Stored(log[0], 1, 1)])) == [False]


def _deletions(repository: Repository) -> None:
    at = NOW + timedelta(minutes=2)
    repository.append(
        [
            member("ada", "join"),
            member("bob", "join"),
            member("cyd", "join", role="moderator"),
            say("ada", "four"),
            say("ada", "five"),
            say("bob", "six"),
            edit("ada", 4, "IV"),
            edit("ada", 4, "4"),
            edit("ada", 5, "V"),
        ]
    )
    outcomes = repository.append(
        [
            delete("bob", 4),
            delete("ada", 4, txn_id="d1"),
            delete("ada", 7),
            delete("ada", 99),
            delete("cyd", 6, reason="spam"),
        ]
    )
    assert types_of(outcomes) == [Forbidden, Stored, NotFound, NotFound, Stored]
    log = repository.read("lobby", 0, 99, 99)
    later = NOW + timedelta(minutes=1)
    assert [*log[3:]] == [
        Message("lobby", 4, "ada", NOW, "", erased=True),
        Message("lobby", 5, "ada", NOW, "five"),
        Message("lobby", 6, "bob", NOW, "", erased=True),
        Edit("lobby", 7, "ada", later, 4, "", erased=True),
        Edit("lobby", 8, "ada", later, 4, "", erased=True),
        Edit("lobby", 9, "ada", later, 5, "V"),
        Delete("lobby", 10, "ada", at, 4),
        Delete("lobby", 11, "cyd", at, 6, "spam"),
    ], "an erased message and its edits keep their places, and no text"
    assert repository.head("lobby", 8)[2] == [*log[3:]]
    page = repository.messages("lobby", 0, 99, 99, newest=True, upto=9)
    assert {"", "five", "V"} == {event.content for event in page}, "at once, whatever the head"

    again = repository.append(
        [
            delete("ada", 4, txn_id="d1"),
            delete("ada", 4, txn_id="d2"),
            delete("cyd", 4),
            delete("bob", 4),
            edit("ada", 4, "once more"),
            delete("ada", 5, txn_id="d2"),
        ]
    )
    first = Duplicate(10, at)
    assert again[:3] == [first, first, first], "what is deleted stays so, by the first"
    assert types_of(again[3:]) == [Forbidden, NotFound, TxnConflict]
    assert repository.append([delete("ada", 4, txn_id="d2")]) == [first]
    assert types_of(repository.append([delete("ada", 5, txn_id="d2")])) == [TxnConflict]
    assert repository.head("lobby", 0)[1] == 11
    bob = repository.membership("lobby", "bob")
    assert bob is not None
    assert (bob.unread, bob.read) == (0, 6), "a deletion is no message"

    repository.append([member("ada", "leave")])
    assert types_of(repository.append([delete("ada", 5), delete("cyd", 5)])) == [NotMember, Stored]


def _deletions_within_a_batch(repository: Repository) -> None:
    """What came and went in one transaction is not told of as if it had stayed."""
    outcomes = repository.append(
        [
            member("ada", "join"),
            say("ada", "two"),
            say("ada", "three", txn_id="t"),
            edit("ada", 3, "III"),
            delete("ada", 3),
            delete("ada", 3),
            edit("ada", 3, "after all"),
            say("ada", "six"),
        ]
    )
    assert types_of(outcomes) == [*[Stored] * 5, Duplicate, NotFound, Stored]
    told = all_stored([each for each in outcomes if isinstance(each, Stored)])
    assert [getattr(event, "content", None) for event in told] == [None, "two", "", "", None, "six"]
    assert told == list(repository.read("lobby", 0, 99, 99))
    assert repository.append([say("ada", "three", txn_id="t")]) == [Duplicate(3, NOW)]


def _rooms_and_members(repository: Repository) -> None:
    repository.append(
        [member("ada", "join", SECRET, creates=True, role="owner")]
        + [member(name, "join") for name in ("cyd", "ada", "bob")]
    )
    assert [room.name for room in repository.rooms("ada", "", 9)] == ["lobby", "secret"]
    assert [room.name for room in repository.rooms("bob", "", 9)] == ["lobby"]
    assert [room.name for room in repository.rooms("ada", "lobby", 9)] == ["secret"]
    assert [room.name for room in repository.rooms("ada", "", 1)] == ["lobby"]
    listed = repository.members("lobby", "", 2)
    assert [(m.username, m.display_name, m.role) for m in listed] == [
        ("ada", "Ada", "member"),
        ("bob", "Bob", "member"),
    ]
    assert [member.username for member in repository.members("lobby", "bob", 9)] == ["cyd"]
    assert [m.room.name for m in repository.memberships("ada")] == ["lobby", "secret"]

    tea, few = Room("tea", epoch="e5"), Limits(rooms_joined=2)
    outcomes = repository.append(
        [
            member("ada", "join", tea, creates=True, role="owner", limits=few),
            member("cyd", "join", tea),
            member("cyd", "leave"),
        ]
    )
    assert types_of(outcomes) == [Forbidden, NotFound, Stored], "one room too many"
    assert repository.room("tea") is None, "and it is not there for others"
    assert repository.add_room(tea)


def _outcomes_can_be_looked_up(repository: Repository) -> None:
    drafts = [member("ada", "join"), say("ada", "kept")]
    outcomes = repository.append(drafts)
    assert list(repository.stored(drafts, outcomes)) == [True, True]
    never = say("ada", "never stored")
    at = Stored(Message("lobby", 2, "ada", NOW, "never stored"), 1, 1)
    beyond = Stored(Message("lobby", 3, "ada", NOW, "never stored"), 1, 2)
    refused: ChatError = NotMember("no")
    drafts = [drafts[1], never, never, never]
    assert list(repository.stored(drafts, [outcomes[1], at, beyond, refused])) == [
        True,
        False,
        False,
        True,
    ]
