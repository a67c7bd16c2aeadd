//! What a model needs and what the machine has, told before it is loaded: a machine that swaps serves nobody.

use std::fmt;

use llama_cpp_2::model::LlamaModel;

/// Bytes of one number in llama.cpp's cache: 16 bits, IEEE.
const CACHED: u64 = 2;

/// Memory that a model needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Its weights.
    pub weights: u64,
    /// Keys and values of all its slots.
    pub cache: u64,
    /// Slots.
    pub slots: usize,
    /// Tokens of each.
    pub context: usize,
}

impl Need {
    /// What a model needs, by its file's size and its description.
    pub fn new(weights: u64, model: &LlamaModel, slots: usize, context: usize) -> Self {
        let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
        let number =
            |key: &str| -> Option<u64> { model.meta_val_str(&format!("{architecture}.{key}")).ok()?.parse().ok() };
        let heads = number("attention.head_count").unwrap_or(1).max(1);
        // A model whose layers differ has a list here; all its heads are more than it needs.
        let groups = number("attention.head_count_kv").unwrap_or(heads);
        let head = number("embedding_length").unwrap_or(0) / heads;
        let key = number("attention.key_length").unwrap_or(head);
        let value = number("attention.value_length").unwrap_or(head);
        let a_token = number("block_count").unwrap_or(0).saturating_mul(groups).saturating_mul((key + value) * CACHED);
        let cache = a_token.saturating_mul(slots as u64).saturating_mul(context as u64);
        Self { weights, cache, slots, context }
    }

    /// Both.
    pub fn bytes(&self) -> u64 {
        self.weights.saturating_add(self.cache)
    }

    /// Why it does not fit into `available` bytes, where it does not.
    pub fn refusal(&self, model: &str, available: Option<u64>) -> Option<String> {
        let available = available.filter(|available| self.bytes() > *available)?;
        Some(format!(
            "{model} needs {self}, and {} are available; give a smaller --context or --slots, or a model with fewer bits a weight",
            Gibibytes(available)
        ))
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, cache, slots, context } = *self;
        let (whole, weights, cache) = (Gibibytes(self.bytes()), Gibibytes(weights), Gibibytes(cache));
        write!(f, "{whole} of memory ({weights} of weights, and {cache} for {slots} slots of {context} tokens)")
    }
}

struct Gibibytes(u64);

impl fmt::Display for Gibibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} GiB", self.0 as f64 / (1u64 << 30) as f64)
    }
}

/// Bytes that a process may still take here, where the system tells: of the machine, or of the control group, whichever is less.
pub fn available_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    });
    let read = |file: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<u64>().ok();
    let group = read("memory.max").zip(read("memory.current")).map(|(max, current)| max.saturating_sub(current));
    machine.into_iter().chain(group).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_says_how_much_it_needs() {
        let need = Need { weights: 5 << 30, cache: 1 << 30, slots: 4, context: 8192 };
        assert_eq!(need.refusal("big", Some(7 << 30)), None);
        assert_eq!(need.refusal("big", None), None);
        assert_eq!(
            need.refusal("big", Some(3 << 30)).unwrap(),
            "big needs 6.00 GiB of memory (5.00 GiB of weights, and 1.00 GiB for 4 slots of 8192 tokens), and 3.00 GiB are \
             available; give a smaller --context or --slots, or a model with fewer bits a weight"
        );
    }
}
