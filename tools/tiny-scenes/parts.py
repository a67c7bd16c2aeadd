"""The networks of tiny-scenes, and where the steps of its training keep what they made.

Order of work, each step in the same folder --work:

    make_data.py 48000            images.npy, captions.json
    train_vae.py MINUTES          vae.pt, vae/ with its scaling factor
    tokenizer.py                  tokenizer/, learnt from the captions
    train_unet.py MINUTES         latents.npy, unet.pt; --resume goes on
    train_decoder.py MINUTES      vae-finetuned/: the decoder alone, so that the U-Net's latents stay as they are
    export.py OUT                 the diffusers folder, float16
"""
import argparse
import pathlib

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

WIDTH = 128  # of the text encoder, and of what the U-Net attends to
BETAS = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def arguments(doc):
    """A parser with the options that all steps have."""
    ap = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--work", type=pathlib.Path, default=pathlib.Path("."), help="folder of what the steps make")
    return ap


def autoencoder():
    return AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96), layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=128)


def text_encoder(tokenizer):
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=77, hidden_act="quick_gelu", projection_dim=WIDTH, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id))


def unet():
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(64, 128, 192), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=WIDTH,
        attention_head_dim=4, norm_num_groups=32)


def scheduler():
    return DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


def to_tensor(images):
    """Pictures (N, H, W, 3), 0 to 255, as the networks take them: (N, 3, H, W) from -1 to 1."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def edges(picture, target):
    """The mean difference of neighbouring pixels' differences: what keeps edges sharp."""
    across = ((picture[..., 1:] - picture[..., :-1]) - (target[..., 1:] - target[..., :-1])).abs().mean()
    down = ((picture[..., 1:, :] - picture[..., :-1, :]) - (target[..., 1:, :] - target[..., :-1, :])).abs().mean()
    return across + down


def decibels(picture, target):
    """PSNR of pictures from -1 to 1."""
    return -10 * torch.log10(torch.nn.functional.mse_loss(picture, target) / 4).item()


def set_rate(optimizer, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def follow(average, values, decay):
    """One step of an exponential moving average."""
    for name, value in values.items():
        if value.dtype.is_floating_point:
            average[name].lerp_(value, 1 - decay)
