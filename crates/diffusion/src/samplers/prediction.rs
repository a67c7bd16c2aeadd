//! What a network's output means, turned into the picture or the noise that it predicts.

use super::config::SchedulerConfig;
use super::kind::Class;
use crate::Result;

/// What a network was trained to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prediction {
    /// The noise.
    Epsilon,
    /// The picture.
    Sample,
    /// The velocity, alpha · noise − sigma · picture (<https://arxiv.org/abs/2202.00512>).
    Velocity,
}

impl Prediction {
    pub(super) fn of(config: &SchedulerConfig) -> Result<Self> {
        let common = [("epsilon", Self::Epsilon), ("v_prediction", Self::Velocity)];
        let own: &[_] = match config.class() {
            Class::Pndm | Class::EulerAncestral | Class::Kdpm2 | Class::Kdpm2Ancestral => &[],
            Class::Euler => &[("sample", Self::Sample), ("original_sample", Self::Sample)],
            _ => &[("sample", Self::Sample)],
        };
        config.choice("prediction_type", "epsilon", &[&common, own].concat())
    }

    /// The picture in `x = alpha · picture + sigma · noise`.
    pub(super) fn picture(self, x: &[f32], output: &[f32], alpha: f32, sigma: f32) -> Vec<f32> {
        match self {
            Self::Epsilon => zip(x, output, |x, e| (x - sigma * e) / alpha),
            Self::Sample => output.to_vec(),
            Self::Velocity => zip(x, output, |x, v| alpha * x - sigma * v),
        }
    }

    /// The noise in `x = alpha · picture + sigma · noise`.
    pub(super) fn noise(self, x: &[f32], output: &[f32], alpha: f32, sigma: f32) -> Vec<f32> {
        match self {
            Self::Epsilon => output.to_vec(),
            Self::Sample => zip(x, output, |x, x0| (x - alpha * x0) / sigma),
            Self::Velocity => zip(x, output, |x, v| alpha * v + sigma * x),
        }
    }

    /// The picture in `x = picture + sigma · noise`, the form of Euler and its kin; the network saw `x` scaled by
    /// `1 / sqrt(sigma² + 1)`.
    pub(super) fn picture_of_unscaled(self, x: &[f32], output: &[f32], sigma: f32) -> Vec<f32> {
        match self {
            Self::Epsilon => zip(x, output, |x, e| x - sigma * e),
            Self::Sample => output.to_vec(),
            Self::Velocity => {
                let square = sigma * sigma + 1.0;
                let factor = -sigma / square.sqrt();
                zip(x, output, |x, v| v * factor + x / square)
            }
        }
    }
}

/// What is done to a predicted picture before it is used.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    None,
    /// Clamped to ± the range.
    Clip(f32),
    /// Dynamic thresholding of [Imagen](https://arxiv.org/abs/2205.11487): scaled down to a quantile of itself.
    Dynamic {
        quantile: f32,
        max: f32,
    },
}

impl Limit {
    pub(super) fn of(config: &SchedulerConfig) -> Result<Self> {
        let thresholds = match config.class() {
            Class::Ddim | Class::Ddpm | Class::Lcm => true,
            Class::DpmMultistep | Class::DpmSinglestep | Class::UniPc | Class::Deis => true,
            Class::Pndm | Class::Tcd | Class::Lms | Class::Euler | Class::EulerAncestral => false,
            Class::Heun | Class::Kdpm2 | Class::Kdpm2Ancestral => false,
        };
        if thresholds && config.flag("thresholding", false)? {
            let quantile = config.number("dynamic_thresholding_ratio", 0.995)?.clamp(0.0, 1.0);
            let max = config.number("sample_max_value", 1.0)?;
            return Ok(Self::Dynamic { quantile: quantile as f32, max: max as f32 });
        }
        let clips = match config.class() {
            Class::Ddim | Class::Ddpm => config.flag("clip_sample", true)?,
            Class::Heun | Class::Lcm => config.flag("clip_sample", false)?,
            _ => false,
        };
        match clips {
            true => Ok(Self::Clip(config.number("clip_sample_range", 1.0)?.abs() as f32)),
            false => Ok(Self::None),
        }
    }

    pub(super) fn apply(self, mut picture: Vec<f32>) -> Vec<f32> {
        match self {
            Self::None => {}
            Self::Clip(range) => picture.iter_mut().for_each(|v| *v = v.clamp(-range, range)),
            Self::Dynamic { quantile, max } => {
                let mut sizes: Vec<f32> = picture.iter().map(|v| v.abs()).collect();
                sizes.sort_unstable_by(f32::total_cmp);
                let rank = quantile * sizes.len().saturating_sub(1) as f32;
                let (below, above) = (rank.floor() as usize, rank.ceil() as usize);
                if let (Some(low), Some(high)) = (sizes.get(below), sizes.get(above)) {
                    let scale = (low + (high - low) * rank.fract()).max(1.0).min(max);
                    picture.iter_mut().for_each(|v| *v = v.min(scale).max(-scale) / scale);
                }
            }
        }
        picture
    }
}

/// `f` of each pair.
pub(super) fn zip(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()
}

/// The sum of vectors with factors, from the first to the last.
pub(super) fn combine(terms: &[(f32, &[f32])]) -> Vec<f32> {
    let mut terms = terms.iter();
    let Some((factor, first)) = terms.next() else {
        return Vec::new();
    };
    let mut sum: Vec<f32> = first.iter().map(|v| factor * v).collect();
    for (factor, vector) in terms {
        sum.iter_mut().zip(*vector).for_each(|(sum, v)| *sum += factor * v);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prediction_gives_back_the_picture_and_the_noise() {
        let (picture, noise) = ([0.5f32, -1.0, 2.0], [1.0f32, 0.25, -0.5]);
        let (alpha, sigma) = (0.6f32, 0.8f32);
        let x = combine(&[(alpha, &picture), (sigma, &noise)]);
        let velocity = combine(&[(alpha, &noise), (-sigma, &picture)]);
        let cases =
            [(Prediction::Epsilon, &noise[..]), (Prediction::Sample, &picture), (Prediction::Velocity, &velocity)];
        for (prediction, output) in cases {
            let found = prediction.picture(&x, output, alpha, sigma);
            assert!(zip(&found, &picture, |a, b| (a - b).abs()).iter().all(|&e| e < 1e-6));
            let found = prediction.noise(&x, output, alpha, sigma);
            assert!(zip(&found, &noise, |a, b| (a - b).abs()).iter().all(|&e| e < 1e-6));
            let unscaled: Vec<f32> = x.iter().map(|x| x / alpha).collect();
            let found = prediction.picture_of_unscaled(&unscaled, output, sigma / alpha);
            assert!(zip(&found, &picture, |a, b| (a - b).abs()).iter().all(|&e| e < 1e-6));
        }
    }

    #[test]
    fn limits_hold() {
        let picture = vec![-4.0, -1.0, 0.5, 2.0];
        assert_eq!(Limit::None.apply(picture.clone()), picture);
        assert_eq!(Limit::Clip(1.0).apply(picture.clone()), [-1.0, -1.0, 0.5, 1.0]);
        let dynamic = Limit::Dynamic { quantile: 1.0, max: 8.0 };
        assert_eq!(dynamic.apply(picture), [-1.0, -0.25, 0.125, 0.5]);
        assert!(dynamic.apply(Vec::new()).is_empty());
    }
}
