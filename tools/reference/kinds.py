"""The kinds of Stable Diffusion that the references cover, as diffusers components with random weights.

The topology of every kind is that of the released model; a small kind has the same blocks with narrow channels.
"""
import json
import pathlib
import struct
from dataclasses import dataclass, field

import torch
from diffusers import (
    AutoencoderKL, AutoencoderTiny, DDIMScheduler, EulerDiscreteScheduler, LCMScheduler, StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline, StableDiffusionPipeline, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline, UNet2DConditionModel)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

KINDS = ["sd15", "sd15-inpaint", "sd21", "sd21-inpaint", "sdxl", "sdxl-inpaint", "lcm", "turbo"]
BETAS = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
# CLIP's merges as pairs of 16-bit token numbers.
MERGES = pathlib.Path(__file__).resolve().parents[2] / "crates/diffusion/src/tokenizer/clip_merges.bin"


@dataclass
class Kind:
    """What a name such as `sdxl-inpaint-small` says."""

    name: str
    base: str = field(init=False)
    small: bool = field(init=False)
    inpaint: bool = field(init=False)

    def __post_init__(self):
        self.small = self.name.endswith("-small")
        base = self.name.removesuffix("-small")
        if base not in KINDS:
            raise SystemExit(f"unknown kind {self.name}; one of {', '.join(KINDS)}, each also with -small")
        self.inpaint = base.endswith("-inpaint")
        self.base = base.removesuffix("-inpaint")

    @property
    def xl(self):
        return self.base == "sdxl"

    @property
    def pads(self):
        """The padding tokens of the tokenizers."""
        return ["<|endoftext|>", "!"] if self.xl else ["!"] if self.base in ("sd21", "turbo") else ["<|endoftext|>"]


def bytes_to_characters():
    """CLIP's printable character for each byte, in the order of their ids: printable bytes first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def write_tokenizer(folder, pad):
    """CLIP's own vocabulary, written as vocab.json and merges.txt, with the configs that name the special tokens."""
    characters = list(bytes_to_characters().values())
    tokens, merges = characters + [c + "</w>" for c in characters], []
    for a, b in struct.iter_unpack("<HH", MERGES.read_bytes()):
        merges.append(f"{tokens[a]} {tokens[b]}")
        tokens.append(tokens[a] + tokens[b])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    write_tokenizer_configs(folder, pad)
    return CLIPTokenizer.from_pretrained(folder)


def write_tokenizer_configs(folder, pad):
    folder.mkdir(parents=True, exist_ok=True)
    special = dict(bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>", pad_token=pad)
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    config = {**special, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True,
              "errors": "replace", "add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def text_encoder(which, small, projection=False):
    hidden, layers, heads, inner, activation = {
        "sd15": (768, 12, 12, 3072, "quick_gelu"),
        "sd21": (1024, 23, 16, 4096, "gelu"),
        "xl2": (1280, 32, 20, 5120, "gelu"),
    }[which]
    if small:
        hidden, layers, heads, inner = 64, 3, 4, 128
    config = CLIPTextConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner,
        hidden_act=activation, projection_dim=hidden, vocab_size=49408, max_position_embeddings=77, bos_token_id=49406,
        eos_token_id=49407, pad_token_id=1)
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def text_encoders(kind):
    if kind.xl:
        return [text_encoder("sd15", kind.small), text_encoder("xl2", kind.small, projection=True)]
    return [text_encoder("sd15" if kind.base in ("sd15", "lcm") else "sd21", kind.small)]


def unet(kind, encoders):
    small, xl = kind.small, kind.xl
    channels = (32, 64, 96, 96) if small else (320, 640, 1280, 1280)
    config = dict(
        sample_size=128 if xl else 64, in_channels=9 if kind.inpaint else 4, out_channels=4, layers_per_block=2,
        block_out_channels=channels[:3] if xl else channels, norm_num_groups=16 if small else 32,
        cross_attention_dim=sum(e.config.hidden_size for e in encoders))
    if kind.base in ("sd15", "lcm"):
        config |= dict(attention_head_dim=4 if small else 8)
        if kind.base == "lcm":
            config |= dict(time_cond_proj_dim=32 if small else 256)
    elif kind.base in ("sd21", "turbo"):
        config |= dict(attention_head_dim=[2, 4, 4, 4] if small else [5, 10, 20, 20], use_linear_projection=True)
    else:
        embedding = 32 if small else 256
        config |= dict(
            use_linear_projection=True, attention_head_dim=[2, 4, 4] if small else [5, 10, 20],
            transformer_layers_per_block=[1, 1, 2] if small else [1, 2, 10],
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), addition_embed_type="text_time",
            addition_time_embed_dim=embedding,
            projection_class_embeddings_input_dim=encoders[1].config.projection_dim + 6 * embedding)
    return UNet2DConditionModel(**config).eval()


def autoencoder(kind, tiny):
    small = kind.small
    if tiny:
        channels = (16 if small else 64,) * 4
        return AutoencoderTiny(encoder_block_out_channels=channels, decoder_block_out_channels=channels).eval()
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, layers_per_block=2, norm_num_groups=8 if small else 32,
        block_out_channels=(16, 32, 32, 32) if small else (128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.13025 if kind.xl else 0.18215, sample_size=1024 if kind.xl else 512).eval()


def scheduler(kind):
    if kind.base == "turbo":
        return EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    if kind.base == "lcm":
        return LCMScheduler(**BETAS, original_inference_steps=50)
    prediction = "v_prediction" if kind.base == "sd21" and not kind.inpaint else "epsilon"
    return DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction)


PIPELINES = {  # what AutoPipelineFor… picks
    "image_generation": (StableDiffusionPipeline, StableDiffusionXLPipeline),
    "image_transform": (StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline),
    "image_inpaint": (StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline),
}


def pipeline(kind, tokenizers, encoders, unet, vae, scheduler, operation=None):
    """The pipeline of an operation; without one, the kind's own."""
    operation = operation or ("image_inpaint" if kind.inpaint else "image_generation")
    cls = PIPELINES[operation][kind.xl]
    parts = dict(vae=vae, text_encoder=encoders[0], tokenizer=tokenizers[0], unet=unet, scheduler=scheduler)
    if kind.xl:
        return cls(**parts, text_encoder_2=encoders[1], tokenizer_2=tokenizers[1], force_zeros_for_empty_prompt=True)
    return cls(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


@torch.no_grad()
def calibrate(module, run, target):
    """Scale the last convolution so that its output has a standard deviation of `target`: errors then show."""
    module.weight.mul_(target / run().std())
    module.bias.mul_(0).add_(0.01)
