//! Broken models and tight memory: a clear error that names the file or tensor, or the very same picture.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use diffusion::ops::{CpuOptions, Device};
use diffusion::pipeline::{Event, LoadOptions, ModelSource, Pipeline, Request, Task};
use diffusion::{Error, Result};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-scenes");
const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// A copy of the embedded model that a test may break.
fn model() -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("a folder can be made");
        for entry in fs::read_dir(from).expect("the folder is there").flatten() {
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            if from.is_dir() {
                copy(&from, &to);
            } else {
                fs::copy(from, to).expect("a file can be copied");
            }
        }
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    copy(Path::new(MODEL), folder.path());
    folder
}

fn load(folder: &Path, options: LoadOptions) -> Result<Pipeline> {
    load_on(&Device::cpu(CpuOptions { threads: Some(2), low_memory: false, ..CpuOptions::default() })?, folder, options)
}

fn load_on(device: &Device, folder: &Path, options: LoadOptions) -> Result<Pipeline> {
    Pipeline::load(&ModelSource::folder(folder)?, device, options, &mut |_| ControlFlow::Continue(()))
}

fn request(steps: usize) -> Request {
    Request {
        prompt: "a red circle on a blue background".to_owned(),
        negative_prompt: None,
        steps,
        guidance_scale: 7.5,
        width: Some(64),
        height: Some(64),
        seed: 1,
        scheduler: None,
        schedule: None,
        clip_skip: None,
        preview_every: None,
        task: Task::Generate,
    }
}

/// Overwrites a tensor of float16 values with one value.
fn fill(file: &Path, tensor: &str, bits: u16) {
    let mut bytes = fs::read(file).expect("the file is there");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let entries: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
    let offset = |i: usize| 8 + header + entries[tensor]["data_offsets"][i].as_u64().expect("a tensor") as usize;
    for pair in bytes[offset(0)..offset(1)].chunks_exact_mut(2) {
        pair.copy_from_slice(&bits.to_le_bytes());
    }
    fs::write(file, bytes).expect("the file can be written");
}

#[test]
fn weights_that_are_no_numbers_end_the_picture_and_not_the_pipeline() {
    const NAN: u16 = 0x7E00;
    let folder = model();
    fill(&folder.path().join(UNET), "conv_out.bias", NAN);
    let mut pipeline = load(folder.path(), LoadOptions::default()).expect("the files are whole");
    for _ in 0..2 {
        let error = pipeline.paint(&request(4), &mut |_| ControlFlow::Continue(())).expect_err("no numbers");
        assert!(matches!(error, Error::NotFinite { what: "NaN", step: 1 }), "{error}");
    }
}

#[test]
fn truncated_and_missing_files_are_named() {
    let folder = model();
    let unet = folder.path().join(UNET);
    let length = fs::metadata(&unet).expect("the file is there").len();
    fs::OpenOptions::new().write(true).open(&unet).and_then(|file| file.set_len(length / 2)).expect("it can be cut");
    let error = load(folder.path(), LoadOptions::default()).err().expect("half a file").to_string();
    assert!(error.contains("diffusion_pytorch_model.safetensors"), "{error}");
    fs::remove_file(folder.path().join("scheduler/scheduler_config.json")).expect("it can be removed");
    let error = load(folder.path(), LoadOptions::default()).err().expect("no scheduler").to_string();
    assert!(error.contains("scheduler_config.json") && error.contains("missing"), "{error}");
}

#[test]
fn what_is_no_model_is_refused_with_what_to_give() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let refuse = |path: &Path| ModelSource::open(path, false).expect_err("no model").to_string();
    assert!(refuse(folder.path()).contains("model_index.json"));
    let pickle = folder.path().join("model.ckpt");
    fs::write(&pickle, b"").expect("it can be written");
    assert!(refuse(&pickle).contains("pickle"));
    let single = folder.path().join("model.safetensors");
    fs::write(&single, b"").expect("it can be written");
    assert!(refuse(&single).contains("truncated"));
    fs::copy(Path::new(MODEL).join(UNET), &single).expect("it can be copied");
    assert!(refuse(&single).contains("one network of a diffusers folder"));
}

#[test]
fn little_memory_paints_the_same_picture() {
    let folder = model();
    let paint = |parts, kernels| {
        let device = Device::cpu(CpuOptions { threads: Some(2), low_memory: kernels, ..CpuOptions::default() })
            .expect("threads");
        let options = LoadOptions { low_memory: parts, ..LoadOptions::default() };
        let mut pipeline = load_on(&device, folder.path(), options).expect("the model loads");
        let held = device.weight_bytes();
        let picture = pipeline.paint(&request(3), &mut |_| ControlFlow::Continue(())).expect("it is painted").image;
        (picture, held)
    };
    let (usual, usual_bytes) = paint(false, false);
    let (in_parts, _) = paint(true, false);
    assert_eq!(in_parts, usual, "the same sums");
    // Sums in another order: the last digits may turn a byte by one here and there.
    let (stored_size, stored_bytes) = paint(false, true);
    let squares = stored_size.data().iter().zip(usual.data()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
    let mean = squares.sum::<f64>() / usual.data().len() as f64;
    assert!(10.0 * (255f64.powi(2) / mean).log10() >= 60.0, "mean square of the difference {mean}");
    assert!(2 * stored_bytes < usual_bytes, "{stored_bytes} bytes of weights, {usual_bytes} transformed");
    let (picture, held) = paint(true, true);
    assert_eq!(picture, stored_size, "the same sums");
    assert!(held < stored_bytes, "{held} bytes of weights are held between pictures");
}

#[test]
fn whoever_stops_listening_stops_the_work_between_two_steps() {
    let folder = model();
    let mut pipeline = load(folder.path(), LoadOptions::default()).expect("the model loads");
    let mut seen = 0;
    let mut observer = |event| match event {
        Event::Denoised { step, .. } => {
            seen = step;
            if step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
        _ => ControlFlow::Continue(()),
    };
    assert!(matches!(pipeline.paint(&request(50), &mut observer), Err(Error::Cancelled)));
    assert_eq!(seen, 2);
}

#[test]
fn what_the_model_cannot_do_names_the_field() {
    let folder = model();
    let mut pipeline = load(folder.path(), LoadOptions::default()).expect("the model loads");
    let mut refused = |request: Request| match pipeline.paint(&request, &mut |_| ControlFlow::Continue(())) {
        Err(Error::InvalidArgument { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(Request { width: Some(100), ..request(2) }), "width");
    assert_eq!(refused(Request { clip_skip: Some(5), ..request(2) }), "clip_skip");
    let schedule = Some(diffusion::samplers::Schedule::Karras);
    assert_eq!(refused(Request { schedule, ..request(2) }), "schedule");
}
