use super::stream::{Gone, Writer, answer};
use super::{OpenAiError, now_s, read, unserved};
use crate::running::{Models, Running, end};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use job_server::{Caller, Jobs as _};
use operations_contract::{
    ApiError, Base64Bytes, Completion, ErrorCode, ImageCompletion, ImageGenerationRequest, JobEvent, Operation,
};
use serde::Deserialize;
use serde_json::json;

/// OpenAI's bound on pictures that are told before the last.
const MOST_PARTIAL: u32 = 3;

/// What both ways of painting take. From `negative_prompt` on the fields are not OpenAI's: they are those of our own
/// operations. `quality`, `style`, `background` and `moderation` are about OpenAI's models and are passed over.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Painting {
    pub(super) prompt: String,
    pub(super) model: Option<String>,
    pub(super) n: Option<u32>,
    pub(super) size: Option<String>,
    pub(super) response_format: Option<String>,
    pub(super) output_format: Option<String>,
    pub(super) stream: Option<bool>,
    pub(super) partial_images: Option<u32>,
    pub(super) negative_prompt: Option<String>,
    pub(super) steps: Option<u32>,
    pub(super) guidance_scale: Option<f64>,
    pub(super) seed: Option<u64>,
    pub(super) scheduler: Option<String>,
    pub(super) strength: Option<f64>,
}

impl Painting {
    /// The fields that all image operations have.
    ///
    /// # Errors
    /// A size that is none, or a field that is not served.
    pub(super) fn generation(&self) -> Result<ImageGenerationRequest, ApiError> {
        unserved(
            "output_format",
            self.output_format.as_deref().is_some_and(|format| format != "png"),
            "pictures are png",
        )?;
        let partial = self.partial_images.unwrap_or(0);
        if partial > MOST_PARTIAL {
            let message = format!("partial_images must be between 0 and {MOST_PARTIAL}, got {partial}");
            return Err(ApiError::invalid("partial_images", message));
        }
        unserved("partial_images", partial > 0 && self.stream != Some(true), "set stream too")?;
        let (width, height) = size(self.size.as_deref())?;
        let steps = self.steps;
        // Evenly over the steps, the last of which is the picture itself.
        let preview_every = (partial > 0).then(|| (steps.unwrap_or(20) / (partial + 1)).max(1));
        Ok(ImageGenerationRequest {
            model: self.model.clone(),
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            steps,
            guidance_scale: self.guidance_scale,
            width,
            height,
            seed: self.seed,
            scheduler: self.scheduler.clone(),
            count: self.n.unwrap_or(1),
            preview_every,
            ..ImageGenerationRequest::default()
        })
    }
}

/// `512x768`; `auto` is the model's own.
fn size(given: Option<&str>) -> Result<(Option<u32>, Option<u32>), ApiError> {
    let Some(text) = given.filter(|size| *size != "auto") else { return Ok((None, None)) };
    let sides = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    let (width, height) = sides.ok_or_else(|| {
        let text: String = text.chars().take(40).collect();
        ApiError::invalid("size", format!("size must be WIDTHxHEIGHT, like 512x512, or auto, got {text:?}"))
    })?;
    Ok((Some(width), Some(height)))
}

/// `POST /v1/images/generations`
pub(super) async fn generate<S: Models>(
    State(server): State<S>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, OpenAiError> {
    let painting: Painting = read(&body)?;
    let operation = Operation::ImageGeneration(painting.generation()?);
    paint(server, caller, &headers, &painting, operation, "image_generation").await
}

/// Runs the operation and answers with its pictures. `events` is what the events of a stream are called.
pub(super) async fn paint<S: Models>(
    server: S,
    caller: Caller,
    headers: &HeaderMap,
    painting: &Painting,
    operation: Operation,
    events: &'static str,
) -> Result<Response, OpenAiError> {
    let as_url = match painting.response_format.as_deref() {
        None | Some("url") => true,
        Some("b64_json") => false,
        Some(other) => {
            let other: String = other.chars().take(40).collect();
            let message = format!("response_format must be url or b64_json, got {other:?}");
            return Err(ApiError::invalid("response_format", message).into());
        }
    };
    let mut running = Running::start(&server, &caller, operation).await.map_err(named)?;
    if painting.stream == Some(true) {
        let partial = painting.partial_images.unwrap_or(0);
        let answer =
            answer(move |writer| async move { stream(server, caller, running, events, partial, &writer).await });
        return Ok(answer);
    }
    let completion = pictures(running.completion(|_| {}).await.map_err(named)?)?;
    let mut data = Vec::new();
    for index in 0..completion.images.len().max(1) {
        data.push(if as_url {
            json!({"url": format!("{}/v1/jobs/{}/images/{index}", base(headers), running.id())})
        } else {
            json!({"b64_json": picture(&server, &caller, running.id(), &completion, index).await?})
        });
    }
    Ok(Json(json!({"created": now_s(), "data": data})).into_response())
}

async fn stream<S: Models>(
    server: S,
    caller: Caller,
    mut running: Running<S>,
    events: &'static str,
    partial: u32,
    writer: &Writer,
) -> Result<(), Gone> {
    let created = now_s();
    let mut told = 0;
    while let Some(event) = running.next().await {
        if let JobEvent::Preview { image, format, .. } = &*event
            && told < partial
        {
            let name = format!("{events}.partial_image");
            let data = json!({
                "type": name, "b64_json": image, "created_at": created, "partial_image_index": told,
                "output_format": format,
            });
            told += 1;
            writer.named(&name, &data).await?;
        }
        match end(&event) {
            None => {}
            Some(Err(error)) => return writer.error(named(error)).await,
            Some(Ok(completion)) => {
                let completion = match pictures(completion) {
                    Ok(completion) => completion,
                    Err(error) => return writer.error(error).await,
                };
                for index in 0..completion.images.len().max(1) {
                    let image = match picture(&server, &caller, running.id(), &completion, index).await {
                        Ok(image) => image,
                        Err(error) => return writer.error(error).await,
                    };
                    let name = format!("{events}.completed");
                    let size =
                        completion.width.zip(completion.height).map(|(width, height)| format!("{width}x{height}"));
                    let data = json!({
                        "type": name, "b64_json": image, "created_at": created, "size": size, "output_format": "png",
                        "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0,
                                  "input_tokens_details": {"text_tokens": 0, "image_tokens": 0}},
                    });
                    writer.named(&name, &data).await?;
                }
                return Ok(());
            }
        }
    }
    writer.error(ApiError::internal("the picture has no end")).await
}

fn pictures(completion: Completion) -> Result<ImageCompletion, ApiError> {
    match completion {
        Completion::Image(completion) => Ok(completion),
        Completion::Text(_) | Completion::Result { .. } => Err(ApiError::internal("the answer is no picture")),
    }
}

/// The first picture is in the event, the others are asked for.
async fn picture<S: Models>(
    server: &S,
    caller: &Caller,
    job_id: &str,
    completion: &ImageCompletion,
    index: usize,
) -> Result<Base64Bytes, ApiError> {
    if index == 0 {
        return Ok(completion.image.clone());
    }
    server.jobs().picture(caller, job_id, index).await.map(|(file, _)| file.into())
}

/// Fields have another name in OpenAI's form.
fn named(mut error: ApiError) -> ApiError {
    let name = match error.param.as_deref() {
        Some("width" | "height") => "size",
        Some("count") => "n",
        Some("init_image") => "image",
        Some("mask_image") => "mask",
        _ => return error,
    };
    error.param = Some(name.to_owned());
    error
}

/// The address at which the client reached this server.
fn base(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    // Whatever ends TLS before this server says so.
    let scheme = headers.get("x-forwarded-proto").and_then(|scheme| scheme.to_str().ok());
    format!("{}://{host}", scheme.filter(|scheme| *scheme == "https").unwrap_or("http"))
}

/// A field of a form that is a number.
///
/// # Errors
/// It is none.
pub(super) fn number<T: std::str::FromStr>(param: &str, text: &str) -> Result<T, ApiError> {
    text.trim().parse().map_err(|_| {
        let text: String = text.chars().take(40).collect();
        ApiError::new(ErrorCode::Malformed, format!("{param} must be a number, got {text:?}")).with_param(param)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_width_times_height_or_the_models_own() {
        assert_eq!(size(Some("512x768")).unwrap(), (Some(512), Some(768)));
        assert_eq!(size(Some("auto")).unwrap(), (None, None));
        for wrong in ["512", "x", "512x", "axb", "512X512", "-8x8"] {
            assert_eq!(size(Some(wrong)).unwrap_err().param.as_deref(), Some("size"), "{wrong}");
        }
    }

    #[test]
    fn partial_pictures_are_spread_over_the_steps() {
        let every = |steps, partial| {
            let painting = Painting { steps, partial_images: Some(partial), stream: Some(true), ..Painting::default() };
            painting.generation().map(|request| request.preview_every)
        };
        assert_eq!(every(Some(20), 3).unwrap(), Some(5));
        assert_eq!(every(Some(2), 3).unwrap(), Some(1));
        assert_eq!(every(None, 0).unwrap(), None);
        assert!(every(None, 4).is_err());
    }

    #[test]
    fn addresses_are_those_that_the_client_used() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "house:7833".parse().unwrap());
        assert_eq!(base(&headers), "http://house:7833");
        headers.insert("x-forwarded-proto", "https".parse().unwrap());
        assert_eq!(base(&headers), "https://house:7833");
    }
}
