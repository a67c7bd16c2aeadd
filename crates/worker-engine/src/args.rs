use clap::ValueEnum;
use clap::builder::BoolishValueParser;
use job_server::ListenArgs;
use std::num::NonZeroUsize;

/// The flags of every worker.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerArgs {
    /// Name of this worker; a random one if absent.
    #[arg(long, env = "RBEE_WORKER_ID", value_parser = worker_id)]
    pub worker_id: Option<String>,
    /// Model to load: a folder, a file or a name; the one inside this program if absent.
    #[arg(long, env = "RBEE_MODEL", value_name = "PATH_OR_NAME")]
    pub model: Option<String>,
    /// Where this worker listens and who may ask.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Hive to tell when this worker serves: http://127.0.0.1:7835.
    #[arg(long, env = "RBEE_CALLBACK_URL", value_name = "URL")]
    pub callback_url: Option<String>,
    /// Key that this hive wants; this worker's own API key if absent.
    #[arg(long, env = "RBEE_CALLBACK_KEY", hide_env_values = true, value_name = "KEY")]
    pub callback_key: Option<String>,
    /// Threads that compute; as many as there are processors if absent.
    #[arg(long, env = "RBEE_THREADS")]
    pub threads: Option<NonZeroUsize>,
    /// Precision to compute in; the device's usual one if absent.
    #[arg(long, env = "RBEE_PRECISION", value_enum)]
    pub precision: Option<Precision>,
    /// Spend time to save memory: networks are read again for each picture, and a CPU convolves without transformed weights.
    #[arg(long, env = "RBEE_LOW_MEMORY", value_parser = BoolishValueParser::new())]
    pub low_memory: bool,
    /// Which of the devices of this worker's kind, counted from 0.
    #[arg(long, env = "RBEE_DEVICE", default_value_t = 0)]
    pub device: u32,
    /// Process whose end ends this worker: the hive that started it.
    #[arg(long, env = "RBEE_PARENT_PID", hide = true)]
    pub parent_pid: Option<u32>,
}

/// The numbers that a worker computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Precision {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE.
    F16,
    /// 16 bits, with the range of 32.
    Bf16,
}

impl Precision {
    /// The word for it in flags and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

impl WorkerArgs {
    /// The worker's name: the one given, or a random one.
    pub fn worker_id_or_random(&self) -> String {
        self.worker_id.clone().unwrap_or_else(|| format!("worker-{}", uuid::Uuid::new_v4()))
    }

    /// Threads that compute: the number given, or one a processor that this process may use.
    pub fn threads_or_all(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.threads.map_or_else(all, NonZeroUsize::get)
    }
}

/// Worker ids stand in URLs and file names.
fn worker_id(text: &str) -> Result<String, String> {
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
    if text.is_empty()
        || text.len() > operations_contract::ID_BYTES
        || !text.chars().all(plain)
        || text.starts_with('.')
    {
        return Err("a worker id is made of letters, digits, '-', '_' and '.'".to_owned());
    }
    Ok(text.to_owned())
}
