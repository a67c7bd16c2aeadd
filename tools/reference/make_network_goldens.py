#!/usr/bin/env python3
"""Make crates/diffusion/tests/goldens/networks.json: what transformers and diffusers compute with tiny networks.

Each network has a topology that the small kinds lack or its corners: nested transformer layers, no middle, odd sides,
asymmetric padding. Weights and inputs come from formula.py, so the file has configs, names, shapes and outputs alone.

    pip install -r requirements.txt
    make_network_goldens.py
"""
import json
import pathlib

import formula
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/diffusion/tests/goldens/networks.json"

CLIP = dict(vocab_size=24, hidden_size=16, intermediate_size=40, projection_dim=12, num_hidden_layers=3,
            num_attention_heads=2, max_position_embeddings=9, pad_token_id=1, bos_token_id=22)
TEXT_ENCODERS = {
    # Configs from before transformers' pull request 24773 say that the end token is 2, and mean the greatest id.
    "clip-quick-gelu": (CLIPTextModel, dict(CLIP, hidden_act="quick_gelu", eos_token_id=2)),
    "clip-gelu-projection": (CLIPTextModelWithProjection, dict(CLIP, hidden_act="gelu", eos_token_id=23)),
}
# Padding repeats the end token 23, and a 2 in the second row is no end token.
IDS = [[22, 3, 7, 7, 23, 23, 23, 23, 23], [22, 1, 2, 3, 4, 5, 6, 20, 23]]

UNET = dict(block_out_channels=[8, 16, 24], norm_num_groups=4, layers_per_block=1, cross_attention_dim=12,
            attention_head_dim=2, down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"])
XL = dict(UNET, down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
          up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"])
UNETS = {  # config, height, width, timestep
    "unet-convolutions": (UNET, 7, 5, 981.0),
    "unet-linear-nine-channels": (dict(
        UNET, in_channels=9, use_linear_projection=True, attention_head_dim=[1, 2, 4], flip_sin_to_cos=False,
        freq_shift=1), 4, 8, 340.7234),
    "unet-text-time": (dict(
        XL, use_linear_projection=True, attention_head_dim=[1, 2, 4], transformer_layers_per_block=[1, 1, 2],
        addition_embed_type="text_time", addition_time_embed_dim=6, projection_class_embeddings_input_dim=10 + 6 * 6),
        5, 6, 999.0),
    "unet-nested-layers": (dict(
        XL, layers_per_block=[1, 2, 1], mid_block_type="UNetMidBlock2D", only_cross_attention=[False, True, False],
        transformer_layers_per_block=[1, [1, 2], [1]], reverse_transformer_layers_per_block=[[2, 1], [1, 0, 2], 1]),
        6, 6, 1.0),
    "unet-guidance-embedding": (dict(
        UNET, time_cond_proj_dim=10, act_fn="gelu", downsample_padding=0, mid_block_type=None, conv_in_kernel=5,
        conv_out_kernel=1, center_input_sample=True, time_embedding_dim=20, norm_eps=1e-3), 7, 9, 499.0),
}

KL = dict(block_out_channels=[8, 8, 16], norm_num_groups=4, layers_per_block=1, down_block_types=["DownEncoderBlock2D"] * 3,
          up_block_types=["UpDecoderBlock2D"] * 3, sample_size=32)
AUTOENCODERS = {  # config, height and width of the latents
    "autoencoder-kl": (AutoencoderKL, KL, 3, 5),
    "autoencoder-kl-bare": (AutoencoderKL, dict(
        KL, latent_channels=3, use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False,
        act_fn="relu", layers_per_block=2), 3, 2),
    "autoencoder-tiny": (AutoencoderTiny, dict(
        encoder_block_out_channels=[8] * 3, decoder_block_out_channels=[8] * 3, num_encoder_blocks=[1, 2, 1],
        num_decoder_blocks=[2, 1, 1]), 3, 5),
}


def with_formula(name, module):
    """The module with weights by formula, and its tensors' shapes by the names that released files have."""
    component, shapes = {"topology": f"networks.{name}"}, {}
    prefix = "text_model." if name.startswith("clip") else ""
    for own, value in module.state_dict().items():
        if own.endswith("position_ids"):
            continue
        full = own if own.startswith((prefix, "text_projection.")) else prefix + own
        value.copy_(torch.from_numpy(formula.tensor(component, full, tuple(value.shape))))
        shapes[full] = list(value.shape)
    return module.eval(), shapes


def given(name, what, *shape):
    """An input of variance 1: a matrix of one column is scaled so."""
    count = 1
    for side in shape:
        count *= side
    values = formula.tensor({"topology": f"networks.{name}.input"}, what, (count, 1))
    return torch.from_numpy(values).reshape(shape)


def numbers(tensor):
    return [float(f"{x:.7g}") for x in tensor.flatten().tolist()]


def text_encoders():
    for name, (cls, config) in TEXT_ENCODERS.items():
        model, shapes = with_formula(name, cls(CLIPTextConfig(**config)))
        out = model(torch.tensor(IDS), output_hidden_states=True)
        pooled = out.text_embeds if cls is CLIPTextModelWithProjection else out.pooler_output
        yield name, dict(config=dict(config, architectures=[cls.__name__]), tensors=shapes, ids=IDS,
                         penultimate=numbers(out.hidden_states[-2]), last=numbers(out.last_hidden_state), pooled=numbers(pooled))


def unets():
    for name, (config, height, width, timestep) in UNETS.items():
        model, shapes = with_formula(name, UNet2DConditionModel(**config))
        options = {}
        if "addition_embed_type" in config:
            sizes = torch.tensor([[48.0, 40, 0, 8, 48, 40], [64.0, 40, 16, 0, 48, 40]])
            options["added_cond_kwargs"] = dict(text_embeds=given(name, "pooled", 2, 10), time_ids=sizes)
        if "time_cond_proj_dim" in config:
            options["timestep_cond"] = given(name, "timestep_cond", 2, config["time_cond_proj_dim"])
        sample = given(name, "sample", 2, model.config.in_channels, height, width)
        out = model(sample, torch.tensor(timestep, dtype=torch.float64), given(name, "encoder_hidden_states", 2, 3, 12), **options)
        yield name, dict(config=config, tensors=shapes, height=height, width=width, timestep=timestep, out=numbers(out.sample))


def autoencoders():
    for name, (cls, config, height, width) in AUTOENCODERS.items():
        model, shapes = with_formula(name, cls(**config))
        factor = 2 ** 2
        encoded = model.encode(given(name, "image", 2, 3, factor * height, factor * width))
        decoded = model.decode(given(name, "latents", 2, model.config.latent_channels, height, width)).sample
        case = dict(config=dict(config, _class_name=cls.__name__), tensors=shapes, height=height, width=width, decoded=numbers(decoded))
        if cls is AutoencoderKL:
            case |= dict(mean=numbers(encoded.latent_dist.mean), std=numbers(encoded.latent_dist.std))
        else:
            case |= dict(latents=numbers(encoded.latents))
        yield name, case


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    cases = dict(text_encoders=dict(text_encoders()), unets=dict(unets()), autoencoders=dict(autoencoders()))
    OUT.write_text(json.dumps(cases, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    print(OUT, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
