//! From the bytes that tokens stand for to text that can be shown.

/// Text as it is written: whole characters only, nothing after a stop word, and nothing that may yet become one.
#[derive(Debug, Default)]
pub struct Writer {
    text: String,
    /// The beginning of a character whose end has not come.
    tail: Vec<u8>,
    /// Bytes of the text that were taken.
    taken: usize,
    stop: Vec<String>,
    /// What begins a part of the text that is not shown, where it may stand, and where it stands.
    hidden: Option<Hidden>,
}

#[derive(Debug)]
struct Hidden {
    trigger: String,
    only_at_start: bool,
    begins: Option<usize>,
}

/// What a piece of text came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It goes on.
    More,
    /// With this piece the hidden part began; so many bytes of the text came after its trigger.
    Hiding(usize),
    /// A stop word was written; the text ends before it.
    Stopped,
}

impl Writer {
    /// Text that ends before any of `stop`.
    pub fn new(stop: Vec<String>) -> Self {
        Self { stop, ..Self::default() }
    }

    /// The same, where what follows `trigger` is not shown; with `only_at_start` only when nothing but white space
    /// comes before it.
    #[must_use]
    pub fn hiding(mut self, trigger: &str, only_at_start: bool) -> Self {
        self.hidden = Some(Hidden { trigger: trigger.to_owned(), only_at_start, begins: None });
        self
    }

    /// The same, hidden from the beginning: the trigger was written already.
    #[must_use]
    pub fn hidden_at_once(mut self) -> Self {
        if let Some(hidden) = &mut self.hidden {
            hidden.begins = Some(0);
            hidden.trigger.clear();
        }
        self
    }

    /// Adds what a token stands for.
    pub fn push(&mut self, piece: &[u8]) -> Written {
        let before = self.text.len();
        self.tail.extend_from_slice(piece);
        self.decode();
        if self.is_hiding() {
            return Written::More;
        }
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        let from = floor_char(&self.text, before.saturating_sub(longest));
        let found = self.stop.iter().filter_map(|word| self.text[from..].find(&**word)).min();
        let found = found.map(|place| from + place);
        if let Some(hidden) = &mut self.hidden {
            let from = floor_char(&self.text, before.saturating_sub(hidden.trigger.len()));
            let place = self.text[from..].find(&*hidden.trigger).map(|place| from + place);
            let may = |place: &usize| !hidden.only_at_start || self.text[..*place].trim().is_empty();
            if let Some(place) = place.filter(may).filter(|place| found.is_none_or(|stop| *place < stop)) {
                hidden.begins = Some(place);
                return Written::Hiding(self.text.len() - place - hidden.trigger.len());
            }
        }
        if let Some(place) = found {
            self.text.truncate(place);
            self.tail.clear();
            return Written::Stopped;
        }
        Written::More
    }

    /// What can be shown and was not taken yet.
    pub fn take(&mut self) -> &str {
        let until = self.shown().saturating_sub(self.held()).max(self.taken);
        let until = floor_char(&self.text, until).max(self.taken);
        let from = std::mem::replace(&mut self.taken, until);
        &self.text[from..until]
    }

    /// The end: what was held back, or hidden and yet is no part to hide, is text as any other.
    pub fn finish(&mut self, keep_hidden: bool) -> &str {
        if !keep_hidden {
            self.hidden = None;
        }
        let until = self.shown();
        let from = std::mem::replace(&mut self.taken, until).min(until);
        &self.text[from..until]
    }

    /// All of the text that is shown.
    pub fn text(&self) -> &str {
        &self.text[..self.shown()]
    }

    /// What was written after the trigger.
    pub fn hidden_text(&self) -> Option<&str> {
        let hidden = self.hidden.as_ref()?;
        Some(&self.text[hidden.begins? + hidden.trigger.len()..])
    }

    fn is_hiding(&self) -> bool {
        self.hidden.as_ref().is_some_and(|hidden| hidden.begins.is_some())
    }

    fn shown(&self) -> usize {
        self.hidden.as_ref().and_then(|hidden| hidden.begins).unwrap_or(self.text.len())
    }

    /// Bytes at the end that may be the beginning of a stop word, or of a hidden part.
    fn held(&self) -> usize {
        if self.is_hiding() {
            return 0;
        }
        let triggers = self.hidden.iter().map(|hidden| &hidden.trigger);
        let words = self.stop.iter().chain(triggers);
        words.map(|word| overlap(self.text.as_bytes(), word.as_bytes())).max().unwrap_or(0)
    }

    /// Moves whole characters from the tail to the text. Bytes that are none become U+FFFD.
    fn decode(&mut self) {
        let mut rest = &*self.tail;
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.text.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(wrong) = error.error_len() else { break };
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[wrong..];
                }
            }
        }
        self.tail = rest.to_vec();
    }
}

/// The length of the longest end of `text` that is a beginning of `word`, but not all of it.
fn overlap(text: &[u8], word: &[u8]) -> usize {
    let longest = word.len().saturating_sub(1).min(text.len());
    (1..=longest).rev().find(|length| text.ends_with(&word[..*length])).unwrap_or(0)
}

fn floor_char(text: &str, mut place: usize) -> usize {
    while !text.is_char_boundary(place) {
        place -= 1;
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Everything that is taken while `pieces` come, whether a stop word came, and the whole text.
    fn written(pieces: &[&[u8]], stop: &[&str]) -> (Vec<String>, bool, String) {
        let mut writer = Writer::new(stop.iter().map(|word| (*word).to_owned()).collect());
        let mut taken = Vec::new();
        let mut stopped = false;
        for piece in pieces {
            stopped = writer.push(piece) == Written::Stopped;
            taken.push(writer.take().to_owned());
            if stopped {
                break;
            }
        }
        taken.push(writer.finish(false).to_owned());
        (taken, stopped, writer.text().to_owned())
    }

    #[test]
    fn a_stop_word_in_pieces_is_never_shown() {
        let (taken, stopped, text) = written(&[b"one ", b"E", b"N", b"D two"], &["END"]);
        assert_eq!((taken.join("|"), stopped, &*text), ("one ||||".to_owned(), true, "one "));
        let (taken, stopped, text) = written(&[b"one ", b"E", b"N", b"d two"], &["END"]);
        assert_eq!((taken.join("|"), stopped, &*text), ("one |||ENd two|".to_owned(), false, "one ENd two"));
        let (_, stopped, text) = written(&[b"a\n\nb"], &["\n\n", "\n"]);
        assert_eq!((stopped, &*text), (true, "a"));
    }

    #[test]
    fn what_was_held_back_is_shown_at_the_end() {
        let (taken, stopped, text) = written(&[b"one EN"], &["END"]);
        assert_eq!((taken, stopped, &*text), (vec!["one ".to_owned(), "EN".to_owned()], false, "one EN"));
    }

    #[test]
    fn characters_are_shown_whole() {
        let sea = "\u{1F30A} \u{e9}".as_bytes();
        let (taken, _, text) = written(&sea.chunks(1).collect::<Vec<_>>(), &[]);
        assert_eq!(taken.concat(), "\u{1F30A} \u{e9}");
        assert_eq!(text, "\u{1F30A} \u{e9}");
        let (_, _, text) = written(&[b"a\xFFb", b"\xF0\x9F"], &[]);
        assert_eq!(text, "a\u{FFFD}b", "what is no character is marked, half of one at the end is left out");
    }

    #[test]
    fn a_hidden_part_is_not_shown_and_kept() {
        let mut writer = Writer::new(vec!["x".to_owned()]).hiding("<call>", false);
        assert_eq!(writer.push(b"Well <ca"), Written::More);
        assert_eq!(writer.take(), "Well ");
        assert_eq!(writer.push(b"ll>{x"), Written::Hiding(2));
        assert_eq!(writer.push(b"}"), Written::More);
        assert_eq!(writer.take(), "");
        assert_eq!(writer.hidden_text(), Some("{x}"));
        assert_eq!(writer.finish(true), "");
        assert_eq!(writer.text(), "Well ");
        let mut writer = Writer::new(Vec::new()).hiding("{", true);
        assert_eq!(writer.push(b"a {"), Written::More);
        assert_eq!(writer.push(b"b"), Written::More);
        assert_eq!(writer.take(), "a {b");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_stop_word_shown(
            pieces in prop::collection::vec(prop::collection::vec(prop::sample::select(b"ab\xC3\xA9".to_vec()), 0..4), 0..12),
            stop in prop::collection::vec("[ab]{1,3}", 0..3),
        ) {
            let words: Vec<&str> = stop.iter().map(String::as_str).collect();
            let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let (taken, stopped, text) = written(&slices, &words);
            prop_assert_eq!(taken.concat(), text.clone());
            for word in &words {
                prop_assert!(!text.contains(word));
            }
            let whole = String::from_utf8_lossy(&pieces.concat()).into_owned();
            if stopped {
                prop_assert!(words.iter().any(|word| whole.contains(word)));
            } else if words.is_empty() {
                prop_assert!(whole.starts_with(&*text));
            }
        }
    }
}
