// A room of node's ws: one text, given to each client.  node ws.js PORT
const { WebSocketServer } = require('ws');

const server = new WebSocketServer({
  host: '127.0.0.1', port: +process.argv[2], backlog: 2048, perMessageDeflate: false,
});
server.on('connection', (socket) => {
  socket.on('message', (text) => {
    const said = JSON.stringify({ event: 'message', room: 'lobby', content: JSON.parse(text).content });
    for (const client of server.clients) client.send(said);
  });
});
