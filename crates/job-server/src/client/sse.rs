/// One event as it came over the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RawEvent {
    /// What `Last-Event-ID` will repeat.
    pub(super) id: Option<u64>,
    /// The lines of `data:`, joined by newlines.
    pub(super) data: String,
}

/// Cuts a stream of bytes into events, as <https://html.spec.whatwg.org/multipage/server-sent-events.html> says.
/// The name of an event is not kept: `type` inside the data repeats it.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    id: Option<u64>,
    data: String,
    has_data: bool,
    after_carriage_return: bool,
}

/// An event that grew beyond any limit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Bytes that one event may have: a picture of 2048 × 2048 pixels in base64 has less than a tenth of it.
const EVENT_BYTES: usize = 256 << 20;

impl Parser {
    /// Takes the next bytes and hands every event that they complete to `each`.
    pub(super) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(RawEvent)) -> Result<(), TooLong> {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n' || byte == b'\r') {
            let (line, end) = match piece.split_last() {
                Some((end @ (b'\n' | b'\r'), line)) => (line, Some(*end)),
                _ => (piece, None),
            };
            let second_half_of_crlf = std::mem::take(&mut self.after_carriage_return) && piece == b"\n";
            if second_half_of_crlf {
                continue;
            }
            if self.line.len() + self.data.len() + line.len() > EVENT_BYTES {
                return Err(TooLong);
            }
            self.line.extend_from_slice(line);
            if let Some(end) = end {
                self.after_carriage_return = end == b'\r';
                if let Some(event) = self.end_line() {
                    each(event);
                }
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Option<RawEvent> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let event = RawEvent { id: self.id.take(), data: std::mem::take(&mut self.data) };
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = value.parse().ok(),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // Comments have an empty field; `event` and `retry` say nothing that is needed.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(pieces: &[&str]) -> Vec<RawEvent> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.push(piece.as_bytes(), |event| events.push(event)).unwrap();
        }
        events
    }

    fn event(id: u64, data: &str) -> RawEvent {
        RawEvent { id: Some(id), data: data.to_owned() }
    }

    #[test]
    fn every_kind_of_line_end_is_understood() {
        let expected = [event(1, "a"), event(2, "b\nc")];
        for end in ["\n", "\r\n", "\r"] {
            let text = format!(
                "id: 1{end}event: x{end}data: a{end}{end}: still here{end}{end}id:2{end}data:b{end}data:c{end}{end}"
            );
            assert_eq!(parse(&[&text]), expected, "{end:?}");
            let bytes: Vec<String> = text.chars().map(String::from).collect();
            let pieces: Vec<&str> = bytes.iter().map(String::as_str).collect();
            assert_eq!(parse(&pieces), expected, "{end:?} byte by byte");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever a server sends, and however the network cuts it, it is read without harm and always alike.
        #[test]
        fn where_it_is_cut_does_not_matter(
            lines in prop::collection::vec("(id|data|event|retry|)?:? ?\\PC{0,8}(\r|\n|\r\n){1,2}", 0..12),
            noise in prop::collection::vec(any::<u8>(), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = [lines.concat().as_bytes(), &noise].concat();
            let read = |pieces: &[&[u8]]| {
                let (mut parser, mut events) = (Parser::default(), Vec::new());
                for piece in pieces {
                    parser.push(piece, |event| events.push(event)).unwrap();
                }
                events
            };
            let at = cut.index(bytes.len() + 1);
            prop_assert_eq!(read(&[&bytes]), read(&[&bytes[..at], &bytes[at..]]));
        }
    }

    #[test]
    fn what_is_cut_off_is_no_event() {
        assert_eq!(parse(&["id: 1\ndata: a\n"]), []);
        assert_eq!(parse(&["data: caf", "é\n\n"]), [RawEvent { id: None, data: "café".to_owned() }]);
    }
}
