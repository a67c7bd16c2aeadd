use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{CHUNK, ClipTokenizer, Files, clip_files};

/// Written by `tools/reference/tokenizer.py` from transformers.
#[derive(Deserialize)]
struct Golden {
    name: String,
    vocabulary: String,
    files: std::collections::HashMap<String, String>,
    special: [u32; 3],
    cases: Vec<(String, Vec<u32>)>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn tiny() -> Files {
    Files::read(&root().join("../../models/tiny-scenes/tokenizer")).unwrap()
}

fn clip() -> Files {
    let (vocab, merges) = clip_files();
    Files { vocab: Some(vocab), merges: Some(merges), ..Files::default() }
}

/// `TOKENIZER_GOLDENS` names another file of goldens, for a comparison over more texts than are committed.
#[test]
fn the_tokens_are_those_of_transformers() {
    let path =
        std::env::var_os("TOKENIZER_GOLDENS").map_or_else(|| root().join("tests/goldens/tokenizer.json"), Into::into);
    let goldens: Vec<Golden> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (mut texts, mut wrong) = (0, 0);
    let clip = clip();
    for golden in goldens {
        let base = if golden.vocabulary == "clip" { clip.clone() } else { tiny() };
        let text = |name: &str| golden.files.get(name).cloned();
        let tokenizer = ClipTokenizer::from_files(&Files {
            config: text("tokenizer_config.json"),
            special_tokens_map: text("special_tokens_map.json"),
            added_tokens: text("added_tokens.json"),
            ..base
        });
        let tokenizer = tokenizer.unwrap();
        assert_eq!([tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()], golden.special, "{}", golden.name);
        for (text, ids) in &golden.cases {
            texts += 1;
            let found = tokenizer.encode(text);
            if found != *ids {
                wrong += 1;
                eprintln!("{}: {text:?}\n  here   {found:?}\n  theirs {ids:?}", golden.name);
            }
        }
    }
    assert_eq!(wrong, 0, "of {texts} texts");
}

#[test]
fn the_built_in_vocabulary_is_that_of_its_files() {
    for pad in ["<|endoftext|>", "!"] {
        let map = format!(r#"{{"pad_token":"{pad}"}}"#);
        let files = ClipTokenizer::from_files(&Files { special_tokens_map: Some(map), ..clip() }).unwrap();
        let built_in = ClipTokenizer::clip(pad);
        assert_eq!(files.bpe.inner, built_in.bpe.inner);
        assert_eq!(files.bpe.last, built_in.bpe.last);
        assert_eq!(files.bpe.merges, built_in.bpe.merges);
        assert_eq!((built_in.vocab_size(), built_in.bos_id(), built_in.eos_id()), (49408, 49406, 49407));
        assert_eq!((files.vocab_size(), files.pad_id()), (49408, built_in.pad_id()));
        assert_eq!(files.encode("a cat! <|endoftext|>"), built_in.encode("a cat! <|endoftext|>"));
    }
}

#[test]
fn long_prompts_come_in_rows_that_each_begin_end_and_are_padded() {
    let tokenizer = ClipTokenizer::clip("!");
    let (bos, eos, pad) = (49406, 49407, 0);
    let check = |words: usize, count: usize, expect: &[usize]| {
        let text = "cat ".repeat(words);
        let rows = tokenizer.chunks(&text, count);
        assert_eq!(rows.len(), expect.len().max(tokenizer.chunk_count(&text)));
        for (row, &length) in rows.iter().zip(expect) {
            let mut wanted = vec![bos];
            wanted.extend(vec![2368; length]);
            wanted.push(eos);
            wanted.resize(CHUNK, pad);
            assert_eq!(row[..], wanted);
        }
    };
    check(0, 0, &[0]);
    check(0, 2, &[0, 0]);
    check(1, 1, &[1]);
    check(75, 1, &[75]);
    check(76, 1, &[75, 1]);
    check(76, 4, &[75, 1, 0, 0]);
    check(150, 0, &[75, 75]);
}

#[test]
fn a_saved_tokenizer_json_is_enough() {
    let files = tiny();
    let vocab: serde_json::Value = serde_json::from_str(files.vocab.as_ref().unwrap()).unwrap();
    let lines: Vec<&str> = files.merges.as_ref().unwrap().lines().skip(1).collect();
    let pairs: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    let reference = ClipTokenizer::from_files(&files).unwrap();
    for merges in [serde_json::json!(lines), serde_json::json!(pairs)] {
        let json = serde_json::json!({
            "added_tokens": [{"id": 0, "content": "!", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
            "model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocab, "merges": merges},
        });
        let alone = Files { vocab: None, merges: None, tokenizer: Some(json.to_string()), ..files.clone() };
        let alone = ClipTokenizer::from_files(&alone).unwrap();
        assert_eq!(
            alone.encode("a red circle on a blue background"),
            reference.encode("a red circle on a blue background")
        );
        assert_eq!(alone.encode("!!"), [0, 0], "its added tokens hold");
    }
}

#[test]
fn broken_files_are_named() {
    let check = |files: Files, expect: &str| {
        let message = ClipTokenizer::from_files(&Files { folder: "t".into(), ..files }).unwrap_err().to_string();
        assert!(message.starts_with(expect), "{message:?} does not start with {expect:?}");
    };
    let merges = |text: &str| Files { merges: Some(text.to_owned()), ..tiny() };
    let map = |text: &str| Files { special_tokens_map: Some(text.to_owned()), ..tiny() };
    check(Files::default(), "t/vocab.json: is missing");
    check(Files { merges: None, ..tiny() }, "t/merges.txt: is missing");
    check(Files { vocab: Some("[1]".into()), ..tiny() }, "t/vocab.json: is not what a CLIP tokenizer has there");
    check(
        Files { vocab: Some(r#"{"a":-1}"#.into()), ..tiny() },
        "t/vocab.json: is not what a CLIP tokenizer has there",
    );
    check(merges("#version: 0.2\nu n\na b c\n"), "t/merges.txt: line 3 is not two tokens");
    check(merges("zz qq"), "t/merges.txt: has \"zz\", which the vocabulary lacks");
    check(map(r#"{"pad_token":"[PAD]"}"#), "t/vocab.json: has no token \"[PAD]\", which is the pad_token");
    check(map(r#"{"pad_token":7}"#), "t/special_tokens_map.json: is not what");
    let json = r#"{"model":{"type":"WordPiece","vocab":{},"merges":[]}}"#;
    check(Files { vocab: None, tokenizer: Some(json.into()), ..tiny() }, "t/tokenizer.json: is not CLIP's");
    assert!(ClipTokenizer::open(Path::new("/nonexistent")).is_err());
}

#[test]
fn a_byte_that_the_vocabulary_lacks_is_unknown() {
    let files = Files {
        vocab: Some(r#"{"a":0,"a</w>":1,"<|startoftext|>":2,"<|endoftext|>":3}"#.into()),
        merges: Some(String::new()),
        ..Files::default()
    };
    // As transformers' BPE with `fuse_unk` false.
    assert_eq!(ClipTokenizer::from_files(&files).unwrap().encode("aba bb"), [0, 3, 1, 3, 3]);
}

/// The longest prompt that a request may have, as one word: an algorithm that looks at every pair for each merge would need minutes.
#[test]
fn the_longest_word_takes_no_time() {
    let tokenizer = ClipTokenizer::clip("<|endoftext|>");
    for unit in ["a", "ab", "!", "the", "漢", "\u{301}", "\u{1100}", "'s", "<|endoftext|>", "<|", "\u{f71}\u{f72}"] {
        let text = unit.repeat((64 << 10) / unit.len());
        let start = Instant::now();
        let ids = tokenizer.encode(&text);
        assert!(!ids.is_empty());
        assert!(start.elapsed() < Duration::from_secs(1), "{unit:?} took {:?}", start.elapsed());
    }
}
