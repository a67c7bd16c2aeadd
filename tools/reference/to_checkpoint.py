#!/usr/bin/env python3
"""Write a diffusers folder of SD 1.x, 2.x or XL as one .safetensors checkpoint with the weights' original names.

    to_checkpoint.py MODEL_DIR OUT.safetensors [--dtype f32|f16]

What the released files have and nobody needs is there too: the schedule of the training, averaged weights (one of them), the
text encoders' position ids and logit scale, and of Stable Diffusion 2's text encoder the last layer and the projection.
"""
import argparse
import json
import pathlib
import re

import torch
from safetensors.torch import load_file, save_file

TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
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
OPEN_CLIP = {
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding.": "token_embedding.",
    "text_model.final_layer_norm.": "ln_final.",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "text_projection.weight": "text_projection",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
    ".self_attn.": ".attn.",
}


def unet_names(names):
    """The original name of each of a U-Net's tensors."""
    attends = {int(m[1]) for name in names if (m := re.match(r"up_blocks\.(\d+)\.attentions", name))}

    def original(name):
        for ours, theirs in TOP.items():
            if name.startswith(ours + "."):
                return theirs + name[len(ours) :]
        m = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
        if m:
            side, block, part, layer, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
            if part == "downsamplers":
                return f"input_blocks.{3 * (block + 1)}.0.op." + rest.removeprefix("conv.")
            if part == "upsamplers":
                return f"output_blocks.{3 * block + 2}.{2 if block in attends else 1}." + rest
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

    return {name: original(name) for name in names}


def vae_names(names):
    """The original name of each of an autoencoder's tensors."""
    levels = 1 + max(int(m[1]) for name in names if (m := re.match(r"encoder\.down_blocks\.(\d+)", name)))

    def from_the_top(m):
        return str(levels - 1 - int(m))

    def original(name):
        name = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2", name)
        name = re.sub(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample", name)
        name = re.sub(r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"decoder.up.{from_the_top(m[1])}.block.{m[2]}", name)
        name = re.sub(r"decoder\.up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"decoder.up.{from_the_top(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        for ours, theirs in VAE.items():
            name = name.replace(ours, theirs)
        return name

    return {name: original(name) for name in names}


def open_clip_names(names):
    """OpenCLIP's name of each of a text encoder's tensors; query, key and value have that of the one matrix that they are there."""

    def original(name):
        for ours, theirs in OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        return re.sub(r"\.attn\.[qkv]_proj\.", ".attn.in_proj_", name)

    return {name: original(name) for name in names}


def is_convolution(original):
    """Whether an autoencoder's matrix is a 1 x 1 convolution there."""
    return ".mid.attn_1." in original and original.endswith("weight") and ".norm." not in original


def unet(tensors):
    names = unet_names(tensors)
    return {names[name]: value for name, value in tensors.items()}


def vae(tensors):
    names = vae_names(tensors)
    return {names[n]: v[:, :, None, None] if is_convolution(names[n]) and v.ndim == 2 else v for n, v in tensors.items()}


def open_clip(tensors):
    """`tensors` in the order of query, key and value, whatever theirs is."""
    out, names = {}, open_clip_names(tensors)
    for name in sorted(tensors, key=lambda name: re.sub(r"\.q_proj\.", ".a_proj.", name)):
        value = tensors[name].T if name == "text_projection.weight" else tensors[name]
        out.setdefault(names[name], []).append(value)
    return {name: torch.cat(values) for name, values in out.items()}


def load(folder):
    """The tensors of a component's one file, whatever its variant; a text encoder's with text_model."""
    (file,) = pathlib.Path(folder).glob("*.safetensors")
    heads = ("text_model.", "text_projection.")
    clip = pathlib.Path(folder).name.startswith("text_encoder")
    return {k if not clip or k.startswith(heads) else "text_model." + k: v for k, v in load_file(file).items()}


def text_encoders(model):
    """The text encoders' tensors under the roots that the released files have."""
    def read(path):
        return json.loads((model / path).read_text())

    first = load(model / "text_encoder")
    ids = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    if (model / "text_encoder_2").exists():
        second = {**open_clip(load(model / "text_encoder_2")), "logit_scale": torch.tensor(4.6)}
        return {"conditioner.embedders.0.transformer.": {**first, **ids}, "conditioner.embedders.1.model.": second}
    if not read("unet/config.json").get("use_linear_projection"):
        return {"cond_stage_model.transformer.": {**first, **ids}}
    named = open_clip(first)
    width = named["positional_embedding"].shape[1]
    last = max(int(m[1]) for name in named if (m := re.match(r"transformer\.resblocks\.(\d+)\.", name)))
    layer = f"transformer.resblocks.{last}."
    named |= {n.replace(layer, f"transformer.resblocks.{last + 1}."): v + 1 for n, v in named.items() if n.startswith(layer)}
    named |= {"text_projection": torch.randn(width, width), "logit_scale": torch.tensor(4.6)}
    turbo = read("scheduler/scheduler_config.json").get("timestep_spacing") == "trailing"
    return {"conditioner.embedders.0.model." if turbo else "cond_stage_model.model.": named}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model", type=pathlib.Path)
    ap.add_argument("out")
    ap.add_argument("--dtype", default="f32", choices=["f32", "f16"])
    a = ap.parse_args()
    dtype = torch.float16 if a.dtype == "f16" else torch.float32
    networks = {
        "model.diffusion_model.": unet(load(a.model / "unet")),
        "first_stage_model.": vae(load(a.model / "vae")),
        **text_encoders(a.model),
    }
    out = {root + name: value for root, network in networks.items() for name, value in network.items()}
    out |= {"betas": torch.linspace(0, 1, 1000), "model_ema.decay": torch.tensor(0.9999)}
    out = {name: value.to(dtype) if value.is_floating_point() else value for name, value in out.items()}
    save_file({name: value.contiguous().clone() for name, value in out.items()}, a.out)
    print(a.out, len(out), "tensors")


if __name__ == "__main__":
    main()
