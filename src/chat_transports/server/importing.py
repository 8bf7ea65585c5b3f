"""The first chatroom's users and messages into the lobby: in order, and each once.

A message's txn_id is made of its old row, and so is that of its author's joining.
What came before is then a duplicate, and tells whose account it came under: an import
that was ended half-way, or is run again when the old chatroom has gone on, adds what is
missing and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime

import orjson
from attrs import define, evolve, field, frozen

from chat_transports.server.first_chatroom import OldDatabase, OldMessage
from chatcore import model, names
from chatcore.errors import ChatError, Conflict, Invalid, NotMember
from chatcore.events import Duplicate, Stored
from chatcore.model import LOBBY, Draft, User
from chatcore.ports import Outcome, Repository

BATCH, BATCH_CHARACTERS = 1_000, 1_000_000
MOST_CHARACTERS = 100_000
"""Of one message; what clients send has a limit of its own, and a page must fit into a frame."""

_MARK = "import:"
_BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")


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
    undated: int = 0
    """Messages whose time could not be read, and is now that of the one before."""
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
        if self.undated:
            yield f"  {self.undated} had no time that can be read, and have the one before theirs"


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
        self._find_authors()
        drafts = self._drafts(progress)
        for batch in _batches(drafts):
            for draft, outcome in zip(batch, self._repository.append(batch), strict=True):
                if draft.kind == "message":
                    self._count(draft, outcome)
        return self.report

    # Accounts.

    def _find_authors(self) -> None:
        """Find or make an account for each old one, and for who wrote without one.

        Names that can stay come first, so that none of them goes to a renamed one.
        """
        users, said = self._old.users(), self._old.authors()
        for user in sorted(users, key=lambda user: bool(_name(user.username)[1])):
            row = [user.username, user.id, user.password_hash]
            author = self._author(user.username, user.password_hash, row, said)
            if not _BCRYPT.fullmatch(user.password_hash):
                self.report.without_password.append(author.username)
        strangers = [name for name in said if name not in self._authors]
        for name in sorted(strangers, key=lambda name: bool(_name(name)[1])):
            # A name that is taken from now on: nobody else is to have written this.
            author = self._author(name, None, [name], said)
            known = self._repository.user(author.username)
            if known is None or not _BCRYPT.fullmatch(known.password_hash or ""):
                self.report.without_account[name] = author.username

    def _author(
        self, old: str, password_hash: str | None, row: list[object], said: dict[str, OldMessage]
    ) -> _Author:
        mark = _txn_id("user", *row)
        wanted, why = _name(old)
        author = next(
            author
            for name in _candidates(wanted)
            if name not in self._taken
            and self._comes_as(
                author := _Author(name, self._joining(name, mark)), old, password_hash, said
            )
        )
        self._authors[old] = author
        self._taken.add(author.username)
        if author.username != wanted:
            why = why or f"{wanted} is, or looks like, somebody else's"
        if why:
            self.report.renamed[old] = author.username, why
        return author

    def _comes_as(
        self, author: _Author, old: str, password_hash: str | None, said: dict[str, OldMessage]
    ) -> bool:
        """Say whether this account is theirs, since an import before or from now on."""
        known = self._repository.user(author.username)
        if known is None:
            # No password has the mark for its hash.
            kept = password_hash or str(author.joins.txn_id)
            made = self._repository.add_user(_user(old, author.username), kept)
            self.report.accounts += made
            return made
        kept_hash = known.password_hash
        if not self._is_same(author, kept_hash, password_hash, said.get(old)):
            return False
        self.report.accounts_known += 1
        if password_hash and kept_hash and kept_hash.startswith(_MARK):
            # They wrote without an account, and have one by now.
            self._repository.set_password(author.username, password_hash)
        return True

    def _is_same(
        self, author: _Author, kept: str | None, given: str | None, first: OldMessage | None
    ) -> bool:
        """Say whether an account that is there came from this old one, in an import before.

        It has its password, or has joined or written by its row: passwords change.
        """
        mark = author.joins.txn_id
        if kept == mark or (given == kept and _BCRYPT.fullmatch(given or "")):
            return True
        asked = [author.joins]
        if first is not None:
            with contextlib.suppress(ChatError):
                asked.append(self._message(author, first, self._now))
        refusal = Conflict("It is not the same")
        outcomes = self._repository.append([evolve(each, refusal=refusal) for each in asked])
        return any(isinstance(outcome, Duplicate) for outcome in outcomes)

    def _joining(self, username: str, txn_id: str) -> Draft:
        return Draft(
            room=self._lobby,
            sender=username,
            kind="member",
            body={"username": username, "action": "join", "role": "member"},
            timestamp=self._now,
            txn_id=txn_id,
        )

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
            self.report.undated += message.timestamp is None
            moment = message.timestamp or moment
            author = self._authors[message.username]
            try:
                draft = self._message(author, message, moment)
            except ChatError as error:
                self.report.refused[error.message] += 1
                continue
            self.report.mended += any(map(_control, message.content))
            if author.username not in joined:
                joined.add(author.username)
                yield evolve(author.joins, timestamp=moment)
            yield draft
        for author in self._authors.values():
            if author.username not in joined:
                yield author.joins

    def _message(self, author: _Author, message: OldMessage, moment: datetime) -> Draft:
        """Return a message as it comes.  Raises Invalid, TooLarge."""
        text = "".join(
            "\N{REPLACEMENT CHARACTER}" if _control(each) else each for each in message.content
        )
        row = (message.id, message.username, message.content, message.written)
        return Draft(
            room=self._lobby,
            sender=author.username,
            kind="message",
            body={"content": model.content(text, MOST_CHARACTERS)},
            timestamp=moment,
            txn_id=_txn_id("message", *row),
        )

    def _count(self, draft: Draft, outcome: Outcome) -> None:
        match outcome:
            case Stored():
                self.report.messages += 1
            case Duplicate():
                self.report.messages_known += 1
            case NotMember():
                self.report.refused[f"{draft.sender} has left the lobby here"] += 1
            case ChatError(message=message):
                self.report.refused[message] += 1


def _batches(drafts: Iterator[Draft]) -> Iterator[list[Draft]]:
    """Gather drafts for one commit each: so many, or with so much text."""
    batch: list[Draft] = []
    characters = 0
    for draft in drafts:
        batch.append(draft)
        characters += len(str(draft.body.get("content", "")))
        if len(batch) >= BATCH or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\r\t"


def _txn_id(*row: object) -> str:
    return _MARK + hashlib.blake2b(orjson.dumps(row), digest_size=16).hexdigest()


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
