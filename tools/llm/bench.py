#!/usr/bin/env python3
"""How fast llm-worker-cpu is beside llama.cpp alone, on the same file, in one run and in turns.

    bench.py MODEL [--worker PROGRAM] [--threads N] [--prompt N] [--written N] [--parallel N,N] [--rounds N]
    bench.py MODEL --first-token RBEE

The worker is asked over HTTP, greedily, as anybody asks it. The peer (peer.cpp, built here against the very library that cargo built
for the worker) decodes as llama-bench and llama-batched-bench do. Both are loaded at once, and a round of one follows a round of the
other; rates and ratios are medians over the rounds after the first. Prompts are timed by texts of one token, writing by how
much longer a longer text takes. --first-token compares the time to a first token through a queen and her hive with that of the same worker asked directly.

MODEL is one of random_gguf.py, whose letters are tokens and which never stops by itself.
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Tokens of a prompt after which writing is timed, and how many are written before that.
SHORT, FEW = 16, 16


def build_peer(profile):
    """Against the static libraries of the newest build of llama-cpp-sys-2."""
    outs = sorted(ROOT.glob(f"target/{profile}/build/llama-cpp-sys-2-*/out/lib*/libllama.a"), key=lambda path: path.stat().st_mtime)
    if not outs:
        sys.exit(f"build the worker first: cargo build --profile {'dev' if profile == 'debug' else profile} -p llm-worker-rbee --features cpu")
    libraries = outs[-1].parent
    home = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo"))
    sources = sorted(home.glob("registry/src/*/llama-cpp-sys-2-*/llama.cpp"))[-1]
    program = ROOT / f"target/{profile}/llama-peer"
    parts = [ROOT / "tools/llm/peer.cpp", outs[-1]]
    if program.exists() and all(part.stat().st_mtime < program.stat().st_mtime for part in parts):
        return program
    command = ["c++", "-O2", "-std=c++17", ROOT / "tools/llm/peer.cpp", f"-I{sources}/include", f"-I{sources}/ggml/include", f"-L{libraries}", "-o", program]
    command += ["-lllama", "-lggml", "-lggml-cpu", "-lggml-base", "-fopenmp", "-lpthread", "-lm", "-ldl"]
    subprocess.run(list(map(str, command)), check=True)
    return program


class Server:
    """A worker or a queen, asked as any client asks it."""

    def __init__(self, url):
        self.address = urllib.parse.urlsplit(url).netloc

    def get(self, path):
        connection = http.client.HTTPConnection(self.address, timeout=600)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def wait(self):
        while True:
            try:
                if self.get("/ready")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.05)

    def ask(self, operation):
        """Follows a job to its end: (begin, first token, end, the last event)."""
        connection = http.client.HTTPConnection(self.address, timeout=600)
        begun, first, last = time.perf_counter(), None, None
        connection.request("POST", "/v1/jobs", json.dumps(operation), {"content-type": "application/json"})
        job = json.load(connection.getresponse())
        connection.request("GET", job["sse_url"])
        for line in connection.getresponse():
            if line.startswith(b"event: token") and first is None:
                first = time.perf_counter()
            elif line.startswith(b"data: "):
                last = line[6:]
        return begun, first, time.perf_counter(), json.loads(last)

    def infer(self, prompt, written, model=None):
        operation = {"operation": "infer", "prompt": prompt, "max_tokens": written, "temperature": 0}
        begun, first, end, last = self.ask(operation | ({"model": model} if model else {}))
        if last["type"] != "complete":
            sys.exit(f"{last}")
        return begun, first, end, last["usage"]


class Worker(Server):
    def __init__(self, args, parallel):
        context = max(args.prompt, SHORT + FEW + args.written) + 64
        command = [args.worker, "--model", args.model, "--threads", args.threads, "--slots", parallel, "--context", context, "--port", 0]
        # As a hive starts it.
        environment = {"GOMP_SPINCOUNT": "20000"} | os.environ
        self.process = subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"listens on (http://\S+)", line):
                super().__init__(found.group(1))
                self.wait()
                return
        sys.exit("the worker did not start")

    def round(self, prompt, written, parallel, seed):
        """Tokens a second of `parallel` texts at once: of their prompts where nothing is written, else of writing."""
        if not written:
            return parallel * prompt / self.seconds(prompt, 1, parallel, seed)
        # What is read before, and the one that begins a little earlier, is in both.
        more, less = (self.seconds(SHORT, length, parallel, 2 * seed + i) for i, length in enumerate((written + FEW, FEW)))
        return parallel * written / (more - less)

    def seconds(self, prompt, written, parallel, seed):
        prompts = [letters(prompt - 1, seed * 1000 + i) for i in range(parallel)]
        with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
            told = list(pool.map(lambda text: self.infer(text, written), prompts))
        assert all(usage["completion_tokens"] == written for *_, usage in told), told
        return max(end for _, _, end, _ in told) - min(begun for begun, *_ in told)


class Peer:
    def __init__(self, program, args, parallel):
        context = max(args.prompt, SHORT + FEW + args.written) + 64
        command = [program, args.model, args.threads, context, parallel]
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def round(self, prompt, written, parallel, _):
        print(prompt, written, file=self.process.stdin, flush=True)
        read, wrote = map(float, self.process.stdout.readline().split())
        return parallel * written / wrote if written else parallel * prompt / read


def letters(length, seed):
    """A prompt of so many letters that no other prompt begins like."""
    state, out = seed * 7919 + 13, []
    for _ in range(length):
        state = (state * 1103515245 + 12345) % 2**31
        out.append("abcdefghijklmnopqrstuvwxyz"[(state >> 16) % 26])
    return "".join(out)


def compare(args):
    peer_program = build_peer("debug" if "/debug/" in args.worker else "release")
    for parallel in map(int, args.parallel.split(",")):
        worker, peer = Worker(args, parallel), Peer(peer_program, args, parallel)
        try:
            for kind, prompt, written in (("prompt", args.prompt, 0), ("writing", SHORT + FEW, args.written)):
                ours, theirs = [], []
                for seed in range(args.rounds + 1):
                    theirs.append(peer.round(prompt, written, parallel, seed))
                    ours.append(worker.round(prompt, written, parallel, seed))
                rates = statistics.median(ours[1:]), statistics.median(theirs[1:])
                ratio = statistics.median(a / b for a, b in zip(ours[1:], theirs[1:]))
                print(f"{parallel} at once, {kind}: {rates[0]:.1f} tokens/s, llama.cpp alone {rates[1]:.1f}, ratio {ratio:.3f}", flush=True)
        finally:
            worker.process.terminate()
            peer.process.kill()
            worker.process.wait()


def first_token(args):
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [args.first_token, "queen", "--port", str(port), "--hive-port", "0", "--data-dir", folder]
        queen_process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            queen = Server(f"http://127.0.0.1:{port}").wait()
            options = {"threads": args.threads, "slots": 1, "context": 512}
            *_, last = queen.ask({"operation": "worker_spawn", "model": args.model, "worker": "cpu", "options": options})
            worker = Server(last["result"]["worker"]["url"])
            times = {"worker": [], "queen": []}
            for seed in range(args.rounds + 1):
                for name, server, model in (("worker", worker, None), ("queen", queen, args.model)):
                    begun, first, *_ = server.infer(letters(15, 2 * seed + (name == "queen")), 4, model)
                    times[name].append((first - begun) * 1000)
            direct, through = (statistics.median(times[name][1:]) for name in ("worker", "queen"))
            print(f"first token: {direct:.1f} ms from the worker, {through:.1f} ms through queen and hive, {through - direct:.1f} ms more")
        finally:
            queen_process.terminate()
            queen_process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=os.path.abspath)
    parser.add_argument("--worker", default=str(ROOT / "target/release/llm-worker-cpu"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--written", type=int, default=64)
    parser.add_argument("--parallel", default="1,4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--first-token", metavar="RBEE")
    args = parser.parse_args()
    first_token(args) if args.first_token else compare(args)


if __name__ == "__main__":
    main()
