use proptest::prelude::*;
use safetensors::tensor::Dtype as Type;
use tempfile::TempDir;

use super::{STEM, model, safetensors};
use crate::Error;
use crate::weights::Weights;

/// A file from a header as it stands and so many bytes of data.
fn raw(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

fn open_bytes(bytes: &[u8]) -> Result<Weights, String> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(format!("{STEM}.safetensors"));
    std::fs::write(&path, bytes).unwrap();
    let opened = Weights::open(folder.path(), STEM).map_err(|error| error.to_string());
    if let Err(message) = &opened {
        assert!(message.contains(path.to_str().unwrap()), "the file is not named: {message}");
    }
    opened
}

#[track_caller]
fn check_refused(bytes: &[u8], expect: &str) {
    let message = open_bytes(bytes).expect_err("must be refused");
    assert!(message.contains(expect), "{message:?} does not say {expect:?}");
}
#[test]
fn an_index_that_leaves_the_folder_or_lies_is_refused() {
    let check = |json: &str, expect: &str| {
        let folder = TempDir::new().unwrap();
        std::fs::copy(model("vae").join(format!("{STEM}.safetensors")), folder.path().join("a.safetensors")).unwrap();
        std::fs::write(folder.path().join(format!("{STEM}.safetensors.index.json")), json).unwrap();
        let message = Weights::open(folder.path(), STEM).unwrap_err().to_string();
        assert!(message.contains(expect), "{message:?} does not say {expect:?}");
    };
    check(r#"{"weight_map":{"x":"../a.safetensors"}}"#, "names ../a.safetensors; shards must be");
    check(r#"{"weight_map":{"x":"/etc/passwd"}}"#, "names /etc/passwd; shards must be");
    check(r#"{"weight_map":{"x":"..\\a.safetensors"}}"#, "shards must be");
    check(r#"{"weight_map":{"x":"a.txt"}}"#, "shards must be");
    check(r#"{"weight_map":{"x":"a.bin"}}"#, "a.bin: is a pickle file");
    check(r#"{"weight_map":{"x":"a.safetensors"}}"#, "tensor x is missing in ");
    check(r#"{"weight_map":{}}"#, "lists no tensors");
    check("[", "is not an index of weights");
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let whole = std::fs::read(model("text_encoder/model.safetensors")).unwrap();
    check_refused(&[], "has only 0 bytes");
    check_refused(&whole[..7], "has only 7 bytes");
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for cut in [8, 9, header / 2, header - 1] {
        check_refused(&whole[..cut], "is truncated; download it again: its header");
    }
    for cut in [header, header + 1, whole.len() / 3, whole.len() - 1] {
        check_refused(&whole[..cut], "is truncated: tensor text_model.");
    }
    let mut longer = whole;
    longer.extend_from_slice(b"tail");
    check_refused(&longer, "4 bytes at its end belong to no tensor");
}

#[test]
fn a_hostile_header_is_refused_before_it_costs_anything() {
    check_refused(&raw("", 0).iter().map(|_| 0xff).collect::<Vec<u8>>(), "is not a safetensors file: its header");
    check_refused(&[&100_000_001u64.to_le_bytes()[..], b"{}"].concat(), "is not a safetensors file: its header");
    check_refused(
        &[&99_999_999u64.to_le_bytes()[..], b"{}"].concat(),
        "is truncated; download it again: its header would have 99999999 bytes",
    );
    check_refused(b"PK\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00", "is a pickle file under another name");
    check_refused(&raw("", 0), "has a broken header");
    check_refused(&raw("\u{1}", 0), "has a broken header");
    check_refused(&raw(&"[".repeat(100_000), 0), "has a broken header");
    check_refused(
        &raw(&r#"{"__metadata__":"#.chars().chain("[".repeat(100_000).chars()).collect::<String>(), 0),
        "has a broken header",
    );
    check_refused(&raw(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4), "tensor a: invalid value");
    check_refused(&raw(r#"{"a":{"dtype":"F32","shape":[1]}}"#, 4), "tensor a: missing field");
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    check_refused(
        &raw(&one("F32", "[4294967296,4294967296,4]", "[0,0]"), 0),
        "tensor a has 0 bytes, which F32 of shape",
    );
    check_refused(&raw(&one("F32", "[2]", "[0,4]"), 4), "tensor a has 4 bytes, which F32 of shape [2] has not");
    check_refused(&raw(&one("F32", "[1]", "[4,0]"), 4), "4 bytes before tensor a belong to none");
    check_refused(&raw(&one("F32", "[1]", "[4,8]"), 8), "4 bytes before tensor a belong to none");
    check_refused(&raw(&one("NEW", "[1]", "[0,18446744073709551615]"), 8), "is truncated: tensor a ends");
    let two = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[OFFSET]}}"#;
    check_refused(&raw(&two.replace("OFFSET", "2,6"), 8), "tensor b overlaps a");
    check_refused(&raw(&two.replace("OFFSET", "0,4"), 8), "tensor b overlaps a");
    check_refused(&raw(&two.replace("\"b\"", "\"a\"").replace("OFFSET", "4,8"), 8), "tensor a is there twice");
    check_refused(
        &raw(&one("F32", "[1]", "[0,4]").replace("\"a\"", "\"\\u001b[2J\""), 3),
        "tensor \\u{1b}[2J ends 1 bytes",
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes of a whole file are changed, cut out and put in; what still opens is read without harm.
    #[test]
    fn a_damaged_file_is_read_or_refused(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
        near_the_start in any::<bool>(),
    ) {
        let tensors: [(&str, Type, &[usize], &[u8]); 2] = [("a", Type::F32, &[2, 2], &[1; 16]), ("b", Type::F16, &[3], &[2; 6])];
        let mut file = safetensors(&tensors);
        for (place, byte, how) in damage {
            // The length of the header is where a wrong byte does most.
            let reach = if near_the_start { file.len().min(16) } else { file.len() };
            let at = place.index(reach.max(1)).min(file.len());
            match how {
                0 if at < file.len() => file[at] ^= byte,
                1 if at < file.len() => drop(file.remove(at)),
                2 => file.insert(at, byte),
                _ => file.truncate(at),
            }
        }
        if let Ok(weights) = open_bytes(&file) {
            for (name, _, shape, _) in tensors {
                if let Ok(tensor) = weights.get(name, shape) {
                    prop_assert_eq!(tensor.to_f32().len(), shape.iter().product::<usize>());
                }
            }
        }
    }
}

#[test]
fn a_type_that_nobody_knows_only_matters_when_it_is_asked_for() {
    let header =
        r#"{"a":{"dtype":"Q9","shape":[7],"data_offsets":[0,5]},"b":{"dtype":"F32","shape":[],"data_offsets":[5,9]}}"#;
    let weights = open_bytes(&raw(header, 9)).unwrap();
    assert_eq!(weights.get("b", &[]).unwrap().to_f32(), [0.0]);
    assert!(weights.get("a", &[7]).unwrap_err().to_string().contains("tensor a has type Q9"));
}

#[test]
fn pickles_and_empty_folders_are_refused_with_what_to_do() {
    let folder = TempDir::new().unwrap();
    let message = Weights::open(folder.path(), STEM).unwrap_err().to_string();
    assert!(message.contains("has no diffusion_pytorch_model.safetensors"), "{message}");
    for name in ["diffusion_pytorch_model.bin", "model.CKPT", "model.pt"] {
        let path = folder.path().join(name);
        std::fs::write(&path, b"PK\x03\x04").unwrap();
        for result in [Weights::open(folder.path(), STEM), Weights::open_file(&path)] {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("safe_serialization=True"), "{message}");
        }
        std::fs::remove_file(&path).unwrap();
    }
    assert!(matches!(Weights::open(&folder.path().join("absent"), STEM), Err(Error::Io { .. })));
    std::fs::create_dir(folder.path().join(format!("{STEM}.safetensors"))).unwrap();
    assert!(Weights::open(folder.path(), STEM).unwrap_err().to_string().contains("is not a file"));
}

#[cfg(unix)]
#[test]
fn a_file_behind_a_link_is_read_and_one_that_shrinks_is_noticed() {
    let folder = TempDir::new().unwrap();
    let blob = folder.path().join("blob");
    std::fs::write(&blob, safetensors(&[("a", Type::F32, &[2], &[0; 8])])).unwrap();
    std::os::unix::fs::symlink(&blob, folder.path().join("model.safetensors")).unwrap();
    let weights = Weights::open(folder.path(), "model").unwrap();
    assert_eq!(weights.get("a", &[2]).unwrap().to_f32(), [0.0; 2]);
    std::fs::File::options().write(true).open(&blob).unwrap().set_len(4).unwrap();
    let message = weights.get("a", &[2]).unwrap_err().to_string();
    assert!(message.contains("was changed while it was read") && message.contains("now 4"), "{message}");
}
