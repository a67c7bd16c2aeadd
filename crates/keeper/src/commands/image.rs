use super::image_show;
use crate::cli::{ImageCommand, ImageSource, JsonOutput, Paint};
use crate::daemon;
use crate::events::numbered;
use crate::failure::{Exit, Failure};
use crate::follow::{Interrupts, Manner, follow};
use crate::output::{Output, Picture};
use crate::print;
use crate::progress::{Progress, time};
use crate::show::Terminal;
use job_server::client::Client;
use operations_contract::{
    Base64Bytes, Completion, ErrorCode, IMAGE_BYTES, ImageCompletion, ImageGenerationRequest, ImageInpaintRequest,
    ImageTransformRequest, InferRequest, JobEvent, Message, Operation, Role,
};
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};

pub(super) async fn run(command: ImageCommand) -> Result<(), Failure> {
    let mut interrupts = Interrupts::catch();
    let (operation, paint) = match command {
        ImageCommand::Show(args) => return image_show::run(&args),
        ImageCommand::Generate { paint } => (Operation::ImageGeneration(generation(&paint)?), paint),
        ImageCommand::Transform { source, strength, paint } => {
            let settings = generation(&paint)?;
            let request = ImageTransformRequest { init_image: init_image(&source)?, strength, ..transform(settings) };
            (Operation::ImageTransform(request), paint)
        }
        ImageCommand::Inpaint { source, mask_image, strength, mask_blur, composite, paint } => {
            let settings = generation(&paint)?;
            let request = ImageInpaintRequest {
                init_image: init_image(&source)?,
                mask_image: read_image("--mask-image", &mask_image)?,
                strength,
                mask_blur,
                composite,
                ..inpaint(settings)
            };
            (Operation::ImageInpaint(request), paint)
        }
    };
    run_job(operation, &paint, &mut interrupts).await
}

async fn run_job(operation: Operation, paint: &Paint, interrupts: &mut Interrupts) -> Result<(), Failure> {
    let count = paint.settings.count;
    // What is wrong is said before anything is started or painted.
    let operation = operation.validate()?;
    let output = Output::parse(paint.output.as_deref(), count)?;
    if output == Output::Stdout && paint.json.is_some() {
        return Err(Failure::new(Exit::Usage, "--output - and --json both want standard output").hint("name a file"));
    }
    let mut progress = Progress::new(paint.quiet, count);
    let terminal = terminal(paint, &progress);
    progress.state("looking for the queen");
    let painted = async {
        let client = interrupts.or(daemon::connect(&paint.client, &|text| progress.note(text))).await?;
        let operation = if paint.describe {
            let mut operation = operation.into_inner();
            describe(&client, &mut operation, interrupts, &mut progress).await?;
            operation.validate()?
        } else {
            operation
        };
        // From here on a job may exist, and Ctrl-C must cancel it.
        let job_id = client.create_job(&operation).await?.job_id;
        let events = paint.json == Some(JsonOutput::Events);
        let manner = Manner { cancel_on_interrupt: true, prints_events: events };
        let completion = follow(&client, &job_id, interrupts, &mut progress, manner, |id, event, progress| {
            if let (JobEvent::Preview { image, .. }, Some(terminal)) = (event, &terminal) {
                progress.suspend(|| draw(terminal, image));
            }
            if events { progress.suspend(|| print::json(&numbered(id, event))) } else { Ok(()) }
        })
        .await?;
        match completion {
            Completion::Image(completion) => Ok((client, operation, job_id, completion)),
            Completion::Text(_) | Completion::Result { .. } => {
                Err(Failure::new(Exit::Failed, "the queen answered with something that is no picture"))
            }
        }
    }
    .await;
    progress.clear();
    let (client, operation, job_id, completion) = painted?;
    let prompt = operation_prompt(&operation);
    let files = save(&client, &job_id, &completion, &output, prompt, terminal.as_ref()).await?;
    report(paint, &job_id, &completion, &files)
}

/// One picture after the other: fetched, written, drawn.
async fn save(
    client: &Client,
    job_id: &str,
    completion: &ImageCompletion,
    output: &Output,
    prompt: &str,
    terminal: Option<&Terminal>,
) -> Result<Vec<(u32, u64, Option<PathBuf>)>, Failure> {
    let count = completion.images.len().max(1) as u32;
    let mut files = Vec::new();
    for index in 0..count {
        let seed = completion.images.get(index as usize).map_or(completion.seed, |link| link.seed);
        let fetched;
        let png: &[u8] = if index == 0 {
            &completion.image
        } else {
            fetched = client.image(job_id, index).await?;
            &fetched
        };
        let written = output.write(png, &Picture { prompt, seed, index, count }).map_err(|failure| {
            let kept = format!(
                "the picture is kept by the queen for a while: {}/v1/jobs/{job_id}/images/{index}",
                client.url()
            );
            Failure { hint: Some(kept), ..failure }
        })?;
        if let Some(terminal) = terminal {
            draw(terminal, png);
        }
        files.push((index, seed, written));
    }
    Ok(files)
}

fn report(
    paint: &Paint,
    job_id: &str,
    completion: &ImageCompletion,
    files: &[(u32, u64, Option<PathBuf>)],
) -> Result<(), Failure> {
    if paint.json.is_some() {
        let files: Vec<Value> = files
            .iter()
            .map(|(index, seed, path)| json!({"index": index, "seed": seed, "path": path.as_deref().map(absolute)}))
            .collect();
        let mut result = json!({ "job_id": job_id, "state": "complete", "seed": completion.seed, "files": files });
        let mut add = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                result[name] = value;
            }
        };
        add("model", completion.model.clone().map(Value::from));
        add("width", completion.width.map(Value::from));
        add("height", completion.height.map(Value::from));
        add("duration_ms", completion.duration_ms.map(Value::from));
        if paint.json == Some(JsonOutput::Events) {
            add("type", Some("files".into()));
        }
        return print::json(&result);
    }
    for path in files.iter().filter_map(|(_, _, path)| path.as_ref()) {
        print::line(path.display().to_string())?;
    }
    if !paint.quiet {
        let took = completion.duration_ms.map(|ms| format!(", {}", time(ms))).unwrap_or_default();
        let model = completion.model.as_deref().map(|model| format!(", {model}")).unwrap_or_default();
        let size = match (completion.width, completion.height) {
            (Some(width), Some(height)) => format!(", {width} x {height}"),
            _ => String::new(),
        };
        eprintln!("seed {}{size}{model}{took}", completion.seed);
    }
    Ok(())
}

/// `--json` reads by programs, whose folder may be another.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

fn terminal(paint: &Paint, progress: &Progress) -> Option<Terminal> {
    if !paint.show {
        if paint.settings.preview_every.is_some() && paint.json != Some(JsonOutput::Events) {
            progress.note("previews are seen with --show or --json=events");
        }
        return None;
    }
    let terminal = Terminal::detect();
    if terminal.is_none() {
        progress.note("this terminal cannot draw pictures (kitty, iTerm2 and sixel can)");
    }
    terminal
}

fn draw(terminal: &Terminal, picture: &[u8]) {
    if let Err(error) = terminal.draw(picture, &mut std::io::stdout().lock()) {
        eprintln!("cannot show the picture: {error}");
    }
}

fn operation_prompt(operation: &Operation) -> &str {
    match operation {
        Operation::ImageGeneration(request) => &request.prompt,
        Operation::ImageTransform(request) => &request.prompt,
        Operation::ImageInpaint(request) => &request.prompt,
        _ => "",
    }
}

/// Puts what the default language model writes about the prompt in the prompt's place, and says what that is.
async fn describe(
    client: &Client,
    operation: &mut Operation,
    interrupts: &mut Interrupts,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let (prompt, seed) = match operation {
        Operation::ImageGeneration(request) => (&mut request.prompt, request.seed),
        Operation::ImageTransform(request) => (&mut request.prompt, request.seed),
        Operation::ImageInpaint(request) => (&mut request.prompt, request.seed),
        _ => return Ok(()),
    };
    let asked = Message::new(Role::User, format!("Describe a picture of {}.", prompt.trim_end_matches('.')));
    // One seed, one prompt and one picture.
    let request = InferRequest { messages: Some(vec![asked]), stream: false, seed, ..InferRequest::default() };
    let job_id = client.create_job(&Operation::Infer(request).validate()?).await?.job_id;
    let manner = Manner { cancel_on_interrupt: true, prints_events: false };
    match follow(client, &job_id, interrupts, progress, manner, |_, _, _| Ok(())).await? {
        Completion::Text(completion) => completion.text.trim().clone_into(prompt),
        Completion::Image(_) | Completion::Result { .. } => {
            return Err(Failure::new(Exit::Failed, "the queen answered with something that is no text"));
        }
    }
    progress.note(&format!("prompt: {prompt}"));
    Ok(())
}

/// The fields that all three operations have; `generate` has no others.
fn generation(paint: &Paint) -> Result<ImageGenerationRequest, Failure> {
    let settings = &paint.settings;
    Ok(ImageGenerationRequest {
        hive_id: settings.hive_id.clone(),
        model: settings.model.as_deref().map(super::model_path),
        prompt: super::ask::prompt(paint.prompt.as_deref(), paint.prompt_flag.as_deref())?,
        negative_prompt: settings.negative_prompt.clone(),
        steps: settings.steps,
        guidance_scale: settings.guidance_scale,
        width: settings.width,
        height: settings.height,
        seed: settings.seed,
        worker_id: settings.worker_id.clone(),
        scheduler: settings.scheduler.clone(),
        schedule: settings.schedule.clone(),
        count: settings.count,
        clip_skip: settings.clip_skip,
        preview_every: settings.preview_every,
        priority: settings.priority,
    })
}

macro_rules! with_settings {
    ($name:ident, $request:ident) => {
        fn $name(settings: ImageGenerationRequest) -> $request {
            let ImageGenerationRequest {
                hive_id,
                model,
                prompt,
                negative_prompt,
                steps,
                guidance_scale,
                width,
                height,
                seed,
                worker_id,
                scheduler,
                schedule,
                count,
                clip_skip,
                preview_every,
                priority,
            } = settings;
            $request {
                hive_id,
                model,
                prompt,
                negative_prompt,
                steps,
                guidance_scale,
                width,
                height,
                seed,
                worker_id,
                scheduler,
                schedule,
                count,
                clip_skip,
                preview_every,
                priority,
                ..$request::default()
            }
        }
    };
}

with_settings!(transform, ImageTransformRequest);
with_settings!(inpaint, ImageInpaintRequest);

fn init_image(source: &ImageSource) -> Result<Base64Bytes, Failure> {
    read_image("--init-image", &source.init_image)
}

fn read_image(flag: &str, path: &Path) -> Result<Base64Bytes, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::new(Exit::Usage, format!("cannot read {}: {error}", path.display()))
            .hint(format!("give {flag} a file"))
    };
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    // One byte more than is allowed is enough to know.
    file.take(IMAGE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > IMAGE_BYTES {
        let message = format!("{} has more than {} MiB", path.display(), IMAGE_BYTES >> 20);
        return Err(Failure { code: ErrorCode::PayloadTooLarge.as_str(), ..Failure::new(Exit::Usage, message) }
            .hint(format!("give {flag} a smaller image")));
    }
    Ok(Base64Bytes::from(bytes))
}
