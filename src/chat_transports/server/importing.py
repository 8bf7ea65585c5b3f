"""The first chatroom's users and messages into the lobby: in order, and each once.

A message's txn_id is made of its old row, and so is that of its author's joining.
What came before is then a duplicate: an import that was ended half-way, or is run again
when the old chatroom has gone on, adds what is missing and nothing else.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator

import orjson
from attrs import define, evolve, field, frozen

from chatcore import model, names
from chatcore.errors import ChatError, Conflict, Invalid
from chatcore.events import Duplicate, Stored
from chatcore.model import LOBBY, Draft, User
from chatcore.ports import Outcome, Repository
from chatcore.repository.sql.first_chatroom import OldDatabase

BATCH = 1_000
MOST_CHARACTERS = 100_000
"""Of one message; what clients send has a limit of its own, and a page must fit into a frame."""

_BCRYPT = re.compile(r"\$2[abxy]?\$\d\d\$[./A-Za-z0-9]{53}")


@define
class Report:
    """What came of an import."""

    accounts: int = 0
    accounts_known: int = 0
    renamed: dict[str, tuple[str, str]] = field(factory=dict)
    """By the old name: the new one, and why."""
    without_account: dict[str, str] = field(factory=dict)
    """Who wrote under a name that nobody had registered: by the old name, the new one."""
    without_password: list[str] = field(factory=list)
    """New names of those whose password's hash is none of bcrypt's."""
    messages: int = 0
    messages_known: int = 0
    mended: int = 0
    """Messages that had control characters."""
    refused: Counter[str] = field(factory=Counter)
    """Messages that could not come, by the reason."""

    def lines(self) -> Iterator[str]:
        """Say it for people.  Old names are quoted, so that none can do harm to a terminal."""
        yield f"Accounts: {self.accounts} came in, {self.accounts_known} were there already."
        for old, (new, why) in self.renamed.items():
            yield f"  {old!r} is {new} now: {why}"
        for old, new in self.without_account.items():
            yield f"  {old!r} had no account: the messages are {new}'s, who cannot log in"
        for new in self.without_password:
            yield f"  {new} cannot log in: the password's hash is none of bcrypt's"
        refused = self.refused.total()
        yield (
            f"Messages: {self.messages} came in, {self.messages_known} were there already,"
            f" {refused} could not come."
        )
        for why, count in self.refused.most_common():
            yield f"  {count} of them: {why}"
        if self.mended:
            yield f"  {self.mended} had control characters, which are now \N{REPLACEMENT CHARACTER}"


@frozen
class _Author:
    username: str
    joins: Draft


class Import:
    """One run, from an old database into a repository that was prepared and nobody serves."""

    def __init__(self, old: OldDatabase, repository: Repository) -> None:
        self.report = Report()
        self._old = old
        self._repository = repository
        lobby = repository.room(LOBBY)
        assert lobby is not None
        self._lobby = lobby
        self._now = model.utcnow()
        self._authors: dict[str, _Author] = {}
        self._taken: set[str] = set()

    def run(self, progress: Callable[[int], object]) -> Report:
        """Bring all in; `progress` is called with how many messages have been dealt with.

        Raises ChatError and OutcomeUnknown as the repository does; what came in stays.
        """
        for user in self._old.users():
            author = self._author(user.username, user.password_hash, [user.id, user.password_hash])
            if not _BCRYPT.fullmatch(user.password_hash):
                self.report.without_password.append(author.username)
        for name in self._old.authors():
            if name not in self._authors:
                # A name that is taken from now on: nobody else is to have written this.
                author = self._author(name, None, [])
                self.report.without_account[name] = author.username
        drafts = self._drafts(progress)
        while batch := [*itertools.islice(drafts, BATCH)]:
            for draft, outcome in zip(batch, self._repository.append(batch), strict=True):
                if draft.kind == "message":
                    self._count(outcome)
        return self.report

    # Accounts.

    def _author(self, old: str, password_hash: str | None, row: list[object]) -> _Author:
        """Find or make the account for an old name."""
        mark = _txn_id("user", old, *row)
        # No password has this hash; it tells the next run whose account it is.
        kept = mark if password_hash is None else password_hash
        wanted, why = _name(old)
        authors = (_Author(each, self._joining(each, mark)) for each in _candidates(wanted))
        author = next(each for each in authors if self._comes_as(each, old, kept))
        self._authors[old] = author
        self._taken.add(author.username)
        if author.username != wanted:
            why = why or f"{wanted} is, or looks like, somebody else's"
        if why:
            self.report.renamed[old] = author.username, why
        return author

    def _comes_as(self, author: _Author, old: str, kept: str) -> bool:
        """Say whether this account is theirs, since an import before or from now on."""
        if author.username in self._taken:
            return False
        known = self._repository.user(author.username)
        if known is not None:
            same = known[1] == kept or self._joined(author)
            self.report.accounts_known += same
            return same
        made = self._repository.add_user(_user(old, author.username), kept)
        self.report.accounts += made
        return made

    def _joining(self, username: str, txn_id: str) -> Draft:
        return Draft(
            room=self._lobby,
            sender=username,
            kind="member",
            body={"username": username, "action": "join", "role": "member"},
            timestamp=self._now,
            txn_id=txn_id,
        )

    def _joined(self, author: _Author) -> bool:
        """Ask whether this account came from the same row, whatever its password is by now."""
        asked = evolve(author.joins, refusal=Conflict("It is not the same"))
        return isinstance(self._repository.append([asked])[0], Duplicate)

    # Messages.

    def _drafts(self, progress: Callable[[int], object]) -> Iterator[Draft]:
        """Yield every message, and before an author's first one their joining.

        So what they wrote last is what they have read up to.  Who never wrote joins at
        the end, and has read everything.
        """
        joined = set()
        moment = self._now
        for message in self._old.messages():
            progress(1)
            moment = message.timestamp or moment
            try:
                content = self._content(message.content)
            except ChatError as error:
                self.report.refused[error.message] += 1
                continue
            author = self._authors[message.username]
            if author.username not in joined:
                joined.add(author.username)
                yield evolve(author.joins, timestamp=moment)
            yield Draft(
                room=self._lobby,
                sender=author.username,
                kind="message",
                body={"content": content},
                timestamp=moment,
                txn_id=_txn_id("message", message.id, message.username, message.content),
            )
        for author in self._authors.values():
            if author.username not in joined:
                yield author.joins

    def _content(self, text: str) -> str:
        """Return a text that may be stored.  Raises Invalid, TooLarge."""
        mended = "".join("\N{REPLACEMENT CHARACTER}" if _control(each) else each for each in text)
        content = model.content(mended, MOST_CHARACTERS)
        self.report.mended += mended != text
        return content

    def _count(self, outcome: Outcome) -> None:
        match outcome:
            case Stored():
                self.report.messages += 1
            case Duplicate():
                self.report.messages_known += 1
            case ChatError(message=message):
                self.report.refused[message] += 1


def _control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\r\t"


def _txn_id(*row: object) -> str:
    return "import:" + hashlib.blake2b(orjson.dumps(row), digest_size=16).hexdigest()


def _name(old: str) -> tuple[str, str]:
    """Return the name that is wanted for an old one, and why it is another one."""
    try:
        return names.username(old), ""
    except Invalid:
        pass
    plain = unicodedata.normalize("NFKC", old)
    plain = "".join(each if each.isalnum() or each in "._" else "-" for each in plain)
    plain = re.sub("-+", "-", plain).strip("-._")[: names.USERNAME_CHARACTERS]
    why = "a name has 1 to 50 letters, digits, . _ and -"
    try:
        return names.username(plain), why
    except Invalid:
        return "user", why


def _candidates(wanted: str) -> Iterator[str]:
    yield wanted
    for number in itertools.count(2):
        ending = f"-{number}"
        yield wanted[: names.USERNAME_CHARACTERS - len(ending)] + ending


def _user(old: str, username: str) -> User:
    try:
        shown = model.line(names.shown(old.strip(), username), "username", 50)
    except Invalid:
        shown = username
    return User(username, shown)
