//! Every event of the contract is attacked in every way a hostile bus can: a new event without its attacks fails here.
#![allow(clippy::panic, clippy::expect_used)] // tests: an attack that is missing is the failure

use std::{fs, path::Path};

use keyferry_contract::{EventKind, Stream};

const WAYS: [&str; 5] = ["dropped", "replayed", "reordered", "swapped", "forged"];

/// Where an attack is: a file and a test in it.
type Test = (&'static str, &'static str);

const NEWS: Test = ("integration-tests/tests/hostile_bus.rs", "events_are_news_and_never_orders");

/// The tests that attack an event, in the order of [`WAYS`].
fn attacks(kind: &EventKind) -> Option<[Test; 5]> {
    let broker = |test| ("services/token-broker/tests/evidence.rs", test);
    let attester = |test| ("services/attester/tests/attestation.rs", test);
    let hostile = |test| ("integration-tests/tests/hostile_bus.rs", test);
    Some(match kind.prefix {
        "keyferry.v1.evidence.collected" => [
            ("integration-tests/tests/bus_restart.rs", "evidence_survives_a_killed_bus_and_is_appraised_once"),
            broker("the_same_evidence_again_gets_the_identical_token_and_other_evidence_a_refusal"),
            hostile("evidence_out_of_order_and_again_has_one_token_each"),
            broker("what_is_no_evidence_of_its_subject_goes_to_the_dead_letters_and_the_audit"),
            broker("weak_foreign_and_broken_evidence_is_rejected_with_its_reason_and_recorded"),
        ],
        "keyferry.v1.token.issued" => [
            attester("an_answer_sent_while_disconnected_is_read_back"),
            hostile("answers_played_again_or_out_of_order_are_not_taken"),
            hostile("answers_played_again_or_out_of_order_are_not_taken"),
            hostile("swapped_answers_reach_nobody"),
            attester("forged_and_foreign_tokens_are_ignored_and_the_wait_goes_on"),
        ],
        "keyferry.v1.attestation.rejected" => [
            attester("silence_ends_in_the_deadline_and_the_next_caller_is_served"),
            hostile("a_rejection_played_again_ends_no_other_wait"),
            hostile("a_rejection_played_again_ends_no_other_wait"),
            // Each names an attestation that is not the one waited for.
            hostile("forged_answers_neither_end_a_wait_nor_obtain_a_key"),
            hostile("forged_answers_neither_end_a_wait_nor_obtain_a_key"),
        ],
        _ if kind.stream == Stream::Events => [NEWS; 5],
        // Nobody consumes it yet, and no release depends on it: only its subject is reserved.
        "keyferry.v1.td.reattest" => return None,
        _ => panic!("{} is attacked nowhere", kind.prefix),
    })
}

#[test]
fn every_event_is_attacked_in_every_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let mut without = Vec::new();
    for kind in &EventKind::ALL {
        let Some(tests) = attacks(kind) else {
            without.push(kind.prefix);
            continue;
        };
        for (way, (file, test)) in WAYS.iter().zip(tests) {
            let text = fs::read_to_string(root.join(file)).unwrap_or_default();
            assert!(text.contains(&format!("async fn {test}()")), "{} {way}: {file} has no test {test}", kind.prefix);
        }
    }
    // This list may only shrink.
    assert_eq!(without, ["keyferry.v1.td.reattest"]);
}

/// The threat model's table of promises: every row names tests, and each of them exists.
#[test]
fn every_promise_is_attacked_by_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let page = fs::read_to_string(root.join("docs/threat-model.md")).expect("the threat model");
    let rows: Vec<&str> =
        page.lines().skip_while(|line| !line.starts_with("| promise |")).skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 13, "the table of promises was found");
    for row in rows {
        let mut named = 0;
        for test in row.split('`').filter(|text| text.contains(".rs::")) {
            let (file, name) = test.split_once("::").expect("file::test");
            let text = fs::read_to_string(root.join(file)).unwrap_or_default();
            assert!(text.contains(&format!("fn {name}()")), "{test} does not exist");
            named += 1;
        }
        assert!(named > 0, "nothing attacks this promise: {row}");
    }
}
