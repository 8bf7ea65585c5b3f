// The real Socket.IO client, moved from standard input: each line is [event, payload] to emit,
// or null to disconnect.  Standard output has what it hears, in lines of the same form.
const readline = require("node:readline");
const { io } = require("socket.io-client");

const socket = io(process.argv[2], JSON.parse(process.argv[3]));
const say = (event, payload) => console.log(JSON.stringify([event, payload]));

socket.onAny(say);
socket.io.on("open", () => {
  say("open", socket.io.engine.transport.name);
  socket.io.engine.on("upgrade", (transport) => say("upgrade", transport.name));
});
socket.on("connect", () => say("connect"));
socket.on("connect_error", (error) => say("connect_error", error.message));
socket.on("disconnect", (reason) => {
  say("disconnect", reason);
  process.exitCode = 0;
});

const input = readline.createInterface({ input: process.stdin });
input.on("line", (line) => {
  const asked = JSON.parse(line);
  if (asked === null) {
    socket.disconnect();
  } else {
    socket.emit(...asked);
  }
});
input.on("close", () => process.exit());
