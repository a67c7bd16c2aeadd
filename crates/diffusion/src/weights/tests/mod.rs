mod hostile;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype as Type, TensorView as View, serialize};
use safetensors::{SafeTensors, serialize_to_file};
use tempfile::TempDir;

use super::{Dtype, Weights};

const STEM: &str = "diffusion_pytorch_model";

fn model(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-scenes").join(part)
}

/// Copies one network of the small model under other names and shapes.
fn rename(from: &Path, to: &Path, change: impl Fn(&str, &[usize]) -> Option<(String, Vec<usize>)>) {
    let bytes = std::fs::read(from).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let renamed = tensors.iter().filter_map(|(name, view)| {
        let (name, shape) = change(name, view.shape())?;
        Some((name, View::new(view.dtype(), shape, view.data()).unwrap()))
    });
    serialize_to_file(renamed.collect::<Vec<_>>(), None, to).unwrap();
}

/// Every tensor of `names` (as the untouched file has them) must be readable with the same bytes and leave nothing unused.
fn same_tensors(plain: &Weights, other: &Weights, names: &[String]) {
    for name in names {
        let shape = plain.shape(name).unwrap().to_vec();
        assert!(other.has(name), "{name}");
        assert_eq!(plain.get(name, &shape).unwrap().bytes, other.get(name, &shape).unwrap().bytes, "{name}");
    }
    assert_eq!(other.unused(), Vec::<String>::new());
}

fn old_attention(name: &str) -> String {
    let mut name = name.to_owned();
    for (new, old) in [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")] {
        name = name.replace(&format!("attentions.0.{new}."), &format!("attentions.0.{old}."));
    }
    name
}

fn safetensors(tensors: &[(&str, Type, &[usize], &[u8])]) -> Vec<u8> {
    let views =
        tensors.iter().map(|(name, dtype, shape, bytes)| (*name, View::new(*dtype, shape.to_vec(), bytes).unwrap()));
    serialize(views, None).unwrap()
}

#[test]
fn a_part_reads_like_the_checkpoint_and_counts_what_is_used() {
    let weights = Weights::open(&model("vae"), STEM).unwrap();
    let attention = weights.pp("decoder").pp("mid_block").pp("attentions").pp(0);
    assert_eq!(attention.path("to_q"), "decoder.mid_block.attentions.0.to_q");
    let query = attention.pp("to_q");
    let view = query.get("weight", &[96, 96]).unwrap();
    assert_eq!((view.dtype, view.bytes.len()), (Dtype::F16, 96 * 96 * 2));
    let unused = attention.unused();
    assert!(unused.contains(&"decoder.mid_block.attentions.0.to_k.weight".to_owned()));
    assert!(!unused.contains(&"decoder.mid_block.attentions.0.to_q.weight".to_owned()));
    assert!(attention.names().contains(&"to_out.0.bias".to_owned()));
    assert!(weights.pp("decoder.mid").names().is_empty(), "a part is whole path segments");
}

#[test]
fn the_old_names_of_the_autoencoders_attention_are_read() {
    let folder = TempDir::new().unwrap();
    let plain = Weights::open(&model("vae"), STEM).unwrap();
    let source = model("vae").join(format!("{STEM}.safetensors"));
    let matrix = |name: &str, shape: &[usize]| name.contains("attentions") && shape.len() == 2;
    for convolutions in [false, true] {
        rename(&source, &folder.path().join(format!("{STEM}.safetensors")), |name, shape| {
            let ones = if convolutions && matrix(name, shape) { &[1, 1][..] } else { &[] };
            Some((old_attention(name), [shape, ones].concat()))
        });
        let old = Weights::open(folder.path(), STEM).unwrap();
        assert!(old.names().iter().any(|name| name.ends_with("attentions.0.proj_attn.weight")));
        same_tensors(&plain, &old, &plain.names());
    }
}

#[test]
fn text_encoders_are_read_with_and_without_their_prefix_and_with_position_ids() {
    let folder = TempDir::new().unwrap();
    let plain = Weights::open(&model("text_encoder"), "model").unwrap();
    let file = folder.path().join("model.safetensors");
    rename(&model("text_encoder/model.safetensors"), &file, |name, shape| {
        Some((name.strip_prefix("text_model.").unwrap().to_owned(), shape.to_vec()))
    });
    let bare = Weights::open(folder.path(), "model").unwrap();
    same_tensors(&plain, &bare, &plain.names());
    same_tensors(&bare, &plain, &bare.names());

    let ids: Vec<u8> = (0..77i64).flat_map(i64::to_le_bytes).collect();
    let bytes = std::fs::read(&file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut views: Vec<(String, View)> =
        tensors.iter().map(|(name, view)| (format!("text_model.{name}"), view)).collect();
    views.push(("text_model.embeddings.position_ids".to_owned(), View::new(Type::I64, vec![1, 77], &ids).unwrap()));
    serialize_to_file(views, None, &file).unwrap();
    same_tensors(&plain, &Weights::open(folder.path(), "model").unwrap(), &plain.names());
}

#[test]
fn shards_and_half_precision_names_are_found() {
    let source = model("vae").join(format!("{STEM}.safetensors"));
    let plain = Weights::open(&model("vae"), STEM).unwrap();
    for (shard, index) in [
        ("diffusion_pytorch_model", "diffusion_pytorch_model.safetensors.index.json"),
        ("diffusion_pytorch_model.fp16", "diffusion_pytorch_model.safetensors.index.fp16.json"),
        ("diffusion_pytorch_model.fp16", "diffusion_pytorch_model.fp16.safetensors.index.json"),
    ] {
        let folder = TempDir::new().unwrap();
        let names = [1, 2].map(|n| format!("{shard}-0000{n}-of-00002.safetensors"));
        let place = |name: &str| usize::from(!name.starts_with("decoder"));
        for (n, file) in names.iter().enumerate() {
            rename(&source, &folder.path().join(file), |name, shape| {
                (place(name) == n).then(|| (name.to_owned(), shape.to_vec()))
            });
        }
        let map: HashMap<String, String> =
            plain.names().into_iter().map(|name| (name.clone(), names[place(&name)].clone())).collect();
        let json = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
        std::fs::write(folder.path().join(index), json.to_string()).unwrap();
        same_tensors(&plain, &Weights::open(folder.path(), STEM).unwrap(), &plain.names());

        std::fs::remove_file(folder.path().join(&names[1])).unwrap();
        let message = Weights::open(folder.path(), STEM).unwrap_err().to_string();
        assert!(message.contains(index) && message.contains(&names[1]) && message.contains("missing"), "{message}");
    }
    let folder = TempDir::new().unwrap();
    std::fs::copy(&source, folder.path().join(format!("{STEM}.fp16.safetensors"))).unwrap();
    same_tensors(&plain, &Weights::open(folder.path(), STEM).unwrap(), &plain.names());
}

#[test]
fn two_shards_with_one_tensor_need_an_index_that_decides() {
    let folder = TempDir::new().unwrap();
    for (file, value) in [("a.safetensors", 1f32), ("b.safetensors", 2f32)] {
        std::fs::write(folder.path().join(file), safetensors(&[("x", Type::F32, &[1], &value.to_le_bytes())])).unwrap();
    }
    let index = folder.path().join(format!("{STEM}.safetensors.index.json"));
    std::fs::write(&index, r#"{"weight_map":{"x":"b.safetensors"}}"#).unwrap();
    let weights = Weights::open(folder.path(), STEM).unwrap();
    assert_eq!(weights.get("x", &[1]).unwrap().to_f32(), [2.0]);
}

#[test]
fn what_is_missing_misshapen_or_of_another_type_is_named_with_its_file() {
    let bytes = safetensors(&[("a.w", Type::F32, &[2, 3], &[0; 24]), ("a.q", Type::I8, &[4], &[0; 4])]);
    let weights = Weights::from_bytes("built-in model", bytes.leak()).unwrap().pp("a");
    assert_eq!(weights.get("b", &[1]).unwrap_err().to_string(), "tensor a.b is missing in built-in model");
    let message = weights.get("w", &[3, 2]).unwrap_err().to_string();
    assert_eq!(message, "tensor a.w in built-in model has shape [2, 3], expected [3, 2]");
    let message = weights.get("q", &[4]).unwrap_err().to_string();
    assert!(
        message.starts_with("built-in model: tensor a.q has type I8; weights must be F32, F16 or BF16"),
        "{message}"
    );
    assert_eq!(weights.unused(), ["a.q", "a.w"]);
}

#[test]
fn every_type_widens_exactly_wherever_it_lies() {
    let values = [1.5f32, -0.25, 3.0e-5, 65504.0];
    let f16: Vec<u8> = values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
    let bf16: Vec<u8> = values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect();
    let f32: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    // A byte before the file moves every tensor to an odd address, as in a program's read-only data.
    let file = safetensors(&[
        ("f32", Type::F32, &[4], &f32),
        ("f16", Type::F16, &[4], &f16),
        ("bf16", Type::BF16, &[4], &bf16),
    ]);
    for offset in 0..4 {
        let mut moved = vec![0; offset];
        moved.extend_from_slice(&file);
        let weights = Weights::from_bytes("m", &moved.leak()[offset..]).unwrap();
        assert_eq!(weights.get("f32", &[4]).unwrap().to_f32(), values);
        assert_eq!(weights.get("f16", &[4]).unwrap().to_f32(), values.map(|v| half::f16::from_f32(v).to_f32()));
        assert_eq!(weights.get("bf16", &[4]).unwrap().to_f32(), values.map(|v| half::bf16::from_f32(v).to_f32()));
    }
}
