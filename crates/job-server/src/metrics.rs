use crate::jobs::JobTotals;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use operations_contract::Info;
use std::fmt::Write as _;
use std::sync::OnceLock;

/// The content type of Prometheus' text format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of times, in seconds: from a step of a small model to a large picture on an old machine.
const SECONDS: [f64; 14] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

static RECORDED: OnceLock<PrometheusHandle> = OnceLock::new();

/// Records what the crates of this process count and time (the crate `metrics`), for `/metrics` to tell.
pub fn record_metrics() {
    let builder = PrometheusBuilder::new().set_buckets(&SECONDS);
    match builder.map(PrometheusBuilder::install_recorder) {
        Ok(Ok(handle)) => {
            // Only one recorder can be installed.
            let _ = RECORDED.set(handle);
        }
        Ok(Err(error)) | Err(error) => tracing::debug!("counters are not recorded: {error}"),
    }
}

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
    if let Some(recorded) = RECORDED.get() {
        recorded.run_upkeep();
        text.push_str(&recorded.render());
    }
    text
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
