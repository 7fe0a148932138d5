//! Two quotes of real platforms under Intel's root: accepted at their time, refused outside it and with any byte changed.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of a test: a broken fixture has to fail it

use keyferry_dcap::{Collateral, CollateralPart, DcapDenial, TcbStatus, TrustAnchor, VerifiedQuote, Verifier, claimed_fmspc};
use keyferry_tdx_quote::Quote;

struct Sample {
    quote: &'static [u8],
    collateral: &'static str,
    /// First and last second of the collateral's validity.
    from: &'static str,
    until: &'static str,
    ends_with: CollateralPart,
    evaluation_number: u32,
}

const V4: Sample = Sample {
    quote: include_bytes!("../testdata/tdx/v4-uptodate/quote.bin"),
    collateral: include_str!("../testdata/tdx/v4-uptodate/collateral.json"),
    from: "2025-06-19T10:32:27Z",
    until: "2025-07-19T10:00:34Z",
    ends_with: CollateralPart::PckCrl,
    evaluation_number: 17,
};
const V5: Sample = Sample {
    quote: include_bytes!("../testdata/tdx/v5-td15ex-uptodate/quote.bin"),
    collateral: include_str!("../testdata/tdx/v5-td15ex-uptodate/collateral.json"),
    from: "2026-10-08T00:28:26Z",
    until: "2026-11-06T23:45:11Z",
    ends_with: CollateralPart::QeIdentity,
    evaluation_number: 20,
};

fn at(rfc3339: &str) -> u64 {
    let timestamp: jiff::Timestamp = rfc3339.parse().unwrap();
    u64::try_from(timestamp.as_second()).unwrap()
}

/// A refusal's label, whichever stage makes it; the quote and the collateral may be altered.
fn verify(quote: &[u8], collateral: &str, now: u64) -> Result<VerifiedQuote, String> {
    let quote = Quote::parse(quote).map_err(|_| "quote_malformed".to_owned())?;
    let collateral = Collateral::from_json(collateral).map_err(|error| error.label().to_owned())?;
    Verifier::new(TrustAnchor::intel()).verify(&quote, &collateral, now).map_err(|denial| denial.label().to_owned())
}

fn denial(sample: &Sample, now: u64) -> DcapDenial {
    let quote = Quote::parse(sample.quote).unwrap();
    let collateral = Collateral::from_json(sample.collateral).unwrap();
    Verifier::new(TrustAnchor::intel()).verify(&quote, &collateral, now).unwrap_err()
}

#[test]
fn both_are_accepted_over_their_whole_window() {
    for sample in [V4, V5] {
        for now in [at(sample.from), at(sample.from) + 1_000_000, at(sample.until)] {
            let verified = verify(sample.quote, sample.collateral, now).unwrap();
            assert_eq!(verified.tcb_status(), TcbStatus::UpToDate);
            assert_eq!(verified.advisory_ids(), [] as [&str; 0]);
            assert_eq!(verified.evaluation_number(), sample.evaluation_number);
            assert_eq!(verified.fmspc(), [0xb0, 0xc0, 0x6f, 0, 0, 0]);
            assert_eq!(claimed_fmspc(verified.quote()), Some(verified.fmspc()));
            assert_eq!(verified.pck().pce_svn, 11);
            assert_eq!(verified.pck().ppid.len(), 16);
            assert_eq!(verified.trust_anchor(), "intel-sgx-root");
            assert!(verified.valid_until() >= at(sample.until));
        }
    }
    let v4 = verify(V4.quote, V4.collateral, at(V4.from)).unwrap();
    assert_eq!(hex::encode(v4.pck().cpu_svn), "03030202040100050000000000000000");
    assert_eq!(v4.valid_until(), 1_752_919_235);
    let v5 = verify(V5.quote, V5.collateral, at(V5.from)).unwrap();
    assert_eq!(hex::encode(v5.pck().cpu_svn), "04040202040100050000000000000000");
    assert_eq!(v5.valid_until(), 1_794_008_711);
}

#[test]
fn one_second_outside_the_window_is_refused_with_the_part_that_ends_it() {
    for sample in [V4, V5] {
        let early = denial(&sample, at(sample.from) - 1);
        assert!(matches!(early, DcapDenial::CollateralNotYetValid { valid_from, .. } if valid_from == at(sample.from)), "{early}");
        let late = denial(&sample, at(sample.until) + 1);
        let DcapDenial::CollateralExpired { part, expires_at } = late else { panic!("{late}") };
        assert_eq!((part, expires_at), (sample.ends_with, at(sample.until)));
    }
}

#[test]
fn one_changed_byte_in_any_signed_part_of_the_quote_is_refused() {
    for (sample, signed) in [(V4, 632), (V5, 939)] {
        let parts = [
            ("header user data", 28, 20, "quote_signature_invalid"),
            ("body", 54, signed - 54, "quote_signature_invalid"),
            ("quote signature", signed + 4, 64, "quote_signature_invalid"),
            ("attestation key", signed + 68, 64, "quote_signature_invalid"),
            ("QE report", signed + 138, 384, "quote_signature_invalid"),
            ("QE report signature", signed + 522, 64, "quote_signature_invalid"),
            ("QE authentication data", signed + 588, 32, "quote_signature_invalid"),
        ];
        for (name, start, length, reason) in parts {
            for offset in [start, start + length / 3, start + length / 2, start + length - 1] {
                let mut quote = sample.quote.to_vec();
                quote[offset] ^= 1;
                let refused = verify(&quote, sample.collateral, at(sample.from)).err();
                assert_eq!(refused.as_deref(), Some(reason), "{name} at {offset}");
            }
        }
    }
}

/// Replaces certificate `index` of the quote's PEM chain by one with a flipped bit at `position` percent of its DER.
fn with_changed_certificate(quote: &[u8], index: usize, percent: usize) -> Vec<u8> {
    let parsed = Quote::parse(quote).unwrap();
    let original = parsed.certification().pem().as_bytes();
    let mut blocks = pem::parse_many(original).unwrap();
    let mut der = blocks[index].contents().to_vec();
    let position = (der.len() - 1) * percent / 100;
    der[position] ^= 1;
    blocks[index] = pem::Pem::new("CERTIFICATE", der);
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let text = pem::encode_many_config(&blocks, config);
    let text: String = text.split("\n\n").collect::<Vec<_>>().join("\n");
    assert_eq!(text.len(), original.len(), "the chain keeps its size");
    let start = quote.windows(original.len()).position(|window| window == original).unwrap();
    let mut changed = quote.to_vec();
    changed[start..start + original.len()].copy_from_slice(text.as_bytes());
    changed
}

#[test]
fn one_changed_byte_in_any_certificate_of_the_quote_is_refused() {
    for sample in [V4, V5] {
        for percent in [3, 25, 50, 75, 100] {
            for (index, reason) in [(0, "quote_signature_invalid"), (1, "quote_signature_invalid"), (2, "quote_root_untrusted")] {
                let quote = with_changed_certificate(sample.quote, index, percent);
                let refused = verify(&quote, sample.collateral, at(sample.from)).unwrap_err();
                assert!(
                    refused == reason || (percent == 3 && refused == "quote_malformed"),
                    "certificate {index} at {percent} percent: {refused}"
                );
            }
        }
    }
}

/// The collateral with one member passed through `edit`.
fn edited(collateral: &str, member: &str, edit: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut document: serde_json::Value = serde_json::from_str(collateral).unwrap();
    let text = document[member].as_str().unwrap();
    let is_hex = ["root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"].contains(&member);
    let mut bytes = if is_hex { hex::decode(text).unwrap() } else { text.as_bytes().to_vec() };
    edit(&mut bytes);
    let text = if is_hex { hex::encode(bytes) } else { String::from_utf8(bytes).unwrap() };
    document[member] = text.into();
    document.to_string()
}

#[test]
fn one_changed_byte_in_any_part_of_the_collateral_is_refused() {
    let members = ["root_ca_crl", "pck_crl", "tcb_info", "tcb_info_signature", "qe_identity", "qe_identity_signature"];
    for sample in [V4, V5] {
        for member in members {
            for percent in [0, 10, 30, 50, 70, 90, 100] {
                let altered = edited(sample.collateral, member, |bytes| {
                    let position = (bytes.len() - 1) * percent / 100;
                    bytes[position] ^= 1;
                });
                let refused = verify(sample.quote, &altered, at(sample.from)).err();
                assert_eq!(refused.as_deref(), Some("collateral_invalid"), "{member} at {percent} percent");
            }
        }
    }
}

#[test]
fn what_is_printed_does_not_name_the_machine() {
    for sample in [V4, V5] {
        let verified = verify(sample.quote, sample.collateral, at(sample.from)).unwrap();
        let printed = format!("{verified:?}");
        assert!(printed.contains("UpToDate") && printed.contains(&hex::encode(verified.fmspc())), "{printed}");
        let ppid = &verified.pck().ppid;
        assert!(!printed.contains(&hex::encode(ppid)) && !printed.contains(&format!("{ppid:?}")), "{printed}");
        let certificate = format!("{:?}", verified.quote().certification().leaf());
        assert!(!printed.contains(&certificate[1..100]), "{printed}");
    }
}

/// A genuine list that is somebody else's lists none of our certificates.
#[test]
fn a_revocation_list_of_another_issuer_is_refused() {
    for sample in [V4, V5] {
        let document: serde_json::Value = serde_json::from_str(sample.collateral).unwrap();
        let list = |member: &str| hex::decode(document[member].as_str().unwrap()).unwrap();
        for (member, other) in [("pck_crl", "root_ca_crl"), ("root_ca_crl", "pck_crl")] {
            let swapped = edited(sample.collateral, member, |bytes| *bytes = list(other));
            let refused = verify(sample.quote, &swapped, at(sample.from)).err();
            assert_eq!(refused.as_deref(), Some("collateral_invalid"), "{other} as {member}");
        }
    }
}

#[test]
fn a_signer_certificate_that_was_changed_is_refused() {
    for member in ["tcb_info_issuer_chain", "qe_identity_issuer_chain"] {
        for (certificate, position) in [(0, 300), (1, 300)] {
            let altered = edited(V5.collateral, member, |bytes| {
                let mut blocks = pem::parse_many(&bytes[..]).unwrap();
                let mut der = blocks[certificate].contents().to_vec();
                der[position] ^= 1;
                blocks[certificate] = pem::Pem::new("CERTIFICATE", der);
                *bytes = pem::encode_many(&blocks).into_bytes();
            });
            assert_eq!(verify(V5.quote, &altered, at(V5.from)).err().as_deref(), Some("collateral_invalid"), "{member} {certificate}");
        }
    }
}

#[test]
fn the_second_form_of_a_signed_text_is_no_signed_text() {
    let respaced = edited(V5.collateral, "tcb_info", |bytes| {
        let text = String::from_utf8(std::mem::take(bytes)).unwrap();
        *bytes = text.replacen(':', ": ", 1).into_bytes();
    });
    assert_eq!(verify(V5.quote, &respaced, at(V5.from)).err().as_deref(), Some("collateral_invalid"));
}

#[test]
fn the_pck_chain_is_the_quotes_own_whatever_the_collateral_brings() {
    let with_chain = |sample: &Sample, chain: serde_json::Value| {
        let mut document: serde_json::Value = serde_json::from_str(sample.collateral).unwrap();
        document["pck_certificate_chain"] = chain;
        document.to_string()
    };
    let own = |sample: &Sample| Quote::parse(sample.quote).unwrap().certification().pem().to_owned();
    for sample in [V4, V5] {
        for harmless in [serde_json::Value::Null, own(&sample).into()] {
            assert!(verify(sample.quote, &with_chain(&sample, harmless), at(sample.from)).is_ok());
        }
    }
    // A genuine chain of another machine, and a quote whose own chain is garbage, do not help each other.
    let foreign = with_chain(&V4, own(&V5).into());
    assert_eq!(verify(V4.quote, &foreign, at(V4.from)).err().as_deref(), Some("collateral_invalid"));
    let garbage = with_changed_certificate(V5.quote, 0, 50);
    let genuine = with_chain(&V5, own(&V5).into());
    assert_eq!(verify(&garbage, &genuine, at(V5.from)).err().as_deref(), Some("quote_signature_invalid"));
}

#[test]
fn collateral_that_is_no_collateral_is_named() {
    for json in ["", "{}", "[]", "{\"tcb_info\":1}", "null"] {
        assert!(Collateral::from_json(json).is_err(), "{json}");
    }
    assert!(Collateral::from_json(&" ".repeat(2 << 20)).unwrap_err().to_string().contains("at most"));
    let mut document: serde_json::Value = serde_json::from_str(V5.collateral).unwrap();
    document["surprise"] = 1.into();
    assert!(Collateral::from_json(&document.to_string()).is_err());
}

#[test]
fn older_collateral_than_already_seen_is_refused() {
    // Both platforms are of one family: evaluation 20 was seen, then 17 comes back.
    let verifier = Verifier::new(TrustAnchor::intel());
    let verify = |sample: &Sample| {
        let quote = Quote::parse(sample.quote).unwrap();
        let collateral = Collateral::from_json(sample.collateral).unwrap();
        verifier.verify(&quote, &collateral, at(sample.from)).map(|verified| verified.evaluation_number())
    };
    assert_eq!(verify(&V4), Ok(17));
    assert_eq!(verify(&V5), Ok(20));
    assert_eq!(verify(&V4), Err(DcapDenial::CollateralRolledBack { seen: 20, got: 17 }));
    assert_eq!(verifier.memory().seen(), [([0xb0, 0xc0, 0x6f, 0, 0, 0], 20)]);
}

#[test]
fn what_came_after_the_quote_changes_nothing() {
    let padded = [Quote::parse(V5.quote).unwrap().without_tail(), &[0; 3065]].concat();
    let verified = verify(&padded, V5.collateral, at(V5.from)).unwrap();
    assert_eq!(verified.digests(), verify(V5.quote, V5.collateral, at(V5.from)).unwrap().digests());
    assert_eq!(verify(&[V5.quote, b"x"].concat(), V5.collateral, at(V5.from)).err().as_deref(), Some("quote_malformed"));
}
