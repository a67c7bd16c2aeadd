//! TLS and proxies under the HTTP client.

use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower_service::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Plain connections, and tunnels through the proxy that `HTTPS_PROXY` and `NO_PROXY` tell. What is plain HTTP is in the
/// house and goes there directly.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    http: HttpConnector,
    proxies: Arc<Matcher>,
}

/// A connector for both schemes, and why it can make no TLS connection where the system has no root certificates.
pub(super) fn connector(patience: Duration) -> (HttpsConnector<Connector>, Option<String>) {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(patience));
    http.set_nodelay(true);
    let plain = Connector { http, proxies: Arc::new(Matcher::from_env()) };
    match HttpsConnectorBuilder::new().with_provider_and_native_roots(ring::default_provider()) {
        Ok(builder) => (builder.https_or_http().enable_http1().wrap_connector(plain), None),
        Err(error) => {
            let why = format!("{error}; install ca-certificates, or set SSL_CERT_FILE");
            let config = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("ring has the protocol versions that rustls holds for safe")
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            let builder = HttpsConnectorBuilder::new().with_tls_config(config);
            (builder.https_or_http().enable_http1().wrap_connector(plain), Some(why))
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let tunnelled = destination.scheme_str() == Some("https");
        match self.proxies.intercept(&destination).filter(|_| tunnelled) {
            None => {
                let connecting = self.http.call(destination);
                Box::pin(async move { connecting.await.map_err(Into::into) })
            }
            Some(proxy) => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), self.http.clone());
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                let connecting = tunnel.call(destination);
                Box::pin(async move { connecting.await.map_err(Into::into) })
            }
        }
    }
}
