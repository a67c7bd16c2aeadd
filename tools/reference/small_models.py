"""The small kinds of the goldens as diffusers modules, weights by formula.

weights.json says how each component departs from the formula. Its gains keep activations and the text's influence in the
range of real models, and the last convolution of each U-Net is the least-squares fit of its features to what the net should
predict, so that each is a crude but true denoiser: its latents stay in range, and errors are not lost in saturation.
"""
import json

import diffusers
import formula
import kinds
import numpy as np
import torch
import transformers

CLIP_GAINS = [["q_proj.weight", 1.3], ["k_proj.weight", 1.3]]
UNET_GAINS = [["attn2.to_out.0.weight", 0.7], ["to_q.weight", 1.3], ["to_k.weight", 1.3]]
FITTED, UNFITTED = 64, 0.2  # pictures that the fit sees; the gain of what is added to it, so that no weight is near nothing
SIDE = 16
TEXTS = ["a red circle on a blue background", "", "mountains at night, oil painting", "blurry, ugly"]


def components(name):
    """The weights.json entries of a kind's parts, before calibration."""
    kind = kinds.Kind(name)
    topology = "unet-" + {"lcm": "sd15", "turbo": "sd21"}.get(kind.base, kind.base)
    parts = {
        "unet": (f"unet-{name}", dict(topology=topology, gains=UNET_GAINS)),
        "vae": ("vae", dict(topology="vae", gains=[])),
        "text_encoder": ("clip", dict(topology="clip", gains=CLIP_GAINS)),
    }
    if kind.xl:
        parts["text_encoder_2"] = ("clip-2", dict(topology="clip-2", gains=CLIP_GAINS))
    return parts


def read(path):
    return json.loads(path.read_text())


def make_module(folder):
    """An empty module from a config.json."""
    config = read(folder / "config.json")
    if "_class_name" in config:
        return getattr(diffusers, config["_class_name"]).from_config(config).eval()
    return getattr(transformers, config["architectures"][0])(transformers.CLIPTextConfig(**config)).eval()


def file_names(module):
    """The names that the released models' files give to a module's tensors, with the tensors."""
    clip = isinstance(module, transformers.PreTrainedModel)
    for name, value in module.state_dict().items():
        if name.endswith("position_ids"):
            continue
        prefixed = not clip or name.startswith(("text_model.", "text_projection."))
        yield (name if prefixed else "text_model." + name), value


@torch.no_grad()
def fill(module, component, dtype="f32"):
    for name, value in file_names(module):
        made = torch.from_numpy(formula.tensor(component, name, tuple(value.shape)))
        value.copy_(made.half() if dtype == "f16" else made)
    return module


def checksum(component, shapes):
    """FNV-1a over the bits of every value, 32 at a time, in hexadecimal: the twin in Rust must make the very same."""
    value = 0xCBF29CE484222325
    for name, shape in shapes.items():
        for bits in formula.tensor(component, name, shape).reshape(-1).view(np.uint32).tolist():
            value = (value ^ bits) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def rounded(values, digits=4):
    return [float(f"{v:.{digits}g}") for v in np.asarray(values, dtype=np.float64).ravel()]


def denoising_task(prediction, generator):
    """Noisy smooth fields, their timesteps, what the net should predict, and the fields."""
    low = torch.randn(FITTED, 4, 4, 4, generator=generator)
    clean = torch.nn.functional.interpolate(low, size=(SIDE, SIDE), mode="bilinear")
    clean = clean / clean.std()
    noise = torch.randn(FITTED, 4, SIDE, SIDE, generator=generator)
    timesteps = torch.randint(0, 1000, (FITTED,), generator=generator)
    alphas = diffusers.DDIMScheduler(**kinds.BETAS).alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    target = noise if prediction == "epsilon" else alphas.sqrt() * noise - (1 - alphas).sqrt() * clean
    return alphas.sqrt() * clean + (1 - alphas).sqrt() * noise, timesteps, target, clean


def conditioning(kind, encoders, tokenizers):
    """Hidden states and SDXL's added conditions of TEXTS."""
    rows, pooled = [], None
    for encoder, tokenizer in zip(encoders, tokenizers):
        ids = tokenizer(TEXTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        out = encoder(ids, output_hidden_states=True)
        rows.append(out.hidden_states[-2] if kind.xl else out.last_hidden_state)
        pooled = out[0]
    added = dict(text_embeds=pooled, time_ids=torch.full((len(TEXTS), 6), 64.0)) if kind.xl else {}
    return torch.cat(rows, -1), added


@torch.no_grad()
def fit_unet(kind, unet, component, encoders, tokenizers, prediction):
    """Give conv_out its least-squares values; says how well they predict and how much the text matters."""
    generator = torch.Generator().manual_seed(1)
    sample, timesteps, target, clean = denoising_task(prediction, generator)
    if kind.inpaint:
        mask = (torch.rand(FITTED, 1, SIDE, SIDE, generator=generator) > 0.5).float()
        sample = torch.cat([sample, mask, clean * (1 - mask)], 1)
    hidden, added = conditioning(kind, encoders, tokenizers)

    def run(which, count):
        kw = dict(added_cond_kwargs={k: v[which] for k, v in added.items()}) if added else {}
        if unet.config.time_cond_proj_dim:
            kw["timestep_cond"] = torch.randn(count, unet.config.time_cond_proj_dim, generator=torch.Generator().manual_seed(2))
        return unet(sample[:count], timesteps[:count], hidden[which], **kw).sample

    seen = {}
    hook = unet.conv_out.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    run(torch.arange(FITTED) % len(TEXTS), FITTED)
    hook.remove()
    features = torch.nn.functional.unfold(seen["x"], 3, padding=1).permute(0, 2, 1).flatten(0, 1).double()
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    wanted = target.permute(0, 2, 3, 1).reshape(-1, 4).double()
    ridge = 1e-3 * len(features) * features[:, :-1].var(0).mean() * torch.eye(features.shape[1])
    solution = torch.linalg.solve(features.T @ features + ridge, features.T @ wanted)
    fit = 1 - ((features @ solution - wanted) ** 2).mean() / wanted.var()
    shape = tuple(unet.conv_out.weight.shape)
    weight = solution[:-1].T.reshape(shape).numpy() + UNFITTED * formula.tensor(component, "conv_out.weight", shape)
    component["given"] = {"conv_out.weight": rounded(weight), "conv_out.bias": rounded(solution[-1].numpy())}
    fill(unet, component)
    outputs = [run(torch.full((8,), i), 8) for i in range(len(TEXTS))]
    text = torch.stack([(o - outputs[0]).std() for o in outputs[1:]]).mean() / outputs[0].std()
    return f"fit {fit:.2f}, output {outputs[0].std():.2f}, text {text:.2f}"


@torch.no_grad()
def calibrate_autoencoder(vae, component):
    """Gains by which the decoder's picture has a deviation of 0.5, and the encoder's latents have one of 4 and little noise."""
    gains, latents = component["gains"], torch.randn(2, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    pictures = torch.nn.functional.interpolate(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)), size=128)
    if isinstance(vae, diffusers.AutoencoderTiny):
        last = len(vae.decoder.layers) - 1, len(vae.encoder.layers) - 1
        gains.append([f"decoder.layers.{last[0]}.weight", *rounded(0.5 / vae.decode(2 * latents).sample.std())])
        gains.append([f"encoder.layers.{last[1]}.weight", *rounded(1.0 / vae.encode(pictures.clamp(-1, 1)).latents.std())])
        return fill(vae, component)
    # Latents of a deviation of about 2, divided by the scaling factor, become features of about 1.5 before the first norm.
    gains.append(["decoder.conv_in.weight", 0.12])
    fill(vae, component)
    gains.append(["decoder.conv_out.weight", *rounded(0.5 / vae.decode(2 * latents / vae.config.scaling_factor).sample.std())])
    moments = vae.quant_conv(vae.encoder(pictures.clamp(-1, 1)))
    gains.append(["quant_conv.weight", rounded([4.0 / moments[:, :4].std()] * 4 + [0.8 / moments[:, 4:].std()] * 4)])
    return fill(vae, component)
