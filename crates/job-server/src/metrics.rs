use crate::jobs::JobTotals;
use operations_contract::Info;
use std::fmt::Write as _;

/// The content type of Prometheus' text format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What Prometheus reads.
pub(crate) fn render(totals: &JobTotals, info: &Info, ready: bool) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, String)]| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let one = |value: String| [(String::new(), value)];
    let label = |name: &str, value: &str| format!("{{{name}=\"{}\"}}", escaped(value));
    let build = format!("{{server=\"{}\",version=\"{}\"}}", escaped(&info.server), escaped(&info.version));
    family("rbee_build_info", "gauge", "The program that runs.", &[(build, "1".to_owned())]);
    family("rbee_ready", "gauge", "Whether jobs are served now.", &one(u8::from(ready).to_string()));
    family(
        "rbee_jobs",
        "gauge",
        "Jobs that are known, by state.",
        &[
            (label("state", "queued"), totals.queued.to_string()),
            (label("state", "running"), totals.running.to_string()),
            (label("state", "finished"), totals.kept.to_string()),
        ],
    );
    family("rbee_jobs_admitted_total", "counter", "Jobs admitted.", &one(totals.admitted.to_string()));
    family(
        "rbee_jobs_refused_total",
        "counter",
        "Jobs refused because the queue was full.",
        &one(totals.refused.to_string()),
    );
    family(
        "rbee_jobs_finished_total",
        "counter",
        "Jobs that ended, by how.",
        &[
            (label("state", "complete"), totals.complete.to_string()),
            (label("state", "error"), totals.error.to_string()),
            (label("state", "cancelled"), totals.cancelled.to_string()),
        ],
    );
    let seconds = totals.run.as_secs_f64();
    family("rbee_job_run_seconds_total", "counter", "Time that jobs ran.", &one(seconds.to_string()));
    family("rbee_listeners", "gauge", "Streams of events that are open.", &one(totals.listeners.to_string()));
    if let Some(memory) = info.memory {
        family(
            "process_resident_memory_bytes",
            "gauge",
            "Memory that the process holds.",
            &one(memory.used_bytes.to_string()),
        );
    }
    text
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
