//! Paints one picture and tells what it took, beside what was foreseen.
//!
//! `cargo run --release -p diffusion --example footprint -- MODEL [--low-memory] [--vae-tiling] [--prepare] [--side N] [--steps N]`
//!
//! `--prepare` packs all weights first, as an idle worker does. Bytes of memory, seconds, and page faults by step; Linux tells
//! the peak and the faults. `steps` 0 only loads.
#![allow(clippy::print_stdout)]

use std::fs::read_to_string;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use diffusion::ops::{CpuOptions, Device};
use diffusion::pipeline::{Event, LoadOptions, ModelSource, PictureShape, Pipeline, Request, Task};
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let (mut model, mut cpu, mut options) = (None, CpuOptions::default(), LoadOptions::default());
    let (mut prepare, mut side, mut steps) = (false, None, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<usize> { Ok(arguments.next().ok_or("a number is missing")?.parse()?) };
        match argument.as_str() {
            "--low-memory" => (cpu.low_memory, options.low_memory) = (true, true),
            "--vae-tiling" => options.vae_tiling = true,
            "--prepare" => prepare = true,
            "--side" => side = Some(number()?),
            "--steps" => steps = number()?,
            "--threads" => cpu.threads = Some(number()?),
            _ => model = Some(argument),
        }
    }
    let source = ModelSource::open(Path::new(&model.ok_or("give a model")?), false)?;
    let start = Instant::now();
    let device = Device::cpu(cpu)?;
    let mut pipeline = Pipeline::load(&source, &device, options, &mut |_| ControlFlow::Continue(()))?;
    println!("{}", json!({ "load_seconds": start.elapsed().as_secs_f64(), "resident": status("VmRSS:")? }));
    if prepare {
        let start = Instant::now();
        while pipeline.prepare() {}
        println!("{}", json!({ "prepare_seconds": start.elapsed().as_secs_f64(), "resident": status("VmRSS:")? }));
    }
    let side = side.unwrap_or(pipeline.info().native_size.0);
    let shape = PictureShape { width: side, height: side, guided: true, chunks: 1, encodes: false };
    let foresight = pipeline.foresight().expect("a processor foresees").clone();
    let start = Instant::now();
    let (foreseen, tiled) = foresight.fit(shape)?;
    println!(
        "{}",
        json!({
            "foreseen": foreseen.peak(),
            "weights": foreseen.weights,
            "activations": foreseen.activations,
            "other": foreseen.other,
            "tiled": tiled,
            "fit_seconds": start.elapsed().as_secs_f64(),
        })
    );
    if steps == 0 {
        return Ok(());
    }
    let request = Request {
        prompt: "a red circle on a blue background".into(),
        negative_prompt: None,
        steps,
        guidance_scale: 7.5,
        width: Some(side),
        height: Some(side),
        seed: 1,
        scheduler: None,
        schedule: None,
        clip_skip: None,
        preview_every: None,
        task: Task::Generate,
    };
    let start = Instant::now();
    let (mut before, mut faults) = (0, Vec::new());
    let mut observer = |event| {
        match event {
            Event::Denoised { step, .. } => {
                let now = minor_faults().unwrap_or_default();
                if step > 0 {
                    faults.push(now - before);
                }
                before = now;
                println!("{}", json!({ "step": step, "seconds": start.elapsed().as_secs_f64() }));
            }
            Event::Decoding => println!("{}", json!({ "decoding_at_seconds": start.elapsed().as_secs_f64() })),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    pipeline.paint(&request, &mut observer)?;
    let peak = status("VmHWM:")?;
    println!(
        "{}",
        json!({
            "picture_seconds": start.elapsed().as_secs_f64(),
            "peak": peak,
            "of_foreseen": peak as f64 / foreseen.peak() as f64,
            "minor_faults_by_step": faults,
        })
    );
    Ok(())
}

fn status(field: &str) -> Result<u64> {
    let status = read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("the system does not tell")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

fn minor_faults() -> Option<u64> {
    let stat = read_to_string("/proc/self/stat").ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(7)?.parse().ok()
}
