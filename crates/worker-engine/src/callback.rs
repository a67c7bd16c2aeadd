use operations_contract::WorkerReady;
use std::time::Duration;

/// How often a hive is told before the worker gives up: with pauses that double from half a second to half a minute
/// this is about three minutes.
const TRIES: u32 = 11;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells the hive at `callback_url` that this worker serves. A hive that does not answer is a warning; the worker
/// serves all the same. Returns whether the hive was told.
pub async fn announce_ready(callback_url: &str, api_key: Option<&str>, ready: &WorkerReady) -> bool {
    let url = format!("{}/v1/workers/ready", callback_url.trim_end_matches('/'));
    // The hive is on this machine or in this house: a proxy is never between.
    let client = match reqwest::Client::builder().no_proxy().timeout(PATIENCE).build() {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!("the hive at {url} cannot be told: {error}");
            return false;
        }
    };
    let mut pause = FIRST_PAUSE;
    for attempt in 1..=TRIES {
        let mut request = client.post(&url).json(ready);
        if let Some(key) = api_key {
            request = request.bearer_auth(key);
        }
        let fault = match request.send().await {
            Ok(response) if response.status().is_success() => {
                tracing::info!("told the hive at {url}");
                return true;
            }
            Ok(response) => format!("it answered {}", response.status()),
            Err(error) => error.to_string(),
        };
        tracing::debug!("attempt {attempt} to tell the hive at {url}: {fault}");
        if attempt == TRIES {
            tracing::warn!("the hive at {url} was not told that this worker serves: {fault}");
            break;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    false
}
