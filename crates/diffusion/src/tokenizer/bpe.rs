//! Byte pair encoding of one word: neighbours become one token, the pair of the lowest rank first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// The mark of a word's last part.
pub(super) const END_OF_WORD: &str = "</w>";

/// A vocabulary as encoding needs it: no strings, only numbers.
#[derive(Debug)]
pub(super) struct Bpe {
    /// The token of each byte inside a word.
    pub(super) inner: [Option<u32>; 256],
    /// The token of each byte at a word's end.
    pub(super) last: [Option<u32>; 256],
    /// Two tokens to the rank of their merge and the token that they become.
    pub(super) merges: HashMap<(u32, u32), (u32, u32)>,
    /// Stands for a byte that the vocabulary lacks; without one such a byte is dropped.
    pub(super) unknown: Option<u32>,
}

#[derive(Clone, Copy)]
struct Symbol {
    token: u32,
    previous: usize,
    next: usize,
    alive: bool,
}

const NONE: usize = usize::MAX;

impl Bpe {
    /// Appends the tokens of a word. A heap of candidate merges keeps the time at O(n log n).
    pub(super) fn encode(&self, word: &[u8], ids: &mut Vec<u32>) {
        let last = word.len().wrapping_sub(1);
        let tokens =
            word.iter().enumerate().map(|(i, &byte)| if i == last { self.last } else { self.inner }[usize::from(byte)]);
        let tokens: Vec<u32> = tokens.filter_map(|token| token.or(self.unknown)).collect();
        let count = tokens.len();
        let symbol = |(i, token): (usize, u32)| Symbol {
            token,
            previous: i.checked_sub(1).unwrap_or(NONE),
            next: if i + 1 < count { i + 1 } else { NONE },
            alive: true,
        };
        let mut symbols: Vec<Symbol> = tokens.into_iter().enumerate().map(symbol).collect();
        let candidate = |symbols: &[Symbol], at: usize| {
            let next = symbols.get(symbols[at].next)?;
            let &(rank, merged) = self.merges.get(&(symbols[at].token, next.token))?;
            Some(Reverse((rank, at, merged)))
        };
        let mut queue: BinaryHeap<_> = (0..count).filter_map(|at| candidate(&symbols, at)).collect();
        while let Some(Reverse((_, at, merged))) = queue.pop() {
            let Symbol { token, next, alive, .. } = symbols[at];
            if !alive || next == NONE {
                continue;
            }
            // A merge beside this one may have changed the pair since it was queued.
            if self.merges.get(&(token, symbols[next].token)).is_none_or(|&(_, now)| now != merged) {
                continue;
            }
            let after = symbols[next].next;
            symbols[next].alive = false;
            symbols[at].token = merged;
            symbols[at].next = after;
            if after != NONE {
                symbols[after].previous = at;
            }
            if symbols[at].previous != NONE {
                queue.extend(candidate(&symbols, symbols[at].previous));
            }
            queue.extend(candidate(&symbols, at));
        }
        ids.extend(symbols.iter().filter(|symbol| symbol.alive).map(|symbol| symbol.token));
    }
}

/// The character that stands for each byte in a vocabulary: itself where it prints, else one from 256 up.
/// <https://github.com/openai/CLIP/blob/main/clip/simple_tokenizer.py> `bytes_to_unicode`
pub(super) fn byte_chars() -> [char; 256] {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = (256u32..).filter_map(char::from_u32);
    let mut chars = ['\0'; 256];
    for byte in 0..=255u8 {
        chars[usize::from(byte)] =
            if prints(byte) { char::from(byte) } else { others.next().expect("there are more than 68 characters") };
    }
    chars
}

/// Bytes in the order in which CLIP's vocabulary counts them: those that print, then the others.
pub(super) fn bytes_in_order() -> Vec<u8> {
    let chars = byte_chars();
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.sort_by_key(|&byte| chars[usize::from(byte)]);
    bytes
}
