"""Drives python-socketio for the tests: commands come as lines of JSON on standard input, and what
happens goes as lines of JSON to standard output. drive_test.go describes both.

    python3 client.py sync|async
"""

import asyncio
import base64
import json
import os
import sys
import threading
import time
import traceback

import socketio

lock = threading.Lock()
sockets = {}


def say(**line):
    with lock:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def pack(v):
    if isinstance(v, (bytes, bytearray)):
        return {"$bin": base64.b64encode(v).decode()}
    if isinstance(v, (list, tuple)):
        return [pack(e) for e in v]
    if isinstance(v, dict):
        return {k: pack(e) for k, e in v.items()}
    return v


def unpack(v):
    if isinstance(v, list):
        return [unpack(e) for e in v]
    if isinstance(v, dict):
        if isinstance(v.get("$bin"), str):
            return base64.b64decode(v["$bin"])
        return {k: unpack(e) for k, e in v.items()}
    return v


def answer_of(data):
    """The arguments of an ack: python-socketio hands over None, one value or a tuple."""
    if data is None:
        return []
    return pack(list(data)) if isinstance(data, tuple) else [pack(data)]


def parameters(command):
    """The options of npm's client that python-socketio has too."""
    options = command.get("options") or {}
    return {
        "transports": options.get("transports"),
        "auth": options.get("auth"),
        "headers": options.get("extraHeaders") or {},
        "namespaces": [command["namespace"] or "/"],
        "wait": False,
    }


def url_of(command):
    query = (command.get("options") or {}).get("query") or {}
    return command["url"] + ("?" + "&".join(k + "=" + v for k, v in query.items()) if query else "")


def handlers(sio, client, namespace):
    def connected():
        say(client=client, on="connect", sid=sio.get_sid(namespace))

    def refused(data=None):
        data = data if isinstance(data, dict) else {"message": data}
        say(client=client, on="connect_error", message=str(data.get("message")), data=data.get("data"))

    def disconnected(*args):
        say(client=client, on="disconnect")

    def arrived(event, *args):
        say(client=client, event=event, args=pack(args))
        return None if args and args[0] == "silence" else tuple(args)

    return connected, refused, disconnected, arrived


def listen(sio, client, namespace):
    names = ("connect", "connect_error", "disconnect", "*")
    for name, handler in zip(names, handlers(sio, client, namespace)):
        sio.on(name, handler, namespace=namespace)


def in_order(eio):
    """python-engineio's blocking client gives each message a thread of its own, so that messages, and
    the parts of one with attachments, may overtake each other in the client. Here they wait."""
    trigger = eio._trigger_event

    def triggered(event, *args, **kwargs):
        if event == "message":
            kwargs["run_async"] = False
        return trigger(event, *args, **kwargs)

    eio._trigger_event = triggered


RETRY = {"reconnection_delay": 0.02, "reconnection_delay_max": 0.1, "randomization_factor": 0}


class Sync:
    """One thread for each command, as an application with blocking calls would have it."""

    def run(self, command):
        do, client = command["do"], command.get("client")
        sio, namespace = sockets.get(client, (None, None))
        if do == "connect":
            namespace = command["namespace"] or "/"
            sio = socketio.Client(**RETRY)
            in_order(sio.eio)
            sockets[client] = (sio, namespace)
            listen(sio, client, namespace)
            try:
                sio.connect(url_of(command), **parameters(command))
            except socketio.exceptions.ConnectionError:
                pass  # connect_error has been told
        elif do == "emit":
            sio.emit(command["event"], tuple(unpack(command["args"])), namespace=namespace)
        elif do == "call":
            try:
                data = sio.call(command["event"], tuple(unpack(command["args"])), namespace=namespace, timeout=command["timeout"] / 1000)
            except socketio.exceptions.TimeoutError:
                return {"error": "timeout"}
            return {"args": answer_of(data)}
        elif do == "burst":
            for i in range(command["n"]):
                sio.emit(command["event"], i, namespace=namespace)
        elif do == "disconnect":
            sio.disconnect()
        elif do == "transport":
            return {"args": [sio.transport()]}
        elif do == "pause":
            time.sleep(command["timeout"] / 1000)
        else:
            return {"error": "unknown command " + do}
        return {}

    def handle(self, command):
        try:
            answer = self.run(command)
        except Exception as e:
            traceback.print_exc()
            answer = {"error": repr(e)}
        say(id=command["id"], **answer)

    def main(self):
        say(ready=True)
        for line in sys.stdin:
            threading.Thread(target=self.handle, args=(json.loads(line),), daemon=True).start()


class Async:
    async def run(self, command):
        do, client = command["do"], command.get("client")
        sio, namespace = sockets.get(client, (None, None))
        if do == "connect":
            namespace = command["namespace"] or "/"
            sio = socketio.AsyncClient(**RETRY)
            sockets[client] = (sio, namespace)
            listen(sio, client, namespace)
            try:
                await sio.connect(url_of(command), **parameters(command))
            except socketio.exceptions.ConnectionError:
                pass  # connect_error has been told
        elif do == "emit":
            await sio.emit(command["event"], tuple(unpack(command["args"])), namespace=namespace)
        elif do == "call":
            try:
                data = await sio.call(command["event"], tuple(unpack(command["args"])), namespace=namespace, timeout=command["timeout"] / 1000)
            except socketio.exceptions.TimeoutError:
                return {"error": "timeout"}
            return {"args": answer_of(data)}
        elif do == "burst":
            for i in range(command["n"]):
                await sio.emit(command["event"], i, namespace=namespace)
        elif do == "disconnect":
            await sio.disconnect()
        elif do == "transport":
            return {"args": [sio.transport()]}
        elif do == "pause":
            await asyncio.sleep(command["timeout"] / 1000)
        else:
            return {"error": "unknown command " + do}
        return {}

    async def handle(self, command):
        try:
            answer = await self.run(command)
        except Exception as e:
            traceback.print_exc()
            answer = {"error": repr(e)}
        say(id=command["id"], **answer)

    async def serve(self):
        say(ready=True)
        loop = asyncio.get_running_loop()
        tasks = set()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            task = loop.create_task(self.handle(json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def main(self):
        asyncio.run(self.serve())


(Sync if sys.argv[1] == "sync" else Async)().main()
os._exit(0)  # the clients' own threads would go on
