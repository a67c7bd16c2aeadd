use super::Protocol;
use std::io::IsTerminal;

/// A terminal that can draw pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terminal {
    pub(super) protocol: Protocol,
    pub(super) columns: u16,
    pub(super) cell_width: u16,
}

impl Terminal {
    /// What standard output is, where it is a terminal that can draw.
    ///
    /// Variables of the terminal decide first; a terminal that sets none is asked, and gets a moment to answer.
    pub(crate) fn detect() -> Option<Self> {
        let stdout = std::io::stdout();
        if !stdout.is_terminal() {
            return None;
        }
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let protocol = protocol_by_environment(variable).or_else(|| protocol_by_reply(&ask()?))?;
        let (columns, cell_width) = size();
        Some(Self { protocol, columns, cell_width })
    }

    pub(super) fn width_in_pixels(&self) -> u32 {
        u32::from(self.columns) * u32::from(self.cell_width)
    }
}

fn protocol_by_environment(variable: impl Fn(&str) -> String) -> Option<Protocol> {
    let (term, program) = (variable("TERM"), variable("TERM_PROGRAM"));
    // A multiplexer inherits the variables of the terminal that it was started in, but draws for itself.
    if !variable("TMUX").is_empty() || term.starts_with("screen") || term.starts_with("tmux") {
        return None;
    }
    if term == "xterm-kitty" || term == "xterm-ghostty" || !variable("KITTY_WINDOW_ID").is_empty() {
        return Some(Protocol::Kitty);
    }
    if matches!(program.as_str(), "iTerm.app" | "WezTerm" | "vscode") || variable("LC_TERMINAL") == "iTerm2" {
        return Some(Protocol::Iterm2);
    }
    None
}

/// Reads what a terminal answered to [`ask`].
fn protocol_by_reply(reply: &str) -> Option<Protocol> {
    if reply.contains("_Gi=31;OK") {
        return Some(Protocol::Kitty);
    }
    // Primary device attributes: `ESC [ ? 62 ; 4 ; 22 c`; attribute 4 is sixel graphics.
    let (_, attributes) = reply.split_once("\x1b[?")?;
    let (attributes, _) = attributes.split_once('c')?;
    attributes.split(';').skip(1).any(|attribute| attribute == "4").then_some(Protocol::Sixel)
}

#[cfg(unix)]
fn ask() -> Option<String> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
    use std::io::{Read, Write};
    use std::time::{Duration, Instant};

    let mut tty = std::fs::File::options().read(true).write(true).open("/dev/tty").ok()?;
    let before = tcgetattr(&tty).ok()?;
    let mut raw = before.clone();
    raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    raw.special_codes[SpecialCodeIndex::VMIN] = 0;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(&tty, OptionalActions::Now, &raw).ok()?;

    // A query of kitty's protocol, then one that every terminal answers: its answer ends the waiting.
    let mut reply = Vec::new();
    let deadline = Instant::now() + Duration::from_millis(400);
    if tty.write_all(b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[c").is_ok() {
        let complete = |reply: &[u8]| reply.windows(3).any(|part| part == b"\x1b[?") && reply.ends_with(b"c");
        while !complete(&reply) && reply.len() < 1024 {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
            let mut ready = [PollFd::new(&tty, PollFlags::IN)];
            if left.is_zero() || poll(&mut ready, Some(&timeout)).is_ok_and(|count| count == 0) {
                break;
            }
            let mut bytes = [0; 256];
            match tty.read(&mut bytes) {
                Ok(0) | Err(_) => break,
                Ok(count) => reply.extend_from_slice(&bytes[..count]),
            }
        }
    }
    let _ = tcsetattr(&tty, OptionalActions::Flush, &before);
    Some(String::from_utf8_lossy(&reply).into_owned())
}

#[cfg(not(unix))]
fn ask() -> Option<String> {
    None
}

/// Columns, and the width of a cell in pixels; terminals that do not tell have cells of about 8 pixels.
#[cfg(unix)]
fn size() -> (u16, u16) {
    let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdout()) else { return (80, 8) };
    let columns = if size.ws_col == 0 { 80 } else { size.ws_col };
    (columns, if size.ws_xpixel >= columns { size.ws_xpixel / columns } else { 8 })
}

#[cfg(not(unix))]
fn size() -> (u16, u16) {
    (80, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Option<Protocol> {
        protocol_by_environment(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()).unwrap_or_default()
        })
    }

    #[test]
    fn terminals_are_known_by_their_variables() {
        assert_eq!(environment(&[("TERM", "xterm-kitty")]), Some(Protocol::Kitty));
        assert_eq!(environment(&[("TERM_PROGRAM", "iTerm.app")]), Some(Protocol::Iterm2));
        assert_eq!(environment(&[("TERM", "xterm-256color")]), None);
        assert_eq!(environment(&[("TERM", "tmux-256color"), ("KITTY_WINDOW_ID", "1")]), None);
    }

    #[test]
    fn terminals_are_known_by_their_answer() {
        assert_eq!(protocol_by_reply("\x1b_Gi=31;OK\x1b\\\x1b[?62;c"), Some(Protocol::Kitty));
        assert_eq!(protocol_by_reply("\x1b[?62;4;22c"), Some(Protocol::Sixel));
        // xterm without sixel: 64 is its level, 4 alone would be the attribute.
        assert_eq!(protocol_by_reply("\x1b[?64;1;2;6c"), None);
        assert_eq!(protocol_by_reply("\x1b[?4c"), None, "the first number is the terminal's class");
        assert_eq!(protocol_by_reply(""), None);
    }
}
