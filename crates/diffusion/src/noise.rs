//! Torch's random numbers on a CPU.
