"""Inputs that every engine computes on: the same formula as in crates/diffusion/examples/measure.rs."""
import numpy as np

TOKENS = 77


def numbers(seed, shape):
    """Numbers of variance 1 that look random: a uniform distribution by the last steps of MurmurHash3."""
    with np.errstate(over="ignore"):
        x = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(seed * 0x7F4A7C15 & 0xFFFFFFFF)
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        x ^= x >> np.uint32(16)
    return (((x >> np.uint32(8)).astype(np.float32) / np.float32(8388608) - np.float32(1)) * np.sqrt(np.float32(3))).reshape(shape)


def unet(config, h, w, batch):
    """What the U-Net takes: latents, timestep, text, and what its kind takes beside."""
    values = [numbers(1, (batch, config["in_channels"], h, w)), np.float32(500), numbers(2, (batch, TOKENS, config["cross_attention_dim"]))]
    if config.get("addition_embed_type") == "text_time":
        width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        sizes = np.array([8 * h, 8 * w, 0, 0, 8 * h, 8 * w], np.float32)
        values += [numbers(3, (batch, width)), np.tile(sizes, (batch, 1))]
    if config.get("time_cond_proj_dim"):
        values.append(numbers(6, (batch, config["time_cond_proj_dim"])))
    return values


def latents(h, w):
    return numbers(4, (1, 4, h, w))


def image(height, width):
    return numbers(5, (1, 3, height, width)).clip(-1, 1)


def token_ids():
    """A prompt of 75 tokens between CLIP's first and last."""
    return np.array([[49406, *(320 + 577 * i for i in range(TOKENS - 2)), 49407]], np.int64)
