"use strict";
// The page asks for everything every two seconds, and shows texts as texts: what a client has named is never markup.
const every = 2000, goneFor = 10 * 60 * 1000, backTime = 10 * 1000;
const $ = (id) => document.getElementById(id);
const nodes = new Map(); // by tag: {now, before, row, goneAt}

function el(name, text, className) {
  const e = document.createElement(name);
  if (text !== undefined) e.textContent = text;
  if (className) e.className = className;
  return e;
}
function cell(label, content, className) {
  const td = el("td", undefined, className);
  td.dataset.label = label;
  td.append(content);
  return td;
}
function button(text, label, act, danger) {
  const b = el("button", text, danger ? "danger" : "");
  b.type = "button";
  b.setAttribute("aria-label", label);
  b.addEventListener("click", act);
  return b;
}
const count = (n) => n.toLocaleString("en");
function bytes(n) {
  if (n < 1024) return n + " B";
  const units = ["KiB", "MiB", "GiB"];
  let i = -1;
  do { n /= 1024; i++; } while (n >= 1024 && i < 2);
  return n.toFixed(n < 10 ? 1 : 0) + " " + units[i];
}
function span(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * size) return Math.floor(seconds / size) + " " + unit;
  }
  return Math.floor(seconds) + " s";
}
function rate(n, key) {
  const { now, before } = n;
  if (!now.status || !before || !before.status) return "–";
  const r = (now.status[key] - before.status[key]) / ((now.at - before.at) / 1000);
  return r < 0 ? "–" : r < 10 ? r.toFixed(1) : count(Math.round(r));
}

const here = location.origin + location.pathname; // an address with a password in it is none for fetch
async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const res = await fetch(new URL(path, here), { ...options, signal: AbortSignal.timeout(15000) });
  const out = await res.json();
  if (!res.ok) throw new Error(out.error || res.statusText);
  return out;
}

// sure asks before something that cannot be undone.
function sure(text, yes) {
  $("sure-text").textContent = text;
  $("yes").textContent = yes;
  const d = $("sure");
  d.returnValue = "no";
  d.showModal();
  return new Promise((resolve) => d.addEventListener("close", () => resolve(d.returnValue === "yes"), { once: true }));
}

function state(n) {
  const td = el("td", undefined, "wide state");
  const say = (text, className) => td.append(el("div", text, className));
  const { now } = n;
  if (n.goneAt) say("gone since " + new Date(n.goneAt).toLocaleTimeString() + ": it has ended, or nobody hears it", "bad");
  else if (!now.status) say("silent: " + now.silent, "bad");
  else if (now.draining) say("draining", "warn");
  else if (now.status.reason) say("not ready: " + now.status.reason, "bad");
  else say("ready", "good");
  if (!n.goneAt && now.status) for (const w of now.status.warnings || []) say(w, "warn");
  return td;
}

function nodeRow(tag, n) {
  const { now } = n, s = now.status;
  const row = el("tr", undefined, n.goneAt ? "gone" : "");
  row.dataset.node = now.name;
  const name = el("th", now.name);
  name.scope = "row";
  name.append(el("div", [now.version, now.address, tag].filter(Boolean).join(" · "), "soft"));
  const v = (key) => (s ? count(s[key]) : "–");
  row.append(name, state(n),
    cell("Connections", count(s ? s.connections : now.connections), "number"),
    cell("Emitted/s", rate(n, "emitted"), "number"), cell("Sent/s", rate(n, "delivered"), "number"),
    cell("Received/s", rate(n, "events"), "number"),
    cell("Waiting", s ? bytes(s.queued) + (s.behind ? " for " + count(s.behind) : "") : "–", "number" + (s && s.behind ? " warn" : "")),
    cell("Gaps", v("gaps"), "number" + (s && s.gaps ? " warn" : "")), cell("Slow, closed", v("slow"), "number"),
    cell("Unwanted", v("unwanted"), "number"), cell("Up", s ? span(s.uptime) : "–", "number"));
  const td = el("td");
  if (!n.goneAt && !now.draining) td.append(n.drain ||= button("Drain", "Drain node " + now.name, () => drain(tag, now.name), true));
  row.append(td);
  return row;
}

async function drain(tag, name) {
  if (!(await sure("Drain " + name + "? It sends its clients to other nodes and ends. What supervises it may start it again.", "Drain " + name))) return;
  try {
    await ask("api/drain", { node: tag });
    $("summary").textContent = name + " drains.";
  } catch (e) { $("summary").textContent = e.message; }
}

// kept is the button that a table had last time, so that the focus can stay on it.
const buttons = { slow: new Map(), sockets: new Map() };
function kept(table, key, make) {
  if (!buttons[table].has(key)) buttons[table].set(key, make());
  return buttons[table].get(key);
}

// replace shows the rows that make makes in place of others, and leaves the focus where it was: a button loses it when its
// row is made.
function replace(body, make) {
  const focused = document.activeElement;
  body.replaceChildren(...make());
  if (focused && focused !== document.activeElement && document.contains(focused)) focused.focus({ preventScroll: true });
}

// isBack says whether a node has started under the name of n, which is gone: Back of package server.
function isBack(view, n) {
  return view.nodes.some((o) => o.name === n.now.name && Date.parse(o.since) > n.goneAt - backTime);
}

function show(view) {
  const at = Date.parse(view.at), seen = new Set();
  for (const now of view.nodes) {
    now.at = at;
    seen.add(now.tag);
    const n = nodes.get(now.tag) || {};
    if (!n.now || n.now.at !== at) Object.assign(n, { before: n.now, now });
    n.goneAt = 0;
    nodes.set(now.tag, n);
  }
  for (const [tag, n] of nodes) {
    if (!seen.has(tag)) n.goneAt ||= at;
    if (n.goneAt && (at - n.goneAt > goneFor || isBack(view, n))) nodes.delete(tag);
  }
  for (const g of view.gone) { // before this page began
    if (!nodes.has(g.tag)) nodes.set(g.tag, { now: { name: g.name, version: g.version, tag: g.tag, connections: 0, at }, goneAt: Date.parse(g.at) });
  }
  const sorted = [...nodes].sort(([, a], [, b]) => a.now.name.localeCompare(b.now.name));
  replace($("nodes").tBodies[0], () => sorted.map(([tag, n]) => nodeRow(tag, n)));

  const live = sorted.filter(([, n]) => !n.goneAt).map(([, n]) => n);
  const bad = sorted.filter(([, n]) => n.goneAt || !n.now.status || n.now.status.reason).length;
  const clients = live.reduce((sum, n) => sum + (n.now.status ? n.now.status.connections : n.now.connections), 0);
  $("summary").textContent = `${live.length} ${live.length === 1 ? "node" : "nodes"}, ${count(clients)} ${clients === 1 ? "connection" : "connections"}` + (bad ? `, ${bad} to look at` : "");
  document.title = (bad ? "⚠ " : "") + "Tether: " + $("summary").textContent;
  $("uncertain").hidden = !view.uncertain;
  $("uncertain").textContent = view.uncertain ? "The list may be wrong: " + view.uncertain : "";

  const slow = live.flatMap((n) => ((n.now.status && n.now.status.slowest) || []).map((c) => ({ ...c, node: n.now.name }))).sort((a, b) => b.bytes - a.bytes);
  $("slow").hidden = slow.length === 0;
  $("no-slow").hidden = slow.length > 0;
  replace($("slow").tBodies[0], () => slow.map((c) => {
    const row = el("tr");
    row.append(cell("Connection", el("code", c.connection)), cell("Node", c.node), cell("Waiting", bytes(c.bytes), "number"),
      cell("", kept("slow", c.connection, () => button("Find", "Find connection " + c.connection, () => { $("kind").value = "connection"; $("name").value = c.connection; find(); }))));
    return row;
  }));
  for (const key of buttons.slow.keys()) if (!slow.some((c) => c.connection === key)) buttons.slow.delete(key);
}

// follow has the nodes follow what they emit to what was found, and shows its last events.
const following = { target: null, until: 0 };
async function follow() {
  const target = { [$("kind").value]: $("name").value, namespace: $("namespace").value };
  try {
    const out = await ask("api/follow", target);
    Object.assign(following, { target, until: Date.now() + out.seconds * 1000 });
    $("following").textContent = "Nodes follow what they emit to it, and what it sends." + out.missing.map((m) => ` ${m.node} does not: ${m.why}.`).join("");
    await showEvents();
  } catch (e) { $("following").textContent = e.message; }
}
async function showEvents() {
  if (!following.target) return;
  const out = await ask("api/followed", following.target);
  const rows = out.events.toReversed().flatMap((e) => {
    if (e.from) return [{ e, node: e.by, connection: e.from, outcome: "received from it" }];
    const from = (e.arrivals || []).flatMap((a) => (a.clients && a.clients.length ? a.clients : [{ connection: "–", outcome: "nobody was there any more" }]).map((c) => ({ ...c, node: a.node })));
    return (from.length ? from : [{ node: "–", connection: "–", outcome: e.error || (e.receipts || []).join("; ") }]).map((c) => ({ ...c, e }));
  });
  $("events").hidden = rows.length === 0;
  $("events").tBodies[0].replaceChildren(...rows.map((c) => {
    const row = el("tr"), dropped = c.dropped ? "dropped: " : "";
    row.append(cell("Event", el("code", c.e.name), "wide"), cell("At", c.e.at ? new Date(c.e.at).toLocaleTimeString() + (c.e.from ? "" : " by " + c.e.by) : "–"), cell("Node", c.node),
      cell("Connection or socket", el("code", c.connection)), cell("Outcome", dropped + c.outcome, dropped ? "bad" : c.waiting ? "warn" : ""),
      cell("Written after", c.written && c.e.at ? Math.max(0, Date.parse(c.written) - Date.parse(c.e.at)) + " ms" : "–", "number"));
    return row;
  }));
  if (Date.now() > following.until) {
    $("following").textContent = "The minute is over.";
    following.target = null;
  }
}

let failures = 0;
async function refresh() {
  try {
    if (!document.hidden) {
      show(await ask("api/cluster"));
      await showEvents().catch((e) => { $("following").textContent = e.message; });
      findAgain();
      failures = 0;
      $("live").className = "";
      $("live").textContent = "as of " + new Date().toLocaleTimeString();
    }
  } catch (e) {
    if (++failures > 1) $("live").className = "lost";
    $("live").textContent = "this node does not answer: " + e.message;
  }
  setTimeout(refresh, every);
}

function socketRow(s) {
  const row = el("tr");
  row.dataset.socket = s.id;
  const name = el("td", undefined, "wide");
  name.append(el("code", s.id), el("div", "connection " + s.connection, "soft"));
  const rooms = s.rooms.slice(0, 20).join(", ") + (s.rooms.length > 20 ? " and " + (s.rooms.length - 20) + " more" : "");
  const act = el("td");
  act.append(kept("sockets", s.id, () => button("Kick", "Disconnect socket " + s.id, () => kick(s), true)));
  row.append(name, cell("Node", s.node), cell("Transport", s.transport), cell("Address", s.address || "–"),
    cell("Since", s.since ? new Date(s.since).toLocaleString() : "–"), cell("Rooms", rooms || "–", "wide"),
    cell("Waiting", s.queued ? bytes(s.queued) : "< 4 KiB", "number" + (s.queued ? " warn" : "")), act);
  return row;
}

async function kick(s) {
  if (!(await sure("Disconnect socket " + s.id + "? Its connection is closed, and the client does not come back by itself.", "Disconnect"))) return;
  try {
    const out = await ask("api/kick", { socket: s.id, namespace: s.namespace, close: true });
    await (found ? findAgain() : find());
    $("kicked").textContent = `${out.sockets} disconnected: ${s.id}.`;
  } catch (e) { $("kicked").textContent = e.message; }
  $("kicked").focus(); // the button has gone
}

// found is what was searched for, while it is asked for again and again: {kind, name, again, busy}.
let found = null;
async function find() {
  const kind = $("kind").value, name = $("name").value, namespace = $("namespace").value;
  found = null;
  $("kicked").textContent = "";
  $("found").textContent = "Asking the nodes …";
  $("found").focus();
  try {
    const out = await ask("api/find", { [kind]: name, namespace });
    $("follow-line").hidden = kind === "connection";
    $("events").hidden = true;
    $("following").textContent = "";
    following.target = null;
    buttons.sockets.clear();
    showFound(kind, name, out);
    // A connection has one socket in a namespace, which is found without asking for all.
    const again = kind === "connection" && out.sockets.length ? { socket: out.sockets[0].id, namespace } : { [kind]: name, namespace };
    if (out.sockets.length <= 50 && (kind !== "connection" || again.socket)) found = { kind, name, again };
  } catch (e) {
    $("sockets").hidden = true;
    $("found").textContent = e.message;
  }
}
async function findAgain() {
  const f = found;
  if (!f || f.busy) return; // a node that is silent is waited for
  f.busy = true;
  try {
    const out = await ask("api/find", f.again);
    if (f === found) showFound(f.kind, f.name, out);
  } catch (e) {
    if (f === found) $("found").textContent = e.message;
  }
  f.busy = false;
}
function showFound(kind, name, out) {
  $("sockets").hidden = out.sockets.length === 0;
  replace($("sockets").tBodies[0], () => out.sockets.map(socketRow));
  const on = new Set(out.sockets.map((s) => s.tag)).size;
  let text = out.sockets.length === 0 ? `No socket of ${kind} ${name} is there.` : `${out.sockets.length} ${out.sockets.length === 1 ? "socket" : "sockets"} on ${on} ${on === 1 ? "node" : "nodes"}.`;
  if (out.more) text += " There are more.";
  for (const m of out.missing) text += ` ${m.node || "A node"} has not answered: ${m.why}.`;
  if ($("found").textContent !== text) $("found").textContent = text; // what is said again is read again
}

$("follow").addEventListener("click", follow);
$("find").addEventListener("submit", (e) => { e.preventDefault(); find(); });
document.addEventListener("keydown", (e) => {
  if (e.key !== "/" || e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName) || $("sure").open) return;
  e.preventDefault();
  $("name").focus();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) ask("api/cluster").then(show, () => {}); });
refresh();
