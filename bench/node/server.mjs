// A Socket.IO server for comparison, with the control port that bench run speaks.
//
//   node --expose-gc server.mjs [--redis URL] [--psychic] [--emitter]
//
// Without --psychic a user is a room. With it users are registered and emitted to as Psychic does:
// a list of socket IDs in Redis, the last three of them, one publish for each. With --emitter there
// is no server, only a process that emits through Redis. It ends when its standard input does.

import { createServer } from "node:http";
import { parseArgs } from "node:util";

import { createAdapter } from "@socket.io/redis-adapter";
import { Emitter } from "@socket.io/redis-emitter";
import { Redis } from "ioredis";
import { Server } from "socket.io";

import { Job } from "./emit.mjs";
import { everyone } from "./marks.mjs";

const { values: options } = parseArgs({
  options: { redis: { type: "string" }, psychic: { type: "boolean" }, emitter: { type: "boolean" } },
});

const greeting = "/ops/connection-success";
const welcome = { message: "Successfully connected" };
const day = 24 * 3600;
const key = (id) => `user:${id}:socket_ids`;

const redis = options.redis ? new Redis(options.redis) : undefined;
const emitter = redis && (options.psychic || options.emitter) ? new Emitter(redis) : undefined;
let io;
let closed = 0;
let messages = 0;

async function psychicEmit(id, event, payload) {
  const ids = new Set(await redis.lrange(key(id), 0, -1));
  for (const socket of ids) emitter.of("/").to(socket).emit(event, payload);
}

async function psychicRegister(socket, id) {
  const before = await redis.lrange(key(id), -2, -1);
  await redis
    .multi()
    .del(key(id))
    .rpush(key(id), ...before, socket.id)
    .expireat(key(id), Math.floor(Date.now() / 1000) + day)
    .exec();
  socket.on("disconnect", () => redis.lrem(key(id), 1, socket.id).catch(() => {}));
  await psychicEmit(id, greeting, welcome);
}

async function connected(socket) {
  socket.on("disconnect", () => closed++);
  const id = socket.handshake.auth.user;
  if (!id) return;
  if (options.psychic) return psychicRegister(socket, id);
  await socket.join(`user:${id}`);
  socket.emit(greeting, welcome);
}

function send(user, payload) {
  const target = emitter ?? io;
  if (user === everyone) target.emit("m", payload);
  else if (options.psychic) return psychicEmit(`u${user}`, "m", payload);
  else target.to(`user:u${user}`).emit("m", payload);
}

const listen = (server) =>
  new Promise((done) => server.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, () => done(`http://127.0.0.1:${server.address().port}`)));

let job;

async function body(req) {
  let text = "";
  for await (const chunk of req) text += chunk;
  return JSON.parse(text || "{}");
}

const control = {
  "GET /stats": () => ({
    connections: io ? io.engine.clientsCount : 0, messages, closed, emitted: job?.emitted ?? 0,
  }),
  "POST /gc": () => {
    globalThis.gc?.();
    globalThis.gc?.();
    const m = process.memoryUsage();
    return { heap: m.heapUsed + m.external, stack: 0, total: m.rss };
  },
  "POST /received": async (req) => {
    const { n } = await body(req);
    if (job) job.received = n;
    return {};
  },
  "POST /emit": async (req, res) => {
    job = new Job(await body(req), send);
    const mine = job;
    res.on("close", () => (mine.stopped = !res.writableEnded));
    return mine.run();
  },
};

const controlServer = createServer(async (req, res) => {
  const handle = control[`${req.method} ${req.url}`];
  try {
    if (!handle) return res.writeHead(404).end();
    const answer = await handle(req, res);
    res.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(answer));
  } catch (err) {
    res.writeHead(400).end(String(err));
  }
});
controlServer.requestTimeout = 0;

const announcement = { control: await listen(controlServer) };
if (!options.emitter) {
  const http = createServer();
  io = new Server(http);
  if (redis) {
    const sub = redis.duplicate();
    io.adapter(createAdapter(redis, sub));
    sub.on("pmessageBuffer", () => messages++);
  }
  io.on("connection", (socket) => connected(socket).catch(() => socket.disconnect(true)));
  announcement.url = await listen(http);
}
console.log(JSON.stringify(announcement));
process.stdin.on("end", () => process.exit(0)).resume();
