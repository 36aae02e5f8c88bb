// The cases of the official test suites of Engine.IO 4 and Socket.IO 5, with their timings and with the clients
// that they use: "node suites.js http://HOST:PORT engine" and "… socket". Prints a line of JSON for each case,
// {"case":NAME,"error":TEXT}, without an error if there is none, and {"done":true}.
//
// The cases are about fractions of a second. So one that fails while this process was kept waiting says nothing,
// and is tried again; if that is so every time, the line has "disturbed":true.
"use strict";

const assert = require("node:assert");
const http = require("node:http");
const { WebSocket } = require("ws");

const [base, suite] = process.argv.slice(2);
const interval = 300, timeout = 200, maxPayload = 1e6;
const path = suite === "engine" ? "/engine.io/" : "/socket.io/";

const address = (query, scheme) => `${scheme || "http"}${base.slice(4)}${path}?${query}`;
const polling = "EIO=4&transport=polling";

// request resolves to the status and the body of the answer.
function request(query, method, body) {
  return new Promise((resolve, reject) => {
    const r = http.request(address(query), { method: method || "GET", headers: body ? { "content-type": "text/plain;charset=UTF-8" } : {} }, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (part) => (text += part)).on("end", () => resolve([answer.statusCode, text])).on("error", reject);
    });
    r.on("error", reject).end(body);
  });
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// once resolves to the next event; what came before it was called is lost, as in the suites.
const once = (ws, type) => new Promise((resolve) => ws.addEventListener(type, resolve, { once: true }));
const message = async (ws) => (await once(ws, "message")).data;

const sockets = [];
function dial(query) {
  const ws = new WebSocket(address(query, "ws"));
  ws.binaryType = "arraybuffer";
  ws.on("error", () => {}); // a refusal
  sockets.push(ws);
  return ws;
}
const connect = (sid) => dial("EIO=4&transport=websocket" + (sid ? "&sid=" + sid : ""));

async function open() {
  const [, text] = await request(polling);
  return JSON.parse(text.slice(1)).sid;
}

function checkOpen(text, upgrades) {
  assert.strictEqual(text[0], "0");
  const { sid, ...rest } = JSON.parse(text.slice(1));
  assert.strictEqual(typeof sid, "string");
  assert.deepStrictEqual(rest, { upgrades, pingInterval: interval, pingTimeout: timeout, maxPayload });
}

const refused = async (query, method) => assert.strictEqual((await request(query, method))[0], 400);
const bytes = (...list) => Uint8Array.from(list).buffer;

const cases = [];
const add = (name, run, limit) => cases.push({ name, run, limit: limit || 2000 });

add("polling: a session is opened", async () => {
  const [status, text] = await request(polling);
  assert.strictEqual(status, 200);
  checkOpen(text, ["websocket"]);
});
add("polling: a wrong version is refused", async () => {
  await refused("transport=polling");
  await refused("EIO=abc&transport=polling");
});
add("polling: a wrong transport is refused", async () => {
  await refused("EIO=4");
  await refused("EIO=4&transport=abc");
});
add("polling: a wrong method is refused", async () => {
  await refused(polling, "POST");
  await refused(polling, "PUT");
});
add("websocket: a session is opened", async () => {
  const ws = connect();
  checkOpen(await message(ws), []);
});
add("websocket: a wrong version is refused", async () => {
  for (const query of ["transport=websocket", "EIO=abc&transport=websocket"]) await once(dial(query), "close");
});
add("websocket: a wrong transport is refused", async () => {
  for (const query of ["EIO=4", "EIO=4&transport=abc"]) await once(dial(query), "close");
});

if (suite === "engine") {
  for (const [what, body] of [
    ["a text", "4hello"],
    ["several texts", "4test1\x1e4test2\x1e4test3"],
    ["a text and bytes", "4hello\x1ebAQIDBA=="],
  ]) {
    add(`polling: ${what} come back`, async () => {
      const session = `${polling}&sid=${await open()}`;
      assert.deepStrictEqual(await request(session, "POST", body), [200, "ok"]);
      assert.deepStrictEqual(await request(session), [200, body]);
    });
  }
  add("polling: a packet that is none ends the session", async () => {
    const session = `${polling}&sid=${await open()}`;
    await request(session, "POST", "abc").catch(() => {}); // any answer will do, none as well
    await refused(session);
  });
  add("polling: a second poll ends the session", async () => {
    const session = `${polling}&sid=${await open()}`;
    const [first, second] = await Promise.all([request(session), pause(5).then(() => request(session + "&t=burst"))]);
    assert.deepStrictEqual(first, [200, "1"]);
    assert.strictEqual(second[0], 400);
    await refused(session);
  });
  add("websocket: a text comes back", async () => {
    const ws = connect();
    await once(ws, "open");
    await message(ws);
    ws.send("4hello");
    assert.strictEqual(await message(ws), "4hello");
  });
  add("websocket: bytes come back", async () => {
    const ws = connect();
    await message(ws);
    ws.send(bytes(1, 2, 3, 4));
    assert.deepStrictEqual(await message(ws), bytes(1, 2, 3, 4));
  });
  add("websocket: a packet that is none ends the session", async () => {
    const ws = connect();
    await message(ws);
    ws.send("abc");
    await once(ws, "close");
  });
}

add("polling: pings are answered", async () => {
  const session = `${polling}&sid=${await open()}`;
  for (let i = 0; i < 3; i++) {
    assert.deepStrictEqual(await request(session), [200, "2"]);
    assert.strictEqual((await request(session, "POST", "3"))[0], 200);
  }
}, 5000);
add("polling: silence ends the session", async () => {
  const session = `${polling}&sid=${await open()}`;
  await pause(interval + timeout);
  await refused(session);
}, 5000);
add("websocket: pings are answered", async () => {
  const ws = connect();
  await message(ws);
  for (let i = 0; i < 3; i++) {
    assert.strictEqual(await message(ws), "2");
    ws.send("3");
  }
}, 5000);
add("websocket: silence ends the session", () => once(connect(), "close"), 5000);

add("polling: the client closes", async () => {
  const session = `${polling}&sid=${await open()}`;
  const [poll] = await Promise.all([request(session), request(session, "POST", "1")]);
  assert.deepStrictEqual(poll, [200, "6"]);
  await refused(session);
});
add("websocket: the client closes", async () => {
  const ws = connect();
  await message(ws);
  ws.send("1");
  await once(ws, "close");
});

async function probe(sid) {
  const ws = connect(sid);
  await once(ws, "open");
  ws.send("2probe");
  return ws;
}
async function comesBack(ws) {
  if (suite !== "engine") return;
  ws.send("4hello");
  assert.strictEqual(await message(ws), "4hello");
}
add("upgrade: from polling to websocket", async () => {
  const sid = await open();
  const ws = await probe(sid);
  assert.strictEqual(await message(ws), "3probe");
  if (suite === "engine") assert.deepStrictEqual(await request(`${polling}&sid=${sid}`), [200, "6"]);
  ws.send("5");
  await comesBack(ws);
});
add("upgrade: polls are refused afterwards", async () => {
  const sid = await open();
  const ws = await probe(sid);
  ws.send("5");
  await refused(`${polling}&sid=${sid}`);
  await comesBack(ws);
});
add("upgrade: another websocket is refused afterwards", async () => {
  const sid = await open();
  const ws = await probe(sid);
  ws.send("5");
  await once(connect(sid), "close");
  await comesBack(ws);
});

if (suite === "socket") {
  const join = async () => {
    const ws = connect();
    await message(ws); // open
    ws.send("40");
    await message(ws); // the answer
    await message(ws); // auth
    return ws;
  };
  for (const [where, ask, auth] of [["", "40", "{}"], ["", '40{"token":"123"}', '{"token":"123"}'],
    ["/custom,", "40/custom,", "{}"], ["/custom,", '40/custom,{"token":"abc"}', '{"token":"abc"}']]) {
    add(`connect: ${ask}`, async () => {
      const ws = connect();
      await message(ws);
      ws.send(ask);
      const answer = await message(ws);
      assert.ok(answer.startsWith("40" + where), answer);
      assert.deepStrictEqual(Object.keys(JSON.parse(answer.slice(2 + where.length))), ["sid"]);
      assert.strictEqual(await message(ws), `42${where}["auth",${auth}]`);
    });
  }
  add("connect: an unknown namespace is refused", async () => {
    const ws = connect();
    await message(ws);
    ws.send("40/random");
    assert.strictEqual(await message(ws), '44/random,{"message":"Invalid namespace"}');
  });
  add("connect: a packet that is none ends the session", async () => {
    const ws = connect();
    await message(ws);
    ws.send("4abc");
    await once(ws, "close");
  });
  add("connect: a client that does not is sent away", () => once(connect(), "close"));
  add("disconnect: from the main namespace", async () => {
    const ws = await join();
    ws.send("41");
    assert.strictEqual(await message(ws), "2");
  });
  add("disconnect: from another namespace", async () => {
    const ws = await join();
    await message(ws); // a ping
    ws.send("40/custom");
    await message(ws);
    await message(ws);
    ws.send("41/custom");
    ws.send('42["message","to the main namespace"]');
    assert.strictEqual(await message(ws), '42["message-back","to the main namespace"]');
  });

  const some = async (ws, n) => { // pings do not count
    const list = [];
    await new Promise((resolve) => ws.addEventListener("message", ({ data }) => {
      if (data !== "2" && list.push(data) === n) resolve();
    }));
    return list;
  };
  const two = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}';
  for (const [what, ask, answer, attachments] of [
    ["a text", '42["message",1,"2",{"3":[true]}]', '42["message-back",1,"2",{"3":[true]}]', []],
    ["bytes", `452-["message",${two}]`, `452-["message-back",${two}]`, [bytes(1, 2, 3), bytes(4, 5, 6)]],
    ["a text and its acknowledgement", '42456["message-with-ack",1,"2",{"3":[false]}]', '43456[1,"2",{"3":[false]}]', []],
    ["bytes and their acknowledgement", `452-789["message-with-ack",${two}]`, `462-789[${two}]`, [bytes(1, 2, 3), bytes(4, 5, 6)]],
  ]) {
    add(`message: ${what}`, async () => {
      const ws = await join();
      ws.send(ask);
      for (const part of attachments) ws.send(part);
      assert.deepStrictEqual(await some(ws, 1 + attachments.length), [answer, ...attachments]);
    });
  }
  for (const wrong of ["4abc", "42{}", '42abc["message-with-ack",1,"2",{"3":[false]}]']) {
    add(`message: ${wrong} ends the session`, async () => {
      const ws = await join();
      ws.send(wrong);
      await once(ws, "close");
    });
  }
}

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

// attempt runs a case once, and resolves to its error and to how late timers were meanwhile, in milliseconds.
async function attempt({ run, limit }) {
  let timer, error, late = 0, last = performance.now();
  const watch = setInterval(() => {
    const now = performance.now();
    late = Math.max(late, now - last - 5);
    last = now;
  }, 5);
  const over = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`not over after ${limit} ms`)), limit)));
  try {
    await Promise.race([run(), over]);
  } catch (e) {
    error = String(e.message);
  }
  clearTimeout(timer);
  clearInterval(watch);
  sockets.splice(0).forEach((ws) => ws.terminate());
  return { error, late };
}

(async () => {
  for (const c of cases) {
    let result, tries = 0;
    do result = await attempt(c);
    while (result.error && result.late > 5 && ++tries < 20);
    say({ case: c.name, error: result.error, disturbed: tries === 20 || undefined });
  }
  say({ done: true });
  process.exit(0);
})();
