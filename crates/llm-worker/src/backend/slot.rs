//! One of the texts that are written side by side.

use std::time::{Duration, Instant};

use job_server::{CancellationToken, Outcome};
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use operations_contract::{ApiError, FinishReason, InferRequest, Level, Phase, TextCompletion, Usage};
use worker_engine::{Events, Ticket};

use super::prompt::Prompt;
use super::sampling_config::{Sampler, SamplingConfig};
use crate::chat::Calls;
use crate::text::{Writer, Written};

/// How long text is gathered before it is told: less would be events for their own sake.
const GATHER: Duration = Duration::from_millis(50);

/// A sequence of llama.cpp's cache, and the text that is written in it.
pub(super) struct Slot {
    /// Its number in the cache.
    pub sequence: i32,
    /// What the cache holds of it.
    pub cached: Vec<LlamaToken>,
    /// What runs in it.
    pub job: Option<Job>,
    /// When its last text ended.
    pub last_used: Instant,
}

/// A text that is being written.
pub(super) struct Job {
    pub ticket: Ticket,
    pub cancel: CancellationToken,
    /// What is to be computed before the next token is known: the prompt's rest, later the token written last.
    pub ahead: Vec<LlamaToken>,
    /// The place of the next token's numbers among the outputs of the batch.
    pub output: Option<i32>,
    pub sampler: Sampler,
    events: Events,
    prompt_tokens: usize,
    cached_tokens: usize,
    writer: Writer,
    calls: Option<Calls>,
    show_control: bool,
    stream: bool,
    max_tokens: u64,
    written: u64,
    told: u64,
    last_told: Option<Instant>,
}

impl Slot {
    pub(super) fn new(sequence: i32) -> Self {
        Self { sequence, cached: Vec::new(), job: None, last_used: Instant::now() }
    }

    /// How many tokens at the beginning of a prompt the cache holds already. The last one is always computed: its numbers are
    /// what the first token is chosen by.
    pub(super) fn reusable(&self, prompt: &[LlamaToken]) -> usize {
        let common = self.cached.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        common.min(prompt.len().saturating_sub(1))
    }

    /// How much of the prompt is gained by taking this slot. A few tokens that all texts begin with are not worth another text's
    /// cache.
    pub(super) fn worth(&self, prompt: &[LlamaToken]) -> usize {
        const FEW: usize = 16;
        let reusable = self.reusable(prompt);
        if reusable >= FEW || 2 * reusable >= self.cached.len() { reusable } else { 0 }
    }
}

impl Job {
    /// A text that continues `prompt`, of which the first `reused` tokens are computed already.
    pub(super) fn new(
        (ticket, events, cancel): (Ticket, Events, CancellationToken),
        request: &InferRequest,
        prompt: Prompt,
        reused: usize,
        model: &LlamaModel,
    ) -> Result<Self, ApiError> {
        let mut sampler = Sampler::new(&SamplingConfig::from(request), model, &prompt.tokens);
        let mut writer = Writer::new(request.stop.clone());
        if let Some(calls) = &prompt.calls {
            writer = writer.hiding(calls.trigger(), calls.only_at_start());
        }
        let held_to = match &prompt.calls {
            Some(calls) if calls.forced => {
                writer = writer.hidden_at_once();
                Some(&calls.grammar)
            }
            Some(calls) => calls.whole.as_ref(),
            None => prompt.grammar.as_ref(),
        };
        if let Some(grammar) = held_to {
            sampler.hold_to(model, grammar)?;
        }
        for note in &prompt.notes {
            events.narrate(Level::Info, *note);
        }
        Ok(Self {
            ticket,
            cancel,
            ahead: prompt.tokens[reused..].to_vec(),
            output: None,
            sampler,
            events,
            prompt_tokens: prompt.tokens.len(),
            cached_tokens: reused,
            writer,
            show_control: prompt.calls.is_some(),
            calls: prompt.calls,
            stream: request.stream,
            max_tokens: u64::from(request.max_tokens),
            written: 0,
            told: 0,
            last_told: None,
        })
    }

    /// Whether its prompt is still being computed.
    pub(super) fn reads(&self) -> bool {
        self.written == 0
    }

    /// Tells how much of a long prompt is computed.
    pub(super) fn tell_reading(&self) {
        let read = self.prompt_tokens - self.ahead.len();
        self.events.progress(read as u64, self.prompt_tokens as u64, Phase::Encoding);
    }

    /// Takes the next token; the reason, when the text ends with it.
    pub(super) fn take(&mut self, token: Option<LlamaToken>, model: &LlamaModel) -> Option<FinishReason> {
        let vocabulary = model.vocab();
        let Some(token) = token.filter(|token| !vocabulary.is_eog(*token)) else { return Some(FinishReason::Stop) };
        self.written += 1;
        self.ahead.push(token);
        let piece = vocabulary.token_to_piece(token, self.show_control, None);
        match self.writer.push(&piece) {
            Written::Stopped => return Some(FinishReason::Stop),
            // The grammar begins where the trigger ends. Where a token has gone on beyond it, the call is read as it comes.
            Written::Hiding(beyond) => {
                let blank = self.writer.hidden_text().is_some_and(|text| text.trim().is_empty());
                let calls = self.calls.as_ref().filter(|calls| calls.whole.is_none() && (beyond == 0 || blank));
                if let Some(calls) = calls
                    && let Err(error) = self.sampler.hold_to(model, &calls.grammar)
                {
                    tracing::warn!("{error}");
                }
            }
            Written::More => {}
        }
        if self.written >= self.max_tokens {
            return Some(FinishReason::Length);
        }
        self.tell(false);
        None
    }

    /// Tells what was written since the last time, if that is long enough ago.
    fn tell(&mut self, last: bool) {
        if !self.stream || self.last_told.is_some_and(|last_told| !last && last_told.elapsed() < GATHER) {
            return;
        }
        let text = self.writer.take();
        if !text.is_empty() {
            self.events.token(text, self.told);
            self.told += 1;
            self.last_told = Some(Instant::now());
        }
    }

    /// What it came to.
    pub(super) fn finish(mut self, mut reason: FinishReason) -> (Ticket, Outcome) {
        self.tell(true);
        let new_id = || format!("call_{}", uuid::Uuid::new_v4().simple());
        let hidden = self.writer.hidden_text();
        let calls = self.calls.as_ref().zip(hidden).and_then(|(calls, text)| calls.parse(text, new_id));
        let rest = self.writer.finish(calls.is_some());
        if self.stream && !rest.is_empty() {
            self.events.token(rest, self.told);
        }
        if calls.is_some() && reason == FinishReason::Stop {
            reason = FinishReason::ToolCalls;
        }
        let (prompt_tokens, completion_tokens) = (self.prompt_tokens as u64, self.written);
        let usage = Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            cached_tokens: self.cached_tokens as u64,
        };
        let text = self.writer.text().to_owned();
        let completion = TextCompletion { text, finish_reason: reason, tool_calls: calls.unwrap_or_default(), usage };
        (self.ticket, Outcome::Text(completion))
    }
}
