//! JSON schemas as grammars in llama.cpp's GBNF, so that what a model writes follows them.
//!
//! What a grammar can hold: types, properties in their order, required or not, items and their number, the length of
//! strings, enumerations, constants, alternatives, and references inside the schema. A keyword that constrains and cannot be
//! held is refused by its name, or passed over where a schema only describes a function's arguments.

use std::fmt::Write as _;

use operations_contract::ApiError;
use serde_json::{Map, Value};

use super::grammar::{Grammar, Strictness};

/// llama.cpp refuses grammars that repeat more often.
const REPEATED: u64 = 1000;
/// Schemas inside schemas; a reference back to an outer one is a rule and costs none.
const DEEP: usize = 64;

/// What only describes.
const ANNOTATIONS: &[&str] = &[
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "format",
    "strict",
    "nullable",
    "discriminator",
];
/// What is held.
const HELD: &[&str] = &[
    "$ref",
    "type",
    "enum",
    "const",
    "anyOf",
    "oneOf",
    "allOf",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
];

/// The grammar of JSON that follows `schema`. `param` is the field that it came in.
///
/// # Errors
/// What cannot be held to, by its place in the schema.
pub fn schema_grammar(schema: &Map<String, Value>, param: &str, strictness: Strictness) -> Result<String, ApiError> {
    let mut grammar = Grammar::default();
    let root = SchemaReader::new(schema, strictness, &mut grammar).read(schema, param, 0)?;
    Ok(grammar.finish(&root))
}

/// Turns the schemas of one document into rules.
pub(super) struct SchemaReader<'a> {
    document: &'a Map<String, Value>,
    strictness: Strictness,
    grammar: &'a mut Grammar,
    /// References that are rules already, so that a schema may hold itself.
    references: Vec<(String, String)>,
}

impl<'a> SchemaReader<'a> {
    pub(super) fn new(document: &'a Map<String, Value>, strictness: Strictness, grammar: &'a mut Grammar) -> Self {
        Self { document, strictness, grammar, references: Vec::new() }
    }

    /// The expression for a schema.
    pub(super) fn read(&mut self, schema: &Map<String, Value>, at: &str, depth: usize) -> Result<String, ApiError> {
        if depth > DEEP {
            return Err(ApiError::invalid(at, format!("{at} lies deeper than {DEEP} schemas")));
        }
        if self.strictness == Strictness::Strict
            && let Some(word) = schema.keys().find(|key| !ANNOTATIONS.contains(&&***key) && !HELD.contains(&&***key))
        {
            let message = format!("{at}.{word} cannot be held to; leave it out and check the answer");
            return Err(ApiError::invalid(&format!("{at}.{word}"), message));
        }
        if let Some(Value::String(reference)) = schema.get("$ref") {
            return self.reference(reference, at, depth);
        }
        if let Some(constant) = schema.get("const") {
            return Ok(literal(constant));
        }
        if let Some(Value::Array(values)) = schema.get("enum") {
            return alternatives(values.iter().map(|value| Ok(literal(value))), &format!("{at}.enum"));
        }
        for word in ["anyOf", "oneOf"] {
            if let Some(Value::Array(schemas)) = schema.get(word) {
                let at = format!("{at}.{word}");
                let read = schemas.iter().enumerate().map(|(i, each)| self.any(each, &format!("{at}[{i}]"), depth + 1));
                return alternatives(read.collect::<Vec<_>>().into_iter(), &at);
            }
        }
        if let Some(Value::Array(parts)) = schema.get("allOf") {
            let whole = self.all_of(schema, parts, &format!("{at}.allOf"))?;
            return self.read(&whole, at, depth + 1);
        }
        match schema.get("type") {
            Some(Value::Array(kinds)) => {
                let read = kinds.iter().map(|kind| self.kind(kind.as_str(), schema, at, depth));
                alternatives(read.collect::<Vec<_>>().into_iter(), &format!("{at}.type"))
            }
            Some(kind) => self.kind(kind.as_str(), schema, at, depth),
            None if schema.contains_key("properties") || schema.contains_key("additionalProperties") => {
                self.object(schema, at, depth)
            }
            None if schema.contains_key("items") || schema.contains_key("prefixItems") => self.array(schema, at, depth),
            None => Ok(self.grammar.value()),
        }
    }

    /// A schema may also be `true`: anything.
    fn any(&mut self, schema: &Value, at: &str, depth: usize) -> Result<String, ApiError> {
        match schema {
            Value::Object(schema) => self.read(schema, at, depth),
            Value::Bool(true) => Ok(self.grammar.value()),
            _ => Err(ApiError::invalid(at, format!("{at} must be a schema, which is an object"))),
        }
    }

    fn kind(
        &mut self,
        kind: Option<&str>,
        schema: &Map<String, Value>,
        at: &str,
        depth: usize,
    ) -> Result<String, ApiError> {
        match kind {
            Some("object") => self.object(schema, at, depth),
            Some("array") => self.array(schema, at, depth),
            Some("string") => self.string(schema, at),
            Some("integer") => Ok(self.grammar.integer()),
            Some("number") => Ok(self.grammar.number()),
            Some("boolean") => Ok("(\"true\" | \"false\")".to_owned()),
            Some("null") => Ok("\"null\"".to_owned()),
            _ => {
                let at = format!("{at}.type");
                let message = format!("{at} must be object, array, string, integer, number, boolean or null");
                Err(ApiError::invalid(&at, message))
            }
        }
    }

    fn string(&mut self, schema: &Map<String, Value>, at: &str) -> Result<String, ApiError> {
        let (min, max) = (count(schema, "minLength", at)?, count(schema, "maxLength", at)?);
        if min.is_none() && max.is_none() {
            return Ok(self.grammar.string());
        }
        let char = self.grammar.char();
        Ok(format!("\"\\\"\" {char}{} \"\\\"\"", times(min.unwrap_or(0), max)))
    }

    /// Properties come in the schema's order. `more` rules stand after a property that was written, so that they begin
    /// with a comma; `first` rules before any.
    fn object(&mut self, schema: &Map<String, Value>, at: &str, depth: usize) -> Result<String, ApiError> {
        let none = Map::new();
        let properties = match schema.get("properties") {
            Some(Value::Object(properties)) => properties,
            _ => &none,
        };
        let required = match schema.get("required") {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let mut members = Vec::new();
        for (name, property) in properties {
            let value = self.any(property, &format!("{at}.properties.{name}"), depth + 1)?;
            let ws = self.grammar.space();
            let member = format!("{} {ws} \":\" {ws} {value}", literal(&Value::from(&**name)));
            members.push((self.grammar.rule("member", member), required.contains(&&**name)));
        }
        if let Some(missing) = required.iter().find(|name| !properties.contains_key(**name)) {
            let message = format!("{at}.required names {missing:?}, which is none of its properties");
            return Err(ApiError::invalid(&format!("{at}.required"), message));
        }
        let others = match schema.get("additionalProperties") {
            Some(Value::Bool(true)) => Some(self.grammar.value()),
            Some(Value::Object(others)) => Some(self.read(others, &format!("{at}.additionalProperties"), depth + 1)?),
            None if members.is_empty() => return Ok(self.grammar.object()),
            _ => None,
        };
        let ws = self.grammar.space();
        let mut more = String::new();
        let mut first = String::new();
        if let Some(value) = others {
            let string = self.grammar.string();
            let member = self.grammar.rule("member", format!("{string} {ws} \":\" {ws} {value}"));
            more = format!("(\",\" {ws} {member})*");
            first = format!("({member} {more})?");
        }
        for (member, required) in members.into_iter().rev() {
            let (next_more, next_first) = if required {
                (format!("\",\" {ws} {member} {more}"), format!("{member} {more}"))
            } else {
                let without = if first.is_empty() { String::new() } else { format!(" | {first}") };
                (
                    format!("(\",\" {ws} {member})? {more}"),
                    format!("({member} {more}{without}){}", if first.is_empty() { "?" } else { "" }),
                )
            };
            more = self.grammar.rule("more", next_more);
            first = self.grammar.rule("first", next_first);
        }
        Ok(format!("\"{{\" {ws} {first} {ws} \"}}\""))
    }

    fn array(&mut self, schema: &Map<String, Value>, at: &str, depth: usize) -> Result<String, ApiError> {
        let (min, max) = (count(schema, "minItems", at)?.unwrap_or(0), count(schema, "maxItems", at)?);
        let ws = self.grammar.space();
        let comma = format!("{ws} \",\" {ws}");
        if let Some(Value::Array(items)) = schema.get("prefixItems") {
            let mut read = Vec::new();
            for (i, item) in items.iter().enumerate() {
                read.push(self.any(item, &format!("{at}.prefixItems[{i}]"), depth + 1)?);
            }
            return Ok(format!("\"[\" {ws} {} {ws} \"]\"", read.join(&format!(" {comma} "))));
        }
        let item = match schema.get("items") {
            Some(items) => self.any(items, &format!("{at}.items"), depth + 1)?,
            None => self.grammar.value(),
        };
        if max == Some(0) {
            return Ok(format!("\"[\" {ws} \"]\""));
        }
        let item = self.grammar.rule("item", item);
        let rest = times(min.saturating_sub(1), max.map(|max| max - 1));
        let filled = format!("{item} ({comma} {item}){rest}");
        let filled = if min == 0 { format!("({filled})?") } else { filled };
        Ok(format!("\"[\" {ws} {filled} {ws} \"]\""))
    }

    /// A reference is a rule of its own, which is there before what it means is read.
    fn reference(&mut self, reference: &str, at: &str, depth: usize) -> Result<String, ApiError> {
        if let Some((_, rule)) = self.references.iter().find(|(known, _)| known == reference) {
            return Ok(rule.clone());
        }
        let wrong = || {
            let message = format!("{at}.$ref {reference:?} must be a place in this schema, like \"#/$defs/name\"");
            ApiError::invalid(&format!("{at}.$ref"), message)
        };
        let rule = self.grammar.reserve("ref");
        self.references.push((reference.to_owned(), rule.clone()));
        let document = self.document;
        let target = if reference == "#" {
            document
        } else {
            let mut parts = reference.strip_prefix("#/").ok_or_else(wrong)?.split('/');
            let first = parts.next().and_then(|part| document.get(&unescaped(part)));
            let found = parts.try_fold(first.ok_or_else(wrong)?, |value, part| value.get(unescaped(part)));
            found.and_then(Value::as_object).ok_or_else(wrong)?
        };
        if matches!(target.get("$ref"), Some(Value::String(again)) if again == reference) {
            return Err(wrong());
        }
        let meant = self.read(target, at, depth + 1)?;
        self.grammar.define(&rule, meant);
        Ok(rule)
    }

    /// Objects that hold together are one object.
    fn all_of(&self, schema: &Map<String, Value>, parts: &[Value], at: &str) -> Result<Map<String, Value>, ApiError> {
        let mut whole = schema.clone();
        whole.remove("allOf");
        for (i, part) in parts.iter().enumerate() {
            let mut part = part.as_object();
            if let Some(Value::String(reference)) = part.and_then(|part| part.get("$ref")) {
                let place = reference.strip_prefix('#').unwrap_or_default();
                let document = Value::Object(self.document.clone());
                let found = document.pointer(place).and_then(Value::as_object).cloned();
                let Some(found) = found else {
                    let message = format!("{at}[{i}].$ref {reference:?} is no place in this schema");
                    return Err(ApiError::invalid(&format!("{at}[{i}].$ref"), message));
                };
                merge(&mut whole, &found);
                continue;
            }
            match part.take() {
                Some(part) => merge(&mut whole, part),
                None => return Err(ApiError::invalid(at, format!("{at}[{i}] must be a schema, which is an object"))),
            }
        }
        Ok(whole)
    }
}

fn merge(whole: &mut Map<String, Value>, part: &Map<String, Value>) {
    for (key, value) in part {
        match (whole.get_mut(key), value) {
            (Some(Value::Object(known)), Value::Object(more)) => known.extend(more.clone()),
            (Some(Value::Array(known)), Value::Array(more)) => known.extend(more.clone()),
            (Some(_), _) => {}
            (None, _) => {
                whole.insert(key.clone(), value.clone());
            }
        }
    }
}

/// The grammar's expression for exactly this JSON.
pub(super) fn literal(value: &Value) -> String {
    literal_text(&value.to_string())
}

/// The grammar's expression for exactly this text.
pub(super) fn literal_text(written: &str) -> String {
    let mut text = String::from("\"");
    for char in written.chars() {
        match char {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            char => text.push(char),
        }
    }
    text.push('"');
    text
}

fn alternatives(
    expressions: impl ExactSizeIterator<Item = Result<String, ApiError>>,
    at: &str,
) -> Result<String, ApiError> {
    if expressions.len() == 0 {
        return Err(ApiError::invalid(at, format!("{at} is empty, so that nothing could follow it")));
    }
    let expressions = expressions.collect::<Result<Vec<_>, _>>()?;
    Ok(format!("({})", expressions.join(" | ")))
}

fn count(schema: &Map<String, Value>, word: &str, at: &str) -> Result<Option<u64>, ApiError> {
    match schema.get(word) {
        None => Ok(None),
        Some(value) => match value.as_u64().filter(|count| *count <= REPEATED) {
            Some(count) => Ok(Some(count)),
            None => {
                let at = format!("{at}.{word}");
                let message = format!("{at} must be a whole number up to {REPEATED}, got {value}");
                Err(ApiError::invalid(&at, message))
            }
        },
    }
}

fn times(min: u64, max: Option<u64>) -> String {
    let mut text = format!("{{{min},");
    if let Some(max) = max {
        let _ = write!(text, "{}", max.max(min));
    }
    text.push('}');
    text
}

/// A part of a JSON pointer (RFC 6901).
fn unescaped(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}
