//! The same picture as diffusers: every case of `goldens/cases.json` is painted and compared with the committed picture.
//!
//! `tools/reference/make_goldens.py` painted those with diffusers; the models' weights come from a formula, so that nothing is downloaded
//! and no Python is needed. `cargo test -p diffusion --test goldens -- --nocapture` prints the figures.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::ops::ControlFlow;

use diffusion::image::{self, Decoded, Pixels};
use diffusion::ops::{CpuOptions, Device};
use diffusion::pipeline::{LoadOptions, ModelSource, Pipeline, Request, Task};
use serde::Deserialize;
use support::goldens;
use support::small_models::{Changes, SmallModel};

/// Two correct float32 computations that add in another order stay above this; 8-bit pictures that differ by one level everywhere have 48 dB.
const GOAL: f64 = 50.0;

/// One line of `cases.json`: the operation's fields, and what diffusers made of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    kind: String,
    operation: String,
    prompt: String,
    negative_prompt: Option<String>,
    steps: usize,
    guidance_scale: f64,
    width: Option<usize>,
    height: Option<usize>,
    seed: u64,
    strength: Option<f64>,
    scheduler: Option<String>,
    schedule: Option<String>,
    clip_skip: Option<usize>,
    init_image: Option<String>,
    mask_image: Option<String>,
    #[serde(default)]
    tiny_vae: bool,
    /// `f16` where the files have half precision; the computation has single all the same.
    weights: Option<String>,
    /// What the model's `scheduler_config.json` says in place of the kind's own.
    #[serde(default)]
    scheduler_config: Changes,
    /// The picture, where diffusers paints one.
    file: Option<String>,
    /// The error that diffusers raises; then we refuse too.
    fails: Option<String>,
}

impl Case {
    fn model(&self) -> SmallModel {
        SmallModel {
            kind: self.kind.clone(),
            tiny_vae: self.tiny_vae,
            f16: self.weights.as_deref() == Some("f16"),
            scheduler: self.scheduler_config.clone(),
        }
    }

    fn request(&self) -> Request {
        let strength = || self.strength.expect("a case with an image says its strength");
        let task = match self.operation.as_str() {
            "image_generation" => Task::Generate,
            "image_transform" => Task::Transform { init_image: self.image().into_rgb(), strength: strength() },
            "image_inpaint" => Task::Inpaint {
                init_image: self.image().into_rgb(),
                mask: input(self.mask_image.as_deref()).mask(),
                strength: strength(),
                // What diffusers does: a hard edge, and the whole picture as the model painted it.
                mask_blur: 0.0,
                composite: false,
            },
            other => panic!("{}: no operation {other}", self.name),
        };
        let named = |what: &Option<String>| what.clone();
        Request {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            steps: self.steps,
            guidance_scale: self.guidance_scale,
            width: self.width,
            height: self.height,
            seed: self.seed,
            scheduler: named(&self.scheduler).map(|name| name.parse().expect("a sampler's name")),
            schedule: named(&self.schedule).map(|name| name.parse().expect("a schedule's name")),
            clip_skip: self.clip_skip,
            preview_every: None,
            task,
        }
    }

    fn image(&self) -> Decoded {
        input(self.init_image.as_deref())
    }
}

fn input(name: Option<&str>) -> Decoded {
    picture(&format!("inputs/{}.png", name.expect("a case of this operation names its images")))
}

fn picture(name: &str) -> Decoded {
    let bytes = fs::read(goldens().join(name)).expect("cases.json names files that are there");
    image::decode("image", &bytes).expect("a golden is a picture")
}

/// The peak signal-to-noise ratio in dB, infinite where the pictures are the same, and the largest difference.
fn compare(ours: &Pixels, theirs: &Pixels) -> (f64, u8) {
    assert_eq!((ours.width(), ours.height()), (theirs.width(), theirs.height()), "sizes");
    let differences = ours.data().iter().zip(theirs.data()).map(|(&a, &b)| a.abs_diff(b));
    let squares: f64 = differences.clone().map(|d| f64::from(d).powi(2)).sum();
    let mse = squares / ours.data().len() as f64;
    (10.0 * (255f64.powi(2) / mse).log10(), differences.max().unwrap_or(0))
}

/// Paints all cases of a kind; fails with the names of those that differ.
fn check(kind: &str) {
    let text = fs::read_to_string(goldens().join("cases.json")).expect("cases.json is there");
    let cases: Vec<Case> = serde_json::from_str(&text).expect("cases.json is as this test reads it");
    let mut models: BTreeMap<SmallModel, Vec<Case>> = BTreeMap::new();
    for case in cases.into_iter().filter(|case| case.kind == kind) {
        models.entry(case.model()).or_default().push(case);
    }
    assert!(!models.is_empty(), "no case of kind {kind}");
    let (mut table, mut bad) = (String::new(), Vec::new());
    for (model, cases) in models {
        // One thread: the tests of the other kinds run beside this one.
        let device = Device::cpu(CpuOptions { threads: Some(1), ..CpuOptions::default() }).expect("a CPU is there");
        let source = ModelSource::folder(&model.folder()).expect("a small model is a model");
        let go_on = &mut |_| ControlFlow::Continue(());
        let mut pipeline =
            Pipeline::load(&source, &device, LoadOptions::default(), go_on).expect("a small model loads");
        for case in cases {
            let painted = pipeline.paint(&case.request(), go_on);
            let verdict = match (&case.file, painted) {
                (Some(file), Ok(painted)) => {
                    let (db, largest) = compare(&painted.image, picture(&format!("pictures/{file}")).rgb());
                    if db >= GOAL {
                        Ok(format!("{db:6.1} dB, {largest}"))
                    } else {
                        Err(format!("{db:6.1} dB, largest difference {largest}"))
                    }
                }
                (Some(_), Err(error)) => Err(format!("error: {error}")),
                (None, Ok(_)) => Err(format!("is painted, where diffusers fails: {:?}", case.fails)),
                (None, Err(error)) => Ok(format!("refused, as by diffusers: {error}")),
            };
            let (Ok(shown) | Err(shown)) = &verdict;
            writeln!(table, "{:<48} {shown}", case.name).expect("writes to a string");
            if let Err(shown) = verdict {
                bad.push(format!("{}: {shown}", case.name));
            }
        }
    }
    eprint!("{table}");
    assert!(bad.is_empty(), "not the picture that diffusers paints:\n{}", bad.join("\n"));
}

macro_rules! kinds {
    ($($test:ident: $kind:literal,)*) => {
        $(#[test] fn $test() { check($kind); })*

        #[test]
        fn every_kind_is_tested() {
            let text = fs::read_to_string(goldens().join("cases.json")).expect("cases.json is there");
            let cases: Vec<Case> = serde_json::from_str(&text).expect("cases.json is as this test reads it");
            let mut kinds: Vec<&str> = cases.iter().map(|case| case.kind.as_str()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            let mut tested = [$($kind),*];
            tested.sort_unstable();
            assert_eq!(kinds, tested);
        }
    };
}

kinds! {
    sd15_paints_the_same: "sd15",
    sd15_inpaint_paints_the_same: "sd15-inpaint",
    sd21_paints_the_same: "sd21",
    sd21_inpaint_paints_the_same: "sd21-inpaint",
    sdxl_paints_the_same: "sdxl",
    sdxl_inpaint_paints_the_same: "sdxl-inpaint",
    lcm_paints_the_same: "lcm",
    turbo_paints_the_same: "turbo",
}
