#!/usr/bin/env python3
"""Paint a picture with diffusers, as the reference that another program must match.

    paint.py MODEL_DIR OUT.png --op image_generation|image_transform|image_inpaint --prompt TEXT [options]

Without --scheduler, --schedule, --width or --height, the model's own hold. --chunks encodes prompts of more than 75 tokens
in chunks of 75, each with its own begin and end tokens and padding, and joins them; the shorter of prompt and negative
prompt gets empty chunks; SDXL's pooled vector is that of the first chunk. The noise comes from a torch CPU generator with
the seed given, in float32: the order of its draws is that of the diffusers pipeline of the same name. psnr.py compares.
"""
import argparse
import pathlib
import time

import diffusers
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, AutoPipelineForText2Image
from PIL import Image

OPERATIONS = {
    "image_generation": AutoPipelineForText2Image,
    "image_transform": AutoPipelineForImage2Image,
    "image_inpaint": AutoPipelineForInpainting,
}
SCHEDULERS = {  # name: class, what its config gets besides the model's own
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}
SCHEDULES = {"karras": {"use_karras_sigmas": True}, "exponential": {"use_exponential_sigmas": True}}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def schedules_of(scheduler):
    """The schedules that diffusers gives a scheduler; from_config ignores keys that a class does not know."""
    import inspect

    known = inspect.signature(getattr(diffusers, SCHEDULERS[scheduler][0]).__init__).parameters
    return [name for name, extra in SCHEDULES.items() if set(extra) <= set(known)]


def load(model, operation="image_generation", dtype="f32", device="cpu"):
    """The diffusers pipeline of an operation, from a model folder; float16 files are read into any dtype."""
    variant = "fp16" if list(pathlib.Path(model).glob("unet/*.fp16.safetensors")) else None
    pipe = OPERATIONS[operation].from_pretrained(model, dtype=DTYPES[dtype], variant=variant, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def set_scheduler(pipe, scheduler=None, schedule=None):
    """What naming a scheduler or a schedule does to a pipeline with its model's own."""
    if scheduler or schedule:
        name, extra = SCHEDULERS[scheduler] if scheduler else (type(pipe.scheduler).__name__, {})
        changes = {**extra, **SCHEDULES.get(schedule, {})}
        pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **changes)


def token_ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids


def encode(tokenizer, encoder, text, chunks, clip_skip, penultimate):
    """Hidden states (1, 77 * chunks, width) and the first chunk's pooled vector."""
    ids = token_ids(tokenizer, text)
    parts, pooled = [], None
    for i in range(chunks):
        row = [tokenizer.bos_token_id, *ids[75 * i : 75 * i + 75], tokenizer.eos_token_id]
        row += [tokenizer.pad_token_id] * (77 - len(row))
        out = encoder(torch.tensor([row], device=encoder.device), output_hidden_states=True)
        pooled = out[0] if pooled is None else pooled
        if penultimate:
            parts.append(out.hidden_states[-2 - (clip_skip or 0)])
        elif clip_skip:
            parts.append(getattr(encoder, "text_model", encoder).final_layer_norm(out.hidden_states[-1 - clip_skip]))
        else:
            parts.append(out.last_hidden_state)
    return torch.cat(parts, 1), pooled


@torch.no_grad()
def chunked(pipe, prompt, negative, clip_skip):
    """The embeddings of prompts of any length, as arguments of the pipeline; clip_skip is the prompt's alone, as in diffusers."""
    xl = hasattr(pipe, "text_encoder_2")
    pairs = [(pipe.tokenizer, pipe.text_encoder)] + ([(pipe.tokenizer_2, pipe.text_encoder_2)] if xl else [])
    chunks = max(1, *(-(-len(token_ids(pipe.tokenizer, text)) // 75) for text in (prompt, negative or "")))
    kw = {}
    for name, text, skip in (("prompt", prompt, clip_skip), ("negative_prompt", negative or "", None)):
        done = [encode(tokenizer, encoder, text, chunks, skip, xl) for tokenizer, encoder in pairs]
        kw[name + "_embeds"] = torch.cat([hidden for hidden, _ in done], -1)
        if xl:
            kw[name.replace("prompt", "pooled_prompt") + "_embeds"] = done[1][1]
    if xl and negative is None and pipe.config.force_zeros_for_empty_prompt:
        kw |= {name: torch.zeros_like(value) for name, value in kw.items() if name.startswith("negative")}
    return kw


def paint(pipe, prompt, negative_prompt=None, steps=20, guidance_scale=7.5, width=None, height=None, seed=0, strength=0.8,
          clip_skip=None, image=None, mask=None, chunks=False):
    """One picture; `image` and `mask` are Pillow's. What is painted follows from the pipeline's class."""
    kw = dict(prompt=prompt, negative_prompt=negative_prompt, num_inference_steps=steps, guidance_scale=guidance_scale)
    if clip_skip:
        kw["clip_skip"] = clip_skip
    # Diffusers' own clip_skip of SD 1 and 2 looks for text_encoder.text_model, which transformers 5 no longer has.
    if chunks or (clip_skip and not hasattr(pipe, "text_encoder_2")):
        kw |= dict(prompt=None, negative_prompt=None) | chunked(pipe, prompt, negative_prompt, clip_skip)
    if image is None:
        kw |= dict(width=width, height=height)
    else:
        kw |= dict(image=image.convert("RGB"), strength=strength)
    if mask is not None:
        # The inpainting pipelines take the size as arguments and refuse what is no multiple of 8, where the
        # image-to-image pipelines round the image's own size down; so does this.
        kw |= dict(mask_image=mask.convert("L"), width=image.width // 8 * 8, height=image.height // 8 * 8)
    return pipe(**kw, generator=torch.Generator("cpu").manual_seed(seed)).images[0]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("out")
    ap.add_argument("--op", default="image_generation", choices=OPERATIONS)
    ap.add_argument("--prompt", required=True)
    ap.add_argument("--negative-prompt")
    ap.add_argument("--steps", type=int, default=20)
    ap.add_argument("--guidance-scale", type=float, default=7.5)
    ap.add_argument("--width", type=int)
    ap.add_argument("--height", type=int)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--strength", type=float, default=0.8)
    ap.add_argument("--scheduler", choices=SCHEDULERS)
    ap.add_argument("--schedule", choices=SCHEDULES)
    ap.add_argument("--clip-skip", type=int)
    ap.add_argument("--chunks", action="store_true", help="encode long prompts in chunks of 75 tokens")
    ap.add_argument("--image")
    ap.add_argument("--mask")
    ap.add_argument("--dtype", default="f32", choices=DTYPES)
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--time", type=int, default=0, help="repeat so often and print seconds")
    a = ap.parse_args()
    pipe = load(a.model, a.op, a.dtype, a.device)
    set_scheduler(pipe, a.scheduler, a.schedule)
    for _ in range(max(1, a.time)):
        start = time.time()
        picture = paint(
            pipe, a.prompt, a.negative_prompt, a.steps, a.guidance_scale, a.width, a.height, a.seed, a.strength, a.clip_skip,
            Image.open(a.image) if a.image else None, Image.open(a.mask) if a.mask else None, a.chunks)
        if a.time:
            print(f"{time.time() - start:.3f} s", flush=True)
    picture.save(a.out)


if __name__ == "__main__":
    main()
