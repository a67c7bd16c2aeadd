#!/usr/bin/env python3
"""Print the peak signal-to-noise ratio of two pictures in dB; with a third argument, fail below it.

    psnr.py A.png B.png [50]
"""
import sys

import numpy as np
from PIL import Image


def compare(a, b):
    """PSNR in dB (infinite where the pictures are the same) and the largest difference of two RGB pictures."""
    a, b = (np.asarray(x.convert("RGB"), dtype=np.float64) for x in (a, b))
    if a.shape != b.shape:
        raise ValueError(f"sizes differ: {a.shape} {b.shape}")
    mse = ((a - b) ** 2).mean()
    return float("inf") if mse == 0 else 10 * np.log10(255**2 / mse), int(abs(a - b).max())


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        psnr, largest = compare(*(Image.open(path) for path in sys.argv[1:3]))
    except ValueError as error:
        sys.exit(str(error))
    print(f"{psnr:.2f} dB, largest difference {largest}")
    if len(sys.argv) > 3 and psnr < float(sys.argv[3]):
        sys.exit(1)


if __name__ == "__main__":
    main()
