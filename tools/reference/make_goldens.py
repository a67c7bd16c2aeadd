#!/usr/bin/env python3
"""Make the goldens that the crate `diffusion` is tested against: pictures of small models, painted by diffusers.

    pip install -r requirements.txt
    make_goldens.py                    paint every picture whose case is new or changed, drop those that no case names
    make_goldens.py --all              paint all anew
    make_goldens.py --only sdxl        those cases alone whose name contains the word
    make_goldens.py --models           also make configs and weights.json anew: then every picture changes

The models are the small kinds of kinds.py with weights by formula (formula.py, small_models.py): the repository has their
configs and a few calibrated numbers, no weights. cases.py has the list of cases.
"""
import argparse
import json
import pathlib
import tempfile

import cases
import diffusers
import inputs
import kinds
import paint
import small_configs
import small_models
import torch

GOLDENS = pathlib.Path(__file__).resolve().parents[2] / "crates/diffusion/tests/goldens"


def tokenizers(kind, cache={}):
    """CLIP's tokenizers with a kind's padding tokens."""
    for pad in kind.pads:
        if pad not in cache:
            with tempfile.TemporaryDirectory() as folder:
                cache[pad] = kinds.write_tokenizer(folder, pad)
    return [cache[pad] for pad in kind.pads]


def write_manifest(topology, module):
    """The names and shapes of a component's tensors: `name 32x4x3x3` a line."""
    lines = [f"{name} {'x'.join(map(str, value.shape))}\n" for name, value in small_models.file_names(module)]
    path = GOLDENS / f"tensors/{topology}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
    return dict(line.split() for line in lines)


def shapes_of(component):
    """The names and shapes of a component's tensors, in the manifest's order, those of its own last."""
    lines = (GOLDENS / f"tensors/{component['topology']}.txt").read_text().split("\n")[:-1]
    shapes = dict(line.split() for line in lines) | component.get("shapes", {})
    return {name: tuple(map(int, shape.split("x"))) for name, shape in shapes.items()}


def make_models():
    """Configs, lists of tensors and weights.json of every kind."""
    made, kinds_of, manifests = {}, {}, {}  # components by id, ids by kind and part, shapes by topology
    for name in kinds.KINDS:
        small_configs.write(GOLDENS, name)
        kind, modules, kinds_of[name] = kinds.Kind(name + "-small"), {}, {}
        for part, (id, component) in small_models.components(name).items():
            module = small_models.make_module(GOLDENS / "kinds" / name / part)
            topology = component["topology"]
            if topology not in manifests:
                manifests[topology] = write_manifest(topology, module)
            component = made.setdefault(id, component)
            other = {n: "x".join(map(str, v.shape)) for n, v in small_models.file_names(module)}
            other = {n: s for n, s in other.items() if manifests[topology].get(n) != s}
            if other:
                component["shapes"] = other
            modules[part], kinds_of[name][part] = small_models.fill(module, component), id
        if len(made["vae"]["gains"]) == 0:
            small_models.calibrate_autoencoder(modules["vae"], made["vae"])
        encoders = [module for part, module in modules.items() if part.startswith("text_encoder")]
        prediction = small_configs.SCHEDULERS[name].get("prediction_type", "epsilon")
        print(name, small_models.fit_unet(kind, modules["unet"], made[f"unet-{name}"], encoders, tokenizers(kind), prediction), flush=True)
    tiny = kinds.autoencoder(kinds.Kind("sd15-small"), tiny=True)
    made["vae-tiny"] = dict(topology="vae-tiny", gains=[])
    write_manifest("vae-tiny", tiny)
    small_models.calibrate_autoencoder(small_models.fill(tiny, made["vae-tiny"]), made["vae-tiny"])
    small_configs.write_json(GOLDENS / "kinds/tiny-vae/config.json", small_configs.module_config(tiny))
    for component in made.values():
        component["fnv1a"] = small_models.checksum(component, shapes_of(component))
    groups = [f'"{title}": {{\n{lines(entries)}\n}}' for title, entries in (("components", made), ("kinds", kinds_of))]
    (GOLDENS / "weights.json").write_text("{" + ",\n".join(groups) + "}\n")


def lines(entries):
    return ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())


class Models:
    """The modules of the small kinds, each made once."""

    def __init__(self):
        self.weights, self.made = small_models.read(GOLDENS / "weights.json"), {}

    def part(self, folder, id, dtype):
        key = (str(folder), id, dtype)
        if key not in self.made:
            self.made[key] = small_models.fill(small_models.make_module(folder), self.weights["components"][id], dtype)
        return self.made[key]

    def pipeline(self, case):
        """The diffusers pipeline of a case's operation, with a scheduler of its own as from_pretrained gives it."""
        name, dtype, tiny_vae = case["kind"], case.get("weights", "f32"), case.get("tiny_vae", False)
        kind, folder, ids = kinds.Kind(name + "-small"), GOLDENS / "kinds" / name, self.weights["kinds"][name]
        encoders = [self.part(folder / part, id, dtype) for part, id in ids.items() if part.startswith("text_encoder")]
        vae = self.part(GOLDENS / "kinds/tiny-vae", "vae-tiny", dtype) if tiny_vae else self.part(folder / "vae", ids["vae"], dtype)
        config = small_models.read(folder / "scheduler/scheduler_config.json") | case.get("scheduler_config", {})
        scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
        unet = self.part(folder / "unet", ids["unet"], dtype)
        pipe = kinds.pipeline(kind, tokenizers(kind), encoders, unet, vae, scheduler, case["operation"])
        pipe.set_progress_bar_config(disable=True)
        return pipe


def paint_case(pipe, case):
    """One case's picture with its pipeline; also fidelity.py's."""
    paint.set_scheduler(pipe, case.get("scheduler"), case.get("schedule"))
    fields = ("prompt", "negative_prompt", "steps", "guidance_scale", "width", "height", "seed", "strength", "clip_skip")
    kw = {k: case[k] for k in fields if k in case}
    for field, name in (("image", "init_image"), ("mask", "mask_image")):
        if name in case:
            kw[field] = inputs.draw(case[name])
    texts = [case["prompt"], case.get("negative_prompt") or ""]
    return paint.paint(pipe, **kw, chunks=any(len(paint.token_ids(pipe.tokenizer, text)) > 75 for text in texts))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--all", action="store_true")
    ap.add_argument("--only", default="")
    ap.add_argument("--models", action="store_true")
    a = ap.parse_args()
    torch.set_num_threads(1)
    if a.models:
        make_models()
    todo, models = cases.golden_cases(), Models()
    old = {case["name"]: case for case in small_models.read(GOLDENS / "cases.json")} if (GOLDENS / "cases.json").exists() else {}
    for folder in ("pictures", "inputs"):
        (GOLDENS / folder).mkdir(exist_ok=True)
    for name in sorted({case[field] for case in todo for field in ("init_image", "mask_image") if field in case}):
        inputs.draw(name).save(GOLDENS / f"inputs/{name}.png", optimize=True)
    for case in todo:
        path = GOLDENS / "pictures" / f"{case['name']}.png"
        known = {k: v for k, v in old.get(case["name"], {}).items() if k not in ("file", "fails")}
        if a.only not in case["name"] or (known == case and not (a.all or a.models)):
            case |= {k: v for k, v in old.get(case["name"], {}).items() if k in ("file", "fails")}
            continue
        pipe = models.pipeline(case)
        try:
            picture = paint_case(pipe, case)
            if all(low == high for low, high in picture.getextrema()):
                raise ValueError("the picture has one colour: its latents are NaN")
            picture.save(path, optimize=True)
            case["file"] = path.name
        except Exception as error:
            case["fails"] = f"{type(error).__name__}: {error}"
        print(case["name"], case.get("fails", ""), flush=True)
    for path in (GOLDENS / "pictures").glob("*.png"):
        if path.name not in {case.get("file") for case in todo}:
            path.unlink()
    text = ",\n".join(json.dumps(case, ensure_ascii=False) for case in todo)
    (GOLDENS / "cases.json").write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
