//! Continuous batching: one batch after the other, each with the next token of every text that is written and a piece of the
//! prompts that are read.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use job_server::{CancellationToken, Outcome};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use operations_contract::{ApiError, ErrorCode, FinishReason};
use worker_engine::{BatchModel, BatchSession, Events, PipelineError, Ticket};

use super::embedder::Embedder;
use super::prompt::PromptReader;
use super::request_queue::{Embedding, Inference, LlmRequest};
use super::slot::{Job, Slot};

/// Tokens of a prompt that are computed at once: llama.cpp's own number.
const BATCH: usize = 512;
/// How long the others wait for their next token while a prompt is read.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long it may take until a lonely prompt notices that nobody wants it any more. Each batch reads all weights anew, and so a
/// prompt in small batches takes longer.
const ALONE: Duration = Duration::from_secs(4);
/// Fewer tokens at once than this use a processor badly.
const FEWEST: usize = 32;

/// How a model is run.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// Texts that are written side by side.
    pub slots: usize,
    /// Tokens of each, prompt and answer.
    pub context: usize,
    /// Threads that compute.
    pub threads: usize,
}

/// A loaded model, and how it is run.
pub struct InferencePipeline {
    backend: Arc<LlamaBackend>,
    model: LlamaModel,
    reader: Arc<PromptReader>,
    options: RunOptions,
}

impl InferencePipeline {
    /// A worker's pipeline over a loaded model.
    pub fn new(backend: Arc<LlamaBackend>, model: LlamaModel, reader: Arc<PromptReader>, options: RunOptions) -> Self {
        Self { backend, model, reader, options }
    }
}

impl BatchModel for InferencePipeline {
    type Request = LlmRequest;
    type Session<'model> = Session<'model>;

    fn session(&self) -> Result<Session<'_>, ApiError> {
        let RunOptions { slots, context, threads } = self.options;
        let tokens = u32::try_from(slots * context).ok().and_then(NonZeroU32::new);
        let threads = i32::try_from(threads).unwrap_or(i32::MAX);
        let params = LlamaContextParams::default()
            .with_n_ctx(tokens)
            .with_n_seq_max(slots as u32)
            .with_n_batch(BATCH.max(slots) as u32)
            .with_n_ubatch(BATCH as u32)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_no_perf(true);
        let llama = self.model.new_context(&self.backend, params).map_err(|error| {
            let message = format!(
                "llama.cpp could not make a context of {slots} times {context} tokens: {error}; give a smaller --context or --slots"
            );
            ApiError::new(ErrorCode::OutOfMemory, message)
        })?;
        Ok(Session {
            llama,
            pipeline: self,
            batch: LlamaBatch::new(BATCH.max(slots), 1),
            slots: (0..slots as i32).map(Slot::new).collect(),
            embeddings: Vec::new(),
            embedder: None,
            seconds_a_token: None,
        })
    }
}

/// The texts that are being written.
pub struct Session<'model> {
    llama: LlamaContext<'model>,
    pipeline: &'model InferencePipeline,
    batch: LlamaBatch<'static>,
    slots: Vec<Slot>,
    embeddings: Vec<(Ticket, Embedding, CancellationToken)>,
    embedder: Option<Embedder<'model>>,
    /// How long a prompt's token took lately.
    seconds_a_token: Option<f64>,
}

type Ended = Vec<(Ticket, Result<Outcome, PipelineError>)>;

impl BatchSession for Session<'_> {
    type Request = LlmRequest;

    fn has_room(&self) -> bool {
        self.embeddings.is_empty() && self.slots.iter().any(|slot| slot.job.is_none())
    }

    fn admit(
        &mut self,
        ticket: Ticket,
        request: LlmRequest,
        events: Events,
        cancel: CancellationToken,
    ) -> Result<(), PipelineError> {
        match request {
            LlmRequest::Infer(inference) => self.begin(*inference, (ticket, events, cancel))?,
            LlmRequest::Embed(embedding) => self.embeddings.push((ticket, embedding, cancel)),
        }
        Ok(())
    }

    fn step(&mut self) -> Ended {
        let mut ended = self.embed();
        for slot in &mut self.slots {
            if let Some(job) = slot.job.take_if(|job| job.cancel.is_cancelled()) {
                ended.push((job.ticket, Err(PipelineError::Cancelled)));
            }
        }
        let fed = self.fill();
        if self.batch.n_tokens() == 0 {
            return ended;
        }
        let begun = Instant::now();
        if let Err(error) = self.llama.decode(&mut self.batch) {
            let error = ApiError::internal(format!("llama.cpp could not compute the next tokens: {error}"));
            tracing::error!("{error}");
            for slot in &mut self.slots {
                ended.extend(slot.job.take().map(|job| (job.ticket, Err(error.clone().into()))));
            }
            self.forget();
            return ended;
        }
        if fed > 0 {
            self.llama.synchronize();
            let seconds = begun.elapsed().as_secs_f64() / f64::from(self.batch.n_tokens());
            self.seconds_a_token = Some(self.seconds_a_token.map_or(seconds, |before| 0.5 * (before + seconds)));
        }
        self.choose(&mut ended);
        ended
    }
}

impl Session<'_> {
    /// Takes a text in: into the free slot that knows its prompt best, of equal ones the one that was left alone longest.
    fn begin(
        &mut self,
        Inference { request, prompt }: Inference,
        (ticket, events, cancel): (Ticket, Events, CancellationToken),
    ) -> Result<(), ApiError> {
        let prompt = match prompt {
            Some(prompt) => prompt,
            None => self.pipeline.reader.read(&request)?,
        };
        let free = self.slots.iter_mut().filter(|slot| slot.job.is_none());
        let best = free.max_by_key(|slot| (slot.worth(&prompt.tokens), std::cmp::Reverse(slot.last_used)));
        let Some(slot) = best else { return Err(ApiError::internal("a text was taken in without a place for it")) };
        let mut reused = slot.reusable(&prompt.tokens);
        let from = u32::try_from(reused).ok();
        if self.llama.clear_kv_cache_seq(Some(slot.sequence as u32), from, None).is_ok_and(|removed| removed) {
            slot.cached.truncate(reused);
        } else {
            // A recurrent model's state cannot go back.
            let _ = self.llama.clear_kv_cache_seq(Some(slot.sequence as u32), None, None);
            slot.cached.clear();
            reused = 0;
        }
        tracing::debug!("{} tokens, {reused} of them known, in sequence {}", prompt.tokens.len(), slot.sequence);
        let job = Job::new((ticket, events, cancel), &request, prompt, reused, &self.pipeline.model)?;
        slot.job = Some(job);
        Ok(())
    }

    /// Fills the batch: the token that each text wrote last, and of the prompts what there is time for. Returns how many tokens of
    /// prompts are in it.
    fn fill(&mut self) -> usize {
        self.batch.clear();
        let writing = |slot: &Slot| slot.job.as_ref().is_some_and(|job| !job.reads());
        let alone = !self.slots.iter().any(writing);
        let patience = if alone { ALONE } else { PATIENCE };
        let in_time = self.seconds_a_token.map_or(BATCH, |seconds| (patience.as_secs_f64() / seconds) as usize);
        let total = self.slots.iter().filter_map(|slot| slot.job.as_ref()).map(|job| job.ahead.len()).sum();
        let waiting: Vec<_> = self.slots.iter().map(|slot| slot.job.as_ref().map(Waiting::of)).collect();
        let shares = shares(room(in_time, total, alone), &waiting);
        let mut fed = 0;
        // In the order of the sequences, since llama.cpp computes only neighbours together.
        for ((slot, share), waiting) in self.slots.iter_mut().zip(shares).zip(waiting) {
            let count = feed(&mut self.batch, slot, share);
            fed += if matches!(waiting, Some(Waiting::Prompt { .. })) { count } else { 0 };
        }
        fed
    }

    /// Chooses the next token of every text whose numbers are there.
    fn choose(&mut self, ended: &mut Ended) {
        let context = self.pipeline.options.context;
        let model = &self.pipeline.model;
        for slot in &mut self.slots {
            let Some(job) = &mut slot.job else { continue };
            let Some(output) = job.output.take() else {
                job.tell_reading();
                continue;
            };
            let token = job.sampler.sample(&self.llama, output);
            let full = slot.cached.len() >= context;
            let reason = job.take(token, model).or_else(|| full.then_some(FinishReason::Length));
            if let Some(reason) = reason
                && let Some(job) = slot.job.take()
            {
                slot.last_used = Instant::now();
                let (ticket, outcome) = job.finish(reason);
                ended.push((ticket, Ok(outcome)));
            }
        }
    }

    /// One request for numbers instead of words.
    fn embed(&mut self) -> Ended {
        let Some((ticket, embedding, cancel)) = self.embeddings.pop() else { return Vec::new() };
        let pipeline = self.pipeline;
        let embedder = match &mut self.embedder {
            Some(embedder) => embedder,
            none => match Embedder::new(&pipeline.backend, &pipeline.model, pipeline.options) {
                Ok(embedder) => none.insert(embedder),
                Err(error) => return vec![(ticket, Err(error.into()))],
            },
        };
        vec![(ticket, embedder.embed(&embedding, &cancel))]
    }

    /// After a batch that failed nobody knows what the cache holds.
    fn forget(&mut self) {
        self.llama.clear_kv_cache();
        for slot in &mut self.slots {
            slot.cached.clear();
        }
    }
}

/// Tokens that a batch has room for, of those that wait.
fn room(in_time: usize, waiting: usize, alone: bool) -> usize {
    let room = in_time.clamp(FEWEST, BATCH).next_multiple_of(FEWEST);
    // A last batch of a few tokens would read all weights once more for them.
    let stretched = (room + room / 2).min(BATCH);
    if alone && waiting <= stretched { room.max(waiting) } else { room }
}

/// What a text waits for.
#[derive(Debug, Clone, Copy)]
enum Waiting {
    /// Its next token.
    Token,
    /// So many tokens of its prompt to be read.
    Prompt { ticket: Ticket, tokens: usize },
}

impl Waiting {
    fn of(job: &Job) -> Self {
        if job.reads() { Self::Prompt { ticket: job.ticket, tokens: job.ahead.len() } } else { Self::Token }
    }
}

/// How many tokens of each text a batch takes: one of all that are written, and of the prompts first the oldest's. llama.cpp
/// computes a batch in parts, each of as many tokens of every sequence in it, and reads all weights for every part; so another
/// prompt joins only where it fits as a whole.
fn shares(room: usize, waiting: &[Option<Waiting>]) -> Vec<usize> {
    let mut shares = vec![0; waiting.len()];
    let mut prompts = Vec::new();
    for (i, waiting) in waiting.iter().enumerate() {
        match *waiting {
            None => {}
            Some(Waiting::Token) => shares[i] = 1,
            Some(Waiting::Prompt { ticket, tokens }) => prompts.push((ticket, tokens, i)),
        }
    }
    prompts.sort_unstable();
    let written: usize = shares.iter().sum();
    // However many are written, a prompt gets on.
    let mut left = room.saturating_sub(written).max(1);
    for (place, (_, tokens, i)) in prompts.into_iter().enumerate() {
        if place == 0 || tokens <= left {
            shares[i] = tokens.min(left);
            left -= shares[i];
        }
    }
    shares
}

/// Puts at most `room` of a text's tokens into the batch; how many it were. With the last of them its next token is chosen.
fn feed(batch: &mut LlamaBatch<'_>, slot: &mut Slot, room: usize) -> usize {
    let Some(job) = &mut slot.job else { return 0 };
    let count = job.ahead.len().min(room);
    let whole = count == job.ahead.len();
    for (i, token) in job.ahead.drain(..count).enumerate() {
        let last = whole && i + 1 == count;
        let added = batch.add(token, slot.cached.len() as i32, &[slot.sequence], last);
        assert!(added.is_ok(), "a batch has room for {BATCH} tokens");
        slot.cached.push(token);
        if last {
            job.output = Some(batch.n_tokens() - 1);
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use worker_engine::Ticket;

    use super::{BATCH, FEWEST, Waiting, room, shares};

    #[test]
    fn a_batch_takes_what_there_is_time_for_and_a_lonely_prompts_short_rest_with_it() {
        assert_eq!(room(200, 1000, true), 224);
        assert_eq!(room(200, 256, true), 256, "32 more are not left to a batch of their own");
        assert_eq!(room(200, 256, false), 224, "while somebody waits for a token");
        assert_eq!(room(200, 20, true), 224);
        assert_eq!(room(0, 30, true), FEWEST);
        assert_eq!(room(10_000, 10_000, true), BATCH);
        assert_eq!(room(400, BATCH + 1, true), 416);
    }

    #[test]
    fn the_oldest_prompt_is_read_first_and_others_join_it_as_a_whole() {
        let tickets: Vec<_> = Ticket::all().take(3).collect();
        let prompt = |i: usize, tokens| Some(Waiting::Prompt { ticket: tickets[i], tokens });
        let token = Some(Waiting::Token);
        assert_eq!(shares(288, &[prompt(1, 256), prompt(0, 256), prompt(2, 256)]), [0, 256, 0]);
        assert_eq!(shares(512, &[prompt(1, 256), prompt(0, 256), prompt(2, 256)]), [256, 256, 0]);
        assert_eq!(shares(300, &[prompt(0, 200), prompt(1, 200), prompt(2, 100)]), [200, 0, 100]);
        assert_eq!(shares(32, &[token, prompt(1, 20), None, prompt(0, 40), token]), [1, 0, 0, 30, 1]);
        assert_eq!(shares(32, &[prompt(0, 0), None, token]), [0, 0, 1]);
    }
}
