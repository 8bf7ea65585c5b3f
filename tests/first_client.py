"""A client as a newcomer would write it from the first chatroom's page alone.

Lines of standard input are what the user types; standard output is the screen.
It was written without a look at this project, and is not to be mended to suit it.
"""

# ruff: noqa: T201 - it exists to print

from __future__ import annotations

import sys
from typing import Any

import requests
import socketio


def main(server: str, choice: str, username: str, password: str) -> None:
    account = {"username": username, "password": password}
    if choice == "1":
        answer = requests.post(f"{server}/register", json=account, timeout=5)
        print(answer.status_code, answer.json()["success"], answer.json()["message"], flush=True)
    answer = requests.post(f"{server}/login", json=account, timeout=5)
    print(answer.status_code, answer.json()["success"], answer.json()["message"], flush=True)

    sio = socketio.Client()

    def show(message: dict[str, Any]) -> None:
        _, clock = message["timestamp"].split(" ")
        hours, minutes, _ = clock.split(":")
        assert len(hours) == len(minutes) == 2
        print(f"{message['username']}: {message['content']}", flush=True)

    @sio.on("connect")  # type: ignore[untyped-decorator]
    def connect() -> None:
        sio.emit("join", {"username": username})

    @sio.on("message_history")  # type: ignore[untyped-decorator]
    def message_history(data: dict[str, Any]) -> None:
        print("--- history", flush=True)
        for message in data["messages"]:
            show(message)
        print("--- joined", flush=True)

    @sio.on("new_message")  # type: ignore[untyped-decorator]
    def new_message(data: dict[str, Any]) -> None:
        show(data)

    @sio.on("user_joined")  # type: ignore[untyped-decorator]
    @sio.on("user_left")  # type: ignore[untyped-decorator]
    def system(data: dict[str, Any]) -> None:
        assert data["username"] in data["message"]
        print(f"[System] {data['message']}", flush=True)

    @sio.on("online_users")  # type: ignore[untyped-decorator]
    def online_users(data: dict[str, Any]) -> None:
        print("Online:", ", ".join(data["users"]), flush=True)

    @sio.on("error")  # type: ignore[untyped-decorator]
    def error(data: dict[str, Any]) -> None:
        print(f"[Error] {data['message']}", flush=True)

    @sio.on("disconnect")  # type: ignore[untyped-decorator]
    def disconnect() -> None:
        print("[System] Disconnected from server", flush=True)

    sio.connect(server)
    for line in map(str.strip, sys.stdin):
        if line == "/users":
            sio.emit("get_online_users")
        elif line == "/exit":
            break
        else:
            sio.emit("send_message", {"content": line})
    sio.disconnect()


if __name__ == "__main__":
    main(*sys.argv[1:])
