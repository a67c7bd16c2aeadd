//! A checkpoint in a single file, under the original names, is the same model as the diffusers folder, bit for bit.

mod support;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use diffusion::Result;
use diffusion::image::{self, Decoded, Pixels};
use diffusion::ops::{CpuOptions, Device};
use diffusion::pipeline::{Checkpoint, LoadOptions, ModelSource, Pipeline, Request, Task};
use support::checkpoint::{Tensors, tensors, write};
use support::goldens;
use support::small_models::SmallModel;

fn load(source: &ModelSource, low_memory: bool) -> Result<Pipeline> {
    let device = Device::cpu(CpuOptions { threads: Some(2), low_memory: false, ..CpuOptions::default() })?;
    Pipeline::load(source, &device, LoadOptions { low_memory, ..LoadOptions::default() }, &mut |_| {
        ControlFlow::Continue(())
    })
}

/// The checkpoint at `file` with the configs of the small model, which no tensor tells.
fn load_file(file: &Path, folder: &Path) -> Result<Pipeline> {
    load(&ModelSource::Checkpoint(Arc::new(Checkpoint::open_with(file, folder)?)), true)
}

fn input(name: &str) -> Decoded {
    let bytes = fs::read(goldens().join(format!("inputs/{name}.png"))).expect("a committed picture");
    image::decode("image", &bytes).expect("a picture")
}

/// A picture that every network has a part in, the autoencoder's encoder too.
fn paint(pipeline: &mut Pipeline) -> Pixels {
    let init_image = input("init-64x64").into_rgb();
    let task = if pipeline.info().paints_only_through_a_mask() {
        let mask = input("mask-64x64").mask();
        Task::Inpaint { init_image, mask, strength: 1.0, mask_blur: 0.0, composite: false }
    } else {
        Task::Transform { init_image, strength: 1.0 }
    };
    let request = Request {
        prompt: "a red circle! on a blue background".to_owned(),
        negative_prompt: Some("blurry".to_owned()),
        steps: 2,
        guidance_scale: 5.0,
        width: None,
        height: None,
        seed: 7,
        scheduler: None,
        schedule: None,
        clip_skip: None,
        preview_every: None,
        task,
    };
    pipeline.paint(&request, &mut |_| ControlFlow::Continue(())).expect("it is painted").image
}

fn check(kind: &str, half: bool) {
    let folder = SmallModel { kind: kind.to_owned(), f16: half, ..SmallModel::default() }.folder();
    let scratch = tempfile::tempdir().expect("a temporary folder can be made");
    let file = scratch.path().join("model.safetensors");
    write(&tensors(kind), half, &file);
    let expected = paint(&mut load(&ModelSource::folder(&folder).expect("a folder"), true).expect("the folder loads"));
    let found = paint(&mut load_file(&file, &folder).expect("the file loads"));
    assert!(found == expected, "{kind}: the file paints another picture than the folder");
}

macro_rules! kinds {
    ($($test:ident: $kind:literal, $half:literal;)*) => {
        $(#[test] fn $test() { check($kind, $half); })*
    };
}

kinds! {
    sd15_is_the_same_in_one_file: "sd15", false;
    sd15_is_the_same_in_one_file_of_half_precision: "sd15", true;
    sd15_inpaint_is_the_same_in_one_file: "sd15-inpaint", false;
    sd21_is_the_same_in_one_file: "sd21", false;
    sd21_inpaint_is_the_same_in_one_file: "sd21-inpaint", false;
    turbo_is_the_same_in_one_file: "turbo", false;
    lcm_is_the_same_in_one_file: "lcm", false;
    sdxl_is_the_same_in_one_file: "sdxl", false;
    sdxl_is_the_same_in_one_file_of_half_precision: "sdxl", true;
    sdxl_inpaint_is_the_same_in_one_file: "sdxl-inpaint", false;
}

/// The error of a small model's file that was changed.
fn refused(kind: &str, change: impl FnOnce(&mut Tensors)) -> String {
    let mut tensors = tensors(kind);
    change(&mut tensors);
    let scratch = tempfile::tempdir().expect("a temporary folder can be made");
    let file = scratch.path().join("model.safetensors");
    write(&tensors, false, &file);
    let error = load_file(&file, &SmallModel::of(kind)).err().expect("a broken file").to_string();
    assert!(error.contains(file.to_str().expect("a path of ASCII")), "the file is not named: {error}");
    error
}

#[test]
fn what_is_missing_or_misshapen_is_named_as_in_the_file() {
    let without = |kind: &str, name: &str| {
        let error = refused(kind, |tensors| drop(tensors.remove(name).expect("the tensor was there")));
        assert!(error.starts_with(&format!("tensor {name} is missing in ")), "{error}");
    };
    without("sd15", "model.diffusion_model.output_blocks.2.1.conv.weight");
    without("sd15", "model.diffusion_model.input_blocks.3.0.op.bias");
    without("sd15", "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.bias");
    without("sd15", "first_stage_model.decoder.up.3.upsample.conv.weight");
    without("sd21", "cond_stage_model.model.transformer.resblocks.2.attn.in_proj_weight");
    without("sdxl", "model.diffusion_model.output_blocks.2.2.conv.weight");
    without("sdxl", "model.diffusion_model.label_emb.0.0.weight");
    without("sdxl", "conditioner.embedders.1.model.text_projection");

    let (name, shape) = ("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", vec![3 * 63, 64]);
    let error = refused("sd21", |tensors| drop(tensors.insert(name.to_owned(), (shape, vec![0.0; 3 * 63 * 64]))));
    assert!(error.starts_with(&format!("tensor {name} in ")), "{error}");
    assert!(error.ends_with("has shape [189, 64], expected [192, 64]"), "{error}");
}

#[test]
fn a_truncated_checkpoint_is_refused() {
    let scratch = tempfile::tempdir().expect("a temporary folder can be made");
    let file = scratch.path().join("model.safetensors");
    write(&tensors("sd15"), true, &file);
    let length = fs::metadata(&file).expect("it was written").len();
    fs::OpenOptions::new().write(true).open(&file).and_then(|file| file.set_len(length - 1)).expect("it can be cut");
    let error = ModelSource::open(&file, false).expect_err("a part of a file").to_string();
    assert!(error.contains("model.safetensors: is truncated"), "{error}");
}
