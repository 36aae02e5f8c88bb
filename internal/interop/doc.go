// Package interop tests the server with the clients that people have: two major versions of npm's
// socket.io-client, both clients of Python's python-socketio, over each of their transports, and a page
// in Chromium. A test drives them through client.js and client.py, and compares what they say happened
// to them, in order.
//
// "npm ci" in this folder installs npm's clients; TETHER_NODE_MODULES names another folder that has
// them. Debian's python3-socketio, python3-requests, python3-websocket and python3-aiohttp are Python's.
// What is missing is skipped, unless TETHER_TEST_REQUIRE_REAL=1. TETHER_CHROMIUM names a browser other
// than that on PATH, and TETHER_SCREENSHOT_DIR a folder for pictures of the pages.
package interop
