"""The pictures and masks that transforming and inpainting start from: drawn, so that none need be kept.

A name is `init-WIDTHxHEIGHT`, `mask-WIDTHxHEIGHT` (black and white) or `gray-mask-WIDTHxHEIGHT` (soft, values between).
"""
import numpy as np
from PIL import Image


def grid(width, height):
    """Coordinates from 0 to 1 of the middles of the pixels."""
    return np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)


def init(width, height):
    """A smooth coloured field with a bright disc, a dark bar and one-pixel stripes."""
    x, y = grid(width, height)
    red = 128 + 100 * np.sin(5 * x + 3 * y)
    green = 255 * x * y
    blue = 255 * (1 - y) + 20 * np.cos(30 * x * y)
    picture = np.stack([red, green, blue], -1)
    picture[(x - 0.65) ** 2 + (y - 0.35) ** 2 < 0.04] = (250, 220, 40)
    picture[(abs(y - 0.75) < 0.06) & (x < 0.7)] = (20, 30, 60)
    picture[::4, : width // 8] = 255
    return Image.fromarray(picture.clip(0, 255).round().astype(np.uint8))


def mask(width, height):
    """White in an off-centre ellipse and in a strip along the right edge."""
    x, y = grid(width, height)
    inside = ((x - 0.4) ** 2 / 0.08 + (y - 0.55) ** 2 / 0.05 < 1) | (x > 0.9)
    return Image.fromarray(np.where(inside, 255, 0).astype(np.uint8))


def gray_mask(width, height):
    """A soft hill with every gray value, and a gray corner just below the threshold."""
    x, y = grid(width, height)
    hill = 255 * np.exp(-((x - 0.5) ** 2 + (y - 0.5) ** 2) * 8)
    hill[(x < 0.25) & (y < 0.25)] = 127
    hill[(x > 0.75) & (y > 0.75)] = 128
    return Image.fromarray(hill.round().astype(np.uint8))


def draw(name):
    shape, size = name.rsplit("-", 1)
    width, height = map(int, size.split("x"))
    return {"init": init, "mask": mask, "gray-mask": gray_mask}[shape](width, height)
