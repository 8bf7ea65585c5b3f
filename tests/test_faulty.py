"""The repository that fails: as its script says, and else it does what the one inside does."""

from __future__ import annotations

import inspect
import threading
import time

import pytest

from chatcore import Chat, User
from chatcore.errors import OutcomeUnknown, StorageFull, Unavailable
from chatcore.events import Stored
from chatcore.model import Draft, Limits, Room, utcnow
from chatcore.ports import Repository
from chatcore.repository.memory import MemoryRepository
from chatcore.testing import (
    Call,
    FaultyRepository,
    Hold,
    LostOutcome,
    Pause,
    Refusal,
    RepositoryScript,
    check_repository,
    eventually,
    failing,
    full,
)

LOBBY = Room("lobby")
BUSY = Unavailable("busy")


def ready(*scripts: RepositoryScript) -> FaultyRepository:
    """Return one with ada in the lobby; the scripts count from now."""
    repository = FaultyRepository(MemoryRepository())
    repository.add_user(User("ada", "Ada"), None)
    repository.add_room(LOBBY)
    repository.append([draft("member", username="ada", action="join", role="member")])
    repository.scripts += scripts
    return repository


def draft(kind: str = "message", room: Room = LOBBY, **body: object) -> Draft:
    return Draft(room=room, sender="ada", kind=kind, body=body, timestamp=utcnow())


def say(text: str) -> list[Draft]:
    return [draft(content=text)]


def head(repository: FaultyRepository) -> int:
    return repository.inside.head("lobby", 0)[1]


def test_without_a_script_it_keeps_the_contract_and_each_method_can_be_named() -> None:
    asked: set[str] = set()

    def note(call: Call) -> None:
        asked.add(call.method)

    check_repository(lambda: FaultyRepository(MemoryRepository(), note))
    port = {name for name, _ in inspect.getmembers(Repository, inspect.isfunction)}
    assert asked | {"foreign_heads"} == {name for name in port if not name.startswith("_")}
    FaultyRepository(MemoryRepository(), note).foreign_heads([])
    assert "foreign_heads" in asked


def test_refuses_the_calls_that_it_is_told_to_and_writes_nothing() -> None:
    repository = ready(failing("append", Refusal(BUSY), skip=1, times=2))
    repository.append(say("first"))
    for _ in range(2):
        with pytest.raises(Unavailable, match="busy"):
            repository.append(say("refused"))
    assert repository.read("lobby", 0, 99, 99)[-1].seq == 2
    repository.append(say("last"))
    assert head(repository) == 3
    assert repository.calls["append"] == 5
    assert repository.calls["read"] == 1


def test_a_predicate_may_look_at_the_arguments_and_the_number() -> None:
    def unlucky(call: Call) -> bool:
        return call.arguments == ("bob",) or call.number == 4

    repository = ready(failing(["user", "memberships"], Refusal(BUSY), when=unlucky))
    assert repository.user("ada") is not None
    for name in ("user", "memberships"):
        with pytest.raises(Unavailable):
            getattr(repository, name)("bob")
    assert repository.user("cyd") is None
    with pytest.raises(Unavailable):
        repository.user("ada")
    assert repository.user("ada") is not None


def test_is_full_until_space_returns() -> None:
    space = threading.Event()
    repository = ready(full(space))
    for write in (
        lambda: repository.append(say("no")),
        lambda: repository.add_room(Room("tea")),
        lambda: repository.add_user(User("bob", "Bob"), None),
        lambda: repository.remove_tokens("ada"),
    ):
        with pytest.raises(StorageFull):
            write()
    assert [event.seq for event in repository.read("lobby", 0, 99, 99)] == [1]
    space.set()
    repository.append(say("yes"))
    assert head(repository) == 2


@pytest.mark.parametrize("happened", [True, False])
def test_loses_the_outcome_of_a_commit(happened: bool) -> None:
    repository = ready(failing("append", LostOutcome(committed=happened), times=1))
    tea = Room("tea")
    drafts = say("perhaps") + say("so")
    drafts += [draft("member", tea, username="ada", action="join", role="owner")]
    with pytest.raises(OutcomeUnknown) as unknown:
        repository.append(drafts)
    outcomes = [each for each in unknown.value.outcomes if isinstance(each, Stored)]
    lobby = [outcome for outcome in outcomes if outcome.event.room == "lobby"]
    assert [outcome.event.seq for outcome in lobby] == [2, 3]
    assert [happened] * 2 == list(repository.stored(drafts[:2], lobby))
    assert head(repository) == (3 if happened else 1)
    again = repository.append(say("next"))[0]
    assert isinstance(again, Stored)
    assert again.event.seq == head(repository)


def test_only_a_commit_has_an_outcome_to_lose() -> None:
    repository = ready(failing("room", LostOutcome(committed=True)))
    with pytest.raises(TypeError, match="room has no outcome"):
        repository.room("lobby")


async def test_holds_a_call_until_it_is_let_go_and_then_fails_it_if_told_to() -> None:
    gate = threading.Event()
    repository = ready(failing("append", Hold(gate)), failing("append", Refusal(BUSY), skip=1))
    writing = threading.Thread(target=repository.append, args=[say("held")])
    writing.start()
    await eventually(lambda: repository.calls["append"] == 2)
    assert writing.is_alive()
    assert head(repository) == 1
    gate.set()
    writing.join()
    assert head(repository) == 2
    with pytest.raises(Unavailable):
        repository.append(say("refused"))


def test_is_slow() -> None:
    repository = ready(failing("room", Pause(0.05)))
    started = time.monotonic()
    assert repository.room("lobby") == LOBBY
    assert time.monotonic() - started >= 0.05


async def test_a_chat_heals_when_space_returns() -> None:
    space = threading.Event()
    space.set()
    repository = FaultyRepository(MemoryRepository(), full(space))
    async with Chat(repository, limits=Limits(messages=None), bcrypt_cost=4) as chat:
        ada = await chat.register("ada", "correct horse")
        await chat.join(ada, "lobby")
        space.clear()
        with pytest.raises(StorageFull):
            await chat.send(ada, "lobby", "no")
        space.set()
        assert (await chat.send(ada, "lobby", "yes")).seq == 2
