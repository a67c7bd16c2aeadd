use operations_contract::{ApiError, DEFAULT_IMAGE_MODEL, ErrorCode, repository_of, same_model, well_known};
use std::fmt;
use std::path::Path;

/// An image model that is on this machine: the embedded one, a folder in diffusers' layout, or a checkpoint in a single file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Model(String);

impl Model {
    /// The model that `given` means; absent, the embedded one.
    ///
    /// # Errors
    /// 404 `model_not_found` for what is not on this machine, 422 for what is there and cannot be loaded; both say
    /// what to give instead.
    pub fn resolve(given: Option<&str>) -> Result<Self, ApiError> {
        let given = given.unwrap_or(DEFAULT_IMAGE_MODEL);
        let not_found = |message: String| ApiError::new(ErrorCode::ModelNotFound, message).with_param("model");
        let instead = format!(
            "give the absolute path of a folder in diffusers' layout or of a .safetensors checkpoint, or no model for {DEFAULT_IMAGE_MODEL}"
        );
        if same_model(given, DEFAULT_IMAGE_MODEL) {
            return Ok(Self(DEFAULT_IMAGE_MODEL.to_owned()));
        }
        let path = Path::new(given);
        if path.is_absolute() {
            return Self::from_path(path, &instead);
        }
        if well_known(given).is_some_and(|model| model.repository.is_none()) {
            return Err(ApiError::invalid("model", format!("{given} does not paint pictures; {instead}")));
        }
        if repository_of(given).is_some() {
            return Err(not_found(format!(
                "{given} is not on this machine, and models are not downloaded yet; {instead}"
            )));
        }
        Err(not_found(format!("there is no model {given:?}; {instead}")))
    }

    fn from_path(path: &Path, instead: &str) -> Result<Self, ApiError> {
        let shown = path.display();
        let Ok(real) = path.canonicalize() else {
            let message = format!("there is nothing at {shown}; {instead}");
            return Err(ApiError::new(ErrorCode::ModelNotFound, message).with_param("model"));
        };
        if real.is_dir() && !real.join("model_index.json").is_file() {
            let message =
                format!("{shown} holds no model_index.json and so is no model in diffusers' layout; {instead}");
            return Err(ApiError::invalid("model", message));
        }
        // The hub's cache has files that are called so only by the links to them.
        let extension =
            |path: &Path| path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        let extension = extension(path).or_else(|| extension(&real));
        if real.is_dir() || (real.is_file() && extension.as_deref() == Some("safetensors")) {
            // What is no UTF-8 could not be told to anyone over JSON.
            return match real.to_str() {
                Some(real) => Ok(Self(real.to_owned())),
                None => Err(ApiError::invalid("model", format!("the path {shown} is not UTF-8; rename it"))),
            };
        }
        let why = match extension.as_deref() {
            Some("ckpt" | "pt" | "pth" | "bin" | "pkl") => "pickle files can run any program and are refused",
            _ => "it is no model that is known",
        };
        Err(ApiError::invalid("model", format!("{shown}: {why}; {instead}")))
    }

    /// Its name, or its path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The flag for a worker; the embedded model needs none.
    pub(crate) fn flag(&self) -> Option<&str> {
        (self.0 != DEFAULT_IMAGE_MODEL).then_some(&self.0)
    }

    /// Whether this is the model that a worker says it has loaded.
    pub fn is(&self, reported: &str) -> bool {
        same_model(&self.0, reported)
            || Path::new(reported).is_absolute()
                && Path::new(reported).canonicalize().is_ok_and(|path| path == Path::new(&self.0))
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn no_model_is_the_embedded_one() {
        assert_eq!(Model::resolve(None).unwrap(), Model::resolve(Some("Tiny-Scenes")).unwrap());
        assert_eq!(Model::resolve(None).unwrap().flag(), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_is_one_model_by_whatever_path() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        fs::write(model.join("model_index.json"), "{}").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&model, &link).unwrap();
        let resolved = Model::resolve(link.to_str()).unwrap();
        assert_eq!(resolved, Model::resolve(model.to_str()).unwrap());
        assert!(resolved.is(link.to_str().unwrap()));
        assert!(!resolved.is("tiny-scenes"));
    }

    #[cfg(unix)]
    #[test]
    fn a_checkpoint_is_a_model_also_where_only_a_link_is_called_so() {
        let folder = tempfile::tempdir().unwrap();
        let blob = folder.path().join("6ce0161689b3853acaa03779ec93eafe75a02f4c");
        fs::write(&blob, "").unwrap();
        let link = folder.path().join("model.safetensors");
        std::os::unix::fs::symlink(&blob, &link).unwrap();
        let resolved = Model::resolve(link.to_str()).unwrap();
        assert!(resolved.is(link.to_str().unwrap()) && resolved.is(blob.to_str().unwrap()));
        assert_eq!(resolved.flag(), blob.canonicalize().unwrap().to_str());
    }

    #[test]
    fn what_cannot_be_loaded_says_what_to_give_instead() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["one.ckpt", "one.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let inside = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let check = |given: &str, code: ErrorCode, text: &str| {
            let error = Model::resolve(Some(given)).unwrap_err();
            assert_eq!((error.code, error.param.as_deref()), (code, Some("model")), "{error}");
            assert!(error.message.contains(text), "{error}");
            assert!(error.message.contains("diffusers' layout"), "{error}");
        };
        check("sd-1.5", ErrorCode::ModelNotFound, "not downloaded yet");
        check("someone/something", ErrorCode::ModelNotFound, "not downloaded yet");
        check("nonsense", ErrorCode::ModelNotFound, "no model \"nonsense\"");
        check("tiny-words", ErrorCode::InvalidRequest, "does not paint");
        check(&inside("nothing"), ErrorCode::ModelNotFound, "nothing at");
        check(&inside(""), ErrorCode::InvalidRequest, "model_index.json");
        check(&inside("one.ckpt"), ErrorCode::InvalidRequest, "pickle");
        check(&inside("one.txt"), ErrorCode::InvalidRequest, "no model that is known");
    }
}
