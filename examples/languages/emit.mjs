// Node 18 or newer, without any package: node emit.mjs
const { HUB_URL, HUB_KEY } = process.env;

async function emit(user, event, ...args) {
  const response = await fetch(`${HUB_URL}/emit`, {
    method: "POST",
    headers: { authorization: `Bearer ${HUB_KEY}`, "content-type": "application/json" },
    body: JSON.stringify({ user, event, args }),
    signal: AbortSignal.timeout(5000),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${response.status} ${answer.error}`);
  return answer.nodes; // 0: nobody is there; null: the broker cannot tell
}

const nodes = await emit(42, "/users/ping", { hello: "from Node" });
console.log(nodes === 0 ? "offline: send a mail" : `told, through ${nodes} node(s)`);
