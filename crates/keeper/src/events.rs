use operations_contract::JobEvent;
use serde_json::Value;

/// An event as it came over the wire, with its number in it: one line of `--json=events`.
pub(crate) fn numbered(id: u64, event: &JobEvent) -> Value {
    let mut value = serde_json::to_value(event).unwrap_or_default();
    value["id"] = id.into();
    value
}
