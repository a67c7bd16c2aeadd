//! How the next token is chosen.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use operations_contract::{ApiError, ErrorCode, InferRequest};

/// Tokens that `repeat_penalty` looks back on, as in llama.cpp and Ollama.
const REPEAT_LAST: usize = 64;

/// What a request says of sampling; what it does not say is off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingConfig {
    /// 0 always takes the likeliest token.
    pub temperature: f32,
    /// Only so many of the likeliest tokens.
    pub top_k: Option<i32>,
    /// Only the likeliest tokens that together have this probability.
    pub top_p: Option<f32>,
    /// Only tokens at least this fraction as likely as the likeliest.
    pub min_p: Option<f32>,
    /// Above 1: what was said becomes less likely.
    pub repeat_penalty: Option<f32>,
    /// Seed of the choice: llama.cpp's generator takes 32 bits, and so the two halves are mixed.
    pub seed: u32,
}

impl From<&InferRequest> for SamplingConfig {
    fn from(request: &InferRequest) -> Self {
        let seed = request.seed.unwrap_or_default();
        Self {
            temperature: request.temperature as f32,
            top_k: request.top_k.filter(|k| *k > 0).map(|k| i32::try_from(k).unwrap_or(i32::MAX)),
            top_p: request.top_p.map(|p| p as f32).filter(|p| *p < 1.0),
            min_p: request.min_p.map(|p| p as f32).filter(|p| *p > 0.0),
            repeat_penalty: request.repeat_penalty.map(|penalty| penalty as f32).filter(|penalty| *penalty != 1.0),
            seed: (seed ^ (seed >> 32)) as u32,
        }
    }
}

/// llama.cpp's samplers for one text, in the order in which its own tools apply them.
pub(super) struct Sampler {
    chain: LlamaSampler,
    grammar: Option<LlamaSampler>,
    /// The chain only takes the likeliest token.
    is_greedy: bool,
}

impl Sampler {
    pub(super) fn new(config: &SamplingConfig, model: &LlamaModel, prompt: &[LlamaToken]) -> Self {
        let mut samplers = Vec::new();
        if let Some(penalty) = config.repeat_penalty {
            samplers.push(LlamaSampler::penalties(model.n_vocab(), REPEAT_LAST as i32, penalty, 0.0, 0.0));
        }
        if config.temperature > 0.0 {
            samplers.extend(config.top_k.map(LlamaSampler::top_k));
            samplers.extend(config.top_p.map(|p| LlamaSampler::top_p(p, 1)));
            samplers.extend(config.min_p.map(|p| LlamaSampler::min_p(p, 1)));
            samplers.push(LlamaSampler::temp(config.temperature));
            samplers.push(LlamaSampler::dist(config.seed));
        } else {
            samplers.push(LlamaSampler::greedy());
        }
        let mut chain = LlamaSampler::chain(samplers, true);
        if config.repeat_penalty.is_some() {
            chain.accept_many(&prompt[prompt.len().saturating_sub(REPEAT_LAST)..]);
        }
        let is_greedy = config.temperature <= 0.0 && config.repeat_penalty.is_none();
        Self { chain, grammar: None, is_greedy }
    }

    /// From here on the text follows a grammar.
    pub(super) fn hold_to(&mut self, model: &LlamaModel, grammar: &str) -> Result<(), ApiError> {
        let sampler = LlamaSampler::grammar(model, grammar, "root").map_err(|error| {
            let message = format!("llama.cpp cannot follow the schema's grammar: {error}");
            ApiError::new(ErrorCode::InvalidRequest, message)
        })?;
        self.grammar = Some(sampler);
        Ok(())
    }

    /// The next token after the output `index` of the last batch; `None` when the grammar allows none.
    pub(super) fn sample(&mut self, context: &LlamaContext<'_>, index: i32) -> Option<LlamaToken> {
        let Some(grammar) = &mut self.grammar else {
            // A chain first writes a list of all tokens, a hundred thousand of them.
            let likeliest = self.is_greedy.then(|| likeliest(context.get_logits_ith(index)));
            return Some(likeliest.unwrap_or_else(|| self.chain.sample(context, index)));
        };
        // Whether one token follows the grammar is told at once; which of all do takes a while. So the grammar is asked about
        // all of them only when the choice without it is refused, as llama.cpp's own tools do it.
        let mut candidates = context.token_data_array_ith(index);
        self.chain.apply(&mut candidates);
        let chosen = candidates.selected_token()?;
        let token = if allows(grammar, chosen) {
            chosen
        } else {
            let mut candidates = context.token_data_array_ith(index);
            grammar.apply(&mut candidates);
            candidates.data.retain(|candidate| candidate.logit().is_finite());
            self.chain.apply(&mut candidates);
            candidates.selected_token().filter(|token| allows(grammar, *token))?
        };
        grammar.accept(token);
        self.chain.accept(token);
        Some(token)
    }
}

/// The first of the likeliest tokens, as llama.cpp's greedy sampler has it.
fn likeliest(logits: &[f32]) -> LlamaToken {
    // Lanes of their own, which a processor compares at once.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (blocks, rest) = logits.as_chunks::<16>();
    for block in blocks {
        for (most, logit) in lanes.iter_mut().zip(block) {
            *most = if *logit > *most { *logit } else { *most };
        }
    }
    let most = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let place = logits.iter().position(|logit| *logit == most).unwrap_or(0);
    LlamaToken::new(i32::try_from(place).unwrap_or(0))
}

fn allows(grammar: &mut LlamaSampler, token: LlamaToken) -> bool {
    let mut one = LlamaTokenDataArray::new(vec![LlamaTokenData::new(token, 1.0, 0.0)], false);
    grammar.apply(&mut one);
    one.data.first().is_some_and(|candidate| candidate.logit().is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_likeliest_is_taken() {
        for length in [1, 15, 16, 17, 100] {
            for best in 0..length {
                let mut logits = vec![-3.0; length];
                logits[best] = -1.0;
                logits[length - 1] = f32::max(logits[length - 1], -1.0);
                assert_eq!(likeliest(&logits).0, best as i32, "{best} of {length}");
            }
        }
    }

    #[test]
    fn what_changes_nothing_is_off() {
        let request = InferRequest {
            temperature: 0.0,
            top_k: Some(0),
            top_p: Some(1.0),
            min_p: Some(0.0),
            repeat_penalty: Some(1.0),
            seed: Some(7 << 32 | 1),
            ..InferRequest::default()
        };
        let off =
            SamplingConfig { temperature: 0.0, top_k: None, top_p: None, min_p: None, repeat_penalty: None, seed: 6 };
        assert_eq!(SamplingConfig::from(&request), off);
    }
}
