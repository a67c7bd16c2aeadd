//! What lies on this machine already: by path, in the Hugging Face cache, and what the catalogue says of it.

use model_store::{Error, ModelStore, Patience, Resolution, Source, StoreOptions, models_dir};
use operations_contract::{ApiError, ErrorCode, ModelEntry, ModelKind};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A store that could reach nobody.
fn store(folder: &TempDir) -> ModelStore {
    let options = StoreOptions {
        offline: true,
        endpoint: "http://127.0.0.1:1".parse().unwrap(),
        token: None,
        cache: Some(folder.path().join("cache")),
        patience: Patience::default(),
    };
    ModelStore::open_with(models_dir(folder.path()), options).unwrap()
}

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A folder in diffusers' layout, as far as files go.
fn pipeline(folder: &Path) {
    write(&folder.join("model_index.json"), r#"{"unet": ["diffusers", "UNet2DConditionModel"]}"#);
    write(&folder.join("unet/config.json"), "{}");
    write(&folder.join("unet/diffusion_pytorch_model.fp16.safetensors"), "weights");
}

async fn add(store: &ModelStore, path: &Path) -> Result<ModelEntry, Error> {
    store.download(Source::parse(path.to_str().unwrap()).unwrap()).finish(|_| {}).await
}

fn found(store: &ModelStore, name: &str) -> ModelEntry {
    match store.resolve(name).unwrap() {
        Resolution::Found(entry) => *entry,
        other => panic!("{name}: {other:?}"),
    }
}

#[tokio::test]
async fn a_local_model_is_catalogued_where_it_lies_and_outlives_its_entry() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("My Model");
    pipeline(&model);
    let store = store(&folder);
    let entry = add(&store, &model).await.unwrap();
    assert_eq!((entry.kind, entry.owned, entry.name.as_str()), (ModelKind::ImageFolder, false, "My Model"));
    assert_eq!(entry.files.len(), 3);
    assert_eq!(entry.bytes, entry.files.iter().map(|file| file.bytes).sum::<u64>());
    for name in [entry.id.as_str(), "my model", model.to_str().unwrap()] {
        assert_eq!(found(&store, name), entry, "{name}");
    }
    assert_eq!(add(&store, &model).await.unwrap(), entry, "twice is once");
    let other = ModelStore::open_with(models_dir(folder.path()), StoreOptions::from_env().unwrap()).unwrap();
    assert_eq!(other.list().unwrap(), std::slice::from_ref(&entry), "another process sees it");
    assert_eq!(store.delete(&entry.id).unwrap(), entry);
    assert!(other.list().unwrap().is_empty());
    assert!(model.join("unet/config.json").exists(), "the user's own files stay");
    assert_eq!(found(&store, model.to_str().unwrap()).id, entry.id, "a path is a model without any entry");
}

#[tokio::test]
async fn a_model_in_use_is_not_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words.gguf");
    write(&file, "GGUF");
    let (store, other) = (store(&folder), store(&folder));
    let entry = add(&store, &file).await.unwrap();
    assert_eq!(entry.kind, ModelKind::Language);
    let leases = [store.lease(&entry.id).unwrap(), other.lease(&entry.id).unwrap()];
    assert_eq!(leases[0].entry(), &entry);
    for _ in leases {
        assert!(other.in_use(&entry.id).unwrap());
        let error = other.delete(&entry.id).unwrap_err();
        assert_eq!(
            (error.code(), ApiError::from(&error).param.as_deref()),
            (ErrorCode::Conflict, Some("id")),
            "{error}"
        );
    }
    assert!(!store.in_use(&entry.id).unwrap());
    store.delete(&entry.id).unwrap();
    assert!(matches!(store.lease(&entry.id), Err(Error::NoEntry(_))));
}

#[tokio::test]
async fn only_ids_of_the_catalogue_are_deleted_never_paths() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words.gguf");
    write(&file, "GGUF");
    let store = store(&folder);
    let entry = add(&store, &file).await.unwrap();
    let models = models_dir(folder.path());
    write(&models.join("catalogue/stray/entry.json"), "no JSON");
    write(&models.join("outside/entry.json"), "{}");
    for id in [
        "",
        ".",
        "..",
        "../outside",
        "/",
        file.to_str().unwrap(),
        "words.gguf",
        "no-such-1234",
        "a\\b",
        &"x".repeat(5000),
    ] {
        let error = store.delete(id).unwrap_err();
        assert!(matches!(error, Error::NoEntry(_)), "{id}: {error}");
        assert!(error.to_string().len() < 400, "{error}");
    }
    assert!(file.exists() && models.join("outside/entry.json").exists());
    assert!(matches!(store.get("stray"), Err(Error::Io { .. })), "a broken entry is told");
    assert_eq!(store.list().unwrap(), [entry], "and hides no other");
}

#[tokio::test]
async fn an_entry_that_leads_outside_is_broken() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words.gguf");
    write(&file, "GGUF");
    let store = store(&folder);
    let entry = add(&store, &file).await.unwrap();
    let path = models_dir(folder.path()).join("catalogue").join(&entry.id).join("entry.json");
    let text = fs::read_to_string(&path).unwrap().replace("\"owned\": false", "\"owned\": true");
    fs::write(&path, text).unwrap();
    assert!(matches!(store.get(&entry.id), Err(Error::Io { .. })));
    assert!(store.list().unwrap().is_empty());
}

#[tokio::test]
async fn names_are_resolved_without_any_network() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let downloadable = |name: &str| match store.resolve(name).unwrap() {
        Resolution::Downloadable(source) => source.to_string(),
        other => panic!("{name}: {other:?}"),
    };
    let repository = "stable-diffusion-v1-5/stable-diffusion-v1-5";
    for name in ["sd-1.5", "v1-5", "Stable-Diffusion-V1-5", repository] {
        assert_eq!(downloadable(name), repository);
    }
    assert_eq!(downloadable("a/b:c.gguf"), "a/b:c.gguf");
    assert_eq!(downloadable("https://example.org/a.safetensors"), "https://example.org/a.safetensors");
    assert!(matches!(store.resolve("tiny-scenes").unwrap(), Resolution::BuiltIn(model) if model.name == "tiny-scenes"));
    assert_eq!(store.resolve("nonsense").unwrap(), Resolution::Unknown);
    assert!(matches!(store.resolve("/nowhere/at/all"), Err(Error::NotAModel { .. })));
    let error = store.download(Source::parse("sd-1.5").unwrap()).finish(|_| {}).await.unwrap_err();
    assert_eq!((error.code(), matches!(error, Error::Offline(_))), (ErrorCode::ModelNotFound, true), "{error}");
}

#[tokio::test]
async fn what_is_no_model_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    for (name, said) in [("a.ckpt", "pickle"), ("a.txt", "neither"), ("folder/x", "nothing")] {
        let path = folder.path().join(name);
        if !name.contains('/') {
            write(&path, "");
        }
        let error = add(&store, &path).await.unwrap_err();
        assert!(matches!(&error, Error::NotAModel { .. }) && error.to_string().contains(said), "{error}");
    }
    fs::create_dir(folder.path().join("empty")).unwrap();
    let error = add(&store, &folder.path().join("empty")).await.unwrap_err();
    assert!(error.to_string().contains("model_index.json"), "{error}");
    assert!(store.list().unwrap().is_empty());
}

#[cfg(unix)]
#[tokio::test]
async fn a_model_in_the_hugging_face_cache_is_used_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let cached = folder.path().join("cache/models--stable-diffusion-v1-5--stable-diffusion-v1-5");
    let snapshot = cached.join("snapshots").join(commit);
    pipeline(&snapshot);
    // As the hub's own tools lay it out: a link to a blob that is called by its SHA-256.
    let (weights, sum) = (snapshot.join("unet/diffusion_pytorch_model.fp16.safetensors"), "ab".repeat(32));
    write(&cached.join("blobs").join(&sum), "weights");
    fs::remove_file(&weights).unwrap();
    std::os::unix::fs::symlink(format!("../../../blobs/{sum}"), &weights).unwrap();
    let store = store(&folder);
    assert!(matches!(store.resolve("sd-1.5").unwrap(), Resolution::Downloadable(_)), "no branch, no model");
    write(&cached.join("refs/main"), commit);
    let entry = found(&store, "sd-1.5");
    assert_eq!(Path::new(&entry.path), snapshot);
    assert_eq!((entry.revision.as_deref(), entry.owned), (Some(commit), false));
    let listed = entry.files.iter().find(|file| file.path.contains("fp16")).unwrap();
    assert_eq!(listed.sha256.as_ref(), Some(&sum));

    let kept = store.download(Source::parse("sd-1.5").unwrap()).finish(|_| {}).await.unwrap();
    assert_eq!((&kept.path, &kept.id), (&entry.path, &entry.id), "offline, and without a copy");
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&kept));
    store.delete(&kept.id).unwrap();
    assert!(snapshot.join("unet/config.json").exists());
    // Half a model is none.
    fs::remove_file(cached.join("blobs").join(&sum)).unwrap();
    assert!(matches!(store.resolve("sd-1.5").unwrap(), Resolution::Downloadable(_)));
}

#[tokio::test]
async fn an_entry_whose_files_are_gone_counts_as_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words.gguf");
    write(&file, "GGUF");
    let store = store(&folder);
    let entry = add(&store, &file).await.unwrap();
    fs::remove_file(&file).unwrap();
    assert_eq!(store.resolve("words.gguf").unwrap(), Resolution::Unknown);
    assert_eq!(store.list().unwrap().len(), 1, "it can be seen and deleted");
    write(&file, "GGUF2");
    let again = add(&store, &file).await.unwrap();
    assert_eq!((again.id, again.bytes, store.list().unwrap().len()), (entry.id, 5, 1), "another file, the same entry");
}
