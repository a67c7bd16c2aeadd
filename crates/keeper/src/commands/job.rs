use super::ask::{cell, running_queen};
use crate::cli::{JobArgs, JobCommand, JobListArgs};
use crate::failure::{Exit, Failure};
use crate::follow::{Interrupts, Manner, follow};
use crate::print;
use crate::progress::{Progress, time};
use job_server::client::Client;
use operations_contract::{Completion, Job, JobState, OperationKind};
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};

/// So many jobs a queen lists at once.
const MOST: usize = 1000;

pub(super) async fn run(command: JobCommand) -> Result<(), Failure> {
    match command {
        JobCommand::List(args) => list(&args).await,
        JobCommand::Show(args) => show(&args).await,
        JobCommand::Watch(args) => watch(&args).await,
        JobCommand::Cancel(args) => cancel(&args).await,
        JobCommand::Explain(args) => explain(&args).await,
    }
}

async fn list(args: &JobListArgs) -> Result<(), Failure> {
    let state = args.state.as_deref().and_then(JobState::from_word);
    let limit = args.limit as usize;
    // Questions about the house itself are jobs too, and would bury those that one looks for.
    let asked = if args.all { limit } else { MOST };
    let mut list = running_queen(&args.client).await?.jobs(state, Some(asked)).await?;
    list.jobs.retain(|job| args.all || is_work(&job.operation));
    list.jobs.truncate(limit);
    if args.json {
        return print::json(&list);
    }
    if list.jobs.is_empty() {
        return print::line("no jobs");
    }
    let rows: Vec<Vec<String>> = list.jobs.iter().map(row).collect();
    print::line(print::table(&["JOB", "OPERATION", "STATE", "AGE", "PROGRESS"], &rows))
}

fn is_work(operation: &str) -> bool {
    use OperationKind::{ImageGeneration, ImageInpaint, ImageTransform, Infer, ModelDownload};
    let kind = OperationKind::from_name(operation);
    kind.is_none_or(|kind| matches!(kind, ImageGeneration | ImageTransform | ImageInpaint | Infer | ModelDownload))
}

fn row(job: &Job) -> Vec<String> {
    let progress = match (&job.state, job.position, job.progress) {
        (JobState::Queued, Some(position), _) => format!("position {position}"),
        (JobState::Running, _, Some(progress)) if progress.total > 1 => format!("{}/{}", progress.step, progress.total),
        _ => job.error.as_ref().map(|error| error.code.to_string()).unwrap_or_default(),
    };
    vec![job.job_id.clone(), job.operation.clone(), job.state.to_string(), time(age_ms(job.created_ms)), progress]
}

async fn show(args: &JobArgs) -> Result<(), Failure> {
    let client = running_queen(&args.client).await?;
    let id = full_id(&client, &args.id).await?;
    let job = client.job(&id).await?;
    if args.json {
        return print::json(&job);
    }
    let mut lines = vec![
        format!("job        {}", job.job_id),
        format!("operation  {}", job.operation),
        format!("state      {}", job.state),
        format!("asked      {} ago", time(age_ms(job.created_ms))),
    ];
    let mut add = |name: &str, value: Option<String>| lines.extend(value.map(|value| format!("{name:<11}{value}")));
    add("position", job.position.map(|position| position.to_string()));
    add("attempt", (job.attempt > 0).then(|| job.attempt.to_string()));
    add("model", job.model.clone());
    add("worker", job.worker_id.clone());
    add("progress", job.progress.map(|progress| format!("{}/{}", progress.step, progress.total)));
    let took = job.started_ms.zip(job.finished_ms).map(|(started, finished)| time(finished.saturating_sub(started)));
    add("took", took);
    add("error", job.error.as_ref().map(|error| format!("{}: {error}", error.code)));
    match &job.result {
        Some(Completion::Image(image)) => {
            add("seed", Some(image.seed.to_string()));
            add("size", image.width.zip(image.height).map(|(width, height)| format!("{width} x {height}")));
            let count = image.images.len().max(1);
            add("pictures", Some(format!("{count}, the first at {}/v1/jobs/{id}/images/0", client.url())));
        }
        Some(Completion::Text(text)) => add("text", Some(text.text.clone())),
        Some(Completion::Result { result }) => add("result", Some(result.to_string())),
        None => {}
    }
    print::line(lines.join("\n"))
}

async fn watch(args: &JobArgs) -> Result<(), Failure> {
    let mut interrupts = Interrupts::catch();
    let client = running_queen(&args.client).await?;
    let id = full_id(&client, &args.id).await?;
    let mut progress = Progress::new(args.json, 1);
    let manner = Manner { cancel_on_interrupt: false, prints_events: args.json };
    let followed = follow(&client, &id, &mut interrupts, &mut progress, manner, |number, event, _| {
        if args.json { print::json(&crate::events::numbered(number, event)) } else { Ok(()) }
    })
    .await;
    progress.clear();
    followed?;
    if args.json { Ok(()) } else { print::line(format!("{id} is complete")) }
}

async fn cancel(args: &JobArgs) -> Result<(), Failure> {
    let client = running_queen(&args.client).await?;
    let id = full_id(&client, &args.id).await?;
    client.cancel_job(&id).await?;
    let job = client.job(&id).await?;
    if args.json {
        return print::json(&job);
    }
    print::line(match job.state {
        JobState::Cancelled => format!("{id} is cancelled"),
        JobState::Queued | JobState::Running => format!("{id} stops at its next step"),
        JobState::Complete | JobState::Error => format!("{id} had ended before: {}", job.state),
    })
}

async fn explain(args: &JobArgs) -> Result<(), Failure> {
    let client = running_queen(&args.client).await?;
    let id = full_id(&client, &args.id).await?;
    let answer: Value = client.get(&["v1", "jobs", &id, "explain"]).await?;
    if args.json {
        return print::json(&answer);
    }
    let waiting = answer["waiting_ms"].as_u64().map(|ms| format!(" (waited {})", time(ms))).unwrap_or_default();
    print::line(format!("{}: {}{waiting}", cell(&answer, "state"), cell(&answer, "reason")))
}

/// The job whose id begins with what was given, with or without `job-`.
async fn full_id(client: &Client, given: &str) -> Result<String, Failure> {
    const WHOLE: usize = "job-00000000-0000-0000-0000-000000000000".len();
    let beginning = if given.starts_with("job-") { given.to_owned() } else { format!("job-{given}") };
    if beginning.len() >= WHOLE {
        return Ok(beginning);
    }
    let jobs = client.jobs(None, Some(MOST)).await?.jobs;
    let mut matching = jobs.iter().filter(|job| job.job_id.starts_with(&beginning));
    match (matching.next(), matching.next()) {
        (Some(job), None) => Ok(job.job_id.clone()),
        (None, _) => {
            Err(Failure::new(Exit::Usage, format!("there is no job {given}")).hint("see them with: rbee job list"))
        }
        (Some(_), Some(_)) => {
            Err(Failure::new(Exit::Usage, format!("several jobs begin with {given}")).hint("give more of the id"))
        }
    }
}

fn age_ms(since_ms: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    now.saturating_sub(since_ms)
}
