#!/usr/bin/env python3
"""Compare the pictures of sd-worker-cpu with those of diffusers, and write the table of dB into docs/fidelity.md.

    pip install -r tools/reference/requirements.txt
    cargo build --release --bin sd-worker-cpu
    tools/fidelity.py WORK                     everything: small and full-size models
    tools/fidelity.py WORK --small --quick     one picture for each kind and operation
    tools/fidelity.py WORK --full --kinds sd15,lcm
    tools/fidelity.py WORK --table             only write the table again

WORK keeps models with random weights (make_pipeline.py; 30 GB for all full-size kinds, in float16 files), the references,
our pictures and results.json. What is there is not made again, so a run may be stopped and started; --again paints ours
anew, for a new build of the worker. Both sides compute in float32.
"""
import argparse
import base64
import gc
import hashlib
import io
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from itertools import groupby

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools/reference"))

import cases  # noqa: E402
import inputs  # noqa: E402
import psnr  # noqa: E402
from PIL import Image  # noqa: E402

GOAL = 50.0
OPERATIONS = ["image_generation", "image_transform", "image_inpaint"]


def all_cases(a):
    """The cases asked for, each with its size and the name of its model."""
    # make_pipeline.py's own schedulers have no schedules, and its files no other form.
    unlike = ("sdxl.schedule-alone", "sd15.transform.strength-0.1", "sd15.inpaint.strength-0.1")
    small = [c for c in cases.golden_cases() if not {"weights", "scheduler_config"} & set(c) and c["name"] not in unlike]
    small += cases.small_cases()
    full = list(cases.full_size_cases())
    if a.quick:
        small, full = list(cases.kinds_and_operations()), [c for c in full if c["name"].endswith("256x256")]
    chosen = [dict(c, size="small") for c in small if a.small or not a.full] + [dict(c, size="full") for c in full if a.full or not a.small]
    for case in chosen:
        case["model"] = case["kind"] + ("-small" if case["size"] == "small" else "")
        case["tiny_vae"] = case.get("tiny_vae", False)
        case["key"] = case["name"] + "-" + hashlib.sha256(json.dumps(case, sort_keys=True).encode()).hexdigest()[:8]
    wanted = a.kinds.split(",") if a.kinds else cases.KINDS
    # One model after another; SDXL, which needs most memory, last.
    chosen = [c for c in chosen if c["kind"] in wanted]
    return sorted(chosen, key=lambda c: (c["size"] == "full", "sdxl" in c["kind"], c["model"], c["tiny_vae"], c["operation"]))


def model_folder(work, case):
    """The case's model; with the tiny autoencoder, the kind's own folder by links and another vae/."""
    base = work / "models" / case["model"]
    if not base.exists():
        part = base.with_suffix(".part")
        command = [sys.executable, ROOT / "tools/reference/make_pipeline.py", case["model"], part]
        subprocess.run(command + ([] if case["size"] == "small" else ["--dtype", "f16"]), check=True)
        part.rename(base)
    if not case["tiny_vae"]:
        return base
    tiny = base.with_name(base.name + "-tiny-vae")
    if not tiny.exists():
        import kinds
        import torch

        part = tiny.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for entry in base.iterdir():
            if entry.name not in ("vae", "model_index.json"):
                (part / entry.name).symlink_to(pathlib.Path("..") / base.name / entry.name)
        index = (base / "model_index.json").read_text()
        (part / "model_index.json").write_text(index.replace("AutoencoderKL", "AutoencoderTiny"))
        torch.manual_seed(0)
        vae, latents = kinds.autoencoder(kinds.Kind(case["model"]), tiny=True), torch.randn(1, 4, 16, 16)
        kinds.calibrate(vae.decoder.layers[-1], lambda: vae.decode(latents).sample, 0.4)
        half = case["size"] == "full"
        (vae.half() if half else vae).save_pretrained(part / "vae", variant="fp16" if half else None)
        part.rename(tiny)
    return tiny


def paint_references(work, todo):
    """Diffusers' picture of every case that has none yet."""
    import paint
    import torch
    from make_goldens import paint_case

    missing = [c for c in todo if not reference(work, c).exists() and not refusal(work, c).exists()]
    for (_, _, operation), group in groupby(missing, key=lambda c: (c["model"], c["tiny_vae"], c["operation"])):
        group = list(group)
        pipe = paint.load(model_folder(work, group[0]), operation)
        own = pipe.scheduler
        for case in group:
            start = time.time()
            pipe.scheduler = type(own).from_config(own.config)
            try:
                with torch.no_grad():
                    picture = paint_case(pipe, case)
                # Latents that are NaN become black.
                if all(low == high for low, high in picture.getextrema()):
                    raise ValueError("the picture has one colour")
                save(picture, reference(work, case))
                print(f"diffusers {case['size']} {case['name']}: {time.time() - start:.1f} s", flush=True)
            except (ValueError, RuntimeError, IndexError) as error:
                refusal(work, case).parent.mkdir(parents=True, exist_ok=True)
                refusal(work, case).write_text(f"{type(error).__name__}: {error}\n")
                print(f"diffusers {case['size']} {case['name']}: {type(error).__name__}: {error}", flush=True)
        del pipe, own
        gc.collect()


def reference(work, case):
    return work / "references" / f"{case['key']}.png"


def refusal(work, case):
    """Why diffusers paints nothing."""
    return work / "references" / f"{case['key']}.txt"


def save(picture, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    picture.save(part, format="PNG")
    part.rename(path)


class Worker:
    """A running sd-worker-cpu; used as a context, so that it ends with it."""

    def __init__(self, program, model, log):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [program, "--model", model, "--port", str(self.port), "--precision", "f32"]
        self.log = open(log, "ab")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def __enter__(self):
        for _ in range(3000):
            if self.process.poll() is not None:
                raise SystemExit(f"the worker ended with {self.process.returncode}; see {self.log.name}")
            try:
                self.call("/ready")
                return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        raise SystemExit("the worker is not ready after five minutes")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def call(self, path, body=None):
        """A request's answer; HTTPError with the server's own words where it refuses."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def paint(self, operation):
        job = json.loads(self.call("/v1/jobs", operation))["job_id"]
        while True:
            state = json.loads(self.call(f"/v1/jobs/{job}"))
            if state["state"] == "complete":
                return Image.open(io.BytesIO(self.call(f"/v1/jobs/{job}/images/0")))
            if state["state"] in ("error", "cancelled"):
                raise RuntimeError(json.dumps(state.get("error") or state))
            time.sleep(0.02)


def operation_of(case):
    """The case as a job for the worker."""
    fields = ("operation", "prompt", "negative_prompt", "steps", "guidance_scale", "width", "height", "seed", "strength", "scheduler",
              "schedule", "clip_skip")
    body = {k: case[k] for k in fields if k in case}
    for field in ("init_image", "mask_image"):
        if field in case:
            file = io.BytesIO()
            inputs.draw(case[field]).save(file, format="PNG")
            body[field] = base64.b64encode(file.getvalue()).decode()
    if case["operation"] == "image_inpaint":
        body |= dict(composite=False, mask_blur=0)
    return body


def paint_ours(work, todo, program, again):
    """Our picture of every case without a result, and the comparison."""
    file = work / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    todo = [c for c in todo if again or c["key"] not in results]
    for (_, _), group in groupby(todo, key=lambda c: (c["model"], c["tiny_vae"])):
        group = list(group)
        with Worker(program, model_folder(work, group[0]), work / "worker.log") as worker:
            for case in group:
                start = time.time()
                device = json.loads(worker.call("/v1/info"))["device"]["name"]
                try:
                    picture = worker.paint(operation_of(case))
                    if refusal(work, case).exists():
                        raise ValueError("is painted, where diffusers fails: " + refusal(work, case).read_text())
                    save(picture, work / "pictures" / f"{case['key']}.png")
                    db, largest = psnr.compare(picture, Image.open(reference(work, case)))
                    results[case["key"]] = dict(db=min(db, 999.0), largest=largest, device=device)
                    shown = f"{db:.1f} dB, largest difference {largest}"
                except (RuntimeError, ValueError, urllib.error.URLError, ConnectionError) as error:
                    shown = error.read().decode() if isinstance(error, urllib.error.HTTPError) else str(error)
                    refused = refusal(work, case).exists() and not isinstance(error, ValueError)
                    results[case["key"]] = {"refused" if refused else "error": shown, "device": device}
                print(f"ours {case['size']} {case['name']}: {shown} ({time.time() - start:.1f} s)", flush=True)
                part = file.with_suffix(".part")
                part.write_text(json.dumps(results, indent=1))
                os.replace(part, file)
    return results


def cell(group):
    """The worst of a group's figures, and of how many where it is more than one; of what both refuse, none."""
    group = [r for r in group if "refused" not in r]
    if not group:
        return ""
    if any("error" in r for r in group):
        return "error"
    worst = min(r["db"] for r in group)
    shown = "same" if worst >= 999 else f"{worst:.1f}" if worst >= GOAL else f"**{worst:.1f}**"
    return shown + (f" ({len(group)})" if len(group) > 1 else "")


def table(title, columns, rows):
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows if any(cells)]
    return "\n".join(lines)


def by_kind(done, size):
    def cells(kind, tiny):
        fits = [c for c in done if (c["size"], c["kind"], c["tiny_vae"]) == (size, kind, tiny)]
        return [cell([c["result"] for c in fits if c["operation"] == o]) for o in OPERATIONS]

    return [(kind + (", AutoencoderTiny" if tiny else ""), cells(kind, tiny)) for kind in cases.KINDS for tiny in (False, True)]


def by_sampler(done, size):
    def cells(scheduler, schedule):
        fits = [c for c in done if (c["size"], c.get("scheduler"), c.get("schedule")) == (size, scheduler, schedule)]
        return [cell([c["result"] for c in fits if c["kind"] == kind]) for kind in cases.KINDS]

    names = [(s, schedule) for s in [None, *cases.SCHEDULERS] for schedule in (None, "karras", "exponential")]
    return [(f"{s or 'own'}{', ' + schedule if schedule else ''}", cells(s, schedule)) for s, schedule in names]


def by_variation(done, size):
    def cells(name):
        fits = [c for c in done if (c["size"], c.get("variation")) == (size, name)]
        return [cell([c["result"] for c in fits if c["kind"] == kind]) for kind in cases.KINDS]

    return [(name, cells(name)) for name in cases.VARIATIONS]


def write_table(todo, results, page):
    """Write the tables of each size that there are results of between its markers in docs/fidelity.md."""
    import diffusers
    import torch
    import transformers

    done = [dict(c, result=results[c["key"]]) for c in todo if c["key"] in results]
    versions = f"torch {torch.__version__.split('+')[0]}, diffusers {diffusers.__version__}, transformers {transformers.__version__}"
    for size in ("full", "small"):
        group = [c for c in done if c["size"] == size]
        if not group:
            continue
        figures = [c["result"].get("db", 0.0) for c in group if "refused" not in c["result"]]
        same, refused = sum(f >= 999 for f in figures), len(group) - len(figures)
        devices = ", ".join(sorted({c["result"]["device"] for c in group}))
        text = f"{len(figures)} pictures, the worst {min(figures):.1f} dB, {same} the same in every pixel"
        text += f"; {refused} that diffusers refuses, and so do we" if refused else ""
        parts = [f"{text}.\nOurs by {devices}; theirs by {versions}.", table("kind", OPERATIONS, by_kind(done, size))]
        parts += [table(title, cases.KINDS, rows) for title, rows in (("sampler", by_sampler(done, size)), ("variation", by_variation(done, size)))
                  if any(any(cells) for _, cells in rows)]
        begin, end = f"<!-- {size}: begin -->", f"<!-- {size}: end -->"
        head, rest = page.read_text().split(begin)
        page.write_text(head + begin + "\n\n" + "\n\n".join(parts) + "\n\n" + end + rest.split(end)[1])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("work", type=pathlib.Path, help="folder for models and pictures")
    ap.add_argument("--worker", default=ROOT / "target/release/sd-worker-cpu", help="the program to test")
    ap.add_argument("--small", action="store_true", help="only small models")
    ap.add_argument("--full", action="store_true", help="only full-size models")
    ap.add_argument("--kinds", help="only these, with commas")
    ap.add_argument("--quick", action="store_true", help="one picture for each kind and operation")
    ap.add_argument("--references", action="store_true", help="only paint what diffusers paints")
    ap.add_argument("--again", action="store_true", help="paint ours anew")
    ap.add_argument("--table", action="store_true", help="only write the table")
    ap.add_argument("--page", type=pathlib.Path, default=ROOT / "docs/fidelity.md")
    ap.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch")
    a = ap.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    todo = all_cases(a)
    if a.references:
        import torch

        torch.set_num_threads(a.threads)
        paint_references(a.work, todo)
        return
    if not a.table:
        # In a process of its own: what torch held, the worker needs next.
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--references"], check=True)
    if a.table:
        results = json.loads((a.work / "results.json").read_text())
    else:
        results = paint_ours(a.work, todo, a.worker, a.again)
    # The page has every result there is, also those of earlier runs with other options.
    everything = all_cases(argparse.Namespace(small=False, full=False, quick=False, kinds=None))
    write_table(everything, results, a.page)
    missing = [c["name"] for c in todo if c["key"] not in results]
    if missing:
        print("not compared yet:", ", ".join(missing))
    low = [c["name"] for c in todo if c["key"] in results and "refused" not in results[c["key"]] and results[c["key"]].get("db", 0.0) < GOAL]
    if low:
        sys.exit(f"below {GOAL} dB: " + ", ".join(low))


if __name__ == "__main__":
    main()
