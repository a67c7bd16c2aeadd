use crate::agent::{Agent, HiveOperator};
use crate::hive::{Callback, Hive, HiveConfig};
use crate::logs::log_routes;
use crate::{DataDir, HiveError, Programs};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use broker::{GiveBack, HttpBroker, WorkSource};
use clap::builder::BoolishValueParser;
use job_server::{
    Access, DRAIN, Ending, Failure, JobRegistry, JobServer, ListenArgs, Outcome, Port, RegistryLimits, Submission,
    router_with,
};
use model_store::{ModelStore, StoreOptions};
use operations_contract::{
    ApiError, HIVE_PORT, HiveOperation, Info, JobResponse, OperationKind, Readiness, WorkerReady,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long joining may take when the hive stops in the middle of it.
const JOINING: Duration = Duration::from_secs(1);
/// Jobs of a hive are quick; a crowd of them is a mistake.
const JOBS: usize = 256;

/// What a hive can be told, alone or inside a queen.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct HiveOptions {
    /// Id by which requests may name this hive, beside `localhost` (default: hive-HOSTNAME).
    #[arg(long, env = "RBEE_HIVE_ID", value_name = "ID")]
    pub hive_id: Option<String>,
    /// Stop workers that had nothing to do for so long, like 90s, 10m or 2h (default: never).
    #[arg(long, env = "RBEE_IDLE_TIMEOUT", value_name = "TIME", value_parser = duration)]
    pub idle_timeout: Option<Duration>,
    /// Folder for logs and what else outlives a process (default: rbee in the XDG data folder, ~/.local/share/rbee).
    #[arg(long, env = "RBEE_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Download nothing: a model that is not on this machine is an error.
    #[arg(long, env = "RBEE_OFFLINE", value_parser = BoolishValueParser::new())]
    pub offline: bool,
}

/// Starts and watches the workers of this machine.
///
/// A queen has a hive inside: this daemon alone is for machines that only lend their devices.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(mut_arg("port", |port| port.help("Port to listen on, 0 for any free one (default: 7835)")))]
pub struct HiveArgs {
    /// Where it listens: port 7835 unless told otherwise.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// How it behaves.
    #[command(flatten)]
    pub options: HiveOptions,
    /// Queen on another machine whose jobs are done here, like http://queen.local:7833.
    #[arg(long, env = "RBEE_QUEEN", value_name = "URL", requires = "token")]
    pub queen: Option<String>,
    /// Token that this queen gave out: rbee hive invite.
    #[arg(long, env = "RBEE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
}

impl HiveOptions {
    /// The hive's configuration, with its folder made.
    ///
    /// # Errors
    /// As [`DataDir::open`].
    pub fn config(&self, programs: Programs) -> Result<HiveConfig, HiveError> {
        let data_dir = DataDir::open(self.data_dir.as_deref())?;
        let store = StoreOptions { offline: self.offline, ..StoreOptions::from_env()? };
        Ok(HiveConfig {
            id: self.hive_id.clone().unwrap_or_else(default_id),
            store: ModelStore::open_with(data_dir.models(), store)?,
            data_dir,
            programs,
            idle_timeout: self.idle_timeout,
        })
    }
}

/// Runs the daemon `rbee-hive` until it is told to stop.
///
/// # Errors
/// It cannot listen, or its folder cannot be written to.
pub async fn run(args: HiveArgs, programs: Programs) -> anyhow::Result<()> {
    job_server::record_metrics();
    let hive = Hive::new(args.options.config(programs)?)?;
    let (listener, access) = args.listen.listen(Port::Exactly(HIVE_PORT)).await?;
    let address = listener.local_addr()?;
    hive.set_callback(Callback { url: local_url(address), key: args.listen.api_key });
    let server = HiveServer::new(hive.clone());
    tracing::info!("rbee-hive {} listens on http://{address}", env!("CARGO_PKG_VERSION"));
    let joined = match (args.queen, args.token) {
        (Some(queen), Some(token)) => {
            // Who listens on loopback alone cannot be reached from the queen's machine.
            let url = (!address.ip().is_loopback()).then(|| format!("http://{address}"));
            Some(join(hive.clone(), &queen, token, url)?)
        }
        _ => None,
    };
    let app = server.router(&access);
    let served = job_server::serve(listener, app, server.jobs().clone(), job_server::stop_signal()).await;
    if let Some(joined) = joined
        && let Some(agent) = joined.leave().await
    {
        agent.stop(DRAIN, GiveBack::HiveStopping).await;
    }
    hive.stop().await;
    Ok(served?)
}

/// A hive that works for a queen on another machine, or waits until she can be reached.
struct Joined(tokio::task::JoinHandle<Option<Agent>>);

impl Joined {
    async fn leave(mut self) -> Option<Agent> {
        // Joining takes a moment where the queen answers; where she does not, there is nothing to leave.
        tokio::time::timeout(JOINING, &mut self.0).await.ok()?.ok()?
    }
}

fn join(hive: Hive, queen: &str, token: String, url: Option<String>) -> anyhow::Result<Joined> {
    let source: Arc<dyn WorkSource> = Arc::new(HttpBroker::new(queen, token)?);
    let queen = queen.to_owned();
    Ok(Joined(tokio::spawn(async move {
        let operator = Arc::new(HiveOperator(hive.clone()));
        match Agent::start(hive, source, operator, url).await {
            Ok(agent) => {
                tracing::info!("works for the queen at {queen}");
                Some(agent)
            }
            Err(error) => {
                tracing::error!("cannot work for the queen at {queen}: {error}");
                None
            }
        }
    })))
}

/// How this machine's own processes reach a server: one that listens on every address is asked on loopback.
pub fn local_url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

/// A hive behind the routes that every server has.
#[derive(Debug, Clone)]
pub struct HiveServer {
    hive: Hive,
    registry: JobRegistry,
}

impl HiveServer {
    /// A server for `hive`, without jobs.
    pub fn new(hive: Hive) -> Self {
        Self { hive, registry: JobRegistry::new(RegistryLimits::in_memory(JOBS)) }
    }

    /// The routes of all servers, and the one by which workers call back.
    pub fn router(&self, access: &Access) -> Router {
        let ready = Router::new().route("/v1/workers/ready", post(worker_ready)).with_state(self.hive.clone());
        router_with(self.clone(), access, ready.merge(log_routes(self.hive.clone())))
    }
}

async fn worker_ready(State(hive): State<Hive>, body: axum::body::Bytes) -> Result<StatusCode, Failure> {
    let word: WorkerReady = serde_json::from_slice(&body).map_err(|error| ApiError::malformed(error.to_string()))?;
    hive.register(word).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl JobServer for HiveServer {
    fn serves(&self, kind: OperationKind) -> bool {
        HiveOperation::serves(kind)
    }

    type Jobs = JobRegistry;

    fn jobs(&self) -> &JobRegistry {
        &self.registry
    }

    async fn create_job(&self, Submission { operation, .. }: Submission) -> Result<JobResponse, ApiError> {
        let kind = operation.kind();
        let operation = HiveOperation::try_from(operation)?;
        let admitted = self.hive.admit(&operation)?;
        let job = self.registry.create_job(kind)?;
        let response = job.response();
        let hive = self.hive.clone();
        tokio::spawn(async move {
            job.started(None, None, 1);
            let cancellation = job.cancellation();
            let ending = tokio::select! {
                result = hive.execute(admitted, &job) => match result {
                    Ok(result) => Ending::Complete(Outcome::Result(result)),
                    Err(error) => Ending::Error(error),
                },
                () = cancellation.cancelled() => Ending::Cancelled,
            };
            job.finish(ending);
        });
        Ok(response)
    }

    fn info(&self) -> Info {
        info("rbee-hive", |kind| self.serves(kind))
    }

    fn ready(&self) -> Readiness {
        Readiness { ready: true, reason: None }
    }
}

/// What a daemon without a model says about itself.
pub fn info(server: &str, serves: impl Fn(OperationKind) -> bool) -> Info {
    let operations = OperationKind::ALL.iter().filter(|kind| serves(**kind)).map(|kind| kind.name().to_owned());
    Info {
        server: server.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        worker_id: None,
        device: None,
        threads: None,
        model: None,
        memory: None,
        operations: operations.collect(),
    }
}

fn default_id() -> String {
    #[cfg(unix)]
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let host = std::env::var("COMPUTERNAME").unwrap_or_default();
    let plain = |char: char| if char.is_ascii_alphanumeric() || char == '-' { char.to_ascii_lowercase() } else { '-' };
    format!("hive-{}", host.split('.').next().unwrap_or_default().chars().map(plain).collect::<String>())
}

/// `90s`, `10m`, `2h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let seconds = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "ms" => 0.001,
        unit => return Err(format!("{unit:?} is no unit of time; give 90s, 10m or 2h")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} is no time; give 90s, 10m or 2h"))?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(format!("{text:?} is no time above zero")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_unit() {
        let check = |text: &str, millis: u64| assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        check("90", 90_000);
        check("90s", 90_000);
        check("1.5m", 90_000);
        check("2h", 7_200_000);
        check("250ms", 250);
        for wrong in ["", "s", "-1s", "0", "10d", "1e99h"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn workers_call_back_on_loopback() {
        assert_eq!(local_url("0.0.0.0:7835".parse().unwrap()), "http://127.0.0.1:7835");
        assert_eq!(local_url("[::]:7835".parse().unwrap()), "http://[::1]:7835");
        assert_eq!(local_url("192.168.0.2:1".parse().unwrap()), "http://192.168.0.2:1");
    }
}
