//! What `/v1/chat/completions` and `/v1/completions` have in common.

use super::unserved;
use operations_contract::{ApiError, InferRequest};
use serde::Deserialize;
use serde_json::{Map, Value};

/// How a text is drawn. `top_k`, `min_p` and `repeat_penalty` are not OpenAI's; servers of local models take them.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Sampling {
    model: Option<String>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u32>,
    min_p: Option<f64>,
    repeat_penalty: Option<f64>,
    seed: Option<i64>,
    stop: Option<Stop>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    n: Option<u32>,
    best_of: Option<u32>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    logit_bias: Option<Map<String, Value>>,
    /// A truth value in conversations, a number in completions.
    logprobs: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "must be a string or an array of strings")]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl Sampling {
    pub(super) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    pub(super) fn includes_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage)
    }

    pub(super) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// The request without what is asked.
    ///
    /// # Errors
    /// A field that is not served.
    pub(super) fn request(self) -> Result<InferRequest, ApiError> {
        let set = |value: Option<f64>| value.is_some_and(|value| value != 0.0);
        unserved("n", self.n.is_some_and(|n| n != 1), "ask again for another answer")?;
        unserved("best_of", self.best_of.is_some_and(|n| n != 1), "ask again for another answer")?;
        unserved("frequency_penalty", set(self.frequency_penalty), "use repeat_penalty")?;
        unserved("presence_penalty", set(self.presence_penalty), "use repeat_penalty")?;
        unserved("logit_bias", self.logit_bias.as_ref().is_some_and(|bias| !bias.is_empty()), "leave it away")?;
        let no_logprobs = matches!(self.logprobs, None | Some(Value::Null | Value::Bool(false)));
        unserved("logprobs", !no_logprobs, "leave it away")?;
        let stream = self.streams();
        let default = InferRequest::default();
        Ok(InferRequest {
            model: self.model,
            max_tokens: self.max_completion_tokens.or(self.max_tokens).unwrap_or(default.max_tokens),
            temperature: self.temperature.unwrap_or(default.temperature),
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            seed: self.seed.map(i64::cast_unsigned),
            stop: match self.stop {
                None => Vec::new(),
                Some(Stop::One(word)) => vec![word],
                Some(Stop::Many(words)) => words,
            },
            stream,
            ..default
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(given: Value) -> Result<InferRequest, ApiError> {
        serde_json::from_value::<Sampling>(given).unwrap().request()
    }

    #[test]
    fn fields_reach_the_operation() {
        let read = request(json!({
            "model": "m", "max_tokens": 5, "max_completion_tokens": 7, "temperature": 0, "top_p": 0.5, "seed": -1,
            "stop": "x", "stream": true, "n": 1, "presence_penalty": 0, "user": "ada", "store": false,
        }))
        .unwrap();
        let expected = InferRequest {
            model: Some("m".into()),
            max_tokens: 7,
            temperature: 0.0,
            top_p: Some(0.5),
            seed: Some(u64::MAX),
            stop: vec!["x".into()],
            ..InferRequest::default()
        };
        assert_eq!(read, expected);
        assert_eq!(request(json!({"stop": ["a", "b"]})).unwrap().stop, ["a", "b"]);
    }

    #[test]
    fn what_would_change_the_answer_and_is_not_served_is_refused() {
        let refused = [
            ("n", json!(2)),
            ("best_of", json!(3)),
            ("frequency_penalty", json!(0.5)),
            ("presence_penalty", json!(-1)),
            ("logit_bias", json!({"50256": -100})),
            ("logprobs", json!(true)),
        ];
        for (name, value) in refused {
            let error = request(json!({name: value})).unwrap_err();
            assert_eq!((error.status(), error.param.as_deref()), (422, Some(name)));
        }
    }
}
