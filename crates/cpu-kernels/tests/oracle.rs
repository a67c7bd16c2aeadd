//! Every kernel of every instruction set that this machine has, against the formulas in f64.
use cpu_kernels::{Activation, Conv2d, ConvAlgorithm, Isa, Linear, Precision, Rows, Weight, naive};
use half::{bf16, f16};

mod common;
use common::{check, on_every_isa, random, tolerance};

/// Sizes around whole registers, panels, tiles and blocks.
const AWKWARD: [usize; 12] = [1, 2, 3, 7, 13, 15, 16, 17, 31, 33, 57, 70];

const ACTIVATIONS: [Activation; 5] =
    [Activation::None, Activation::Relu, Activation::Silu, Activation::Gelu, Activation::QuickGelu];

#[test]
fn linear_meets_the_formula() {
    on_every_isa(|isa| {
        let sizes = AWKWARD.into_iter().flat_map(|m| AWKWARD.map(|n| (m, n, (m * 7 + n * 3) % 90)));
        let large = [(200, 600, 400), (57, 96, 1024), (130, 40, 1500)];
        for (i, (m, n, k)) in sizes.chain(large).enumerate() {
            let (x, w, b, r) = (random(m * k, 1), random(n * k, 2), random(n, 3), random(m * n, 4));
            let act = ACTIVATIONS[i % 5];
            let residual = (i / 4 % 2 == 0).then_some(&r[..]);
            let bias = (i / 8 % 2 == 0).then_some(&b[..]);
            let linear = Linear::new(Weight::F32(&w), bias, n, k, Precision::F32);
            let mut y = vec![f32::NAN; m * n];
            linear.forward(&x, m, act, residual, &mut y);
            let want = naive::linear(&x, m, Weight::F32(&w), bias, n, k, act, residual);
            check(&format!("{isa:?} {m} x {n} x {k} {act:?}"), &y, &want, tolerance(isa));
        }
    });
}

#[test]
fn linear_keeps_narrow_weights_exactly() {
    on_every_isa(|isa| {
        for (m, n, k) in [(1, 1, 1), (3, 33, 17), (70, 40, 500), (2, 600, 900)] {
            let (x, w) = (random(m * k, 5), random(n * k, 6));
            let (half, brain): (Vec<f16>, Vec<bf16>) = w.iter().map(|&w| (f16::from_f32(w), bf16::from_f32(w))).unzip();
            for weight in [Weight::F16(&half), Weight::Bf16(&brain)] {
                let linear = Linear::new(weight, None, n, k, Precision::F32);
                let mut y = vec![f32::NAN; m * n];
                linear.forward(&x, m, Activation::None, None, &mut y);
                let want = naive::linear(&x, m, weight, None, n, k, Activation::None, None);
                check(&format!("{isa:?} narrow {m} x {n} x {k}"), &y, &want, tolerance(isa));
            }
        }
    });
}

#[test]
fn geglu_meets_the_formula_whether_or_not_the_halves_begin_at_a_panel() {
    on_every_isa(|isa| {
        for (m, inner, k) in [(1, 1, 1), (5, 33, 20), (70, 64, 100), (130, 320, 80), (3, 96, 0)] {
            let (x, w, b) = (random(m * k, 1), random(2 * inner * k, 2), random(2 * inner, 3));
            let half: Vec<f16> = w.iter().map(|&w| f16::from_f32(w)).collect();
            for weight in [Weight::F32(&w), Weight::F16(&half)] {
                let linear = Linear::new(weight, Some(&b), 2 * inner, k, Precision::F32);
                let mut y = vec![f32::NAN; m * inner];
                linear.forward_geglu(&x, m, &mut y);
                let both = naive::linear(&x, m, weight, Some(&b), 2 * inner, k, Activation::None, None);
                // The product of two results has the errors of both.
                let tolerance = 2.0 * tolerance(isa);
                check(&format!("{isa:?} geglu {m} x {inner} x {k}"), &y, &naive::geglu(&both, inner), tolerance);
            }
        }
    });
}

#[test]
fn empty_inputs_do_nothing() {
    on_every_isa(|_| {
        Linear::new(Weight::F32(&[0.0; 6]), None, 2, 3, Precision::F32).forward(
            &[],
            0,
            Activation::Gelu,
            None,
            &mut [],
        );
        Linear::new(Weight::F32(&[]), None, 0, 3, Precision::F32).forward(
            &[1.0; 6],
            2,
            Activation::None,
            None,
            &mut [],
        );
        let mut y = [9.0; 4];
        Linear::new(Weight::F32(&[]), Some(&[1.0, 2.0]), 2, 0, Precision::F32).forward(
            &[],
            2,
            Activation::None,
            None,
            &mut y,
        );
        assert_eq!(y, [1.0, 2.0, 1.0, 2.0]);
        let conv =
            Conv2d::new(Weight::F32(&[1.0; 9]), None, 1, 1, (3, 3), 1, [0; 4], ConvAlgorithm::Auto, Precision::F32);
        assert_eq!(conv.output_size(2, 5), (0, 3));
        let mut y = [9.0; 4 * 2];
        Conv2d::new(Weight::F32(&[]), None, 2, 0, (3, 3), 1, [1; 4], ConvAlgorithm::Winograd4, Precision::F32).forward(
            &[],
            1,
            2,
            2,
            Activation::None,
            None,
            None,
            &mut y,
        );
        assert_eq!(y, [0.0; 8]);
        conv.forward(&[1.0; 10], 1, 2, 5, Activation::None, None, None, &mut []);
        let none = Rows::new(&[], 8);
        let mut y = [9.0; 8];
        cpu_kernels::attention(Rows::new(&[1.0; 8], 8), none, none, 1, 2, 1, 0, 4, 1.0, false, Precision::F32, &mut y);
        assert_eq!(y, [0.0; 8]);
        cpu_kernels::group_norm(&[], 0, 4, 8, 2, &[1.0; 8], &[0.0; 8], 1e-5, Activation::None, &mut []);
        cpu_kernels::layer_norm(&[], 0, 8, &[1.0; 8], &[0.0; 8], 1e-5, &mut []);
        cpu_kernels::activate(Activation::Silu, &mut []);
        cpu_kernels::softmax(&mut [], 0);
    });
}

struct Conv {
    n: usize,
    h: usize,
    w: usize,
    ci: usize,
    co: usize,
    kernel: (usize, usize),
    stride: usize,
    padding: [usize; 4],
}

fn check_conv(isa: Isa, c: &Conv, algorithm: ConvAlgorithm, seed: usize, tolerance: f64) -> f64 {
    let taps = c.kernel.0 * c.kernel.1;
    let (x, w) = (random(c.n * c.h * c.w * c.ci, 1), random(c.co * c.ci * taps, 2));
    let (b, cb) = (random(c.co, 3), random(c.n * c.co, 4));
    let half: Vec<f16> = w.iter().map(|&w| f16::from_f32(w)).collect();
    let weight = if seed % 3 == 1 { Weight::F16(&half) } else { Weight::F32(&w) };
    let conv = Conv2d::new(weight, Some(&b), c.co, c.ci, c.kernel, c.stride, c.padding, algorithm, Precision::F32);
    let (oh, ow) = conv.output_size(c.h, c.w);
    let r = random(c.n * oh * ow * c.co, 5);
    let act = ACTIVATIONS[seed % 5];
    let channel_bias = seed.is_multiple_of(2).then_some(&cb[..]);
    let residual = (seed / 2).is_multiple_of(2).then_some(&r[..]);
    let mut y = vec![f32::NAN; r.len()];
    conv.forward(&x, c.n, c.h, c.w, act, channel_bias, residual, &mut y);
    let mut want = naive::conv2d(&x, c.n, c.h, c.w, weight, Some(&b), c.co, c.ci, c.kernel, c.stride, c.padding);
    for (i, v) in want.iter_mut().enumerate() {
        let image = i / (oh * ow * c.co);
        *v += channel_bias.map_or(0.0, |cb| f64::from(cb[image * c.co + i % c.co]));
        *v = naive::act(act, *v) + residual.map_or(0.0, |r| f64::from(r[i]));
    }
    let Conv { n, h, w, ci, co, kernel, stride, padding } = c;
    let what =
        format!("{isa:?} {n} x {h} x {w}, {ci} -> {co}, {kernel:?} stride {stride} padding {padding:?}, {algorithm:?}");
    check(&what, &y, &want, tolerance)
}

#[test]
fn conv2d_meets_the_formula() {
    on_every_isa(|isa| {
        let mut seed = 0;
        for kernel in [(1, 1), (3, 3), (2, 3), (5, 1)] {
            for stride in [1, 2] {
                for padding in [[0; 4], [1; 4], [0, 0, 1, 1], [2, 0, 1, 3]] {
                    for (n, h, w, ci, co) in [(1, 5, 5, 3, 4), (2, 9, 7, 17, 33), (3, 6, 10, 40, 16), (1, 1, 1, 8, 8)] {
                        check_conv(
                            isa,
                            &Conv { n, h, w, ci, co, kernel, stride, padding },
                            ConvAlgorithm::Gemm,
                            seed,
                            tolerance(isa),
                        );
                        seed += 1;
                    }
                }
            }
        }
    });
}

/// Maps that no second cache holds, over channels that fill a matrix unit's steps.
#[test]
fn wide_maps_are_cut_without_seams() {
    on_every_isa(|isa| {
        for (seed, (stride, padding)) in [(1, [1; 4]), (2, [0, 0, 1, 1]), (1, [2, 0, 1, 3])].into_iter().enumerate() {
            let conv = Conv { n: 2, h: 8, w: 600, ci: 96, co: 5, kernel: (3, 3), stride, padding };
            check_conv(isa, &conv, ConvAlgorithm::Gemm, seed, tolerance(isa));
        }
    });
}

#[test]
fn winograd_meets_the_formula_to_its_own_tolerance() {
    on_every_isa(|isa| {
        let mut seed = 0;
        let (kernel, stride) = ((3, 3), 1);
        for padding in [[1; 4], [0; 4], [0, 0, 1, 1], [2, 0, 1, 3]] {
            for (n, h, w, ci, co) in [(1, 3, 3, 1, 1), (2, 8, 8, 17, 33), (3, 6, 13, 40, 16), (1, 33, 40, 20, 70)] {
                let conv = Conv { n, h, w, ci, co, kernel, stride, padding };
                check_conv(isa, &conv, ConvAlgorithm::Winograd2, seed, 1e-5);
                check_conv(isa, &conv, ConvAlgorithm::Winograd4, seed, 5e-5);
                check_conv(isa, &conv, ConvAlgorithm::Auto, seed, 5e-5);
                seed += 1;
            }
        }
    });
}

#[test]
fn winograd_stays_exact_over_many_channels() {
    let (kernel, stride, padding) = ((3, 3), 1, [1; 4]);
    let conv = Conv { n: 1, h: 8, w: 8, ci: 1280, co: 40, kernel, stride, padding };
    for (algorithm, tolerance) in [
        (ConvAlgorithm::Gemm, 2.0 * tolerance(Isa::current())),
        (ConvAlgorithm::Winograd2, 1e-5),
        (ConvAlgorithm::Winograd4, 1e-4),
    ] {
        let error = check_conv(Isa::current(), &conv, algorithm, 4, tolerance);
        println!("{algorithm:?}: largest error {error:.1e} of the RMS");
    }
}

#[test]
fn half_precision_keeps_three_digits_of_transformed_weights() {
    // Just beyond 640 x 1920 pairs of channels, where they are kept so; weights may be large or small.
    let (n, h, w, ci, co) = (1, 3, 4, 1280, 968);
    for scale in [1.0, 1e-6, 3e5] {
        let x = random(n * h * w * ci, 1);
        let weight: Vec<f32> = random(co * ci * 9, 2).iter().map(|w| w * scale).collect();
        let weight = Weight::F32(&weight);
        let conv = Conv2d::new(weight, None, co, ci, (3, 3), 1, [1; 4], ConvAlgorithm::Winograd2, Precision::F32);
        let mut y = vec![f32::NAN; n * h * w * co];
        conv.forward(&x, n, h, w, Activation::None, None, None, &mut y);
        let want = naive::conv2d(&x, n, h, w, weight, None, co, ci, (3, 3), 1, [1; 4]);
        let error = check(&format!("weights up to {scale}"), &y, &want, 2e-3);
        let noise: f64 = y.iter().zip(&want).map(|(y, want)| (f64::from(*y) - want).powi(2)).sum();
        let signal: f64 = want.iter().map(|want| want * want).sum();
        println!("scale {scale:e}: largest error {error:.1e} of the RMS, {:.1} dB", 10.0 * (signal / noise).log10());
        assert!(noise < signal * 1e-6, "less than 60 dB");
    }
}

/// The numbers as a unit that multiplies `bf16` sees them.
fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect()
}

#[test]
fn products_of_bf16_are_exact_in_the_rounded_numbers() {
    on_every_isa(|isa| {
        if !Precision::Bf16.is_available() {
            return;
        }
        for (m, n, k) in [(1, 1, 1), (33, 70, 31), (70, 64, 600), (130, 40, 1500), (2, 5, 0)] {
            let (x, w, b, r) = (random(m * k, 1), random(n * k, 2), random(n, 3), random(m * n, 4));
            let half: Vec<f16> = w.iter().map(|&w| f16::from_f32(w)).collect();
            let widened: Vec<f32> = half.iter().map(|w| w.to_f32()).collect();
            for (weight, seen) in [(Weight::F32(&w), rounded(&w)), (Weight::F16(&half), rounded(&widened))] {
                let linear = Linear::new(weight, Some(&b), n, k, Precision::Bf16);
                let mut y = vec![f32::NAN; m * n];
                linear.forward(&x, m, Activation::Silu, Some(&r), &mut y);
                let seen = Weight::F32(&seen);
                let want = naive::linear(&rounded(&x), m, seen, Some(&b), n, k, Activation::Silu, Some(&r));
                check(&format!("{isa:?} {m} x {n} x {k}"), &y, &want, 1e-5);
            }
        }
        for (n, h, w, ci, co) in [(2, 9, 7, 17, 33), (2, 9, 7, 64, 33), (1, 5, 16, 32, 8), (3, 8, 8, 96, 40)] {
            let (x, weight) = (random(n * h * w * ci, 1), random(co * ci * 9, 2));
            let conv = |algorithm| {
                let w32 = Weight::F32(&weight);
                let conv = Conv2d::new(w32, None, co, ci, (3, 3), 1, [1; 4], algorithm, Precision::Bf16);
                let mut y = vec![f32::NAN; n * h * w * co];
                conv.forward(&x, n, h, w, Activation::None, None, None, &mut y);
                y
            };
            let seen = rounded(&weight);
            let seen = naive::conv2d(&rounded(&x), n, h, w, Weight::F32(&seen), None, co, ci, (3, 3), 1, [1; 4]);
            check(&format!("{isa:?} convolution of {ci}"), &conv(ConvAlgorithm::Gemm), &seen, 1e-5);
            // Winograd's transforms would lose more than bf16 has; they stay in f32.
            let want = naive::conv2d(&x, n, h, w, Weight::F32(&weight), None, co, ci, (3, 3), 1, [1; 4]);
            check(&format!("{isa:?} Winograd of {ci}"), &conv(ConvAlgorithm::Winograd4), &want, 5e-5);
        }
    });
}

#[test]
fn doubling_is_a_convolution_of_the_doubled_map() {
    on_every_isa(|isa| {
        // More channels than a Winograd transform is chosen for.
        if !Conv2d::doubling_pays(1280, 1280, Precision::Bf16) {
            return;
        }
        for (n, h, w, ci, co) in
            [(1, 1, 1, 32, 1), (2, 5, 7, 64, 33), (1, 3, 40, 96, 40), (3, 8, 8, 32, 64), (2, 4, 600, 96, 5)]
        {
            let (x, b) = (rounded(&random(n * h * w * ci, 1)), random(co, 3));
            // In eighths, so that bf16 has the sums of four, too.
            let eighth = |w: f32| f16::from_f32((w * 8.0).round() / 8.0);
            let weight: Vec<f16> = random(co * ci * 9, 2).into_iter().map(eighth).collect();
            let weight = Weight::F16(&weight);
            let conv = Conv2d::doubling(weight, Some(&b), co, ci);
            assert_eq!(conv.bytes(), Conv2d::doubling_bytes(co, ci));
            assert_eq!(conv.output_size(h, w), (2 * h, 2 * w));
            let r = random(4 * n * h * w * co, 4);
            let mut y = vec![f32::NAN; r.len()];
            conv.forward(&x, n, h, w, Activation::Silu, None, Some(&r), &mut y);
            let mut doubled = vec![0.0; 4 * x.len()];
            cpu_kernels::upsample_nearest(&x, n, h, w, ci, 2 * h, 2 * w, &mut doubled);
            let mut want = naive::conv2d(&doubled, n, 2 * h, 2 * w, weight, Some(&b), co, ci, (3, 3), 1, [1; 4]);
            for (want, r) in want.iter_mut().zip(&r) {
                *want = naive::act(Activation::Silu, *want) + f64::from(*r);
            }
            check(&format!("{isa:?} {n} x {h} x {w}, {ci} -> {co}"), &y, &want, 1e-5);
        }
    });
}

#[test]
fn attention_in_bf16_stays_near_the_formula() {
    on_every_isa(|isa| {
        if !Precision::Bf16.is_available() {
            return;
        }
        for (q_len, kv_len, d, causal) in
            [(1, 1, 1, false), (70, 300, 40, false), (57, 77, 64, true), (33, 520, 160, false)]
        {
            let (qs, kvs) = (random(q_len * d, 1), random(kv_len * d, 2));
            let (q, kv) = (Rows::new(&qs, d), Rows::new(&kvs, d));
            let scale = (d as f32).powf(-0.5);
            let mut y = vec![f32::NAN; q_len * d];
            cpu_kernels::attention(q, kv, kv, 1, 1, q_len, kv_len, d, scale, causal, Precision::Bf16, &mut y);
            let want = naive::attention(q, kv, kv, 1, 1, q_len, kv_len, d, scale, causal);
            check(&format!("{isa:?} {q_len} x {kv_len} x {d}"), &y, &want, 4e-2);
        }
    });
}

#[test]
fn attention_meets_the_formula() {
    on_every_isa(|isa| {
        for (i, (batch, heads, q_len, kv_len, d)) in [
            (1, 1, 1, 1, 1),
            (2, 3, 5, 7, 10),
            (1, 2, 70, 300, 40),
            (2, 1, 57, 77, 64),
            (1, 2, 33, 520, 80),
            (1, 1, 20, 31, 160),
        ]
        .into_iter()
        .enumerate()
        {
            let width = heads * d;
            // Queries and keys side by side in one matrix, as a joint projection leaves them.
            let (qs, kvs) = (random(batch * q_len * (width + 3), 1), random(batch * kv_len * 2 * width, 2));
            let (q, k, v) =
                (Rows::new(&qs, width + 3), Rows::new(&kvs, 2 * width), Rows::new(&kvs[width..], 2 * width));
            // Large scales make the softmax pick one key.
            for (scale, causal) in [((d as f32).powf(-0.5), false), (5.0, i % 2 == 0), (0.5, true)] {
                let mut y = vec![f32::NAN; batch * q_len * width];
                cpu_kernels::attention(q, k, v, batch, heads, q_len, kv_len, d, scale, causal, Precision::F32, &mut y);
                let want = naive::attention(q, k, v, batch, heads, q_len, kv_len, d, scale, causal);
                let what =
                    format!("{isa:?} {batch} x {heads} x {q_len} x {kv_len} x {d}, scale {scale}, causal {causal}");
                // Scores around 100 carry the rounding of their products into the exponent.
                check(&what, &y, &want, if scale > 1.0 { 10.0 * tolerance(isa) } else { tolerance(isa) });
            }
        }
    });
}

#[test]
fn attention_survives_scores_beyond_the_range_of_exp() {
    on_every_isa(|isa| {
        let k = [1000.0f32, -1000.0, 999.0];
        let v = [1.0f32, 2.0, 3.0];
        let mut y = [0.0];
        cpu_kernels::attention(
            Rows::new(&[1.0], 1),
            Rows::new(&k, 1),
            Rows::new(&v, 1),
            1,
            1,
            1,
            3,
            1,
            1.0,
            false,
            Precision::F32,
            &mut y,
        );
        let p = (-1.0f32).exp();
        let tolerance = 20.0 * tolerance(isa) as f32;
        assert!((y[0] - (1.0 + 3.0 * p) / (1.0 + p)).abs() < tolerance, "{isa:?}: {y:?}");
    });
}

#[test]
fn norms_meet_the_formula_also_far_from_zero() {
    on_every_isa(|isa| {
        for (i, (n, hw, c, groups)) in
            [(1, 1, 4, 2), (2, 9, 32, 32), (1, 600, 320, 32), (3, 17, 70, 7), (1, 300, 10, 1)].into_iter().enumerate()
        {
            for (offset, tolerance) in [(0.0, 1e-5), (100.0, 5e-5)] {
                let x: Vec<f32> = random(n * hw * c, 1).iter().map(|x| x + offset).collect();
                let (w, b) = (random(c, 2), random(c, 3));
                let act = ACTIVATIONS[i % 5];
                let mut y = vec![f32::NAN; x.len()];
                cpu_kernels::group_norm(&x, n, hw, c, groups, &w, &b, 1e-5, act, &mut y);
                let want = naive::group_norm(&x, n, hw, c, groups, &w, &b, 1e-5, act);
                check(&format!("{isa:?} group norm {n} x {hw} x {c} / {groups} + {offset}"), &y, &want, tolerance);
                cpu_kernels::layer_norm(&x, n * hw, c, &w, &b, 1e-5, &mut y);
                let want = naive::layer_norm(&x, n * hw, c, &w, &b, 1e-5);
                check(&format!("{isa:?} layer norm {} x {c} + {offset}", n * hw), &y, &want, tolerance);
            }
        }
    });
}

#[test]
fn activations_are_exact_to_f32() {
    on_every_isa(|isa| {
        let x: Vec<f32> = (-4000..4003).map(|i| i as f32 * 0.01).collect();
        for act in ACTIVATIONS {
            let mut y = x.clone();
            cpu_kernels::activate(act, &mut y);
            for (x, y) in x.iter().zip(&y) {
                let want = naive::act(act, f64::from(*x));
                // 4 units in the last place of x: where gelu cancels, its error is that of 1 + erf.
                let allowed = 4.0 * f64::from(f32::EPSILON) * f64::from(x.abs().max(1e-3));
                assert!((f64::from(*y) - want).abs() <= allowed, "{isa:?} {act:?}({x}) = {y}, not {want}");
            }
        }
    });
}

#[test]
fn nan_is_not_hidden() {
    on_every_isa(|isa| {
        for act in ACTIVATIONS {
            let mut y = [1.0, f32::NAN, 2.0];
            cpu_kernels::activate(act, &mut y);
            assert!(y[1].is_nan() && !y[0].is_nan(), "{isa:?} {act:?}");
        }
    });
}

#[test]
fn softmax_and_widening_meet_the_formula() {
    on_every_isa(|isa| {
        for c in AWKWARD {
            let x: Vec<f32> = random(5 * c, 1).iter().map(|x| 20.0 * x).collect();
            let mut y = x.clone();
            cpu_kernels::softmax(&mut y, c);
            let want = x.chunks_exact(c).flat_map(|row| {
                let powers: Vec<f64> = row.iter().map(|x| f64::from(*x).exp()).collect();
                let sum: f64 = powers.iter().sum();
                powers.into_iter().map(move |p| p / sum)
            });
            check(&format!("{isa:?} softmax of {c}"), &y, &want.collect::<Vec<_>>(), 1e-5);

            let half: Vec<f16> = x.iter().map(|&x| f16::from_f32(x)).collect();
            let brain: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
            cpu_kernels::widen(Weight::F16(&half[1..]), &mut y[1..]);
            assert!(y[1..].iter().zip(&half[1..]).all(|(y, h)| *y == h.to_f32()));
            cpu_kernels::widen(Weight::Bf16(&brain[1..]), &mut y[1..]);
            assert!(y[1..].iter().zip(&brain[1..]).all(|(y, b)| *y == b.to_f32()));
        }
    });
}

#[test]
fn moving_elements() {
    let x = random(2 * 3 * 35, 1);
    let (mut rows, mut back) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    cpu_kernels::nchw_to_nhwc(&x, 2, 3, 35, &mut rows);
    assert_eq!(rows[35 * 3 + 4 * 3 + 2], x[(3 + 2) * 35 + 4]);
    cpu_kernels::nhwc_to_nchw(&rows, 2, 3, 35, &mut back);
    assert_eq!(back, x);

    let mut joined = vec![0.0; 4 * 5];
    cpu_kernels::concat_channels(&[(&x[..8], 2), (&x[8..20], 3)], 4, &mut joined);
    assert_eq!(joined[5..10], [x[2], x[3], x[11], x[12], x[13]]);

    let mut up = vec![0.0; 4 * 6];
    cpu_kernels::upsample_nearest(&[1.0, 2.0, 3.0, 4.0], 1, 2, 2, 1, 4, 6, &mut up);
    assert_eq!(up[6..18], [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0]);

    let mut sum = x.clone();
    cpu_kernels::add(&x, &mut sum);
    assert!(sum.iter().zip(&x).all(|(s, x)| *s == 2.0 * x));
}
