/// A model that has a short name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WellKnownModel {
    /// The name that is shown.
    pub name: &'static str,
    /// Other names of the same model.
    pub aliases: &'static [&'static str],
    /// Its repository on the hub; a model that ships inside the program has none.
    pub repository: Option<&'static str>,
    /// The word for it in `--sd-version`.
    pub sd_version: Option<&'static str>,
}

/// Every model that has a short name.
pub const WELL_KNOWN_MODELS: &[WellKnownModel] = &[
    WellKnownModel { name: "tiny-scenes", aliases: &[], repository: None, sd_version: None },
    WellKnownModel { name: "tiny-words", aliases: &[], repository: None, sd_version: None },
    WellKnownModel {
        name: "sd-1.5",
        aliases: &["stable-diffusion-v1-5", "sd-v1-5", "v1-5"],
        repository: Some("stable-diffusion-v1-5/stable-diffusion-v1-5"),
        sd_version: Some("v1-5"),
    },
    WellKnownModel {
        name: "sd-1.5-inpaint",
        aliases: &["stable-diffusion-inpainting", "stable-diffusion-v1-5-inpaint", "sd-1.5-inpainting", "v1-5-inpaint"],
        repository: Some("stable-diffusion-v1-5/stable-diffusion-inpainting"),
        sd_version: Some("v1-5-inpaint"),
    },
    WellKnownModel {
        name: "sd-2.1",
        aliases: &["stable-diffusion-2-1", "stable-diffusion-v2-1", "sd-v2-1", "v2-1"],
        repository: Some("stabilityai/stable-diffusion-2-1"),
        sd_version: Some("v2-1"),
    },
    WellKnownModel {
        name: "sd-2-inpaint",
        aliases: &["stable-diffusion-2-inpainting", "sd-2-inpainting", "v2-inpaint"],
        repository: Some("stabilityai/stable-diffusion-2-inpainting"),
        sd_version: Some("v2-inpaint"),
    },
    WellKnownModel {
        name: "sdxl",
        aliases: &["stable-diffusion-xl-base-1.0", "stable-diffusion-xl", "sd-xl", "xl"],
        repository: Some("stabilityai/stable-diffusion-xl-base-1.0"),
        sd_version: Some("xl"),
    },
    WellKnownModel {
        name: "sdxl-inpaint",
        aliases: &["stable-diffusion-xl-1.0-inpainting-0.1", "sdxl-inpainting", "xl-inpaint"],
        repository: Some("diffusers/stable-diffusion-xl-1.0-inpainting-0.1"),
        sd_version: Some("xl-inpaint"),
    },
    WellKnownModel { name: "sdxl-turbo", aliases: &[], repository: Some("stabilityai/sdxl-turbo"), sd_version: None },
    WellKnownModel {
        name: "sd-turbo",
        aliases: &["turbo"],
        repository: Some("stabilityai/sd-turbo"),
        sd_version: Some("turbo"),
    },
];

/// The well-known model that `name` means: a short name, an alias or a repository, in any case.
pub fn well_known(name: &str) -> Option<&'static WellKnownModel> {
    WELL_KNOWN_MODELS.iter().find(|model| {
        let names = [model.name].into_iter().chain(model.repository).chain(model.aliases.iter().copied());
        names.into_iter().any(|known| known.eq_ignore_ascii_case(name))
    })
}

/// The hub repository that `name` means: a well-known model's, or `name` itself where it is written `owner/name`.
pub fn repository_of(name: &str) -> Option<&str> {
    if let Some(model) = well_known(name) {
        return model.repository;
    }
    let (owner, repository) = name.split_once('/')?;
    let plain = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && !part.starts_with(['.', '-'])
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    (plain(owner) && plain(repository)).then_some(name)
}

/// Whether two names mean the same model: a well-known name and its repository are the same.
pub fn same_model(a: &str, b: &str) -> bool {
    a == b || matches!((well_known(a), well_known(b)), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_name_and_its_repository_are_the_same_model() {
        let repository = "stable-diffusion-v1-5/stable-diffusion-v1-5";
        for name in ["sd-1.5", "SD-1.5", "stable-diffusion-v1-5", repository] {
            assert_eq!(repository_of(name), Some(repository), "{name}");
            assert!(same_model(name, repository));
        }
        assert!(!same_model("sd-1.5", "sdxl"));
        assert!(same_model("/models/mine", "/models/mine"));
    }

    #[test]
    fn no_name_means_two_models() {
        let mut seen = HashSet::new();
        for model in WELL_KNOWN_MODELS {
            for name in model.aliases.iter().chain([&model.name]) {
                assert!(seen.insert(name.to_ascii_lowercase()), "{name}");
            }
        }
    }

    #[test]
    fn only_owner_and_name_are_a_repository() {
        assert_eq!(repository_of("owner/name-1.0"), Some("owner/name-1.0"));
        for name in ["name", "a/b/c", "../b", "a/..", "/a", "a/", "tiny-scenes", "a b/c", "http://a/b"] {
            assert_eq!(repository_of(name), None, "{name}");
        }
    }
}
