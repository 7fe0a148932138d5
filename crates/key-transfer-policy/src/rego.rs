//! The escape hatch: a rule in Rego for what no member of the document can say.
//!
//! A rule is one module, `package keyferry`, with a rule `allow`. It permits where `data.keyferry.allow` is `true` and
//! nothing else: undefined, `false`, another value and every error refuse. It stands beside the other conditions, so it can
//! refuse what they permit and permit nothing that they refuse. Which Rego is admitted, and why evaluation ends, is
//! `keyferry-rego`'s affair; a rule here sees claims of at most 64 KiB.

use std::fmt;

use keyferry_identifiers::KeyId;
use keyferry_rego::{Answer, COLUMNS_MAX, Dialect, Module, RuleFailure};
pub use keyferry_rego::{EVALUATION_STEPS_MAX, RuleError};
use serde_json::{Map, Value, json};

/// The longest rule.
pub const RULE_BYTES_MAX: usize = 8 * 1024;
/// The most claims that a rule reads: a step may cost as much as its operands have bytes. Only user data makes a token
/// larger, and no key is released for user data of that size.
const INPUT_BYTES_MAX: usize = 64 * 1024;

const DIALECT: Dialect = Dialect {
    package: "keyferry",
    package_implied: false,
    older_syntax: false,
    required_rule: Some("allow"),
    exports: None,
    time: false,
    source_bytes_max: RULE_BYTES_MAX,
    columns_max: COLUMNS_MAX,
};

/// A compiled rule. Two rules are equal when their texts are.
#[derive(Clone)]
pub(crate) struct Rule {
    source: String,
    module: Module,
    permits_everything: bool,
}

impl Rule {
    pub(crate) fn compile(source: &str) -> Result<Self, RuleError> {
        let module = Module::compile(source, &DIALECT)?;
        let mut rule = Self { source: source.to_owned(), module, permits_everything: false };
        rule.permits_everything = rule.permits(&Map::new(), "unknown", None).map_err(|RuleFailure { cause }| RuleError::Fails { cause })?;
        Ok(rule)
    }

    /// Whether `data.keyferry.allow` is true for these members of a token in the flat shape.
    pub(crate) fn permits(&self, members: &Map<String, Value>, trust_anchor: &str, key: Option<KeyId>) -> Result<bool, RuleFailure> {
        let mut input = json!({ "token": members, "trust_anchor": trust_anchor });
        if let Some(key) = key {
            input["key_id"] = Value::from(key.to_string());
        }
        let bytes = input.to_string().len();
        if bytes > INPUT_BYTES_MAX {
            return Err(RuleFailure { cause: format!("the claims have {bytes} bytes, a rule reads {INPUT_BYTES_MAX}") });
        }
        // Nothing here asks for the time.
        Ok(self.module.evaluation(&input, 0)?.answer("allow")? == Answer::True)
    }

    /// Whether it is content with a token that has no claims.
    pub(crate) fn permits_everything(&self) -> bool {
        self.permits_everything
    }

    /// Tells rules apart for people: lines and a checksum.
    pub(crate) fn digest(&self) -> String {
        // FNV-1a: a name in a report, nothing rests on it.
        let digest = self
            .source
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        format!("{digest:016x}")
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}
impl Eq for Rule {}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rule({})", self.digest())
    }
}
