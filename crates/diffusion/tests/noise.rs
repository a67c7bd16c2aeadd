//! Noise against torch: `tools/reference/make_noise_goldens.py` made the numbers.

use diffusion::noise::Noise;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    seed: String,
    draws: Vec<Draw>,
}

#[derive(Deserialize)]
struct Draw {
    /// Positive: `randn`, negative: `rand`.
    count: i64,
    index: Vec<usize>,
    values: Vec<f32>,
    sum: f64,
}

#[test]
fn draws_are_those_of_torch() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("goldens/noise.json")).unwrap();
    for case in cases {
        let mut noise = Noise::new(case.seed.parse().unwrap());
        for (n, draw) in case.draws.iter().enumerate() {
            let count = draw.count.unsigned_abs() as usize;
            let (values, tolerance) =
                if draw.count > 0 { (noise.normal(count), 1e-6) } else { (noise.uniform(count), 0.0) };
            assert_eq!(values.len(), count);
            for (&i, &expected) in draw.index.iter().zip(&draw.values) {
                let error = (values[i] - expected).abs();
                assert!(
                    error <= tolerance,
                    "seed {}, draw {n} of {}, value {i}: {} for {expected}",
                    case.seed,
                    draw.count,
                    values[i]
                );
            }
            let sum: f64 = values.iter().map(|&v| f64::from(v)).sum();
            assert!(
                (sum - draw.sum).abs() < 1e-7 * count as f64 + 1e-9,
                "seed {}, draw {n}: sum {sum} for {}",
                case.seed,
                draw.sum
            );
        }
    }
}

#[test]
fn only_the_low_32_bits_of_a_seed_count() {
    assert_eq!(Noise::new(7).normal(40), Noise::new(7 + (1 << 32)).normal(40));
    assert_ne!(Noise::new(7).normal(40), Noise::new(8).normal(40));
}

#[test]
fn nothing_is_drawn_for_an_empty_tensor() {
    let mut noise = Noise::new(3);
    assert!(noise.normal(0).is_empty());
    assert_eq!(noise.normal(17), Noise::new(3).normal(17));
}
