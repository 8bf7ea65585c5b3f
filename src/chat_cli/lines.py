"""What is shown of a room's events: a line for each, or none."""

from __future__ import annotations

from chat_cli.screen import clock
from chatcore.events import Delete, Durable, Edit, Message


def line(event: Durable, where: str = "") -> str | None:
    """Return an event as people read it; `where` names a room that is not the one on the screen."""
    before = f"({where}) " if where else ""
    match event:
        case Message(erased=True):
            return f"[{clock(event.timestamp)}] {before}{event.sender}: (deleted)"
        case Edit(erased=True):
            return None  # its message is shown as deleted
        case Message(edited=None):
            return f"[{clock(event.timestamp)}] {before}{event.sender}: {event.content}"
        case Message() | Edit():
            return f"[{clock(event.timestamp)}] {before}{event.sender} (edited): {event.content}"
        case Delete():
            return f"[System] {event.sender} deleted a message" + (f" in {where}" if where else "")
    return None
