//! What a record says, for people and for scripts.

use jiff::Timestamp;
use keyferry_bus::StoredRecord;
use keyferry_contract::release::v1::{AuditDecision, AuditRecord};
use serde_json::{Map, Value, json};

use crate::output::printable;

/// Every member that says something; the same record always gives the same object.
pub(super) fn object(record: &AuditRecord) -> Value {
    let mut members = Map::new();
    let mut put = |name: &str, value: Value| members.insert(name.to_owned(), value);
    put("decision", json!(decision(record.decision())));
    if let Some(at) = &record.at {
        put("at", json!(rfc3339(at)));
    }
    put("service", json!(record.service));
    put("writer_id", json!(record.writer_id));
    put("sequence", json!(record.sequence));
    put("previous_digest", json!(hex::encode(&record.previous_digest)));
    if record.reason != 0 {
        put("reason", json!(record.reason().label()));
    }
    for (name, text) in texts(record) {
        if !text.is_empty() {
            put(name, json!(text));
        }
    }
    if record.policy_version != 0 {
        put("policy_version", json!(record.policy_version));
    }
    if !record.claims.is_empty() {
        let claims = record
            .claims
            .iter()
            .map(|claim| json!({ "claim": claim.claim, "wanted": claim.wanted, "got": claim.got, "matched": claim.matched }));
        put("claims", claims.collect());
    }
    if let Some(checkpoint) = &record.checkpoint {
        put("checkpoint", json!({ "public_key": hex::encode(&checkpoint.public_key), "closing": checkpoint.closing }));
    }
    Value::Object(members)
}

fn texts(record: &AuditRecord) -> [(&'static str, &str); 15] {
    [
        ("record_id", &record.record_id),
        ("td_id", &record.td_id),
        ("token_id", &record.token_id),
        ("attestation_id", &record.attestation_id),
        ("key_id", &record.key_id),
        ("policy_id", &record.policy_id),
        ("actor", &record.actor),
        ("user_id", &record.user_id),
        ("client_address", &record.client_address),
        ("trust_anchor", &record.trust_anchor),
        ("tcb_status", &record.tcb_status),
        ("platform_hash", &record.platform_hash),
        ("mode", &record.mode),
        ("detail", &record.detail),
        ("trace_id", &record.trace_id),
    ]
}

/// One line for a terminal: what happened first, then who, what and why.
pub(super) fn line(stored: &StoredRecord, record: &AuditRecord) -> String {
    let mut line = format!("{:>6}  {}  {}", stored.stream_sequence, rfc3339(&stored.stored_at), decision(record.decision()));
    let mut add = |name: &str, text: &str| {
        if !text.is_empty() {
            line.extend(["  ", name, "=", text]);
        }
    };
    add("reason", if record.reason == 0 { "" } else { record.reason().label() });
    let policy =
        if record.policy_version == 0 { record.policy_id.clone() } else { format!("{}@v{}", record.policy_id, record.policy_version) };
    for (name, text) in [
        ("service", record.service.as_str()),
        ("actor", &record.actor),
        ("user", &record.user_id),
        ("td", &record.td_id),
        ("token", &record.token_id),
        ("key", &record.key_id),
        ("policy", &policy),
        ("detail", &record.detail),
    ] {
        add(name, text);
    }
    for claim in record.claims.iter().filter(|claim| !claim.matched) {
        add("wanted", &format!("{}:{} got:{}", claim.claim, claim.wanted, claim.got));
    }
    if let Some(checkpoint) = &record.checkpoint {
        add("chain", &format!("{}..{}{}", record.writer_id, record.sequence, if checkpoint.closing { " closed" } else { "" }));
    }
    printable(&line)
}

/// `released`, `key_created`, ...
fn decision(decision: AuditDecision) -> String {
    decision.as_str_name().trim_start_matches("AUDIT_DECISION_").to_lowercase()
}

pub(super) fn rfc3339(time: &prost_types::Timestamp) -> String {
    Timestamp::new(time.seconds, time.nanos).map_or_else(|_| format!("{}s", time.seconds), |time| time.to_string())
}
