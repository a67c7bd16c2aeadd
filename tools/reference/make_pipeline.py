#!/usr/bin/env python3
"""Make a Stable Diffusion pipeline with random weights, in the folder layout that diffusers saves.

The topology of every kind is that of the released model; only the weights are random, so a program that loads the
result and follows the same configs must paint the very same picture as diffusers does (see paint.py).

    pip install -r requirements.txt
    make_pipeline.py KIND OUT [--seed 0] [--dtype f32|f16] [--tiny-vae]

KIND: sd15 | sd15-inpaint | sd21 (v-prediction) | sd21-inpaint | sdxl | sdxl-inpaint | lcm (SD 1.5 with a guidance
embedding) | turbo (SD 2.1's shape, epsilon, trailing timesteps), each also as KIND-small: the same blocks with narrow
channels. --tiny-vae: AutoencoderTiny in place of the autoencoder.
"""
import argparse
import pathlib

import kinds
import torch
from safetensors.torch import load_file, save_file

LATENTS = 16  # side of the latents that calibrate


def calibrate_unet(kind, unet, encoders):
    config, added = unet.config, {}
    if kind.xl:
        pooled = torch.randn(1, encoders[1].config.projection_dim)
        added = dict(added_cond_kwargs=dict(text_embeds=pooled, time_ids=torch.full((1, 6), 128.0)))
    sample = torch.randn(1, config.in_channels, LATENTS, LATENTS)
    hidden = torch.randn(1, 77, config.cross_attention_dim)
    kinds.calibrate(unet.conv_out, lambda: unet(sample, torch.tensor([500]), hidden, **added).sample, 1.0)


@torch.no_grad()
def calibrate_autoencoder(vae):
    latents = torch.randn(1, 4, LATENTS, LATENTS) / vae.config.scaling_factor
    kinds.calibrate(vae.decoder.conv_out, lambda: vae.decode(latents).sample, 0.4)
    moments = vae.quant_conv(vae.encoder(torch.randn(1, 3, 64, 64).clamp(-1, 1)))
    vae.quant_conv.weight[:4] *= 4.0 / moments[:, :4].std()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("kind")
    ap.add_argument("out")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--dtype", default="f32", choices=["f32", "f16"])
    ap.add_argument("--tiny-vae", action="store_true")
    a = ap.parse_args()
    kind, out = kinds.Kind(a.kind), pathlib.Path(a.out)
    torch.manual_seed(a.seed)
    encoders = kinds.text_encoders(kind)
    unet = kinds.unet(kind, encoders)
    calibrate_unet(kind, unet, encoders)
    if a.tiny_vae:
        vae = kinds.autoencoder(kind, tiny=True)
        latents = torch.randn(1, 4, LATENTS, LATENTS)
        kinds.calibrate(vae.decoder.layers[-1], lambda: vae.decode(latents).sample, 0.4)
    else:
        vae = kinds.autoencoder(kind, tiny=False)
        calibrate_autoencoder(vae)
    folders = ["tokenizer", "tokenizer_2"]
    tokenizers = [kinds.write_tokenizer(out / folder, pad) for folder, pad in zip(folders, kind.pads)]
    pipe = kinds.pipeline(kind, tokenizers, encoders, unet, vae, kinds.scheduler(kind))
    if a.dtype == "f16":
        pipe = pipe.to(dtype=torch.float16)
    pipe.save_pretrained(out, safe_serialization=True, variant="fp16" if a.dtype == "f16" else None)
    # The released models' files say text_model., newer transformers write none.
    for file in out.glob("text_encoder*/*.safetensors"):
        tensors = load_file(file)
        heads = ("text_model.", "text_projection.")
        save_file({k if k.startswith(heads) else "text_model." + k: v for k, v in tensors.items()}, file, {"format": "pt"})
    print(out, "unet", round(sum(p.numel() for p in unet.parameters()) / 1e6, 1), "M parameters")


if __name__ == "__main__":
    main()
