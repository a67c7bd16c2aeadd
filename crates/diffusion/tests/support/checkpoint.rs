//! Small models as checkpoints: their tensors in one file, under the original names of `goldens/original`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::f16;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

use super::formula::tensor;
use super::goldens;
use super::small_models::{tensors_of, weights_file};

/// A file's tensors by name: shape and values.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// What a small model's checkpoint has, as the released model's of its kind; also what those have and nobody needs.
pub(crate) fn tensors(kind: &str) -> Tensors {
    let weights = weights_file();
    let mut tensors = Tensors::new();
    for (part, id) in &weights.kinds[kind] {
        let root = match (kind, part.as_str()) {
            (_, "unet") => "model.diffusion_model",
            (_, "vae") => "first_stage_model",
            ("sd15" | "sd15-inpaint" | "lcm", _) => "cond_stage_model.transformer",
            ("sd21" | "sd21-inpaint", _) => "cond_stage_model.model",
            ("turbo", _) => "conditioner.embedders.0.model",
            (_, "text_encoder") => "conditioner.embedders.0.transformer",
            _ => "conditioner.embedders.1.model",
        };
        let component = &weights.components[id];
        // CLIP's own names are those of transformers.
        let list = if root.ends_with("transformer") { None } else { Some(original_names(&component.topology)) };
        for (index, (name, shape)) in tensors_of(component).into_iter().enumerate() {
            let values = tensor(component, &name, &shape);
            let line = match &list {
                None => name,
                Some(_) if name == "time_embedding.cond_proj.weight" => "time_embed.cond_proj.weight".to_owned(),
                Some(list) => list[index].clone(),
            };
            let (original, what) = line.split_once(' ').unwrap_or((&line, ""));
            add(&mut tensors, format!("{root}.{original}"), what, shape, values);
        }
        if root.ends_with(".model") {
            let layer: Tensors = tensors
                .iter()
                .filter_map(|(name, tensor)| {
                    Some((
                        name.strip_prefix(root)?.strip_prefix(".transformer.resblocks.2.")?.to_owned(),
                        tensor.clone(),
                    ))
                })
                .collect();
            if part == "text_encoder" {
                tensors.extend(
                    layer.into_iter().map(|(name, tensor)| (format!("{root}.transformer.resblocks.3.{name}"), tensor)),
                );
                tensors.insert(format!("{root}.text_projection"), (vec![64, 64], vec![0.5; 64 * 64]));
            }
            tensors.insert(format!("{root}.logit_scale"), (vec![], vec![4.6]));
        }
    }
    for name in ["betas", "model_ema.decay", "model_ema.diffusion_modelout0weight"] {
        tensors.insert(name.to_owned(), (vec![1], vec![0.5]));
    }
    tensors
}

/// Writes a checkpoint.
pub(crate) fn write(tensors: &Tensors, half: bool, path: &Path) {
    let stored: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            let bytes = if half {
                values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
            } else {
                values.iter().flat_map(|value| value.to_le_bytes()).collect()
            };
            (name, shape, bytes)
        })
        .collect();
    let dtype = if half { Dtype::F16 } else { Dtype::F32 };
    let views = stored.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(dtype, (*shape).clone(), bytes).expect("as many values as the shape says"))
    });
    serialize_to_file(views, None, path).expect("writes a checkpoint");
}

/// The lines of `tools/reference/make_checkpoint_goldens.py`, in the order of the topology's tensors.
fn original_names(topology: &str) -> Vec<String> {
    let list = fs::read_to_string(goldens().join(format!("original/{topology}.txt"))).expect("a topology has its list");
    list.lines().map(str::to_owned).collect()
}

fn add(tensors: &mut Tensors, name: String, what: &str, mut shape: Vec<usize>, values: Vec<f32>) {
    let values = match what {
        "" => values,
        "conv" => {
            shape.extend([1, 1]);
            values
        }
        "T" => {
            let (rows, columns) = (shape[0], shape[1]);
            shape.reverse();
            (0..rows * columns).map(|at| values[at % rows * columns + at / rows]).collect()
        }
        third => {
            let third: usize = third.parse().expect("a third has a number");
            shape[0] *= 3;
            let length = values.len();
            let whole = tensors.entry(name).or_insert_with(|| (shape, vec![f32::NAN; 3 * length]));
            whole.1[third * length..(third + 1) * length].copy_from_slice(&values);
            return;
        }
    };
    tensors.insert(name, (shape, values));
}
