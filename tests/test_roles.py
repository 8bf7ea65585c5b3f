"""All roles, all actions, at every door: what one is answered is what the table says."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

import aiohttp
import pytest
from attrs import frozen
from starlette.applications import Starlette
from starlette.routing import Mount

from chat_transports import client, http, socketio, tcp, websocket
from chatcore import Chat, MemoryRepository, Participant, Room, User, connect, policy
from chatcore.errors import ChatError, NotFound
from chatcore.model import LOBBY, Limits
from chatcore.testing import PATIENCE, eventually
from chatcore.testing.drafts import THUMB, member, update, upon
from chatcore.testing.moderation import OWN, furnished
from tests.asking import HttpParticipant
from tests.test_links import uvicorn_serving
from tests.test_socketio import python_client

PEOPLE = (*reversed(policy.ROLES), "invited", "stranger", "banned")
DOORS = ("in-process", "ws", "tcp", "http")
COLUMNS = (*PEOPLE, "muted", "archived")


LIMITS = Limits(
    messages=None,
    attempts=None,
    typing=None,
    changes=None,
    address_connections=None,
    rooms_joined=10_000,
    rooms_owned=10_000,
)


@frozen
class House:
    """A chat with every door open."""

    chat: Chat
    repository: MemoryRepository
    http: str
    tcp: str
    tokens: Mapping[str, str]

    def room(self, action: str, column: str, kind: str) -> str:
        """Make a room for one attempt, and return its name."""
        room = Room(f"{action}-{column}-{kind}", kind, epoch="e")
        drafts = [*furnished(room, action)]
        if column == "muted":
            drafts.append(upon("owner", "mute", "member", room))
        if column == "archived":
            drafts.append(update("owner", room, archived=True))
        outcomes = self.repository.append(drafts)
        assert not [outcome for outcome in outcomes if isinstance(outcome, ChatError)]
        return room.name


@contextlib.asynccontextmanager
async def house() -> AsyncIterator[House]:
    repository = MemoryRepository()
    async with Chat(repository, limits=LIMITS, bcrypt_cost=4) as chat:
        tokens = {}
        for name in (*PEOPLE, "other", "last"):
            repository.add_user(User(name, name), None)
            tokens[name] = (await chat.issue_token(User(name, name))).secret
        web = Starlette(
            routes=[
                websocket.route(chat),
                Mount("/socket.io", socketio.app(chat)),
                Mount("/", http.app(chat)),
            ]
        )
        server = await tcp.listen(chat, port=0)
        with contextlib.closing(server):
            async with uvicorn_serving(web) as port:
                base = f"http://127.0.0.1:{port}"
                tcp_url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                yield House(chat, repository, base, tcp_url, tokens)


def expected(action: str, column: str, kind: str) -> str:
    cells = policy.MAY[action]
    match column:
        case "muted":
            return "muted" if action in policy.WRITING else cells["member"]
        case "archived":
            return "forbidden" if action in policy.WRITING else cells["member"]
        case "invited" if kind == "public" and cells["invited"] != "yes":
            return cells["stranger"]
        case "stranger" | "banned" if kind == "private":
            return cells["outsider"]
    return cells[column]


async def attempt(chat: Participant, action: str, who: str, room: str) -> None:
    own, other = OWN.get(who, 2), 9 if who == "owner" else 2
    asked: dict[str, Callable[[], Awaitable[object]]] = {
        "audit": lambda: chat.history(room, types=["member"]),
        "join": lambda: chat.join(room),
        "leave": lambda: chat.leave(room),
        "send": lambda: chat.send(room, "hello"),
        "edit": lambda: chat.edit(room, own, "hello"),
        "typing": lambda: chat.typing(room),
        "delete": lambda: chat.delete(room, own),
        "delete_any": lambda: chat.delete(room, other),
        "react": lambda: chat.react(room, other, THUMB),
        "unreact": lambda: chat.unreact(room, other, THUMB),
        "mark_read": lambda: chat.mark_read(room, other),
        "report": lambda: chat.report(room, other, "spam"),
        "reports": lambda: chat.reports(room),
        "bans": lambda: chat.bans(room),
        "invite": lambda: chat.invite(room, "other"),
        "kick": lambda: chat.kick(room, "other"),
        "ban": lambda: chat.ban(room, "other"),
        "unban": lambda: chat.unban(room, "other"),
        "mute": lambda: chat.mute(room, "other"),
        "unmute": lambda: chat.unmute(room, "other"),
        "set_role": lambda: chat.set_role(room, "other", "reader"),
        "update": lambda: chat.update(room, topic="Tea"),
        "archive": lambda: chat.update(room, archived=True),
    }
    if action != "read":
        await asked[action]()
        return
    codes = {await code(ask) for ask in (chat.history(room), chat.who(room), chat.members(room))}
    assert len(codes) == 1, "all of them, or none"
    await chat.history(room)


async def code(asked: Awaitable[object]) -> str:
    try:
        await asked
    except ChatError as error:
        return error.code
    return "yes"


@contextlib.asynccontextmanager
async def through(door: str, house: House, who: str) -> AsyncIterator[Participant]:
    if door == "in-process":
        async with connect(house.chat, User(who, who)) as peer:
            yield peer
    elif door == "http":
        async with aiohttp.ClientSession(house.http) as session:
            yield HttpParticipant(session, house.tokens[who])
    else:
        url = house.tcp if door == "tcp" else f"{house.http}/ws"
        async with client.connect(url, token=house.tokens[who]) as far:
            yield far


@pytest.mark.parametrize("door", DOORS)
async def test_everybody_may_do_what_the_table_says(door: str) -> None:
    async with house() as here, AsyncExitStack() as stack:
        doors = {who: await stack.enter_async_context(through(door, here, who)) for who in PEOPLE}
        found, told = {}, {}
        for kind in ("public", "private"):
            for action in policy.MAY:
                for column in COLUMNS:
                    who = column if column in doors else "member"
                    room = here.room(action, column, kind)
                    key = (kind, action, column)
                    found[key] = await code(attempt(doors[who], action, who, room))
                    told[key] = expected(action, column, kind)
    assert found == told
    assert len(found) == 2 * len(policy.MAY) * 9


@pytest.mark.parametrize("door", DOORS)
async def test_nothing_can_be_done_to_who_was_deleted(door: str) -> None:
    async with house() as here, through(door, here, "owner") as owner:
        await owner.create("hall")
        await here.chat.delete_account(User("other", "other"))
        for action in ("invite", "kick", "ban", "unban", "mute", "unmute", "set_role"):
            with pytest.raises(NotFound, match="The account of other was deleted"):
                await attempt(owner, action, "owner", "hall")
        with pytest.raises(NotFound, match="The account of other was deleted"):
            await owner.direct("other")


async def test_what_one_may_not_see_is_as_if_it_were_not_there() -> None:
    """To the letter, in every command that names a room."""
    async with house() as here:
        for who in ("stranger", "banned"):
            async with connect(here.chat, User(who, who)) as peer:
                for action in policy.MAY:
                    errors = []
                    for room in (here.room(action, who, "private"), "nowhere"):
                        with pytest.raises(ChatError) as refused:
                            await attempt(peer, action, who, room)
                        errors.append((refused.value.code, refused.value.message))
                    assert errors == [("not_found", "There is no such room")] * 2
                for room in (f"read-{who}-private", "nowhere"):
                    for text in ("words", f"words in:{LOBBY}"):
                        with pytest.raises(NotFound, match="There is no such room"):
                            await peer.search(text, room=room)
                listed = await peer.rooms()
                assert [room.name for room in listed.rooms] == [LOBBY]


async def test_over_socketio_it_is_the_same_in_the_lobby() -> None:
    """Which its clients join by themselves, and where they read and send."""
    async with house() as here:
        room = here.repository.room(LOBBY)
        assert room is not None
        people = ("owner", "moderator", "member", "reader")
        drafts = [member("owner", "join", room, role="owner")]
        drafts += [member(name, "join", room) for name in (*people[1:], "other")]
        drafts += [upon("owner", "role", name, room, role=name) for name in ("moderator", "reader")]
        drafts += [upon("owner", "mute", "other", room), upon("owner", "ban", "banned", room)]
        outcomes = here.repository.append(drafts)
        assert not [outcome for outcome in outcomes if isinstance(outcome, ChatError)]
        for who in (*people, "other", "stranger", "banned"):
            async with python_client(here.http, auth={"token": here.tokens[who]}) as him:
                await him.emit("join", {"username": who})
                refused = {"reader": "may only read here", "other": "You are muted in this room"}
                if who == "banned":
                    error = await him.ears.next("error")
                    assert error["message"] == "You are banned from this room"
                    refused[who] = "You are banned from this room"
                else:
                    await him.ears.next("message_history")
                await him.emit("send_message", {"content": f"{who} says"})
                if who in refused:
                    assert refused[who] in (await him.ears.next("error"))["message"]
                else:
                    assert (await him.ears.next("new_message"))["username"] == who
        owner, member_ = User("owner", "owner"), User("member", "member")
        async with python_client(here.http, auth={"token": here.tokens["member"]}) as him:
            await him.emit("join", {"username": "member"})
            await him.ears.next("message_history")
            elsewhere = here.room("kick", "member", "public")
            await here.chat.kick(owner, elsewhere, "member")  # of which nothing is told
            for remove, told in (
                (here.chat.mute, "You are muted: you may read, and not write"),
                (here.chat.kick, "You were removed from the chat"),
                (here.chat.ban, "You are banned from the chat"),
            ):
                if remove == here.chat.ban:
                    await here.chat.join(member_, LOBBY)
                await remove(owner, LOBBY, "member")
                assert (await him.ears.next("error"))["message"] == told
            await him.emit("send_message", {"content": "Hello?"})
            assert (await him.ears.next("error"))["message"] == "You are banned from this room"
        await eventually(lambda: len(here.chat.roster) == 0, PATIENCE)
