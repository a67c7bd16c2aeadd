//! Which files of a repository are needed: one set of weights for each part, and what is read beside them.

use crate::source::{Precision, ending, is_pickle};
use operations_contract::ModelKind;
use serde_json::Value;
use std::collections::BTreeMap;

/// A file that a repository or a folder lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its path with `/`.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// The sum by which it is checked.
    pub digest: Option<Digest>,
}

/// How the hub names the content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Digest {
    /// Large files, in Git LFS.
    Sha256(String),
    /// Small ones: SHA-1 over a header and the content, as git does it.
    GitBlob(String),
}

/// The files that are needed, and what they are together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection {
    pub kind: ModelKind,
    pub files: Vec<Listed>,
}

/// The file by which a folder in diffusers' layout is known.
pub(crate) const MODEL_INDEX: &str = "model_index.json";

/// Parts of a pipeline that no worker computes.
const UNUSED: [&str; 4] = ["safety_checker", "feature_extractor", "image_encoder", "watermarker"];
/// How the files of weights begin, as diffusers and transformers name them.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];
/// The variant with 16 bits.
const FP16: &str = "fp16";

/// The files of a folder in diffusers' layout: for each part that `index`, its `model_index.json`, names, the configs and
/// one set of safetensors; a part that has none of the wanted precision gives the other.
pub(crate) fn diffusers(index: &[u8], files: &[Listed], precision: Precision) -> Result<Selection, String> {
    let parts = parts(index)?;
    let mut chosen: Vec<Listed> = files.iter().filter(|file| file.path == MODEL_INDEX).cloned().collect();
    for part in &parts {
        let inside: Vec<&Listed> =
            files.iter().filter(|file| file.path.rsplit_once('/').is_some_and(|(folder, _)| folder == part)).collect();
        if inside.is_empty() {
            return Err(format!("its {MODEL_INDEX} names {part}, and there is no such folder"));
        }
        let weights = weights(&inside, precision);
        if weights.is_empty() && has_weights(part, &inside) {
            return Err(format!(
                "its {part} has no whole set of safetensors; pickle files can run any program and are refused, so look for \
                 a repository with safetensors"
            ));
        }
        let described = inside.into_iter().filter(|file| is_description(&file.path));
        chosen.extend(described.cloned().chain(weights));
    }
    chosen.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Selection { kind: ModelKind::ImageFolder, files: chosen })
}

/// One file of a repository by its path, or by its name where that is enough; with its other shards where it is one.
pub(crate) fn file(files: &[Listed], wanted: &str) -> Result<Selection, String> {
    let kind = match ending(wanted).as_str() {
        "safetensors" => ModelKind::ImageFile,
        "gguf" => ModelKind::Language,
        _ => return Err(format!("{wanted} is neither a .safetensors nor a .gguf file")),
    };
    let exact = files.iter().find(|file| file.path == wanted);
    let named: Vec<&Listed> = files.iter().filter(|file| file.path.rsplit('/').next() == Some(wanted)).collect();
    let found = match (exact, &named[..]) {
        (Some(found), _) => found,
        (None, [found]) => *found,
        (None, []) => {
            let of_kind: Vec<&Listed> = files.iter().filter(|file| ending(&file.path) == ending(wanted)).collect();
            return Err(format!("it has no {wanted}; {}", listed(&of_kind)));
        }
        (None, several) => return Err(format!("it has several files {wanted}; {}", listed(several))),
    };
    let chosen = match shard(&found.path) {
        Some(shard) => shards(&files.iter().collect::<Vec<_>>(), &shard)
            .ok_or_else(|| format!("{} is one of {} shards, and not all of them are there", found.path, shard.count))?,
        None => vec![found.clone()],
    };
    Ok(Selection { kind, files: chosen })
}

/// The one model of a repository that is no folder in diffusers' layout, where there is only one.
pub(crate) fn only(files: &[Listed]) -> Result<Selection, String> {
    let first = |file: &&Listed| shard(&file.path).is_none_or(|shard| shard.number == 1);
    let of = |kind: &str| files.iter().filter(|file| ending(&file.path) == kind).filter(first).collect::<Vec<_>>();
    let texts: Vec<&Listed> = of("gguf").into_iter().filter(|file| !file.path.contains("mmproj")).collect();
    let checkpoints: Vec<&Listed> = of("safetensors").into_iter().filter(|file| !file.path.contains('/')).collect();
    // A config beside a checkpoint says that it is a part of something else.
    let bare = !files.iter().any(|file| file.path == "config.json");
    match (&texts[..], &checkpoints[..]) {
        ([one], _) => file(files, &one.path),
        ([], [one]) if bare => file(files, &one.path),
        ([], several @ [_, _, ..]) if bare => Err(format!("it has several models; {}", listed(several))),
        ([], _) => {
            let pickles = files.iter().any(|file| is_pickle(&file.path));
            let why = if pickles { "; pickle files can run any program and are refused" } else { "" };
            Err(format!("it has neither a {MODEL_INDEX} nor a .gguf file nor one .safetensors checkpoint{why}"))
        }
        (several, _) => Err(format!("it has several models; {}", listed(several))),
    }
}

/// The names of the parts that are computed.
fn parts(index: &[u8]) -> Result<Vec<String>, String> {
    let index: BTreeMap<String, Value> =
        serde_json::from_slice(index).map_err(|error| format!("its {MODEL_INDEX} cannot be read: {error}"))?;
    let named = index.into_iter().filter(|(name, part)| {
        let present = part.as_array().is_some_and(|part| part.len() == 2 && part.iter().all(Value::is_string));
        present && !name.starts_with('_') && !UNUSED.contains(&name.as_str())
    });
    let parts: Vec<String> = named.map(|(name, _)| name).collect();
    let plain = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match parts.iter().find(|name| !plain(name)) {
        Some(name) => Err(format!("its {MODEL_INDEX} names a part {name:?}")),
        None if parts.is_empty() => Err(format!("its {MODEL_INDEX} names no parts")),
        None => Ok(parts),
    }
}

/// Configs, vocabularies and merges; not the indices of shards, which come with their shards.
fn is_description(path: &str) -> bool {
    matches!(ending(path).as_str(), "json" | "txt" | "model") && !path.contains(".index.")
}

fn has_weights(part: &str, inside: &[&Listed]) -> bool {
    let network = ["unet", "vae", "text_encoder", "transformer"].iter().any(|known| part.starts_with(known));
    network || inside.iter().any(|file| ending(&file.path) == "safetensors" || is_pickle(&file.path))
}

/// One whole set of weights: the wanted precision before the other, one file before shards.
fn weights(inside: &[&Listed], precision: Precision) -> Vec<Listed> {
    let variants = match precision {
        Precision::F16 => [FP16, ""],
        Precision::F32 => ["", FP16],
    };
    let name = |file: &&Listed| file.path.rsplit('/').next().unwrap_or_default().to_owned();
    let find = |wanted: &str| inside.iter().find(|file| name(file) == wanted);
    for (variant, stem) in variants.iter().flat_map(|variant| STEMS.iter().map(move |stem| (*variant, *stem))) {
        let dotted = if variant.is_empty() { String::new() } else { format!(".{variant}") };
        if let Some(whole) = find(&format!("{stem}{dotted}.safetensors")) {
            return vec![(*whole).clone()];
        }
        let indices =
            [format!("{stem}.safetensors.index{dotted}.json"), format!("{stem}{dotted}.safetensors.index.json")];
        let Some(index) = indices.iter().find_map(|name| find(name)) else { continue };
        let first = inside.iter().filter_map(|file| shard(&file.path)).find(|shard| {
            shard.number == 1 && shard.before.rsplit('/').next() == Some(stem_of(stem, variant, shard).as_str())
        });
        if let Some(mut shards) = first.and_then(|first| shards(inside, &first)) {
            shards.push((*index).clone());
            return shards;
        }
    }
    Vec::new()
}

/// What stands before the number of a shard: diffusers has written the variant on either side of it.
fn stem_of(stem: &str, variant: &str, shard: &Shard) -> String {
    match (variant.is_empty(), shard.after.contains(variant)) {
        (true, _) if shard.after == ".safetensors" => stem.to_owned(),
        (false, false) => format!("{stem}.{variant}"),
        (false, true) if shard.after == format!(".{variant}.safetensors") => stem.to_owned(),
        _ => String::new(),
    }
}

/// `before-00001-of-00003after`
struct Shard {
    before: String,
    number: u32,
    count: u32,
    digits: usize,
    after: String,
}

fn shard(path: &str) -> Option<Shard> {
    let (left, right) = path.rsplit_once("-of-")?;
    let (before, number) = left.rsplit_once('-')?;
    let digits = number.len();
    if digits != 5 || !right.is_char_boundary(digits) || right.len() < digits {
        return None;
    }
    let (count, after) = right.split_at(digits);
    let (number, count) = (number.parse().ok()?, count.parse().ok()?);
    (1..=count).contains(&number).then(|| Shard {
        before: before.to_owned(),
        number,
        count,
        digits,
        after: after.to_owned(),
    })
}

/// All shards of a set; `None` where one is missing.
fn shards(files: &[&Listed], shard: &Shard) -> Option<Vec<Listed>> {
    let Shard { before, count, digits, after, .. } = shard;
    // As many as there are files, at most: a hostile name may claim any number.
    if *count as usize > files.len() {
        return None;
    }
    let path = |number: u32| format!("{before}-{number:0digits$}-of-{count:0digits$}{after}");
    (1..=*count).map(|number| files.iter().find(|file| file.path == path(number)).map(|file| (*file).clone())).collect()
}

fn listed(files: &[&Listed]) -> String {
    const SHOWN: usize = 8;
    if files.is_empty() {
        return "it has none of that kind".to_owned();
    }
    let mut names: Vec<&str> = files.iter().take(SHOWN).map(|file| file.path.as_str()).collect();
    if files.len() > SHOWN {
        names.push("…");
    }
    format!("name one as owner/name:FILE, of {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Vec<Listed> {
        paths.iter().map(|path| Listed { path: (*path).to_owned(), size: 1, digest: None }).collect()
    }

    fn paths(selection: Result<Selection, String>) -> Vec<String> {
        selection.unwrap().files.into_iter().map(|file| file.path).collect()
    }

    const INDEX: &[u8] = br#"{"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.6.0",
        "feature_extractor": ["transformers", "CLIPImageProcessor"], "requires_safety_checker": true,
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "PNDMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"], "image_encoder": [null, null]}"#;

    /// What the repository of Stable Diffusion 1.5 holds.
    const SD15: &[&str] = &[
        ".gitattributes",
        "README.md",
        "feature_extractor/preprocessor_config.json",
        "model_index.json",
        "safety_checker/config.json",
        "safety_checker/model.fp16.safetensors",
        "safety_checker/model.safetensors",
        "safety_checker/pytorch_model.bin",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/pytorch_model.bin",
        "text_encoder/pytorch_model.fp16.bin",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "v1-5-pruned-emaonly.safetensors",
        "v1-5-pruned.ckpt",
        "v1-5-pruned.safetensors",
        "v1-inference.yaml",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ];

    #[test]
    fn of_a_pipeline_only_what_is_needed_comes_in_one_precision() {
        let half = [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.fp16.safetensors",
            "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/vocab.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.fp16.safetensors",
        ];
        assert_eq!(paths(diffusers(INDEX, &files(SD15), Precision::F16)), half);
        let full: Vec<String> = half.iter().map(|path| path.replace(".fp16", "")).collect();
        assert_eq!(paths(diffusers(INDEX, &files(SD15), Precision::F32)), full);
        let without: Vec<&str> = SD15.iter().copied().filter(|path| *path != half[11]).collect();
        let mixed = paths(diffusers(INDEX, &files(&without), Precision::F16));
        assert!(mixed.contains(&"vae/diffusion_pytorch_model.safetensors".to_owned()), "{mixed:?}");
    }

    #[test]
    fn shards_come_all_or_not_at_all() {
        let index = br#"{"unet": ["diffusers", "UNet2DConditionModel"]}"#;
        let mut names = vec![
            "model_index.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
        ];
        let half = paths(diffusers(index, &files(&names), Precision::F16));
        assert_eq!(half.iter().filter(|path| path.contains("fp16")).count(), 3, "{half:?}");
        assert_eq!(half.len(), 5);
        let full = paths(diffusers(index, &files(&names), Precision::F32));
        assert!(full.len() == 5 && !full.iter().any(|path| path.contains("fp16")), "{full:?}");
        names.remove(6);
        assert_eq!(paths(diffusers(index, &files(&names), Precision::F16)), full, "half of the halves is missing");
        names.push("unet/diffusion_pytorch_model.safetensors");
        assert_eq!(paths(diffusers(index, &files(&names), Precision::F32)).len(), 3, "one file before shards");
    }

    #[test]
    fn a_pipeline_that_lacks_something_is_refused() {
        let check = |without: &str, said: &str| {
            let kept: Vec<&str> = SD15.iter().copied().filter(|path| !path.contains(without)).collect();
            let error = diffusers(INDEX, &files(&kept), Precision::F16).unwrap_err();
            assert!(error.contains(said), "{error}");
        };
        check("unet/", "unet");
        check("safetensors", "pickle");
        for (index, said) in
            [(&b"[]"[..], "cannot be read"), (b"{}", "names no parts"), (br#"{"../x": ["a", "b"]}"#, "../x")]
        {
            let error = diffusers(index, &files(SD15), Precision::F16).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn one_file_comes_with_its_shards() {
        let listing = files(&["q4.gguf", "big/q8-00001-of-00002.gguf", "big/q8-00002-of-00002.gguf", "README.md"]);
        assert_eq!(paths(file(&listing, "q4.gguf")), ["q4.gguf"]);
        assert_eq!(paths(file(&listing, "q8-00001-of-00002.gguf")).len(), 2);
        assert!(file(&listing, "q5.gguf").unwrap_err().contains("q4.gguf"));
        assert!(file(&listing[..2], "q8-00001-of-00002.gguf").unwrap_err().contains("shards"));
        assert!(only(&listing).unwrap_err().contains("several"));
        assert_eq!(paths(only(&listing[1..])).len(), 2);
    }

    #[test]
    fn what_holds_no_model_is_told_apart() {
        assert_eq!(paths(only(&files(&["dream.safetensors", "vae/x.safetensors"]))), ["dream.safetensors"]);
        assert!(only(&files(&["a.safetensors", "b.safetensors"])).unwrap_err().contains("several"));
        assert!(only(&files(&["model.safetensors", "config.json"])).unwrap_err().contains("neither"));
        assert!(only(&files(&["model.ckpt"])).unwrap_err().contains("pickle"));
    }
}
