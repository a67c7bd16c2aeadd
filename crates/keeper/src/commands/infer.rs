use super::ask::{prompt, queen};
use crate::cli::{InferArgs, JsonOutput, Sampling};
use crate::events::numbered;
use crate::failure::{Exit, Failure};
use crate::follow::{Interrupts, Manner, follow};
use crate::print;
use crate::progress::{Progress, time};
use job_server::client::Client;
use operations_contract::{Completion, InferRequest, JobEvent, Message, Operation, Role, TextCompletion};
use serde_json::json;
use std::io::Write;
use std::time::Instant;

pub(super) async fn run(args: InferArgs) -> Result<(), Failure> {
    let mut interrupts = Interrupts::catch();
    let text = prompt(args.prompt.as_deref(), args.prompt_flag.as_deref())?;
    let mut request = request(&args.sampling);
    if args.raw {
        request.prompt = Some(text);
    } else {
        let system = args.system.map(|system| message(Role::System, system));
        request.messages = Some(system.into_iter().chain([message(Role::User, text)]).collect());
    }
    request.stream = args.json != Some(JsonOutput::Final);
    let client = queen(&args.client).await?;
    let asked = Instant::now();
    let (job_id, completion) = stream(&client, request, &mut interrupts, args.quiet, args.json).await?;
    let usage = completion.usage;
    if let Some(json) = args.json {
        let mut object = json!({
            "job_id": job_id, "state": "complete", "text": completion.text,
            "finish_reason": completion.finish_reason, "usage": usage,
        });
        if json == JsonOutput::Events {
            object["type"] = "text".into();
        }
        return print::json(&object);
    }
    if !args.quiet {
        let took = time(asked.elapsed().as_millis() as u64);
        eprintln!("{} tokens read, {} written, {took}", usage.prompt_tokens, usage.completion_tokens);
    }
    Ok(())
}

/// Asks, prints the text as it comes, and gives the whole. Progress is drawn until the first word.
pub(super) async fn stream(
    client: &Client,
    request: InferRequest,
    interrupts: &mut Interrupts,
    quiet: bool,
    json: Option<JsonOutput>,
) -> Result<(String, TextCompletion), Failure> {
    let operation = Operation::Infer(request).validate()?;
    let mut progress = Progress::new(quiet || json.is_some(), 1);
    let mut printed = String::new();
    let followed = async {
        let job_id = client.create_job(&operation).await?.job_id;
        let events = json == Some(JsonOutput::Events);
        let manner = Manner { cancel_on_interrupt: true, prints_events: events };
        let completion =
            follow(client, &job_id, interrupts, &mut progress, manner, |id, event, progress| match event {
                event if events => print::json(&numbered(id, event)),
                JobEvent::Token { t, .. } if json.is_none() => {
                    progress.clear();
                    printed.push_str(t);
                    put(t)
                }
                // The text begins anew with another worker; what was printed cannot be taken back.
                JobEvent::Started { attempt, .. } if *attempt > 1 && !printed.is_empty() => {
                    printed.clear();
                    put("\n")
                }
                _ => Ok(()),
            })
            .await?;
        Ok((job_id, completion))
    }
    .await;
    progress.clear();
    match followed {
        Ok((job_id, Completion::Text(completion))) => {
            if json.is_none() {
                let rest = completion.text.strip_prefix(&printed).unwrap_or_default();
                put(rest)?;
                put("\n")?;
            }
            Ok((job_id, completion))
        }
        Ok(_) => Err(Failure::new(Exit::Failed, "the queen answered with something that is no text")),
        Err(failure) => {
            if !printed.is_empty() {
                put("\n")?;
            }
            Err(failure)
        }
    }
}

/// The request without what is asked.
pub(super) fn request(sampling: &Sampling) -> InferRequest {
    InferRequest {
        hive_id: sampling.hive_id.clone(),
        model: sampling.model.as_deref().map(super::model_path),
        max_tokens: sampling.max_tokens,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        min_p: sampling.min_p,
        repeat_penalty: sampling.repeat_penalty,
        seed: sampling.seed,
        stop: sampling.stop.clone(),
        worker_id: sampling.worker_id.clone(),
        priority: sampling.priority,
        ..InferRequest::default()
    }
}

pub(super) fn message(role: Role, content: String) -> Message {
    Message::new(role, content)
}

fn put(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write to standard output: {error}")))
}
