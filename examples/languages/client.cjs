// The Socket.IO client in Node: TOKEN=… node client.cjs
const { io } = require("socket.io-client");

const socket = io(process.env.HUB_URL ?? "http://localhost:3000", {
  // A function, so that every new connection may have a new token.
  auth: (cb) => cb({ token: process.env.TOKEN }),
});

socket.on("connect", () => console.log("connected"));
socket.on("connect_error", (err) => console.log("refused:", err.message));
socket.on("disconnect", (reason) => console.log("disconnected:", reason));
socket.onAny((event, ...args) => console.log(event, JSON.stringify(args)));
