#!/usr/bin/env python3
"""Measures what docs/reliability.md says of queen, hive and worker. Needs nothing but Python's own library.

    cargo build --release --bin rbee
    python3 tools/reliability.py --rbee target/release/rbee [delay listeners restart cancel death]

Every measurement has a queen of its own, in a folder and on ports of its own.
"""

import argparse
import http.client
import json
import os
import selectors
import signal
import socket
import statistics
import subprocess
import tempfile
import time

QUICK = {"operation": "image_generation", "prompt": "a tree", "steps": 1, "seed": 7, "scheduler": "ddim", "width": 64, "height": 64}
SLOW = {"operation": "image_generation", "prompt": "a house", "steps": 150, "seed": 7, "scheduler": "ddim", "count": 64}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """One server of ours, over one connection that is kept."""

    def __init__(self, port):
        self.port = port
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, method, path, body=None):
        headers = {"content-type": "application/json"}
        self.connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text) if text[:1] in (b"{", b"[") else text

    def submit(self, operation):
        return self.ask("POST", "/v1/jobs", operation)["job_id"]

    def events(self, job, after=0):
        """The job's events with the time at which each came."""
        stream = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        stream.request("GET", f"/v1/jobs/{job}/stream", headers={"last-event-id": str(after)})
        answer = stream.getresponse()
        for line in answer:
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                yield time.perf_counter(), event
                if event["type"] in ("complete", "error", "cancelled"):
                    break
        stream.close()

    def end(self, job):
        *_, last = self.events(job)
        return last


class House:
    """A queen in a folder and on ports of her own."""

    def __init__(self, rbee):
        self.rbee, self.port = os.path.abspath(rbee), free_port()
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("RBEE_", "XDG_"))}
        self.environment |= {"HOME": self.folder.name, "RBEE_HIVE_PORT": "0", "RBEE_OFFLINE": "true", "RBEE_LOG": "warn"}
        self.process = None
        self.start()

    def start(self):
        arguments = [self.rbee, "queen", "--port", str(self.port)]
        self.process = subprocess.Popen(arguments, env=self.environment, stderr=subprocess.DEVNULL)
        began = time.perf_counter()
        while True:
            try:
                Server(self.port).ask("GET", "/ready")
                return time.perf_counter() - began
            except (OSError, RuntimeError, http.client.HTTPException):
                time.sleep(0.002)

    def queen(self):
        return Server(self.port)

    def workers(self):
        queen = self.queen()
        _, event = queen.end(queen.submit({"operation": "worker_process_list"}))
        return event["result"]["workers"]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.folder.cleanup()


def milliseconds(seconds):
    return f"{1000 * seconds:.2f} ms"


def spread(times):
    ordered = sorted(times)
    return f"p50 {milliseconds(statistics.median(ordered))}, p95 {milliseconds(ordered[int(0.95 * (len(ordered) - 1))])}"


def delay(rbee, jobs=200):
    """The same job asked of a worker directly and through queen and hive, in turns."""
    with House(rbee) as house:
        queen = house.queen()
        queen.end(queen.submit(QUICK))
        worker = Server(int(house.workers()[0]["url"].rsplit(":", 1)[1]))

        def once(server):
            began = time.perf_counter()
            ended, event = server.end(server.submit(QUICK))
            assert event["type"] == "complete", event
            return ended - began

        once(queen), once(worker)
        pairs = [(once(worker), once(queen)) for _ in range(jobs)]
        direct, through = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        added = statistics.median(through) - statistics.median(direct)
        print(f"delay: {jobs} jobs each; direct {spread(direct)}; through queen and hive {spread(through)}; added p50 {milliseconds(added)}")


def listeners(rbee, count=1000):
    """So many streams of one job: when the first and the last of them hear its end."""
    with House(rbee) as house:
        queen = house.queen()
        queen.end(queen.submit(QUICK))
        blocker = queen.submit(SLOW)
        job = queen.submit(QUICK)
        selector, open_streams, heard = selectors.DefaultSelector(), {}, []
        for _ in range(count):
            stream = socket.create_connection(("127.0.0.1", house.port))
            stream.sendall(f"GET /v1/jobs/{job}/stream HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            selector.register(stream, selectors.EVENT_READ)
            open_streams[stream] = b""
        memory = resident(house.process.pid)
        queen.ask("DELETE", f"/v1/jobs/{blocker}")
        deadline = time.perf_counter() + 120
        while open_streams and time.perf_counter() < deadline:
            for key, _ in selector.select(timeout=1):
                stream = key.fileobj
                read = stream.recv(1 << 16)
                open_streams[stream] = open_streams[stream][-64:] + read
                if b"event: complete" in open_streams[stream] or not read:
                    heard.append((time.perf_counter(), b"event: complete" in open_streams[stream]))
                    selector.unregister(stream)
                    stream.close()
                    del open_streams[stream]
        told = sum(1 for _, complete in heard if complete)
        times = [at for at, _ in heard]
        print(f"listeners: {told} of {count} heard the end, the last {milliseconds(max(times) - min(times))} after the first; the queen held {memory / 2**20:.0f} MiB")


def restart(rbee, jobs=10_000):
    """kill -9 with so many jobs in the queue, then a start: when she admits again."""
    with House(rbee) as house:
        queen = house.queen()
        began = time.perf_counter()
        for _ in range(jobs - 1):
            queen.submit(SLOW)
        submitting = time.perf_counter() - began
        queued = queen.ask("GET", "/v1/jobs?state=queued&limit=1000")["jobs"]
        assert len(queued) == 1000
        house.kill()
        took = house.start()
        queen = house.queen()
        began = time.perf_counter()
        queen.submit(SLOW)
        print(f"restart: {jobs} jobs (submitted one after the other over one connection in {submitting:.1f} s); ready {took:.2f} s after the start, the next job admitted in {milliseconds(time.perf_counter() - began)}")


def cancel(rbee, times=20):
    """From DELETE to the event `cancelled`, beside the time of one denoising step."""
    with House(rbee) as house:
        queen, waits, steps = house.queen(), [], []
        for _ in range(times):
            job, asked, last = queen.submit(SLOW), None, None
            for at, event in queen.events(job):
                if event["type"] == "progress" and event.get("phase") == "denoising" and asked is None:
                    if last is not None and event["step"] > 1:
                        steps.append(at - last)
                    last = at
                    if event["step"] == 10:
                        asked = time.perf_counter()
                        queen.ask("DELETE", f"/v1/jobs/{job}")
            assert event["type"] == "cancelled", event
            waits.append(at - asked)
        print(f"cancel: {times} times; to stopped {spread(waits)}; one step {spread(steps)}")


def death(rbee, times=10):
    """From kill -9 of the worker to the next `started` of its job."""
    with House(rbee) as house:
        queen, waits = house.queen(), []
        for _ in range(times):
            job, killed = queen.submit(SLOW), None
            for at, event in queen.events(job):
                if event["type"] == "progress" and event.get("phase") == "denoising" and killed is None:
                    pid = house.workers()[0]["pid"]
                    os.kill(pid, signal.SIGKILL)
                    killed = time.perf_counter()
                elif event["type"] == "started" and killed is not None:
                    waits.append(at - killed)
                    break
            queen.ask("DELETE", f"/v1/jobs/{job}")
            # A death that is forgiven does not slow the next start.
            queen.end(job), queen.end(queen.submit(QUICK))
        print(f"death: {times} times; to the next attempt {spread(waits)}, at most {milliseconds(max(waits))}")


def resident(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


MEASUREMENTS = {f.__name__: f for f in (delay, listeners, restart, cancel, death)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rbee", default="target/release/rbee")
    parser.add_argument("what", nargs="*", choices=[[], *MEASUREMENTS], help="all of them where none is named")
    arguments = parser.parse_args()
    for name in arguments.what or MEASUREMENTS:
        MEASUREMENTS[name](arguments.rbee)
