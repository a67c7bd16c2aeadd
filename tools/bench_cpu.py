#!/usr/bin/env python3
"""Time this repository on a processor beside PyTorch (diffusers) and OpenVINO, in one run and in turns.

    pip install -r tools/reference/requirements.txt openvino
    cargo build --release --bin sd-worker-cpu && cargo build --release -p diffusion --example measure
    tools/reference/make_pipeline.py sd15 MODEL --dtype f16
    tools/bench_cpu.py --model MODEL --cache FOLDER [--parts step,decode] [--precision f32,bf16] [--rounds 3]

Every engine is a process of its own that stays up and computes when it is told to, so that no two compute at the same time
(A B C A B C ...); each call is made once before any counts. The table has the least of all rounds, the JSON all of them.

step: one call of the U-Net, batch 2 for guidance. Ours computes the text's keys and values once a picture, before.
decode, encode: the autoencoder. text: every text encoder, for the prompt and, with guidance, the negative prompt.
picture: the whole picture, ours by its worker over HTTP, theirs with the networks above and diffusers' scheduler; a new
prompt each time. load: from the start of a process until it can paint (OpenVINO's from converted files); memory: VmHWM of
that process after a step and a decoding, ours of the worker after a whole picture.

PyTorch gets the fastest of eager, channels_last, compile and compile+freezing for each network: tried once, kept in the
cache, stated. OpenVINO has two converted networks from it (kept in the cache too), fixed shapes and the LATENCY hint.
Signal to noise in dB is against PyTorch in f32. stable-diffusion.cpp: tools/bench/sdcpp.sh.
"""
import argparse
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools/bench"))

import engines  # noqa: E402
import folders  # noqa: E402
import numpy as np  # noqa: E402
import report  # noqa: E402

NETWORKS = ["step", "decode", "encode", "text"]
PARTS = [*NETWORKS, "picture", "load"]
SETTINGS = ["eager", "channels_last", "compile", "compile+freezing"]


def command(a, part, h, w):
    """The words that make an engine compute a part."""
    return {"step": ("unet", h, w, a.batch), "decode": ("decode", h, w), "encode": ("encode", 8 * h, 8 * w), "text": ("text", a.batch)}[part]


def own_settings(model):
    """Steps and guidance that suit the model: the few of distilled models, else 20 steps with guidance."""
    scheduler = folders.json_file(model, "scheduler/scheduler_config.json")
    if "LCM" in scheduler["_class_name"]:
        return 4, 8.5
    trailing = scheduler.get("timestep_spacing") == "trailing" and scheduler["_class_name"].startswith("Euler")
    return (1, 0.0) if trailing else (20, 7.5)


def torch_setting(a, precision, threads, h, w):
    """The fastest of PyTorch's settings for the U-Net and the decoder, as peer.py takes it."""
    if a.torch_setting:
        return a.torch_setting
    import importlib.metadata

    version = importlib.metadata.version("torch")
    file = pathlib.Path(a.cache) / "torch-settings.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    key = f"{pathlib.Path(a.model).resolve().name} {8 * h}x{8 * w} {precision} {threads} threads, torch {version}, {report.processor()}"
    if key not in known or a.recalibrate:
        seconds = {}
        for setting in SETTINGS:
            peer = engines.Peer("torch", a, precision, threads, f"unet={setting},decode={setting}")
            for part, network in (("step", "unet"), ("decode", "decode")):
                try:
                    peer.compute(*command(a, part, h, w))
                    least = min(peer.compute(*command(a, part, h, w))["seconds"] for _ in range(2))
                    seconds.setdefault(network, {})[setting] = round(least, 3)
                except engines.Failed as error:
                    print(f"torch {setting} {network}: {error}", flush=True)
            peer.stop()
            print(f"calibrating torch {precision}: {seconds}", flush=True)
        known[key] = {network: [min(tried, key=tried.get), tried] for network, tried in seconds.items()}
        file.write_text(json.dumps(known, indent=1))
    return ",".join(f"{network}={best}" for network, (best, _) in known[key].items())


def signal_to_noise(reference, found):
    """In dB: how far a result's error lies below the result."""
    if reference.shape != found.shape or not np.isfinite(found).all():
        return -math.inf
    error = np.square(reference.astype(np.float64) - found).sum()
    return 999.0 if error == 0 else 10 * math.log10(np.square(reference.astype(np.float64)).sum() / error)


def reference(a, part, h, w):
    """PyTorch's result in f32, computed once and kept in the cache."""
    words = command(a, part, h, w)
    path = pathlib.Path(a.cache) / "reference" / ("-".join(map(str, (pathlib.Path(a.model).resolve().name, *words))) + ".f32")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        peer = engines.Peer("torch", a, "f32", os.cpu_count())
        try:
            peer.process.ask(*words)
            peer.save(path.with_suffix(".part"))
        finally:
            peer.stop()
        path.with_suffix(".part").rename(path)
    return np.fromfile(path, np.float32)


def paint(a, engine, h, w, number):
    """Seconds for a whole picture; --quick paints fewer steps and says what all would take."""
    def painted(steps):
        return engine.picture(8 * h, 8 * w, steps, a.guidance, f"a castle by the sea, number {number}")

    if not a.quick or a.steps <= 4:
        return painted(a.steps)
    painted(1)  # The first picture of a process packs weights, which would count as a step of the two.
    two, four = painted(2), painted(4)
    return two + (four - two) / 2 * (a.steps - 2)


class Run:
    """One size, precision and number of threads: rows of what was measured."""

    def __init__(self, a, precision, threads, size):
        self.a, self.precision, self.threads, self.size = a, precision, threads, size
        self.w, self.h = (int(side) // 8 for side in (size.split("x") * 2)[:2])
        self.rows, self.peaks, self.notes = [], {}, {}

    def open(self):
        made = []
        for name in self.a.engines:
            if name == "ours":
                made.append(engines.Ours(self.a, self.precision, self.threads))
            elif name == "torch":
                self.notes["torch"] = torch_setting(self.a, self.precision, self.threads, self.h, self.w)
                made.append(engines.Peer(name, self.a, self.precision, self.threads, self.notes["torch"]))
            else:
                made.append(engines.Peer(name, self.a, self.precision, self.threads))
        return made

    def turn(self, engine, work):
        """One engine's turn; where it fails, the reason is told, and the part goes on without it."""
        try:
            return work()
        except engines.Failed as error:
            print(f"{engine.title} {self.precision}: {error}", flush=True)
            self.notes[engine.name] = str(error)
            engine.stop()
            return None
        finally:
            if self.a.one_at_a_time:
                engine.stop()

    def all(self):
        opened = running = self.open()
        try:
            for engine in running:
                if engine.name in ("ours", "torch"):
                    self.peaks[engine.name] = self.turn(engine, engine.peak)
                    print(f"peak {engine.title} {self.precision}: {self.peaks[engine.name]}", flush=True)
            # What does not even start need not be asked for every part.
            running = [engine for engine in running if self.peaks.get(engine.name, {}) is not None]
            for part in self.a.parts:
                found = {engine.name: [] for engine in running}
                noise, number = {}, 0
                for number in range(self.a.picture_rounds if part == "picture" else self.a.rounds):
                    for engine in running:
                        if number > 0 and not found[engine.name]:
                            continue
                        answer = self.turn(engine, lambda: self.one(part, engine, number, noise))
                        if answer is not None:
                            found[engine.name].append(answer)
                            print(f"{time.strftime('%T')} {self.size} {self.precision} {part} {engine.title}: {answer}", flush=True)
                self.keep(part, found, noise)
        finally:
            for engine in opened:
                engine.stop()

    def one(self, part, engine, number, noise):
        if part == "picture":
            return dict(seconds=paint(self.a, engine, self.h, self.w, number))
        if part == "load":
            return engine.load(self.h, self.w, self.a.batch)
        answer = engine.compute(*command(self.a, part, self.h, self.w))
        if part in ("step", "decode", "encode") and engine.name not in noise:
            with tempfile.NamedTemporaryFile() as file:
                engine.save(file.name)
                noise[engine.name] = round(signal_to_noise(reference(self.a, part, self.h, self.w), np.fromfile(file.name, np.float32)), 1)
        return answer

    def keep(self, part, found, noise):
        figures = [(part, "seconds", "s")]
        if part == "load":
            figures += [("load without imports", "without_imports", "s"), ("memory", "bytes", "GB")]
        extrapolated = part == "picture" and self.a.quick and self.a.steps > 4
        for title, key, unit in figures:
            row = dict(part=title + (" (extrapolated)" if extrapolated else ""), unit=unit, size=self.size, precision=self.precision,
                       threads=self.threads, batch=self.a.batch, engines={})
            for name, answers in found.items():
                values = [answer[key] / (1e9 if unit == "GB" else 1) for answer in answers]
                if values:
                    row["engines"][name] = dict(least=min(values), median=statistics.median(values), all=values, db=noise.get(name))
            self.rows.append(row)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", required=True, help="a diffusers folder")
    ap.add_argument("--cache", required=True, help="folder for converted networks, references, settings and logs")
    ap.add_argument("--parts", default=",".join(PARTS))
    ap.add_argument("--engines", default="ours,torch,openvino")
    ap.add_argument("--precision", default="f32", help="f32, bf16 or both with a comma")
    ap.add_argument("--size", default="512", help="pixels, as 512 or 768x512; several with commas")
    ap.add_argument("--threads", default=str(os.cpu_count()), help="several with commas")
    ap.add_argument("--batch", type=int, help="images in a step; 2 with guidance, else 1")
    ap.add_argument("--steps", type=int, help="of the picture; the model's own")
    ap.add_argument("--guidance", type=float, help="of the picture; the model's own")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--picture-rounds", type=int, default=1)
    ap.add_argument("--quick", action="store_true", help="one round; the picture's time from two and four steps")
    ap.add_argument("--one-at-a-time", action="store_true", help="end each engine after its turn: for models of which only one fits into memory")
    ap.add_argument("--low-memory", action="store_true", help="the flag of our worker")
    ap.add_argument("--torch-setting", help="for example unet=channels_last,decode=eager; without calibration")
    ap.add_argument("--recalibrate", action="store_true")
    ap.add_argument("--measure", default=ROOT / "target/release/examples/measure", help="the example of crates/diffusion")
    ap.add_argument("--worker", default=ROOT / "target/release/sd-worker-cpu")
    ap.add_argument("--out", type=pathlib.Path, help="writes OUT.json and OUT.md")
    a = ap.parse_args()
    for name, known in (("parts", PARTS), ("engines", ["ours", "torch", "openvino"]), ("precision", ["f32", "bf16"])):
        setattr(a, name, getattr(a, name).split(","))
        if unknown := set(getattr(a, name)) - set(known):
            ap.error(f"--{name}: {', '.join(unknown)} is none of {', '.join(known)}")
    a.model, a.cache = pathlib.Path(a.model).resolve(), pathlib.Path(a.cache).resolve()
    a.cache.mkdir(parents=True, exist_ok=True)
    steps, guidance = own_settings(a.model)
    a.steps, a.guidance = a.steps or steps, guidance if a.guidance is None else a.guidance
    distilled = folders.config(a.model, "unet").get("time_cond_proj_dim")
    a.batch = a.batch or (2 if a.guidance > 1 and not distilled else 1)
    if a.quick:
        a.rounds = a.picture_rounds = 1
    if "openvino" in a.engines:
        texts = folders.text_encoders(a.model)
        needed = {"step": ["unet"], "decode": ["decode"], "encode": ["encode"], "text": texts, "picture": ["unet", "decode", *texts]}
        needed = {network for part in a.parts for network in needed.get(part, needed["picture"])}
        subprocess.run([sys.executable, ROOT / "tools/bench/convert.py", a.model, a.cache, *sorted(needed)], check=True)

    result = dict(machine=report.machine(), model=a.model.name, steps=a.steps, guidance=a.guidance, started=time.strftime("%F %T"), runs=[])
    for threads in map(int, a.threads.split(",")):
        for size in a.size.split(","):
            for precision in a.precision:
                run = Run(a, precision, threads, size)
                try:
                    run.all()
                finally:
                    result["runs"].append(dict(precision=precision, threads=threads, size=size, peaks=run.peaks, notes=run.notes, rows=run.rows))
                    if a.out:
                        a.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
                        a.out.with_suffix(".md").write_text(report.markdown(result))
    print(report.markdown(result))


if __name__ == "__main__":
    main()
