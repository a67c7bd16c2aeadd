#!/usr/bin/env python3
"""Write a diffusers folder of SD 1.x as one .safetensors checkpoint with the weights' original names.

    to_checkpoint.py MODEL_DIR OUT.safetensors [--dtype f32|f16]
"""
import argparse
import pathlib
import re

import torch
from safetensors.torch import load_file, save_file

TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
VAE = {
    "mid_block.attentions.0.": "mid.attn_1.",
    "to_q.": "q.",
    "to_k.": "k.",
    "to_v.": "v.",
    "to_out.0.": "proj_out.",
    "group_norm.": "norm.",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
}


def unet_name(name):
    for ours, theirs in TOP.items():
        if name.startswith(ours + "."):
            return theirs + name[len(ours) :]
    m = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
    if m:
        side, block, part, layer, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
        if part == "downsamplers":
            return f"input_blocks.{3 * (block + 1)}.0.op." + rest.removeprefix("conv.")
        if part == "upsamplers":
            # The first up block of SD 1.x has no attentions: its upsampler comes second.
            return f"output_blocks.{3 * block + 2}.{1 if block == 0 else 2}." + rest
        base = f"input_blocks.{3 * block + layer + 1}" if side == "down" else f"output_blocks.{3 * block + layer}"
        place = 0 if part == "resnets" else 1
    else:
        m = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name)
        part, layer, rest = m[1], int(m[2]), m[3]
        base, place = "middle_block", 2 * layer if part == "resnets" else 1
    if part == "resnets":
        head, tail = rest.split(".", 1)
        rest = f"{RESNET[head]}.{tail}"
    return f"{base}.{place}.{rest}"


def vae_name(name, levels):
    def from_the_top(m):
        return str(levels - 1 - int(m))

    name = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2", name)
    name = re.sub(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample", name)
    name = re.sub(r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"decoder.up.{from_the_top(m[1])}.block.{m[2]}", name)
    name = re.sub(r"decoder\.up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"decoder.up.{from_the_top(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for ours, theirs in VAE.items():
        name = name.replace(ours, theirs)
    return name


def load(folder):
    """The tensors of a component's one file, whatever its variant."""
    (file,) = pathlib.Path(folder).glob("*.safetensors")
    return load_file(file)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("out")
    ap.add_argument("--dtype", default="f32", choices=["f32", "f16"])
    a = ap.parse_args()
    dtype, out = torch.float16 if a.dtype == "f16" else torch.float32, {}
    for name, value in load(f"{a.model}/unet").items():
        out["model.diffusion_model." + unet_name(name)] = value
    vae = load(f"{a.model}/vae")
    levels = 1 + max(int(m[1]) for name in vae if (m := re.match(r"encoder\.down_blocks\.(\d+)", name)))
    for name, value in vae.items():
        name = vae_name(name, levels)
        if "attn_1" in name and name.endswith("weight") and value.ndim == 2:
            value = value[:, :, None, None]  # there, attention's projections were 1 x 1 convolutions
        out["first_stage_model." + name] = value
    for name, value in load(f"{a.model}/text_encoder").items():
        name = name if name.startswith("text_model.") else "text_model." + name
        out["cond_stage_model.transformer." + name] = value
    save_file({name: value.to(dtype).contiguous() for name, value in out.items()}, a.out)
    print(a.out, len(out), "tensors")


if __name__ == "__main__":
    main()
