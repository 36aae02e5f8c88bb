// The page's side of the board. Every event below is checked against what the server declares: see events.ts.
import { io, Socket } from "socket.io-client";
import type { ClientToServerEvents, Draft, Note, ServerToClientEvents } from "./events";

const socket: Socket<ServerToClientEvents, ClientToServerEvents> = io();

socket.on("posted", (note) => print(note));
socket.on("writes", (user) => console.log(user + " writes"));
socket.on("confirm", (question, answer) => answer(confirm(question.text)));

export async function post(draft: Draft): Promise<Note | null> {
  socket.emit("typing", draft.title);
  return socket.timeout(5000).emitWithAck("post", draft);
}

export function postOrSay(draft: Draft): void {
  socket.timeout(5000).emit("post", draft, (err, note, refusal) => {
    if (err) console.log("no answer in time");
    else if (note) print(note);
    else console.log(refusal?.message);
  });
}

function print(note: Note): void {
  console.log(`#${note.id} ${note.title} by ${note.author ?? "nobody"}, ${note.color}`);
}
