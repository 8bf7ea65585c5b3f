"""Contract checks: what a Repository finds, of what, and for whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from chatcore.events import Found, Message
from chatcore.model import Draft, Room
from chatcore.ports import Repository
from chatcore.query import parse
from chatcore.testing.drafts import (
    LOBBY,
    NOW,
    SECRET,
    all_stored,
    delete,
    edit,
    member,
    say,
    upon,
)

DEN = Room("den", epoch="e3")


def learn(repository: Repository, limit: int = 1_000) -> int:
    """Have all of the log in what is searched; return how many events were new."""
    count = 0
    while taken := repository.index(limit):
        count += taken
        assert taken <= limit
    return count


def find(
    repository: Repository,
    text: str,
    username: str = "ada",
    *,
    before: int | None = None,
    limit: int = 99,
    now: datetime = NOW,
) -> list[tuple[str, int]]:
    """Return where a search finds messages, the newest first."""
    found = repository.search(username, parse(text), before, limit, now)
    places = [place for place, _ in found]
    assert places == sorted(places, reverse=True)
    assert all(place > 0 for place in places)
    return [(each.room, each.seq) for _, each in found if each is not None]


def _words_and_phrases(repository: Repository) -> None:
    texts = (
        "The lift is out again",
        "LIFT again? Élan, and a naïve Straße",
        "take the stairs, not the lift-shaft",
        "昨日東京タワーに行きました",
        "서울에서 만나요",
        "สวัสดีชาวโลก",
        "हिन्दी में लिखो",
        "👍🏽 fine",
        "'); DROP TABLE words; -- \" OR NEAR(a b) * ^",
    )
    repository.append([member("ada", "join"), *(say("ada", text) for text in texts)])
    learn(repository)
    for text, seqs in {
        "lift": [4, 3, 2],
        "lift again": [3, 2],
        '"lift again"': [3],
        '"again lift"': [],
        "elan strasse NAIVE": [3],
        "lif": [],
        "lift-shaft": [4],
        '"the stairs" lift': [4],
        "東京": [5],
        "京タワ": [5],
        "東京 行きました": [5],
        "京東": [],
        "서울": [6],
        "ชาว": [7],
        "हिन्दी": [8],
        "हन": [],
        "👍": [9],
        "drop table": [10],
        "NEAR(a": [10],
        "or": [10],
        "nowhere": [],
        "lift nowhere": [],
        "!!! lift ...": [4, 3, 2],
    }.items():
        assert find(repository, text) == [("lobby", seq) for seq in seqs], text


def _people_rooms_and_days(repository: Repository) -> None:
    def on(day: int, sender: str = "ada", room: Room = LOBBY) -> Draft:
        return say(sender, f"day {day}", room, timestamp=NOW + timedelta(days=day))

    repository.append(
        [
            member("ada", "join"),
            member("bob", "join"),
            *(on(day) for day in (0, 1, 31, 800)),
            on(-1, "bob"),
            member("ada", "join", DEN, creates=True),
            on(1, "ada", DEN),
        ]
    )
    learn(repository)
    lobby = [("lobby", seq) for seq in range(9)]
    for text, places in {
        "from:bob": [lobby[7]],
        "from:bob day": [lobby[7]],
        "from:cyd": [],
        "from:nobody": [],
        "in:den": [("den", 2)],
        "in:den from:bob": [],
        "in:nowhere day": [],
        "before:2026-01-01": [lobby[7]],
        "before:2026-01-02": [lobby[7], lobby[3]],
        "after:2026-01-01": [("den", 2), *lobby[6:3:-1]],
        "after:2026-01-02": lobby[6:4:-1],
        "after:2025-12-31 before:2026-02-02 in:lobby": lobby[5:2:-1],
        "after:2026-02-01 from:ada": [lobby[6]],
        "after:2028-03-11": [],
        "after:2028-03-10": [lobby[6]],
        "before:1999-01-01": [],
        "before:0001-01-01": [],
        "after:9999-12-31": [],
        "after:0001-01-01 before:9999-12-31 in:den": [("den", 2)],
    }.items():
        assert find(repository, text) == places, text


def _rooms_that_one_may_read(repository: Repository) -> None:
    """Public ones and one's own: not as a stranger, invited, banned, or gone."""
    later = NOW + timedelta(seconds=60)
    until = "2026-01-01T12:31:15.123Z"
    repository.append(
        [
            member("ada", "join", role="owner"),
            say("ada", "secret in the lobby"),
            member("ada", "join", SECRET, creates=True, role="owner"),
            say("ada", "secret", SECRET),
        ]
    )
    learn(repository)
    both, lobby = [("secret", 2), ("lobby", 2)], [("lobby", 2)]
    assert find(repository, "secret") == both
    assert find(repository, "secret", "bob") == find(repository, "secret", "nobody") == lobby
    assert find(repository, "secret in:secret", "bob") == []
    repository.append([upon("ada", "invite", "bob", SECRET)])
    assert find(repository, "secret", "bob") == lobby
    repository.append([member("bob", "join", SECRET)])
    assert find(repository, "secret", "bob") == both
    repository.append([upon("ada", "ban", "bob", until=until)])
    assert find(repository, "secret", "bob") == [("secret", 2)]
    assert find(repository, "secret", "bob", now=later) == both
    repository.append([upon("ada", "kick", "bob", SECRET)])
    assert find(repository, "secret", "bob") == []
    assert find(repository, "secret", "bob", now=later) == lobby
    assert find(repository, "secret in:lobby", "bob") == []


def _the_text_that_there_is_now(repository: Repository) -> None:
    repository.append([member("ada", "join"), say("ada", "first try"), say("ada", "first to go")])
    learn(repository)
    repository.append([edit("ada", 2, "second try"), delete("ada", 3)])
    # Not heard of yet: neither text is found, and one that is deleted is not, at once.
    assert find(repository, "first") == []
    learn(repository)
    assert find(repository, "first") == []
    (hit,) = repository.search("ada", parse("second"), None, 9, NOW)
    edited = NOW + timedelta(minutes=1)
    assert hit[1] == Found("lobby", 2, "ada", NOW, "second try", edited=edited, head=5)
    assert isinstance(hit[1], Message)
    repository.append([edit("ada", 2, "third try"), edit("ada", 2, "second thoughts")])
    learn(repository)
    assert find(repository, "try") == find(repository, "third") == []
    assert find(repository, "second thoughts") == [("lobby", 2)]
    # What comes and goes before it is heard of.
    repository.append([say("ada", "fleeting"), edit("ada", 8, "passing"), delete("ada", 8)])
    repository.append([edit("ada", 2, "last words"), delete("ada", 2)])
    learn(repository)
    for gone in ("fleeting", "passing", "last", "second", "ada", "from:ada"):
        assert find(repository, gone) == [], gone
    assert learn(repository) == 0


def _pages(repository: Repository) -> None:
    """Each message once, whatever is written or erased between one page and the next."""
    repository.append([member("ada", "join"), *(say("ada", f"tea {n}") for n in range(20))])
    learn(repository, limit=7)
    expected = [("lobby", seq) for seq in range(21, 1, -1)]
    assert find(repository, "tea") == expected
    assert find(repository, "tea", limit=0) == []
    given: list[tuple[str, int]] = []
    before: int | None = None
    while page := repository.search("ada", parse("tea"), before, 3, NOW):
        given += [(each.room, each.seq) for _, each in page if each is not None]
        before = page[-1][0]
        all_stored(repository.append([say("ada", "more tea"), delete("ada", given[-1][1])]))
        learn(repository)
    assert given == expected


def _wiped(repository: Repository) -> None:
    repository.append([member("ada", "join"), say("ada", "secret"), say("ada", "open")])
    learn(repository)
    assert not repository.purge()
    repository.append([delete("ada", 2)])
    while repository.purge():
        pass
    assert not repository.purge()
    assert find(repository, "open") == [("lobby", 3)]
    repository.append([say("ada", "secret")])
    learn(repository)
    assert find(repository, "secret") == [("lobby", 5)]


SEARCHING: Sequence[Callable[[Repository], None]] = (
    _words_and_phrases,
    _people_rooms_and_days,
    _rooms_that_one_may_read,
    _the_text_that_there_is_now,
    _pages,
    _wiped,
)
