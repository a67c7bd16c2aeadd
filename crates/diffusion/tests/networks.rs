//! Tiny networks of many topologies compute what transformers and diffusers compute.
//!
//! Configs, shapes and outputs come from tools/reference/make_network_goldens.py; weights and inputs from the formula.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use diffusion::models::{
    Autoencoder, ClipTextConfig, ClipTextModel, Conditioning, Encoded, TextTime, UNet2DConditionModel, UNetConfig,
};
use diffusion::ops::{CpuOptions, Device, Tensor};
use diffusion::weights::Weights;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde::Deserialize;
use serde_json::Value;
use support::formula::{Component, tensor};

#[derive(Deserialize)]
struct Goldens {
    text_encoders: BTreeMap<String, TextEncoder>,
    unets: BTreeMap<String, UNet>,
    autoencoders: BTreeMap<String, AutoencoderCase>,
}

#[derive(Deserialize)]
struct TextEncoder {
    config: Value,
    tensors: BTreeMap<String, Vec<usize>>,
    ids: Vec<Vec<u32>>,
    penultimate: Vec<f32>,
    last: Vec<f32>,
    pooled: Vec<f32>,
}

#[derive(Deserialize)]
struct UNet {
    config: Value,
    tensors: BTreeMap<String, Vec<usize>>,
    height: usize,
    width: usize,
    timestep: f64,
    out: Vec<f32>,
}

#[derive(Deserialize)]
struct AutoencoderCase {
    config: Value,
    tensors: BTreeMap<String, Vec<usize>>,
    height: usize,
    width: usize,
    mean: Option<Vec<f32>>,
    std: Option<Vec<f32>>,
    latents: Option<Vec<f32>>,
    decoded: Vec<f32>,
}

fn networks() -> Goldens {
    let text = fs::read_to_string(support::goldens().join("networks.json")).expect("networks.json is there");
    serde_json::from_str(&text).expect("networks.json is as make_network_goldens.py writes it")
}

fn component(topology: &str) -> Component {
    let json = serde_json::json!({ "topology": topology, "gains": [], "fnv1a": "" });
    serde_json::from_value(json).expect("a component without gains")
}

/// A safetensors file of all tensors but those that `keep` turns down, renamed by it.
fn weights(name: &str, shapes: &BTreeMap<String, Vec<usize>>, keep: impl Fn(&str) -> Option<String>) -> Weights {
    let component = component(&format!("networks.{name}"));
    let data: Vec<(String, &Vec<usize>, Vec<u8>)> = shapes
        .iter()
        .filter_map(|(full, shape)| {
            let bytes = tensor(&component, full, shape).into_iter().flat_map(f32::to_le_bytes).collect();
            Some((keep(full)?, shape, bytes))
        })
        .collect();
    let views = data.iter().map(|(full, shape, bytes)| {
        (full, TensorView::new(Dtype::F32, shape.to_vec(), bytes).expect("bytes are as long as the shape says"))
    });
    let bytes = serialize(views, None).expect("tensors serialize");
    Weights::from_bytes(name, bytes.leak()).expect("what was just written opens")
}

fn all(name: &str) -> Option<String> {
    Some(name.to_owned())
}

fn input(name: &str, what: &str, count: usize) -> Vec<f32> {
    tensor(&component(&format!("networks.{name}.input")), what, &[count, 1])
}

/// As a share of the largest number: what some twenty layers make of products that are right to 2^-16.
const TOLERANCE: f32 = 1e-4;

fn check(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        assert!(error <= tolerance * largest, "{what} at {i}: {found}, expected {expected}");
    }
}

fn refused<T, E: std::fmt::Display>(result: Result<T, E>, expected: &str) {
    let error = result.err().expect(expected).to_string();
    assert!(error.contains(expected), "{error}");
}

fn cpu() -> Device {
    Device::cpu(CpuOptions { threads: Some(2), low_memory: false, ..CpuOptions::default() }).expect("threads")
}

/// Every device that is built, and how far its outputs may be from diffusers', of the largest number: float32 rounds
/// differently in another order of sums, and half precision keeps three digits. (In bfloat16 candle's processor cannot convolve.)
fn devices() -> Vec<(Device, f32)> {
    vec![
        (cpu(), TOLERANCE),
        #[cfg(feature = "candle")]
        (Device::candle_cpu(diffusion::weights::Dtype::F32).expect("candle has a CPU"), TOLERANCE),
        #[cfg(feature = "candle")]
        (Device::candle_cpu(diffusion::weights::Dtype::F16).expect("candle has a CPU"), 2e-2),
    ]
}

/// Every case on every device.
fn each<T>(cases: &BTreeMap<String, T>) -> impl Iterator<Item = ((&String, &T), (Device, f32))> {
    cases.iter().flat_map(|case| devices().into_iter().map(move |device| (case, device)))
}

fn text_encoder(name: &str, case: &TextEncoder, weights: &Weights, device: &Device, tolerance: f32) {
    let config = ClipTextConfig::parse(&case.config.to_string(), name).expect("a config");
    let model = ClipTextModel::load(&config, weights, device).expect("the weights fit");
    assert_eq!(weights.unused(), [""; 0], "{name}");
    let out = model.forward(&case.ids.concat(), case.ids.len()).expect("ids in the vocabulary");
    let host = |tensor: &Tensor| tensor.to_host().expect("a CPU downloads");
    let penultimate = out.hidden_state_from_end(2).expect("more than one layer");
    check(&format!("{name} penultimate"), &host(penultimate), &case.penultimate, tolerance);
    check(&format!("{name} last"), &host(&out.last_hidden_state), &case.last, tolerance);
    check(&format!("{name} pooled"), &host(&out.pooled), &case.pooled, tolerance);
    let normed = model.final_layer_norm(out.hidden_state_from_end(1).expect("a layer")).expect("a CPU computes");
    check(&format!("{name} normed"), &host(&normed), &case.last, tolerance);
}

#[test]
fn text_encoders_equal_transformers() {
    for (name, case) in &networks().text_encoders {
        let bare = |full: &str| Some(full.strip_prefix("text_model.").unwrap_or(full).to_owned());
        for (device, tolerance) in devices() {
            text_encoder(name, case, &weights(name, &case.tensors, all), &device, tolerance);
            text_encoder(name, case, &weights(name, &case.tensors, bare), &device, tolerance);
        }
    }
}

#[test]
fn unets_equal_diffusers() {
    let networks = networks();
    for ((name, case), (device, tolerance)) in each(&networks.unets) {
        let config = UNetConfig::parse(&case.config.to_string(), name).expect("a config");
        let weights = weights(name, &case.tensors, all);
        let unet = UNet2DConditionModel::load(&config, &weights, &device).expect("the weights fit");
        assert_eq!(weights.unused(), [""; 0], "{name}");

        let hidden_states = input(name, "encoder_hidden_states", 2 * 3 * 12);
        let hidden_states = Tensor::from_host(&device, &hidden_states, &[2, 3, 12]).expect("a CPU uploads");
        let (pooled, time_ids) = (input(name, "pooled", 20), [48., 40., 0., 8., 48., 40., 64., 40., 16., 0., 48., 40.]);
        let timestep_cond = config.time_cond_proj_dim.map(|width| input(name, "timestep_cond", 2 * width));
        let conditioning = Conditioning {
            encoder_hidden_states: &hidden_states,
            text_time: config
                .addition_embed_type
                .is_some()
                .then_some(TextTime { pooled: &pooled, time_ids: &time_ids }),
            timestep_cond: timestep_cond.as_deref(),
        };
        let context = unet.prepare_context(&conditioning).expect("the conditioning fits");
        let sample = input(name, "sample", 2 * config.in_channels * case.height * case.width);
        for _ in 0..2 {
            let out = unet.forward(&sample, case.height, case.width, case.timestep, &context);
            check(name, &out.expect("a CPU computes"), &case.out, tolerance);
        }
    }
}

#[test]
fn autoencoders_equal_diffusers() {
    let networks = networks();
    for ((name, case), (device, tolerance)) in each(&networks.autoencoders) {
        let weights = weights(name, &case.tensors, all);
        let autoencoder =
            Autoencoder::load(&case.config.to_string(), name, &weights, &device).expect("the weights fit");
        assert_eq!(weights.unused(), [""; 0], "{name}");
        let space = autoencoder.latent_space();
        assert_eq!(space.factor, 4, "{name}");

        let (height, width) = (4 * case.height, 4 * case.width);
        let image = input(name, "image", 2 * 3 * height * width);
        match autoencoder.encode(&image, 2, height, width).expect("a CPU computes") {
            Encoded::Gaussian { mean, std } => {
                check(&format!("{name} mean"), &mean, case.mean.as_deref().expect("a mean"), tolerance);
                check(&format!("{name} std"), &std, case.std.as_deref().expect("a standard deviation"), tolerance);
            }
            Encoded::Latents(latents) => {
                check(&format!("{name} latents"), &latents, case.latents.as_deref().expect("latents"), tolerance);
            }
        }
        let latents = input(name, "latents", 2 * space.channels * case.height * case.width);
        let decoded = autoencoder.decode(&latents, 2, case.height, case.width).expect("a CPU computes");
        check(&format!("{name} decoded"), &decoded, &case.decoded, tolerance);
    }
}

/// Autoencoders from before diffusers 0.18 call the projections of attention otherwise.
#[test]
fn an_autoencoder_with_the_old_names_is_the_same() {
    let goldens = networks();
    let (name, case) = goldens.autoencoders.get_key_value("autoencoder-kl").expect("a case");
    let names = [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")];
    let old = |full: &str| Some(names.iter().fold(full.to_owned(), |name, (new, old)| name.replace(new, old)));
    let weights = weights(name, &case.tensors, old);
    let autoencoder = Autoencoder::load(&case.config.to_string(), name, &weights, &cpu()).expect("old names are read");
    let latents = input(name, "latents", 2 * 4 * case.height * case.width);
    let decoded = autoencoder.decode(&latents, 2, case.height, case.width).expect("a CPU computes");
    check("decoded", &decoded, &case.decoded, TOLERANCE);
}

#[test]
fn a_missing_tensor_is_named() {
    let goldens = networks();
    let (name, case) = goldens.unets.get_key_value("unet-convolutions").expect("a case");
    let config = UNetConfig::parse(&case.config.to_string(), name).expect("a config");
    for missing in ["time_embedding.linear_1.bias", "up_blocks.1.attentions.1.transformer_blocks.0.ff.net.2.weight"] {
        let weights = weights(name, &case.tensors, |full| (full != missing).then(|| full.to_owned()));
        let error = UNet2DConditionModel::load(&config, &weights, &cpu()).expect_err("a tensor is missing");
        assert_eq!(error.to_string(), format!("tensor {missing} is missing in {name}"));
    }
}

#[test]
fn a_config_of_another_model_is_an_error_and_no_panic() {
    let goldens = networks();
    let (name, case) = goldens.unets.get_key_value("unet-convolutions").expect("a case");
    let weights = weights(name, &case.tensors, all);
    for (key, value) in [
        ("norm_num_groups", Value::from(0)),
        ("norm_num_groups", Value::from(5)),
        ("attention_head_dim", Value::from(3)),
        ("attention_head_dim", Value::from(0)),
        ("block_out_channels", serde_json::json!([8, 16, 32])),
        ("cross_attention_dim", Value::from(768)),
        ("layers_per_block", Value::from(3)),
    ] {
        let mut config = case.config.clone();
        config[key] = value.clone();
        let config = UNetConfig::parse(&config.to_string(), name).expect("it is a config");
        assert!(UNet2DConditionModel::load(&config, &weights, &cpu()).is_err(), "{key} = {value}");
    }
}

#[test]
fn what_does_not_fit_the_network_is_refused() {
    let goldens = networks();
    let (name, case) = goldens.unets.get_key_value("unet-text-time").expect("a case");
    let config = UNetConfig::parse(&case.config.to_string(), name).expect("a config");
    let device = cpu();
    let unet = UNet2DConditionModel::load(&config, &weights(name, &case.tensors, all), &device).expect("weights");
    let hidden_states = |width: usize| Tensor::from_host(&device, &vec![0.0; 3 * width], &[1, 3, width]);
    let prepare = |width, text_time, timestep_cond| {
        let hidden_states = hidden_states(width).expect("a CPU uploads");
        let conditioning = Conditioning { encoder_hidden_states: &hidden_states, text_time, timestep_cond };
        unet.prepare_context(&conditioning)
    };
    let (pooled, time_ids) = ([0.0; 10], [0.0; 6]);
    let text_time = Some(TextTime { pooled: &pooled, time_ids: &time_ids });
    refused(prepare(13, text_time, None), "encoder_hidden_states has shape [1, 3, 13]");
    refused(prepare(12, None, None), "text_time is missing");
    refused(prepare(12, Some(TextTime { pooled: &pooled[1..], time_ids: &time_ids }), None), "text_time makes 45");
    refused(prepare(12, Some(TextTime { pooled: &[], time_ids: &[] }), None), "text_time makes 0");
    refused(prepare(12, text_time, Some(&[0.0; 4])), "timestep_cond has 4 numbers");
    let context = prepare(12, text_time, None).expect("everything fits");
    let forward = |count: usize, height, width| unet.forward(&vec![0.0; count], height, width, 1.0, &context);
    refused(forward(4 * 5 * 6 - 1, 5, 6), "sample has 119 numbers");
    refused(forward(0, 0, 6), "sample has 0 numbers");
    assert!(forward(4, 1, 1).is_ok(), "a single pixel is small, but a picture");

    let (name, case) = goldens.text_encoders.get_key_value("clip-quick-gelu").expect("a case");
    let config = ClipTextConfig::parse(&case.config.to_string(), name).expect("a config");
    let model = ClipTextModel::load(&config, &weights(name, &case.tensors, all), &device).expect("weights");
    let forward = |ids: &[u32], batch| model.forward(ids, batch);
    refused(forward(&[1, 24], 1), "prompt has token 24, but the text encoder's vocabulary has 24");
    refused(forward(&[1; 10], 1), "prompt has 10 token ids in 1 rows");
    refused(forward(&[1; 9], 2), "prompt has 9 token ids in 2 rows");
    refused(forward(&[], 0), "prompt has 0 token ids");

    let (name, case) = goldens.autoencoders.get_key_value("autoencoder-tiny").expect("a case");
    let tiny = Autoencoder::load(&case.config.to_string(), name, &weights(name, &case.tensors, all), &device);
    let tiny = tiny.expect("weights");
    refused(tiny.encode(&[0.0; 3 * 4 * 6], 1, 4, 6), "image is 6 x 4; sides must be multiples of 4");
    refused(tiny.decode(&[0.0; 3], 1, 1, 1), "latents has 3 numbers");
}

/// The model that is shipped: its convolutions are wide enough to be transformed.
#[test]
fn the_memory_of_weights_is_foreseen() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-scenes"));
    let mut taken = Vec::new();
    for low_memory in [false, true] {
        let options = CpuOptions { threads: Some(2), low_memory, ..CpuOptions::default() };
        let bytes = [Device::planner(options), Device::cpu(options).expect("threads")].map(|device| {
            ["unet", "vae"].map(|part| {
                let config = fs::read_to_string(folder.join(part).join("config.json")).expect("a config");
                let weights = Weights::open(&folder.join(part), "diffusion_pytorch_model").expect("weights");
                let network: Box<dyn std::any::Any> = if part == "unet" {
                    let config = UNetConfig::parse(&config, part).expect("a config");
                    Box::new(UNet2DConditionModel::load(&config, &weights, &device).expect("the weights fit"))
                } else {
                    Box::new(Autoencoder::load(&config, part, &weights, &device).expect("the weights fit"))
                };
                while device.pack_some().expect("the files are there") {}
                let bytes = device.weight_bytes() as f64;
                drop(network);
                assert_eq!(device.weight_bytes(), 0);
                bytes
            })
        });
        let [foreseen, loaded] = bytes;
        assert_eq!(foreseen, loaded);
        taken.extend(loaded);
    }
    assert!(taken[0] >= 2.0 * taken[2] && taken[1] >= 2.0 * taken[3], "{taken:?}");
}

/// Two steps, because the first may have given a small tensor what the second needs for a large one.
#[test]
fn a_denoising_loop_soon_asks_the_system_for_no_more_memory() {
    let goldens = networks();
    let (name, case) = goldens.unets.get_key_value("unet-convolutions").expect("a case");
    let config = UNetConfig::parse(&case.config.to_string(), name).expect("a config");
    let device = cpu();
    let unet = UNet2DConditionModel::load(&config, &weights(name, &case.tensors, all), &device).expect("weights");
    let hidden_states = Tensor::from_host(&device, &[0.5; 36], &[1, 3, 12]).expect("a CPU uploads");
    let conditioning = Conditioning { encoder_hidden_states: &hidden_states, text_time: None, timestep_cond: None };
    let context = unet.prepare_context(&conditioning).expect("the conditioning fits");
    let step = || {
        unet.forward(&[0.5; 4 * 16 * 16], 16, 16, 500.0, &context).expect("a CPU computes");
        device.memory()
    };
    step();
    let second = step();
    assert!(second.idle > 0);
    for _ in 0..3 {
        assert_eq!(step(), second);
    }
    drop(context);
    drop(hidden_states);
    device.trim();
    assert_eq!((device.memory().in_use, device.memory().idle), (0, 0));
}
