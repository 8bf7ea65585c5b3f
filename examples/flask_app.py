"""A Flask application that writes into a chat and reads from it.

    python examples/flask_app.py

Then, in another terminal:

    curl -u ada:secret http://127.0.0.1:5000/messages -d content='Hello from Flask'
    curl -u ada:secret http://127.0.0.1:5000/messages
"""

import os

from flask import Flask, Response, abort, request
from flask.typing import ResponseReturnValue

from chatcore import Chat, ChatError, SqliteRepository, User
from chatcore.errors import RateLimited
from chatcore.portal import Portal, portal

PASSWORDS = {"ada": "secret", "grace": "secret"}  # in place of your own


def create_app(door: Portal) -> Flask:
    app, chat = Flask(__name__), door.chat

    def member() -> User:
        """Whoever asks, by the application's own login, and in the lobby."""
        typed = request.authorization
        name = (typed and typed.username) or ""
        if typed is None or name not in PASSWORDS or typed.password != PASSWORDS[name]:
            abort(Response("Who are you?", 401, {"WWW-Authenticate": "Basic"}))
        user = door.call(chat.introduce, User(name, name.title()))
        door.call(chat.join, user, "lobby")
        return user

    @app.post("/messages")
    def write() -> ResponseReturnValue:
        content, txn_id = request.form.get("content", ""), request.form.get("txn_id")
        sent = door.call(chat.send, member(), "lobby", content, txn_id=txn_id)
        return {"seq": sent.seq}, 201

    @app.get("/messages")
    def read() -> ResponseReturnValue:
        after = request.args.get("after", type=int)
        page = door.call(chat.history, member(), "lobby", after=after)
        return [{"seq": m.seq, "sender": m.sender, "content": m.content} for m in page.messages]

    @app.errorhandler(ChatError)
    def refused(error: ChatError) -> ResponseReturnValue:
        status = 429 if isinstance(error, RateLimited) else 503 if error.retryable else 400
        return {"error": error.code, "message": error.message}, status

    return app


if __name__ == "__main__":
    with portal(Chat(SqliteRepository("flask.db"))) as door:
        create_app(door).run(port=int(os.environ.get("PORT", "5000")))
