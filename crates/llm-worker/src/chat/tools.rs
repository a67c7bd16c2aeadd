//! Functions that a model calls: in which form it writes a call, the grammar of that, and reading it back.

use operations_contract::{ApiError, FunctionCall, FunctionTool, Message, Role, Tool, ToolCall, ToolKind};
use serde_json::{Map, Value, json};

use super::grammar::{Grammar, Strictness};
use super::schema::{SchemaReader, literal, literal_text};

/// Calls in one answer: a small model may not find the end by itself.
const CALLS: usize = 16;

/// How a model writes a call: what its chat template was trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Qwen, Hermes, and whoever is told so in words.
    Tagged,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}]`: Mistral.
    List,
    /// `{"name": …, "parameters": {…}}` and nothing else: Llama 3.
    Bare,
}

/// What a conversation's functions come to.
#[derive(Debug, Clone)]
pub struct Calls {
    format: CallFormat,
    /// What a model writes after [`Calls::trigger`].
    pub grammar: String,
    /// What it writes altogether, where an answer that is no call follows a schema.
    pub whole: Option<String>,
    /// Whether it has to call.
    pub forced: bool,
}

impl CallFormat {
    /// The form that a chat template shows.
    pub fn of(template: &str) -> Self {
        if template.contains("[TOOL_CALLS]") {
            Self::List
        } else if template.contains("\"parameters\"") && !template.contains("<tool_call>") {
            Self::Bare
        } else {
            Self::Tagged
        }
    }

    /// A turn that tells a model in words of functions that its template does not mention.
    pub fn instructions(tools: &[Tool]) -> Message {
        let mut text = String::from(
            "You may call functions to help with the user's request. They are described by JSON schemas:\n<tools>\n",
        );
        for tool in tools {
            text.push_str(&json!(tool).to_string());
            text.push('\n');
        }
        text.push_str(
            "</tools>\nTo call one, answer only with:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <arguments-object>}\n</tool_call>",
        );
        Message::new(Role::System, text)
    }

    const fn arguments(self) -> &'static str {
        match self {
            Self::Tagged | Self::List => "arguments",
            Self::Bare => "parameters",
        }
    }
}

impl Calls {
    /// The calls of these functions. With `forced`, the model writes nothing else; without, what it writes instead follows
    /// `schema`, where there is one.
    ///
    /// # Errors
    /// What one of the schemas cannot be held to.
    pub fn new<'a>(
        format: CallFormat,
        tools: impl Iterator<Item = &'a FunctionTool>,
        forced: bool,
        schema: Option<&Map<String, Value>>,
    ) -> Result<Self, ApiError> {
        let mut grammar = Grammar::default();
        let mut calls = Vec::new();
        let ws = grammar.space();
        for (i, tool) in tools.enumerate() {
            let none = Map::from_iter([("additionalProperties".to_owned(), json!(false))]);
            let parameters = tool.parameters.as_ref().unwrap_or(&none);
            let at = format!("tools[{i}].function.parameters");
            let arguments =
                SchemaReader::new(parameters, Strictness::Lenient, &mut grammar).read(parameters, &at, 0)?;
            let (name, key) = (literal(&Value::from(&*tool.name)), literal(&Value::from(format.arguments())));
            let arguments = grammar.rule("arguments", arguments);
            // After a trigger that has brought the opening brace and the name's key.
            let rest = format!("{ws} {name} {ws} \",\" {ws} {key} {ws} \":\" {ws} {arguments} {ws} \"}}\"");
            calls.push(match format {
                CallFormat::Bare => rest,
                CallFormat::Tagged | CallFormat::List => {
                    let extra = if format == CallFormat::List {
                        format!("({ws} \",\" {ws} \"\\\"id\\\"\" {ws} \":\" {ws} \"\\\"\" [a-zA-Z0-9]{{1,40}} \"\\\"\")?")
                    } else {
                        String::new()
                    };
                    format!(
                        "\"{{\" {ws} \"\\\"name\\\"\" {ws} \":\" {ws} {name} {ws} \",\" {ws} {key} {ws} \":\" {ws} {arguments} {extra} {ws} \"}}\""
                    )
                }
            });
        }
        let call = grammar.rule("call", calls.join(" | "));
        let more = format!("{{0,{}}}", CALLS - 1);
        let root = match format {
            CallFormat::Bare => call,
            CallFormat::List => format!("{ws} \"[\" {ws} {call} ({ws} \",\" {ws} {call}){more} {ws} \"]\""),
            CallFormat::Tagged => {
                format!(
                    "{ws} {call} {ws} \"</tool_call>\" ({ws} \"<tool_call>\" {ws} {call} {ws} \"</tool_call>\"){more}"
                )
            }
        };
        let mut calls = Self { format, grammar: grammar.finish(&root), whole: None, forced };
        if let Some(schema) = schema {
            let mut reader = SchemaReader::new(schema, Strictness::Strict, &mut grammar);
            let answer = reader.read(schema, "response_schema", 0)?;
            let trigger = literal_text(calls.trigger());
            calls.whole = Some(grammar.finish(&format!("({answer}) | {trigger} ({root})")));
        }
        Ok(calls)
    }

    /// With which a call begins.
    pub const fn trigger(&self) -> &'static str {
        match self.format {
            CallFormat::Tagged => "<tool_call>",
            CallFormat::List => "[TOOL_CALLS]",
            CallFormat::Bare => "{\"name\":",
        }
    }

    /// Whether a call can only be the whole text.
    pub const fn only_at_start(&self) -> bool {
        matches!(self.format, CallFormat::Bare)
    }

    /// The calls in what was written after the first trigger; none when it is no call after all, or not a whole one. Of a text that
    /// was cut off these are the ones before.
    pub fn parse(&self, written: &str, new_id: impl Fn() -> String) -> Option<Vec<ToolCall>> {
        let calls = match self.format {
            CallFormat::Bare => objects(&format!("{}{written}", self.trigger())),
            CallFormat::List | CallFormat::Tagged => objects(written),
        };
        let call = |call: Value| {
            let name = call.get("name")?.as_str()?.to_owned();
            let arguments =
                call.get("arguments").or_else(|| call.get("parameters")).filter(|value| value.is_object())?;
            let function = FunctionCall { name, arguments: arguments.to_string() };
            Some(ToolCall { id: new_id(), kind: ToolKind::Function, function })
        };
        let calls = calls.into_iter().map(call).collect::<Option<Vec<_>>>()?;
        (!calls.is_empty()).then_some(calls)
    }
}

/// The objects of a text, until one that is not whole; what is between them is their frame.
fn objects(mut text: &str) -> Vec<Value> {
    let mut found = Vec::new();
    while let Some(begin) = text.find('{') {
        let mut reading = serde_json::Deserializer::from_str(&text[begin..]).into_iter();
        let Some(Ok(object)) = reading.next() else { break };
        found.push(object);
        text = &text[begin + reading.byte_offset()..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(format: CallFormat) -> Calls {
        let weather = FunctionTool {
            name: "weather".to_owned(),
            parameters: Some(Map::from_iter([("type".to_owned(), json!("object"))])),
            ..FunctionTool::default()
        };
        Calls::new(format, [&weather].into_iter(), false, None).unwrap()
    }

    fn parsed(format: CallFormat, written: &str) -> Option<Vec<(String, String)>> {
        let calls = calls(format).parse(written, || "call_1".to_owned())?;
        Some(calls.into_iter().map(|call| (call.function.name, call.function.arguments)).collect())
    }

    #[test]
    fn calls_are_read_in_every_form() {
        let one = || ("weather".to_owned(), r#"{"place":"sea"}"#.to_owned());
        let tagged = "\n{\"name\": \"weather\", \"arguments\": {\"place\": \"sea\"}}\n</tool_call>";
        assert_eq!(parsed(CallFormat::Tagged, tagged), Some(vec![one()]));
        let twice = format!("{tagged}\n<tool_call>{tagged}");
        assert_eq!(parsed(CallFormat::Tagged, &twice), Some(vec![one(), one()]));
        let list = r#"[{"name": "weather", "arguments": {"place": "sea"}, "id": "abc"}]"#;
        assert_eq!(parsed(CallFormat::List, list), Some(vec![one()]));
        assert_eq!(parsed(CallFormat::Bare, r#" "weather", "parameters": {"place": "sea"}}"#), Some(vec![one()]));
        let cut = format!("{twice}\n<tool_call>\n{{\"name\": \"wea");
        assert_eq!(parsed(CallFormat::Tagged, &cut), Some(vec![one(), one()]), "what is whole counts");
        let cut = r#"[{"name": "weather", "arguments": {"place": "sea"}}, {"name": "weather", "argu"#;
        assert_eq!(parsed(CallFormat::List, cut), Some(vec![one()]));
        for broken in ["", "{", "{\"name\": 1}", "[]", "null", "{\"name\": \"a\", \"arguments\": \"b\"}"] {
            for format in [CallFormat::Tagged, CallFormat::List, CallFormat::Bare] {
                assert_eq!(parsed(format, broken), None, "{broken}");
            }
        }
    }

    #[test]
    fn the_form_is_the_templates() {
        assert_eq!(CallFormat::of("{{ '[TOOL_CALLS]' }}"), CallFormat::List);
        assert_eq!(CallFormat::of(r#"{"name": function name, "parameters": …}"#), CallFormat::Bare);
        assert_eq!(CallFormat::of("<tool_call>"), CallFormat::Tagged);
        assert_eq!(CallFormat::of(""), CallFormat::Tagged);
    }
}
