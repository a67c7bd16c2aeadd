//! Properties that hold for every shape.
use cpu_kernels::{Activation, Conv2d, ConvAlgorithm, Isa, Linear, Precision, Rows, Weight, naive};
use proptest::prelude::*;

mod common;
use common::{check, on_every_isa, random, tolerance};

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn linear_meets_the_formula_for_any_shape(m in 0usize..90, n in 0usize..150, k in 0usize..800, seed in 0u64..100) {
        on_every_isa(|isa| {
            let (x, w, b) = (random(m * k, seed), random(n * k, seed + 1), random(n, seed + 2));
            let mut y = vec![f32::NAN; m * n];
            Linear::new(Weight::F32(&w), Some(&b), n, k, Precision::F32).forward(&x, m, Activation::Silu, None, &mut y);
            let want = naive::linear(&x, m, Weight::F32(&w), Some(&b), n, k, Activation::Silu, None);
            check(&format!("{isa:?}"), &y, &want, 2.0 * tolerance(isa));
        });
    }

    #[test]
    fn all_ways_to_convolve_agree(n in 1usize..3, h in 1usize..20, w in 1usize..20, ci in 1usize..40, co in 1usize..50, pad in 0usize..2) {
        on_every_isa(|isa| {
            let (x, weight) = (random(n * h * w * ci, 1), random(co * ci * 9, 2));
            let results = [ConvAlgorithm::Gemm, ConvAlgorithm::Winograd2, ConvAlgorithm::Winograd4].map(|algorithm| {
                let conv = Conv2d::new(Weight::F32(&weight), None, co, ci, (3, 3), 1, [pad; 4], algorithm, Precision::F32);
                let (oh, ow) = conv.output_size(h, w);
                let mut y = vec![f32::NAN; n * oh * ow * co];
                conv.forward(&x, n, h, w, Activation::None, None, None, &mut y);
                y
            });
            let want: Vec<f64> = results[0].iter().map(|x| f64::from(*x)).collect();
            check(&format!("{isa:?} F(2)"), &results[1], &want, 5e-5);
            check(&format!("{isa:?} F(4)"), &results[2], &want, 1e-4);
        });
    }

    #[test]
    fn maps_of_whole_steps_are_convolved_alike(n in 1usize..4, h in 1usize..40, w in 1usize..40, steps in 1usize..3, co in 1usize..40, kernel in 1usize..4, stride in 1usize..3, pad in 0usize..3) {
        let ci = 32 * steps;
        let (x, weight) = (random(n * h * w * ci, 1), random(co * ci * kernel * kernel, 2));
        if h + 2 * pad < kernel || w + 2 * pad < kernel {
            return Ok(());
        }
        let on = |isa: Isa| isa.with(|| {
            let conv = Conv2d::new(Weight::F32(&weight), None, co, ci, (kernel, kernel), stride, [pad; 4], ConvAlgorithm::Gemm, Precision::F32);
            let (oh, ow) = conv.output_size(h, w);
            let (bias, residual) = (random(n * co, 3), random(n * oh * ow * co, 4));
            let mut y = vec![f32::NAN; n * oh * ow * co];
            conv.forward(&x, n, h, w, Activation::Silu, Some(&bias), Some(&residual), &mut y);
            y
        });
        let want: Vec<f64> = on(Isa::Scalar).iter().map(|x| f64::from(*x)).collect();
        for isa in Isa::available() {
            check(&format!("{isa:?}"), &on(isa), &want, 2.0 * tolerance(isa));
        }
    }

    #[test]
    fn attention_is_a_weighted_mean_of_the_values(q_len in 1usize..80, kv_len in 1usize..200, d in 1usize..50) {
        on_every_isa(|isa| {
            let (q, k) = (random(q_len * d, 1), random(kv_len * d, 2));
            let ones = vec![1.0; kv_len * d];
            let mut y = vec![f32::NAN; q_len * d];
            let rows = |data| Rows::new(data, d);
            cpu_kernels::attention(rows(&q), rows(&k), rows(&ones), 1, 1, q_len, kv_len, d, 1.0, false, Precision::F32, &mut y);
            let worst = y.iter().map(|y| (y - 1.0).abs()).fold(0.0, f32::max);
            assert!(f64::from(worst) < 0.2 * tolerance(isa), "{isa:?}: {worst:e}");
        });
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    on_every_isa(|isa| {
        let x = random(2 * 24 * 24 * 40, 1);
        let (linear, conv) = (random(200 * 40, 2), random(64 * 40 * 9, 3));
        let linear = Linear::new(Weight::F32(&linear), None, 200, 40, Precision::F32);
        let conv =
            Conv2d::new(Weight::F32(&conv), None, 64, 40, (3, 3), 1, [1; 4], ConvAlgorithm::Auto, Precision::F32);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                isa.with(|| {
                    let mut all =
                        vec![vec![0.0; 1152 * 200], vec![0.0; 1152 * 64], vec![0.0; x.len()], vec![0.0; x.len()]];
                    linear.forward(&x, 1152, Activation::Gelu, None, &mut all[0]);
                    conv.forward(&x, 2, 24, 24, Activation::None, None, None, &mut all[1]);
                    let rows = Rows::new(&x, 40);
                    cpu_kernels::attention(
                        rows,
                        rows,
                        rows,
                        2,
                        4,
                        576,
                        576,
                        10,
                        0.3,
                        false,
                        Precision::F32,
                        &mut all[2],
                    );
                    cpu_kernels::group_norm(
                        &x,
                        2,
                        576,
                        40,
                        8,
                        &[1.0; 40],
                        &[0.0; 40],
                        1e-5,
                        Activation::Silu,
                        &mut all[3],
                    );
                    all
                })
            })
        };
        let one = run(1);
        for threads in [2, 3, 7] {
            assert!(run(threads) == one, "{isa:?} with {threads} threads");
        }
    });
}

#[test]
fn the_bytes_of_packed_weights_are_foreseen() {
    use ConvAlgorithm::{Auto, Gemm, Winograd2, Winograd4};
    let f16 = vec![half::f16::ZERO; 1280 * 1024 * 9];
    let f32 = vec![0f32; 320 * 320 * 9];
    let (plain, small) = ((1, 1), (3, 3));
    let check = |co: usize, ci: usize, kernel: (usize, usize), stride, algorithm| {
        let len = co * ci * kernel.0 * kernel.1;
        for (size, weight) in [(2, Some(Weight::F16(&f16[..len]))), (4, f32.get(..len).map(Weight::F32))] {
            let Some(weight) = weight else { continue };
            let conv = Conv2d::new(weight, None, co, ci, kernel, stride, [0; 4], algorithm, Precision::F32);
            let foreseen = Conv2d::packed_bytes(size, co, ci, kernel, stride, algorithm, Precision::F32);
            assert_eq!(foreseen, conv.bytes(), "{conv:?}, {size} bytes, {algorithm:?}");
        }
        Conv2d::packed_bytes(2, co, ci, kernel, stride, algorithm, Precision::F32) as f64 / (co * ci) as f64
    };
    on_every_isa(|isa| {
        for (co, ci) in [(320, 320), (96, 48), (16, 16), (4, 320), (15, 16), (16, 15), (3, 1), (1, 3)] {
            for (kernel, stride, algorithm) in [(plain, 1, Auto), (small, 2, Auto), (small, 1, Auto), (small, 1, Gemm)]
            {
                check(co, ci, kernel, stride, algorithm);
            }
            check(co, ci, small, 1, Winograd2);
            check(co, ci, small, 1, Winograd4);
        }
        // 36 floats for a pair of channels; above 640 x 1920 pairs 16 halves, or what is stored where a unit multiplies that.
        let many = if matches!(isa, Isa::Amx | Isa::ScalarAmx) { 18.0 } else { 32.0 };
        assert!((144.0..1.1 * 144.0).contains(&check(640, 640, small, 1, Auto)));
        assert!((many..1.1 * many).contains(&check(1280, 1024, small, 1, Auto)));
        assert!((18.0..20.0).contains(&check(1024, 1024, small, 1, Gemm)));
        let linear = Linear::new(Weight::F16(&f16[..77 * 33]), None, 77, 33, Precision::F32);
        assert_eq!(linear.bytes(), Conv2d::packed_bytes(2, 77, 33, plain, 1, Auto, Precision::F32));
    });
}
