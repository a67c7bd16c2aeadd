#!/usr/bin/env python3
"""Write what Pillow and diffusers make of small pictures: crates/diffusion/tests/goldens/image.json.

    image.py crates/diffusion/tests/goldens/image.json

Made with Pillow 13.0.0, diffusers 0.42.1 and numpy 2.4.6.
"""
import io
import json
import sys

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image


def noise(width, height, channels):
    """The same bytes as `noise` in crates/diffusion/src/image/tests.rs."""
    i = np.arange(width * height * channels, dtype=np.uint64)
    data = ((i * i * np.uint64(31) + i * np.uint64(2654435761)) >> np.uint64(7)).astype(np.uint8)
    return data.reshape(height, width, channels)


def fnv(data):
    hash = 0xCBF29CE484222325
    for byte in data:
        hash = (hash ^ byte) * 0x100000001B3 % 2**64
    return f"{hash:016x}"


def resizes():
    sizes = [((1, 1), (8, 8)), ((5, 7), (5, 7)), ((16, 16), (8, 8)), ((16, 16), (32, 24)), ((17, 31), (16, 24)), ((64, 48), (7, 5)), ((200, 136), (200, 136)), ((203, 139), (200, 136)),
             ((100, 100), (101, 99)), ((300, 2), (8, 8)), ((3, 3), (256, 8)), ((1000, 700), (512, 360)), ((512, 512), (1024, 64)), ((777, 512), (776, 512)), ((1500, 1100), (128, 96)), ((2, 4096), (8, 64))]
    rng = np.random.default_rng(0)
    near = lambda side: int(np.clip(side + rng.integers(-9, 10), 1, None))
    for _ in range(150):
        w, h, to_w, to_h = (int(n) for n in rng.integers(1, 120, 4))
        sizes.append(((w, h), (to_w, to_h)))
        sizes.append(((w, h), (near(w), near(h))))
    for n, ((w, h), (to_w, to_h)) in enumerate(sizes):
        for channels in (1, 3) if n < 16 else (1,):
            picture = noise(w, h, channels)
            image = Image.fromarray(picture[..., 0] if channels == 1 else picture)
            data = np.asarray(image.resize((to_w, to_h), Image.Resampling.LANCZOS)).tobytes()
            yield dict(size=[w, h, channels], to=[to_w, to_h], fnv=fnv(data), **(dict(data=data.hex()) if len(data) <= 800 else {}))


def files():
    rgb = Image.fromarray(noise(7, 5, 3))
    smooth = Image.fromarray(np.stack([np.add.outer(np.arange(24) * 5, np.arange(32) * 4), np.add.outer(np.arange(24) * 9, np.arange(32)), np.full((24, 32), 90)], -1).astype(np.uint8))
    rgba = Image.fromarray(noise(7, 5, 4))
    gray = rgb.convert("L")
    alpha = Image.fromarray(noise(7, 5, 2), "LA")
    palette = rgb.quantize(16)
    opaque = rgb.convert("RGBA")
    cases = [("rgb", rgb, "PNG", {}), ("rgba", rgba, "PNG", {}), ("gray", gray, "PNG", {}), ("gray alpha", alpha, "PNG", {}), ("palette", palette, "PNG", {}),
             ("palette 4 bits", rgb.quantize(9), "PNG", dict(bits=4)), ("palette transparent", palette, "PNG", dict(transparency=3)), ("one bit", gray.convert("1"), "PNG", {}), ("opaque alpha", opaque, "PNG", {}),
             ("rgb transparent", rgb, "PNG", dict(transparency=rgb.getpixel((2, 1)))), ("webp lossless", rgb, "WEBP", dict(lossless=True)), ("webp alpha", rgba, "WEBP", dict(lossless=True, exact=True)),
             ("jpeg", smooth, "JPEG", dict(quality=95)), ("jpeg 444", smooth, "JPEG", dict(quality=95, subsampling=0)), ("jpeg progressive", smooth, "JPEG", dict(quality=90, progressive=True)),
             ("jpeg gray", smooth.convert("L"), "JPEG", dict(quality=95)), ("jpeg cmyk", smooth.convert("CMYK"), "JPEG", dict(quality=95)), ("webp lossy", smooth, "WEBP", dict(quality=90))]
    for name, image, form, options in cases:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        opened = Image.open(io.BytesIO(buffer.getvalue()))
        alpha = opened.convert("RGBA").getchannel("A").tobytes() if opened.has_transparency_data else b""
        yield dict(name=name, file=buffer.getvalue().hex(), size=list(opened.size), rgb=opened.convert("RGB").tobytes().hex(), gray=opened.convert("L").tobytes().hex(), alpha=alpha.hex())


def processed():
    vae = VaeImageProcessor(vae_scale_factor=8)
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(3).reshape(16, 16, 3)
    done = vae.preprocess(Image.fromarray(picture))[0, 0].flatten()
    values = torch.cat([(torch.arange(0, 1021, 4).float() / 2 + 0.5) / 255 - 1, torch.tensor([-2.0, -1.0, -0.9999999, 0.0, 0.5, 0.9999999, 1.0, 2.0]), torch.linspace(-1.1, 1.1, 504)])
    image = values.view(1, 1, 24, 32).expand(1, 3, 24, 32)
    back = np.asarray(vae.postprocess(image)[0])[..., 0].tobytes()
    return dict(preprocessed=[v.item() for v in done], values=[v.item() for v in values], postprocessed=back.hex())


def masks():
    processor = VaeImageProcessor(vae_scale_factor=8, do_normalize=False, do_binarize=True, do_convert_grayscale=True)
    for (w, h), (to_w, to_h) in [((16, 16), (16, 16)), ((40, 24), (64, 48)), ((100, 70), (48, 40)), ((30, 30), (200, 136))]:
        mask = processor.preprocess(Image.fromarray(noise(w, h, 1)[..., 0]), to_h, to_w)
        small = torch.nn.functional.interpolate(mask, size=(to_h // 8, to_w // 8))
        bits = lambda t: "".join(str(int(v)) for v in t.flatten())
        yield dict(size=[w, h], to=[to_w, to_h], mask=bits(mask), small=bits(small))


out = dict(resizes=list(resizes()), files=list(files()), processed=processed(), masks=list(masks()))
text = json.dumps(out, separators=(",", ":")).replace('},{', '},\n{')
open(sys.argv[1], "w").write(text + "\n")
