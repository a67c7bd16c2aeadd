#!/usr/bin/env python3
"""Draw from torch's CPU generator, as the reference for crates/diffusion/src/noise.rs.

    make_noise_goldens.py > crates/diffusion/tests/goldens/noise.json

Each case is one generator and a row of draws from it, so that the state between draws is tested too: the spare normal
of the scalar way (counts below 16) and the redrawn tail (counts that are no multiple of 16). Of long draws only some
values and the sum are kept. Made with torch 2.15.0 on a CPU with AVX-512; ATEN_CPU_CAPABILITY=avx2 gives the same
within 5e-7.
"""
import json
import torch

CASES = [  # seed, draws: a positive number is randn, a negative one rand
    (0, [4 * 16 * 16, 4 * 17 * 25, 4 * 17 * 25, 16384]),
    (1, list(range(1, 41))),
    (42, [3, 16, 1, 2, 17, 5, -3, 1, 32, 15]),
    (2**32 - 1, [1700, -20, 7, 7]),
    (2**32 + 5, [5, 64]),
    (5, [5, 64]),
    (0xFEDCBA9876543210, [1, 100, 1, -7, 1]),
]


def draw(generator, n):
    values = torch.randn(n, generator=generator) if n > 0 else torch.rand(-n, generator=generator)
    keep = list(range(abs(n))) if abs(n) <= 64 else [*range(20), *range(abs(n) - 20, abs(n))]
    return dict(count=n, index=keep, values=[values[i].item() for i in keep], sum=values.double().sum().item())


cases = []
for seed, draws in CASES:
    generator = torch.Generator("cpu").manual_seed(seed)
    cases.append(dict(seed=str(seed), draws=[draw(generator, n) for n in draws]))
print(json.dumps(cases, separators=(",", ":")))
