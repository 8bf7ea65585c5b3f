"""A chat inside a FastAPI application, which has its own users and its own login.

    python examples/fastapi_app.py

Open http://127.0.0.1:8000 in two browsers, one of them in a private window, and log
in as ada and as grace; both have the password "correct horse".
"""

import os
import secrets
from typing import Annotated

import uvicorn
from fastapi import Cookie, FastAPI, HTTPException, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from chat_transports import websocket
from chatcore import Chat, Credentials, SqliteRepository, User
from chatcore.errors import Unauthenticated
from chatcore.model import MAX_FRAME

PASSWORDS = {"ada": "correct horse", "grace": "correct horse"}  # in place of your own
sessions: dict[str, User] = {}  # likewise


class Sessions:
    """Tells the chat who is at its door, by the application's own cookie."""

    async def authenticate(self, credentials: Credentials) -> User:
        user = sessions.get(credentials.cookies.get("session", ""))
        if user is None:
            # To return None would let strangers register, under your users' names too.
            raise Unauthenticated("Log in first")
        return user


class Login(BaseModel):
    username: str
    password: str


chat = Chat(SqliteRepository("fastapi.db"), authenticator=Sessions())
app = FastAPI(lifespan=websocket.lifespan(chat))
app.mount("/chat", websocket.app(chat))


@app.post("/login")
async def login(typed: Login, response: Response) -> None:
    if PASSWORDS.get(typed.username) != typed.password:
        raise HTTPException(401, "Invalid username or password")
    session = secrets.token_urlsafe()
    sessions[session] = User(typed.username, typed.username.title())
    response.set_cookie("session", session, httponly=True, samesite="lax")


@app.post("/logout")
async def logout(session: Annotated[str, Cookie()] = "") -> None:
    if user := sessions.pop(session, None):
        await chat.logout(None, user)  # and the user's connections end


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return PAGE


PAGE = """<!doctype html>
<title>Chat</title>
<form id="login">
  <input name="username" placeholder="ada or grace">
  <input name="password" type="password" placeholder="correct horse">
  <button>Log in</button>
</form>
<ul id="log"></ul>
<form id="say" hidden><input name="content" autocomplete="off"><button>Send</button></form>
<script>
const [login, log, say] = ["login", "log", "say"].map(id => document.getElementById(id));
const show = text => log.appendChild(document.createElement("li")).textContent = text;

login.onsubmit = async event => {
  event.preventDefault();
  const answer = await fetch("/login", {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify(Object.fromEntries(new FormData(login))),
  });
  answer.ok ? enter() : show((await answer.json()).detail);
};

function enter() {  // the browser brings the cookie along
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/chat/ws", "chat.v1");
  const tell = command => socket.send(JSON.stringify(command));
  socket.onmessage = ({data}) => {
    const frame = JSON.parse(data);
    if (frame.hello?.user) {
      [login.hidden, say.hidden] = [true, false];
      log.replaceChildren();
      tell({cmd: "join", id: "join", room: "lobby"});
    }
    for (const event of frame.events ?? [frame])  // a join's newest ones, or one that is new
      if (event.event === "message") show(`${event.sender}: ${event.content}`);
    if (frame.error) show(frame.error.message);
  };
  socket.onclose = ({reason}) => show(reason || "The connection has ended; load the page again");
  say.onsubmit = event => {
    event.preventDefault();
    tell({cmd: "send", room: "lobby", content: say.elements.content.value});
    say.reset();
  };
}

enter();  // with the cookie of an earlier visit, perhaps
</script>
"""

if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(os.environ.get("PORT", "8000")),
        ws="websockets-sansio",
        ws_max_size=MAX_FRAME,
        ws_per_message_deflate=False,
        ws_ping_timeout=300,
    )
