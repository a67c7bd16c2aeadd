use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use operations_contract::{ApiError, ErrorCode};
use std::convert::Infallible;

/// Who asks: an API key, or somebody who needs none. Any route takes it as an argument; it was looked up before the
/// route was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    key_id: Option<String>,
    admin: bool,
}

impl Caller {
    /// The person at this machine, or the holder of a key that the server was started with: may do everything.
    pub const fn local() -> Self {
        Self { key_id: None, admin: true }
    }

    /// The holder of a key. Unless it is an administrator's, it reaches only its own jobs.
    pub const fn key(id: String, admin: bool) -> Self {
        Self { key_id: Some(id), admin }
    }

    /// Whose the jobs are that this caller asks for; nobody's, where no key was needed.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Whether everything may be seen and done.
    pub const fn is_admin(&self) -> bool {
        self.admin
    }

    /// Whether a job that `owner` asked for may be seen and cancelled.
    pub fn may_reach(&self, owner: Option<&str>) -> bool {
        self.admin || (self.key_id.is_some() && self.key_id.as_deref() == owner)
    }

    /// Lets only an administrator do `what`.
    ///
    /// # Errors
    /// 403 for everybody else.
    pub fn require_admin(&self, what: &str) -> Result<(), ApiError> {
        if self.admin {
            return Ok(());
        }
        let message = format!("{what} needs an administrator's key; make one with: rbee key create NAME --admin");
        Err(ApiError::new(ErrorCode::Forbidden, message))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // The guard puts it there; whoever came around it is nobody, whom no job belongs to.
        let nobody = || Self { key_id: None, admin: false };
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(nobody))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_reached_by_its_own_key_and_by_administrators() {
        let (ada, grace) = (Caller::key("ada".into(), false), Caller::key("grace".into(), true));
        let nobody = Caller { key_id: None, admin: false };
        assert!(ada.may_reach(Some("ada")) && !ada.may_reach(Some("grace")) && !ada.may_reach(None));
        assert!(grace.may_reach(Some("ada")) && grace.may_reach(None));
        assert!(Caller::local().may_reach(Some("ada")) && Caller::local().may_reach(None));
        assert!(!nobody.may_reach(None) && !nobody.may_reach(Some("ada")));
        assert!(ada.require_admin("this").is_err() && grace.require_admin("this").is_ok());
    }
}
