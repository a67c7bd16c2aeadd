"""The programs that are measured, each a process that stays up and computes only when it is told to."""
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent


class Failed(Exception):
    """An engine refused a command or died; the message has its own words."""


class Process:
    """A program that takes commands on its standard input and answers each with a line of JSON."""

    def __init__(self, command, log):
        self.command, self.log = [str(word) for word in command], pathlib.Path(log)
        self.process, self.warm, self.ready = None, {}, {}

    def start(self):
        start = time.perf_counter()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.ready = self.answer("its start")
        return start

    def ask(self, *words):
        """The answer to a command; starts the program if it does not run."""
        if self.process is None:
            self.start()
        line = " ".join(str(word) for word in words)
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        return self.answer(line)

    def answer(self, what):
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.process = None
            said = self.log.read_text(errors="replace").strip().splitlines()[-3:]
            raise Failed(f"ended with {code} at {what}: " + " / ".join(said))
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"{what}: {answer['error']}")
        return answer

    def warmed(self, *words):
        """The same after one call that does not count, the first time."""
        if words not in self.warm:
            self.warm[words] = self.ask(*words)
        return self.ask(*words)

    def stop(self):
        if self.process:
            self.process.stdin.close()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()
        self.process, self.warm = None, {}


class Peer:
    """PyTorch or OpenVINO."""

    def __init__(self, name, a, precision, threads, setting=""):
        self.name, self.title = name, {"torch": "PyTorch", "openvino": "OpenVINO"}[name]
        command = [sys.executable, HERE / "peer.py", name, a.model, "--precision", precision, "--threads", threads, "--cache", a.cache]
        self.command = command + (["--setting", setting] if setting else [])
        self.log = pathlib.Path(a.cache) / f"{name}-{precision}.log"
        self.process = Process(self.command, self.log)

    def compute(self, *words):
        return self.process.warmed(*words)

    def save(self, path):
        self.process.ask("save", path)

    def peak(self):
        return self.process.ask("peak") if self.name == "torch" else {}

    def picture(self, height, width, steps, guidance, prompt):
        return self.process.ask("picture", height, width, steps, guidance, 0, prompt)["seconds"]

    def load(self, h, w, batch):
        """Seconds from the start of a process until it could paint, and its peak memory after a step and a decoding."""
        fresh = Process(self.command, self.log)
        try:
            start = fresh.start()
            own = fresh.ask("load", h, w, batch)["seconds"]
            seconds = time.perf_counter() - start
            fresh.ask("unet", h, w, batch)
            fresh.ask("decode", h, w)
            return dict(seconds=seconds, without_imports=own, bytes=fresh.ask("memory")["bytes"])
        finally:
            fresh.stop()

    def stop(self):
        self.process.stop()


class Ours:
    """This repository's networks by the example `measure`, and its worker for whole pictures, load time and memory."""

    name, title = "ours", "rbee"

    def __init__(self, a, precision, threads):
        flags = ["--precision", precision, "--threads", threads, *(["--low-memory"] if a.low_memory else [])]
        self.log = pathlib.Path(a.cache) / f"ours-{precision}.log"
        self.process = Process([a.measure, a.model, *flags], self.log)
        self.worker = Worker([a.worker, "--model", a.model, *flags], self.log)

    def compute(self, *words):
        return self.process.warmed(*words)

    def save(self, path):
        self.process.ask("save", path)

    def peak(self):
        return self.process.ask("peak")

    def picture(self, height, width, steps, guidance, prompt):
        # The networks alone are not needed any more, and their memory may be.
        self.process.stop()
        if self.worker.process is None:
            self.worker.start()
        return self.worker.paint(height, width, steps, guidance, prompt)

    def load(self, h, w, _batch):
        self.stop()
        seconds = self.worker.start()
        self.worker.paint(8 * h, 8 * w, 1, 7.5, "load")
        size = self.worker.peak_memory()
        self.worker.stop()
        return dict(seconds=seconds, without_imports=seconds, bytes=size)

    def stop(self):
        self.process.stop()
        self.worker.stop()


class Worker:
    """A running sd-worker-cpu, over HTTP."""

    def __init__(self, command, log):
        self.command, self.log, self.process = [str(word) for word in command], log, None

    def start(self):
        """Seconds until it says that it is ready."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [*self.command, "--port", str(self.port), "--parent-pid", str(os.getpid())]
        start = time.perf_counter()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        while time.perf_counter() - start < 600:
            if self.process.poll() is not None:
                said = self.log.read_text(errors="replace").strip().splitlines()[-3:]
                code, self.process = self.process.returncode, None
                raise Failed(f"the worker ended with {code}: " + " / ".join(said))
            try:
                self.call("/ready")
                return time.perf_counter() - start
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.02)
        raise Failed("the worker is not ready after ten minutes")

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=3600) as answer:
            return answer.read()

    def paint(self, height, width, steps, guidance, prompt):
        """Seconds from asking for a picture until its last event, which comes when the picture is there."""
        body = dict(operation="image_generation", prompt=prompt, steps=steps, guidance_scale=guidance, height=height, width=width, seed=0)
        start = time.perf_counter()
        try:
            job = json.loads(self.call("/v1/jobs", body))
            self.call(job["sse_url"])
            seconds = time.perf_counter() - start
            state = json.loads(self.call(f"/v1/jobs/{job['job_id']}"))
        except urllib.error.HTTPError as error:
            raise Failed(error.read().decode()) from error
        if state["state"] != "complete":
            raise Failed(json.dumps(state.get("error") or state))
        return seconds

    def peak_memory(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024

    def stop(self):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None
