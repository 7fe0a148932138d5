//! The Rego escape hatch: what a rule sees, what counts as yes, and that none can take the broker's time, memory or stack.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod verified;

use std::{fmt::Write, sync::Arc};

use keyferry_identifiers::KeyId;
use keyferry_key_transfer_policy::{EVALUATION_STEPS_MAX, Policy, PolicyDenial, PolicyError, RULE_BYTES_MAX, RuleError, evaluate, explain};
use serde_json::json;
use verified::{claims, token};

fn parse(rule: &str) -> Result<Policy, PolicyError> {
    let document = json!({ "attestation_type": "TDX", "tdx": { "attributes": { "rego": format!("package keyferry\n{rule}") } } });
    Policy::parse(&document.to_string())
}

fn decide(policy: &Policy) -> Result<(), PolicyDenial> {
    evaluate(policy, token(&claims()), KeyId::random()).map(drop)
}

fn refused(rule: &str) -> RuleError {
    match parse(rule) {
        Err(PolicyError::Rule(error)) => error,
        other => panic!("{rule}: {other:?}"),
    }
}

#[test]
fn only_true_permits() {
    for (rule, permits) in [
        ("import rego.v1\nallow if input.token.tdx_seamsvn == 259", true),
        ("allow if input.token.tdx_seamsvn == 258", false),
        ("default allow := false\nallow if { some id in input.token.attester_advisory_ids; id == \"x\" }", false),
        ("allow := \"true\"", false),
        ("allow := 1", false),
        ("allow := [true]", false),
        ("allow := false", false),
        ("allow if input.token.no_such_claim", false),
        ("allow if not input.token.tdx_is_debuggable", true),
        ("allow if input.token.attester_type == \"TDX\"\nallow if false", true),
        ("good := {\"intel-sgx-root\"}\nallow if input.trust_anchor in good", true),
        ("allow if { every c in [\"tdx_mrtd\", \"tdx_rtmr0\"] { input.token[c] } }", true),
        ("allow if startswith(lower(input.token.tdx_mrtd), \"aaaa\")\n# ((((((((((", true),
        ("allow := true if input.token.pce_svn > 20 else := input.token.pce_svn - 12 == 1", true),
        ("other if false\nallow if data.other.allow", false),
    ] {
        let policy = parse(rule).unwrap_or_else(|error| panic!("{rule}: {error}"));
        let decision = decide(&policy);
        assert_eq!(decision.is_ok(), permits, "{rule}");
        if let Err(denial) = decision {
            assert!(matches!(&denial, PolicyDenial::Mismatch { .. }), "{rule}: {denial:?}");
            assert_eq!(denial.comparisons().last().unwrap().claim, "rego");
        }
    }
}

#[test]
fn a_rule_sees_the_flat_shape_whatever_the_token_had() {
    let rule = "allow if { input.token.tdx_mrtd; not input.token.tdx; input.token.iss == \"verifier\"; is_string(input.key_id) }";
    assert_eq!(decide(&parse(rule).unwrap()), Ok(()));
}

#[test]
fn a_rule_permits_nothing_that_another_condition_refuses_and_is_not_asked() {
    let document =
        json!({ "attestation_type": "TDX", "tdx": { "attributes": { "seamsvn": 1, "rego": "package keyferry\nallow := true" } } });
    let policy = Policy::parse(&document.to_string()).unwrap();
    let comparisons = explain(&policy, &token(&claims()));
    let last = comparisons.last().unwrap();
    assert!(!last.matched && last.got.starts_with("(not evaluated"), "{last:?}");
    assert!(matches!(decide(&policy), Err(PolicyDenial::Mismatch { .. })));
}

/// A rule that fails only with a real token, so that it got through the door.
#[test]
fn an_error_is_a_refusal_with_its_own_reason() {
    for rule in ["allow if not startswith(input.token.tdx_mrtd, 1)", "a if { input.token.tdx_mrtd; b }\nb if a\nallow if a"] {
        let denial = decide(&parse(rule).unwrap()).unwrap_err();
        assert!(matches!(denial, PolicyDenial::RuleFailed { .. }), "{rule}: {denial:?}");
        assert!(denial.comparisons().last().unwrap().got.starts_with("(failed: "), "{denial:?}");
    }
    assert!(matches!(refused("allow := true\nallow := false"), RuleError::Fails { .. }), "it fails whatever the token is");
}

#[test]
fn steps_are_bounded() {
    let loops: String = "abcdef".chars().fold(String::new(), |mut text, name| {
        write!(text, "some {name} in input.token; ").unwrap();
        text
    });
    let policy = parse(&format!("allow if {{ {loops} [a, b, c, d, e, f] == 1 }}"));
    assert!(policy.is_err(), "lists of variables are not admitted");
    let policy = parse(&format!("allow if {{ {loops} a == {{}}; b == {{}}; c == {{}}; d == {{}}; e == {{}}; f == 1 }}")).unwrap();
    let deep = parse(&format!("allow if {{ {loops} f == {{}} }}")).unwrap();
    let denial = decide(&deep).unwrap_err();
    let rule = denial.comparisons().last().unwrap();
    assert!(
        matches!(&denial, PolicyDenial::RuleFailed { .. }) && rule.got == format!("(failed: more than {EVALUATION_STEPS_MAX} steps)"),
        "{rule:?}"
    );
    let again = decide(&deep).unwrap_err();
    assert_eq!(again.comparisons(), denial.comparisons(), "steps are counted, not time: it ends the same way each time");
    assert!(decide(&policy).is_err());
}

/// What the interpreter would recurse on, or build or compare without looking at the clock. Each of these, admitted, ends
/// the process or keeps a thread for ever.
#[test]
fn what_cannot_be_bounded_is_not_admitted() {
    let doubled = |begin: &str, step: &dyn Fn(usize) -> String| (1..30).fold(begin.to_owned(), |rule, index| rule + &step(index));
    for rule in [
        "f(x) := f(x + 1)\nallow if f(1) > 0".to_owned(),
        "allow if count(numbers.range(1, 100000000)) > 3".to_owned(),
        "allow if count(sprintf(\"%0999999999d\", [1])) > 3".to_owned(),
        "allow if bits.lsh(1, 1000000000) > 0".to_owned(),
        "allow if count([1 | some x in input.token]) > 0".to_owned(),
        "allow if count({x | some x in input.token}) > 0".to_owned(),
        "allow if count({x: 1 | some x in input.token}) > 0".to_owned(),
        "bad contains x if some x in input.token\nallow if count(bad) == 0".to_owned(),
        "o[k] := 1 if some k in input.token\nallow if o.a".to_owned(),
        "allow if true with input as {}".to_owned(),
        "allow if 2 * 3 == 6".to_owned(),
        "allow if 1 / 0 == 1".to_owned(),
        "allow if walk(input, x)".to_owned(),
        "allow if concat(\"\", [\"a\"]) == \"a\"".to_owned(),
        "allow if json.marshal(input) == \"\"".to_owned(),
        "allow if array.concat([1], [2])".to_owned(),
        "allow if print(\"x\")".to_owned(),
        "import data.other\nallow if other.x".to_owned(),
        "default f(x) := 1\nallow if true".to_owned(),
        doubled("x0 := 1\n", &|index| format!("x{index} := [x{0}, x{0}]\n", index - 1)) + "allow if x29 == x29",
        doubled("x0 := \"ab\"\n", &|index| format!("x{index} := replace(x{0}, \"a\", x{0})\n", index - 1)) + "allow if x29 == x29",
        (0..40).fold(String::new(), |rule, index| rule + &format!("x{index} := {index}\n")) + "allow if true",
    ] {
        let error = refused(&rule);
        assert!(matches!(error, RuleError::NotAllowed { .. } | RuleError::TooLarge { .. }), "{rule:.60}: {error:?}");
    }
}

/// No clock, no chance, no network, no environment: a decision depends on the token alone.
#[test]
fn a_rule_cannot_look_around() {
    for function in [
        "time.now_ns()",
        "rand.intn(\"x\", 5)",
        "http.send({})",
        "opa.runtime()",
        "uuid.rfc4122(\"\")",
        "net.lookup_ip_addr(\"x\")",
        "trace(\"x\")",
    ] {
        let error = refused(&format!("allow if {function}"));
        assert!(matches!(error, RuleError::NotAllowed { line: 2, .. }), "{function}: {error:?}");
    }
}

/// These do not reach the parser: it takes twice as long for each level of brackets, and recurses.
#[test]
fn length_and_nesting_are_bounded_before_parsing() {
    let nested = |open: &str, close: &str, levels: usize| format!("allow := {}1{}", open.repeat(levels), close.repeat(levels));
    for (rule, what) in [
        (nested("[", "]", 7), "levels of brackets"),
        (nested("[\n", "\n]", 1900), "levels of brackets"),
        (nested("(", ")", 100), "levels of brackets"),
        (nested("{\"]]]]]]\":[", "]}", 5), "levels of brackets"),
        (nested("{`]]]`:[ # ]]]]\n", "]}", 5), "levels of brackets"),
        (format!("allow := {}1", "-".repeat(2000)), "operators"),
        (format!("allow if {} x", "x in ".repeat(100)), "operators"),
        (" ".repeat(RULE_BYTES_MAX), "bytes"),
    ] {
        match refused(&rule) {
            RuleError::TooLarge { what: found, .. } => assert_eq!(found, what, "{rule:.60}"),
            other => panic!("{rule:.60}: {other:?}"),
        }
    }
    assert!(parse(&nested("[", "]", 6)).is_ok());
    assert!(parse("allow if input.token.tdx_mrtd == \"[[[[[[[[[[\" # ((((((((").is_ok(), "texts and comments do not count");
    for rule in
        [format!("allow if input{}", ".a".repeat(100)), format!("allow if input{}", ".a".repeat(300)), "\n".repeat(1000) + "allow := true"]
    {
        assert!(matches!(refused(&rule), RuleError::Syntax { .. }), "{rule:.40}");
    }
}

/// The deepest that is admitted, on a thread with the stack of a runtime's worker.
#[test]
fn the_deepest_rule_that_is_admitted_is_evaluated_on_a_workers_stack() {
    let chain = (1..30).fold("x0 := input.token.tdx_seamsvn\n".to_owned(), |rule, index| rule + &format!("x{index} := x{}\n", index - 1));
    let long = format!("{chain}allow if {{ x29 == 259; x29{} > 0 }}", " + 1".repeat(40));
    let references = format!("allow if not input{}", ".a".repeat(40));
    let indexed = format!("allow if not input{}", "[\"a\"]".repeat(35));
    for rule in [long, references, indexed] {
        let decided = std::thread::Builder::new().stack_size(2 << 20).spawn(move || parse(&rule).map(|policy| decide(&policy)));
        assert_eq!(decided.unwrap().join().unwrap(), Ok(Ok(())), "evaluated, and true");
    }
}

#[test]
fn the_package_is_fixed_and_the_entry_is_there() {
    let whole =
        |source: &str| Policy::parse(&json!({ "attestation_type": "TDX", "tdx": { "attributes": { "rego": source } } }).to_string());
    for source in
        ["package other\nallow := true", "package keyferry.sub\nallow := true", "package keyferry\ndeny := true", "allow := true", ""]
    {
        assert!(matches!(whole(source), Err(PolicyError::Rule(_))), "{source}");
    }
}

/// One compiled policy serves every thread at once.
#[test]
fn a_compiled_rule_is_shared() {
    let policy = Arc::new(parse("allow if { some i in [1, 2, 3]; input.token.tdx_seamsvn > 255 + i }").unwrap());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let policy = Arc::clone(&policy);
            std::thread::spawn(move || (0..50).try_for_each(|_| decide(&policy)))
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), Ok(()));
    }
}

/// A step may cost as much as its operands have bytes, so what a rule reads is bounded too. A refusal it is, never a permit.
#[test]
fn claims_that_are_too_long_for_a_rule_are_refused() {
    let policy = parse("allow if not input.token.never").unwrap();
    let with_data = |bytes: usize| {
        let claims = keyferry_attestation_token::TdxClaims { held_data: vec![1; bytes], ..claims() };
        evaluate(&policy, token(&claims), KeyId::random()).map(drop)
    };
    assert_eq!(with_data(45_000), Ok(()));
    assert!(matches!(with_data(49_152), Err(PolicyDenial::RuleFailed { .. })), "in base64 they are longer");
}
