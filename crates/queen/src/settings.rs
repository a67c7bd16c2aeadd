//! What a queen is told once and remembers: the models that stand in where none is named.

use crate::keys::read;
use crate::server::QueenServer;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use broker::WorkKind;
use bytes::Bytes;
use job_server::{Caller, Failure};
use operations_contract::{ApiError, DEFAULT_IMAGE_MODEL, DEFAULT_TEXT_MODEL};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The models that stand in where none is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Defaults {
    #[serde(default = "image")]
    pub(crate) image: String,
    #[serde(default = "text")]
    pub(crate) text: String,
}

/// The settings and the file in which they lie.
#[derive(Debug)]
pub(crate) struct Settings {
    file: PathBuf,
    defaults: Mutex<Defaults>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { image: image(), text: text() }
    }
}

impl Settings {
    pub(crate) fn open(folder: &Path) -> Self {
        let file = folder.join("settings.json");
        let defaults = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!("{} cannot be read and is left out: {error}", file.display());
                Defaults::default()
            }),
            Err(_) => Defaults::default(),
        };
        Self { file, defaults: Mutex::new(defaults) }
    }

    pub(crate) fn defaults(&self) -> Defaults {
        self.defaults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn default_model(&self, kind: WorkKind) -> String {
        match kind {
            WorkKind::Infer => self.defaults().text,
            WorkKind::Image | WorkKind::Hive => self.defaults().image,
        }
    }

    fn set(&self, kind: WorkKind, model: String) -> io::Result<Defaults> {
        let mut defaults = self.defaults.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = defaults.clone();
        match kind {
            WorkKind::Infer => changed.text = model,
            WorkKind::Image | WorkKind::Hive => changed.image = model,
        }
        let part = self.file.with_extension("json.part");
        let mut file = File::create(&part)?;
        file.write_all(&serde_json::to_vec_pretty(&changed).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(part, &self.file)?;
        *defaults = changed.clone();
        Ok(changed)
    }
}

pub(crate) fn routes(queen: QueenServer) -> Router {
    Router::new().route("/v1/settings/default-model", get(show).put(change)).with_state(queen)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DefaultModel {
    model: String,
    /// `image` or `infer`; absent: what the model is for.
    #[serde(default)]
    kind: Option<WorkKind>,
}

async fn show(State(queen): State<QueenServer>) -> Json<Defaults> {
    Json(queen.settings().defaults())
}

async fn change(State(queen): State<QueenServer>, caller: Caller, body: Bytes) -> Result<Json<Defaults>, Failure> {
    caller.require_admin("setting the default model")?;
    let DefaultModel { model, kind } = read(&body)?;
    let kind = match kind {
        Some(WorkKind::Hive) => return Err(ApiError::invalid("kind", "kind must be image or infer").into()),
        Some(kind) => kind,
        None => queen.kind_of(&model).await?,
    };
    let model = queen.model(kind, &model)?;
    let changed = queen.settings().set(kind, model.as_str().to_owned());
    let cannot = |error: io::Error| ApiError::internal(format!("the setting cannot be written: {error}"));
    Ok(Json(changed.map_err(cannot)?))
}

fn image() -> String {
    DEFAULT_IMAGE_MODEL.to_owned()
}

fn text() -> String {
    DEFAULT_TEXT_MODEL.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_outlives_its_queen() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::open(folder.path());
        assert_eq!(settings.default_model(WorkKind::Image), "tiny-scenes");
        settings.set(WorkKind::Image, "sd-1.5".to_owned()).unwrap();
        let again = Settings::open(folder.path());
        assert_eq!(again.defaults(), Defaults { image: "sd-1.5".to_owned(), text: "tiny-words".to_owned() });
        fs::write(folder.path().join("settings.json"), "{").unwrap();
        assert_eq!(Settings::open(folder.path()).defaults(), Defaults::default());
    }
}
