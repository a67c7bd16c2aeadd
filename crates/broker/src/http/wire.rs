use crate::{AttemptId, BrokerError, Ending, GiveBack, HiveRecord};
use operations_contract::{ApiError, JobEvent};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// No request is kept waiting longer: proxies and sleeping machines cut what is silent for a minute.
pub(super) const LONGEST_POLL: Duration = Duration::from_secs(25);

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Enlist {
    pub(super) hive: HiveRecord,
    pub(super) ttl_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Retire {
    pub(super) hive_id: String,
    pub(super) incarnation: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AskCancelled {
    pub(super) attempt: AttemptId,
    pub(super) patience_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct IsCancelled {
    pub(super) cancelled: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Append {
    pub(super) attempt: AttemptId,
    pub(super) sequence: u64,
    pub(super) events: Vec<JobEvent>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Finish {
    pub(super) attempt: AttemptId,
    pub(super) ending: Ending,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Return {
    pub(super) attempt: AttemptId,
    pub(super) why: GiveBack,
}

/// The body of a refusal: for people, and for the hive.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) error: ApiError,
    pub(super) broker: BrokerError,
}

/// Milliseconds, of which there never are too many.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
