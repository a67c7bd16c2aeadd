//! The chat template out of a GGUF: Jinja as Hugging Face's transformers render it.

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use operations_contract::{ApiError, ErrorCode, Message, Role, Tool};
use serde::Serialize as _;
use serde_json::ser::{CharEscape, Formatter, Serializer};
use serde_json::{Map, json};

/// The form of a model that brings no template: the most common one.
pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + \
     '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const NAME: &str = "chat";

/// A chat template that can be rendered.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    mentions_tools: bool,
}

impl ChatTemplate {
    /// A template with the texts of the tokens that it may name.
    ///
    /// # Errors
    /// `model_load_failed` when it is no Jinja.
    pub fn new(source: String, bos: String, eos: String) -> Result<Self, ApiError> {
        let broken = |error: Error| {
            let message = format!("the chat template of the model cannot be read: {error:#}");
            ApiError::new(ErrorCode::ModelLoadFailed, message)
        };
        let mut environment = Environment::new();
        // As transformers sets Jinja up.
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(broken)?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        let mentions_tools = source.contains("tools");
        environment.add_template_owned(NAME, source).map_err(broken)?;
        Ok(Self { environment, bos, eos, mentions_tools })
    }

    /// Whether it tells the model about `tools` itself.
    pub fn mentions_tools(&self) -> bool {
        self.mentions_tools
    }

    /// The text that is continued with the model's answer.
    ///
    /// # Errors
    /// `unsupported_by_model` when the template refuses the conversation, with its own words.
    pub fn render(&self, messages: &[Message], tools: &[Tool]) -> Result<String, ApiError> {
        let turns: Vec<serde_json::Value> = messages.iter().map(|message| turn(message, messages)).collect();
        let tools = (!tools.is_empty()).then_some(tools);
        let variables = context! {
            messages => Serde(turns),
            tools => Serde(tools),
            add_generation_prompt => true,
            bos_token => &*self.bos,
            eos_token => &*self.eos,
        };
        let rendered = self.environment.get_template(NAME).and_then(|template| template.render(variables));
        rendered.map_err(|error| {
            let why = error.detail().map_or_else(|| error.to_string(), str::to_owned);
            let message = format!("the model's chat template refuses these messages: {why}");
            ApiError::new(ErrorCode::UnsupportedByModel, message).with_param("messages")
        })
    }
}

/// A turn as templates expect it: arguments are objects, and who answers a call has the function's name.
fn turn(message: &Message, all: &[Message]) -> serde_json::Value {
    let mut turn = Map::new();
    turn.insert("role".to_owned(), json!(message.role.as_str()));
    turn.insert("content".to_owned(), json!(message.content));
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            let arguments: serde_json::Value = serde_json::from_str(&call.function.arguments).unwrap_or_default();
            json!({
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": arguments},
            })
        });
        turn.insert("tool_calls".to_owned(), calls.collect());
    }
    if let (Role::Tool, Some(id)) = (message.role, &message.tool_call_id) {
        let mut calls = all.iter().flat_map(|message| &message.tool_calls);
        if let Some(call) = calls.find(|call| call.id == *id) {
            turn.insert("name".to_owned(), json!(call.function.name));
        }
        turn.insert("tool_call_id".to_owned(), json!(id));
    }
    serde_json::Value::Object(turn)
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)` of Python, which templates were written against: minijinja's own
/// filter escapes what HTML minds and leaves out the spaces.
#[expect(clippy::needless_pass_by_value, reason = "a filter is handed its options")]
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Templates may say `ensure_ascii`, `separators` and `sort_keys`; those that matter are as they ask.
    let _: (Option<bool>, Option<Value>, Option<bool>) =
        (options.get("ensure_ascii")?, options.get("separators")?, options.get("sort_keys")?);
    options.assert_all_used()?;
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut text = Vec::new();
    let written = match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut text, formatter))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut text, Python)),
    };
    written.map_err(failed)?;
    Ok(Value::from_safe_string(String::from_utf8_lossy(&text).into_owned()))
}

/// The separators of Python's `json`: `", "` and `": "`.
struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        serde_json::ser::CompactFormatter.write_char_escape(writer, escape)
    }
}
