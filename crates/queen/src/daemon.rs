use crate::keys::{BrokerKeys, any_client_key};
use crate::operator::QueenOperator;
use crate::record::{QueenLock, QueenRecord};
use crate::server::{Addresses, QueenServer};
use crate::sweep::sweep;
use broker::{Broker, SqliteBroker, SqliteOptions};
use job_server::{Access, CancellationToken, JobServer as _, ListenArgs, ListenError, Port};
use operations_contract::{HIVE_PORT, QUEEN_JOBS, QUEEN_PORT};
use rbee_hive::agent::Agent;
use rbee_hive::{Callback, Hive, HiveOptions, HiveServer, Programs, local_url};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Takes jobs from clients, gives them to workers, and streams what happens.
///
/// A hive is inside: on one machine nothing else is needed.
#[derive(Debug, Clone, clap::Args)]
#[command(mut_arg("port", |port| port.help("Port to listen on, 0 for any free one (default: 7833)")))]
pub struct QueenArgs {
    /// Where she listens: port 7833 unless told otherwise.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Port of the hive inside, always on loopback (default: 7835, or any free one where that is taken).
    #[arg(long, env = "RBEE_HIVE_PORT", value_name = "PORT")]
    pub hive_port: Option<u16>,
    /// Jobs that may wait and run at once; more are refused with 429.
    #[arg(long, env = "RBEE_MAX_JOBS", default_value_t = QUEEN_JOBS, value_name = "N")]
    pub max_jobs: usize,
    /// How the hive inside behaves.
    #[command(flatten)]
    pub hive: HiveOptions,
}

impl Default for QueenArgs {
    fn default() -> Self {
        Self { listen: ListenArgs::default(), hive_port: None, max_jobs: QUEEN_JOBS, hive: HiveOptions::default() }
    }
}

/// Runs the daemon `queen-rbee` until it is told to stop.
///
/// # Errors
/// Another queen has the data folder, it cannot listen, or the folder cannot be written to.
pub async fn run(args: QueenArgs, programs: Programs) -> anyhow::Result<()> {
    job_server::record_metrics();
    let config = args.hive.config(programs)?;
    let folder = config.data_dir.path().to_path_buf();
    let lock = QueenLock::take(&folder)?;
    let options = SqliteOptions { limit: args.max_jobs, own_hive: Some(config.id.clone()), ..SqliteOptions::default() };
    let broker: Arc<dyn Broker> = Arc::new(SqliteBroker::open(folder.join("broker"), options).await?);
    let hive = Hive::new(config)?;
    let (listener, access) = listen(&args.listen, &broker).await?;
    let (hive_listener, hive_access) = hive_listener(args.hive_port).await?;
    let addresses =
        Addresses { queen: local_url(listener.local_addr()?), hive: local_url(hive_listener.local_addr()?) };
    hive.set_callback(Callback { url: addresses.hive.clone(), key: None });
    let version = env!("CARGO_PKG_VERSION");
    lock.write(&QueenRecord { pid: std::process::id(), url: addresses.queen.clone(), version: version.to_owned() })?;
    tracing::info!("queen-rbee {version} listens on {}, the hive inside on {}", addresses.queen, addresses.hive);

    let hive_server = HiveServer::new(hive.clone());
    let stop_hive = CancellationToken::new();
    let hive_serving = tokio::spawn(job_server::serve(
        hive_listener,
        hive_server.router(&hive_access),
        hive_server.jobs().clone(),
        stop_hive.clone().cancelled_owned(),
    ));
    let queen = QueenServer::new(broker.clone(), hive.clone(), addresses.clone());
    let operator = Arc::new(QueenOperator(queen.clone()));
    queen.queen_jobs().set_agent(Agent::start(hive.clone(), broker, operator, Some(addresses.hive)).await?);
    queen.queen_jobs().count_earlier().await;
    let sweeping = tokio::spawn(sweep(queen.clone()));
    let jobs = queen.jobs().clone();
    let served = job_server::serve(listener, queen.router(&access), jobs, job_server::stop_signal()).await;
    sweeping.abort();
    hive.stop().await;
    stop_hive.cancel();
    hive_serving.await??;
    drop(lock);
    tracing::info!("stopped");
    Ok(served?)
}

/// Others than this machine are let in only where there is a key that they need.
async fn listen(args: &ListenArgs, broker: &Arc<dyn Broker>) -> anyhow::Result<(TcpListener, Access)> {
    if args.needs_key() && !any_client_key(&**broker).await? {
        return Err(ListenError::NoApiKey(args.bind).into());
    }
    let (listener, access) = args.listen_with_keys(Port::Exactly(QUEEN_PORT)).await?;
    Ok((listener, access.with_keys(Arc::new(BrokerKeys(broker.clone())))))
}

/// Only this machine's own workers call the hive inside, so that it needs neither another address nor a key.
async fn hive_listener(port: Option<u16>) -> anyhow::Result<(TcpListener, Access)> {
    let listen = |port| {
        let args = ListenArgs { port: Some(port), ..ListenArgs::default() };
        async move { args.listen(Port::Exactly(port)).await }
    };
    if let Some(port) = port {
        return Ok(listen(port).await?);
    }
    match listen(HIVE_PORT).await {
        Ok(listener) => Ok(listener),
        Err(error) => {
            let other = listen(0).await?;
            tracing::warn!("{error}; the hive inside takes {} instead", other.0.local_addr()?);
            Ok(other)
        }
    }
}
