"""One walk through the chat, the same through each door, with a real server."""

from __future__ import annotations

import pytest

from chatcore.testing import Transcript
from tests.support import connected, serving


@pytest.mark.parametrize("door", ["ws", "tcp"])
async def test_a_walk(door: str) -> None:
    async with serving() as server:
        url = server.urls[door]
        async with connected(url) as ada, connected(url) as bob:
            await walk(ada, bob)


async def walk(ada: Transcript, bob: Transcript) -> None:
    # Nobody is anybody yet.
    said = await ada.do("send", room="lobby", content="hello?")
    assert said["error"]["code"] == "unauthenticated"
    assert (await ada.do("ping")).keys() == {"reply", "id"}
    assert ada.hello["v"] == 1
    assert ada.hello["limits"]["messages"] == {"rate": 5, "burst": 10}

    # ada registers and is in; bob's name is taken by nobody else.
    said = await ada.do("register", username="Ada", password="correct horse")
    assert said["user"] == {"username": "ada", "display_name": "Ada"}
    assert said["token"].startswith("cc_")
    assert said["rooms"] == []
    said = await bob.do("register", username="ada", password="correct horse")
    assert said["error"]["message"] == "Username already exists"
    said = await bob.do("login", username="ada", password="wrong horse")
    assert said["error"]["code"] == "bad_credentials"
    await bob.do("register", username="bob", password="correct horse")

    # To talk one must join.
    said = await ada.do("send", room="lobby", content="anyone?")
    assert said["error"] == {
        "code": "not_member",
        "message": "You must join the chat first",
        "retryable": False,
    }
    joined = await ada.do("join", room="lobby")
    assert joined["room"] == {"name": "lobby", "kind": "public", "title": "Lobby", "topic": ""}
    assert (joined["role"], joined["head"], joined["recovered"]) == ("member", 1, False)
    assert (await ada.event("membership"))["change"] == "join"

    # bob joins, and ada hears of it.
    assert (await bob.do("join", room="lobby"))["head"] == 2
    heard = await ada.event("member")
    assert (heard["username"], heard["action"], heard["seq"]) == ("bob", "join", 2)
    seen = await ada.event("presence")
    while "bob" not in seen["online"]:
        seen = await ada.event("presence")
    assert (await ada.do("who", room="lobby"))["online"] == ["ada", "bob"]

    # They talk.  The reply comes before the event, and both get the event.
    reply = await ada.do("send", room="lobby", content="hi, bob ☃", txn_id="a1")
    assert reply["seq"] == 3
    for peer in (ada, bob):
        message = await peer.event("message")
        assert (message["seq"], message["sender"], message["content"]) == (3, "ada", "hi, bob ☃")
        assert message["timestamp"] == reply["timestamp"]

    # A retry is the same message.
    again = await ada.do("send", room="lobby", content="hi, bob ☃", txn_id="a1")
    assert (again["seq"], again["duplicate"]) == (3, True)
    said = await ada.do("send", room="lobby", content="something else", txn_id="a1")
    assert said["error"]["code"] == "txn_conflict"

    # bob misses something and comes back for it.
    await bob.do("leave", room="lobby")
    assert (await bob.event("member"))["action"] == "leave"
    await ada.do("send", room="lobby", content="bob?")
    back = await bob.do("join", room="lobby", since={"epoch": joined["epoch"], "seq": 3})
    assert back["recovered"]
    assert [event["seq"] for event in back["events"]] == [4, 5, 6]
    assert back["events"][1]["content"] == "bob?"
    fresh = await bob.do("join", room="lobby", history=1)
    assert [event["content"] for event in fresh["events"]] == ["bob?"]

    # What was said stays.
    page = await bob.do("history", room="lobby")
    assert [message["content"] for message in page["messages"]] == ["hi, bob ☃", "bob?"]
    assert (page["head"], page["complete"]) == (6, True)
    listed = await bob.do("members", room="lobby")
    assert [member["username"] for member in listed["members"]] == ["ada", "bob"]

    # A room of one's own.
    made = await bob.do("create", room="Tea", kind="private", title="Tea time")
    assert made["room"]["name"] == "tea"
    assert (await ada.do("join", room="tea"))["error"]["code"] == "not_found"
    assert [room["name"] for room in (await ada.do("rooms"))["rooms"]] == ["lobby"]
    assert [room["name"] for room in (await bob.do("rooms"))["rooms"]] == ["lobby", "tea"]

    # And goodbye.
    assert (await bob.do("logout"))["reply"] == "logout"
    assert (await bob.goodbye())["code"] == 4502
    gone = await ada.event("presence")
    while "bob" not in gone["offline"]:
        gone = await ada.event("presence")
    assert gone["count"] == 1
