//! The layers of Stable Diffusion 1.5 at 512 x 512, two images a batch, each with its share of the machine's peak.
//!
//! `cargo bench -p cpu-kernels [-- FILTER]`. Convolutions by Winograd's filtering do fewer multiplications than they are counted
//! for, and may pass the peak.
#![allow(missing_docs, clippy::print_stdout)]
use std::time::{Duration, Instant};

use cpu_kernels::{Activation, Conv2d, ConvAlgorithm, Linear, Precision, Rows, Weight};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn random(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

fn measure(c: &mut Criterion, peak: f64, name: &str, operations: usize, mut work: impl FnMut()) {
    let mut best = f64::INFINITY;
    let mut group = c.benchmark_group(name.to_owned());
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(800));
    group.throughput(Throughput::Elements(operations as u64));
    group.bench_function(cpu_kernels::isa(), |b| {
        b.iter(|| {
            let start = Instant::now();
            work();
            best = best.min(start.elapsed().as_secs_f64());
        });
    });
    group.finish();
    if best.is_finite() {
        let rate = operations as f64 / best;
        println!("{name}: at best {:.0} GFLOP/s, {:.0} % of {:.0}", rate * 1e-9, 100.0 * rate / peak, peak * 1e-9);
    }
}

fn benches(c: &mut Criterion) {
    let peak = cpu_kernels::peak();
    println!("{} threads, peak {:.0} GFLOP/s", rayon::current_num_threads(), peak * 1e-9);
    for precision in [Precision::F32, Precision::Bf16].into_iter().filter(|precision| precision.is_available()) {
        products(c, peak, precision);
        doubled(c, peak, precision);
    }
    let (x, w) = (random(2 * 4096 * 320), random(320));
    let mut y = vec![0.0; x.len()];
    // Counted in bytes: both passes' reads and the write.
    measure(c, f64::INFINITY, "group norm 2 x 4096 x 320, bytes", 12 * x.len(), || {
        cpu_kernels::group_norm(&x, 2, 4096, 320, 32, &w, &w, 1e-5, Activation::Silu, &mut y);
    });
}

/// What is multiplied, by its share of the peak in `f32`: with `bf16` some machines reach twice that.
fn products(c: &mut Criterion, peak: f64, precision: Precision) {
    for (m, n, k) in [(8192, 320, 320), (2048, 640, 2560), (512, 1280, 1280), (154, 1280, 768)] {
        let linear = Linear::new(Weight::F32(&random(n * k)), None, n, k, precision);
        let (x, mut y) = (random(m * k), vec![0.0; m * n]);
        measure(c, peak, &format!("linear {m} x {n} x {k}, {precision:?}"), 2 * m * n * k, || {
            linear.forward(&x, m, Activation::None, None, &mut y);
        });
    }
    for (m, inner, k) in [(8192, 1280, 320), (512, 5120, 1280)] {
        let linear = Linear::new(Weight::F32(&random(2 * inner * k)), None, 2 * inner, k, precision);
        let (x, mut y) = (random(m * k), vec![0.0; m * inner]);
        measure(c, peak, &format!("geglu {m} x {inner} x {k}, {precision:?}"), 4 * m * inner * k, || {
            linear.forward_geglu(&x, m, &mut y);
        });
    }
    for (ci, co, side, stride) in [
        (320, 320, 64, 1),
        (640, 640, 32, 1),
        (1280, 1280, 16, 1),
        (1280, 1280, 8, 1),
        (320, 320, 64, 2),
        (512, 512, 64, 1),
        (128, 128, 256, 1),
    ] {
        let weight: Vec<f32> = random(9 * ci * co).iter().map(|w| w * 0.02).collect();
        let conv =
            Conv2d::new(Weight::F32(&weight), None, co, ci, (3, 3), stride, [1; 4], ConvAlgorithm::Auto, precision);
        let out = 2 * side * side / (stride * stride);
        let (x, mut y) = (random(2 * side * side * ci), vec![0.0; out * co]);
        measure(
            c,
            peak,
            &format!("conv {ci} to {co} at {side}, stride {stride}, {precision:?}"),
            18 * out * ci * co,
            || {
                conv.forward(&x, 2, side, side, Activation::None, None, None, &mut y);
            },
        );
    }
    for (q_len, kv_len, d) in [(4096, 4096, 40), (4096, 77, 40), (1024, 1024, 80), (256, 256, 160)] {
        let width = 8 * d;
        let (q, kv, mut y) = (random(2 * q_len * width), random(2 * kv_len * width), vec![0.0; 2 * q_len * width]);
        let (q, kv) = (Rows::new(&q, width), Rows::new(&kv, width));
        let scale = (d as f32).powf(-0.5);
        measure(
            c,
            peak,
            &format!("attention {q_len} x {kv_len} x {d}, {precision:?}"),
            4 * 16 * q_len * kv_len * d,
            || {
                cpu_kernels::attention(q, kv, kv, 2, 8, q_len, kv_len, d, scale, false, precision, &mut y);
            },
        );
    }
}

/// Convolutions of maps that are doubled before, by the way that makes those maps and, where it is there, the one that does not.
fn doubled(c: &mut Criterion, peak: f64, precision: Precision) {
    for (channels, side) in [(1280, 8), (1280, 16), (640, 32), (512, 64), (256, 128), (64, 256)] {
        let weight: Vec<f32> = random(9 * channels * channels).iter().map(|w| w * 0.02).collect();
        let weight = Weight::F32(&weight);
        let (x, len) = (random(2 * side * side * channels), 8 * side * side * channels);
        let (mut between, mut y) = (vec![0.0; len], vec![0.0; len]);
        let name = |how| format!("{channels} channels doubled from {side}, {how}, {precision:?}");
        let auto = ConvAlgorithm::Auto;
        let conv = Conv2d::new(weight, None, channels, channels, (3, 3), 1, [1; 4], auto, precision);
        measure(c, peak, &name("made"), 18 * len * channels, || {
            cpu_kernels::upsample_nearest(&x, 2, side, side, channels, 2 * side, 2 * side, &mut between);
            conv.forward(&between, 2, 2 * side, 2 * side, Activation::None, None, None, &mut y);
        });
        if Conv2d::doubling_pays(channels, channels, precision) {
            let conv = Conv2d::doubling(weight, None, channels, channels);
            measure(c, peak, &name("not made"), 18 * len * channels, || {
                conv.forward(&x, 2, side, side, Activation::None, None, None, &mut y);
            });
        }
    }
}

criterion_group!(kernels, benches);
criterion_main!(kernels);
