//! The appraisal policies of the configuration: in JSON or in Rego, by id, compiled once.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use keyferry_appraisal::{AppraisalPolicy, Catalog, PolicyError, RegoPolicy, ReplayedLog, RuleError, appraise, type_name};
use keyferry_attestation_token::{MatchedPolicy, TdxClaims};
use keyferry_contract::{Reason, release::v1::ClaimResult};
use keyferry_dcap::VerifiedQuote;
use keyferry_identifiers::PolicyId;
use serde_json::{Map, Value, json};

use crate::refusal::Refusal;

/// The most user data and runtime JSON that a policy in Rego judges: comparing more would cost more than its steps count, and
/// leaving them out would make true what a policy says of their absence.
const DATA_BYTES_MAX: usize = 64 * 1024;
/// Of one event, and of all events of a log together.
const EVENT_DATA_BYTES_MAX: usize = 4 * 1024;
const LOG_DATA_BYTES_MAX: usize = 64 * 1024;

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyFileError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no policy in JSON.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: PolicyError,
    },
    /// It is no policy in Rego.
    #[error("{}: {source}", path.display())]
    Rego {
        /// The file.
        path: PathBuf,
        /// Why.
        source: RuleError,
    },
}

/// The policies of the configuration.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    base: AppraisalPolicy,
    named: BTreeMap<PolicyId, NamedPolicy>,
}

#[derive(Debug)]
struct NamedPolicy {
    rules: Rules,
    hash: [u8; 48],
}

#[derive(Debug)]
enum Rules {
    Json(Box<AppraisalPolicy>),
    Rego(Box<RegoPolicy>),
}

/// A TD that satisfies the base policy, and what further policies may look at.
#[derive(Debug)]
pub(crate) struct Judged<'a> {
    /// The quote.
    pub(crate) verified: &'a VerifiedQuote,
    /// The claims of the token to be.
    pub(crate) claims: &'a TdxClaims,
    /// The event log, if one came.
    pub(crate) log: Option<&'a ReplayedLog>,
    /// The report data that were expected.
    pub(crate) expected: &'a [u8; 64],
    /// The documents of reference values.
    pub(crate) catalog: &'a Catalog,
    /// Unix seconds.
    pub(crate) now: u64,
}

/// What became of the policies that the evidence names.
#[derive(Debug, Default)]
pub(crate) struct PolicyResults {
    /// They match.
    pub(crate) matched: Vec<MatchedPolicy>,
    /// They do not.
    pub(crate) unmatched: Vec<MatchedPolicy>,
    /// What they export into the token.
    pub(crate) exported: Map<String, Value>,
}

impl Policies {
    /// Reads them; without a `base` file the refusing defaults. The end of a name tells the kind: `.rego`, or JSON.
    pub(crate) fn open<'a>(base: Option<&Path>, named: impl IntoIterator<Item = (PolicyId, &'a Path)>) -> Result<Self, PolicyFileError> {
        let base = base.map(|path| json_policy(path, &read(path)?)).transpose()?.unwrap_or_default();
        let named = named.into_iter().map(|(id, path)| Ok((id, NamedPolicy::read(path)?))).collect::<Result<_, _>>()?;
        Ok(Self { base, named })
    }

    /// The policy that every TD must satisfy.
    pub(crate) fn base(&self) -> &AppraisalPolicy {
        &self.base
    }

    /// Judges a TD by the policies of these ids. With `must_match`, the first that does not match is a refusal.
    pub(crate) fn judge(&self, ids: &[PolicyId], must_match: bool, judged: &Judged<'_>) -> Result<PolicyResults, Refusal> {
        let mut results = PolicyResults::default();
        for id in ids {
            let named = self.named.get(id);
            let named = named.ok_or_else(|| Refusal::new(Reason::PolicyNotFound, format!("appraisal policy {id} is not configured")))?;
            let entry = MatchedPolicy { id: *id.as_uuid(), version: 1, hash: Some(named.hash) };
            match named.rules.judge(*id, judged, &mut results.exported)? {
                Ok(()) => results.matched.push(entry),
                Err(refusal) if must_match => return Err(refusal),
                Err(_) => results.unmatched.push(entry),
            }
        }
        Ok(results)
    }
}

impl NamedPolicy {
    fn read(path: &Path) -> Result<Self, PolicyFileError> {
        let text = read(path)?;
        let rules = if path.extension().is_some_and(|extension| extension == "rego") {
            let compiled = RegoPolicy::compile(&text).map_err(|source| PolicyFileError::Rego { path: path.to_owned(), source })?;
            Rules::Rego(Box::new(compiled))
        } else {
            Rules::Json(Box::new(json_policy(path, &text)?))
        };
        let mut hash = [0; 48];
        hash.copy_from_slice(digest::digest(&digest::SHA384, text.as_bytes()).as_ref());
        Ok(Self { rules, hash })
    }
}

fn read(path: &Path) -> Result<String, PolicyFileError> {
    fs::read_to_string(path).map_err(|source| PolicyFileError::Read { path: path.to_owned(), source })
}

fn json_policy(path: &Path, text: &str) -> Result<AppraisalPolicy, PolicyFileError> {
    AppraisalPolicy::from_json(text).map_err(|source| PolicyFileError::Json { path: path.to_owned(), source })
}

impl Rules {
    /// The outer error is a policy that failed: it says neither yes nor no, so there is no token.
    fn judge(&self, id: PolicyId, judged: &Judged<'_>, exported: &mut Map<String, Value>) -> Result<Result<(), Refusal>, Refusal> {
        match self {
            Self::Json(policy) => {
                let verdict = appraise(judged.verified.clone(), policy, judged.expected, judged.catalog, judged.now);
                Ok(verdict.map(drop).map_err(Refusal::from))
            }
            Self::Rego(policy) => {
                let failed = |cause: &str| Refusal::new(Reason::PolicyMismatch, format!("appraisal policy {id} {cause}"));
                let members = input(judged).ok_or_else(|| failed("judges at most 64 KiB of user data"))?;
                let verdict = policy.evaluate(&members, judged.now).map_err(|failure| failed(&failure.to_string()))?;
                exported.extend(verdict.exported);
                if verdict.unmet.is_empty() {
                    return Ok(Ok(()));
                }
                let claims = verdict.unmet.iter().map(|rule| ClaimResult {
                    claim: format!("{id}.{rule}"),
                    wanted: "true".to_owned(),
                    got: "not true".to_owned(),
                    matched: false,
                });
                let refusal = failed(&format!("does not match: {}", verdict.unmet.join(", ")));
                Ok(Err(Refusal { claims: claims.collect(), ..refusal }))
            }
        }
    }
}

/// The members of the TD as the token has them, and the digests of the event log.
fn input(judged: &Judged<'_>) -> Option<Map<String, Value>> {
    let bytes = judged.claims.held_data.len() + judged.claims.azure_runtime.as_ref().map_or(0, Vec::len);
    if bytes > DATA_BYTES_MAX {
        return None;
    }
    let mut members = judged.claims.members().ok()?;
    if let Some(log) = judged.log {
        members.insert("uefi_event_logs".to_owned(), events(log));
    }
    Some(members)
}

/// In the form of Intel's claim of that name. Data only where the digest is of those data.
fn events(log: &ReplayedLog) -> Value {
    let mut left = LOG_DATA_BYTES_MAX;
    let events = log.events().iter().map(|event| {
        let mut shown = json!({
            "index": event.register().measurement_index(),
            "type_name": type_name(event.kind()),
            "digests": [{ "alg": "SHA-384", "digest": hex::encode(event.digest()) }],
        });
        if let Some(data) = event.data().filter(|data| data.len() <= EVENT_DATA_BYTES_MAX.min(left)) {
            left -= data.len();
            shown["details"] = match std::str::from_utf8(data) {
                Ok(text) => json!({ "data": hex::encode(data), "string": text.trim_end_matches('\0') }),
                Err(_) => json!({ "data": hex::encode(data) }),
            };
        }
        shown
    });
    Value::Array(events.collect())
}
