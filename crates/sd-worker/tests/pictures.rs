//! Does a picture show what was asked for? The embedded model, as it is shipped, and eyes made of averages.

use std::ops::ControlFlow;
use std::sync::{Mutex, OnceLock};

use diffusion::image::Pixels;
use diffusion::ops::{CpuOptions, Device};
use diffusion::pipeline::{Event, LoadOptions, Pipeline, Request, Task};
use sd_worker_rbee::embedded;

/// Steps that show what a picture becomes, in a third of the time of the usual 20.
const STEPS: usize = 12;

fn request(prompt: &str, seed: u64) -> Request {
    Request {
        prompt: prompt.to_owned(),
        negative_prompt: None,
        steps: STEPS,
        guidance_scale: 7.5,
        width: None,
        height: None,
        seed,
        scheduler: None,
        schedule: None,
        clip_skip: None,
        preview_every: None,
        task: Task::Generate,
    }
}

fn paint(request: &Request) -> Pixels {
    paint_and_watch(request, |_| ())
}

fn paint_and_watch(request: &Request, mut watch: impl FnMut(Event)) -> Pixels {
    static PIPELINE: OnceLock<Mutex<Pipeline>> = OnceLock::new();
    let pipeline = PIPELINE.get_or_init(|| {
        let device = Device::cpu(CpuOptions::default()).expect("a CPU has threads");
        let mut observer = |_| ControlFlow::Continue(());
        Mutex::new(
            Pipeline::load(&embedded::tiny_scenes(), &device, LoadOptions::default(), &mut observer)
                .expect("the embedded model loads"),
        )
    });
    let mut observer = |event| {
        watch(event);
        ControlFlow::Continue(())
    };
    let mut pipeline = pipeline.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    pipeline.paint(request, &mut observer).expect("the picture is painted").image
}

/// The mean colour of a rectangle given in parts of the picture.
fn colour(picture: &Pixels, x: [f64; 2], y: [f64; 2]) -> [f64; 3] {
    let range = |part: [f64; 2], side: usize| (part[0] * side as f64) as usize..(part[1] * side as f64) as usize;
    let (xs, ys) = (range(x, picture.width()), range(y, picture.height()));
    let count = (xs.len() * ys.len()) as f64;
    let mut sum = [0.0; 3];
    for y in ys {
        for x in xs.clone() {
            for (sum, value) in sum.iter_mut().zip(picture.pixel(x, y)) {
                *sum += f64::from(*value) / count;
            }
        }
    }
    sum
}

fn difference(a: &Pixels, b: &Pixels) -> f64 {
    assert_eq!(a.data().len(), b.data().len());
    let sum: f64 = a.data().iter().zip(b.data()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    (sum / a.data().len() as f64).sqrt()
}

const ALL: [f64; 2] = [0.0, 1.0];
const MIDDLE: [f64; 2] = [0.42, 0.58];
const EDGE: [f64; 2] = [0.02, 0.1];

#[test]
fn a_red_circle_lies_on_a_blue_background() {
    let picture = paint(&request("a red circle on a blue background", 7));
    assert_eq!((picture.width(), picture.height()), (128, 128), "the model's own size");
    let [r, g, b] = colour(&picture, MIDDLE, MIDDLE);
    assert!(r > 120.0 && r > g + 60.0 && r > b + 60.0, "the middle is red: {:?}", [r, g, b]);
    let [r, g, b] = colour(&picture, EDGE, ALL);
    assert!(b > 100.0 && b > r + 60.0 && b > g + 30.0, "the background is blue: {:?}", [r, g, b]);
}

#[test]
fn night_is_darker_than_day() {
    let brightness = |prompt: &str| colour(&paint(&request(prompt, 3)), ALL, ALL).iter().sum::<f64>() / 3.0;
    let day = brightness("a sunny day over the sea");
    let night = brightness("a moonlit night over the sea");
    assert!(night + 40.0 < day, "night {night:.0}, day {day:.0}");
}

#[test]
fn the_sky_of_a_sunset_is_warm() {
    let picture = paint(&request("a beautiful sunset over mountains", 5));
    let [r, _, b] = colour(&picture, ALL, [0.3, 0.5]);
    assert!(r > b + 20.0, "red {r:.0} above blue {b:.0} over the horizon");
}

#[test]
fn one_seed_repeats_and_two_differ() {
    let first = paint(&request("a green star on a white background", 1));
    assert_eq!(first, paint(&request("a green star on a white background", 1)));
    let low_bits = request("a green star on a white background", (1 << 32) + 1);
    assert_eq!(first, paint(&low_bits), "the generator takes the seed's low 32 bits, as torch's does");
    let other = paint(&request("a green star on a white background", 2));
    assert!(difference(&first, &other) > 5.0);
}

#[test]
fn image_to_image_keeps_more_at_low_strength() {
    let original = paint(&request("a sunny day over mountains", 11));
    let kept = |strength| {
        let task = Task::Transform { init_image: original.clone(), strength };
        difference(&original, &paint(&Request { task, ..request("a moonlit night over mountains", 12) }))
    };
    let (low, high) = (kept(0.3), kept(0.9));
    assert!(low * 1.5 < high, "difference {low:.1} at 0.3 and {high:.1} at 0.9");
}

#[test]
fn inpainting_paints_inside_the_mask_and_changes_nothing_outside() {
    let original = paint(&request("a red circle on a blue background", 7));
    let (width, height) = (original.width(), original.height());
    let inside = |x: usize, y: usize| (32..96).contains(&x) && (32..96).contains(&y);
    let mask = (0..width * height).map(|i| if inside(i % width, i / width) { 255 } else { 0 }).collect();
    let mask_blur = 2.0;
    let task = Task::Inpaint {
        init_image: original.clone(),
        mask: Pixels::new(width, height, 1, mask),
        strength: 1.0,
        mask_blur,
        composite: true,
    };
    let painted = paint(&Request { task, steps: 20, ..request("a yellow circle on a blue background", 9) });
    // The feather reaches three standard deviations beyond the mask.
    let reach = (3.0 * mask_blur) as usize + 1;
    let mut changed = 0;
    for y in 0..height {
        for x in 0..width {
            let near = (32 - reach..96 + reach).contains(&x) && (32 - reach..96 + reach).contains(&y);
            changed += usize::from(painted.pixel(x, y) != original.pixel(x, y));
            assert!(near || painted.pixel(x, y) == original.pixel(x, y), "({x}, {y}) lies outside the mask");
        }
    }
    assert!(changed > 1000, "{changed} pixels are new");
    let [r, g, b] = colour(&painted, MIDDLE, MIDDLE);
    assert!(r > 130.0 && g > 110.0 && b < 110.0, "yellow was asked for in the middle: {:?}", [r, g, b]);
}

#[test]
fn every_step_is_told_and_previews_come_as_often_as_asked() {
    let (mut steps, mut previews) = (Vec::new(), Vec::new());
    let request = Request { preview_every: Some(5), ..request("a blue square on a yellow background", 4) };
    let picture = paint_and_watch(&request, |event| match event {
        Event::Denoised { step, total } => steps.push((step, total)),
        Event::Preview { step, image } => previews.push((step, image)),
        _ => {}
    });
    assert_eq!(steps, (0..=STEPS).map(|step| (step, STEPS)).collect::<Vec<_>>());
    assert_eq!(previews.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [5, 10]);
    // The last preview has the picture's colours: a linear map of the latents, not a decoder.
    let (_, preview) = &previews[1];
    for x in [EDGE, MIDDLE] {
        let (seen, real) = (colour(preview, [x[0], x[1] + 0.05], [0.4, 0.6]), colour(&picture, x, [0.4, 0.6]));
        for channel in 0..3 {
            assert!((seen[channel] - real[channel]).abs() < 60.0, "preview {seen:?}, picture {real:?}");
        }
    }
}
