//! Every limit, at its edge and one beyond, with the message that a person reads.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use operations_contract::{
    Base64Bytes, ErrorCode, IMAGE_BYTES, ImageTransformRequest, Operation, Request as _, SCHEMA_BYTES,
};
use serde_json::{Value, json};

/// A picture of one colour.
fn picture(format: image::ImageFormat, width: u32, height: u32) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(width, height).write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn base64(bytes: &[u8]) -> String {
    Base64Bytes::from(bytes.to_vec()).encode()
}

fn png() -> String {
    base64(&picture(image::ImageFormat::Png, 8, 8))
}

fn with(mut base: Value, mut fields: Value) -> Value {
    base.as_object_mut().unwrap().append(fields.as_object_mut().unwrap());
    base
}

fn generation(fields: Value) -> Value {
    with(json!({"operation": "image_generation", "prompt": "a"}), fields)
}

fn transform(fields: Value) -> Value {
    with(json!({"operation": "image_transform", "prompt": "a", "init_image": png()}), fields)
}

fn inpaint(fields: Value) -> Value {
    with(json!({"operation": "image_inpaint", "prompt": "a", "init_image": png(), "mask_image": png()}), fields)
}

fn infer(fields: Value) -> Value {
    with(json!({"operation": "infer", "prompt": "a"}), fields)
}

#[track_caller]
fn accepted(operation: Value) {
    Operation::from_value(operation, |_| true).unwrap().validate().unwrap();
}

#[track_caller]
fn refused(operation: Value, param: &str, message: &str) {
    let error = Operation::from_value(operation, |_| true).unwrap().validate().unwrap_err();
    assert_eq!((error.param.as_deref(), &*error.message), (Some(param), message));
    assert_eq!((error.code, error.status()), (ErrorCode::InvalidRequest, 422));
}

#[test]
fn numbers_at_their_edges_are_accepted() {
    accepted(generation(json!({"prompt": "", "steps": 1, "guidance_scale": 0, "width": 64, "height": 2048})));
    accepted(generation(json!({"steps": 150, "guidance_scale": 30, "count": 64, "clip_skip": 0, "preview_every": 1})));
    accepted(generation(json!({"clip_skip": 11, "seed": u64::MAX, "scheduler": "euler", "schedule": "karras"})));
    accepted(generation(json!({"schedule": "exponential", "negative_prompt": "b".repeat(64 * 1024)})));
    accepted(transform(json!({"strength": 1.0})));
    accepted(transform(json!({"strength": 1e-9})));
    accepted(inpaint(json!({"mask_blur": 0, "composite": false})));
    accepted(infer(json!({"temperature": 2, "top_p": 1, "min_p": 0, "max_tokens": 1, "top_k": 0, "stop": ["\n"]})));
}

#[test]
fn numbers_beyond_their_edges_are_refused() {
    refused(generation(json!({"steps": 0})), "steps", "steps must be between 1 and 150, got 0");
    refused(generation(json!({"steps": 151})), "steps", "steps must be between 1 and 150, got 151");
    refused(
        generation(json!({"guidance_scale": -0.5})),
        "guidance_scale",
        "guidance_scale must be between 0 and 30, got -0.5",
    );
    refused(generation(json!({"width": 500})), "width", "width must be a multiple of 8, got 500");
    refused(generation(json!({"width": 56})), "width", "width must be between 64 and 2048, got 56");
    refused(generation(json!({"height": 2056})), "height", "height must be between 64 and 2048, got 2056");
    refused(generation(json!({"count": 0})), "count", "count must be between 1 and 64, got 0");
    refused(generation(json!({"clip_skip": 12})), "clip_skip", "clip_skip must be between 0 and 11, got 12");
    refused(transform(json!({"strength": 0})), "strength", "strength must be above 0 and at most 1, got 0");
    refused(inpaint(json!({"strength": 1.1})), "strength", "strength must be above 0 and at most 1, got 1.1");
    refused(inpaint(json!({"mask_blur": 64.5})), "mask_blur", "mask_blur must be between 0 and 64, got 64.5");
    refused(infer(json!({"temperature": 2.1})), "temperature", "temperature must be between 0 and 2, got 2.1");
    refused(infer(json!({"top_p": 1.1})), "top_p", "top_p must be between 0 and 1, got 1.1");
    refused(infer(json!({"max_tokens": 0})), "max_tokens", "max_tokens must be at least 1, got 0");
}

#[test]
fn every_other_limit_has_its_own_message() {
    let prompt = "a".repeat(64 * 1024);
    accepted(generation(json!({"prompt": prompt, "preview_every": 150, "model": "a".repeat(4096)})));
    for field in ["prompt", "negative_prompt"] {
        let more = format!("{prompt}a");
        refused(generation(json!({field: more})), field, &format!("{field} may have at most 65536 bytes, got 65537"));
    }
    refused(
        generation(json!({"guidance_scale": 30.5})),
        "guidance_scale",
        "guidance_scale must be between 0 and 30, got 30.5",
    );
    refused(generation(json!({"width": 2056})), "width", "width must be between 64 and 2048, got 2056");
    refused(generation(json!({"height": 100})), "height", "height must be a multiple of 8, got 100");
    refused(generation(json!({"count": 65})), "count", "count must be between 1 and 64, got 65");
    refused(generation(json!({"preview_every": 0})), "preview_every", "preview_every must be between 1 and 150, got 0");
    refused(
        generation(json!({"schedule": "linear"})),
        "schedule",
        "schedule \"linear\" is not known; known are karras, exponential",
    );
    refused(transform(json!({"strength": 1.001})), "strength", "strength must be above 0 and at most 1, got 1.001");
    refused(inpaint(json!({"mask_blur": -1})), "mask_blur", "mask_blur must be between 0 and 64, got -1");
    let wide = base64(&picture(image::ImageFormat::Png, 4097, 1));
    refused(
        inpaint(json!({"mask_image": wide})),
        "mask_image",
        "mask_image may be at most 4096 x 4096 pixels, got 4097 x 1",
    );
    refused(generation(json!({"model": "a".repeat(4097)})), "model", "model may have at most 4096 bytes, got 4097");
    refused(generation(json!({"model": "a\u{1b}"})), "model", "model holds a control character: \"a\\u{1b}\"");
    refused(
        generation(json!({"worker_id": "a".repeat(129)})),
        "worker_id",
        "worker_id may have at most 128 bytes, got 129",
    );
    refused(infer(json!({"min_p": -0.1})), "min_p", "min_p must be between 0 and 1, got -0.1");
    refused(
        infer(json!({"repeat_penalty": 0})),
        "repeat_penalty",
        "repeat_penalty must be above 0 and at most 10, got 0",
    );
    refused(infer(json!({"stop": [""]})), "stop[0]", "stop[0] is empty and would end every text at once");
    refused(infer(json!({"stop": vec!["a"; 17]})), "stop", "stop may hold at most 16 words, got 17");
    refused(infer(json!({"stop": ["a".repeat(1026)]})), "stop[0]", "stop[0] may have at most 1024 bytes, got 1026");
    let messages =
        |count| json!({"operation": "infer", "messages": vec![json!({"role": "user", "content": ""}); count]});
    refused(messages(0), "messages", "messages must hold at least one message");
    refused(messages(1025), "messages", "messages may hold at most 1024 messages, got 1025");
    let spawn = |fields| with(json!({"operation": "worker_spawn", "model": "m", "worker": "cpu"}), fields);
    refused(spawn(json!({"port": 0})), "port", "port must be between 1 and 65535, got 0");
    let many: serde_json::Map<String, Value> = (0..65).map(|n| (format!("flag-{n}"), Value::from(n))).collect();
    refused(spawn(json!({"options": many})), "options", "options may hold at most 64 flags, got 65");
    refused(json!({"operation": "worker_process_delete", "pid": 0}), "pid", "pid must be at least 1, got 0");
}

#[test]
fn words_that_nobody_knows_are_refused() {
    refused(
        generation(json!({"scheduler": "euler_b"})),
        "scheduler",
        "scheduler \"euler_b\" is not known; known are ddim, ddpm, pndm, lms, euler, euler_a, heun, dpm2, dpm2_a, \
         dpmpp_2m, dpmpp_2m_sde, dpmpp_2s, unipc, deis, lcm, tcd",
    );
    refused(
        generation(json!({"scheduler": "ddim", "schedule": "karras"})),
        "schedule",
        "scheduler ddim has no schedule karras; leave it out",
    );
}

#[test]
fn ids_are_plain_names() {
    refused(generation(json!({"worker_id": ""})), "worker_id", "worker_id must not be empty");
    refused(
        generation(json!({"hive_id": "../etc"})),
        "hive_id",
        "hive_id must not contain a path separator, got \"../etc\"",
    );
    refused(json!({"operation": "model_get", "id": ".."}), "id", "id must be a plain name, got \"..\"");
    refused(json!({"operation": "model_download", "model": " "}), "model", "model must not be empty");
    refused(json!({"operation": "worker_process_get", "pid": 0}), "pid", "pid must be at least 1, got 0");
}

#[test]
fn options_are_flags() {
    let spawn = |options| json!({"operation": "worker_spawn", "model": "m", "worker": "cpu", "options": options});
    accepted(spawn(json!({"low-memory": true, "threads": 4, "precision": "f16"})));
    refused(
        spawn(json!({"--threads": 4})),
        "options",
        "options holds \"--threads\", which is not the name of a flag (like \"precision\")",
    );
    refused(
        spawn(json!({"threads": [4]})),
        "options.threads",
        "options.threads must be a string, a number or true or false, got [4]",
    );
}

#[test]
fn a_prompt_or_messages_and_not_both() {
    refused(json!({"operation": "infer"}), "prompt", "prompt or messages is required");
    refused(
        infer(json!({"messages": [{"role": "user", "content": "a"}]})),
        "messages",
        "prompt and messages exclude each other; give one of them",
    );
    refused(infer(json!({"prompt": "a".repeat(65537)})), "prompt", "prompt may have at most 65536 bytes, got 65537");
}

fn chat(fields: Value) -> Value {
    with(json!({"operation": "infer", "messages": [{"role": "user", "content": "a"}]}), fields)
}

#[test]
fn tools_are_named_once_and_chosen_among() {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    accepted(chat(json!({"tools": [tool("a-1"), tool("b_2")], "tool_choice": "required"})));
    accepted(chat(json!({"tools": [tool("a")], "response_schema": {"type": "object"}})));
    refused(chat(json!({"tool_choice": "auto"})), "tool_choice", "tool_choice chooses among tools; give tools");
    refused(
        infer(json!({"tools": [tool("a")]})),
        "tools",
        "tools are for a conversation; give messages instead of prompt",
    );
    let name = "tools[0].function.name";
    refused(
        chat(json!({"tools": [tool("a b")]})),
        name,
        "tools[0].function.name must be 1 to 64 letters, digits, '_' and '-'",
    );
    refused(
        chat(json!({"tools": [tool("a"), tool("a")]})),
        "tools[1].function.name",
        "tools holds two functions with the name \"a\"",
    );
    refused(
        chat(json!({"tools": [tool("a")], "tool_choice": tool("b")})),
        "tool_choice.function.name",
        "tool_choice names \"b\", which is none of tools",
    );
    refused(
        chat(json!({"tools": [tool("a")], "tool_choice": "required", "response_schema": {}})),
        "response_schema",
        "response_schema is for an answer, and tool_choice leaves none; give one of them",
    );
    let long = "a".repeat(SCHEMA_BYTES);
    refused(
        chat(json!({"response_schema": {"title": long}})),
        "response_schema",
        "response_schema may have at most 65536 bytes as JSON, got 65548",
    );
    let choice = chat(json!({"tools": [tool("a")], "tool_choice": "always"}));
    let error = Operation::from_value(choice, |_| true).unwrap_err();
    assert_eq!((error.param.as_deref(), error.status()), (Some("tool_choice"), 400));
    assert!(error.message.contains("\"required\""), "{}", error.message);
}

#[test]
fn only_the_assistant_calls_and_only_a_tool_answers_a_call() {
    let says = |message: Value| json!({"operation": "infer", "messages": [message]});
    let call =
        |arguments: &str| json!([{"id": "1", "type": "function", "function": {"name": "a", "arguments": arguments}}]);
    accepted(says(json!({"role": "assistant", "content": "", "tool_calls": call("{}")})));
    accepted(says(json!({"role": "tool", "content": "", "tool_call_id": "1"})));
    refused(
        says(json!({"role": "user", "content": "", "tool_calls": call("{}")})),
        "messages[0].tool_calls",
        "only the assistant calls functions, not the role user",
    );
    refused(
        says(json!({"role": "tool", "content": ""})),
        "messages[0].tool_call_id",
        "messages[0].tool_call_id is required for the role tool",
    );
    refused(
        says(json!({"role": "user", "content": "", "tool_call_id": "1"})),
        "messages[0].tool_call_id",
        "messages[0].tool_call_id is for the role tool, not for user",
    );
    refused(
        says(json!({"role": "assistant", "content": "", "tool_calls": call("[]")})),
        "messages[0].tool_calls[0].function.arguments",
        "messages[0].tool_calls[0].function.arguments must be a JSON object as text: invalid type: sequence, expected \
         a map at line 1 column 0",
    );
}

#[test]
fn images_are_really_of_their_format() {
    for format in [image::ImageFormat::Png, image::ImageFormat::Jpeg, image::ImageFormat::WebP] {
        accepted(transform(json!({"init_image": base64(&picture(format, 9, 7))})));
    }
    refused(
        transform(json!({"init_image": ""})),
        "init_image",
        "init_image is empty; give a PNG, JPEG or WebP in base64",
    );
    refused(inpaint(json!({"mask_image": base64(b"<svg/>")})), "mask_image", "mask_image is not a PNG, JPEG or WebP");
    refused(
        transform(json!({"init_image": base64(b"GIF89a\x01\x00\x01\x00")})),
        "init_image",
        "init_image is Gif; only PNG, JPEG and WebP are read",
    );
    let whole = picture(image::ImageFormat::Png, 64, 64);
    let operation = transform(json!({"init_image": base64(&whole[..whole.len() / 2])}));
    let error = Operation::from_value(operation, |_| true).unwrap().validate().unwrap_err();
    assert_eq!(error.param.as_deref(), Some("init_image"));
    assert!(error.message.starts_with("init_image cannot be decoded: "), "{}", error.message);
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    let mut bomb = picture(image::ImageFormat::Png, 8, 8);
    // IHDR: width and height stand at 16 and 20, its checksum over 12..29 at 29.
    bomb[16..20].copy_from_slice(&100_000_u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&100_000_u32.to_be_bytes());
    let checksum = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
    refused(
        transform(json!({"init_image": base64(&bomb)})),
        "init_image",
        "init_image may be at most 4096 x 4096 pixels, got 100000 x 100000",
    );
}

/// CRC-32 as PNG defines it (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

#[test]
fn an_image_that_is_too_large_is_413() {
    let init_image = Base64Bytes::from(vec![0; IMAGE_BYTES + 1]);
    let error = ImageTransformRequest { init_image, ..Default::default() }.validate().unwrap_err();
    assert_eq!((error.code, error.status()), (ErrorCode::PayloadTooLarge, 413));
    assert_eq!(error.message, "init_image may have at most 33554432 bytes, got 33554433");
}
