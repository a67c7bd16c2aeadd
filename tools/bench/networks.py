"""A diffusers folder's networks as modules with plain tensors in and out, for PyTorch and for conversion to OpenVINO."""
import pathlib

import folders
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection


class Unet(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.xl = model.config.addition_embed_type == "text_time"

    def forward(self, sample, timestep, hidden, *more):
        kw = {}
        if self.xl:
            kw = dict(added_cond_kwargs=dict(text_embeds=more[0], time_ids=more[1]))
        elif more:
            kw = dict(timestep_cond=more[0])
        return self.model(sample, timestep, hidden, return_dict=False, **kw)[0]


class Decoder(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, latents):
        return self.model.decode(latents, return_dict=False)[0]


class Encoder(Decoder):
    def forward(self, image):
        encoded = self.model.encode(image, return_dict=False)[0]
        return encoded.mean if hasattr(encoded, "mean") and not torch.is_tensor(encoded) else encoded


class Text(torch.nn.Module):
    """Hidden states and, for SDXL, the pooled text."""

    def __init__(self, model, xl):
        super().__init__()
        self.model, self.xl = model, xl

    def forward(self, ids):
        out = self.model(ids, output_hidden_states=self.xl)
        return (out.hidden_states[-2], out[0]) if self.xl else out.last_hidden_state


def load(folder, name, dtype):
    """The module of one of `folders.networks`."""

    def read(cls, part):
        variant = "fp16" if list((pathlib.Path(folder) / part).glob("*.fp16.safetensors")) else None
        return cls.from_pretrained(folder, subfolder=part, variant=variant, dtype=dtype).eval()

    if name == "unet":
        return Unet(read(UNet2DConditionModel, "unet"))
    if name.startswith("text"):
        known = {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection}
        xl = len(folders.text_encoders(folder)) == 2
        return Text(read(known[folders.config(folder, name)["architectures"][0]], name), xl)
    vae = read(AutoencoderTiny if folders.config(folder, "vae")["_class_name"] == "AutoencoderTiny" else AutoencoderKL, "vae")
    return Decoder(vae) if name == "decode" else Encoder(vae)
