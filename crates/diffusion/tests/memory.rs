//! What a picture takes is foreseen, and its denoising loop asks the system for nothing. One test, because a process has one
//! account of its memory.
#![cfg(target_os = "linux")]

use std::fs::read_to_string;
use std::ops::ControlFlow;
use std::path::Path;

use diffusion::image::Pixels;
use diffusion::ops::{CpuOptions, Device};
use diffusion::pipeline::{Event, LoadOptions, ModelSource, PictureShape, Pipeline, Request, Task, estimate};

/// So large that activations outweigh the program.
const SIDE: usize = 512;

fn tiny_scenes() -> ModelSource {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-scenes");
    ModelSource::folder(Path::new(folder)).expect("the model that is shipped")
}

fn status(field: &str) -> f64 {
    let status = read_to_string("/proc/self/status").expect("a process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("Linux tells it");
    line.trim().trim_end_matches("kB").trim().parse::<f64>().expect("a number") * 1024.0
}

/// Pages that this process had to wait for, though they were on no disk.
fn minor_faults() -> u64 {
    let stat = read_to_string("/proc/self/stat").expect("a process has a status");
    let fields = stat.rsplit_once(')').expect("its name stands in parentheses").1;
    fields.split_whitespace().nth(7).and_then(|field| field.parse().ok()).expect("the tenth field")
}

/// The picture, and the page faults of each step after the first.
fn paint(options: LoadOptions, cpu: CpuOptions, request: &Request) -> (Pixels, Vec<u64>) {
    let device = Device::cpu(cpu).expect("threads");
    let mut pipeline =
        Pipeline::load(&tiny_scenes(), &device, options, &mut |_| ControlFlow::Continue(())).expect("the model loads");
    let (mut before, mut faults) = (0, Vec::new());
    let mut observer = |event| {
        if let Event::Denoised { step, .. } = event {
            let now = minor_faults();
            if step > 1 {
                faults.push(now - before);
            }
            before = minor_faults();
        }
        ControlFlow::Continue(())
    };
    let picture = pipeline.paint(request, &mut observer).expect("it is painted").image;
    (picture, faults)
}

#[test]
fn a_picture_takes_what_was_foreseen_and_its_steps_ask_for_no_memory() {
    let request = Request {
        prompt: "a red circle on a blue background".to_owned(),
        negative_prompt: None,
        steps: 6,
        guidance_scale: 7.5,
        width: Some(SIDE),
        height: Some(SIDE),
        seed: 1,
        scheduler: None,
        schedule: None,
        clip_skip: None,
        preview_every: None,
        task: Task::Generate,
    };
    let cpu = CpuOptions { threads: Some(2), ..CpuOptions::default() };
    let foresee = |options| {
        let device = Device::cpu(cpu).expect("threads");
        let pipeline = Pipeline::load(&tiny_scenes(), &device, options, &mut |_| ControlFlow::Continue(()))
            .expect("the model loads");
        let foresight = pipeline.foresight().expect("a CPU foresees").clone();
        let shape = PictureShape { width: SIDE, height: SIDE, guided: true, chunks: 1, encodes: false };
        let (footprint, tiled) = foresight.fit(shape).expect("the machine has so much");
        assert_eq!(tiled, options.vae_tiling);
        footprint
    };
    let whole = foresee(LoadOptions::default());
    let tiling = LoadOptions { vae_tiling: true, ..LoadOptions::default() };
    let tiled = foresee(tiling);
    assert!(tiled.activations <= whole.activations, "{tiled:?} in tiles, {whole:?} otherwise");

    // Tiles first: the system tells the most that ever was.
    for (options, foreseen) in [(tiling, tiled), (LoadOptions::default(), whole)] {
        let (_, faults) = paint(options, cpu, &request);
        let (taken, foreseen) = (status("VmHWM:"), foreseen.peak() as f64);
        println!(
            "{:.1} MB taken, {:.1} foreseen; page faults in steps 2 to 6: {faults:?}",
            taken / 1e6,
            foreseen / 1e6
        );
        assert!((taken / foreseen - 1.0).abs() < 0.15, "{taken} bytes taken, {foreseen} foreseen");
        // One step may be the one in which the system itself moves pages; what a step asks for, every step asks for.
        let mut sorted = faults.clone();
        sorted.sort_unstable();
        assert!(sorted[sorted.len() / 2] < 50, "page faults in steps 2 to 6: {faults:?}");
    }
}

#[test]
fn a_model_is_estimated_by_its_files_alone() {
    let estimate = |cpu, options| estimate(&tiny_scenes(), cpu, options).expect("the model is whole");
    let usual = estimate(CpuOptions::default(), LoadOptions::default());
    let little = estimate(
        CpuOptions { low_memory: true, ..CpuOptions::default() },
        LoadOptions { low_memory: true, ..LoadOptions::default() },
    );
    assert!(little.weights < usual.weights && little.peak() < usual.peak(), "{little:?} of {usual:?}");
}
