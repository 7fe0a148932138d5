//! The engine as the second opinion: whatever the quote, the collateral and the state of the cache, both answer alike.
//!
//! What `Verifier::verify` deliberately answers otherwise than `dcap-qvl` alone, which knows neither, is common to both
//! sides here and tested elsewhere: PCEID and tcbType, equal evaluation numbers, the worse of launch and current TCB, CRL
//! issue dates, the attributes of the TD and their allowances, the grace. Deliberately stricter than both the engine and
//! its earlier use here, and therefore kept out of the comparison:
//!
//! * dates of TCB levels have the service's own form (`2025-08-13T00:00:00Z`);
//! * raw signatures of collateral have 64 bytes, however many zeros could be dropped or added;
//! * Intel's PCK extension has the types and sizes of Intel's profile;
//! * CRLs with a distribution point, and a root certificate outside its own validity, are refused.

#![allow(clippy::unwrap_used)] // helpers of a test: a broken fixture has to fail it

mod pair;

use keyferry_dcap::{Collateral, TcbStatus, TrustAnchor};
use keyferry_td_simulator::{CollateralOptions, IsvLevel, PlatformOptions, QuoteFormat, TcbLevel, TdOptions, Window};
use keyferry_tdx_quote::Quote;
use pair::{NOW, Pair, World, edited};
use proptest::prelude::*;

const V4: (&[u8], &str, u64) =
    (include_bytes!("../testdata/tdx/v4-uptodate/quote.bin"), include_str!("../testdata/tdx/v4-uptodate/collateral.json"), 1_750_329_147);
const V5: (&[u8], &str, u64) = (
    include_bytes!("../testdata/tdx/v5-td15ex-uptodate/quote.bin"),
    include_str!("../testdata/tdx/v5-td15ex-uptodate/collateral.json"),
    1_791_419_306,
);
const MEMBERS: [&str; 8] = [
    "root_ca_crl",
    "pck_crl",
    "tcb_info",
    "tcb_info_signature",
    "tcb_info_issuer_chain",
    "qe_identity",
    "qe_identity_signature",
    "qe_identity_issuer_chain",
];

/// The genuine quote and everything around it are known, then every mutation is shown.
fn mutate_quote(bytes: &[u8], collateral: &Collateral, anchor: TrustAnchor, now: u64, offset: usize, stride: usize) {
    let pair = Pair::new(anchor);
    let genuine = Quote::parse(bytes).unwrap();
    assert!(pair.agree("genuine", &genuine, collateral, now).is_ok());
    let signed = genuine.signed_bytes().len();
    let boundaries =
        [0, 48, 54, 632, signed, signed + 4, signed + 68, signed + 132, signed + 138, signed + 522, signed + 586, signed + 588];
    let edges = boundaries.into_iter().chain([signed + 620, signed + 626]).flat_map(|edge: usize| [edge.saturating_sub(1), edge]);
    let mut parsed = 0;
    for position in (offset..bytes.len()).step_by(stride).chain(edges) {
        let mut altered = bytes.to_vec();
        altered[position] ^= 1 << (position % 8);
        if let Ok(quote) = Quote::parse(&altered) {
            parsed += 1;
            let accepted = pair.agree(&format!("byte {position}"), &quote, collateral, now).is_ok();
            assert!(!accepted || quote.digest() == genuine.digest(), "byte {position}");
        }
    }
    assert!(parsed > 10, "{parsed}");
    assert!((0..bytes.len()).step_by(stride).all(|end| Quote::parse(&bytes[..end]).is_err() || bytes[end..].iter().all(|byte| *byte == 0)));
}

#[test]
fn no_altered_byte_of_a_real_quote_divides_them() {
    for (bytes, collateral, now) in [V4, V5] {
        let collateral = Collateral::from_json(collateral).unwrap();
        mutate_quote(bytes, &collateral, TrustAnchor::intel(), now, 3, 11);
    }
}

#[test]
fn no_altered_byte_of_a_simulated_quote_divides_them() {
    let world = World::new();
    let collateral = world.collateral(|_| {});
    for (offset, format) in QuoteFormat::ALL.into_iter().enumerate() {
        let bytes = world.quote_bytes(|td| td.format = format);
        mutate_quote(&bytes, &collateral, world.anchor(), NOW, offset, 23);
    }
}

#[test]
fn no_altered_byte_of_the_collateral_divides_them() {
    let world = World::new();
    let simulated = world.collateral_json(|_| {});
    let bytes = world.quote_bytes(|_| {});
    let simulated: (&[u8], &str, u64) = (&bytes, &simulated, NOW);
    for ((bytes, json, now), anchor) in [(V4, TrustAnchor::intel()), (V5, TrustAnchor::intel()), (simulated, world.anchor())] {
        let quote = Quote::parse(bytes).unwrap();
        let pair = Pair::new(anchor);
        assert!(pair.agree("genuine", &quote, &Collateral::from_json(json).unwrap(), now).is_ok());
        for member in MEMBERS {
            for step in 0..24 {
                let altered = edited(json, member, |bytes| {
                    let position = (bytes.len() - 1) * step / 23;
                    bytes[position] ^= 1 << (step % 7);
                });
                if let Ok(collateral) = Collateral::from_json(&altered) {
                    // The text between the lines of a chain may change: the certificates decide.
                    let accepted = pair.agree(&format!("{member} {step}"), &quote, &collateral, now).is_ok();
                    assert!(!accepted || member.ends_with("chain"), "{member} {step}");
                }
            }
        }
    }
}

#[test]
fn the_ends_of_every_window_are_the_same_seconds() {
    for (bytes, json, _) in [V4, V5] {
        let (quote, collateral) = (Quote::parse(bytes).unwrap(), Collateral::from_json(json).unwrap());
        let (pair, graced) = (Pair::new(TrustAnchor::intel()), Pair::with_grace(TrustAnchor::intel(), 86_400));
        let end = collateral.next_update();
        let authenticated = collateral.authenticate(&TrustAnchor::intel(), end).unwrap();
        for instant in [authenticated.issued_at, end, end + 86_400, end + 30 * 86_400] {
            for now in [instant - 1, instant, instant + 1] {
                let _ = pair.agree(&format!("at {now}"), &quote, &collateral, now);
                let _ = graced.agree(&format!("at {now}, with a grace"), &quote, &collateral, now);
            }
        }
        assert_eq!(pair.tally(), (4, 8));
        assert_eq!(graced.tally(), (7, 5));
    }
}

#[test]
fn every_window_of_simulated_collateral_ends_at_the_same_second() {
    let world = World::new();
    let quote = world.quote(|_| {});
    let parts: [fn(&mut CollateralOptions) -> &mut Window; 4] = [
        |options| &mut options.tcb_info,
        |options| &mut options.qe_identity,
        |options| &mut options.pck_crl,
        |options| &mut options.root_crl,
    ];
    for (index, part) in parts.into_iter().enumerate() {
        let (pair, graced) = (Pair::new(world.anchor()), Pair::with_grace(world.anchor(), 50));
        let collateral = world.collateral(|options| *part(options) = Window { from: -100, until: 100 });
        for instant in [NOW - 100, NOW + 100, NOW + 150] {
            for now in [instant - 2, instant - 1, instant, instant + 1, instant + 2] {
                let _ = pair.agree(&format!("part {index} at {now}"), &quote, &collateral, now);
                let _ = graced.agree(&format!("part {index} at {now}, with a grace"), &quote, &collateral, now);
            }
        }
        let (accepted, refused) = pair.tally();
        assert!((5..=6).contains(&accepted) && accepted + refused == 15, "part {index}: {accepted}");
    }
}

type Change = fn(&mut CollateralOptions);
type TdChange = fn(&mut TdOptions);

/// Every kind of collateral that some rule is about.
const COLLATERAL: [(&str, Change); 27] = [
    ("as it should be", |_| {}),
    ("SWHardeningNeeded", |options| *options = options.clone().with_status("SWHardeningNeeded")),
    ("ConfigurationNeeded", |options| *options = options.clone().with_status("ConfigurationNeeded")),
    ("both", |options| *options = options.clone().with_status("ConfigurationAndSWHardeningNeeded")),
    ("OutOfDate", |options| *options = options.clone().with_status("OutOfDate")),
    ("OutOfDateConfigurationNeeded", |options| *options = options.clone().with_status("OutOfDateConfigurationNeeded")),
    ("Revoked", |options| *options = options.clone().with_status("Revoked")),
    ("a status that levels do not have", |options| *options = options.clone().with_status("TDRelaunchAdvised")),
    ("QE OutOfDate", |options| *options = options.clone().with_qe_status("OutOfDate")),
    ("QE Revoked", |options| *options = options.clone().with_qe_status("Revoked")),
    ("QE ConfigurationNeeded", |options| *options = options.clone().with_qe_status("ConfigurationNeeded")),
    ("a status that enclaves do not have", |options| *options = options.clone().with_qe_status("SWHardeningNeeded")),
    ("configuration needed and QE out of date", |options| {
        *options = options.clone().with_status("ConfigurationNeeded").with_qe_status("OutOfDate");
    }),
    ("levels in another order", |options| options.levels.reverse()),
    ("levels that cross", |options| {
        options.levels[0].pce_svn = 0;
        options.levels[1].sgx = options.levels[0].sgx;
    }),
    ("no level", |options| options.levels.clear()),
    ("no QE level", |options| options.qe_levels.clear()),
    ("no module", |options| options.modules.clear()),
    ("modules Revoked", |options| options.modules.iter_mut().for_each(|module| "Revoked".clone_into(&mut module.levels[0].status))),
    ("a status that modules do not have", |options| {
        options.modules.iter_mut().for_each(|module| "ConfigurationNeeded".clone_into(&mut module.levels[0].status));
    }),
    ("modules of another signer", |options| options.modules.iter_mut().for_each(|module| module.mr_signer = [1; 48])),
    ("another QE", |options| options.qe_mr_signer = [1; 32]),
    ("another family", |options| options.fmspc = [9; 6]),
    ("another PCE", |options| options.pce_id = [1, 0]),
    ("revoked signer", |options| options.revoke_tcb_signer = true),
    ("revoked CA", |options| options.revoke_platform_ca = true),
    ("evaluations that differ", |options| options.qe_evaluation_number = 19),
];

/// Every kind of TD that some rule is about.
const TDS: [(&str, TdChange); 9] = [
    ("as it should be", |_| {}),
    ("old module at launch", |td| td.tee_tcb_svn = TdOptions::TEE_TCB_SVN_OLD_MODULE),
    ("old module now", |td| td.tee_tcb_svn2 = TdOptions::TEE_TCB_SVN_OLD_MODULE),
    ("old module always", |td| {
        (td.tee_tcb_svn, td.tee_tcb_svn2) = (TdOptions::TEE_TCB_SVN_OLD_MODULE, TdOptions::TEE_TCB_SVN_OLD_MODULE);
    }),
    ("old microcode", |td| td.tee_tcb_svn[2] = 3),
    ("module without a version", |td| td.tee_tcb_svn = [5, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ("another module", |td| td.tee_tcb_svn = [5, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ("signed by somebody else", |td| td.mr_signer_seam = [1; 48]),
    ("attributes of the module", |td| td.seam_attributes[0] = 1),
];

#[test]
fn every_rule_is_read_alike_in_every_format() {
    for platform in [PlatformOptions::default(), PlatformOptions { cpu_svn: PlatformOptions::CPU_SVN_OLD, ..PlatformOptions::default() }] {
        let world = World::with(&platform);
        let mut accepted = 0;
        for (collateral_name, change) in COLLATERAL {
            let collateral = world.collateral(change);
            let pair = Pair::new(world.anchor());
            for (td_name, td) in TDS {
                for format in [QuoteFormat::V4, QuoteFormat::V5Td15, QuoteFormat::V5Td15Ex] {
                    let quote = world.quote(|options| {
                        td(options);
                        options.format = format;
                    });
                    let _ = pair.agree(&format!("{format:?}, TD {td_name}, collateral {collateral_name}"), &quote, &collateral, NOW);
                }
            }
            accepted += pair.tally().0;
        }
        assert!(accepted > 100, "{accepted}");
    }
}

fn status() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("UpToDate"),
        1 => Just("SWHardeningNeeded"),
        1 => Just("ConfigurationNeeded"),
        1 => Just("ConfigurationAndSWHardeningNeeded"),
        3 => Just("OutOfDate"),
        1 => Just("OutOfDateConfigurationNeeded"),
        1 => Just("Revoked"),
    ]
    .prop_map(str::to_owned)
}

/// The beginning of a TCB's components is random and small, the rest zero.
fn svns() -> impl Strategy<Value = [u8; 16]> {
    proptest::array::uniform3(0_u8..3).prop_map(|few| {
        let mut svns = [0; 16];
        svns[..3].copy_from_slice(&few);
        svns
    })
}

fn date() -> impl Strategy<Value = String> {
    (2023..2027, 1..13, 1..29).prop_map(|(year, month, day)| format!("{year}-{month:02}-{day:02}T00:00:00Z"))
}

fn advisories() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec((0..6).prop_map(|number| format!("SIMULATED-SA-{number:05}")), 0..3)
}

fn tcb_level() -> impl Strategy<Value = TcbLevel> {
    (svns(), svns(), 12_u16..15, status(), date(), advisories()).prop_map(|(sgx, tdx, pce_svn, status, date, advisory_ids)| TcbLevel {
        sgx,
        tdx,
        pce_svn,
        status,
        date,
        advisory_ids,
    })
}

fn isv_level() -> impl Strategy<Value = IsvLevel> {
    (0_u16..3, prop_oneof![Just("UpToDate"), Just("OutOfDate"), Just("OutOfDate"), Just("Revoked")], date(), advisories())
        .prop_map(|(isv_svn, status, date, advisory_ids)| IsvLevel { isv_svn, status: status.to_owned(), date, advisory_ids })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Levels of any order and content against SVNs of any size.
    #[test]
    fn any_levels_and_svns_are_judged_alike(
        levels in proptest::collection::vec(tcb_level(), 1..6),
        modules in proptest::collection::vec(isv_level(), 1..4),
        enclaves in proptest::collection::vec(isv_level(), 1..4),
        cpu_svn in svns(), tee_tcb_svn in svns(), tee_tcb_svn2 in svns(),
        format in prop_oneof![Just(QuoteFormat::V4), Just(QuoteFormat::V5Td15), Just(QuoteFormat::V5Td15Ex)],
    ) {
        let world = World::with(&PlatformOptions { cpu_svn, qe_isv_svn: 2, ..PlatformOptions::default() });
        let collateral = world.collateral(|options| {
            options.modules[0].levels.clone_from(&modules);
            (options.levels, options.qe_levels) = (levels, enclaves);
        });
        let quote = world.quote(|td| (td.format, td.tee_tcb_svn, td.tee_tcb_svn2) = (format, tee_tcb_svn, tee_tcb_svn2));
        let _ = Pair::new(world.anchor()).agree("any levels", &quote, &collateral, NOW);
    }

    /// Several bytes at once, quote and time together.
    #[test]
    fn any_edit_of_a_quote_is_answered_alike(
        edits in proptest::collection::vec((0usize..5500, 1_u8..=255), 1..4),
        seconds in -4_000_000_i64..4_000_000,
    ) {
        let (bytes, collateral, pair) = &*SHARED.lock().unwrap();
        let mut altered = bytes.clone();
        for (offset, flip) in edits {
            let offset = offset % altered.len();
            altered[offset] ^= flip;
        }
        if let Ok(quote) = Quote::parse(&altered) {
            let _ = pair.agree("any edit", &quote, collateral, NOW.saturating_add_signed(seconds));
        }
        let genuine = Quote::parse(bytes).unwrap();
        let _ = pair.agree("any time", &genuine, collateral, NOW.saturating_add_signed(seconds));
    }
}

/// One quote, its collateral and a pair that already knows them.
static SHARED: std::sync::LazyLock<std::sync::Mutex<(Vec<u8>, Collateral, Pair)>> = std::sync::LazyLock::new(|| {
    let world = World::new();
    let (bytes, collateral, pair) = (world.quote_bytes(|_| {}), world.collateral(|_| {}), Pair::new(world.anchor()));
    let verified = pair.agree("genuine", &Quote::parse(&bytes).unwrap(), &collateral, NOW).unwrap();
    assert_eq!(verified.tcb_status(), TcbStatus::UpToDate);
    std::sync::Mutex::new((bytes, collateral, pair))
});
