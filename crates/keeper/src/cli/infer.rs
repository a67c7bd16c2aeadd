use super::image::priority;
use super::{Client, JsonOutput};
use clap::Args;
use operations_contract::Priority;

#[derive(Debug, Args)]
pub(crate) struct InferArgs {
    /// What to continue or answer; - reads it from standard input.
    #[arg(value_name = "PROMPT", required_unless_present = "prompt_flag", conflicts_with = "prompt_flag")]
    pub(crate) prompt: Option<String>,
    /// The same as the argument.
    #[arg(long = "prompt", id = "prompt_flag", value_name = "TEXT")]
    pub(crate) prompt_flag: Option<String>,
    /// What the model is told before the prompt.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub(crate) system: Option<String>,
    /// Continue the prompt as it stands, without the model's chat template.
    #[arg(long)]
    pub(crate) raw: bool,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    /// Print JSON on standard output and nothing else: one object at the end, or every event as it comes.
    #[arg(long, value_enum, value_name = "WHAT", num_args = 0..=1, default_missing_value = "final",
          require_equals = true, help_heading = "Output")]
    pub(crate) json: Option<JsonOutput>,
    /// Tell nothing but errors beside the text.
    #[arg(long, short, help_heading = "Output")]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    #[command(flatten)]
    pub(crate) client: Client,
}

/// How the text is drawn; each is a field of the operation.
#[derive(Debug, Args)]
#[command(next_help_heading = "Text")]
pub(crate) struct Sampling {
    /// Model: a name or a path of a GGUF file (default: tiny-words, which is built in, or rbee model default).
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Tokens to write at most.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub(crate) max_tokens: u32,
    /// 0 always takes the likeliest token, up to 2.
    #[arg(long, default_value_t = 0.7, value_name = "0..2")]
    pub(crate) temperature: f64,
    /// Only the likeliest tokens that together have this probability.
    #[arg(long, value_name = "0..1")]
    pub(crate) top_p: Option<f64>,
    /// Only so many of the likeliest tokens.
    #[arg(long, value_name = "N")]
    pub(crate) top_k: Option<u32>,
    /// Only tokens at least this fraction as likely as the likeliest.
    #[arg(long, value_name = "0..1")]
    pub(crate) min_p: Option<f64>,
    /// Above 1: what was said becomes less likely.
    #[arg(long, value_name = "X")]
    pub(crate) repeat_penalty: Option<f64>,
    /// Seed of the choice: the same seed writes the same text (default: a random one).
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// A word that ends the text and is not printed; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Which of the waiting jobs comes first.
    #[arg(long, default_value = "normal", value_parser = priority, value_name = "low|normal|high")]
    pub(crate) priority: Priority,
    /// Hive to write on (default: any that can).
    #[arg(long, value_name = "ID")]
    pub(crate) hive_id: Option<String>,
    /// Worker to write on (default: any that can).
    #[arg(long, value_name = "ID")]
    pub(crate) worker_id: Option<String>,
}
