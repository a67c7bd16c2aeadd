//! JSON as Python's `json` module writes it.

use serde_json::{Map, Value};

/// An object of JSON as Python writes it: with `Infinity`, `-Infinity` and `NaN` outside strings, which become strings here.
///
/// `DPMSolverMultistepScheduler` saves `"lambda_min_clipped": -Infinity`.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn parse_object(json: &str) -> Result<Map<String, Value>, String> {
    let mut quoted = String::with_capacity(json.len());
    for (n, part) in split_strings(json).into_iter().enumerate() {
        if n % 2 == 1 {
            quoted.push_str(part);
            continue;
        }
        let part = part.replace("-Infinity", "\u{1}");
        let part = part.replace("Infinity", "\"Infinity\"").replace("NaN", "\"NaN\"");
        quoted.push_str(&part.replace('\u{1}', "\"-Infinity\""));
    }
    match serde_json::from_str(&quoted) {
        Ok(Value::Object(keys)) => Ok(keys),
        Ok(_) => Err("is not a JSON object".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// The text cut at its strings: even parts are outside, odd parts are strings with their quotes.
fn split_strings(json: &str) -> Vec<&str> {
    let (mut parts, mut start, mut inside, mut escaped) = (Vec::new(), 0, false, false);
    for (i, byte) in json.bytes().enumerate() {
        match byte {
            b'\\' if inside => escaped = !escaped,
            b'"' if !escaped => {
                let end = if inside { i + 1 } else { i };
                parts.push(&json[start..end]);
                (start, inside) = (end, !inside);
            }
            _ => escaped = false,
        }
    }
    parts.push(&json[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infinities_outside_strings_become_strings() {
        let object = parse_object(r#"{"a": -Infinity, "b": [Infinity, NaN, 1], "Infinity \"NaN\\": "-Infinity\\\""}"#);
        let expected = r#"{"a": "-Infinity", "b": ["Infinity", "NaN", 1], "Infinity \"NaN\\": "-Infinity\\\""}"#;
        assert_eq!(Value::Object(object.unwrap()), serde_json::from_str::<Value>(expected).unwrap());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert_eq!(parse_object("[Infinity]").unwrap_err(), "is not a JSON object");
        for json in ["", "{", "\"", "{\"a\": \"\\", "Infinity", "{\"a\": Infinit}"] {
            assert!(parse_object(json).is_err(), "{json}");
        }
    }
}
