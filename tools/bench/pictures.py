"""A whole picture with the networks of a peer: what diffusers' pipelines do, without their overhead."""
import functools
import inspect
import io

import diffusers
import folders
import numpy as np
import torch
from PIL import Image
from transformers import CLIPTokenizer


def encode(peer, text):
    """Hidden states (1, 77, width), and SDXL's pooled text or None."""
    hidden, pooled = [], None
    for name in folders.text_encoders(peer.a.model):
        ids = [tokenizer(peer.a.model, name.replace("text_encoder", "tokenizer"))(
            text, padding="max_length", max_length=77, truncation=True, return_tensors="np").input_ids.astype(np.int64)]
        peer.prepare(name, ids)
        state, *more = peer.run(name, ids)
        hidden.append(state)
        pooled = more[0] if more else None
    return np.concatenate(hidden, -1), pooled


@functools.cache
def tokenizer(model, part):
    return CLIPTokenizer.from_pretrained(model, subfolder=part)


def guidance_embedding(scale, width):
    """diffusers' get_guidance_scale_embedding."""
    angles = (scale - 1) * 1000 * torch.exp(torch.arange(width // 2).float() * -(torch.log(torch.tensor(10000.0)) / (width // 2 - 1)))
    return torch.cat([angles.sin(), angles.cos()])[None].numpy()


@torch.no_grad()
def paint(peer, height, width, steps, guidance, seed, prompt):
    """The picture as (height, width, 3) bytes; writing it as a PNG is a part of the work."""
    config, vae = peer.config("unet"), peer.config("vae")
    scheduler_config = folders.json_file(peer.a.model, "scheduler/scheduler_config.json")
    scheduler = getattr(diffusers, scheduler_config["_class_name"]).from_config(scheduler_config)
    distilled = config.get("time_cond_proj_dim")
    guided = guidance > 1 and not distilled

    text, pooled = encode(peer, prompt)
    more = []
    if guided:
        none, no_pooled = encode(peer, "")
        if pooled is not None:  # SDXL's force_zeros_for_empty_prompt
            none, no_pooled = np.zeros_like(none), np.zeros_like(no_pooled)
            pooled = np.concatenate([no_pooled, pooled])
        text = np.concatenate([none, text])
    if pooled is not None:
        more = [pooled, np.tile(np.array([height, width, 0, 0, height, width], np.float32), (len(text), 1))]
    if distilled:
        more = [guidance_embedding(guidance, distilled)]

    scheduler.set_timesteps(steps)
    generator = torch.Generator("cpu").manual_seed(seed)
    latents = torch.randn((1, 4, height // 8, width // 8), generator=generator) * scheduler.init_noise_sigma
    kw = dict(generator=generator) if "generator" in inspect.signature(scheduler.step).parameters else {}
    for timestep in scheduler.timesteps:
        sample = scheduler.scale_model_input(latents, timestep)
        values = [sample.repeat(len(text), 1, 1, 1).numpy(), np.float32(timestep), text, *more]
        peer.prepare("unet", values)
        out = torch.from_numpy(peer.run("unet", values)[0])
        if guided:
            none, towards = out.chunk(2)
            out = none + guidance * (towards - none)
        latents = scheduler.step(out, timestep, latents, **kw).prev_sample

    values = [(latents / vae.get("scaling_factor", 1.0)).numpy()]
    peer.prepare("decode", values)
    picture = peer.run("decode", values)[0][0].transpose(1, 2, 0)
    picture = ((picture / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(picture).save(io.BytesIO(), format="PNG")
    return picture
