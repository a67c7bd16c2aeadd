"""Weights from a formula, so that a test in another language can make the very same model without a file of weights.

Element i of a tensor is splitmix64 of the hash of its name plus i, as a float32 in [-1, 1), times a scale that keeps
variances as they are: sqrt(3 / fan_in). Norms get 1 + 0.2 u, biases 0.1 u. weights.json beside the goldens says what
departs from that: a gain for tensors whose name ends so (one number, or one for each row), and the values of tensors
that are given in full. crates/diffusion/tests/support/formula.rs is the twin of this file, equal in every bit.
"""
import numpy as np

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, splitmix64's increment
EMBEDDING = 0.6  # standard deviation of token and position embeddings


def fnv1a(text):
    """The 64-bit FNV-1a hash of a text's UTF-8 bytes."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def uniform(key, count):
    """`count` float32 values in [-1, 1): the upper 24 bits of splitmix64's outputs from the state `key` on."""
    z = np.uint64(key) + (np.arange(1, count + 1, dtype=np.uint64)) * np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)


def gain_of(component, name):
    """The first gain whose ending, of whole parts of the path, the name has; 1 without one."""
    return next((gain for ending, gain in component.get("gains", []) if f".{name}".endswith(f".{ending}")), 1.0)


def tensor(component, name, shape):
    """One tensor of a component of weights.json, float32."""
    given = component.get("given", {}).get(name)
    if given is not None:
        return np.array(given, dtype=np.float64).astype(np.float32).reshape(shape)
    u = uniform(fnv1a(f"{component['topology']}.{name}"), int(np.prod(shape)))
    gain = gain_of(component, name)
    if len(shape) == 1:
        if name.endswith("weight"):
            return np.float32(1.0) + np.float32(0.2) * u
        return np.float32(0.1) * u
    if name.endswith("embedding.weight"):
        scales = np.float64(np.sqrt(3.0) * EMBEDDING * gain)
    else:
        scales = np.sqrt(3.0 / np.prod(shape[1:])) * np.asarray(gain, dtype=np.float64)
    scales = np.asarray(scales, dtype=np.float32).reshape(-1, 1)
    return (u.reshape(shape[0], -1) * scales).reshape(shape)
