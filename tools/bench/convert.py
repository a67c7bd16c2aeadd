#!/usr/bin/env python3
"""Convert a diffusers folder's networks to OpenVINO's format, once: convert.py MODEL CACHE [NETWORK...]."""
import gc
import pathlib
import sys

import folders
import inputs
import networks
import numpy as np
import openvino
import torch


def examples(model, name):
    """Inputs to trace with. Small ones do: every size stays open in what is converted."""
    if name == "unet":
        return inputs.unet(folders.config(model, "unet"), 16, 16, 2)
    return [{"decode": inputs.latents(16, 16), "encode": inputs.image(128, 128)}.get(name, inputs.token_ids())]


@torch.no_grad()
def convert(model, cache, *wanted):
    # The weights came from float16 files where there are such: written so, they take half the room and nothing is lost.
    half = any(pathlib.Path(model).glob("unet/*.fp16.safetensors"))
    for name in wanted or folders.networks(model):
        path = folders.converted(model, cache, name)
        if path.exists():
            continue
        module = networks.load(model, name, torch.float32)
        example = tuple(torch.from_numpy(np.asarray(value)) for value in examples(model, name))
        converted = openvino.convert_model(module, example_input=example)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name("part-" + path.name)
        openvino.save_model(converted, part, compress_to_fp16=half)
        part.with_suffix(".bin").rename(path.with_suffix(".bin"))
        part.rename(path)
        print("converted", path, flush=True)
        del converted, module
        gc.collect()


if __name__ == "__main__":
    convert(*sys.argv[1:])
