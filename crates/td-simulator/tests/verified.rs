//! Quotes and collateral of the simulator before an unmodified verifier: what it accepts, and under which root.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;
use keyferry_td_simulator::{
    CollateralOptions, Platform, PlatformOptions, QuoteFormat, SimulatedTd, SimulatorError, SimulatorRoot, TdOptions, Window,
};
use keyferry_tdx_quote::{Quote, TdAttributes};

const NOW: u64 = 1_800_000_000;
const REPORT_DATA: [u8; 64] = [0x5a; 64];

struct World {
    root: SimulatorRoot,
    platform: Platform,
}

fn world() -> World {
    world_of(&PlatformOptions::default())
}

fn world_of(options: &PlatformOptions) -> World {
    let root = SimulatorRoot::generate("test", NOW).unwrap();
    let platform = root.platform(options, NOW).unwrap();
    World { root, platform }
}

impl World {
    fn options(&self) -> CollateralOptions {
        CollateralOptions::for_platform(&self.platform)
    }
    fn td(&self) -> SimulatedTd {
        SimulatedTd::new(self.platform.clone(), TdOptions::default())
    }
    fn collateral(&self, options: &CollateralOptions) -> QuoteCollateralV3 {
        serde_json::from_str(&self.root.collateral(options, NOW).unwrap()).unwrap()
    }
    /// Status, or the verifier's words.
    fn verify(&self, td: &SimulatedTd, options: &CollateralOptions) -> Result<String, String> {
        let quote = td.quote(&REPORT_DATA).unwrap();
        let report = QuoteVerifier::new(self.root.certificate_der().to_vec()).verify(&quote, &self.collateral(options), NOW);
        report.map(|report| report.status).map_err(|error| format!("{error:#}"))
    }
}

fn refused(verdict: Result<String, String>, words: &str) {
    let error = verdict.unwrap_err().to_lowercase();
    assert!(error.contains(&words.to_lowercase()), "{error:?} does not mention {words:?}");
}

#[test]
fn every_format_is_accepted_under_the_simulators_root_and_refused_under_intels() {
    let world = world();
    for format in QuoteFormat::ALL {
        let td = world.td().with(|td| td.format = format);
        assert_eq!(world.verify(&td, &world.options()).as_deref(), Ok("UpToDate"), "{format:?}");
        let quote = td.quote(&REPORT_DATA).unwrap();
        assert!(QuoteVerifier::new_prod().verify(&quote, &world.collateral(&world.options()), NOW).is_err(), "{format:?}");
    }
}

#[test]
fn quotes_parse_strictly_and_say_what_the_options_said() {
    let world = world();
    for (format, version, signed) in
        [(QuoteFormat::V4, 4, 632), (QuoteFormat::V5Td10, 5, 638), (QuoteFormat::V5Td15, 5, 702), (QuoteFormat::V5Td15Ex, 5, 939)]
    {
        let td = world.td().with(|td| {
            td.format = format;
            td.tail_bytes = 70;
            td.rtmr3 = [9; 48];
            td.td_id = [3; 32];
        });
        let bytes = td.quote(&REPORT_DATA).unwrap();
        let quote = Quote::parse(&bytes).unwrap();
        assert_eq!((quote.header().version, quote.signed_bytes().len()), (version, signed), "{format:?}");
        assert_eq!(bytes.len() - quote.without_tail().len(), 70);
        let body = quote.body();
        assert_eq!((body.report_data, body.rtmrs[3], body.mr_td), (REPORT_DATA, [9; 48], td.options().mr_td));
        assert_eq!(body.td_attributes, TdAttributes::SEPT_VE_DISABLE);
        assert_eq!(body.td_id, (format == QuoteFormat::V5Td15Ex).then_some([3; 32]));
        assert_eq!(quote.certification().root(), world.root.certificate_der());
    }
}

#[test]
fn the_status_follows_the_levels() {
    let world = world();
    for status in ["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate"] {
        assert_eq!(world.verify(&world.td(), &world.options().with_status(status)).as_deref(), Ok(status));
    }
    refused(world.verify(&world.td(), &world.options().with_status("Revoked")), "revoked");
    assert_eq!(world.verify(&world.td(), &world.options().with_qe_status("OutOfDate")).as_deref(), Ok("OutOfDate"));
    let old = world_of(&PlatformOptions { cpu_svn: PlatformOptions::CPU_SVN_OLD, ..PlatformOptions::default() });
    assert_eq!(old.verify(&old.td(), &old.options()).as_deref(), Ok("OutOfDate"));
    let oldest = world_of(&PlatformOptions { cpu_svn: [0; 16], ..PlatformOptions::default() });
    refused(oldest.verify(&oldest.td(), &oldest.options()), "no matching TCB level");
}

#[test]
fn the_module_counts_at_launch_and_now() {
    let world = world();
    let launched_old = world.td().with(|td| td.tee_tcb_svn = TdOptions::TEE_TCB_SVN_OLD_MODULE);
    assert_eq!(world.verify(&launched_old, &world.options()).as_deref(), Ok("TDRelaunchAdvised"));
    let old = launched_old.with(|td| td.format = QuoteFormat::V4);
    assert_eq!(world.verify(&old, &world.options()).as_deref(), Ok("OutOfDate"));
    let unknown = world.td().with(|td| td.tee_tcb_svn[1] = 9);
    refused(world.verify(&unknown, &world.options()), "TDX_09");
    let foreign = world.td().with(|td| td.mr_signer_seam = [1; 48]);
    assert!(world.verify(&foreign, &world.options()).is_err());
}

#[test]
fn every_window_can_be_missed() {
    let world = world();
    let mut knobs: Vec<(&str, CollateralOptions)> = Vec::new();
    for window in [Window::EXPIRED, Window::FUTURE] {
        knobs.push(("tcbinfo", CollateralOptions { tcb_info: window, ..world.options() }));
        knobs.push(("qe identity", CollateralOptions { qe_identity: window, ..world.options() }));
    }
    knobs.push(("expired", CollateralOptions { pck_crl: Window::EXPIRED, ..world.options() }));
    knobs.push(("expired", CollateralOptions { root_crl: Window::EXPIRED, ..world.options() }));
    for (words, options) in knobs {
        refused(world.verify(&world.td(), &options), words);
    }
}

#[test]
fn revoked_certificates_are_seen() {
    let world = world();
    let td = world.td();
    let other = world.root.platform(&PlatformOptions::default(), NOW).unwrap();
    assert_eq!(world.verify(&td, &world.options().revoking(&other)).as_deref(), Ok("UpToDate"));
    refused(world.verify(&td, &world.options().revoking(&world.platform)), "revoked");
    refused(world.verify(&td, &CollateralOptions { revoke_platform_ca: true, ..world.options() }), "revoked");
    refused(world.verify(&td, &CollateralOptions { revoke_tcb_signer: true, ..world.options() }), "revoked");
}

#[test]
fn what_the_collateral_does_not_name_is_refused() {
    let world = world();
    refused(world.verify(&world.td(), &CollateralOptions { fmspc: [1; 6], ..world.options() }), "fmspc");
    assert!(world.verify(&world.td(), &CollateralOptions { qe_mr_signer: [1; 32], ..world.options() }).is_err());
    let debug = world_of(&PlatformOptions { qe_debug: true, ..PlatformOptions::default() });
    assert!(debug.verify(&debug.td(), &debug.options()).is_err());
    for attributes in [TdAttributes::SEPT_VE_DISABLE.with(TdAttributes::DEBUG), TdAttributes::from_bits(0)] {
        assert!(world.verify(&world.td().with(|td| td.td_attributes = attributes.to_bytes()), &world.options()).is_err());
    }
}

#[test]
fn evaluation_numbers_and_pceid_are_written_as_asked() {
    let world = world();
    let options = CollateralOptions { tcb_evaluation_number: 21, qe_evaluation_number: 7, pce_id: [0, 1], ..world.options() };
    let collateral = world.collateral(&options);
    assert!(collateral.tcb_info.contains(r#""tcbEvaluationDataNumber":21"#) && collateral.tcb_info.contains(r#""pceId":"0001""#));
    assert!(collateral.qe_identity.contains(r#""tcbEvaluationDataNumber":7"#));
}

#[test]
fn a_stored_world_continues() {
    let world = world();
    let directory = tempfile::tempdir().unwrap();
    world.root.save(directory.path()).unwrap();
    let loaded = SimulatorRoot::load(directory.path()).unwrap();
    assert_eq!(loaded.fingerprint(), world.root.fingerprint());
    let file = directory.path().join("td.json");
    world.td().save(&file).unwrap();
    let td = SimulatedTd::load(&file).unwrap();
    assert_eq!(td.trust_anchor(), loaded.trust_anchor());
    assert_eq!(SimulatedTd::from_json(&td.to_json().unwrap()).unwrap().options(), td.options());
    let platform = loaded.platform(&PlatformOptions::default(), NOW).unwrap();
    for td in [td, SimulatedTd::new(platform, TdOptions::default())] {
        let world = World { root: SimulatorRoot::load(directory.path()).unwrap(), platform: td.platform().clone() };
        assert_eq!(world.verify(&td, &world.options()).as_deref(), Ok("UpToDate"));
        refused(world.verify(&td, &CollateralOptions { revoke_tcb_signer: true, ..world.options() }), "revoked");
    }
}

#[test]
fn private_keys_are_readable_by_their_owner_only_and_never_printed() {
    use std::os::unix::fs::PermissionsExt;
    let world = world();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("td.json");
    std::fs::write(&file, "wide open before").unwrap();
    world.td().save(&file).unwrap();
    world.root.save(directory.path()).unwrap();
    for name in ["td.json", "root.key.der", "platform-ca.key.der", "tcb-signer.key.der"] {
        let mode = std::fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let printed = format!("{:?} {:?} {:?}", world.root, world.platform, world.td());
    let json: serde_json::Value = serde_json::from_str(&world.td().to_json().unwrap()).unwrap();
    let key = json["platform"]["attestation_key"].as_str().unwrap();
    assert!(key.len() > 100 && !printed.contains(&key[..32]));
}

#[test]
fn damaged_files_are_refused_by_name() {
    let world = world();
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(SimulatorRoot::load(directory.path()), Err(SimulatorError::File { .. })));
    world.root.save(directory.path()).unwrap();
    std::fs::write(directory.path().join("root.key.der"), b"no key").unwrap();
    assert!(matches!(SimulatorRoot::load(directory.path()), Err(SimulatorError::Key("root"))));
    let json = world.td().to_json().unwrap();
    let wrong_key = json.replace("\"attestation_key\": \"30", "\"attestation_key\": \"31");
    assert!(matches!(SimulatedTd::from_json(&wrong_key), Err(SimulatorError::Json(_))));
    assert!(matches!(SimulatedTd::from_json("{}"), Err(SimulatorError::Json(_))));
}

#[test]
fn every_certificate_says_that_it_is_simulated() {
    let world = world();
    let collateral = world.collateral(&world.options());
    for chain in [world.platform.pck_chain(), &collateral.pck_crl_issuer_chain, &collateral.tcb_info_issuer_chain] {
        for block in x509_parser::pem::Pem::iter_from_buffer(chain.as_bytes()) {
            let subject = block.unwrap().parse_x509().unwrap().subject().to_string();
            assert!(subject.contains("CN=Simulated SGX "), "{subject}");
        }
    }
}
