//! Which documents are in force: every way not to be has its own text.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

use keyferry_reference_value::{Action, Catalog, Denial, Document, DocumentError, History, KeyError, Signer, VerificationKey, lint, sign};

/// 2026-03-04 05:06:07 UTC.
const NOW: u64 = 1_772_600_767;

fn document(id: &str, more: &str) -> String {
    format!(r#"{{"id":"{id}","source":"a build","values":{{"mr_td":"{}"}}{more}}}"#, "ab".repeat(48))
}

struct Keys {
    signer: Signer,
    public: VerificationKey,
}

fn keys(algorithm: &'static rcgen::SignatureAlgorithm) -> Keys {
    let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let signer = Signer::from_pem(pair.serialize_pem().as_bytes()).unwrap();
    let public = VerificationKey::from_pem(pair.public_key_pem().as_bytes()).unwrap();
    assert_eq!(signer.id(), public.id());
    Keys { signer, public }
}

/// A history of these actions, on these files.
fn history(steps: &[(Action, &str, &str)]) -> String {
    steps.iter().fold(String::new(), |text, (action, id, file)| {
        let line = History::parse(&text).unwrap().next_line(
            "2026-01-02T03:04:05Z".parse().unwrap(),
            *action,
            id,
            &History::file_digest(file.as_bytes()),
            "alice",
            "because",
        );
        format!("{text}{line}\n")
    })
}

fn denial(catalog: &Catalog, id: &str) -> Denial {
    catalog.in_force(id, NOW).unwrap_err()
}

fn of(id: &str, file: &str, history: &str, keys: &[VerificationKey], trust_unsigned: bool) -> Catalog {
    Catalog::new([(id.to_owned(), file.as_bytes().to_vec())], history, keys, trust_unsigned)
}

#[test]
fn a_document_that_a_configured_key_signed_is_in_force() {
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256] {
        let (mine, other) = (keys(algorithm), keys(algorithm));
        let file = sign(document("build-1", "").as_bytes(), &mine.signer).unwrap();
        let added = history(&[(Action::Add, "build-1", &file)]);
        let both = [other.public.clone(), mine.public.clone()];
        let catalog = of("build-1", &file, &added, &both, false);
        assert_eq!(catalog.in_force("build-1", NOW).unwrap().values()["mr_td"].to_string(), "ab".repeat(48));
        let stranger = of("build-1", &file, &added, &[other.public], false);
        assert_eq!(denial(&stranger, "build-1"), Denial::OtherKey(vec![mine.public.id().to_owned()]));
        assert!(denial(&of("build-1", &file, &added, &[], true), "build-1").to_string().contains("none of the configured keys"));

        let changed = file.replace("payload\": \"ey", "payload\": \"e2");
        assert_ne!(changed, file);
        let altered = of("build-1", &changed, &added, &both, false);
        assert!(matches!(denial(&altered, "build-1"), Denial::OtherKey(_) | Denial::Malformed(_)), "{:?}", denial(&altered, "build-1"));
        let other_type = file.replace("reference-value+json", "something+json");
        assert!(denial(&of("build-1", &other_type, &added, &both, false), "build-1").to_string().contains("payloadType"));
    }
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert_eq!(VerificationKey::from_pem(p384.public_key_pem().as_bytes()).unwrap_err(), KeyError::Kind);
    assert_eq!(Signer::from_pem(p384.serialize_pem().as_bytes()).unwrap_err(), KeyError::Kind);
    assert_eq!(VerificationKey::from_pem(b"x").unwrap_err(), KeyError::Pem("PUBLIC KEY"));
}

#[test]
fn an_unsigned_document_needs_the_operators_word_and_its_own_bytes() {
    let file = document("b", "");
    let added = history(&[(Action::Add, "b", &file)]);
    assert!(of("b", &file, &added, &[], true).in_force("b", NOW).is_ok());
    assert_eq!(denial(&of("b", &file, &added, &[], false), "b"), Denial::Unsigned);
    assert_eq!(denial(&of("b", &file, "", &[], true), "b"), Denial::NotAdded);
    let altered = file.replace("abab", "abac");
    assert!(matches!(denial(&of("b", &altered, &added, &[], true), "b"), Denial::Altered { .. }));
    assert!(matches!(denial(&of("c", &file, &added, &[], true), "c"), Denial::Malformed(_)), "under another name");
    assert_eq!(denial(&of("b", &file, &added, &[], true), "x"), Denial::Unknown);
}

#[test]
fn a_revoked_document_stays_revoked_and_is_listed() {
    let file = document("b", "");
    for steps in [
        vec![(Action::Add, "b", file.as_str()), (Action::Revoke, "b", "")],
        vec![(Action::Add, "b", &file), (Action::Revoke, "b", ""), (Action::Add, "b", &file)],
    ] {
        let catalog = of("b", &file, &history(&steps), &[], true);
        let text = denial(&catalog, "b").to_string();
        assert_eq!(text, "revoked at 2026-01-02T03:04:05Z by alice: because");
    }
    let gone = Catalog::new([], &history(&[(Action::Add, "b", &file), (Action::Revoke, "b", "")]), &[], true);
    assert!(matches!(denial(&gone, "b"), Denial::Revoked { .. }), "without its file");
    assert_eq!(gone.ids(), ["b"]);
}

#[test]
fn a_history_that_was_edited_takes_every_document_with_it() {
    let (file, other) = (document("b", ""), document("c", ""));
    let whole = history(&[(Action::Add, "b", &file), (Action::Revoke, "c", &other), (Action::Add, "c", &other)]);
    let lines: Vec<&str> = whole.lines().collect();
    let edits = [
        lines[1..].join("\n"),
        [lines[0], lines[2]].join("\n"),
        whole.replacen("alice", "mallory", 1),
        format!("{whole}nonsense\n"),
        format!("{}\n{}", lines[0], lines[0]),
    ];
    for edited in edits {
        let denial = denial(&of("b", &file, &edited, &[], true), "b");
        assert!(matches!(denial, Denial::History(_)), "{denial}");
    }
    assert!(of("b", &file, &whole, &[], true).in_force("b", NOW).is_ok());
}

#[test]
fn a_document_is_good_within_its_window() {
    let judged = |more: &str| {
        let file = document("b", more);
        let added = history(&[(Action::Add, "b", &file)]);
        of("b", &file, &added, &[], true).in_force("b", NOW).map(drop)
    };
    assert_eq!(judged(r#","not_before":"2026-03-04T05:06:07Z","not_after":"2026-03-04T05:06:07Z""#), Ok(()));
    assert_eq!(judged(r#","not_before":"2026-03-04T05:06:08Z""#).unwrap_err().to_string(), "it is good from 2026-03-04T05:06:08Z on");
    assert_eq!(judged(r#","not_after":"2026-03-04T05:06:06Z""#).unwrap_err().to_string(), "it expired at 2026-03-04T05:06:06Z");
}

#[test]
fn what_could_be_meant_otherwise_is_no_document() {
    let refused = |text: &str| Document::parse(text.as_bytes()).unwrap_err();
    for id in ["", ".hidden", "a/b", "..", "ä", &"x".repeat(65)] {
        assert_eq!(refused(&document(id, "")), DocumentError::Id, "{id}");
    }
    assert!(matches!(refused(&document("b", r#","value":{}"#)), DocumentError::Json(_)));
    assert!(matches!(refused(r#"{"id":"b","source":"","values":{"mrtd":"00"}}"#), DocumentError::Json(_)));
    let unknown = format!(r#"{{"id":"b","source":"","values":{{"mrtd":"{}"}}}}"#, "00".repeat(48));
    assert_eq!(refused(&unknown), DocumentError::UnknownField("mrtd".to_owned()));
    assert_eq!(
        refused(&document("b", r#","not_before":"2026-01-02T00:00:00Z","not_after":"2026-01-01T00:00:00Z""#)),
        DocumentError::Window
    );
}

#[test]
fn a_linter_says_what_a_document_leaves_open() {
    let warnings = |values: &str| {
        lint(
            &Document::parse(format!(r#"{{"id":"b","source":"","not_after":"2030-01-01T00:00:00Z","values":{{{values}}}}}"#).as_bytes())
                .unwrap(),
        )
    };
    let value = |name: &str| format!(r#""{name}":"{}""#, "ab".repeat(48));
    assert!(warnings("")[0].contains("nothing is pinned"));
    let open = warnings(&value("mr_td"));
    assert!(open.len() == 2 && open[0].contains("without rtmr1") && open[1].contains("without rtmr2"), "{open:?}");
    assert!(warnings(&value("rtmr1"))[0].contains("mr_td is not pinned"));
    let all = ["mr_td", "rtmr1", "rtmr2"].map(value).join(",");
    assert!(warnings(&all).is_empty());
    let zero = format!(r#"{all},"rtmr0":"{}""#, "00".repeat(48));
    assert!(warnings(&zero)[0].contains("all zeros"));
    let endless = Document::parse(document("b", "").as_bytes()).unwrap();
    assert!(lint(&endless).iter().any(|warning| warning.contains("not_after")));
}
