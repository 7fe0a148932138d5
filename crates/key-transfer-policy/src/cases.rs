//! Policy unit tests: claims that nobody signed, and what a policy should say to them. See `docs/policies.md`.

use keyferry_attestation_token::{INTEL_TRUST_ANCHOR, UnverifiedClaims, names_trust_anchor};
use keyferry_identifiers::KeyId;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    document::Policy,
    evaluate::{Comparison, explain_claims},
};

/// The longest file of cases.
pub const CASES_BYTES_MAX: usize = 1024 * 1024;
/// Cases of one file.
pub const CASES_MAX: usize = 1024;

/// Why a text is no file of cases.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CasesError {
    /// Over [`CASES_BYTES_MAX`].
    #[error("the file has {bytes} bytes, {CASES_BYTES_MAX} are allowed")]
    TooLarge {
        /// Bytes found.
        bytes: usize,
    },
    /// Not JSON of the right shape.
    #[error("the file is malformed: {cause}")]
    Malformed {
        /// Member and position.
        cause: String,
    },
    /// None, or over [`CASES_MAX`].
    #[error("the file has {found} cases: 1 to {CASES_MAX} are allowed")]
    Count {
        /// Cases found.
        found: usize,
    },
    /// The claims of a case are no token's.
    #[error("case {name:?}: {cause}")]
    Claims {
        /// Which case.
        name: String,
        /// Which claim.
        cause: String,
    },
}

/// What a case expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Every condition holds.
    Permitted,
    /// Exactly these claims do not pass; with none named, any refusal will do.
    Denied(Vec<String>),
}

/// One test of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// What it shows.
    pub name: String,
    claims: UnverifiedClaims,
    key: Option<KeyId>,
    expected: Expected,
}

/// What came of one case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The case's name.
    pub name: String,
    /// Whether the policy said what was expected.
    pub passed: bool,
    /// What was expected.
    pub expected: Expected,
    /// Every comparison.
    pub comparisons: Vec<Comparison>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// What the claims of every case begin with.
    #[serde(default)]
    base: Map<String, Value>,
    cases: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(default)]
    claims: Map<String, Value>,
    trust_anchor: Option<String>,
    key_id: Option<String>,
    expect: Expect,
}

/// `"permitted"`, `"denied"`, or `{"denied": [claims]}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Expect {
    Word(Word),
    Denied(Denied),
}
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Permitted,
    Denied,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Denied {
    denied: Vec<String>,
}

impl Case {
    /// Reads a file of cases, JSON.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, CasesError> {
        if text.len() > CASES_BYTES_MAX {
            return Err(CasesError::TooLarge { bytes: text.len() });
        }
        let Document { base, cases } = serde_json::from_str(text).map_err(|error| CasesError::Malformed { cause: error.to_string() })?;
        if cases.is_empty() || cases.len() > CASES_MAX {
            return Err(CasesError::Count { found: cases.len() });
        }
        cases.into_iter().map(|case| Self::read(&base, case)).collect()
    }

    fn read(base: &Map<String, Value>, written: Written) -> Result<Self, CasesError> {
        let Written { name, claims, trust_anchor, key_id, expect } = written;
        let wrong = |cause: String| CasesError::Claims { name: name.clone(), cause };
        let mut payload = base.clone();
        merge(&mut payload, claims);
        let anchor = trust_anchor.unwrap_or_else(|| INTEL_TRUST_ANCHOR.to_owned());
        if !names_trust_anchor(&anchor) {
            return Err(wrong("trust_anchor names no root of evidence".to_owned()));
        }
        let claims = UnverifiedClaims::from_payload(&Value::Object(payload)).map_err(|error| wrong(error.to_string()))?;
        let key = key_id.map(|text| KeyId::parse(&text)).transpose().map_err(|error| wrong(error.to_string()))?;
        let expected = match expect {
            Expect::Word(Word::Permitted) => Expected::Permitted,
            Expect::Word(Word::Denied) => Expected::Denied(Vec::new()),
            Expect::Denied(Denied { denied }) => Expected::Denied(denied),
        };
        Ok(Self { claims: claims.with_absent_anchor(&anchor), name, key, expected })
    }

    /// Asks the policy. Nothing that could release a key comes of it.
    pub fn run(&self, policy: &Policy) -> Outcome {
        let comparisons = explain_claims(policy, &self.claims, self.key);
        let failed: Vec<&str> = comparisons.iter().filter(|comparison| !comparison.matched).map(|comparison| comparison.claim).collect();
        let passed = match &self.expected {
            Expected::Permitted => failed.is_empty(),
            Expected::Denied(any) if any.is_empty() => !failed.is_empty(),
            // A rule that was not asked because another condition failed did not fail itself.
            Expected::Denied(claims) => {
                let named = |claim: &&str| claims.iter().any(|named| named == claim);
                let decisive = |claim: &&str| *claim != crate::document::RULE_CLAIM || failed.len() == 1;
                failed.iter().filter(|claim| decisive(claim)).all(named)
                    && !failed.is_empty()
                    && claims.iter().all(|named| failed.contains(&named.as_str()))
            }
        };
        Outcome { name: self.name.clone(), passed, expected: self.expected.clone(), comparisons }
    }
}

/// A merge patch (RFC 7396): objects member by member, `null` takes a member away, anything else replaces.
fn merge(base: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, value) in patch {
        match (value, base.get_mut(&name)) {
            (Value::Null, _) => drop(base.remove(&name)),
            (Value::Object(patch), Some(Value::Object(object))) => merge(object, patch),
            (value, _) => drop(base.insert(name, value)),
        }
    }
}
