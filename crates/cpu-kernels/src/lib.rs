//! GEMM, convolution, attention and norms on slices; the one home of SIMD.
