// The front-end code of the guides that is in no example.
socket.on("/users/ping", ({ hello }) => console.log(hello));
const socket = io({ auth: { user: "42" } });
socket.on("/users/ping", ({ hello }) => console.log(hello));
