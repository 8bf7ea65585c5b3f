// A room of node's Socket.IO.  node socketio.js PORT
const http = require('http').createServer();
const { Server } = require('socket.io');

const io = new Server(http, { transports: ['websocket'], serveClient: false });
io.on('connection', (socket) => {
  socket.join('lobby');
  socket.on('send_message', ({ content }) => {
    io.to('lobby').emit('new_message', { event: 'message', room: 'lobby', content });
  });
});
http.listen({ host: '127.0.0.1', port: +process.argv[2], backlog: 2048 });
