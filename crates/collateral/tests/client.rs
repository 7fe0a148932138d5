//! Against a real HTTPS server of the services' shape: what is asked for, what is believed, what is repeated.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

use std::{sync::OnceLock, time::Duration};

use keyferry_collateral::{
    Bundle, Ca, CollateralClient, Document, Family, FetchError, ItemKind, NoCollateral, Refused, Settings, Source, Update, VerifiedDocument,
};
use keyferry_dcap::TrustAnchor;
use keyferry_td_simulator::{CollateralOptions, PlatformOptions, SimulatorRoot, Window};
use keyferry_testkit::{Pcs, PcsFault, PcsItem};
use serde_json::Value;
use tempfile::TempDir;

const NOW: u64 = 1_800_000_000;
const FAMILY: Family = Family { fmspc: PlatformOptions::FMSPC, ca: Ca::Platform };
const ITEMS: [PcsItem; 4] = [PcsItem::TcbInfo, PcsItem::QeIdentity, PcsItem::PckCrl, PcsItem::RootCrl];

fn root() -> &'static SimulatorRoot {
    static ROOT: OnceLock<SimulatorRoot> = OnceLock::new();
    ROOT.get_or_init(|| SimulatorRoot::generate("collateral", NOW).unwrap())
}

fn anchor() -> TrustAnchor {
    TrustAnchor::simulator(root().certificate_der()).unwrap()
}

fn collateral(options: &CollateralOptions) -> String {
    root().collateral(options, NOW).unwrap()
}

struct World {
    pcs: Pcs,
    _directory: TempDir,
}

impl World {
    /// A service with the collateral of one family.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pcs = Pcs::start(directory.path()).unwrap();
        pcs.serve(&collateral(&CollateralOptions::default()));
        Self { pcs, _directory: directory }
    }

    fn pcs_source(&self) -> Source {
        Source::Pcs { url: self.pcs.url().to_owned(), certificates_url: self.pcs.url().to_owned() }
    }

    fn client_of(&self, source: Source, update: Update) -> CollateralClient {
        let ca_file = Some(self.pcs.ca_file().to_owned());
        CollateralClient::new(&Settings { ca_file, update, retry_delay: Duration::from_millis(2), ..Settings::new(source) }).unwrap()
    }

    async fn fetch(&self) -> Result<Document, FetchError> {
        self.client_of(self.pcs_source(), Update::Standard).fetch(FAMILY).await
    }

    async fn verified(&self) -> Result<VerifiedDocument, NoCollateral> {
        self.client_of(self.pcs_source(), Update::Standard).fetch_verified(FAMILY, &anchor(), NOW).await
    }

    async fn refusal(&self) -> String {
        match self.verified().await {
            Err(NoCollateral::Refused(refused)) => format!("{}: {refused}", refused.label()),
            other => panic!("{other:?}"),
        }
    }

    fn sorted_requests(&self) -> Vec<String> {
        let mut requests = self.pcs.requests();
        requests.sort();
        requests
    }
}

fn members(json: &str) -> Value {
    serde_json::from_str(json).unwrap()
}

#[tokio::test]
async fn the_four_items_of_a_pcs_become_one_document_word_for_word() {
    let world = World::new();
    let document = world.verified().await.unwrap();
    assert_eq!(members(document.document().text()), members(&collateral_like(document.document().text())));
    assert_eq!(document.authenticated().fmspc, PlatformOptions::FMSPC);
    assert_eq!(document.document().evaluation_number(), CollateralOptions::EVALUATION_NUMBER);
    let fmspc = hex::encode(PlatformOptions::FMSPC);
    let expected = [
        "/IntelSGXRootCA.der".to_owned(),
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der".to_owned(),
        "/tdx/certification/v4/qe/identity?update=standard".to_owned(),
        format!("/tdx/certification/v4/tcb?fmspc={fmspc}&update=standard"),
    ];
    assert_eq!(world.sorted_requests(), expected);
}

/// What was served, with the signatures of what came: ECDSA signatures differ from one signing to the next.
fn collateral_like(text: &str) -> String {
    let (mut served, came) = (members(&collateral(&CollateralOptions::default())), members(text));
    for name in ["tcb_info_signature", "qe_identity_signature", "root_ca_crl", "pck_crl"] {
        served[name] = came[name].clone();
    }
    served.to_string()
}

#[tokio::test]
async fn a_pccs_is_asked_for_the_roots_list_too_and_may_have_it_in_hex() {
    let world = World::new();
    for suffix in ["", "/", "/sgx/certification/v4/"] {
        let source = Source::Pccs { url: format!("{}{suffix}", world.pcs.url()) };
        let client = world.client_of(source, Update::Early);
        client.fetch_verified(FAMILY, &anchor(), NOW).await.unwrap();
    }
    let requests = world.pcs.requests();
    assert!(requests.iter().any(|request| request == "/sgx/certification/v4/rootcacrl"), "{requests:?}");
    assert!(requests.iter().all(|request| request != "/IntelSGXRootCA.der"));
}

#[tokio::test]
async fn the_texts_are_kept_to_the_byte() {
    // Unusual but legal spacing inside the signed object: a re-serialised copy would lose it.
    let world = World::new();
    let mut odd = members(&collateral(&CollateralOptions::default()));
    let text = odd["tcb_info"].as_str().unwrap().replace(",\"version\"", " ,\n  \"version\"");
    odd["tcb_info"] = text.clone().into();
    world.pcs.serve_item(PcsItem::TcbInfo, &odd.to_string());
    let document = world.fetch().await.unwrap();
    assert_eq!(members(document.text())["tcb_info"], text);
}

#[tokio::test]
async fn early_and_standard_are_different_questions() {
    let world = World::new();
    world.pcs.serve_early(&collateral(&CollateralOptions::default().with_evaluation_number(21)));
    for (update, number) in [(Update::Standard, 20), (Update::Early, 21)] {
        let client = world.client_of(world.pcs_source(), update);
        assert_eq!(client.fetch_verified(FAMILY, &anchor(), NOW).await.unwrap().document().evaluation_number(), number);
    }
}

#[tokio::test]
async fn each_refusing_status_has_its_name_and_is_asked_once() {
    for (status, label) in
        [(400, "status"), (401, "status"), (404, "not_found"), (410, "not_found"), (461, "not_found"), (462, "not_found"), (502, "status")]
    {
        let world = World::new();
        world.pcs.fail(PcsItem::TcbInfo, PcsFault::Status(status));
        let error = world.fetch().await.unwrap_err();
        assert_eq!(error.label(), label, "{status}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert_eq!(error.may_pass(), status == 502, "{error}");
        let asked = world.pcs.requests().iter().filter(|request| request.starts_with("/tdx/certification/v4/tcb")).count();
        assert_eq!(asked, 1, "{status}");
    }
}

#[tokio::test]
async fn outages_are_waited_out_and_then_named() {
    for fault in [PcsFault::Status(429), PcsFault::Status(500), PcsFault::Status(503), PcsFault::RetryAfter(429, 0)] {
        for item in ITEMS {
            let world = World::new();
            world.pcs.fail_next(item, [fault; 3]);
            assert!(world.fetch().await.is_ok(), "{item:?} {fault:?}");
            assert_eq!(world.pcs.requests().len(), 7);
        }
        let world = World::new();
        world.pcs.fail(PcsItem::RootCrl, fault);
        assert!(world.fetch().await.unwrap_err().may_pass());
    }
}

#[tokio::test]
async fn a_service_that_wants_hours_is_left_alone() {
    let world = World::new();
    world.pcs.fail(PcsItem::QeIdentity, PcsFault::RetryAfter(429, 7200));
    let error = world.fetch().await.unwrap_err();
    assert_eq!((error.label(), error.retry_after()), ("throttled", Some(7200)));
    assert_eq!(world.pcs.requests().iter().filter(|request| request.contains("identity")).count(), 1);
}

#[tokio::test]
async fn retry_after_is_kept() {
    let world = World::new();
    world.pcs.fail_next(PcsItem::TcbInfo, [PcsFault::RetryAfter(503, 1)]);
    let started = std::time::Instant::now();
    assert!(world.fetch().await.is_ok());
    assert!(started.elapsed() >= Duration::from_secs(1), "the usual pause is 2 ms: {:?}", started.elapsed());
}

#[tokio::test]
async fn huge_garbled_and_chainless_answers_are_refused() {
    for (fault, label) in [(PcsFault::Huge, "malformed"), (PcsFault::Garbage, "malformed")] {
        for item in ITEMS {
            let world = World::new();
            world.pcs.fail(item, fault);
            assert_eq!(world.fetch().await.unwrap_err().label(), label, "{item:?} {fault:?}");
        }
    }
    for item in [PcsItem::TcbInfo, PcsItem::QeIdentity, PcsItem::PckCrl] {
        let world = World::new();
        world.pcs.fail(item, PcsFault::NoChain);
        assert!(matches!(world.fetch().await, Err(FetchError::Malformed { .. })), "{item:?}");
    }
    let world = World::new();
    world.pcs.fail(PcsItem::TcbInfo, PcsFault::Huge);
    assert!(matches!(world.fetch().await, Err(FetchError::TooLarge { item: ItemKind::TcbInfo, .. })));
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_a_warning_is_no_failure() {
    let world = World::new();
    world.pcs.fail_next(PcsItem::RootCrl, [PcsFault::Redirect]);
    assert!(matches!(world.fetch().await, Err(FetchError::Status { status: 302, .. })));
    let world = World::new();
    world.pcs.fail_next(PcsItem::TcbInfo, [PcsFault::Warning]);
    assert!(world.fetch().await.is_ok());
}

#[tokio::test]
async fn only_the_given_roots_are_trusted() {
    let (world, other) = (World::new(), World::new());
    let settings = Settings { ca_file: Some(other.pcs.ca_file().to_owned()), ..Settings::new(world.pcs_source()) };
    let error = CollateralClient::new(&settings).unwrap().fetch(FAMILY).await.unwrap_err();
    assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");
    let web = Settings::new(world.pcs_source());
    assert!(matches!(CollateralClient::new(&web).unwrap().fetch(FAMILY).await, Err(FetchError::Unreachable { .. })));
    assert!(world.pcs.requests().is_empty());
}

#[tokio::test]
async fn another_family_or_ca_than_asked_for_is_refused() {
    let world = World::new();
    let asked = Family { fmspc: [1, 2, 3, 4, 5, 6], ca: Ca::Platform };
    let client = world.client_of(world.pcs_source(), Update::Standard);
    assert!(matches!(client.fetch(asked).await, Err(FetchError::UnknownFamily { item: ItemKind::TcbInfo, .. })));
    world.pcs.serve_tcb_info_as(asked.fmspc, &collateral(&CollateralOptions::default()));
    assert_eq!(client.fetch(asked).await.unwrap_err().label(), "other_family");
    world.pcs.serve_pck_crl_as("processor", &collateral(&CollateralOptions::default()));
    let processor = Family { ca: Ca::Processor, ..FAMILY };
    assert_eq!(client.fetch(processor).await.unwrap_err().label(), "other_family");
}

#[tokio::test]
async fn every_item_has_to_be_signed_under_the_root() {
    let other = SimulatorRoot::generate("other", NOW).unwrap();
    let foreign = other.collateral(&CollateralOptions::default(), NOW).unwrap();
    for item in ITEMS {
        let world = World::new();
        world.pcs.serve_item(item, &foreign);
        let refusal = world.refusal().await;
        assert!(refusal.starts_with("collateral_invalid"), "{item:?}: {refusal}");
    }
    for (item, text, signature) in
        [(PcsItem::TcbInfo, "tcb_info", "tcb_info_signature"), (PcsItem::QeIdentity, "qe_identity", "qe_identity_signature")]
    {
        // Altered after it was signed, and not signed at all.
        for (name, from, to) in [(text, "UpToDate", "Up2Date "), (text, "OutOfDate", "UpToDate"), (signature, "", "")] {
            let world = World::new();
            let mut altered = members(&collateral(&CollateralOptions::default()));
            let value = altered[name].as_str().unwrap().to_owned();
            altered[name] = if from.is_empty() { "00".repeat(64).into() } else { value.replacen(from, to, 1).into() };
            world.pcs.serve_item(item, &altered.to_string());
            let outcome = world.verified().await;
            assert!(outcome.is_err(), "{name}: {from} -> {to}");
        }
    }
}

#[tokio::test]
async fn expired_future_and_mixed_collateral_is_refused() {
    type Change = fn(&mut CollateralOptions);
    let cases: [(Change, &str); 8] = [
        (|options| options.tcb_info = Window::EXPIRED, "collateral_expired"),
        (|options| options.qe_identity = Window::EXPIRED, "collateral_expired"),
        (|options| options.pck_crl = Window::EXPIRED, "collateral_expired"),
        (|options| options.root_crl = Window::EXPIRED, "collateral_expired"),
        (|options| options.tcb_info = Window::FUTURE, "collateral_expired"),
        (|options| options.qe_evaluation_number = 19, "collateral_rolled_back"),
        (|options| options.revoke_tcb_signer = true, "platform_revoked"),
        (|options| options.revoke_platform_ca = true, "platform_revoked"),
    ];
    for (change, label) in cases {
        let mut options = CollateralOptions::default();
        change(&mut options);
        let world = World::new();
        world.pcs.serve(&collateral(&options));
        let refusal = world.refusal().await;
        assert!(refusal.starts_with(label), "{label}: {refusal}");
    }
}

#[tokio::test]
async fn an_older_evaluation_or_an_older_list_is_refused() {
    let world = World::new();
    let now = world.verified().await.unwrap();
    world.pcs.serve(&collateral(&CollateralOptions::default().with_evaluation_number(19)));
    let older = world.verified().await.unwrap();
    assert_eq!(older.clone().not_below(20).unwrap_err().label(), "collateral_rolled_back");
    assert_eq!(older.not_older_than(now.document()).unwrap_err().label(), "collateral_rolled_back");
    let list = Window { from: Window::CURRENT.from - 60, ..Window::CURRENT };
    world.pcs.serve(&collateral(&CollateralOptions { pck_crl: list, ..CollateralOptions::default() }));
    let older = world.verified().await.unwrap();
    assert_eq!(older.clone().not_older_than(now.document()).unwrap_err(), Refused::Older { item: ItemKind::PckCrl });
    assert!(now.not_older_than(older.document()).is_ok());
}

#[test]
fn a_bundle_keeps_its_documents_and_says_per_family_what_is_wrong() {
    let document = |options: &CollateralOptions| Document::parse(&collateral(options)).unwrap().verify(&anchor(), NOW).unwrap();
    let one = document(&CollateralOptions::default());
    let two =
        document(&CollateralOptions { fmspc: [2; 6], tcb_info: Window { until: 60, ..Window::CURRENT }, ..CollateralOptions::default() });
    let bundle = Bundle::new("https://pccs.example", Some(Update::Early), None, [&one, &two]).unwrap();
    let text = bundle.to_json().unwrap();
    let read = Bundle::parse(&text).unwrap();
    assert_eq!((read.source.as_str(), read.update), ("https://pccs.example", Some(Update::Early)));
    let all: Vec<_> = read.verify(&anchor(), NOW);
    assert_eq!(all[0].1.as_ref().unwrap().document().text(), one.document().text().trim(), "to the byte");
    assert!(all[1].1.is_ok());
    let later: Vec<_> = read.verify(&anchor(), NOW + 61).into_iter().map(|(entry, result)| (entry.fmspc.clone(), result.is_ok())).collect();
    assert_eq!(later, [(hex::encode(PlatformOptions::FMSPC), true), ("02".repeat(6), false)]);

    let renamed = text.replacen(&hex::encode(PlatformOptions::FMSPC), &"03".repeat(6), 1);
    let labels: Vec<_> = Bundle::parse(&renamed)
        .unwrap()
        .verify(&anchor(), NOW)
        .into_iter()
        .map(|(_, result)| result.map_err(|e| e.label()).err())
        .collect();
    assert_eq!(labels, [Some("collateral_invalid"), None]);
    let twice = Bundle::new("x", None, None, [&one, &one]).unwrap().verify(&anchor(), NOW).pop().unwrap().1.unwrap_err();
    assert_eq!(twice, Refused::Twice);
}

#[test]
fn what_is_no_bundle_is_refused() {
    let many: Vec<_> = (0..257).map(|_| r#"{"fmspc":"000000000000","ca":"platform","collateral":{}}"#).collect();
    for bad in [
        String::new(),
        "[]".to_owned(),
        r#"{"keyferry_collateral_bundle":2,"source":"x","families":[{"fmspc":"00","ca":"platform","collateral":{}}]}"#.to_owned(),
        r#"{"keyferry_collateral_bundle":1,"source":"x","families":[]}"#.to_owned(),
        format!(r#"{{"keyferry_collateral_bundle":1,"source":"x","families":[{}]}}"#, many.join(",")),
        " ".repeat(Bundle::BYTES_MAX + 1),
    ] {
        assert!(Bundle::parse(&bad).is_err(), "{}", bad.chars().take(60).collect::<String>());
    }
}

/// Real collateral of Intel's, from both of our vectors.
#[test]
fn real_collateral_verifies_in_its_time_and_tells_its_dates() {
    for (pair, at, number) in [("v4-uptodate", 1_751_328_000, 17), ("v5-td15ex-uptodate", 1_792_454_400, 20)] {
        let path = format!("{}/../dcap/testdata/tdx/{pair}/collateral.json", env!("CARGO_MANIFEST_DIR"));
        let document = Document::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!((document.family().to_string().as_str(), document.family().ca), ("b0c06f000000", Ca::Platform));
        assert_eq!((document.evaluation_number(), document.qe_evaluation_number()), (number, number));
        assert!(document.issued_at() < at && at < document.next_update());
        document.clone().verify(&TrustAnchor::intel(), at).unwrap();
        let late = document.clone().verify(&TrustAnchor::intel(), document.next_update() + 1).unwrap_err();
        assert_eq!(late.label(), "collateral_expired");
        assert_eq!(document.verify(&anchor(), at).unwrap_err().label(), "collateral_invalid");
    }
}
