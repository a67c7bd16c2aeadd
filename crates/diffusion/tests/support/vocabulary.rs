//! CLIP's vocabulary as the `vocab.json` and `merges.txt` of a diffusers folder, from the merges that the crate has built in.

use std::fs;
use std::path::Path;

/// Writes both files into a tokenizer's folder.
pub(crate) fn write(folder: &Path) {
    let merges = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tokenizer/clip_merges.bin");
    let merges = fs::read(merges).expect("the built-in merges are there");
    let mut tokens = byte_characters();
    tokens.extend(tokens.clone().iter().map(|token| format!("{token}</w>")));
    let mut lines = String::from("#version: 0.2\n");
    for pair in merges.chunks_exact(4) {
        let token = |at: usize| &tokens[usize::from(u16::from_le_bytes([pair[at], pair[at + 1]]))];
        let (a, b) = (token(0).clone(), token(2).clone());
        lines += &format!("{a} {b}\n");
        tokens.push(a + &b);
    }
    tokens.extend(["<|startoftext|>".to_owned(), "<|endoftext|>".to_owned()]);
    let vocab: serde_json::Map<String, serde_json::Value> =
        tokens.into_iter().zip(0u32..).map(|(token, id)| (token, id.into())).collect();
    let vocab = serde_json::to_string(&vocab).expect("tokens are text");
    fs::write(folder.join("vocab.json"), vocab).expect("writes vocab.json");
    fs::write(folder.join("merges.txt"), lines).expect("writes merges.txt");
}

/// The character that stands for each byte, in the order of their ids: printable bytes first, the others from 256 on.
fn byte_characters() -> Vec<String> {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut characters: Vec<u32> = (0..256).filter(printable).collect();
    characters.extend(256..512 - characters.len() as u32);
    characters.into_iter().map(|code| char::from_u32(code).expect("below the surrogates").to_string()).collect()
}
