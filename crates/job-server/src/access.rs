use crate::caller::Caller;
use crate::failure::Failure;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use operations_contract::{ApiError, ErrorCode};
use std::fmt;
use std::hint::black_box;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

/// Who may ask. Cloning it shares it.
///
/// On loopback the danger is a web page in a browser of this machine: a name that it lets point here (a foreign
/// `Host`), a request that it sends elsewhere (a foreign `Origin`), a form that it posts (no JSON). On any other
/// address it is everybody who has no key.
///
/// A server that was started with a key wants that one, or one of its [`Keys`], from everybody. Without it, loopback
/// needs none: whoever brings one of the [`Keys`] asks in its name, a wrong one is refused, and as long as there are no
/// keys at all whatever is brought is ignored, because many clients send a dummy.
#[derive(Debug, Clone)]
pub struct Access(Arc<Rules>);

/// Keys that are made and revoked while the server runs.
pub trait Keys: fmt::Debug + Send + Sync + 'static {
    /// Who brings `secret` to `path`; `None` where there is no such key, or it does not open that path.
    fn caller<'a>(&'a self, secret: &'a str, path: &'a str) -> Looking<'a, Option<Caller>>;

    /// Whether there is any key.
    fn any(&self) -> Looking<'_, bool>;
}

/// A look into the store of keys.
pub type Looking<'a, T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'a>>;

#[derive(Debug)]
struct Rules {
    loopback: bool,
    origins: Vec<String>,
    any_origin: bool,
    api_key: Option<String>,
    keys: Option<Arc<dyn Keys>>,
}

impl Access {
    /// Rules for a server on `address`. `origins` are web pages that may ask, as browsers write them
    /// (`http://localhost:3000`), or `*` for all. With an `api_key` every request needs it, except those that ask
    /// whether the server lives.
    pub fn new(address: IpAddr, origins: &[String], api_key: Option<String>) -> Self {
        Self(Arc::new(Rules {
            loopback: is_loopback(address),
            origins: origins.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()).collect(),
            any_origin: origins.iter().any(|origin| origin == "*"),
            api_key: api_key.filter(|key| !key.is_empty()),
            keys: None,
        }))
    }

    /// The same rules, and keys beside the one that the server was started with.
    #[must_use]
    pub fn with_keys(self, keys: Arc<dyn Keys>) -> Self {
        let Rules { loopback, origins, any_origin, api_key, .. } = &*self.0;
        Self(Arc::new(Rules {
            loopback: *loopback,
            origins: origins.clone(),
            any_origin: *any_origin,
            api_key: api_key.clone(),
            keys: Some(keys),
        }))
    }

    /// The headers that tell a browser which pages may read the answers; none are needed where none may.
    pub(crate) fn cors(&self) -> Option<CorsLayer> {
        let rules = &self.0;
        let layer =
            CorsLayer::new().allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE]).allow_headers(Any);
        if rules.any_origin {
            return Some(layer.allow_origin(Any));
        }
        let origins: Vec<HeaderValue> = rules.origins.iter().filter_map(|origin| origin.parse().ok()).collect();
        (!origins.is_empty()).then(|| layer.allow_origin(AllowOrigin::list(origins)))
    }

    async fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Caller, ApiError> {
        if self.0.loopback {
            self.check_host(uri, headers)?;
        }
        self.check_origin(uri, headers)?;
        let caller = self.caller(uri.path(), headers).await?;
        if method == Method::POST {
            check_content_type(headers)?;
        }
        Ok(caller)
    }

    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        // Browsers always send one; what does not is no browser.
        let Some(host) = authority(uri, headers) else { return Ok(()) };
        if self.0.any_origin || is_loopback_name(host_name(&host)) || self.is_host_of_an_origin(&host) {
            return Ok(());
        }
        let message = format!("the Host {host:?} is not this machine; ask at localhost, or start with --bind");
        Err(ApiError::new(ErrorCode::Forbidden, message))
    }

    fn check_origin(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let origin = String::from_utf8_lossy(origin.as_bytes()).to_ascii_lowercase();
        let host = authority(uri, headers).unwrap_or_default();
        if self.0.any_origin || self.0.origins.contains(&origin) || is_same_origin(&origin, &host) {
            return Ok(());
        }
        let message = format!("the Origin {origin:?} may not ask here; --allow-origin {origin} would let it");
        Err(ApiError::new(ErrorCode::Forbidden, message))
    }

    /// Who asks, by the key that is brought.
    async fn caller(&self, path: &str, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let Rules { loopback, api_key, keys, .. } = &*self.0;
        let open = api_key.is_none() && *loopback;
        if matches!(path, "/health" | "/ready") || (open && keys.is_none()) {
            return Ok(Caller::local());
        }
        let Some(given) = headers.get(header::AUTHORIZATION) else {
            if open {
                return Ok(Caller::local());
            }
            let message = "an API key is needed: Authorization: Bearer <key>";
            return Err(ApiError::new(ErrorCode::Unauthorized, message));
        };
        let secret = bearer(given.as_bytes());
        if let (Some(secret), Some(key)) = (secret, api_key)
            && same_secret(secret.as_bytes(), key.as_bytes())
        {
            return Ok(Caller::local());
        }
        if let Some(keys) = keys {
            if let Some(secret) = secret
                && let Some(caller) = keys.caller(secret, path).await?
            {
                return Ok(caller);
            }
            if open && !keys.any().await? {
                return Ok(Caller::local());
            }
        }
        Err(ApiError::new(ErrorCode::Unauthorized, "the API key is not one of this server's, or not for this"))
    }

    fn is_host_of_an_origin(&self, host: &str) -> bool {
        let mut hosts = self.0.origins.iter().filter_map(|origin| origin.split_once("://"));
        hosts.any(|(_, allowed)| allowed == host)
    }
}

/// The middleware that refuses before anything else is done.
pub(crate) async fn guard(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let (method, uri, headers) = (request.method().clone(), request.uri().clone(), request.headers().clone());
    match access.check(&method, &uri, &headers).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => Failure(error).into_response(),
    }
}

pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let essence = given.as_deref().unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if essence == "application/json" || essence.ends_with("+json") || essence == "multipart/form-data" {
        return Ok(());
    }
    let given = if essence.is_empty() { "nothing" } else { &essence };
    let message =
        format!("a POST must be application/json, got {given}; add the header content-type: application/json");
    Err(ApiError::new(ErrorCode::UnsupportedMediaType, message))
}

/// The name and port that the client thinks it talks to.
fn authority(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let host = headers.get(header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).to_ascii_lowercase());
    host.or_else(|| uri.authority().map(|authority| authority.as_str().to_ascii_lowercase()))
}

/// `localhost:7833` → `localhost`, `[::1]:7833` → `::1`.
fn host_name(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => authority.rsplit_once(':').map_or(authority, |(name, _)| name),
    }
}

fn port(authority: &str) -> &str {
    let after_name = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    after_name.rsplit_once(':').map_or("80", |(_, port)| port)
}

fn is_loopback_name(name: &str) -> bool {
    let address = name.parse::<IpAddr>().or_else(|_| name.parse::<Ipv6Addr>().map(IpAddr::V6));
    name == "localhost" || address.is_ok_and(is_loopback)
}

/// A page that this server itself has served: same host and port, where all names of loopback are one.
fn is_same_origin(origin: &str, host: &str) -> bool {
    let Some((_, from)) = origin.split_once("://") else { return false };
    if host.is_empty() {
        return false;
    }
    let same_name =
        host_name(from) == host_name(host) || (is_loopback_name(host_name(from)) && is_loopback_name(host_name(host)));
    same_name && port(from) == port(host)
}

/// `Bearer KEY` → `KEY`.
fn bearer(value: &[u8]) -> Option<&str> {
    let is_bearer = value.len() > 7 && value[..7].eq_ignore_ascii_case(b"bearer ");
    is_bearer.then(|| str::from_utf8(value[7..].trim_ascii()).ok()).flatten()
}

/// Compares in a time that does not tell where the two differ.
fn same_secret(given: &[u8], secret: &[u8]) -> bool {
    let mut difference = u8::from(given.len() != secret.len());
    for (i, byte) in secret.iter().enumerate() {
        difference |= byte ^ black_box(given.get(i).copied().unwrap_or(0));
    }
    black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(access: &Access, method: &Method, path: &str, headers: &[(&'static str, &str)]) -> u16 {
        let headers = headers
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        match check(access, method, path, &headers.collect()) {
            Ok(_) => 200,
            Err(error) => error.status(),
        }
    }

    /// Looking at keys in memory never waits.
    fn check(access: &Access, method: &Method, path: &str, headers: &HeaderMap) -> Result<Caller, ApiError> {
        use futures_util::FutureExt as _;
        access.check(method, &path.parse().unwrap(), headers).now_or_never().unwrap()
    }

    fn local(origins: &[&str]) -> Access {
        let origins: Vec<String> = origins.iter().map(|origin| (*origin).to_owned()).collect();
        Access::new("127.0.0.1".parse().unwrap(), &origins, None)
    }

    #[test]
    fn only_names_of_this_machine_are_answered() {
        let access = local(&[]);
        for host in ["localhost", "LOCALHOST:7833", "127.0.0.1:7833", "[::1]:7833", "127.1.2.3"] {
            assert_eq!(asked(&access, &Method::GET, "/", &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example", "evil.example:7833", "localhost.evil.example", "192.168.0.7", "[::2]:7833", ""] {
            assert_eq!(asked(&access, &Method::GET, "/", &[("host", host)]), 403, "{host}");
        }
        assert_eq!(asked(&access, &Method::GET, "/", &[]), 200);
    }

    #[test]
    fn only_pages_of_this_server_and_allowed_ones_are_answered() {
        let ask = |access: &Access, origin: &str| {
            asked(access, &Method::GET, "/", &[("host", "localhost:7833"), ("origin", origin)])
        };
        let closed = local(&[]);
        assert_eq!(ask(&closed, "http://localhost:7833"), 200);
        assert_eq!(ask(&closed, "http://127.0.0.1:7833"), 200);
        for origin in ["http://localhost:3000", "https://evil.example", "null", "http://evil.example:7833", ""] {
            assert_eq!(ask(&closed, origin), 403, "{origin}");
        }
        let open = local(&["http://localhost:3000/"]);
        assert_eq!(ask(&open, "http://localhost:3000"), 200);
        assert_eq!(ask(&open, "https://evil.example"), 403);
        assert_eq!(ask(&local(&["*"]), "https://evil.example"), 200);
    }

    #[test]
    fn what_a_form_can_post_is_refused() {
        let access = local(&[]);
        for kind in ["application/json", "Application/JSON; charset=utf-8", "multipart/form-data; boundary=x"] {
            assert_eq!(asked(&access, &Method::POST, "/v1/jobs", &[("content-type", kind)]), 200, "{kind}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "", "text/plain; application/json"] {
            assert_eq!(asked(&access, &Method::POST, "/v1/jobs", &[("content-type", kind)]), 415, "{kind}");
        }
        assert_eq!(asked(&access, &Method::POST, "/v1/jobs", &[]), 415);
    }

    #[test]
    fn a_key_is_needed_where_there_is_one() {
        let access = Access::new("0.0.0.0".parse().unwrap(), &[], Some("secret".into()));
        let ask = |key: &str| asked(&access, &Method::GET, "/v1/jobs", &[("authorization", key)]);
        assert_eq!(ask("Bearer secret"), 200);
        assert_eq!(ask("bearer  secret"), 200);
        for key in ["Bearer secret2", "Bearer secre", "Bearer ", "secret", "Basic secret", ""] {
            assert_eq!(ask(key), 401, "{key}");
        }
        assert_eq!(asked(&access, &Method::GET, "/v1/jobs", &[]), 401);
        assert_eq!(asked(&access, &Method::GET, "/health", &[("host", "anything")]), 200);
    }

    /// A key `KEY-name` of the caller `name` for each name.
    #[derive(Debug)]
    struct Named(Vec<&'static str>);

    impl Keys for Named {
        fn caller<'a>(&'a self, secret: &'a str, path: &'a str) -> Looking<'a, Option<Caller>> {
            let name = secret.strip_prefix("KEY-").filter(|name| self.0.contains(name) && path != "/closed");
            Box::pin(async move { Ok(name.map(|name| Caller::key(name.to_owned(), false))) })
        }

        fn any(&self) -> Looking<'_, bool> {
            Box::pin(async { Ok(!self.0.is_empty()) })
        }
    }

    #[test]
    fn whose_key_is_brought_asks_in_its_name() {
        let ask = |access: &Access, path: &str, key: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(key) = key {
                headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}")).unwrap());
            }
            check(access, &Method::GET, path, &headers).map_err(|error| error.status())
        };
        let ada = || Ok(Caller::key("ada".to_owned(), false));
        let loopback = local(&[]).with_keys(Arc::new(Named(vec!["ada"])));
        assert_eq!(ask(&loopback, "/", Some("KEY-ada")), ada());
        assert_eq!(ask(&loopback, "/closed", Some("KEY-ada")), Err(401));
        assert_eq!(ask(&loopback, "/", Some("KEY-eve")), Err(401));
        assert_eq!(ask(&loopback, "/", None), Ok(Caller::local()));
        let without_keys = local(&[]).with_keys(Arc::new(Named(vec![])));
        assert_eq!(ask(&without_keys, "/", Some("dummy")), Ok(Caller::local()));

        let keys = Arc::new(Named(vec!["ada"]));
        let open = Access::new("0.0.0.0".parse().unwrap(), &[], None).with_keys(keys.clone());
        assert_eq!(ask(&open, "/", Some("KEY-ada")), ada());
        assert_eq!(ask(&open, "/", None), Err(401));
        assert_eq!(ask(&open, "/", Some("dummy")), Err(401));
        let started_with = Access::new("127.0.0.1".parse().unwrap(), &[], Some("secret".into())).with_keys(keys);
        assert_eq!(ask(&started_with, "/", Some("secret")), Ok(Caller::local()));
        assert_eq!(ask(&started_with, "/", Some("KEY-ada")), ada());
        assert_eq!(ask(&started_with, "/", None), Err(401));
    }
}
