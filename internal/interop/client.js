"use strict";
// Drives npm socket.io-client for the tests: commands come as lines of JSON on standard input, and
// what happens goes as lines of JSON to standard output. drive_test.go describes both.
//
//   node client.js PACKAGE

const { io } = require(process.argv[2]);
const sockets = new Map();

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

function pack(v) {
  if (Buffer.isBuffer(v) || v instanceof Uint8Array) return { $bin: Buffer.from(v).toString("base64") };
  if (Array.isArray(v)) return v.map(pack);
  if (v && typeof v === "object") return Object.fromEntries(Object.entries(v).map(([k, e]) => [k, pack(e)]));
  return v;
}

function unpack(v) {
  if (Array.isArray(v)) return v.map(unpack);
  if (v && typeof v === "object") {
    if (typeof v.$bin === "string") return Buffer.from(v.$bin, "base64");
    return Object.fromEntries(Object.entries(v).map(([k, e]) => [k, unpack(e)]));
  }
  return v;
}

function connect({ client, url, namespace, share, options }) {
  const socket = share
    ? sockets.get(share).io.socket(namespace, options)
    : io(url + namespace, { forceNew: true, reconnectionDelay: 20, reconnectionDelayMax: 100, ...options });
  sockets.set(client, socket);
  if (!share) {
    socket.io.on("open", () => socket.io.engine.on("upgrade", (transport) => say({ client, on: "upgrade", transport: transport.name })));
  }
  socket.on("connect", () => say({ client, on: "connect", sid: socket.id, recovered: socket.recovered === true }));
  socket.on("connect_error", (err) => say({ client, on: "connect_error", message: err.message, data: err.data, active: socket.active }));
  socket.on("disconnect", (reason) => say({ client, on: "disconnect", reason, active: socket.active }));
  socket.onAny((event, ...args) => {
    const ack = typeof args[args.length - 1] === "function" ? args.pop() : null;
    say({ client, event, args: pack(args) });
    if (ack && args[0] !== "silence") ack(...args);
  });
}

function call(socket, { event, args, timeout }) {
  return new Promise((resolve) => {
    const late = setTimeout(() => resolve({ error: "timeout" }), timeout);
    socket.emit(event, ...unpack(args), (...answer) => {
      clearTimeout(late);
      resolve({ args: pack(answer) });
    });
  });
}

// burst emits the numbers 0 to n-1, a few on each turn of the event loop.
function burst(socket, { event, n }) {
  return new Promise((resolve) => {
    let i = 0;
    const turn = () => {
      for (let k = 0; k < 3 && i < n; k++) socket.emit(event, i++);
      if (i < n) setTimeout(turn, 1);
      else resolve({});
    };
    turn();
  });
}

async function run(command) {
  const socket = sockets.get(command.client);
  switch (command.do) {
    case "connect": return connect(command);
    case "emit": return void socket.emit(command.event, ...unpack(command.args));
    case "volatile": return void socket.volatile.emit(command.event, ...unpack(command.args));
    case "call": return call(socket, command);
    case "burst": return burst(socket, command);
    case "disconnect": return void socket.disconnect();
    case "reconnect": return void socket.connect();
    case "lose": return void socket.io.engine.close();
    case "move": return void (socket.io.uri = command.url);
    case "restart": return void socket.disconnect().connect();
    case "transport": return { args: [socket.io.engine.transport.name] };
    case "pause": return new Promise((resolve) => setTimeout(() => resolve({}), command.timeout));
    default: return { error: "unknown command " + command.do };
  }
}

require("readline")
  .createInterface({ input: process.stdin })
  .on("line", async (line) => {
    const command = JSON.parse(line);
    let answer;
    try {
      answer = await run(command);
    } catch (err) {
      answer = { error: String(err) };
    }
    say({ id: command.id, ...answer });
  })
  .on("close", () => process.exit(0));

say({ ready: true });
