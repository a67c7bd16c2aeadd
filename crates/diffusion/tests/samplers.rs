//! Samplers against diffusers: `tools/reference/make_scheduler_goldens.py` made the numbers.

#![allow(clippy::unwrap_used, reason = "a test may die of anything unexpected")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use diffusion::noise::Noise;
use diffusion::samplers::{AfterCall, Sampler, SamplerKind, Schedule, SchedulerConfig};
use diffusion::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

const COUNT: usize = 20;

/// The latents that the goldens keep.
const KEPT: [usize; 5] = [0, 3, 8, 13, 19];

#[derive(Deserialize)]
struct Goldens {
    /// What a config's key of the same name stands for.
    #[serde(rename = "BETAS")]
    betas: Map<String, Value>,
    configs: Vec<Map<String, Value>>,
    levels: Vec<Levels>,
    runs: Vec<Run>,
}

#[derive(Deserialize, Debug)]
struct Case {
    config: usize,
    kind: Option<String>,
    schedule: Option<String>,
    steps: usize,
}

#[derive(Deserialize)]
struct Levels {
    #[serde(flatten)]
    case: Case,
    timesteps: Vec<f64>,
    noise: Vec<f32>,
    init_noise_sigma: f32,
}

/// One run; its seed is its place in the list.
#[derive(Deserialize, Debug)]
struct Run {
    #[serde(flatten)]
    case: Case,
    first: Option<usize>,
    #[serde(default)]
    blend: bool,
    #[serde(default)]
    refused: bool,
    #[serde(default)]
    not_finite: bool,
    #[serde(default)]
    latents: Vec<f32>,
}

impl Goldens {
    fn read() -> Self {
        let mut goldens: Self = serde_json::from_str(include_str!("goldens/schedulers.json")).unwrap();
        for config in &mut goldens.configs {
            if config.remove("BETAS").is_some() {
                config.extend(goldens.betas.clone());
            }
        }
        goldens
    }

    fn sampler(&self, case: &Case) -> Result<Sampler> {
        let kind = case.kind.as_deref().map(|name| name.parse::<SamplerKind>().unwrap());
        let schedule = case.schedule.as_deref().map(|name| name.parse::<Schedule>().unwrap());
        let config = SchedulerConfig::parse(&self.config(case))?;
        Sampler::new(&config.with(kind, schedule)?, case.steps)
    }

    fn config(&self, case: &Case) -> String {
        Value::Object(self.configs[case.config].clone()).to_string()
    }

    fn name(&self, case: &Case) -> String {
        let class = self.configs[case.config]["_class_name"].as_str().unwrap();
        let kind = case.kind.as_deref().unwrap_or(class);
        format!("{kind} {}", case.schedule.as_deref().unwrap_or_default())
    }
}

/// The closed-form network of the script: float32 operations that are exact everywhere.
fn network(x: &[f32], t: f64) -> Vec<f32> {
    x.iter().map(|x| x / (1.0 + x * x) + 0.3 * x + 0.2 * (t as f32 / 1000.0)).collect()
}

fn picture() -> Vec<f32> {
    (0..COUNT).map(|i| -1.0 + 2.0 * i as f32 / (COUNT - 1) as f32).collect()
}

/// The pipelines' loop: from noise or from a picture, and with the known part put back after every call.
fn run(sampler: &Sampler, run: &Run, seed: usize) -> Result<Vec<f32>> {
    let mut generator = Noise::new(seed as u64);
    let noise = generator.normal(COUNT);
    let first = run.first.unwrap_or(0) * sampler.order();
    let latents = match run.first {
        Some(_) => sampler.add_noise(&picture(), &noise, first)?,
        None => noise.iter().map(|n| n * sampler.init_noise_sigma()).collect(),
    };
    let last = sampler.timesteps().len() - 1;
    let mut calls = first;
    let mut steps = 0;
    let latents = sampler.run(
        first,
        latents,
        &mut |x, t| Ok(network(x, t)),
        &mut generator,
        &mut |AfterCall { call, step, step_done, latents, denoised }| {
            assert_eq!((call, denoised.len()), (calls, COUNT));
            calls += 1;
            steps += usize::from(step_done);
            assert_eq!(step, steps);
            if run.blend {
                let known = match call == last {
                    true => picture(),
                    false => sampler.add_noise(&picture(), &noise, call + 1).unwrap(),
                };
                (0..COUNT).step_by(3).for_each(|i| latents[i] = known[i]);
            }
            ControlFlow::Continue(())
        },
    )?;
    assert_eq!(calls, last + 1);
    assert_eq!(steps, sampler.steps_from(first));
    Ok(latents)
}

#[test]
fn levels_are_those_of_diffusers() {
    let goldens = Goldens::read();
    let mut wrong = Vec::new();
    for golden in &goldens.levels {
        let case = &golden.case;
        let name = format!("{} {case:?}", goldens.name(case));
        let sampler = match goldens.sampler(case) {
            Ok(sampler) => sampler,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        if sampler.timesteps().len() != golden.timesteps.len() {
            wrong.push(format!("{name}: {:?} for {:?}", sampler.timesteps(), golden.timesteps));
            continue;
        }
        for (call, &expected) in golden.timesteps.iter().enumerate() {
            let t = sampler.timesteps()[call];
            // DPM2's middle timesteps, and those of Euler and its kin on a schedule, are not whole ones and hang on the
            // last bit of a logarithm.
            let whole = expected.fract() == 0.0 && !name.starts_with("KDPM2");
            let tolerance = if whole { 0.0 } else { 2e-4 };
            if (t - expected).abs() > tolerance {
                wrong.push(format!("{name}: timestep {call} is {t} for {expected}"));
            }
            let noise = sampler.add_noise(&[0.0], &[1.0], call).unwrap()[0];
            let expected = golden.noise[call];
            if (noise - expected).abs() > 1e-6 * expected.abs() {
                wrong.push(format!("{name}: noise {call} is {noise} for {expected}"));
            }
        }
        let (init, expected) = (sampler.init_noise_sigma(), golden.init_noise_sigma);
        if (init - expected).abs() > 1e-6 * expected {
            wrong.push(format!("{name}: init_noise_sigma is {init} for {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn latents_are_those_of_diffusers() {
    let goldens = Goldens::read();
    let mut wrong = Vec::new();
    let mut worst: BTreeMap<String, f32> = BTreeMap::new();
    for (seed, golden) in goldens.runs.iter().enumerate() {
        let found = goldens.sampler(&golden.case).and_then(|sampler| run(&sampler, golden, seed));
        let found = match found {
            Err(Error::Unsupported { .. } | Error::InvalidArgument { .. }) if golden.refused => continue,
            // Where diffusers paints NaN, an error or a picture will do.
            Ok(_) | Err(Error::NotFinite { .. } | Error::Unsupported { .. }) if golden.not_finite => continue,
            Ok(found) if !golden.refused => found,
            found => {
                wrong.push(format!("{golden:?} of {}: {found:?}", goldens.config(&golden.case)));
                continue;
            }
        };
        let scale = golden.latents.iter().fold(0f32, |scale, v| scale.max(v.abs()));
        let kept = KEPT.iter().zip(&golden.latents);
        let error = kept.map(|(&i, expected)| (found[i] - expected).abs() / scale).fold(0.0, f32::max);
        let entry = worst.entry(goldens.name(&golden.case)).or_default();
        *entry = entry.max(error);
        if error > 1e-4 {
            wrong.push(format!("{error:.1e}: {golden:?} of {}", goldens.config(&golden.case)));
        }
    }
    println!("worst relative error by sampler: {worst:#?}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

const SD15: &str = r#"{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "clip_sample": false, "set_alpha_to_one": false, "steps_offset": 1}"#;

fn quiet(_: AfterCall<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn every_sampler_and_schedule_falls_from_noise_to_nothing_at_every_number_of_steps() {
    let config = SchedulerConfig::parse(SD15).unwrap();
    for kind in SamplerKind::ALL {
        for schedule in [None, Some(Schedule::Karras), Some(Schedule::Exponential)] {
            let Ok(config) = config.with(Some(kind), schedule) else { continue };
            for steps in (1..=50).chain([61, 99, 100, 150]) {
                let sampler = match Sampler::new(&config, steps) {
                    Err(Error::InvalidArgument { field: "steps", .. })
                        if matches!(kind, SamplerKind::Lcm | SamplerKind::Tcd) && steps > 50 =>
                    {
                        continue;
                    }
                    sampler => sampler.unwrap(),
                };
                let noise: Vec<f32> =
                    (0..sampler.timesteps().len()).map(|i| sampler.add_noise(&[0.0], &[1.0], i).unwrap()[0]).collect();
                assert!(noise.is_sorted_by(|a, b| a >= b), "{kind} {schedule:?} {steps}: {noise:?}");
                assert!(noise.iter().all(|n| *n > 0.0 && n.is_finite()), "{kind} {schedule:?} {steps}: {noise:?}");
                assert!(sampler.timesteps().iter().all(|t| (0.0..1000.0).contains(t)), "{kind} {schedule:?} {steps}");
                let start = Noise::new(7).normal(16).iter().map(|n| n * sampler.init_noise_sigma()).collect();
                let end = sampler.run(0, start, &mut |x, t| Ok(network(x, t)), &mut Noise::new(8), &mut quiet);
                let size = end.unwrap().iter().fold(0f32, |size, v| size.max(v.abs()));
                assert!(size < 100.0, "{kind} {schedule:?} {steps} ends at {size}");
            }
        }
    }
}

#[test]
fn a_listener_that_breaks_stops_the_run_at_once() {
    let config = SchedulerConfig::parse(SD15).unwrap();
    for kind in SamplerKind::ALL {
        let sampler = Sampler::new(&config.with(Some(kind), None).unwrap(), 8).unwrap();
        let mut calls = 0;
        let mut denoise = |x: &[f32], t| {
            calls += 1;
            Ok(network(x, t))
        };
        let mut stop = |after: AfterCall<'_>| if after.call == 3 { ControlFlow::Break(()) } else { quiet(after) };
        let stopped = sampler.run(0, vec![1.0; 16], &mut denoise, &mut Noise::new(0), &mut stop);
        assert!(matches!(stopped, Err(Error::Cancelled)), "{kind}: {stopped:?}");
        assert_eq!(calls, 4, "{kind}");
    }
}

#[test]
fn what_cannot_be_run_is_an_error_that_names_it() {
    let config = SchedulerConfig::parse(SD15).unwrap();
    let field = |result: Result<Sampler>| match result {
        Err(Error::InvalidArgument { field, .. }) => field.to_owned(),
        Err(Error::Unsupported { field, .. }) => field,
        result => panic!("{result:?}"),
    };
    assert_eq!(field(Sampler::new(&config, 0)), "steps");
    assert_eq!(field(Sampler::new(&config, usize::MAX)), "steps");
    assert_eq!(field(Sampler::new(&config, 1001)), "steps");
    assert_eq!(field(Sampler::new(&config.with(Some(SamplerKind::Lcm), None).unwrap(), 51)), "steps");
    for (class, key, value) in [
        ("DDIMScheduler", "prediction_type", "\"flow_prediction\""),
        ("DDIMScheduler", "beta_schedule", "\"sigmoid\""),
        ("DDIMScheduler", "beta_start", "\"small\""),
        ("DDIMScheduler", "num_train_timesteps", "1e12"),
        ("DDIMScheduler", "num_train_timesteps", "0"),
        ("DDIMScheduler", "steps_offset", "900"),
        ("DDIMScheduler", "steps_offset", "-1"),
        ("DDIMScheduler", "trained_betas", "[0.1, 0.2]"),
        ("DDIMScheduler", "timestep_spacing", "7"),
        ("DDPMScheduler", "variance_type", "\"learned\""),
        ("DDIMScheduler", "clip_sample", "\"yes\""),
        ("EulerDiscreteScheduler", "use_beta_sigmas", "true"),
        ("EulerDiscreteScheduler", "final_sigmas_type", "\"one\""),
        ("DPMSolverMultistepScheduler", "solver_order", "4"),
        ("DPMSolverMultistepScheduler", "use_flow_sigmas", "true"),
        ("UniPCMultistepScheduler", "solver_p", "{}"),
        ("LCMScheduler", "original_inference_steps", "0"),
    ] {
        let json = format!(r#"{{"_class_name": "{class}", "{key}": {value}}}"#);
        assert_eq!(field(SchedulerConfig::parse(&json).and_then(|config| Sampler::new(&config, 20))), key, "{json}");
    }
}

#[test]
fn a_run_that_has_no_step_left_or_starts_within_one_is_refused() {
    let config = SchedulerConfig::parse(SD15).unwrap().with(Some(SamplerKind::Heun), None).unwrap();
    let sampler = Sampler::new(&config, 4).unwrap();
    for first in [1, 3, 7, 8, usize::MAX] {
        let run = sampler.run(first, vec![0.0; 4], &mut |x, _| Ok(x.to_vec()), &mut Noise::new(0), &mut quiet);
        assert!(matches!(run, Err(Error::InvalidArgument { field: "strength", .. })), "{first}: {run:?}");
    }
    assert!(sampler.add_noise(&[0.0], &[0.0], 7).is_err());
    let mut noise = Noise::new(0);
    assert!(sampler.run(0, Vec::new(), &mut |x, _| Ok(x.to_vec()), &mut noise, &mut quiet).unwrap().is_empty());
}

#[test]
fn a_network_that_breaks_ends_the_run_with_the_step() {
    let sampler = Sampler::new(&SchedulerConfig::parse(SD15).unwrap(), 4).unwrap();
    let mut calls = 0;
    let mut denoise = |x: &[f32], _| {
        calls += 1;
        Ok(vec![if calls == 3 { f32::NAN } else { 0.5 }; x.len()])
    };
    let run = sampler.run(0, vec![0.0; 16], &mut denoise, &mut Noise::new(0), &mut quiet);
    assert!(matches!(run, Err(Error::NotFinite { what: "NaN", step: 3 })), "{run:?}");
    let run = sampler.run(0, vec![0.0; 16], &mut |_, _| Ok(vec![0.0; 3]), &mut Noise::new(0), &mut quiet);
    assert!(matches!(run, Err(Error::UnsupportedByModel(_))), "{run:?}");
}

/// 61 trailing steps: diffusers 0.42.1 makes 62 timesteps of them, the last −1 (`np.arange` runs over by a rounding error).
#[test]
fn trailing_timesteps_end_where_the_model_does() {
    let config = r#"{"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}"#;
    let sampler = Sampler::new(&SchedulerConfig::parse(config).unwrap(), 61).unwrap();
    assert_eq!((sampler.timesteps().len(), sampler.timesteps()[0], sampler.timesteps()[60]), (61, 999.0, 15.0));
}

/// Keys of the wrong kind, absurd numbers and truncated files: an error or a run, never a panic.
#[test]
fn no_config_panics() {
    let keys = [
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "trained_betas",
        "steps_offset",
        "solver_order",
        "sigma_min",
        "sigma_max",
        "lambda_min_clipped",
        "clip_sample_range",
        "sample_max_value",
        "dynamic_thresholding_ratio",
        "original_inference_steps",
        "timestep_scaling",
        "disable_corrector",
        "timestep_spacing",
        "use_karras_sigmas",
        "use_exponential_sigmas",
        "thresholding",
        "rescale_betas_zero_snr",
        "skip_prk_steps",
        "beta_schedule",
    ];
    let values = [
        "0",
        "1",
        "-1",
        "2",
        "0.5",
        "1e300",
        "-Infinity",
        "NaN",
        "null",
        "true",
        "false",
        "[]",
        "[0.5, 1e300]",
        "{}",
        "\"linspace\"",
        "\"trailing\"",
        "\"squaredcos_cap_v2\"",
    ];
    let first = SchedulerConfig::parse(SD15).unwrap();
    for class in SamplerKind::ALL.map(|kind| first.with(Some(kind), None).unwrap().class_name()) {
        for key in keys {
            for value in values {
                let json = format!(r#"{{"_class_name": "{class}", "num_train_timesteps": 20, "{key}": {value}}}"#);
                let Ok(config) = SchedulerConfig::parse(&json) else { continue };
                for steps in [1, 3, 20, 40] {
                    let Ok(sampler) = Sampler::new(&config, steps) else { continue };
                    let start = vec![1.0; 16];
                    let _ = sampler.run(0, start, &mut |x, t| Ok(network(x, t)), &mut Noise::new(8), &mut quiet);
                }
            }
        }
    }
    for end in 0..SD15.len() {
        assert!(SchedulerConfig::parse(&SD15[..end]).is_err());
    }
}
