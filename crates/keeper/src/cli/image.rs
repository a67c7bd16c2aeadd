use super::Client;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};
use operations_contract::{Priority, SCHEDULERS, SCHEDULES};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Paint a picture from a text.
    Generate {
        #[command(flatten)]
        paint: Paint,
    },
    /// Paint a picture from an image and a text.
    Transform {
        #[command(flatten)]
        source: ImageSource,
        /// How much of the image is given up, above 0 to 1: 1 keeps nothing of it.
        #[arg(long, default_value_t = 0.8, value_name = "0..1")]
        strength: f64,
        #[command(flatten)]
        paint: Paint,
    },
    /// Paint a part of an image anew: where the mask is white.
    Inpaint {
        #[command(flatten)]
        source: ImageSource,
        /// Mask, a PNG, JPEG or WebP: white is painted anew, or what is transparent where it has an alpha channel.
        #[arg(long, value_name = "FILE")]
        mask_image: PathBuf,
        /// How much of the masked part is given up, above 0 to 1.
        #[arg(long, default_value_t = 1.0, value_name = "0..1")]
        strength: f64,
        /// Softness of the mask's edge: sigma of a Gaussian, in pixels, 0 to 64.
        #[arg(long, default_value_t = 4.0, value_name = "PIXELS")]
        mask_blur: f64,
        /// Whether the pixels outside the softened mask come back exactly.
        #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false")]
        composite: bool,
        #[command(flatten)]
        paint: Paint,
    },
    /// Print the settings with which a PNG was painted.
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ImageSource {
    /// Image to start from: PNG, JPEG or WebP.
    #[arg(long, value_name = "FILE")]
    pub(crate) init_image: PathBuf,
}

/// What all three ways of painting take.
#[derive(Debug, Args)]
pub(crate) struct Paint {
    /// What to paint; may be empty (""), and - reads it from standard input.
    #[arg(value_name = "PROMPT", required_unless_present = "prompt_flag", conflicts_with = "prompt_flag")]
    pub(crate) prompt: Option<String>,
    /// The same as the argument.
    #[arg(long = "prompt", id = "prompt_flag", value_name = "TEXT", help_heading = "Picture")]
    pub(crate) prompt_flag: Option<String>,
    /// Let the default language model make the prompt: it describes a picture of what is given.
    #[arg(long, help_heading = "Picture")]
    pub(crate) describe: bool,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Where the pictures go: a file, a pattern with {index} or {seed}, a folder, or - for standard output.
    ///
    /// Without it they go into the current folder, under a name made of prompt and seed that overwrites nothing. A file
    /// that is named is replaced; a folder whose name ends with a slash is made.
    #[arg(long, short, value_name = "PATH", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// Print JSON on standard output and nothing else: one object at the end, or every event as it comes.
    #[arg(long, value_enum, value_name = "WHAT", num_args = 0..=1, default_missing_value = "final",
          require_equals = true, help_heading = "Output")]
    pub(crate) json: Option<JsonOutput>,
    /// Draw the picture, and its previews, on a terminal that can (kitty, iTerm2, sixel).
    #[arg(long, conflicts_with = "json", help_heading = "Output")]
    pub(crate) show: bool,
    /// Tell nothing but errors.
    #[arg(long, short, help_heading = "Output")]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

/// What the picture is to be; each is a field of the operation.
#[derive(Debug, Args)]
#[command(next_help_heading = "Picture")]
pub(crate) struct Settings {
    /// What to avoid.
    #[arg(long, value_name = "TEXT")]
    pub(crate) negative_prompt: Option<String>,
    /// Model: a folder in diffusers' layout or a .safetensors file (default: tiny-scenes, which is built in).
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Denoising steps, 1 to 150 (default: the model's own, else 20).
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<u32>,
    /// How closely to follow the prompt, 0 to 30 (default: the model's own, else 7.5).
    #[arg(long, alias = "guidance", value_name = "SCALE")]
    pub(crate) guidance_scale: Option<f64>,
    /// Width in pixels, a multiple of 8 from 64 to 2048 (default: the model's own, or the image's).
    #[arg(long, value_name = "PIXELS")]
    pub(crate) width: Option<u32>,
    /// Height in pixels, likewise.
    #[arg(long, value_name = "PIXELS")]
    pub(crate) height: Option<u32>,
    /// Seed of the noise: the same seed paints the same picture (default: a random one, which is told).
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Sampler (default: the model's own).
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(SCHEDULERS))]
    pub(crate) scheduler: Option<String>,
    /// Spacing of the noise levels (default: the model's own).
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(SCHEDULES))]
    pub(crate) schedule: Option<String>,
    /// How many pictures, 1 to 64; the seed rises by one from each to the next.
    #[arg(long, short = 'n', default_value_t = 1, value_name = "N")]
    pub(crate) count: u32,
    /// CLIP's last layers to skip, as diffusers counts: 1 is the penultimate layer.
    #[arg(long, value_name = "N")]
    pub(crate) clip_skip: Option<u32>,
    /// A preview after every so many steps: seen with --show or --json=events.
    #[arg(long, value_name = "N")]
    pub(crate) preview_every: Option<u32>,
    /// Which of the waiting jobs comes first.
    #[arg(long, default_value = "normal", value_parser = priority, value_name = "low|normal|high")]
    pub(crate) priority: Priority,
    /// Hive to paint on (default: any that can).
    #[arg(long, value_name = "ID")]
    pub(crate) hive_id: Option<String>,
    /// Worker to paint on (default: any that can).
    #[arg(long, value_name = "ID")]
    pub(crate) worker_id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum JsonOutput {
    /// One object when it is over: job, seed, files.
    Final,
    /// Every event of the job, one a line.
    Events,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The picture.
    pub(crate) file: PathBuf,
    /// Draw it too, on a terminal that can (kitty, iTerm2, sixel).
    #[arg(long)]
    pub(crate) show: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) fn priority(text: &str) -> Result<Priority, String> {
    match text {
        "low" => Ok(Priority::Low),
        "normal" => Ok(Priority::Normal),
        "high" => Ok(Priority::High),
        _ => Err("it is low, normal or high".to_owned()),
    }
}
