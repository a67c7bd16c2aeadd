"""The configs of the small kinds of the goldens, as the released models' folders have them.

SD 1.5 and the schedulers have the released files' few keys, so that the defaults of the classes matter; the others say every key.
"""
import json

import kinds

SAMPLE_SIZE = 16  # 128 pixels
VERSION = "0.42.1"
# The keys of the released SD 1.5's unet/config.json and vae/config.json.
SD15_UNET = """act_fn attention_head_dim block_out_channels center_input_sample cross_attention_dim down_block_types downsample_padding
    flip_sin_to_cos freq_shift in_channels layers_per_block mid_block_scale_factor norm_eps norm_num_groups out_channels sample_size
    up_block_types""".split()
SD15_VAE = """act_fn block_out_channels down_block_types in_channels latent_channels layers_per_block norm_num_groups out_channels
    sample_size up_block_types""".split()
BETAS = dict(beta_end=0.012, beta_schedule="scaled_linear", beta_start=0.00085, num_train_timesteps=1000)
SCHEDULERS = {
    "sd15": dict(_class_name="PNDMScheduler", **BETAS, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None,
                 clip_sample=False),
    "sd15-inpaint": dict(_class_name="DDIMScheduler", **BETAS, set_alpha_to_one=False, steps_offset=1, trained_betas=None,
                         clip_sample=False),
    "sd21": dict(_class_name="DDIMScheduler", **BETAS, clip_sample=False, prediction_type="v_prediction", set_alpha_to_one=False,
                 skip_prk_steps=True, steps_offset=1, trained_betas=None),
    "sd21-inpaint": dict(_class_name="PNDMScheduler", **BETAS, clip_sample=False, prediction_type="epsilon", set_alpha_to_one=False,
                         skip_prk_steps=True, steps_offset=1, trained_betas=None),
    "sdxl": dict(_class_name="EulerDiscreteScheduler", **BETAS, clip_sample=False, interpolation_type="linear", prediction_type="epsilon",
                 sample_max_value=1.0, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, timestep_spacing="leading",
                 trained_betas=None, use_karras_sigmas=False),
    "lcm": dict(_class_name="LCMScheduler", **BETAS, clip_sample=False, clip_sample_range=1.0, dynamic_thresholding_ratio=0.995,
                original_inference_steps=50, prediction_type="epsilon", rescale_betas_zero_snr=False, sample_max_value=1.0,
                set_alpha_to_one=True, steps_offset=0, thresholding=False, timestep_scaling=10.0, timestep_spacing="leading",
                trained_betas=None),
    "turbo": dict(_class_name="EulerDiscreteScheduler", **BETAS, clip_sample=False, interpolation_type="linear",
                  prediction_type="epsilon", sample_max_value=1.0, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1,
                  timestep_spacing="trailing", trained_betas=None, use_karras_sigmas=False),
}
SCHEDULERS["sdxl-inpaint"] = SCHEDULERS["sdxl"]


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def module_config(module, keys=None):
    config = {k: v for k, v in module.config.items() if not k.startswith("_") and (keys is None or k in keys)}
    return {"_class_name": type(module).__name__, "_diffusers_version": VERSION, **config}


def clip_config(encoder, eos):
    keep = """attention_dropout hidden_act hidden_size initializer_factor initializer_range intermediate_size layer_norm_eps
        max_position_embeddings num_attention_heads num_hidden_layers pad_token_id projection_dim vocab_size""".split()
    # The released models' 2 for the end token is not its id; CLIP's code then takes the largest id's place for the pooled vector.
    return {"architectures": [type(encoder).__name__], "model_type": "clip_text_model", "bos_token_id": 0 if eos == 2 else 49406,
            "eos_token_id": eos, **{k: getattr(encoder.config, k) for k in keep}}


def model_index(kind, scheduler, encoders, tiny_vae=False):
    index = {
        "_class_name": kinds.PIPELINES["image_inpaint" if kind.inpaint else "image_generation"][kind.xl].__name__,
        "_diffusers_version": VERSION,
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", type(encoders[0]).__name__],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderTiny" if tiny_vae else "AutoencoderKL"],
    }
    if kind.xl:
        index |= {"text_encoder_2": ["transformers", type(encoders[1]).__name__], "tokenizer_2": ["transformers", "CLIPTokenizer"],
                  "force_zeros_for_empty_prompt": True}
    else:
        index |= {"feature_extractor": [None, None], "safety_checker": [None, None], "requires_safety_checker": False}
    return index


def write(goldens, name):
    """Write the configs of a small kind into kinds/NAME: those of a diffusers folder, without weights and vocabulary."""
    kind, folder = kinds.Kind(name + "-small"), goldens / "kinds" / name
    terse = name == "sd15"
    encoders = kinds.text_encoders(kind)
    unet, vae = kinds.unet(kind, encoders), kinds.autoencoder(kind, tiny=False)
    write_json(folder / "unet/config.json", module_config(unet, SD15_UNET if terse else None) | {"sample_size": SAMPLE_SIZE})
    write_json(folder / "vae/config.json", module_config(vae, SD15_VAE if terse else None))
    write_json(folder / "scheduler/scheduler_config.json", {"_diffusers_version": VERSION, **SCHEDULERS[name]})
    for i, (encoder, pad) in enumerate(zip(encoders, kind.pads)):
        tail = "_2" if i else ""
        eos = 2 if name in ("sd15", "sd15-inpaint", "sdxl") else 49407
        write_json(folder / f"text_encoder{tail}/config.json", clip_config(encoder, eos))
        kinds.write_tokenizer_configs(folder / f"tokenizer{tail}", pad)
    write_json(folder / "model_index.json", model_index(kind, SCHEDULERS[name]["_class_name"], encoders))
