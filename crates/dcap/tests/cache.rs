//! What a verifier remembers must not help anybody: attacks on a warm cache.

#![allow(clippy::unwrap_used)] // helpers of a test: a broken fixture has to fail it

mod pair;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use keyferry_dcap::{CollateralPart, DcapDenial, SignedPart, Verifier};
use keyferry_td_simulator::{CollateralOptions, PlatformOptions, SimulatedTd, TdOptions, Window};
use keyferry_tdx_quote::Quote;
use pair::{NOW, Pair, World, edited};

const YEAR: u64 = 365 * 86_400;

/// Puts `new` where `old` is, which has to be of the same size and in the quote.
fn replaced(quote: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let start = quote.windows(old.len()).position(|window| window == old).unwrap();
    let mut replaced = quote.to_vec();
    replaced[start..start + new.len()].copy_from_slice(new);
    replaced
}

/// A quote signed by `key` instead, with everything that vouches for the old key left as it was.
fn signed_by(quote: &[u8], key: &EcdsaKeyPair) -> Vec<u8> {
    let parsed = Quote::parse(quote).unwrap();
    let signature = key.sign(&SystemRandom::new(), parsed.signed_bytes()).unwrap();
    let quote = replaced(quote, &parsed.signature().attestation_key, &key.public_key().as_ref()[1..]);
    replaced(&quote, &parsed.signature().quote, signature.as_ref())
}

#[test]
fn a_known_platform_does_not_vouch_for_another_key() {
    let world = World::new();
    let (pair, collateral, bytes) = (Pair::new(world.anchor()), world.collateral(|_| {}), world.quote_bytes(|_| {}));
    assert!(pair.agree("genuine", &Quote::parse(&bytes).unwrap(), &collateral, NOW).is_ok());
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let forged = Quote::parse(&signed_by(&bytes, &key)).unwrap();
    let denial = pair.agree("another attestation key", &forged, &collateral, NOW).unwrap_err();
    assert_eq!(denial, DcapDenial::SignatureInvalid(SignedPart::QeBinding));
    assert_eq!(pair.warm.platforms_remembered(), 1, "a refused platform is not remembered");
}

#[test]
fn every_part_that_vouches_for_a_known_platform_still_has_to_be_its_own() {
    let (world, foreign) = (World::new(), World::new());
    let neighbour = SimulatedTd::new(world.root.platform(&PlatformOptions::default(), NOW).unwrap(), TdOptions::default());
    let (pair, collateral, bytes) = (Pair::new(world.anchor()), world.collateral(|_| {}), world.quote_bytes(|_| {}));
    let neighbours = Quote::parse(&neighbour.quote(&[7; 64]).unwrap()).unwrap();
    let genuine = Quote::parse(&bytes).unwrap();
    // Both platforms are known: what is mixed out of two known ones is unknown.
    assert!(pair.agree("genuine", &genuine, &collateral, NOW).is_ok());
    assert!(pair.agree("neighbour", &neighbours, &collateral, NOW).is_ok());
    let (own, other) = (genuine.signature(), neighbours.signature());
    for (what, mixed) in [
        ("QE report", replaced(&bytes, own.qe_report.bytes(), other.qe_report.bytes())),
        ("QE report signature", replaced(&bytes, &own.qe_report_signature, &other.qe_report_signature)),
        ("QE authentication data", replaced(&bytes, &own.qe_authentication_data, &other.qe_authentication_data)),
        ("attestation key", replaced(&bytes, &own.attestation_key, &other.attestation_key)),
        ("quote signature", replaced(&bytes, &own.quote, &other.quote)),
    ] {
        let denial = pair.agree(what, &Quote::parse(&mixed).unwrap(), &collateral, NOW).unwrap_err();
        assert_eq!(denial.label(), "quote_signature_invalid", "{what}");
    }
    let foreigner = foreign.quote(|_| {});
    for (what, certificate) in [
        ("another machine's certificate", with_certificate(&bytes, 0, neighbours.certification().leaf())),
        ("a certificate of another root", with_certificate(&bytes, 0, foreigner.certification().leaf())),
        ("another root's CA", with_certificate(&bytes, 1, foreigner.certification().intermediate())),
        ("an altered CA", with_certificate(&bytes, 1, &flipped(genuine.certification().intermediate()))),
        ("an altered certificate", with_certificate(&bytes, 0, &flipped(genuine.certification().leaf()))),
    ] {
        let denial = pair.agree(what, &Quote::parse(&certificate).unwrap(), &collateral, NOW).unwrap_err();
        assert_eq!(denial.label(), "quote_signature_invalid", "{what}");
    }
    let root = with_certificate(&bytes, 2, foreigner.certification().root());
    let denial = pair.agree("another root", &Quote::parse(&root).unwrap(), &collateral, NOW).unwrap_err();
    assert_eq!(denial.label(), "quote_root_untrusted");
    assert_eq!(pair.warm.platforms_remembered(), 2);
    assert!(pair.agree("genuine again", &genuine, &collateral, NOW).is_ok());
}

/// The last bit, which is the signature's.
fn flipped(der: &[u8]) -> Vec<u8> {
    let mut flipped = der.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    flipped
}

/// A quote with another certificate in its chain, sizes adjusted.
fn with_certificate(quote: &[u8], index: usize, der: &[u8]) -> Vec<u8> {
    let chain = Quote::parse(quote).unwrap().certification().pem().to_owned();
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let mut blocks = pem::parse_many(&chain).unwrap();
    blocks[index] = pem::Pem::new("CERTIFICATE", der);
    let changed: String = blocks.iter().map(|block| pem::encode_config(block, config)).collect();
    let start = quote.windows(chain.len()).position(|window| window == chain.as_bytes()).unwrap();
    let mut bytes = [&quote[..start], changed.as_bytes(), &quote[start + chain.len()..]].concat();
    // Signature section, QE report certification data, PCK chain.
    for offset in [start - 626, start - 492, start - 4] {
        let mut size = [0; 4];
        size.copy_from_slice(&bytes[offset..offset + 4]);
        let size = usize::try_from(u32::from_le_bytes(size)).unwrap() + changed.len() - chain.len();
        bytes[offset..offset + 4].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    }
    bytes
}

/// Other line breaks are another text of the same certificates: the platform is known already.
#[test]
fn another_text_of_the_same_chain_is_the_same_platform() {
    let world = World::new();
    let (pair, collateral, bytes) = (Pair::new(world.anchor()), world.collateral(|_| {}), world.quote_bytes(|_| {}));
    assert!(pair.agree("genuine", &Quote::parse(&bytes).unwrap(), &collateral, NOW).is_ok());
    let leaf = Quote::parse(&bytes).unwrap().certification().leaf().to_vec();
    let text = with_certificate(&bytes, 0, &leaf);
    assert!(pair.agree("re-encoded", &Quote::parse(&text).unwrap(), &collateral, NOW).is_ok());
    assert_eq!((pair.warm.platforms_remembered(), pair.tally()), (1, (2, 0)));
}

#[test]
fn what_is_known_dies_with_its_window_and_comes_back_with_the_time() {
    let world = World::new();
    let (pair, collateral, quote) = (Pair::new(world.anchor()), world.collateral(|_| {}), world.quote(|_| {}));
    let end = collateral.next_update();
    assert!(pair.agree("in its window", &quote, &collateral, end).is_ok());
    let denial = pair.agree("after it", &quote, &collateral, end + 1).unwrap_err();
    assert!(matches!(denial, DcapDenial::CollateralExpired { expires_at, .. } if expires_at == end), "{denial}");
    let denial = pair.agree("before it", &quote, &collateral, NOW - 3_601).unwrap_err();
    assert!(matches!(denial, DcapDenial::CollateralNotYetValid { .. }), "{denial}");
    assert!(pair.agree("in its window again", &quote, &collateral, NOW).is_ok());
}

#[test]
fn a_known_platform_dies_with_its_certificate() {
    let world = World::new();
    // Made five years ago for seven.
    let old = world.root.platform(&PlatformOptions::default(), NOW - 5 * YEAR).unwrap();
    let quote = Quote::parse(&SimulatedTd::new(old, TdOptions::default()).quote(&[7; 64]).unwrap()).unwrap();
    let forever = Window { from: -1000, until: 300_000_000 };
    let collateral = world.collateral(|options| {
        (options.tcb_info, options.qe_identity, options.pck_crl, options.root_crl) = (forever, forever, forever, forever);
    });
    let pair = Pair::with_grace(world.anchor(), 100 * YEAR);
    let end = NOW + 2 * YEAR;
    assert!(pair.agree("in its last second", &quote, &collateral, end).is_ok());
    let denial = pair.agree("after it", &quote, &collateral, end + 1).unwrap_err();
    assert_eq!(denial, DcapDenial::CollateralExpired { part: CollateralPart::PckChain, expires_at: end });
}

#[test]
fn new_collateral_is_believed_at_once() {
    let world = World::new();
    let (pair, quote) = (Pair::new(world.anchor()), world.quote(|_| {}));
    let neighbour = SimulatedTd::new(world.root.platform(&PlatformOptions::default(), NOW).unwrap(), TdOptions::default());
    let neighbour = Quote::parse(&neighbour.quote(&[7; 64]).unwrap()).unwrap();
    assert!(pair.agree("current", &quote, &world.collateral(|_| {}), NOW).is_ok());
    let revoking = |what, change: fn(&mut CollateralOptions)| {
        let collateral = world.collateral(|options| {
            options.revoked_pcks.push(world.td.platform().pck_serial());
            change(options);
        });
        // By then the new list and its issuer are known as well.
        assert!(pair.agree("its neighbour's is not", &neighbour, &collateral, NOW).is_ok());
        assert_eq!(pair.agree(what, &quote, &collateral, NOW).unwrap_err(), DcapDenial::CertificateRevoked("the PCK certificate"));
    };
    revoking("its certificate is revoked", |_| {});
    revoking("and by the next evaluation", |options| *options = options.clone().with_evaluation_number(21));
    let out_of_date = world.collateral(|options| *options = options.clone().with_status("OutOfDate").with_evaluation_number(21));
    let verified = pair.agree("out of date by the next evaluation", &quote, &out_of_date, NOW).unwrap();
    assert_eq!(verified.tcb_status(), keyferry_dcap::TcbStatus::OutOfDate);
    let denial = pair.agree("the evaluation before", &quote, &world.collateral(|_| {}), NOW).unwrap_err();
    assert_eq!(denial, DcapDenial::CollateralRolledBack { seen: 21, got: 20 });
}

#[test]
fn collateral_like_known_collateral_is_not_known_collateral() {
    let (world, foreign) = (World::new(), World::new());
    let (pair, quote, json) = (Pair::new(world.anchor()), world.quote(|_| {}), world.collateral_json(|_| {}));
    let collateral = |json: &str| keyferry_dcap::Collateral::from_json(json).unwrap();
    assert!(pair.agree("genuine", &quote, &collateral(&json), NOW).is_ok());
    let foreign: serde_json::Value = serde_json::from_str(&foreign.collateral_json(|_| {})).unwrap();
    for member in ["root_ca_crl", "pck_crl", "tcb_info", "tcb_info_signature", "qe_identity_signature", "tcb_info_issuer_chain"] {
        let mut mixed: serde_json::Value = serde_json::from_str(&json).unwrap();
        mixed[member] = foreign[member].clone();
        let answer = pair.agree(member, &quote, &collateral(&mixed.to_string()), NOW);
        // Two worlds of one second publish the same text, only the signature over it differs.
        assert_eq!(answer.is_ok(), member == "tcb_info", "{member}");
        let cut = edited(&json, member, |bytes| bytes.truncate(bytes.len() / 2));
        if let Ok(cut) = keyferry_dcap::Collateral::from_json(&cut) {
            assert!(pair.agree(member, &quote, &cut, NOW).is_err(), "{member} cut");
        }
    }
}

#[test]
fn two_roots_know_nothing_of_each_other() {
    let (ours, theirs) = (World::new(), World::new());
    let (our_pair, their_pair) = (Pair::new(ours.anchor()), Pair::new(theirs.anchor()));
    let (our_quote, their_quote) = (ours.quote(|_| {}), theirs.quote(|_| {}));
    let (our_collateral, their_collateral) = (ours.collateral(|_| {}), theirs.collateral(|_| {}));
    assert!(our_pair.agree("ours", &our_quote, &our_collateral, NOW).is_ok());
    assert!(their_pair.agree("theirs", &their_quote, &their_collateral, NOW).is_ok());
    for (pair, quote, collateral) in [
        (&our_pair, &their_quote, &their_collateral),
        (&our_pair, &their_quote, &our_collateral),
        (&their_pair, &our_quote, &our_collateral),
        (&their_pair, &our_quote, &their_collateral),
    ] {
        assert_eq!(pair.agree("crossed", quote, collateral, NOW).unwrap_err().label(), "quote_root_untrusted");
    }
    let denial = our_pair.agree("foreign collateral", &our_quote, &their_collateral, NOW).unwrap_err();
    assert_eq!(denial.label(), "collateral_invalid");
}

#[test]
fn more_platforms_than_there_is_room_for_are_verified_all_the_same() {
    let world = World::new();
    let collateral = world.collateral(|_| {});
    let verifier = Verifier::new(world.anchor()).with_platform_capacity(32);
    let platform = || world.root.platform(&PlatformOptions::default(), NOW).unwrap();
    let quotes: Vec<Quote> = std::iter::repeat_with(|| SimulatedTd::new(platform(), TdOptions::default()).quote(&[7; 64]).unwrap())
        .take(100)
        .map(|bytes| Quote::parse(&bytes).unwrap())
        .collect();
    for quote in quotes.iter().chain(&quotes) {
        assert!(verifier.verify(quote, &collateral, NOW).is_ok());
        assert!(verifier.platforms_remembered() <= 32);
    }
    assert!(verifier.platforms_remembered() > 16);
}

/// Keys anybody can make do not push out platforms nobody can make.
#[test]
fn a_flood_of_forged_platforms_is_not_remembered() {
    let world = World::new();
    let collateral = world.collateral(|_| {});
    let verifier = Verifier::new(world.anchor()).with_platform_capacity(16);
    let genuine = world.quote(|_| {});
    assert!(verifier.verify(&genuine, &collateral, NOW).is_ok());
    let stranger = World::new();
    for _ in 0..40 {
        // A chain of the forger's own that ends, as text, in our root.
        let forged = stranger.root.platform(&PlatformOptions::default(), NOW).unwrap();
        let bytes = SimulatedTd::new(forged, TdOptions::default()).quote(&[7; 64]).unwrap();
        let forged = Quote::parse(&with_certificate(&bytes, 2, world.root.certificate_der())).unwrap();
        assert_eq!(verifier.verify(&forged, &collateral, NOW).unwrap_err().label(), "quote_signature_invalid");
        assert_eq!(verifier.platforms_remembered(), 1);
    }
}
