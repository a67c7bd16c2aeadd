//! From a request to the tokens that the model continues.

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use operations_contract::{ApiError, InferRequest, Role, ToolChoice, ToolChoiceMode};

use crate::chat::{CHATML, CallFormat, Calls, ChatTemplate, Strictness, schema_grammar};

/// What a model is asked to continue, and how it is held to a form.
#[derive(Debug, Clone)]
pub struct Prompt {
    pub(super) tokens: Vec<LlamaToken>,
    /// What the whole text follows.
    pub(super) grammar: Option<String>,
    /// How the model calls functions, where it may.
    pub(super) calls: Option<Calls>,
    /// What is worth telling before it begins.
    pub(super) notes: Vec<&'static str>,
}

/// Reads requests: the vocabulary and the chat template of a model, without its weights. It is shared by all who ask, so that
/// what does not fit is refused before there is a job.
pub struct PromptReader {
    vocabulary: LlamaModel,
    template: ChatTemplate,
    has_own_template: bool,
    format: CallFormat,
    begin: Option<String>,
    context: usize,
    longest_token: usize,
}

impl PromptReader {
    /// A reader over a model that was loaded without weights, for texts of at most `context` tokens.
    ///
    /// # Errors
    /// `model_load_failed` when the chat template cannot be read.
    pub fn new(vocabulary: LlamaModel, context: usize) -> Result<Self, ApiError> {
        let vocab = vocabulary.vocab();
        let text = |token: LlamaToken| {
            let known = (0..vocab.n_tokens()).contains(&token.0);
            known.then(|| String::from_utf8_lossy(&vocab.token_to_piece(token, true, None)).into_owned())
        };
        let (bos, eos) = (text(vocab.bos()), text(vocab.eos()));
        let own = vocabulary.chat_template(None).ok().and_then(|template| template.to_string().ok());
        let has_own_template = own.is_some();
        let source = own.unwrap_or_else(|| CHATML.to_owned());
        let format = CallFormat::of(&source);
        let template = ChatTemplate::new(source, bos.clone().unwrap_or_default(), eos.unwrap_or_default())?;
        let begin = bos.filter(|bos| vocab.should_add_bos() && !bos.is_empty());
        let longest_token = vocab.tokens().map(|token| vocab.token_to_piece(token, true, None).len()).max();
        let longest_token = longest_token.unwrap_or(1).max(1);
        Ok(Self { vocabulary, template, has_own_template, format, begin, context, longest_token })
    }

    /// What a request asks to continue.
    ///
    /// # Errors
    /// The prompt does not fit into the context, with both numbers; or the chat template or a schema refuses it.
    pub fn read(&self, request: &InferRequest) -> Result<Prompt, ApiError> {
        let mut notes = Vec::new();
        let mut calls = None;
        let (param, text) = match (&request.prompt, &request.messages) {
            (Some(prompt), _) => ("prompt", prompt.clone()),
            (None, messages) => {
                let mut messages = messages.clone().unwrap_or_default();
                calls = self.calls(request)?;
                if calls.is_some() && !self.template.mentions_tools() {
                    let told = CallFormat::instructions(&request.tools);
                    match messages.first_mut().filter(|first| first.role == Role::System) {
                        Some(system) => system.content = format!("{}\n\n{}", system.content, told.content),
                        None => messages.insert(0, told),
                    }
                    notes.push("the model's chat template knows no functions; they were described in words");
                }
                if !self.has_own_template {
                    notes.push("the model brings no chat template; the messages were written as ChatML");
                }
                let tools = if calls.is_some() { &*request.tools } else { &[] };
                let mut text = self.template.render(&messages, tools)?;
                if let Some(calls) = calls.as_ref().filter(|calls| calls.forced) {
                    text.push_str(calls.trigger());
                }
                ("messages", text)
            }
        };
        let schema = request.response_schema.as_ref().filter(|_| calls.is_none());
        let grammar = schema.map(|schema| schema_grammar(schema, "response_schema", Strictness::Strict)).transpose()?;
        Ok(Prompt { tokens: self.tokens(param, &text)?, grammar, calls, notes })
    }

    /// The tokens of a text, if they leave room in the context.
    ///
    /// # Errors
    /// They do not, with both numbers.
    pub fn tokens(&self, param: &str, text: &str) -> Result<Vec<LlamaToken>, ApiError> {
        let too_long = |tokens: String| {
            let context = self.context;
            let message = format!(
                "{param} has {tokens} tokens and the context holds {context}, one of them for the answer; shorten it, or start the worker with a larger --context"
            );
            ApiError::invalid(param, message)
        };
        // Before a long text is taken apart: so many tokens it has at least.
        let at_least = text.len() / self.longest_token;
        if at_least >= self.context {
            return Err(too_long(format!("at least {at_least}")));
        }
        // A template that writes the first token itself has said it.
        let add_begin = !self.begin.as_ref().is_some_and(|begin| text.starts_with(&**begin));
        let tokens = self.vocabulary.vocab().tokenize(text.as_bytes(), add_begin, true);
        if tokens.len() >= self.context {
            return Err(too_long(tokens.len().to_string()));
        }
        if tokens.is_empty() {
            let message = format!("{param} is empty, and this model has no token to begin with; write something");
            return Err(ApiError::invalid(param, message));
        }
        Ok(tokens)
    }

    /// Tokens that a text may have, the answer counted.
    pub fn context(&self) -> usize {
        self.context
    }

    fn calls(&self, request: &InferRequest) -> Result<Option<Calls>, ApiError> {
        let functions = request.tools.iter().map(|tool| &tool.function);
        let (forced, name) = match &request.tool_choice {
            _ if request.tools.is_empty() => return Ok(None),
            Some(ToolChoice::Mode(ToolChoiceMode::None)) => return Ok(None),
            None | Some(ToolChoice::Mode(ToolChoiceMode::Auto)) => (false, None),
            Some(ToolChoice::Mode(ToolChoiceMode::Required)) => (true, None),
            Some(ToolChoice::Function { function, .. }) => (true, Some(&function.name)),
        };
        let chosen = functions.filter(|function| name.is_none_or(|name| function.name == *name));
        Calls::new(self.format, chosen, forced, request.response_schema.as_ref()).map(Some)
    }
}
