#!/usr/bin/env python3
"""Compare a checkpoint in sd-worker-cpu with diffusers' from_single_file, and write the figures into docs/fidelity.md.

    pip install -r tools/reference/requirements.txt
    cargo build --release --bin sd-worker-cpu
    tools/checkpoint_fidelity.py WORK [--kinds sd15,sd21] [--worker PROGRAM]

Of each kind a full-size model with random weights is made (make_pipeline.py) and written as one file with the original names
(to_checkpoint.py), in float16. Diffusers paints with the file's weights and the folder's configs, in float32; the worker gets
nothing but the file. WORK keeps the pictures and checkpoints.json; the models (4 to 14 GB a kind) are deleted when done with.
A run that was stopped goes on where it was.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools/reference"))

import fidelity  # noqa: E402
import inputs  # noqa: E402
import psnr  # noqa: E402
from PIL import Image  # noqa: E402

MARKERS = "<!-- checkpoints: begin -->", "<!-- checkpoints: end -->"
SIZE = dict(width=256, height=256)
MASKED = dict(operation="image_inpaint", init_image="init-203x141", mask_image="mask-203x141", strength=1.0)
COMMON = dict(operation="image_generation", prompt="a red circle on a blue background!", negative_prompt="blurry", steps=3, guidance_scale=6.0, seed=11)
# make_pipeline.py's schedulers are not all those of the released models; where they differ, one is named.
KINDS = {
    "sd15": dict(COMMON, **SIZE, scheduler="pndm"),
    "sd15-inpaint": dict(COMMON, **MASKED),
    "sd21": dict(COMMON, **SIZE),
    "sd21-inpaint": dict(COMMON, **MASKED, scheduler="pndm"),
    "turbo": dict(COMMON, **SIZE, guidance_scale=0.0),
    "sdxl": dict(COMMON, **SIZE, scheduler="euler"),
    "sdxl-inpaint": dict(COMMON, **MASKED, scheduler="euler"),
}


def make(work, kind):
    """The kind's folder and checkpoint."""
    folder, file = work / kind, work / f"{kind}.safetensors"
    if file.exists():
        return folder, file
    tools = ROOT / "tools/reference"
    subprocess.run([sys.executable, tools / "make_pipeline.py", kind, folder, "--dtype", "f16"], check=True)
    part = file.with_suffix(".part")
    subprocess.run([sys.executable, tools / "to_checkpoint.py", folder, part, "--dtype", "f16"], check=True)
    part.rename(file)
    for weights in folder.glob("*/*.safetensors"):
        weights.unlink()  # the checkpoint has them
    return folder, file


def paint_reference(folder, file, kind, out):
    import kinds
    import paint
    import torch

    case = KINDS[kind]
    cls = kinds.PIPELINES[case["operation"]][kinds.Kind(kind).xl]
    pipe = cls.from_single_file(str(file), config=str(folder), dtype=torch.float32, local_files_only=True, safety_checker=None)
    paint.set_scheduler(pipe, case.get("scheduler"))
    fields = ("prompt", "negative_prompt", "steps", "guidance_scale", "seed", "width", "height", "strength")
    pictures = {to: inputs.draw(case[name]) for name, to in (("init_image", "image"), ("mask_image", "mask")) if name in case}
    fidelity.save(paint.paint(pipe, **{k: case[k] for k in fields if k in case}, **pictures), out)


def compare(work, kind, program):
    picture, reference = work / f"{kind}.ours.png", work / f"{kind}.diffusers.png"
    folder, file = make(work, kind)
    # In a process of its own: what torch held, the worker needs next.
    if not reference.exists():
        subprocess.run([sys.executable, __file__, work, "--reference", kind], check=True)
    with fidelity.Worker(program, file, work / "worker.log") as worker:
        fidelity.save(worker.paint(fidelity.operation_of(KINDS[kind])), picture)
    shutil.rmtree(folder)
    file.unlink()
    db, largest = psnr.compare(Image.open(picture), Image.open(reference))
    print(f"{kind}: {db:.1f} dB, largest difference {largest}", flush=True)
    return min(db, 999.0)


def write_table(results, page):
    import diffusers
    import torch

    lines = ["| kind | sampler | dB |", "|---|---|---|"]
    for kind, case in KINDS.items():
        if kind in results:
            lines.append(f"| {kind}, {case['operation']} | {case.get('scheduler', 'own')} | {results[kind]:.1f} |")
    begin, end = MARKERS
    head, tail = page.read_text().split(begin)[0], page.read_text().split(end)[1]
    versions = f"torch {torch.__version__.split('+')[0]}, diffusers {diffusers.__version__}."
    page.write_text(head + begin + f"\n\n{versions}\n\n" + "\n".join(lines) + "\n\n" + end + tail)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("work", type=pathlib.Path, help="folder for models and pictures")
    ap.add_argument("--worker", default=ROOT / "target/release/sd-worker-cpu", help="the program to test")
    ap.add_argument("--kinds", default=",".join(KINDS), help="only these, with commas")
    ap.add_argument("--reference", help=argparse.SUPPRESS)
    ap.add_argument("--page", type=pathlib.Path, default=ROOT / "docs/fidelity.md")
    a = ap.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    if a.reference:
        kind = a.reference
        paint_reference(a.work / kind, a.work / f"{kind}.safetensors", kind, a.work / f"{kind}.diffusers.png")
        return
    file = a.work / "checkpoints.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for kind in a.kinds.split(","):
        results[kind] = compare(a.work, kind, a.worker)
        file.write_text(json.dumps(results, indent=1))
    write_table(results, a.page)
    low = [kind for kind, db in results.items() if db < fidelity.GOAL]
    if low:
        sys.exit(f"below {fidelity.GOAL} dB: " + ", ".join(low))


if __name__ == "__main__":
    main()
