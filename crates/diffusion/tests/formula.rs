//! The small models' weights are those that the references were painted with.

mod support;

use support::formula::{Checksum, tensor};
use support::small_models::{tensors_of, weights_file};

#[test]
fn every_component_has_the_bits_that_python_made() {
    // The checksums come from tools/reference/make_goldens.py.
    for (id, component) in &weights_file().components {
        let mut checksum = Checksum::new();
        for (name, shape) in tensors_of(component) {
            checksum.add(&tensor(component, &name, &shape));
        }
        assert_eq!(checksum.show(), component.fnv1a, "{id}");
    }
}

#[test]
fn a_small_model_is_a_whole_diffusers_folder() {
    use support::small_models::SmallModel;
    let model = SmallModel { kind: "sdxl-inpaint".into(), tiny_vae: true, f16: true, ..SmallModel::default() };
    let folder = model.folder();
    for file in [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "text_encoder_2/model.fp16.safetensors",
        "tokenizer_2/vocab.json",
        "tokenizer/merges.txt",
    ] {
        assert!(folder.join(file).is_file(), "{file}");
    }
    let unet = diffusion::weights::Weights::open(&folder.join("unet"), "diffusion_pytorch_model");
    let unet = unet.expect("the U-Net's weights open");
    unet.get("conv_in.weight", &[32, 9, 3, 3]).expect("nine channels");
    let tiny = diffusion::weights::Weights::open(&folder.join("vae"), "diffusion_pytorch_model");
    let tiny = tiny.expect("the autoencoder's weights open");
    assert!(tiny.has("decoder.layers.0.weight"));
    // The same file that tools/reference/kinds.py writes: 49408 tokens, the last two the special ones.
    let vocab = std::fs::read_to_string(folder.join("tokenizer/vocab.json")).expect("reads the vocabulary");
    let vocab: serde_json::Value = serde_json::from_str(&vocab).expect("the vocabulary is JSON");
    assert_eq!(vocab.as_object().map(serde_json::Map::len), Some(49408));
    assert_eq!(vocab["<|endoftext|>"], 49407);
    assert_eq!(vocab["cat</w>"], 2368);
}
