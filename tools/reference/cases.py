"""The pictures that are compared with diffusers: for each the kind of model and the operation's fields.

A case names only the fields that it sets; the others have the operation's defaults. `init_image` and `mask_image` are
names of pictures that inputs.py draws.
"""
from kinds import KINDS
from paint import SCHEDULERS, schedules_of

CAT = "a photo of a cat on a red sofa"
NEGATIVE = "blurry, ugly, low quality"
# 90 and 198 tokens: two and three chunks.
LONG = "a very detailed painting of an old harbour at dawn, " + ", ".join(
    f"{n} {c} boats" for n, c in zip("one two three four five six seven eight nine ten".split() * 2, ["red", "blue", "green", "white"] * 5))
LONGER = LONG + ", " + ", ".join(f"{c} {w} on the {s}" for c in ("red", "yellow", "black") for w in ("crates", "nets", "ropes") for s in ("left", "right"))
ODD = "Füchse & Bären!! it's 2 o'clock — 狐 🦊 don't"


def case(name, kind, operation="image_generation", **fields):
    fields = {"prompt": CAT, "steps": 5, "guidance_scale": 7.5, "seed": 1, **fields}
    if operation == "image_generation":
        fields = {"width": 64, "height": 64, **fields}
    else:
        fields = {"init_image": "init-64x64", "strength": 0.8, **fields}
    if operation == "image_inpaint":
        fields = {"mask_image": "mask-64x64", **fields}
    return {"name": name, "kind": kind, "operation": operation, **{k: v for k, v in fields.items() if v is not None}}


def operations_of(kind):
    return ["image_inpaint"] if kind.endswith("inpaint") else ["image_generation", "image_transform", "image_inpaint"]


def own_settings(kind):
    """Steps and guidance that suit a kind, as its release recommends them."""
    return {"lcm": dict(steps=4, guidance_scale=8.0), "turbo": dict(steps=3, guidance_scale=0.0)}.get(kind, {})


def kinds_and_operations():
    """Every operation of every kind, with both autoencoders; 104 x 72 has odd latents and a noise count that 16 does not divide."""
    for kind in KINDS:
        for operation in operations_of(kind):
            for tiny in (False, True):
                fields = own_settings(kind) | ({"tiny_vae": True} if tiny else {})
                if operation == "image_generation":
                    fields |= dict(width=104, height=72)
                elif operation == "image_transform":
                    fields |= dict(init_image="init-104x72")
                else:
                    fields |= dict(init_image="init-104x72", mask_image="mask-104x72", strength=1.0 if tiny else 0.8)
                name = f"{kind}{'-tiny-vae' if tiny else ''}.{operation}"
                yield case(name, kind, operation, negative_prompt=NEGATIVE, seed=3, **fields)


def samplers():
    """Every sampler with every schedule; with other predictions and spacings; and where the first step is not the first of all."""
    for scheduler in SCHEDULERS:
        for schedule in (None, *schedules_of(scheduler)):
            tail = f"{scheduler}-{schedule}" if schedule else scheduler
            yield case(f"sd15.{tail}", "sd15", scheduler=scheduler, schedule=schedule, steps=6)
        yield case(f"sd21.{scheduler}", "sd21", scheduler=scheduler, seed=2)
        yield case(f"turbo.{scheduler}", "turbo", scheduler=scheduler, seed=2, guidance_scale=3.0)
        yield case(f"sd15.{scheduler}.transform", "sd15", "image_transform", scheduler=scheduler, steps=6, strength=0.7)
        yield case(f"sd15.{scheduler}.inpaint", "sd15", "image_inpaint", scheduler=scheduler, steps=6, strength=0.7)
    for scheduler in ("heun", "dpm2", "dpmpp_2m", "unipc", "dpmpp_2s"):
        yield case(f"sd21.{scheduler}-karras", "sd21", scheduler=scheduler, schedule="karras", seed=2)
        yield case(f"sd15.{scheduler}-karras.transform", "sd15", "image_transform", scheduler=scheduler, schedule="karras", strength=0.6)
    for scheduler in ("ddim", "pndm", "lms", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "lcm"):
        yield case(f"sd15-inpaint.{scheduler}", "sd15-inpaint", "image_inpaint", scheduler=scheduler, strength=1.0)
    for scheduler in ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s", "unipc", "deis", "pndm"):
        yield case(f"sd15.{scheduler}.20-steps", "sd15", scheduler=scheduler, steps=20)
    yield case("sdxl.schedule-alone", "sdxl", schedule="karras")


def seeds():
    for seed in (0, 42, 2**31, 2**32 - 1, 2**32 + 7, 2**64 - 1):
        yield case(f"sd15.seed-{seed}", "sd15", seed=seed, steps=3)


def sizes():
    for kind in ("sd15", "sd21", "sdxl"):
        yield case(f"{kind}.200x136", kind, width=200, height=136, steps=4)
    yield case("sd15.136x200.euler_a", "sd15", width=136, height=200, steps=4, scheduler="euler_a")
    for kind in ("sd15", "sdxl"):
        yield case(f"{kind}.own-size", kind, width=None, height=None, steps=3)
    for kind in ("sd15", "sdxl"):
        yield case(f"{kind}.transform.203x141", kind, "image_transform", init_image="init-203x141", steps=4)
    for kind in ("sd15", "sdxl-inpaint"):
        yield case(f"{kind}.inpaint.203x141", kind, "image_inpaint", init_image="init-203x141", mask_image="mask-203x141", steps=4)


def prompts():
    for kind in ("sd15", "sd21", "sdxl"):
        yield case(f"{kind}.empty", kind, prompt="", steps=3)
        yield case(f"{kind}.odd", kind, prompt=ODD, steps=3)
        yield case(f"{kind}.long", kind, prompt=LONG, steps=3)
        yield case(f"{kind}.longer-negative", kind, prompt=CAT, negative_prompt=LONGER, steps=3)
        yield case(f"{kind}.longer", kind, prompt=LONGER, negative_prompt=NEGATIVE, steps=3)
        yield case(f"{kind}.negative", kind, negative_prompt=NEGATIVE, steps=3)
        yield case(f"{kind}.negative-empty", kind, negative_prompt="", steps=3)
        yield case(f"{kind}.no-guidance", kind, guidance_scale=1.0, steps=3)
        for skip in (1, 2):
            yield case(f"{kind}.clip-skip-{skip}", kind, clip_skip=skip, negative_prompt=NEGATIVE, steps=3)
    yield case("sd15.clip-skip-1.long", "sd15", prompt=LONG, clip_skip=1, steps=3)
    yield case("sd15.guidance-0", "sd15", guidance_scale=0.0, steps=3)
    for guidance in (0.0, 1.0, 2.5):
        yield case(f"lcm.guidance-{guidance}", "lcm", guidance_scale=guidance, steps=3)


def strengths_and_masks():
    for kind in ("sd15", "sdxl"):
        for strength in (0.3, 1.0):
            yield case(f"{kind}.transform.strength-{strength}", kind, "image_transform", strength=strength)
            yield case(f"{kind}.inpaint.strength-{strength}", kind, "image_inpaint", strength=strength)
    for kind in ("sd15", "sd21-inpaint", "sdxl-inpaint"):
        yield case(f"{kind}.gray-mask", kind, "image_inpaint", mask_image="gray-mask-64x64")
        yield case(f"{kind}.mask-of-another-size", kind, "image_inpaint", mask_image="gray-mask-50x90")
        yield case(f"{kind}.inpaint.no-guidance", kind, "image_inpaint", guidance_scale=1.0)
    # int(5 * 0.1) is no step at all: diffusers raises an error.
    yield case("sd15.transform.strength-0.1", "sd15", "image_transform", strength=0.1, scheduler="ddim")
    yield case("sd15.inpaint.strength-0.1", "sd15", "image_inpaint", strength=0.1, scheduler="ddim")


def storage():
    """Weights in float16 files, computed with in float32."""
    for kind in ("sd15", "sdxl"):
        yield case(f"{kind}.f16-files", kind, weights="f16", steps=3)


def scheduler_configs():
    """Models whose scheduler_config.json says something else: `scheduler_config` replaces keys of the kind's own file."""
    def ddim(**changes):
        return {"_class_name": "DDIMScheduler", "set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False, **changes}

    # Old files: the SD pipelines mend some of them when they are built, those of SDXL do not.
    old = ddim(steps_offset=0, clip_sample=True)
    for operation in ("image_generation", "image_transform", "image_inpaint"):
        yield case(f"sd15.old-ddim.{operation}", "sd15", operation, scheduler_config=old, seed=5)
    yield case("sd15.old-ddim.euler", "sd15", scheduler_config=old, scheduler="euler", seed=5)
    yield case("sdxl.old-euler", "sdxl", scheduler_config={"steps_offset": 0}, seed=5)
    yield case("sdxl.old-ddim", "sdxl", scheduler_config=old, seed=5)
    runge_kutta = {"_class_name": "PNDMScheduler", "skip_prk_steps": False}
    yield case("sd15.pndm-runge-kutta", "sd15", scheduler_config=runge_kutta, seed=5)
    yield case("sd15.pndm-runge-kutta.inpaint", "sd15", "image_inpaint", scheduler_config=runge_kutta, seed=5)
    # What community models' files say.
    multistep = {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True}
    yield case("sd15.own-karras", "sd15", scheduler_config=multistep, seed=5)
    yield case("sd15.own-karras.euler", "sd15", scheduler_config=multistep, scheduler="euler", seed=5)
    third = {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "final_sigmas_type": "sigma_min", "timestep_spacing": "linspace"}
    yield case("sd15.third-order", "sd15", scheduler_config=third, steps=8, seed=5)
    # With a last sigma of zero, bh1 gives NaN in diffusers.
    bh1 = {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1", "solver_order": 3, "final_sigmas_type": "sigma_min"}
    yield case("sd15.unipc-bh1", "sd15", scheduler_config=bh1, steps=8, seed=5)
    yield case("sd15.euler-linspace", "sd15", scheduler_config={"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "linspace"}, seed=5)
    yield case("sd15.no-offset-set-alpha", "sd15", scheduler_config=ddim(set_alpha_to_one=True), seed=5)
    zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    yield case("sd21.zero-snr", "sd21", scheduler_config=zero_snr, seed=5)
    yield case("sd21.zero-snr.euler", "sd21", scheduler_config=zero_snr, scheduler="euler", seed=5)
    yield case("sd21.zero-snr.transform", "sd21", "image_transform", scheduler_config=zero_snr, seed=5)
    yield case("lcm.original-steps-100", "lcm", scheduler_config={"original_inference_steps": 100}, steps=4, guidance_scale=8.0, seed=5)


def matrix():
    """Every sampler with every schedule, for every operation of every kind."""
    for kind in KINDS:
        for operation in operations_of(kind):
            for scheduler in SCHEDULERS:
                for schedule in (None, *schedules_of(scheduler)):
                    name = ".".join(filter(None, ("matrix", kind, operation, scheduler, schedule)))
                    yield case(name, kind, operation, scheduler=scheduler, schedule=schedule, seed=7, **own_settings(kind))


VARIATIONS = {
    "seed 0": dict(seed=0),
    "seed 2^32 - 1": dict(seed=2**32 - 1),
    "seed 2^64 - 1": dict(seed=2**64 - 1),
    "200 x 136": dict(width=200, height=136, init_image="init-200x136", mask_image="mask-200x136"),
    "empty prompt": dict(prompt=""),
    "other scripts": dict(prompt=ODD),
    "two chunks": dict(prompt=LONG),
    "three chunks, negative of one": dict(prompt=LONGER, negative_prompt=NEGATIVE),
    "negative of three chunks": dict(negative_prompt=LONGER),
    "negative prompt": dict(negative_prompt=NEGATIVE),
    "clip_skip 1": dict(clip_skip=1, negative_prompt=NEGATIVE),
    "clip_skip 2, two chunks": dict(clip_skip=2, prompt=LONG),
    "guidance 1": dict(guidance_scale=1.0),
    "guidance 7.5": dict(guidance_scale=7.5),
}


def variations():
    """One thing changed at a time, for every operation of every kind."""
    for kind in KINDS:
        for operation in operations_of(kind):
            for name, changes in VARIATIONS.items():
                alien = ("init_image", "mask_image") if operation == "image_generation" else ("width", "height")
                alien += ("mask_image",) if operation == "image_transform" else ()
                fields = own_settings(kind) | {k: v for k, v in changes.items() if k not in alien}
                yield case(f"variation.{kind}.{operation}.{name}", kind, operation, **fields) | {"variation": name}


def small_cases():
    """What fidelity.py compares beside the goldens: too many for the repository's tests."""
    return [*matrix(), *variations()]


def golden_cases():
    return [*kinds_and_operations(), *samplers(), *seeds(), *sizes(), *prompts(), *strengths_and_masks(), *storage(), *scheduler_configs()]


def full_size_cases():
    """Few enough for full-size networks on a CPU: every operation of every kind, and some samplers and prompts."""
    names = iter(list(SCHEDULERS) * 9)
    for kind in KINDS:
        sd1, xl = kind in ("sd15", "sd15-inpaint", "lcm"), "sdxl" in kind
        fields, first = dict(steps=3) if xl else own_settings(kind), operations_of(kind)[0]
        for operation in operations_of(kind):
            large = sd1 or (operation == "image_generation" and not xl)
            for size, tiny in (("256x256" if large else "200x136", False), ("200x136", True)):
                if tiny and not sd1 and operation != first:
                    continue
                width, height = map(int, size.split("x"))
                extra = dict(width=width, height=height) if operation == "image_generation" else dict(init_image=f"init-{size}")
                if operation == "image_inpaint":
                    extra |= dict(mask_image=f"mask-{size}", strength=1.0)
                name = f"{kind}{'-tiny-vae' if tiny else ''}.{operation}.{size}"
                yield case(name, kind, operation, negative_prompt=NEGATIVE, **fields, **extra, **({"tiny_vae": True} if tiny else {}))
        for _ in range(4 if kind in ("sd15", "sd21") else 1 if xl else 2):
            scheduler = next(names)
            extra = dict(width=200, height=136) if first == "image_generation" else dict(init_image="init-200x136", mask_image="mask-200x136")
            yield case(f"{kind}.{first}.200x136.{scheduler}", kind, first, scheduler=scheduler, **fields, **extra)
    for kind in ("sd15", "sd21", "sdxl"):
        size = dict(width=200, height=136, steps=3 if kind == "sdxl" else 4)
        yield case(f"{kind}.long-prompt.200x136", kind, prompt=LONG, negative_prompt=NEGATIVE, **size)
        if kind != "sdxl":
            yield case(f"{kind}.clip-skip-1.200x136", kind, clip_skip=1, **size)
