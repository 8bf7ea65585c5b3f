"""What the first chatroom is made of: Flask-SocketIO on gevent, a row and a commit a message.

python -m benchmarks.peers.first_chatroom PORT DIRECTORY
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()  # before all else that may hold a socket or a lock

import sys  # noqa: E402
from datetime import UTC, datetime  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from flask import Flask, request  # noqa: E402
from flask_socketio import SocketIO, emit, join_room  # noqa: E402
from flask_sqlalchemy import SQLAlchemy  # noqa: E402

app = Flask(__name__)
database = Path(sys.argv[2]).resolve() / "first_chatroom.db"
database.unlink(missing_ok=True)
app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{database}"
db = SQLAlchemy(app)
server = SocketIO(app, async_mode="gevent", cors_allowed_origins="*")
USERS: dict[str, tuple[str, str]] = {}
"""Name and room of each connection."""


class Message(db.Model):  # type: ignore[misc,name-defined] # made at run time
    id = db.Column(db.Integer, primary_key=True)
    username = db.Column(db.String(80), nullable=False)
    content = db.Column(db.Text, nullable=False)
    timestamp = db.Column(db.DateTime, default=lambda: datetime.now(UTC))


def join(data: dict[str, Any]) -> None:
    USERS[request.sid] = data["username"], data["room"]  # type: ignore[attr-defined] # Flask-SocketIO's
    join_room(data["room"])
    emit("joined", {"ok": True})


def send(data: dict[str, Any]) -> bool:
    username, room = USERS[request.sid]  # type: ignore[attr-defined] # Flask-SocketIO's
    message = Message(username=username, content=data["content"])
    db.session.add(message)
    db.session.commit()
    said = {"id": message.id, "username": username, "content": message.content}
    emit("new_message", said | {"timestamp": message.timestamp.isoformat()}, to=room)
    return True


server.on_event("join", join)
server.on_event("send_message", send)

if __name__ == "__main__":
    with app.app_context():
        db.create_all()
    server.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_output=False)
