#!/usr/bin/env python3
"""Holds the configs that are built in for single-file checkpoints against diffusers' and transformers' own classes.

    pip install -r tools/reference/requirements.txt
    tools/reference/check_configs.py

Each config has to make, in the class that it names, a network with as many parameters as the released model has; the repositories
have to be those that diffusers itself takes for such a file. No weights are made or read.
"""
import inspect
import json
import pathlib
import re

import diffusers
import torch
from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS, SCHEDULER_DEFAULT_CONFIG
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "crates/diffusion/src/pipeline/checkpoint"
# Millions of parameters, as the model cards and papers of the released models have them.
MILLIONS = {
    "sd1/unet": 859.52, "sd1/vae": 83.65, "sd1/text_encoder": 123.06,
    "sd2/unet": 865.91, "sd2/vae": 83.65, "sd2/text_encoder": 340.39,
    "sdxl/unet": 2567.46, "sdxl/vae": 83.65, "sdxl/text_encoder": 123.06, "sdxl/text_encoder_2": 694.66,
}


def network(name, config):
    part = name.split("/")[1]
    with torch.device("meta"):
        if part == "unet":
            return diffusers.UNet2DConditionModel.from_config({**config, "in_channels": 4})
        if part == "vae":
            return diffusers.AutoencoderKL.from_config(config)
        return (CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel)(CLIPTextConfig(**config))


def main():
    for name, expected in MILLIONS.items():
        config = json.loads((SOURCE / f"configs/{name}.json").read_text())
        millions = sum(p.numel() for p in network(name, config).parameters()) / 1e6
        assert f"{millions:.2f}" == f"{expected:.2f}", (name, millions, expected)
        print(f"{name}: {millions:.2f} M parameters")
    for file in sorted(SOURCE.glob("configs/schedulers/*.json")):
        config = json.loads(file.read_text())
        known = inspect.signature(getattr(diffusers, config["_class_name"]).__init__).parameters
        for key in ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "steps_offset", "set_alpha_to_one"):
            ours = config.get(key, known[key].default if key in known else SCHEDULER_DEFAULT_CONFIG[key])
            # An LCM's class has its own defaults, and its config says nothing else.
            assert ours == SCHEDULER_DEFAULT_CONFIG[key] or file.stem == "lcm", (file.stem, key, ours)
        print(f"schedulers/{file.stem}: {config['_class_name']}")
    ours = set(re.findall(r'repository: "([^"]+)"', (SOURCE / "configs.rs").read_text()))
    theirs = {path["pretrained_model_name_or_path"] for path in DIFFUSERS_DEFAULT_PIPELINE_PATHS.values()}
    print("repositories that diffusers takes, too:", ", ".join(sorted(ours & theirs)))
    print("which it does not tell apart:", ", ".join(sorted(ours - theirs)))


if __name__ == "__main__":
    main()
