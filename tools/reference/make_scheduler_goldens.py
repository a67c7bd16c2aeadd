#!/usr/bin/env python3
"""Run diffusers' schedulers over a closed-form network, as the reference for crates/diffusion/src/samplers.

    make_scheduler_goldens.py > crates/diffusion/tests/goldens/schedulers.json

Made with diffusers 0.42.1, torch 2.15.0 and numpy 2.4.6. The loops are those of the Stable Diffusion pipelines: the start
in the middle as image_transform makes it, the blend after every network call as inpainting with a 4-channel U-Net does it.
`levels` are timesteps and the noise that add_noise puts in, `runs` are final latents.
"""
import itertools, json, sys, warnings
import numpy as np
import torch
import diffusers

diffusers.logging.set_verbosity_error()
warnings.filterwarnings("ignore")
torch.set_num_threads(1)

SHAPE, COUNT = (1, 1, 4, 5), 20  # above 16 and no multiple of it: the noise is drawn by torch's vectorised way, with a redrawn tail
KEPT = [0, 3, 8, 13, 19]  # of the latents: the first and the last, some that the blend puts back and some that it leaves
KINDS = {
    "ddim": ("DDIMScheduler", {}), "ddpm": ("DDPMScheduler", {}), "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lms": ("LMSDiscreteScheduler", {}), "euler": ("EulerDiscreteScheduler", {}), "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}), "dpm2": ("KDPM2DiscreteScheduler", {}), "dpm2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {}), "unipc": ("UniPCMultistepScheduler", {}), "deis": ("DEISMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}), "tcd": ("TCDScheduler", {}),
}
SCHEDULES = {"karras": {"use_karras_sigmas": True}, "exponential": {"use_exponential_sigmas": True}}
SCHEDULED = ["lms", "euler", "heun", "dpm2", "dpm2_a", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s", "unipc", "deis"]
BETAS = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
FILE = dict(BETAS, _class_name="DDIMScheduler", clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def scheduler(case):
    config = case["config"]
    made = getattr(diffusers, config["_class_name"]).from_config(dict(config))
    if "kind" in case or "schedule" in case:
        cls, extra = KINDS[case["kind"]] if "kind" in case else (config["_class_name"], {})
        made = getattr(diffusers, cls).from_config(made.config, **extra, **SCHEDULES.get(case.get("schedule"), {}))
    made.set_timesteps(case["steps"])
    return made


def network(x, t):
    """Of float32 operations that are exact everywhere."""
    return x / (1 + x * x) + np.float32(0.3) * x + np.float32(0.2) * (np.float32(t) / np.float32(1000))


def run(case):
    s = scheduler(case)
    generator = torch.Generator("cpu").manual_seed(case["seed"])
    noise = torch.randn(SHAPE, generator=generator)
    picture = torch.linspace(-1, 1, COUNT).reshape(SHAPE)
    first = case.get("first", 0) * s.order
    timesteps = s.timesteps[first:]
    if hasattr(s, "set_begin_index"):
        # Text to image does not: there diffusers searches the index and fails when rounding makes the first timestep twice.
        s.set_begin_index(first)
    x = s.add_noise(picture, noise, timesteps[:1]) if "first" in case else noise * s.init_noise_sigma
    known = torch.arange(COUNT).reshape(SHAPE) % 3 == 0
    kwargs = {k: v for k, v in dict(eta=0.0, generator=generator).items() if k in s.step.__code__.co_varnames}
    for i, t in enumerate(timesteps):
        output = network(s.scale_model_input(x, t), t.item())
        x = s.step(output, t, x, return_dict=False, **kwargs)[0]
        if case.get("blend"):
            proper = s.add_noise(picture, noise, timesteps[i + 1:i + 2]) if i + 1 < len(timesteps) else picture
            x = torch.where(known, proper, x)
    return x.flatten()


def levels(case):
    s = scheduler(case)
    mixes = []
    for i in range(len(s.timesteps)):
        if hasattr(s, "set_begin_index"):
            s.set_begin_index(i)
        mixes.append(s.add_noise(torch.zeros(1, 1), torch.ones(1, 1), s.timesteps[i:i + 1]).item())
    return [t.item() for t in s.timesteps], mixes, float(s.init_noise_sigma)


def short(values, digits):
    return [float(f"{float(v):.{digits}g}") for v in values]


RUNS, LEVELS = [], []


def add(config, steps=20, **more):
    RUNS.append(dict(config=config, steps=steps, **more))


for kind in KINDS:
    for schedule in [None, *(SCHEDULES if kind in SCHEDULED else [])]:
        named = dict(kind=kind) | (dict(schedule=schedule) if schedule else {})
        for prediction in ["epsilon", "v_prediction"]:
            file = dict(FILE, prediction_type=prediction)
            for steps in (1, 2, 4, 20):
                add(file, steps, **named)
            add(file, 4, first=1, **named)
            for first in (3, 14):
                add(file, 20, first=first, **named)
            add(file, 20, blend=True, **named)
            add(file, 20, first=5, blend=True, **named)

for name in [cls for cls, _ in dict.fromkeys((c, 0) for c, _ in KINDS.values())]:
    own = dict(BETAS, _class_name=name)
    for spacing in ["linspace", "leading", "trailing"]:
        for steps in (1, 7, 20):
            for schedule in [None, "karras", "exponential"]:
                if schedule and not hasattr(getattr(diffusers, name), "_convert_to_karras"): continue
                if schedule and (spacing == "leading" or steps not in (7, 20)): continue
                more = dict(schedule=schedule) if schedule else {}
                LEVELS.append(dict(config=dict(own, timestep_spacing=spacing, steps_offset=1), steps=steps, **more))
        add(dict(own, timestep_spacing=spacing), 7)
        if name != "PNDMScheduler": add(dict(own, timestep_spacing=spacing, steps_offset=1), 25, first=4)
    add(dict(_class_name=name))
    add(dict(own, beta_schedule="squaredcos_cap_v2"))
    add(dict(own, beta_schedule="linear"), 11)
    add(dict(own, trained_betas=[0.001 * (1 + i) for i in range(100)], num_train_timesteps=100), 10)
    for prediction in ["v_prediction", "sample", "original_sample"][:3 if name.startswith("Euler") else 2]:
        add(dict(own, prediction_type=prediction), 9)
    add(dict(own, rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"))
    add(dict(own, clip_sample=True, clip_sample_range=0.8))
    add(dict(own, thresholding=True, sample_max_value=2.5, dynamic_thresholding_ratio=0.9))
    add(dict(own, set_alpha_to_one=False, clip_sample=False)); add(dict(own, set_alpha_to_one=True, clip_sample=False))
    add(dict(own, final_sigmas_type="sigma_min"), 10); add(dict(own, final_sigmas_type="sigma_min"), 21)
    if hasattr(getattr(diffusers, name), "_convert_to_karras"):
        for schedule in SCHEDULES:
            add(dict(own, sigma_min=0.05, sigma_max=9.0), 12, schedule=schedule)
            add(dict(own, beta_schedule="squaredcos_cap_v2"), 12, schedule=schedule)
            add(dict(own, final_sigmas_type="sigma_min"), 16, schedule=schedule)

prk = dict(FILE, _class_name="PNDMScheduler", skip_prk_steps=False)
for steps, first in ((4, 0), (5, 0), (20, 0), (20, 2), (20, 15)):
    add(prk, steps, **(dict(first=first) if first else {}))
    add(dict(prk, prediction_type="v_prediction"), steps, **(dict(first=first) if first else {}))
for variance in ["fixed_small", "fixed_small_log", "fixed_large"]:
    add(dict(BETAS, _class_name="DDPMScheduler", clip_sample=False, variance_type=variance, steps_offset=0))
for betas in ["laplace", "sigmoid"]:
    add(dict(BETAS, _class_name="DDPMScheduler", beta_schedule=betas))
add(dict(BETAS, _class_name="HeunDiscreteScheduler", beta_schedule="exp"))
euler = dict(BETAS, _class_name="EulerDiscreteScheduler")
for more in [dict(interpolation_type="log_linear"), dict(timestep_type="continuous", prediction_type="v_prediction"), dict(timestep_type="continuous")]:
    add(dict(euler, **more), 8); LEVELS.append(dict(config=dict(euler, **more), steps=8))
    add(dict(euler, **more), 8, schedule="karras")
multi, single = dict(BETAS, _class_name="DPMSolverMultistepScheduler"), dict(BETAS, _class_name="DPMSolverSinglestepScheduler")
for algorithm, solver, order in itertools.product(["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis"], ["midpoint", "heun", "bh2"], [1, 2, 3]):
    for cls in (multi, single):
        for final in ["zero", "sigma_min"]:
            if algorithm == "deis" and final == "zero": continue  # diffusers refuses it for its old name's sake, we do not
            if final == "zero" and algorithm in ("dpmsolver", "sde-dpmsolver") and (solver, order) != ("heun", 2): continue
            if algorithm == "sde-dpmsolver" and (order == 3 or cls is single) and solver != "heun": continue
            if algorithm == "sde-dpmsolver" and order == 3:
                add(dict(cls, algorithm_type=algorithm, solver_type=solver, solver_order=order, final_sigmas_type=final), 16)
                continue
            more = dict(algorithm_type=algorithm, solver_type=solver, solver_order=order, final_sigmas_type=final)
            for steps in (3, 6, 16) if solver != "bh2" else (5,):
                add(dict(cls, **more), steps)
            if solver == "midpoint": add(dict(cls, **more), 7, first=2)
for more in [dict(lower_order_final=False), dict(euler_at_final=True), dict(euler_at_final=True, final_sigmas_type="sigma_min"), dict(lambda_min_clipped=-3.0),
             dict(lower_order_final=False, final_sigmas_type="sigma_min"), dict(lambda_min_clipped=-5.1, timestep_spacing="trailing"),
             dict(lambda_min_clipped=-3.0, timestep_spacing="leading"), dict(use_lu_lambdas=True), dict(lower_order_final=True, solver_order=3)]:
    for cls, steps in itertools.product((multi, single), (6, 20)):
        add(dict(cls, **more), steps)
for prediction, algorithm in itertools.product(["sample", "v_prediction"], ["dpmsolver", "sde-dpmsolver", "sde-dpmsolver++"]):
    for cls in (multi, single):
        add(dict(cls, algorithm_type=algorithm, prediction_type=prediction, final_sigmas_type="sigma_min"), 8)
        add(dict(cls, algorithm_type=algorithm, prediction_type=prediction, final_sigmas_type="sigma_min", thresholding=True), 8)
unipc = dict(BETAS, _class_name="UniPCMultistepScheduler")
for solver, order, x0, final in itertools.product(["bh1", "bh2", "heun"], [1, 2, 3, 4], [True, False], ["zero", "sigma_min"]):
    for prediction in ["epsilon", "sample", "v_prediction"] if order == 2 else ["epsilon"]:
        more = dict(solver_type=solver, solver_order=order, predict_x0=x0, final_sigmas_type=final, prediction_type=prediction)
        add(dict(unipc, **more), 10)
    if solver == "bh2": add(dict(unipc, **more), 10, first=4)
add(dict(unipc, disable_corrector=[0, 1, 5])); add(dict(unipc, lower_order_final=False, final_sigmas_type="sigma_min"))
deis = dict(BETAS, _class_name="DEISMultistepScheduler")
for order, steps in itertools.product([1, 2, 3], [3, 10, 16]):
    add(dict(deis, solver_order=order), steps); add(dict(deis, solver_order=order), steps, schedule="karras")
    add(dict(deis, solver_order=order, lower_order_final=False, algorithm_type="dpmsolver++", solver_type="heun"), steps)
for name in ["LCMScheduler", "TCDScheduler"]:
    own = dict(BETAS, _class_name=name)
    for steps, first in ((1, 0), (4, 0), (8, 3), (50, 0), (50, 20)):
        add(own, steps, **(dict(first=first) if first else {}))
    add(dict(own, original_inference_steps=100, timestep_scaling=5.0), 12); add(dict(own, original_inference_steps=30), 7)
    LEVELS.append(dict(config=dict(own, original_inference_steps=70), steps=9))
for file, kind, schedule in [(dict(unipc, solver_type="heun", solver_order=3), "dpmpp_2m", None), (dict(multi, algorithm_type="sde-dpmsolver++"), "dpmpp_2m", None),
                             (dict(multi, algorithm_type="sde-dpmsolver++", solver_type="heun"), "dpmpp_2s", None), (dict(FILE, use_karras_sigmas=True), "euler", None),
                             (dict(euler, sigma_min=0.1, use_karras_sigmas=True), "heun", None), (dict(euler, sigma_min=0.1), "lms", "karras"), (euler, "pndm", None),
                             (dict(_class_name="LCMScheduler"), "ddim", None), (dict(_class_name="PNDMScheduler"), "pndm", None), (dict(multi, solver_order=3), "unipc", None),
                             (dict(multi, solver_order=3), "deis", "exponential"), (dict(multi, solver_order=3), "dpmpp_2s", "exponential")]:
    add(file, 12, kind=kind, **(dict(schedule=schedule) if schedule else {}))

runs, refused, nans = [], 0, 0
for n, case in enumerate(RUNS):
    case["seed"] = n
    try:
        out = run(case)
    except (ValueError, NotImplementedError, UnboundLocalError, IndexError, RuntimeError) as error:
        print("refused:", case, repr(error)[:100], file=sys.stderr); refused += 1
        runs.append(dict(case, refused=True))
        continue
    if not out.isfinite().all():
        print("not finite:", case, file=sys.stderr); nans += 1
        runs.append(dict(case, not_finite=True))
        continue
    runs.append(dict(case, latents=short(out[KEPT], 6)))
lev = []
for case in LEVELS:
    try:
        t, mixes, init = levels(case)
    except (ValueError, NotImplementedError, IndexError) as error:
        print("refused:", case, repr(error)[:100], file=sys.stderr)
        continue
    lev.append(dict(case, timesteps=short(t, 9), noise=short(mixes, 7), init_noise_sigma=float(f"{init:.7g}")))
print(f"{len(runs)} runs, {refused} refused, {nans} not finite, {len(lev)} levels", file=sys.stderr)
configs = []
for case in runs: case.pop("seed")  # it is the place in the list
for case in [*runs, *lev]:
    if case["config"] not in configs: configs.append(case["config"])
    case["config"] = configs.index(case["config"])
for config in configs:  # to save room, those of BETAS are written as one key
    if BETAS.items() <= config.items():
        for key in BETAS: config.pop(key)
        config["BETAS"] = True
line = lambda items: ",\n".join(json.dumps(item, separators=(",", ":")) for item in items)
print(f'{{"BETAS":{json.dumps(BETAS)},\n"configs":[\n{line(configs)}\n],"levels":[\n{line(lev)}\n],"runs":[\n{line(runs)}\n]}}')
