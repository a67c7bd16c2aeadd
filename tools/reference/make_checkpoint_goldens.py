#!/usr/bin/env python3
"""Write the original names of the small models' tensors, which crates/diffusion/tests makes checkpoints with.

    make_checkpoint_goldens.py

For each list crates/diffusion/tests/goldens/tensors/TOPOLOGY.txt one goldens/original/TOPOLOGY.txt, line by line: the name, and
what of that tensor the line's is: `0`, `1` or `2` a third of it, `T` its transpose, `conv` a matrix that is a 1 x 1 convolution
there. Every list is turned back by diffusers' own conversion of single files and must come out as it was.
"""
import pathlib

import torch
import to_checkpoint
from diffusers.loaders import single_file_utils
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

GOLDENS = pathlib.Path(__file__).resolve().parents[2] / "crates/diffusion/tests/goldens"
THIRDS = {"q_proj": "0", "k_proj": "1", "v_proj": "2"}


def read(topology):
    lines = (GOLDENS / f"tensors/{topology}.txt").read_text().split("\n")[:-1]
    shapes = {name: [int(side) for side in shape.split("x")] for name, shape in (line.split(" ") for line in lines)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def what(name, original):
    thirds = [third for part, third in THIRDS.items() if f".self_attn.{part}." in name and "in_proj" in original]
    if original == "text_projection":
        return "T"
    return thirds[0] if thirds else "conv" if to_checkpoint.is_convolution(original) else ""


def back(topology, originals):
    """What diffusers makes of the tensors under their original names."""
    if topology.startswith("unet"):
        config = dict(layers_per_block=2, addition_embed_type="text_time" if "label_emb.0.0.weight" in originals else None)
        named = {"model.diffusion_model." + name: value for name, value in originals.items()}
        return single_file_utils.convert_ldm_unet_checkpoint(named, config)
    if topology.startswith("vae"):
        config = dict(down_block_types=[0] * 4, up_block_types=[0] * 4)
        named = {"first_stage_model." + name: value for name, value in originals.items()}
        return single_file_utils.convert_ldm_vae_checkpoint(named, config)
    prefix = "conditioner.embedders.1.model."
    width = originals["positional_embedding"].shape[1]
    model = CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=width, num_hidden_layers=1, num_attention_heads=1))
    return single_file_utils.convert_open_clip_checkpoint(model, {prefix + n: v for n, v in originals.items()}, prefix)


def main():
    (GOLDENS / "original").mkdir(exist_ok=True)
    for topology in ("unet-sd15", "unet-sd21", "unet-sdxl", "vae", "clip", "clip-2"):
        tensors = read(topology)
        kind = topology.split("-")[0]
        names = {"unet": to_checkpoint.unet_names, "vae": to_checkpoint.vae_names, "clip": to_checkpoint.open_clip_names}[kind](tensors)
        originals = {"unet": to_checkpoint.unet, "vae": to_checkpoint.vae, "clip": to_checkpoint.open_clip}[kind](tensors)
        found = back(topology, originals)
        assert found.keys() == tensors.keys(), found.keys() ^ tensors.keys()
        assert all(torch.equal(found[name], value) for name, value in tensors.items())
        lines = [f"{names[name]} {what(name, names[name])}".rstrip() for name in tensors]
        (GOLDENS / f"original/{topology}.txt").write_text("\n".join(lines) + "\n")
        print(topology, len(lines), "tensors")


if __name__ == "__main__":
    main()
