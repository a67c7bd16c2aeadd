//! The models that can be named without a download, and where one is loaded.

use crate::running::{ModelCard, Models};
use crate::server::QueenServer;
use broker::{WorkKind, WorkerState};
use operations_contract::{ApiError, ModelKind, same_model};

impl Models for QueenServer {
    async fn models(&self) -> Result<Vec<ModelCard>, ApiError> {
        let mut cards: Vec<ModelCard> = Vec::new();
        let mut add = |card: ModelCard| {
            if !cards.iter().any(|known| same_model(&known.name, &card.name)) {
                cards.push(card);
            }
        };
        for entry in self.hive().catalogue()? {
            let writes = entry.kind == ModelKind::Language;
            add(ModelCard { name: entry.name, writes, created_s: entry.added_ms / 1000, bytes: Some(entry.bytes) });
        }
        for hive in self.hives().await? {
            let named = hive.workers.iter().map(|worker| (&worker.model, worker.kind == WorkKind::Infer));
            let loaded: Vec<(&String, bool)> = named.collect();
            for (name, writes) in loaded {
                add(ModelCard { name: name.clone(), writes, created_s: 0, bytes: None });
            }
            // What ships in a hive's programs is there for whoever can start them.
            for kind in hive.kinds {
                if kind != WorkKind::Hive {
                    let (name, writes) = (self.default_model(kind), kind == WorkKind::Infer);
                    add(ModelCard { name, writes, created_s: 0, bytes: None });
                }
            }
        }
        Ok(cards)
    }

    async fn language_worker(&self, model: Option<&str>) -> Result<Option<String>, ApiError> {
        let asked = match model {
            Some(name) => self.model(WorkKind::Infer, name)?.as_str().to_owned(),
            None => self.default_model(WorkKind::Infer),
        };
        let hives = self.hives().await?;
        let workers = hives.iter().flat_map(|hive| &hive.workers).filter(|worker| {
            worker.kind == WorkKind::Infer
                && matches!(worker.state, WorkerState::Idle | WorkerState::Busy)
                && same_model(&worker.model, &asked)
        });
        Ok(workers.filter_map(|worker| worker.url.clone()).next())
    }
}
