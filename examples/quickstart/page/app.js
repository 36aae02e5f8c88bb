"use strict";

const $ = (id) => document.getElementById(id);
const MAX_EVENTS = 200; // that the page keeps

let socket = null;

// --- login: the server seals the user into a token, the page keeps it for this tab ---

$("login").addEventListener("submit", async (e) => {
  e.preventDefault();
  const user = $("login-user").value;
  const answer = await post("login", { user });
  if (answer.error) return notice(answer.error);
  sessionStorage.setItem("user", user);
  sessionStorage.setItem("token", answer.token);
  connect();
});

$("logout").addEventListener("submit", (e) => {
  e.preventDefault();
  logout("");
});

function logout(why) {
  sessionStorage.clear();
  if (socket) socket.disconnect();
  socket = null;
  show("not connected", "");
  loggedIn(null);
  notice(why);
}

function hasClient() {
  if (typeof io !== "undefined") return true;
  notice("This page has no Socket.IO client: the server has not sent socket.io.min.js. See whether it still runs, and reload the page.");
  return false;
}

// --- the connection: a stock Socket.IO client that shows its token ---

function connect() {
  const user = sessionStorage.getItem("user");
  loggedIn(user);
  notice("");
  if (!hasClient()) return;
  if (socket) socket.disconnect();

  socket = io({ auth: (cb) => cb({ token: sessionStorage.getItem("token") }) });
  show("connecting", "wait");

  socket.on("connect", () => {
    show("connected", "good");
    notice("");
    socket.io.engine.on("upgrade", () => show("connected", "good"));
  });
  socket.on("disconnect", (reason) => {
    show(socket && socket.active ? "reconnecting" : "disconnected: " + reason, socket && socket.active ? "wait" : "bad");
  });
  socket.on("connect_error", (err) => {
    if (err.message === "unauthorized") {
      return logout("The hub did not take the token: it has expired, or the server was started anew. Log in again.");
    }
    show(socket && socket.active ? "reconnecting" : "refused: " + err.message, "wait");
  });
  socket.onAny((event, ...args) => arrived(event, args));
}

// --- emitting: the same request that curl can make ---

$("emit").addEventListener("submit", async (e) => {
  e.preventDefault();
  let args = [];
  try {
    if ($("payload").value.trim() !== "") args = [JSON.parse($("payload").value)];
  } catch (err) {
    return receipt("The payload is not JSON: " + err.message, "bad");
  }
  receipt("…", "");
  const answer = await post("emit", { user: $("to").value, event: $("event").value, args });
  if (answer.error) return receipt(answer.error, "bad");
  receipt(answer.receipt, answer.nodes === 0 ? "nobody" : "good");
});

async function post(path, body) {
  try {
    const response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    return await response.json();
  } catch {
    return { error: "The server does not answer." };
  }
}

// --- what is on the page ---

function arrived(event, args) {
  const item = document.createElement("li");
  const head = item.appendChild(document.createElement("div"));
  head.className = "head";
  const name = head.appendChild(document.createElement("span"));
  name.className = "name";
  name.textContent = event;
  const time = head.appendChild(document.createElement("time"));
  time.textContent = new Date().toLocaleTimeString();
  if (args.length > 0) {
    item.appendChild(document.createElement("pre")).textContent = args.map((a) => JSON.stringify(a)).join("\n");
  }
  $("events").prepend(item);
  while ($("events").children.length > MAX_EVENTS) $("events").lastElementChild.remove();
  $("empty").hidden = true;
}

$("clear").addEventListener("click", () => {
  $("events").replaceChildren();
  $("empty").hidden = false;
});

function loggedIn(user) {
  $("user").textContent = user || "nobody";
  $("login-card").hidden = Boolean(user);
  $("token-card").hidden = !user;
  $("token").textContent = sessionStorage.getItem("token") || "";
  if (!user) $("login-user").focus();
}

let shown = ["not connected", ""];
let deaf = false; // the node's broker is away: it has clients, and no events

function show(status, kind) {
  shown = [status, kind];
  if (kind === "good" && deaf) [status, kind] = ["connected, but the node's broker is away", "wait"];
  $("status").textContent = status;
  $("dot").className = "dot " + kind;
  const engine = socket && socket.io.engine;
  $("transport").textContent = socket && socket.connected && engine ? engine.transport.name : "none";
}

function receipt(text, kind) {
  $("receipt").textContent = text;
  $("receipt").className = kind;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

async function watchBroker() {
  try {
    deaf = (await fetch("ready")).status === 503;
    show(...shown);
  } catch {
    // the server is gone, which the socket notices by itself
  }
  setTimeout(watchBroker, 2000);
}

// This script comes before the client's, so that the forms work however long that takes.
document.querySelectorAll("button").forEach((b) => (b.disabled = false));
addEventListener("DOMContentLoaded", () => {
  if (hasClient() && sessionStorage.getItem("token")) connect();
  watchBroker();
});
