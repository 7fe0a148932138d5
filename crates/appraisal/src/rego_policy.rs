//! Appraisal policies in Rego, in Intel's two shapes.
//!
//! A text without `import rego.v1` is of the first: flat input, and every rule that says true or false has to say true. A
//! text with it is of the second: nested input, a rule `match` decides if there is one, `export` and `export_on_match` give
//! members of the token's `policy_defined_claims`. Source: Intel Trust Authority documentation, "Attestation policies V2",
//! which spells the last one `exportonmatch` and `exportOnMatch` as well; case and underscores do not count.

use keyferry_rego::{Answer, Dialect, Evaluation, Module, RuleError, RuleFailure};
use serde_json::{Map, Value};

/// The longest policy in Rego: what Intel's service takes.
pub const REGO_BYTES_MAX: usize = 20 * 1024;
/// The most JSON that the exports of one policy may be.
pub const EXPORT_BYTES_MAX: usize = 8 * 1024;

const DIALECT: Dialect = Dialect {
    package: "policy",
    package_implied: true,
    older_syntax: true,
    required_rule: None,
    exports: Some(is_export),
    time: true,
    source_bytes_max: REGO_BYTES_MAX,
    columns_max: 4096,
};

/// A compiled policy.
#[derive(Clone, Debug)]
pub struct RegoPolicy {
    module: Module,
    nested: bool,
}

/// What a policy says about one TD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegoVerdict {
    /// The rules that do not hold; empty: it matches.
    pub unmet: Vec<String>,
    /// Members for `policy_defined_claims`.
    pub exported: Map<String, Value>,
}

impl RegoPolicy {
    /// Compiles a policy of either shape.
    pub fn compile(source: &str) -> Result<Self, RuleError> {
        let module = Module::compile(source, &DIALECT)?;
        if module.rules().iter().all(|rule| is_export(rule)) {
            return Err(RuleError::NotAllowed { line: 1, what: "no rule decides: add one named match".to_owned() });
        }
        Ok(Self { module, nested: source.lines().any(|line| line.trim() == "import rego.v1") })
    }

    /// Judges the claims of a token. `members` are those of the TD; the first shape sees them at the top (and in `tdx` too),
    /// the second in `tdx`. A failure is no match: whoever gets one refuses.
    pub fn evaluate(&self, members: &Map<String, Value>, now: u64) -> Result<RegoVerdict, RuleFailure> {
        let mut input = if self.nested { Map::new() } else { members.clone() };
        input.insert("tdx".to_owned(), Value::Object(members.clone()));
        let mut evaluation = self.module.evaluation(&Value::Object(input), now)?;
        let unmet = self.unmet(&mut evaluation)?;
        let mut exported = Map::new();
        for rule in self.module.rules().iter().filter(|rule| is_export(rule)) {
            if rule == "export" || unmet.is_empty() {
                exported.extend(evaluation.object(rule, EXPORT_BYTES_MAX)?);
            }
        }
        Ok(RegoVerdict { unmet, exported })
    }

    fn unmet(&self, evaluation: &mut Evaluation<'_>) -> Result<Vec<String>, RuleFailure> {
        let rules = self.module.rules();
        if rules.iter().any(|rule| rule == "match") {
            let matched = evaluation.answer("match")? == Answer::True;
            return Ok(if matched { Vec::new() } else { vec!["match".to_owned()] });
        }
        let (mut unmet, mut decided) = (Vec::new(), false);
        for rule in rules.iter().filter(|rule| !is_export(rule)) {
            match evaluation.answer(rule)? {
                Answer::True => decided = true,
                Answer::Other => {}
                Answer::False | Answer::Undefined => unmet.push(rule.clone()),
            }
        }
        // Values alone say nothing.
        if !decided && unmet.is_empty() {
            unmet.push("match".to_owned());
        }
        Ok(unmet)
    }
}

fn is_export(rule: &str) -> bool {
    rule == "export" || rule.replace('_', "").eq_ignore_ascii_case("exportonmatch")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(source: &str) -> RegoVerdict {
        let Value::Object(members) = json!({ "tdx_mrtd": "ab", "tdx_seamsvn": 3, "attester_tcb_date": "2026-01-01T00:00:00Z" }) else {
            panic!("no object");
        };
        let policy = RegoPolicy::compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        policy.evaluate(&members, 1_772_600_767).unwrap_or_else(|error| panic!("{source}: {error}"))
    }

    #[test]
    fn both_of_intels_shapes_are_judged() {
        for (source, matches) in [
            ("default matches_tdx_policy = false\nmatches_tdx_policy = true {\n input.tdx_mrtd == \"ab\"\n}", true),
            ("default matches_tdx_policy = false\nmatches_tdx_policy = true { input.tdx_mrtd == \"cd\" }", false),
            ("a { input.tdx_mrtd == \"ab\" }\nb { input.tdx_seamsvn == 4 }", false),
            ("a { input.tdx.tdx_mrtd == \"ab\" }\nallowed := {3, 4}", true),
            ("import rego.v1\ndefault match := false\nmatch if input.tdx.tdx_mrtd == \"ab\"\nother if false", true),
            ("import rego.v1\ndefault match := false\nmatch if input.tdx_mrtd == \"ab\"", false),
            ("import rego.v1\nmatch := \"true\"", false),
            ("values := {1}", false),
            ("ok { time.add_date(time.parse_rfc3339_ns(input.attester_tcb_date), 0, 6, 0) > time.now_ns() }", true),
        ] {
            assert_eq!(judged(source).unmet.is_empty(), matches, "{source}");
        }
    }

    #[test]
    fn exports_depend_on_the_match_where_they_say_so() {
        let source = |wanted: &str| {
            format!(
                "import rego.v1\ndefault match := false\nmatch if input.tdx.tdx_mrtd == \"{wanted}\"\n\
                 export := {{\"always\": input.tdx.tdx_mrtd}}\nexport_on_match := {{\"matched\": {{\"svn\": input.tdx.tdx_seamsvn}}}}"
            )
        };
        assert_eq!(Value::Object(judged(&source("ab")).exported), json!({ "always": "ab", "matched": { "svn": 3 } }));
        assert_eq!(Value::Object(judged(&source("cd")).exported), json!({ "always": "ab" }));
        assert!(RegoPolicy::compile("export := {}").is_err());
    }
}
