#!/usr/bin/env python3
"""Tokens a second of llm-worker-cpu beside llama.cpp's own library, on the same file, in one run and in turns.

    bench.py MODEL [--worker PROGRAM] [--threads N] [--prompt N] [--written N] [--parallel N,N] [--repeat N]

The worker is asked over HTTP, greedily; the peer (peer.cpp, built here against the library that cargo built for the worker) decodes
as llama-bench and llama-batched-bench do. Rates are medians of the rounds after the first.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]


def build_peer(folder, profile):
    """Against the static libraries of the newest build of llama-cpp-sys-2."""
    outs = sorted(ROOT.glob(f"target/{profile}/build/llama-cpp-sys-2-*/out/lib*/libllama.a"), key=lambda path: path.stat().st_mtime)
    if not outs:
        sys.exit(f"build the worker first: cargo build --profile {'dev' if profile == 'debug' else profile} -p llm-worker-rbee --features cpu")
    libraries = outs[-1].parent
    sources = sorted(pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo")).glob("registry/src/*/llama-cpp-sys-2-*/llama.cpp"))[-1]
    program = folder / "peer"
    command = ["c++", "-O2", "-std=c++17", str(ROOT / "tools/llm/peer.cpp"), f"-I{sources}/include", f"-I{sources}/ggml/include", f"-L{libraries}", "-o", str(program)]
    command += ["-lllama", "-lggml", "-lggml-cpu", "-lggml-base", "-lpthread", "-lm", "-ldl"]
    subprocess.run(command, check=True)
    return program


class Worker:
    def __init__(self, program, model, threads, slots, context):
        command = [program, "--model", model, "--threads", str(threads), "--slots", str(slots), "--context", str(context), "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"listens on (http://\S+)", line):
                self.url = found.group(1)
                break
        while True:
            try:
                if urllib.request.urlopen(self.url + "/ready").status == 200:
                    return
            except OSError:
                time.sleep(0.05)

    def infer(self, prompt, written):
        """(prompt tokens, seconds to the first token, tokens after it, seconds of them)"""
        body = json.dumps({"operation": "infer", "prompt": prompt, "max_tokens": written, "temperature": 0}).encode()
        begun = time.perf_counter()
        request = urllib.request.Request(self.url + "/v1/jobs", body, {"content-type": "application/json"})
        job = json.load(urllib.request.urlopen(request))
        first = None
        with urllib.request.urlopen(self.url + job["sse_url"]) as stream:
            for line in stream:
                if line.startswith(b"event: token") and first is None:
                    first = time.perf_counter()
                if line.startswith(b"data: ") and b'"complete"' in line:
                    usage = json.loads(line[6:])["usage"]
                    end = time.perf_counter()
        return usage["prompt_tokens"], first - begun, usage["completion_tokens"], end - first, begun, first, end

    def close(self):
        self.process.terminate()
        self.process.wait()


def text(length, seed):
    """A prompt of so many bytes, which are the tokens of a random model, that no other prompt begins like."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    state, out = seed * 7919 + 13, []
    for _ in range(length):
        state = (state * 1103515245 + 12345) % 2**31
        out.append(letters[(state >> 16) % 26])
    return "".join(out)


def measure_worker(args, parallel):
    worker = Worker(args.worker, args.model, args.threads, parallel, args.prompt + args.written + 256)
    read, written = [], []
    try:
        for round in range(args.repeat + 1):
            prompts = [text(args.prompt - 1, 1000 * round + i) for i in range(parallel)]
            with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
                results = list(pool.map(lambda prompt: worker.infer(prompt, args.written), prompts))
            if round == 0:
                continue
            begun, all_read, end = min(r[4] for r in results), max(r[5] for r in results), max(r[6] for r in results)
            read.append(sum(r[0] for r in results) / (all_read - begun))
            if parallel == 1:
                written.append((results[0][2] - 1) / results[0][3])
            else:
                # While some prompts are read the others write already; what is written after that is written by all.
                written.append(sum(r[2] - 1 for r in results) / (end - min(r[5] for r in results)))
    finally:
        worker.close()
    return {"read": statistics.median(read), "written": statistics.median(written)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--worker", default=str(ROOT / "target/release/llm-worker-cpu"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--written", type=int, default=64)
    parser.add_argument("--parallel", default="1,4")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    profile = "debug" if "/debug/" in args.worker else "release"
    folder = ROOT / "target"
    peer = build_peer(folder, profile)
    for parallel in map(int, args.parallel.split(",")):
        command = [peer, args.model, args.threads, args.prompt, args.written, parallel, args.repeat]
        theirs = json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)
        ours = measure_worker(args, parallel)
        for kind in ("read", "written"):
            print(f"{parallel} at once, {kind}: {ours[kind]:.2f} tokens/s, llama.cpp alone {theirs[kind]:.2f}, ratio {ours[kind] / theirs[kind]:.3f}", flush=True)


if __name__ == "__main__":
    main()
