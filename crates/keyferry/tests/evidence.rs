//! `keyferry evidence` as an operator runs it, on quotes of real platforms and of the simulator.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keyferry_td_simulator::{CollateralOptions, PlatformOptions, SimulatedTd, SimulatorRoot, TdOptions, Window};
use keyferry_tdx_quote::TdAttributes;
use serde_json::Value;
use tempfile::TempDir;

const V4_MRTD: &str = "91eb2b44d141d4ece09f0c75c2c53d247a3c68edd7fafe8a3520c942a604a407de03ae6dc5f87f27428b2538873118b7";
const V5_MRTD: &str = "2a674327c50218dba880066b349b8d559d749ed68dce33fd651c184a877d084b07a9e583767a7ad5da13ed91deec2b70";
/// Unix seconds, and the same as text.
const NOW: u64 = 1_800_000_000;
const NOW_TEXT: &str = "2027-01-15T08:00:00Z";

fn keyferry(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyferry")).args(arguments).output().unwrap()
}

fn vectors(file: &str) -> String {
    format!("{}/../dcap/testdata/tdx/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// One object on stdout, nothing on stderr, and the exit code of the verdict.
fn verdict(output: &Output) -> Value {
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1, "one line");
    assert_eq!(output.status.success(), verdict["verdict"] == "verified", "{verdict}");
    assert_eq!(output.status.code(), Some(i32::from(verdict["verdict"] == "refused")), "{verdict}");
    verdict
}

fn reason(output: &Output) -> String {
    let verdict = verdict(output);
    assert_eq!(verdict["verdict"], "refused", "{verdict}");
    assert!(!verdict["detail"].as_str().unwrap().is_empty());
    verdict["reason"].as_str().unwrap().to_owned()
}

/// Exit code 2, nothing on stdout, an error and a hint on stderr.
fn usage_error(output: &Output, words: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty());
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("keyferry: error: ") && lines[1].starts_with("keyferry: hint: "), "{stderr}");
    assert!(lines[0].contains(words), "{stderr}");
}

fn verify_real(pair: &str, at: &str, root: &Path) -> Output {
    let (quote, collateral) = (vectors(&format!("{pair}/quote.bin")), vectors(&format!("{pair}/collateral.json")));
    let root = root.to_str().unwrap();
    keyferry(&["evidence", "verify", "--quote", &quote, "--collateral", &collateral, "--root", root, "--at", at, "--json"])
}

fn intel() -> PathBuf {
    vectors("intel-sgx-root-ca.der").into()
}

/// A simulated world on disk: root, collateral and a quote.
struct Stage {
    directory: TempDir,
    root: SimulatorRoot,
    td: SimulatedTd,
    collateral: CollateralOptions,
}

impl Stage {
    fn new() -> Self {
        let root = SimulatorRoot::generate("test", NOW).unwrap();
        let platform = root.platform(&PlatformOptions::default(), NOW).unwrap();
        let collateral = CollateralOptions::for_platform(&platform);
        Self { directory: tempfile::tempdir().unwrap(), root, td: SimulatedTd::new(platform, TdOptions::default()), collateral }
    }

    fn attributes(mut self, attributes: TdAttributes) -> Self {
        self.td = self.td.with(|td| td.td_attributes = attributes.to_bytes());
        self
    }

    fn collateral(mut self, change: impl FnOnce(CollateralOptions) -> CollateralOptions) -> Self {
        self.collateral = change(self.collateral);
        self
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn verify(&self, more: &[&str]) -> Output {
        self.verify_quote(&self.td.quote(&[1; 64]).unwrap(), more)
    }

    fn verify_quote(&self, quote: &[u8], more: &[&str]) -> Output {
        let quote = self.file("quote.bin", quote);
        let collateral = self.file("collateral.json", self.root.collateral(&self.collateral, NOW).unwrap().as_bytes());
        let root = self.file("root.der", self.root.certificate_der());
        let mut arguments = vec!["evidence", "verify", "--quote", &quote, "--collateral", &collateral, "--root", &root];
        arguments.extend(["--at", NOW_TEXT, "--json"]);
        arguments.extend(more);
        keyferry(&arguments)
    }
}

#[test]
fn quotes_of_real_platforms_are_verified_inside_their_window() {
    for (pair, at, mr_td) in
        [("v4-uptodate", "2025-07-01T00:00:00Z", V4_MRTD), ("v5-td15ex-uptodate", "2026-10-20T02:00:00+02:00", V5_MRTD)]
    {
        let verdict = verdict(&verify_real(pair, at, &intel()));
        assert_eq!(verdict["verdict"], "verified");
        assert_eq!((&verdict["tcb_status"], &verdict["trust_anchor"]), (&"UpToDate".into(), &"intel-sgx-root".into()));
        assert_eq!((&verdict["mrtd"], &verdict["advisory_ids"]), (&mr_td.into(), &Value::Array(vec![])));
        assert_eq!((&verdict["reason"], &verdict["fmspc"]), (&Value::Null, &"b0c06f000000".into()));
    }
}

#[test]
fn outside_its_window_a_quote_is_refused() {
    assert_eq!(reason(&verify_real("v4-uptodate", "2025-06-19T10:00:00Z", &intel())), "collateral_expired");
    assert_eq!(reason(&verify_real("v4-uptodate", "2025-07-19T10:00:35Z", &intel())), "collateral_expired");
    assert_eq!(reason(&verify_real("v5-td15ex-uptodate", "2026-11-06T23:45:12Z", &intel())), "collateral_expired");
}

#[test]
fn each_root_vouches_for_its_own_quotes_only() {
    let stage = Stage::new();
    let simulated = verdict(&stage.verify(&[]));
    assert_eq!(simulated["verdict"], "verified");
    assert_eq!(simulated["trust_anchor"], stage.root.trust_anchor());
    let root = stage.directory.path().join("root.der");
    assert_eq!(reason(&verify_real("v4-uptodate", "2025-07-01T00:00:00Z", &root)), "quote_root_untrusted");
    let intel = intel();
    assert_eq!(reason(&stage.verify(&["--root", intel.to_str().unwrap()])), "quote_root_untrusted");
}

#[test]
fn what_weakens_a_td_needs_its_own_allowance() {
    let good = TdAttributes::SEPT_VE_DISABLE;
    for (attributes, refusal, allowance) in [
        (good.with(TdAttributes::DEBUG), "debug_enabled", "debug"),
        (good.with(TdAttributes::MIGRATABLE), "migratable", "migratable"),
        (good.with(TdAttributes::SERVICE_TD_EXTENSION), "service_td", "service-td"),
        (TdAttributes::PERFMON, "sept_ve_disable_missing", "no-sept-ve-disable"),
    ] {
        let stage = Stage::new().attributes(attributes);
        assert_eq!(reason(&stage.verify(&[])), refusal);
        assert_eq!(verdict(&stage.verify(&["--allow", allowance]))["verdict"], "verified", "{allowance}");
        assert_eq!(verdict(&stage.verify(&["--allow", "debug,service-td,migratable,no-sept-ve-disable"]))["verdict"], "verified");
    }
    let debug = Stage::new().attributes(good.with(TdAttributes::DEBUG));
    assert_eq!(reason(&debug.verify(&["--allow", "migratable,service-td"])), "debug_enabled");
}

#[test]
fn the_status_and_the_reason_follow_the_collateral() {
    let out_of_date = verdict(&Stage::new().collateral(|options| options.with_status("OutOfDate")).verify(&[]));
    assert_eq!((&out_of_date["verdict"], &out_of_date["tcb_status"]), (&"verified".into(), &"OutOfDate".into()));
    assert_eq!(out_of_date["advisory_ids"], serde_json::json!(["SIMULATED-SA-00001"]));

    let revoked = Stage::new().collateral(|options| options.with_status("Revoked")).verify(&[]);
    assert_eq!((reason(&revoked).as_str(), &verdict(&revoked)["tcb_status"]), ("platform_revoked", &"Revoked".into()));
    let stage = Stage::new();
    let platform = stage.td.platform().clone();
    assert_eq!(reason(&stage.collateral(|options| options.revoking(&platform)).verify(&[])), "platform_revoked");

    let of = |change: fn(&mut CollateralOptions)| {
        let stage = Stage::new().collateral(|mut options| {
            change(&mut options);
            options
        });
        reason(&stage.verify(&[]))
    };
    assert_eq!(of(|options| options.tcb_info = Window::EXPIRED), "collateral_expired");
    assert_eq!(of(|options| options.pck_crl = Window::EXPIRED), "collateral_expired");
    assert_eq!(of(|options| options.qe_identity = Window::FUTURE), "collateral_expired");
    assert_eq!(of(|options| options.qe_evaluation_number += 1), "collateral_rolled_back");
    assert_eq!(of(|options| options.pce_id = [0, 1]), "collateral_invalid");
    assert_eq!(of(|options| options.fmspc = [9; 6]), "collateral_invalid");
    assert_eq!(of(|options| options.levels.clear()), "tcb_unknown");
}

#[test]
fn damaged_evidence_is_a_verdict_not_a_failure() {
    let stage = Stage::new();
    let good = stage.td.quote(&[1; 64]).unwrap();
    assert_eq!(reason(&stage.verify_quote(b"no quote", &[])), "quote_malformed");
    assert_eq!(reason(&stage.verify_quote(&[], &[])), "quote_malformed");
    assert_eq!(reason(&stage.verify_quote(&good[..good.len() - 1], &[])), "quote_malformed");
    assert_eq!(reason(&stage.verify_quote(&[good.as_slice(), &[1]].concat(), &[])), "quote_malformed");
    assert_eq!(reason(&stage.verify_quote(&vec![0; 20_000], &[])), "request_too_large");
    let mut flipped = good.clone();
    flipped[100] ^= 1;
    assert_eq!(reason(&stage.verify_quote(&flipped, &[])), "quote_signature_invalid");
    let bad = stage.file("bad.json", b"{\"tcb_info\": 1}");
    assert_eq!(reason(&stage.verify_quote(&good, &["--collateral", &bad])), "collateral_invalid");
    assert_eq!(verdict(&stage.verify_quote(&[good.as_slice(), &[0; 70]].concat(), &[]))["verdict"], "verified");
}

#[test]
fn mistakes_on_the_command_line_say_what_to_do() {
    let stage = Stage::new();
    usage_error(&stage.verify(&["--quote", "/nonexistent/quote"]), "/nonexistent/quote");
    usage_error(&stage.verify(&["--at", "yesterday"]), "RFC 3339");
    usage_error(&stage.verify(&["--allow", "everything"]), "possible values: debug, service-td, migratable, no-sept-ve-disable");
    usage_error(&stage.verify(&["--root", &stage.file("root.pem", b"-----BEGIN")]), "root.pem");
    usage_error(&keyferry(&["evidence", "verify", "--quote", "q"]), "--collateral <FILE>");
    usage_error(&keyferry(&["evidence", "look"]), "look");
    usage_error(&keyferry(&["evidence"]), "a command is missing");
    usage_error(&keyferry(&[]), "a command is missing");
    let misspelt = keyferry(&["evidence", "verfy"]);
    usage_error(&misspelt, "verfy");
    assert!(String::from_utf8_lossy(&misspelt.stderr).contains("'verify'"));
    let quote = stage.file("junk", b"junk");
    usage_error(&keyferry(&["evidence", "inspect", "--quote", &quote]), "junk");
}

#[test]
fn inspect_shows_what_the_quote_says() {
    let output = keyferry(&["evidence", "inspect", "--quote", &vectors("v5-td15ex-uptodate/quote.bin"), "--json"]);
    let quote: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&quote["version"], &quote["body_type"], &quote["bytes"]), (&5.into(), &4.into(), &5247.into()));
    assert_eq!((&quote["mrtd"], &quote["td_attributes"]), (&V5_MRTD.into(), &"0000001000000000".into()));
    assert_eq!(quote["td_id"].as_str().unwrap().len(), 64);

    let text = keyferry(&["evidence", "inspect", "--quote", &vectors("v4-uptodate/quote.bin")]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.lines().any(|line| line.split_whitespace().eq(["zero_tail_bytes", "70"])), "{text}");
    assert!(text.lines().any(|line| line.split_whitespace().eq(["mrtd", V4_MRTD])), "{text}");
}

#[test]
fn help_is_data() {
    let output = keyferry(&["evidence", "verify", "--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("--collateral <FILE>"));
}
