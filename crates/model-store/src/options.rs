use crate::error::{Error, Result};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

/// Where a store downloads from and how patient it is.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Download nothing.
    pub offline: bool,
    /// The hub: `HF_ENDPOINT`, or <https://huggingface.co>.
    pub endpoint: Url,
    /// Who asks there: `HF_TOKEN`, or the file that `hf auth login` writes. It is sent to the hub alone.
    pub token: Option<Token>,
    /// The user's Hugging Face cache: `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or `~/.cache/huggingface/hub`. A model that
    /// is there already is used from there.
    pub cache: Option<PathBuf>,
    /// How long servers have.
    pub patience: Patience,
}

/// A secret that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// How long a server has for what, and how often it is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// To take a connection.
    pub connect: Duration,
    /// To begin an answer.
    pub answer: Duration,
    /// To send the next kilobyte; then the connection is given up and another goes on where it stopped.
    pub stall: Duration,
    /// Failures in a row without any progress; with one more, the download fails.
    pub tries: u32,
    /// Before the second try; doubled each time.
    pub first_pause: Duration,
    /// The longest pause, also where a server asks for a longer one.
    pub longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            stall: Duration::from_secs(10),
            tries: 6,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
        }
    }
}

impl StoreOptions {
    /// What the environment says.
    ///
    /// # Errors
    /// [`Error::Unusable`] where `HF_ENDPOINT` is no address.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let bad =
            |reason: &str| Error::Unusable { repository: format!("HF_ENDPOINT={endpoint}"), reason: reason.to_owned() };
        let parsed = Url::parse(&endpoint).map_err(|error| bad(&error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
            return Err(bad("is no address of a hub (https://HOST)"));
        }
        let folder = |name: &str| set(name).map(PathBuf::from);
        let home = folder("HF_HOME")
            .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(folder("HOME")?.join(".cache/huggingface")));
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(home.as_ref()?.join("hub")));
        let token = set("HF_TOKEN").or_else(|| {
            let file = folder("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")))?;
            let text = std::fs::read_to_string(file).ok()?.trim().to_owned();
            (!text.is_empty()).then_some(text)
        });
        Ok(Self { offline: false, endpoint: parsed, token: token.map(Token), cache, patience: Patience::default() })
    }
}

impl Token {
    /// A token as the hub gave it out.
    #[must_use]
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> Result<StoreOptions> {
        StoreOptions::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_standard_variables_are_honoured() {
        let cache = |variables: &[(&str, &str)]| options(variables).unwrap().cache;
        assert_eq!(cache(&[("HOME", "/h")]), Some("/h/.cache/huggingface/hub".into()));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]), Some("/c/huggingface/hub".into()));
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "/f")]), Some("/f/hub".into()));
        assert_eq!(cache(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/x")]), Some("/x".into()));
        assert_eq!(cache(&[]), None);
        let given = options(&[("HF_ENDPOINT", "http://mirror:80"), ("HF_TOKEN", " hf_secret\n")]).unwrap();
        assert_eq!((given.endpoint.as_str(), given.token), ("http://mirror/", Some(Token::new("hf_secret"))));
        assert_eq!(options(&[("HF_ENDPOINT", "")]).unwrap().endpoint.as_str(), "https://huggingface.co/");
        assert!(options(&[("HF_ENDPOINT", "mirror")]).unwrap_err().to_string().contains("HF_ENDPOINT=mirror"));
    }

    #[test]
    fn a_token_is_read_from_its_file_and_never_shown() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_secret\n").unwrap();
        let options = options(&[("HF_HOME", home.path().to_str().unwrap())]).unwrap();
        assert_eq!(options.token, Some(Token::new("hf_secret")));
        assert!(!format!("{options:?}").contains("secret"));
    }
}
