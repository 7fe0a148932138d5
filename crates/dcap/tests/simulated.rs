//! What no sample of a real platform can show: every TCB state, revocation, expiry and attribute, under a simulator's root.

#![allow(clippy::unwrap_used)] // helpers of a test: a broken fixture has to fail it

use keyferry_dcap::{Allowances, Collateral, DcapDenial, TcbStatus, TrustAnchor, VerifiedQuote, Verifier};
use keyferry_td_simulator::{CollateralOptions, PlatformOptions, QuoteFormat, SimulatedTd, SimulatorRoot, TdOptions, Window};
use keyferry_tdx_quote::{Quote, TdAttributes};
use proptest::prelude::*;

const NOW: u64 = 1_800_000_000;
const REAL_QUOTE: &[u8] = include_bytes!("../testdata/tdx/v5-td15ex-uptodate/quote.bin");
const REAL_COLLATERAL: &str = include_str!("../testdata/tdx/v5-td15ex-uptodate/collateral.json");
/// 2026-10-08T00:28:26Z
const REAL_NOW: u64 = 1_791_419_306;

struct World {
    root: SimulatorRoot,
    td: SimulatedTd,
}

impl World {
    fn new() -> Self {
        Self::with(&PlatformOptions::default())
    }
    fn with(platform: &PlatformOptions) -> Self {
        let root = SimulatorRoot::generate("test", NOW).unwrap();
        let platform = root.platform(platform, NOW).unwrap();
        Self { td: SimulatedTd::new(platform, TdOptions::default()), root }
    }
    fn options(&self) -> CollateralOptions {
        CollateralOptions::for_platform(self.td.platform())
    }
    fn verifier(&self) -> Verifier {
        Verifier::new(TrustAnchor::simulator(self.root.certificate_der()).unwrap())
    }
    fn collateral(&self, options: &CollateralOptions) -> Collateral {
        Collateral::from_json(&self.root.collateral(options, NOW).unwrap()).unwrap()
    }
    /// Verifies the TD in a changed state with changed collateral.
    fn verify(
        &self,
        td: impl FnOnce(&mut TdOptions),
        collateral: impl FnOnce(CollateralOptions) -> CollateralOptions,
        allowances: Allowances,
    ) -> Result<VerifiedQuote, DcapDenial> {
        let quote = Quote::parse(&self.td.with(td).quote(&[7; 64]).unwrap()).unwrap();
        let collateral = self.collateral(&collateral(self.options()));
        self.verifier().with_allowances(allowances).verify(&quote, &collateral, NOW)
    }
    fn td(&self, td: impl FnOnce(&mut TdOptions)) -> Option<&'static str> {
        self.verify(td, |options| options, Allowances::NONE).err().map(|denial| denial.label())
    }
    fn collateral_refusal(&self, collateral: impl FnOnce(CollateralOptions) -> CollateralOptions) -> Option<&'static str> {
        self.verify(|_| {}, collateral, Allowances::NONE).err().map(|denial| denial.label())
    }
}

#[test]
fn every_format_is_accepted_under_its_own_root_and_names_it() {
    let world = World::new();
    for format in QuoteFormat::ALL {
        for tail in [0, 70, 3065] {
            let verified = world.verify(
                |td| {
                    td.format = format;
                    td.tail_bytes = tail;
                },
                |options| options,
                Allowances::NONE,
            );
            let verified = verified.unwrap();
            assert_eq!(verified.tcb_status(), TcbStatus::UpToDate);
            assert_eq!(verified.trust_anchor(), world.root.trust_anchor());
            assert_eq!(verified.report().report_data, [7; 64]);
            assert_eq!(verified.fmspc(), PlatformOptions::FMSPC);
            assert_eq!(verified.report().td_id.is_some(), format == QuoteFormat::V5Td15Ex);
        }
    }
}

#[test]
fn a_quote_is_refused_under_any_root_but_its_own() {
    let (ours, theirs) = (World::new(), World::new());
    let quote = Quote::parse(&ours.td.quote(&[7; 64]).unwrap()).unwrap();
    let collateral = ours.collateral(&ours.options());
    for verifier in [Verifier::new(TrustAnchor::intel()), theirs.verifier()] {
        assert_eq!(verifier.verify(&quote, &collateral, NOW).unwrap_err().label(), "quote_root_untrusted");
        let own_collateral = theirs.collateral(&theirs.options());
        assert_eq!(verifier.verify(&quote, &own_collateral, NOW).unwrap_err().label(), "quote_root_untrusted");
    }
    let real = Quote::parse(REAL_QUOTE).unwrap();
    let real_collateral = Collateral::from_json(REAL_COLLATERAL).unwrap();
    assert!(Verifier::new(TrustAnchor::intel()).verify(&real, &real_collateral, REAL_NOW).is_ok());
    assert_eq!(ours.verifier().verify(&real, &real_collateral, REAL_NOW).unwrap_err().label(), "quote_root_untrusted");
}

/// The quote of one world with the root certificate of another in its chain.
fn with_foreign_root(quote: &[u8], own: &[u8], foreign: &[u8]) -> Vec<u8> {
    let chain = Quote::parse(quote).unwrap().certification().pem().to_owned();
    let blocks: Vec<_> = pem::parse_many(&chain)
        .unwrap()
        .into_iter()
        .map(|block| if block.contents() == own { pem::Pem::new("CERTIFICATE", foreign) } else { block })
        .collect();
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let forged: String = blocks.iter().map(|block| pem::encode_config(block, config)).collect();
    let start = quote.windows(chain.len()).position(|window| window == chain.as_bytes()).unwrap();
    let mut bytes = [&quote[..start], forged.as_bytes(), &quote[start + chain.len()..]].concat();
    let grow = |bytes: &mut Vec<u8>, offset: usize| {
        let mut size = [0; 4];
        size.copy_from_slice(&bytes[offset..offset + 4]);
        let size = usize::try_from(u32::from_le_bytes(size)).unwrap() + forged.len() - chain.len();
        bytes[offset..offset + 4].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    };
    // Signature section, QE report certification data, PCK chain.
    for offset in [start - 626, start - 492, start - 4] {
        grow(&mut bytes, offset);
    }
    bytes
}

#[test]
fn carrying_the_pinned_root_does_not_help_a_foreign_chain() {
    let (ours, theirs) = (World::new(), World::new());
    let quote = theirs.td.quote(&[7; 64]).unwrap();
    let forged = with_foreign_root(&quote, theirs.root.certificate_der(), ours.root.certificate_der());
    let forged = Quote::parse(&forged).unwrap();
    let denial = ours.verifier().verify(&forged, &ours.collateral(&ours.options()), NOW).unwrap_err();
    assert_eq!(denial.label(), "quote_signature_invalid");
}

#[test]
fn attributes_that_weaken_a_td_have_their_own_reasons() {
    let world = World::new();
    let attributes = |attributes: TdAttributes| move |td: &mut TdOptions| td.td_attributes = attributes.to_bytes();
    let sept = TdAttributes::SEPT_VE_DISABLE;
    assert_eq!(world.td(attributes(sept)), None);
    assert_eq!(world.td(attributes(sept.with(TdAttributes::PERFMON))), None);
    assert_eq!(world.td(attributes(sept.with(TdAttributes::DEBUG))), Some("debug_enabled"));
    assert_eq!(world.td(attributes(sept.with(TdAttributes::from_bits(1 << 4)))), Some("debug_enabled"));
    assert_eq!(world.td(attributes(TdAttributes::from_bits(0))), Some("sept_ve_disable_missing"));
    assert_eq!(world.td(attributes(TdAttributes::PROTECTION_KEYS)), Some("sept_ve_disable_missing"));
    assert_eq!(world.td(attributes(sept.with(TdAttributes::MIGRATABLE))), Some("migratable"));
    assert_eq!(world.td(attributes(sept.with(TdAttributes::SERVICE_TD_EXTENSION))), Some("service_td"));
    assert_eq!(world.td(attributes(sept.with(TdAttributes::from_bits(1 << 33)))), Some("reserved_bits_set"));
    assert_eq!(world.td(|td| td.mr_service_td = [1; 48]), Some("service_td"));
    assert_eq!(world.td(|td| td.seam_attributes = [1, 0, 0, 0, 0, 0, 0, 0]), Some("reserved_bits_set"));
    assert_eq!(world.td(|td| td.xfam = [0xe7, 2, 6, 0, 0, 0, 0, 0x80]), Some("reserved_bits_set"));
    assert_eq!(world.td(|td| td.mr_signer_seam = [1; 48]), Some("collateral_invalid"));
}

#[test]
fn each_allowance_permits_its_own_attribute_in_every_format() {
    let world = World::new();
    let none = Allowances::NONE;
    let sept = TdAttributes::SEPT_VE_DISABLE;
    for format in QuoteFormat::ALL {
        for (attributes, allowances) in [
            (sept.with(TdAttributes::DEBUG), Allowances { debug: true, ..none }),
            (sept.with(TdAttributes::MIGRATABLE), Allowances { migratable: true, ..none }),
            (sept.with(TdAttributes::SERVICE_TD_EXTENSION), Allowances { service_td: true, ..none }),
            (TdAttributes::PERFMON, Allowances { no_sept_ve: true, ..none }),
            (TdAttributes::DEBUG.with(TdAttributes::MIGRATABLE), Allowances::ALL),
        ] {
            let td = |td: &mut TdOptions| {
                td.format = format;
                td.td_attributes = attributes.to_bytes();
            };
            let verified = world.verify(td, |options| options, allowances).unwrap();
            assert_eq!(verified.report().td_attributes, attributes, "the report is the signed one");
            assert!(world.verify(td, |options| options, none).is_err());
        }
    }
}

#[test]
fn an_allowed_attribute_does_not_loosen_the_signature() {
    let world = World::new();
    let debug = TdAttributes::DEBUG.with(TdAttributes::SEPT_VE_DISABLE).to_bytes();
    let collateral = world.collateral(&world.options());
    let verifier = world.verifier().with_allowances(Allowances::ALL);
    for (td_attributes, position) in [
        // A sound TD's quote edited to say debug, a debug TD's quote edited to say sound, and other bytes of a debug quote.
        (TdAttributes::SEPT_VE_DISABLE.to_bytes(), 54 + 120),
        (debug, 54 + 120),
        (debug, 54 + 121),
        (debug, 54 + 136),
        (debug, 54 + 520),
    ] {
        let td = world.td.with(|td| td.td_attributes = td_attributes);
        let mut bytes = td.quote(&[7; 64]).unwrap();
        assert!(verifier.verify(&Quote::parse(&bytes).unwrap(), &collateral, NOW).is_ok());
        bytes[position] ^= 1;
        let denial = verifier.verify(&Quote::parse(&bytes).unwrap(), &collateral, NOW).unwrap_err();
        assert_eq!(denial.label(), "quote_signature_invalid", "{position}");
    }
}

#[test]
fn the_status_is_the_worst_of_platform_module_enclave_and_current_tcb() {
    let world = World::new();
    let status = |td: fn(&mut TdOptions), collateral: fn(CollateralOptions) -> CollateralOptions| {
        world.verify(td, collateral, Allowances::NONE).map(|verified| verified.tcb_status())
    };
    for name in ["SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate"] {
        let wanted = TcbStatus::parse(name).unwrap();
        let verified = world.verify(|_| {}, |options| options.with_status(name), Allowances::NONE).unwrap();
        assert_eq!(verified.tcb_status(), wanted);
        assert!(!verified.advisory_ids().is_empty());
    }
    assert_eq!(status(|_| {}, |options| options.with_qe_status("OutOfDate")), Ok(TcbStatus::OutOfDate));
    let old_module: fn(&mut TdOptions) = |td| td.tee_tcb_svn = TdOptions::TEE_TCB_SVN_OLD_MODULE;
    assert_eq!(status(old_module, |options| options), Ok(TcbStatus::TDRelaunchAdvised));
    // A rolled-back module under a running TD: the engine reports UpToDate.
    let old_current: fn(&mut TdOptions) = |td| td.tee_tcb_svn2 = TdOptions::TEE_TCB_SVN_OLD_MODULE;
    assert_eq!(status(old_current, |options| options), Ok(TcbStatus::OutOfDate));

    let old = World::with(&PlatformOptions { cpu_svn: PlatformOptions::CPU_SVN_OLD, ..PlatformOptions::default() });
    let verified = old.verify(|_| {}, |options| options, Allowances::NONE).unwrap();
    assert_eq!(verified.tcb_status(), TcbStatus::OutOfDate);
    assert!(!verified.advisory_ids().is_empty());
}

#[test]
fn what_no_level_describes_is_unknown_and_what_is_revoked_is_revoked() {
    let world = World::new();
    assert_eq!(world.collateral_refusal(|options| options.with_status("Revoked")), Some("platform_revoked"));
    assert_eq!(world.collateral_refusal(|options| options.with_qe_status("Revoked")), Some("platform_revoked"));
    assert_eq!(world.td(|td| td.tee_tcb_svn[1] = 9), Some("tcb_unknown"));
    assert_eq!(world.td(|td| td.tee_tcb_svn2[1] = 9), Some("tcb_unknown"));
    assert_eq!(world.td(|td| td.tee_tcb_svn[0] = 0), Some("tcb_unknown"));
    let ancient = World::with(&PlatformOptions { cpu_svn: [0; 16], ..PlatformOptions::default() });
    assert_eq!(ancient.td(|_| {}), Some("tcb_unknown"));
    let old_enclave = World::with(&PlatformOptions { qe_isv_svn: 1, ..PlatformOptions::default() });
    assert_eq!(old_enclave.td(|_| {}), Some("tcb_unknown"));
    let debug_enclave = World::with(&PlatformOptions { qe_debug: true, ..PlatformOptions::default() });
    assert_eq!(debug_enclave.td(|_| {}), Some("collateral_invalid"));
}

#[test]
fn revocation_is_named_wherever_it_strikes() {
    let world = World::new();
    assert_eq!(world.collateral_refusal(|options| options.revoking(world.td.platform())), Some("platform_revoked"));
    let other = world.root.platform(&PlatformOptions::default(), NOW).unwrap();
    assert_eq!(world.collateral_refusal(|options| options.revoking(&other)), None);
    let ca = |options| CollateralOptions { revoke_platform_ca: true, ..options };
    assert_eq!(world.collateral_refusal(ca), Some("platform_revoked"));
    let signer = |options| CollateralOptions { revoke_tcb_signer: true, ..options };
    let denial = world.verify(|_| {}, signer, Allowances::NONE).unwrap_err();
    assert_eq!(denial, DcapDenial::CertificateRevoked("the certificate that signs the collateral"));
}

type Part = fn(&mut CollateralOptions) -> &mut Window;

#[test]
fn every_part_of_the_collateral_has_its_window() {
    let world = World::new();
    let parts: [Part; 4] = [
        |options| &mut options.tcb_info,
        |options| &mut options.qe_identity,
        |options| &mut options.pck_crl,
        |options| &mut options.root_crl,
    ];
    for part in parts {
        for window in [Window::EXPIRED, Window::FUTURE] {
            let denial = world.verify(
                |_| {},
                |mut options| {
                    *part(&mut options) = window;
                    options
                },
                Allowances::NONE,
            );
            let denial = denial.unwrap_err();
            assert_eq!(denial.label(), "collateral_expired", "{denial}");
            assert_eq!(matches!(denial, DcapDenial::CollateralNotYetValid { .. }), window == Window::FUTURE, "{denial}");
        }
    }
}

/// What an operator is warned by is what ends the service: the second after, every quote is refused.
#[test]
fn whatever_ends_first_ends_the_collateral() {
    let world = World::new();
    let quote = Quote::parse(&world.td.quote(&[7; 64]).unwrap()).unwrap();
    let parts: [Part; 4] = [
        |options| &mut options.tcb_info,
        |options| &mut options.qe_identity,
        |options| &mut options.pck_crl,
        |options| &mut options.root_crl,
    ];
    for part in parts {
        let mut options = world.options();
        *part(&mut options) = Window { until: 1000, ..Window::CURRENT };
        let collateral = world.collateral(&options);
        let end = collateral.next_update();
        assert!((NOW..=NOW + 1000).contains(&end), "{end}");
        assert!(world.verifier().verify(&quote, &collateral, end).is_ok());
        assert_eq!(world.verifier().verify(&quote, &collateral, end + 1).unwrap_err().label(), "collateral_expired");
    }
}

#[test]
fn collateral_of_another_platform_or_evaluation_is_refused() {
    let world = World::new();
    assert_eq!(world.collateral_refusal(|options| CollateralOptions { fmspc: [9; 6], ..options }), Some("collateral_invalid"));
    assert_eq!(world.collateral_refusal(|options| CollateralOptions { pce_id: [1, 0], ..options }), Some("collateral_invalid"));
    assert_eq!(world.collateral_refusal(|options| CollateralOptions { qe_mr_signer: [1; 32], ..options }), Some("collateral_invalid"));
    let differing = |options| CollateralOptions { qe_evaluation_number: 19, ..options };
    let denial = world.verify(|_| {}, differing, Allowances::NONE).unwrap_err();
    assert_eq!(denial, DcapDenial::EvaluationNumbersDiffer { tcb_info: 20, qe_identity: 19 });
    assert_eq!(denial.label(), "collateral_rolled_back");
}

#[test]
fn the_memory_is_per_platform_family() {
    let world = World::new();
    let verifier = world.verifier();
    let other_family = PlatformOptions { fmspc: [b'S', b'I', b'M', 0, 0, 2], ..PlatformOptions::default() };
    let other = SimulatedTd::new(world.root.platform(&other_family, NOW).unwrap(), TdOptions::default());
    let verify = |td: &SimulatedTd, number| {
        let quote = Quote::parse(&td.quote(&[7; 64]).unwrap()).unwrap();
        let options = CollateralOptions::for_platform(td.platform()).with_evaluation_number(number);
        verifier.verify(&quote, &world.collateral(&options), NOW).map(|verified| verified.evaluation_number())
    };
    assert_eq!(verify(&world.td, 20), Ok(20));
    assert_eq!(verify(&world.td, 21), Ok(21));
    assert_eq!(verify(&world.td, 20), Err(DcapDenial::CollateralRolledBack { seen: 21, got: 20 }));
    assert_eq!(verify(&other, 18), Ok(18));
}

#[test]
fn levels_are_matched_from_the_highest_down_whatever_their_order() {
    let world = World::new();
    let reversed = |mut options: CollateralOptions| {
        options.levels.reverse();
        options
    };
    let verified = world.verify(|_| {}, reversed, Allowances::NONE).unwrap();
    assert_eq!(verified.tcb_status(), TcbStatus::UpToDate);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_edit_of_a_quote_is_accepted_with_another_meaning(
        edits in proptest::collection::vec((0usize..5200, 1u8..=255), 1..4),
    ) {
        let world = shared();
        let original = Quote::parse(&world.0).unwrap();
        let mut bytes = world.0.clone();
        for (offset, flip) in edits {
            let offset = offset % bytes.len();
            bytes[offset] ^= flip;
        }
        let verifier = Verifier::new(world.2.clone()).with_allowances(Allowances::ALL);
        if let Ok(quote) = Quote::parse(&bytes)
            && verifier.verify(&quote, &world.1, NOW).is_ok()
        {
            prop_assert_eq!(quote.digest(), original.digest());
        }
    }
}

/// One quote with its collateral and anchor, made once for the property.
fn shared() -> &'static (Vec<u8>, Collateral, TrustAnchor) {
    static SHARED: std::sync::OnceLock<(Vec<u8>, Collateral, TrustAnchor)> = std::sync::OnceLock::new();
    SHARED.get_or_init(|| {
        let world = World::new();
        let anchor = TrustAnchor::simulator(world.root.certificate_der()).unwrap();
        (world.td.quote(&[7; 64]).unwrap(), world.collateral(&world.options()), anchor)
    })
}
