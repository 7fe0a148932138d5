//! What a dialect adds to the common subset, and that it stays bounded.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

use std::fmt::Write;

use keyferry_rego::{Answer, Dialect, EVALUATION_STEPS_MAX, Module, RuleError};
use serde_json::{Value, json};

/// 2026-03-04 05:06:07 UTC.
const NOW: u64 = 1_772_600_767;

const DIALECT: Dialect = Dialect {
    package: "policy",
    package_implied: true,
    older_syntax: true,
    required_rule: None,
    exports: Some(|name| name == "export"),
    time: true,
    source_bytes_max: 20 * 1024,
    columns_max: 4096,
};

#[track_caller]
fn answer(source: &str, input: &Value) -> Answer {
    let module = Module::compile(source, &DIALECT).unwrap_or_else(|error| panic!("{source}: {error}"));
    module.evaluation(input, NOW).unwrap().answer("ok").unwrap_or_else(|error| panic!("{source}: {error}"))
}

#[track_caller]
fn refused(source: &str) -> RuleError {
    Module::compile(source, &DIALECT).unwrap_err()
}

#[test]
fn both_syntaxes_and_a_package_that_goes_without_saying() {
    let input = json!({ "a": 1, "list": ["x", "y"] });
    for source in [
        "default ok = false\nok = true {\n input.a == 1\n}",
        "package policy\ndefault ok = false\nok { input.a == 1; count(input.list) == 2 }",
        "# a comment about a package\nimport rego.v1\ndefault ok := false\nok if { input.a == 1; \"x\" in input.list }",
        "import future.keywords.in\nok { \"y\" in input.list }",
        "ok { values := {\"x\", \"z\"}; values[input.list[_]] }",
        "ok = true { object.subset(input, {\"a\": 1}); input.a >= 1; input.a <= 1; input.a < 2; input.a > 0 }",
    ] {
        assert_eq!(answer(source, &input), Answer::True, "{source}");
        let other = json!({ "a": 2, "list": [] });
        assert_ne!(answer(source, &other), Answer::True, "{source}");
    }
    assert_eq!(answer("ok { input.nothing }", &input), Answer::Undefined);
    assert_eq!(answer("ok = 1", &input), Answer::Other);
    assert!(matches!(refused("package other\nok = true"), RuleError::NotAllowed { .. }));
    match refused("ok = true\nother { http.send({}) }") {
        RuleError::NotAllowed { line: 2, what } => assert!(what.contains("http.send"), "{what}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn time_is_the_one_that_was_given() {
    let input = json!({ "date": "2026-03-04T05:06:07Z", "old": "2026-01-31T00:00:00Z", "offset": "2026-03-04T06:06:07+01:00" });
    for (source, wanted) in [
        ("ok { time.now_ns() == time.parse_rfc3339_ns(input.date) }", true),
        ("ok { time.parse_rfc3339_ns(input.date) == time.parse_rfc3339_ns(input.offset) }", true),
        ("ok { time.now_ns() == 1772600767000000000 }", true),
        ("ok { time.now_ns() < time.parse_rfc3339_ns(input.old) }", false),
        // The end of a shorter month, and back over the end of a year.
        ("ok { time.add_date(time.parse_rfc3339_ns(input.old), 0, 1, 0) == time.parse_rfc3339_ns(\"2026-02-28T00:00:00Z\") }", true),
        ("ok { time.add_date(time.parse_rfc3339_ns(input.old), -1, -1, -1) == time.parse_rfc3339_ns(\"2024-12-30T00:00:00Z\") }", true),
        ("ok { time.add_date(time.parse_rfc3339_ns(input.old), 0, 0, 30) > time.now_ns() }", false),
        ("ok { time.add_date(time.parse_rfc3339_ns(input.old), 0, 0, 60) > time.now_ns() }", true),
    ] {
        assert_eq!(answer(source, &input) == Answer::True, wanted, "{source}");
    }
    let fails = |source: &str| {
        let module = Module::compile(source, &DIALECT).unwrap();
        module.evaluation(&input, NOW).unwrap().answer("ok").unwrap_err().cause
    };
    for source in [
        "ok { not time.parse_rfc3339_ns(\"yesterday\") }",
        "ok { not time.add_date(0, 9223372036854775807, 0, 0) }",
        "ok { not time.add_date(\"x\", 0, 0, 0) }",
        "ok { not time.now_ns(1) }",
    ] {
        assert!(!fails(source).is_empty(), "{source}: what cannot be computed must not count behind a `not`");
    }
    let other = Dialect { time: false, ..DIALECT };
    assert!(matches!(Module::compile("ok { time.now_ns() > 0 }", &other), Err(RuleError::NotAllowed { .. })));
}

#[test]
fn an_export_is_an_object_that_nothing_may_refer_to() {
    let input = json!({ "a": "text", "b": { "c": [1, 2] } });
    let module =
        Module::compile("x := input.b\nexport := {\"a\": input.a, \"inner\": {\"c\": x.c, \"constant\": 1}}\nnothing := {}", &DIALECT);
    let module = module.unwrap();
    let object = module.evaluation(&input, NOW).unwrap().object("export", 100).unwrap();
    assert_eq!(Value::Object(object), json!({ "a": "text", "inner": { "c": [1, 2], "constant": 1 } }));
    let too_long = module.evaluation(&input, NOW).unwrap().object("export", 10).unwrap_err();
    assert!(too_long.cause.contains("at most 10 bytes"), "{too_long}");
    assert!(module.evaluation(&json!({}), NOW).unwrap().object("export", 100).unwrap().is_empty(), "undefined exports nothing");
    let text = Module::compile("export := input.a", &DIALECT).unwrap();
    assert!(text.evaluation(&input, NOW).unwrap().object("export", 100).unwrap_err().cause.contains("no object"));
    for source in [
        "export := {\"a\": input.a}\nok { export.a }",
        "export := {\"a\": input.a}\nok { data.policy.export }",
        "export := {\"a\": [input.a, input.a]}",
        "other := {\"a\": input.a}",
        "export := {\"a\": export}",
    ] {
        assert!(matches!(refused(source), RuleError::NotAllowed { .. }), "{source}");
    }
}

#[test]
fn the_rules_of_a_module_share_one_budget_of_steps() {
    let loops = |name: &str, depth: usize| {
        let body: String = ["a", "b", "c", "d", "e", "f"][..depth].iter().fold(String::new(), |mut text, name| {
            write!(text, "{name} := input.list[_]; ").unwrap();
            text
        });
        format!("{name} {{ {body} a == 7 }}\n")
    };
    let input = json!({ "list": [1, 2, 3, 4, 5, 6] });
    let too_much = Module::compile(&loops("ok", 6), &DIALECT).unwrap();
    let over = format!("more than {EVALUATION_STEPS_MAX} steps");
    assert_eq!(too_much.evaluation(&input, NOW).unwrap().answer("ok").unwrap_err().cause, over);
    let source: String = (0..30).map(|index| loops(&format!("rule{index}"), 3)).collect();
    let many = Module::compile(&source, &DIALECT).unwrap();
    let mut evaluation = many.evaluation(&input, NOW).unwrap();
    assert_eq!(evaluation.answer("rule0"), Ok(Answer::Undefined));
    let last = many.rules().iter().try_for_each(|rule| evaluation.answer(rule).map(drop));
    assert_eq!(last.unwrap_err().cause, over, "each alone is within the bound");
}

#[test]
fn a_line_may_be_long_only_with_texts() {
    let hashes = vec![format!("\"{}\"", "ab".repeat(48)); 10].join(", ");
    assert_eq!(answer(&format!("ok {{ {{{hashes}}}[input.a] }}"), &json!({ "a": "ab".repeat(48) })), Answer::True);
    let chain = format!("ok {{ input{} }}", ".a".repeat(200));
    assert!(matches!(refused(&chain), RuleError::TooLarge { what: "columns", .. }));
    assert!(matches!(refused(&"# \n".repeat(20_000)), RuleError::TooLarge { what: "bytes", .. }));
    assert!(matches!(refused(""), RuleError::NotAllowed { .. } | RuleError::Syntax { .. }));
}
