// The front-end code of the guides that is in no example.
socket.on("/users/ping", ({ hello }) => console.log(hello));
