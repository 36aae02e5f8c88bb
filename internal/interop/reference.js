"use strict";
// Says what the reference parsers of npm make of bytes and of values: a line of JSON on standard input is
// a list of questions, one on standard output the list of answers. reference_test.go describes both.

const { Decoder, Encoder } = require("socket.io-parser");
const { decodePayload, encodePayload } = require("engine.io-parser");

// pack makes values comparable that JSON does not have, and bytes a string of base64.
function pack(v) {
  if (Buffer.isBuffer(v)) return v.toString("base64");
  if (Array.isArray(v)) return v.map((e) => (e === undefined ? { $undefined: true } : pack(e)));
  if (v && typeof v === "object") return Object.fromEntries(Object.entries(v).map(([k, e]) => [k, e === undefined ? { $undefined: true } : pack(e)]));
  if (typeof v === "number" && !Number.isFinite(v)) return { $number: String(v) };
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

// packet decodes the text of a Socket.IO packet. Its attachments are those given, or else bytes that are
// their numbers.
function packet(text, given) {
  const decoder = new Decoder();
  let p;
  decoder.on("decoded", (decoded) => (p = decoded));
  let attachments = 0;
  try {
    decoder.add(text);
    while (decoder.reconstructor) decoder.add(given ? given[attachments++] : Buffer.from([attachments++]));
  } catch (err) {
    return { error: String(err.message), attachments };
  }
  return {
    type: p.type,
    namespace: p.nsp,
    id: p.id === undefined ? "" : String(p.id),
    attachments,
    none: p.data === undefined,
    data: p.data === undefined ? null : pack(p.data),
    event: p.type === 2 && p.data !== undefined ? String(p.data[0]) : "",
  };
}

function payload(text) {
  return {
    packets: decodePayload(text, "nodebuffer").map(({ type, data }) => ({
      type,
      binary: Buffer.isBuffer(data),
      data: pack(data === undefined ? "" : data),
    })),
  };
}

function answer(q) {
  const text = Buffer.from(q.text || "", "base64").toString("utf8");
  switch (q.ask) {
    case "packet":
      return packet(text, q.attachments && q.attachments.map((a) => Buffer.from(a, "base64")));
    case "payload":
      return payload(text);
    case "encode": {
      const [head, ...attachments] = new Encoder().encode(unpack(q.packet));
      return { text: Buffer.from(head).toString("base64"), buffers: attachments.map(pack) };
    }
    case "join": {
      let joined;
      encodePayload(q.packets.map(unpack), (s) => (joined = s));
      return { text: Buffer.from(joined).toString("base64") };
    }
  }
  return { error: "unknown question" };
}

require("readline")
  .createInterface({ input: process.stdin })
  .on("line", (line) => process.stdout.write(JSON.stringify(JSON.parse(line).map(answer)) + "\n"))
  .on("close", () => process.exit(0));
