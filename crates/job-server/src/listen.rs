use crate::access::{Access, is_loopback};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;

/// Where a daemon listens and who may ask.
#[derive(Debug, Clone, clap::Args)]
pub struct ListenArgs {
    /// Port to listen on; 0 takes any free one.
    #[arg(long, env = "RBEE_PORT")]
    pub port: Option<u16>,
    /// Address to listen on. Any other than a loopback address needs an API key.
    #[arg(long, env = "RBEE_BIND", default_value = "127.0.0.1", value_parser = address)]
    pub bind: IpAddr,
    /// Web page that may ask, as a browser writes its origin (http://localhost:3000), or * for all; may be repeated.
    #[arg(long, env = "RBEE_ALLOW_ORIGIN", value_delimiter = ',', value_name = "ORIGIN")]
    pub allow_origin: Vec<String>,
    /// Key that every request has to bring: Authorization: Bearer KEY.
    #[arg(long, env = "RBEE_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<String>,
}

/// Which port a daemon takes when none is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// This one.
    Exactly(u16),
    /// The first free one from this on.
    FirstFrom(u16),
}

/// Why a daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Everybody could ask.
    #[error(
        "{0} can be reached from other machines: set an API key (RBEE_API_KEY; at a queen also: rbee key create NAME), or bind to 127.0.0.1"
    )]
    NoApiKey(IpAddr),
    /// The port is taken, or the address is not one of this machine.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// What was tried last.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// So many ports are tried: workers of one kind stay below the first port of the next.
const PORTS_TRIED: u16 = 100;

impl Default for ListenArgs {
    fn default() -> Self {
        Self { port: None, bind: Ipv4Addr::LOCALHOST.into(), allow_origin: Vec::new(), api_key: None }
    }
}

impl ListenArgs {
    /// Starts to listen, on `default` where no port is named.
    ///
    /// # Errors
    /// As [`ListenError`] says.
    pub async fn listen(&self, default: Port) -> Result<(TcpListener, Access), ListenError> {
        if self.needs_key() {
            return Err(ListenError::NoApiKey(self.bind));
        }
        self.listen_with_keys(default).await
    }

    /// Whether others than this machine can ask, and no key is set that they need.
    pub fn needs_key(&self) -> bool {
        !is_loopback(self.bind) && self.api_key.as_ref().is_none_or(String::is_empty)
    }

    /// Starts to listen for a server that has keys of its own; it adds them to the rules before it serves
    /// ([`Access::with_keys`]).
    ///
    /// # Errors
    /// [`ListenError::Bind`]
    pub async fn listen_with_keys(&self, default: Port) -> Result<(TcpListener, Access), ListenError> {
        let key = self.api_key.clone().filter(|key| !key.is_empty());
        let ports = match self.port.map_or(default, Port::Exactly) {
            Port::Exactly(port) => port..=port,
            Port::FirstFrom(port) => port..=port.saturating_add(PORTS_TRIED - 1),
        };
        let last = *ports.end();
        for port in ports {
            let address = SocketAddr::new(self.bind, port);
            match TcpListener::bind(address).await {
                Ok(listener) => return Ok((listener, Access::new(self.bind, &self.allow_origin, key))),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && port < last => {}
                Err(source) => return Err(ListenError::Bind { address, source }),
            }
        }
        unreachable!("the last port was tried and gave one or the other")
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    text.parse().map_err(|_| format!("{text:?} is not an IP address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_free_port_is_taken() {
        let args = ListenArgs::default();
        let (first, _) = args.listen(Port::FirstFrom(48_600)).await.unwrap();
        let (second, _) = args.listen(Port::FirstFrom(48_600)).await.unwrap();
        assert!(second.local_addr().unwrap().port() > first.local_addr().unwrap().port());
        let taken = Port::Exactly(first.local_addr().unwrap().port());
        assert!(matches!(args.listen(taken).await, Err(ListenError::Bind { .. })));
    }

    #[tokio::test]
    async fn other_machines_reach_it_only_with_a_key() {
        let mut args = ListenArgs { bind: Ipv4Addr::UNSPECIFIED.into(), ..ListenArgs::default() };
        assert!(matches!(args.listen(Port::Exactly(0)).await, Err(ListenError::NoApiKey(_))));
        args.api_key = Some(String::new());
        assert!(matches!(args.listen(Port::Exactly(0)).await, Err(ListenError::NoApiKey(_))));
        args.api_key = Some("secret".to_owned());
        assert!(args.listen(Port::Exactly(0)).await.is_ok());
    }
}
