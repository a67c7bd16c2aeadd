//! A model's `scheduler_config.json`, and `Class.from_config` of diffusers.

use serde_json::{Map, Value};

use super::kind::{Class, SamplerKind, Schedule};
use super::python_json::parse_object;
use crate::{Error, Result};

const FILE: &str = "scheduler/scheduler_config.json";
/// More training timesteps than any model has; a bound for what a hostile file can make us allocate.
const MAX_TRAIN_TIMESTEPS: usize = 1_000_000;

/// The settings of a diffusers scheduler: its class and the keys that its file names.
///
/// A key that is absent has the default of the class that reads it, a key that the class does not know is kept and not
/// read, as `SchedulerMixin.from_config` does it.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    class: Class,
    /// The file's.
    keys: Map<String, Value>,
    /// Values for keys that the file does not have: they hold for this class only.
    own: Map<String, Value>,
}

impl SchedulerConfig {
    /// Reads a `scheduler_config.json`; its `_class_name` decides the class.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it is not a JSON object, [`Error::Unsupported`] for a class that is not one of
    /// [`SamplerKind`]'s. The other keys are checked by [`Sampler::new`](super::Sampler::new).
    pub fn parse(json: &str) -> Result<Self> {
        let keys = read_object(json)?;
        let class = keys.get("_class_name").and_then(Value::as_str).unwrap_or_default().to_owned();
        Self::of_class(&class, keys)
    }

    /// The same with the class that the pipeline's `model_index.json` names: it takes precedence in diffusers.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_as(class: &str, json: &str) -> Result<Self> {
        Self::of_class(class, read_object(json)?)
    }

    fn of_class(name: &str, keys: Map<String, Value>) -> Result<Self> {
        let class = Class::ALL.into_iter().find(|class| class.name() == name).ok_or_else(|| Error::Unsupported {
            config: FILE.into(),
            field: "_class_name".into(),
            value: name.into(),
            hint: format!("supported are {}", Class::ALL.map(Class::name).join(", ")),
        })?;
        Ok(Self { class, keys, own: Map::new() }.normalised())
    }

    /// The config as diffusers' Stable Diffusion pipelines change it when they load a model: all set `steps_offset` to 1,
    /// text and image to picture switch `clip_sample` off, inpainting sets `skip_prk_steps`. The XL pipelines do none of it.
    ///
    /// A key that the file has is changed for every sampler, one that it has not only for the model's own.
    pub fn loaded_by_stable_diffusion(mut self, inpaint: bool) -> Self {
        let (key, value) = if inpaint { ("skip_prk_steps", true) } else { ("clip_sample", false) };
        for (key, value) in [("steps_offset", Value::from(1)), (key, Value::from(value))] {
            let target = if self.keys.contains_key(key) { &mut self.keys } else { &mut self.own };
            target.insert(key.into(), value);
        }
        self
    }

    /// `Class.from_config(this config, **overrides)`: another sampler or schedule with this model's settings.
    ///
    /// Without `kind` the class stays. Keys that are absent here take the new class's defaults.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the field `schedule` for a sampler that has none in diffusers, or when the file
    /// sets another schedule.
    pub fn with(&self, kind: Option<SamplerKind>, schedule: Option<Schedule>) -> Result<Self> {
        if kind.is_none() && schedule.is_none() {
            return Ok(self.clone());
        }
        let mut config = self.clone();
        config.own.clear();
        config.class = kind.map_or(self.class, Class::from);
        match kind {
            Some(SamplerKind::Pndm) => config.set("skip_prk_steps", true),
            Some(SamplerKind::Dpmpp2mSde) => config.set("algorithm_type", "sde-dpmsolver++"),
            _ => {}
        }
        if let Some(schedule) = schedule {
            let refuse = |reason: String| Err(Error::InvalidArgument { field: "schedule", reason });
            if !config.class.has_schedules() {
                return refuse(format!(
                    "{schedule} does not exist for the sampler {}; leave it out or choose another sampler",
                    config.kind()
                ));
            }
            config.set(schedule.key(), true);
            if config.schedule_keys()?.len() > 1 {
                return refuse(format!("{schedule} contradicts the schedule that {FILE} sets"));
            }
        }
        Ok(config.normalised())
    }

    /// The sampler that this config makes.
    pub fn kind(&self) -> SamplerKind {
        match self.class {
            Class::Ddim => SamplerKind::Ddim,
            Class::Ddpm => SamplerKind::Ddpm,
            Class::Pndm => SamplerKind::Pndm,
            Class::Lms => SamplerKind::Lms,
            Class::Euler => SamplerKind::Euler,
            Class::EulerAncestral => SamplerKind::EulerA,
            Class::Heun => SamplerKind::Heun,
            Class::Kdpm2 => SamplerKind::Dpm2,
            Class::Kdpm2Ancestral => SamplerKind::Dpm2A,
            Class::DpmMultistep => match self.get("algorithm_type").and_then(Value::as_str) {
                Some(name) if name.starts_with("sde") => SamplerKind::Dpmpp2mSde,
                _ => SamplerKind::Dpmpp2m,
            },
            Class::DpmSinglestep => SamplerKind::Dpmpp2s,
            Class::UniPc => SamplerKind::Unipc,
            Class::Deis => SamplerKind::Deis,
            Class::Lcm => SamplerKind::Lcm,
            Class::Tcd => SamplerKind::Tcd,
        }
    }

    /// The name of the class in diffusers, for example `DDIMScheduler`.
    pub fn class_name(&self) -> &'static str {
        self.class.name()
    }

    /// The schedule that this config sets, if it sets one.
    pub fn schedule(&self) -> Option<Schedule> {
        [Schedule::Karras, Schedule::Exponential]
            .into_iter()
            .find(|schedule| self.class.has_schedules() && self.flag(schedule.key(), false).unwrap_or(false))
    }

    /// Whether the timesteps end where the noise does although the noise is not rescaled to be total: the mark of models
    /// distilled to very few steps, such as SD-Turbo.
    pub fn is_trailing(&self) -> bool {
        self.says("timestep_spacing", "trailing") && !self.flag("rescale_betas_zero_snr", false).unwrap_or(false)
    }

    pub(super) fn class(&self) -> Class {
        self.class
    }

    /// The schedule keys that are set, of which diffusers allows one.
    pub(super) fn schedule_keys(&self) -> Result<Vec<&'static str>> {
        let mut set = Vec::new();
        for key in ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"] {
            if self.class.has_schedules() && self.flag(key, false)? {
                set.push(key);
            }
        }
        Ok(set)
    }

    /// A boolean; null is false, as in Python.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(value) => Err(self.unsupported(key, value, "it must be true or false")),
        }
    }

    /// A number, absent or null.
    pub(super) fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match as_number(value) {
                Some(number) => Ok(Some(number)),
                None => Err(self.unsupported(key, value, "it must be a number")),
            },
        }
    }

    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    /// A whole number from `low` to `high`.
    pub(super) fn count(&self, key: &str, default: usize, low: usize, high: usize) -> Result<usize> {
        let number = self.number(key, default as f64)?;
        if number.fract() != 0.0 || number < low as f64 || number > high as f64 {
            let hint = format!("it must be a whole number from {low} to {high}");
            return Err(self.unsupported(key, &number, &hint));
        }
        Ok(number as usize)
    }

    /// The training timesteps of the model.
    pub(super) fn train_timesteps(&self) -> Result<usize> {
        self.count("num_train_timesteps", 1000, 1, MAX_TRAIN_TIMESTEPS)
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(&self, key: &str, default: &str, choices: &[(&str, T)]) -> Result<T> {
        let word = match self.get(key) {
            None => default,
            Some(Value::String(word)) => word,
            Some(value) => return Err(self.unsupported(key, value, "it must be a word")),
        };
        choices.iter().find(|(name, _)| *name == word).map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            let hint = format!("{} knows {}", self.class.name(), names.join(", "));
            self.unsupported(key, &word, &hint)
        })
    }

    /// Whether a key is a word.
    pub(super) fn says(&self, key: &str, word: &str) -> bool {
        self.get(key).and_then(Value::as_str) == Some(word)
    }

    /// A list of numbers, absent or null.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let list = value.as_array().and_then(|list| list.iter().map(as_number).collect());
                match list {
                    Some(list) => Ok(Some(list)),
                    None => Err(self.unsupported(key, value, "it must be a list of numbers")),
                }
            }
        }
    }

    /// Refuses a key unless it is absent, null or false.
    pub(super) fn refuse(&self, key: &str, hint: &str) -> Result<()> {
        match self.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => Ok(()),
            Some(value) => Err(self.unsupported(key, value, hint)),
        }
    }

    /// The error of a key whose value is not supported.
    pub(super) fn unsupported(&self, key: &str, value: &dyn std::fmt::Display, hint: &str) -> Error {
        let mut value = value.to_string();
        if let Some((end, _)) = value.char_indices().nth(60) {
            value.truncate(end);
            value.push('…');
        }
        Error::Unsupported { config: FILE.into(), field: key.into(), value, hint: hint.into() }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.own.get(key).or_else(|| self.keys.get(key))
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.keys.insert(key.into(), value.into());
    }

    /// The solver classes take each other's names for their own, and write that into the config.
    fn normalised(mut self) -> Self {
        let renamed: &[(&str, &[&str], &str)] = match self.class {
            Class::DpmMultistep | Class::DpmSinglestep => {
                &[("algorithm_type", &["deis"], "dpmsolver++"), ("solver_type", &["logrho", "bh1", "bh2"], "midpoint")]
            }
            Class::UniPc => &[("solver_type", &["midpoint", "heun", "logrho"], "bh2")],
            Class::Deis => &[
                ("algorithm_type", &["dpmsolver", "dpmsolver++"], "deis"),
                ("solver_type", &["midpoint", "heun", "bh1", "bh2"], "logrho"),
            ],
            _ => &[],
        };
        for (key, foreign, own) in renamed {
            let value = self.get(key).and_then(Value::as_str);
            if value.is_some_and(|value| foreign.contains(&value)) {
                self.set(key, *own);
            }
        }
        self
    }
}

fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::String(word) if word == "Infinity" => Some(f64::INFINITY),
        Value::String(word) if word == "-Infinity" => Some(f64::NEG_INFINITY),
        value => value.as_f64(),
    }
}

fn read_object(json: &str) -> Result<Map<String, Value>> {
    parse_object(json).map_err(|reason| Error::BadFile { path: FILE.into(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pythons_infinity_is_read_and_strings_are_left_alone() {
        let config = SchedulerConfig::parse(
            r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity,
                "sigma_max": Infinity, "note": "Infinity \"NaN\\", "x": [1, 2]}"#,
        )
        .unwrap();
        assert_eq!(config.number("lambda_min_clipped", 0.0).unwrap(), f64::NEG_INFINITY);
        assert_eq!(config.number("sigma_max", 0.0).unwrap(), f64::INFINITY);
        assert_eq!(config.keys["note"], "Infinity \"NaN\\");
        assert_eq!(config.numbers("x").unwrap(), Some(vec![1.0, 2.0]));
    }

    #[test]
    fn what_is_no_config_is_refused_by_name() {
        let error = |json: &str| SchedulerConfig::parse(json).unwrap_err().to_string();
        assert!(error("{").contains("scheduler_config.json"));
        assert!(error("[]").contains("not a JSON object"));
        assert!(error("{}").contains("_class_name"));
        assert!(error(r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#).contains("FlowMatch"));
    }

    #[test]
    fn a_solvers_foreign_names_become_its_own() {
        let json = r#"{"_class_name": "UniPCMultistepScheduler", "solver_type": "heun"}"#;
        let unipc = SchedulerConfig::parse(json).unwrap();
        assert_eq!(unipc.keys["solver_type"], "bh2");
        let multistep = unipc.with(Some(SamplerKind::Dpmpp2m), None).unwrap();
        assert_eq!(multistep.keys["solver_type"], "midpoint");
    }

    /// What a StableDiffusionPipeline and a StableDiffusionInpaintPipeline of diffusers 0.42.1 make of these files, and
    /// DDIMScheduler.from_config of that.
    #[test]
    fn loading_changes_a_models_own_scheduler_as_the_pipelines_do() {
        let offset_and_clip = |json: &str, inpaint: bool| {
            let own = SchedulerConfig::parse(json).unwrap().loaded_by_stable_diffusion(inpaint);
            let ddim = own.with(Some(SamplerKind::Ddim), None).unwrap();
            let read = |config: &SchedulerConfig| {
                (config.number("steps_offset", 0.0).unwrap(), config.flag("clip_sample", true).unwrap())
            };
            (read(&own), read(&ddim))
        };
        let bare = r#"{"_class_name": "DDIMScheduler"}"#;
        assert_eq!(offset_and_clip(bare, false), ((1.0, false), (0.0, true)));
        assert_eq!(offset_and_clip(bare, true), ((1.0, true), (0.0, true)));
        let full = r#"{"_class_name": "DDIMScheduler", "steps_offset": 0, "clip_sample": true}"#;
        assert_eq!(offset_and_clip(full, false), ((1.0, false), (1.0, false)));
        assert_eq!(offset_and_clip(full, true), ((1.0, true), (1.0, true)));
        let pndm = SchedulerConfig::parse(r#"{"_class_name": "PNDMScheduler"}"#).unwrap();
        assert!(pndm.clone().loaded_by_stable_diffusion(true).flag("skip_prk_steps", false).unwrap());
        assert!(!pndm.loaded_by_stable_diffusion(false).flag("skip_prk_steps", false).unwrap());
    }

    #[test]
    fn schedules_are_refused_where_diffusers_has_none() {
        let config = SchedulerConfig::parse(r#"{"_class_name": "DDIMScheduler"}"#).unwrap();
        for kind in SamplerKind::ALL {
            let schedule = Some(Schedule::Karras);
            match config.with(Some(kind), schedule) {
                Ok(config) => {
                    assert!(kind.has_schedules());
                    assert_eq!((config.kind(), config.schedule()), (kind, schedule));
                }
                Err(Error::InvalidArgument { field: "schedule", .. }) => {
                    assert!(!kind.has_schedules());
                }
                Err(error) => panic!("{kind}: {error}"),
            }
        }
        assert!(config.with(None, Some(Schedule::Exponential)).is_err());
        let karras = config.with(Some(SamplerKind::Heun), Some(Schedule::Karras)).unwrap();
        assert!(karras.with(None, Some(Schedule::Exponential)).is_err());
    }
}
