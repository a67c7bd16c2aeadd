//! What a person sees while a job runs: a bar on a terminal, lines elsewhere, always on standard error.

use indicatif::{ProgressBar, ProgressStyle};
use operations_contract::{JobEvent, Level, Phase};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Lines come at least this far apart, except where the phase changes.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Draws what happens to one job.
pub(crate) struct Progress {
    kind: Kind,
    phase: Option<Phase>,
    last_line: Option<Instant>,
    pictures: u32,
}

enum Kind {
    Bar(ProgressBar),
    Lines,
    Silent,
}

impl Progress {
    /// For a job of so many pictures; a bar where standard error is a terminal.
    pub(crate) fn new(quiet: bool, pictures: u32) -> Self {
        let kind = if quiet {
            Kind::Silent
        } else if std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb") {
            let bar = ProgressBar::new_spinner().with_style(spinner());
            bar.enable_steady_tick(Duration::from_millis(120));
            Kind::Bar(bar)
        } else {
            Kind::Lines
        };
        Self { kind, phase: None, last_line: None, pictures }
    }

    /// Says something that stays.
    pub(crate) fn note(&self, text: &str) {
        match &self.kind {
            Kind::Bar(bar) => bar.suspend(|| line(text)),
            Kind::Lines => line(text),
            Kind::Silent => {}
        }
    }

    /// Runs `draw` while nothing else is on the terminal.
    pub(crate) fn suspend<T>(&self, draw: impl FnOnce() -> T) -> T {
        match &self.kind {
            Kind::Bar(bar) => bar.suspend(draw),
            Kind::Lines | Kind::Silent => draw(),
        }
    }

    /// Says what is being done now, until something else is.
    pub(crate) fn state(&mut self, text: &str) {
        match &self.kind {
            Kind::Bar(bar) => {
                bar.set_style(spinner());
                bar.set_message(text.to_owned());
            }
            Kind::Lines => line(text),
            Kind::Silent => {}
        }
        self.phase = None;
    }

    /// Takes the bar off the terminal.
    pub(crate) fn clear(&self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }

    /// Shows an event of the job.
    pub(crate) fn event(&mut self, event: &JobEvent) {
        match event {
            JobEvent::Queued { position } => self.state(&waiting(*position)),
            JobEvent::Started { model, worker_id, attempt } => {
                let model = model.as_deref().unwrap_or("the model");
                let again = if *attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
                match (&self.kind, worker_id) {
                    (Kind::Lines, Some(worker_id)) => line(&format!("{worker_id} begins with {model}{again}")),
                    // What queen and hives do themselves has no worker, and begins at once.
                    (Kind::Lines, None) => {}
                    (Kind::Bar(_), _) => self.state(&format!("starting with {model}{again}")),
                    (Kind::Silent, _) => {}
                }
                self.phase = None;
            }
            JobEvent::Progress { step, total, phase, eta_ms, bytes_per_second } => {
                self.progress(*step, *total, *phase, &rest(*eta_ms, *bytes_per_second));
            }
            JobEvent::Narration { level, message, .. } => match level {
                Level::Debug => {}
                Level::Info => self.note(message),
                Level::Warn => self.note(&format!("warning: {message}")),
                Level::Error => self.note(&format!("error: {message}")),
            },
            JobEvent::Preview { .. }
            | JobEvent::Token { .. }
            | JobEvent::Complete(_)
            | JobEvent::Error { .. }
            | JobEvent::Cancelled {} => {}
        }
    }

    fn progress(&mut self, step: u64, total: u64, phase: Option<Phase>, rest: &str) {
        let phase = phase.unwrap_or(Phase::Denoising);
        let new_phase = self.phase.replace(phase) != Some(phase);
        let counted = total > 1;
        match &self.kind {
            Kind::Bar(bar) => {
                if new_phase {
                    bar.set_style(if counted { counting(phase) } else { spinner() });
                    bar.set_prefix(verb(phase));
                }
                if counted {
                    bar.set_length(total);
                    bar.set_position(step);
                    bar.set_message(rest.to_owned());
                } else {
                    bar.set_message(verb(phase));
                }
            }
            Kind::Lines => {
                let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY);
                let last_step = counted && step == total;
                if !(new_phase || due || last_step) {
                    return;
                }
                self.last_line = Some(Instant::now());
                if counted {
                    let rest = if step < total && !rest.is_empty() { format!(", {rest}") } else { String::new() };
                    line(&format!("{} {}{rest}", verb(phase), amount(step, total, phase)));
                } else if new_phase && self.pictures == 1 {
                    line(verb(phase));
                }
            }
            Kind::Silent => {}
        }
    }
}

/// However the following ends, by Ctrl-C or an error too, no half bar stays on the terminal.
impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn spinner() -> ProgressStyle {
    template("{spinner} {msg}")
}

/// Short of most terminals' width: behind the line is room for the `^C` that a terminal writes there. Where it wrapped, the line
/// before it would stay.
fn counting(phase: Phase) -> ProgressStyle {
    match phase {
        Phase::Downloading => template("{spinner} {prefix} {bar:32} {bytes}/{total_bytes} {msg}"),
        _ => template("{spinner} {prefix} {bar:32} {pos}/{len} {msg}"),
    }
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).expect("the templates stand above and are right").progress_chars("━╸ ")
}

fn verb(phase: Phase) -> &'static str {
    match phase {
        Phase::Downloading => "downloading the model",
        Phase::Loading => "loading the model",
        Phase::Encoding => "encoding",
        Phase::Denoising => "denoising",
        Phase::Decoding => "decoding",
    }
}

fn waiting(position: u64) -> String {
    match position {
        0 | 1 => "waiting for a worker".to_owned(),
        2 => "waiting: one job is before this one".to_owned(),
        more => format!("waiting: {} jobs are before this one", more - 1),
    }
}

fn amount(step: u64, total: u64, phase: Phase) -> String {
    match phase {
        Phase::Downloading => format!("{}/{} MiB", step >> 20, total >> 20),
        _ => format!("{step}/{total}"),
    }
}

/// How fast it goes, and how long it will take.
fn rest(eta_ms: Option<u64>, bytes_per_second: Option<u64>) -> String {
    let speed = bytes_per_second.map(|bytes| format!("{:.1} MiB/s", bytes as f64 / f64::from(1 << 20)));
    let left = eta_ms.map(|ms| format!("{} left", time(ms)));
    speed.into_iter().chain(left).collect::<Vec<_>>().join(", ")
}

/// A time to wait, no more exact than it is.
pub(crate) fn time(ms: u64) -> String {
    let seconds = ms.div_ceil(1000);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Nobody may be there to read it.
fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_people_do() {
        assert_eq!(["0 s", "1 s", "59 s"], [time(0), time(400), time(59_000)].each_ref().map(String::as_str));
        assert_eq!(time(61_000), "1 min 01 s");
        assert_eq!(time(3_660_000), "1 h 01 min");
    }

    #[test]
    fn a_download_tells_its_speed_and_what_is_left() {
        assert_eq!(rest(Some(61_000), Some(3 << 19)), "1.5 MiB/s, 1 min 01 s left");
        assert_eq!(rest(Some(400), None), "1 s left");
        assert_eq!(rest(None, None), "");
    }

    #[test]
    fn a_position_is_told_by_who_is_before() {
        assert_eq!(waiting(1), "waiting for a worker");
        assert_eq!(waiting(2), "waiting: one job is before this one");
        assert_eq!(waiting(8), "waiting: 7 jobs are before this one");
    }
}
