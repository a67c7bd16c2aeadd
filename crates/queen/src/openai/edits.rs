use super::OpenAiError;
use super::images::{Painting, number, paint};
use crate::running::Models;
use axum::extract::State;
use axum::extract::multipart::{Multipart, MultipartError, MultipartRejection};
use axum::http::HeaderMap;
use axum::response::Response;
use job_server::Caller;
use operations_contract::{
    ApiError, Base64Bytes, ErrorCode, ImageGenerationRequest, ImageInpaintRequest, ImageTransformRequest, Operation,
};

/// `POST /v1/images/edits`: with a mask what is transparent in it is painted anew, without one the whole image.
pub(super) async fn edit<S: Models>(
    State(server): State<S>,
    caller: Caller,
    headers: HeaderMap,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Response, OpenAiError> {
    let form = form.map_err(|error| ApiError::malformed(error.body_text()))?;
    let (painting, image, mask) = read(form).await?;
    let generation = painting.generation()?;
    let operation = match mask {
        Some(mask) => Operation::ImageInpaint(inpaint(generation, image, mask, &painting)),
        None => Operation::ImageTransform(transform(generation, image, &painting)),
    };
    paint(server, caller, &headers, &painting, operation, "image_edit").await
}

async fn read(mut form: Multipart) -> Result<(Painting, Base64Bytes, Option<Base64Bytes>), ApiError> {
    let mut painting = Painting::default();
    let (mut image, mut mask, mut prompted) = (None::<Base64Bytes>, None::<Base64Bytes>, false);
    while let Some(field) = form.next_field().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "image" | "image[]" => {
                if image.replace(field.bytes().await.map_err(broken)?.into()).is_some() {
                    return Err(ApiError::invalid("image", "only one image is edited at a time"));
                }
                continue;
            }
            "mask" => {
                mask = Some(field.bytes().await.map_err(broken)?.into());
                continue;
            }
            _ => {}
        }
        let text = field.text().await.map_err(broken)?;
        match name.as_str() {
            "prompt" => (painting.prompt, prompted) = (text, true),
            "model" => painting.model = Some(text),
            "n" => painting.n = Some(number("n", &text)?),
            "size" => painting.size = Some(text),
            "response_format" => painting.response_format = Some(text),
            "output_format" => painting.output_format = Some(text),
            "stream" => painting.stream = Some(text == "true"),
            "partial_images" => painting.partial_images = Some(number("partial_images", &text)?),
            "negative_prompt" => painting.negative_prompt = Some(text),
            "steps" => painting.steps = Some(number("steps", &text)?),
            "guidance_scale" => painting.guidance_scale = Some(number("guidance_scale", &text)?),
            "seed" => painting.seed = Some(number("seed", &text)?),
            "scheduler" => painting.scheduler = Some(text),
            "strength" => painting.strength = Some(number("strength", &text)?),
            // quality, background, user: about OpenAI's own models and accounts.
            _ => {}
        }
    }
    if !prompted {
        return Err(ApiError::malformed("prompt is required").with_param("prompt"));
    }
    let image = image.ok_or_else(|| ApiError::malformed("image is required").with_param("image"))?;
    Ok((painting, image, mask))
}

#[expect(clippy::needless_pass_by_value, reason = "it is the function that maps an error")]
fn broken(error: MultipartError) -> ApiError {
    let code = if error.status().as_u16() == 413 { ErrorCode::PayloadTooLarge } else { ErrorCode::Malformed };
    ApiError::new(code, format!("the form cannot be read: {}", error.body_text()))
}

/// A request of this kind, with what it shares with `from`.
macro_rules! with_settings {
    ($request:ident, $from:ident, { $($field:ident: $value:expr),+ }) => {
        $request {
            $($field: $value,)+
            model: $from.model,
            prompt: $from.prompt,
            negative_prompt: $from.negative_prompt,
            steps: $from.steps,
            guidance_scale: $from.guidance_scale,
            width: $from.width,
            height: $from.height,
            seed: $from.seed,
            scheduler: $from.scheduler,
            count: $from.count,
            preview_every: $from.preview_every,
            ..$request::default()
        }
    };
}

fn transform(from: ImageGenerationRequest, image: Base64Bytes, painting: &Painting) -> ImageTransformRequest {
    let strength = painting.strength.unwrap_or(ImageTransformRequest::default().strength);
    with_settings!(ImageTransformRequest, from, { init_image: image, strength: strength })
}

fn inpaint(
    from: ImageGenerationRequest,
    image: Base64Bytes,
    mask: Base64Bytes,
    painting: &Painting,
) -> ImageInpaintRequest {
    let strength = painting.strength.unwrap_or(ImageInpaintRequest::default().strength);
    with_settings!(ImageInpaintRequest, from, { init_image: image, mask_image: mask, strength: strength })
}
