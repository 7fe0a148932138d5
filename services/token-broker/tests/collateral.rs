//! Collateral from a service: fetched at the first sight of a family, renewed before it ends, and never believed for where
//! it came from.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a broken fixture has to fail them")]

mod world;

use std::time::Duration;

use keyferry_contract::{Reason, attestation::v1::EvidenceCollected};
use keyferry_td_simulator::{CollateralOptions, PlatformOptions, SimulatedTd, SimulatorRoot, TdOptions, Window};
use keyferry_testkit::{Pcs, PcsFault, PcsItem, nats::now};
use serde_json::{Value, json};
use tempfile::TempDir;
use world::{Answer, World, evidence_of};

/// A broker with nothing but a service to ask.
struct Stage {
    world: World,
    pcs: Pcs,
    desk: TempDir,
}

impl Stage {
    async fn start() -> Self {
        let desk = tempfile::tempdir().unwrap();
        let pcs = Pcs::start(desk.path()).unwrap();
        let collateral = json!({
            "pcs_url": pcs.url(), "certificates_url": pcs.url(), "ca_file": pcs.ca_file(),
            "update": "standard", "directory": desk.path().join("kept"),
        });
        let world = World::start_with(json!({ "evidence": { "collateral_files": [], "collateral": collateral } })).await;
        Self { world, pcs, desk }
    }

    fn serve(&self, options: &CollateralOptions) {
        self.pcs.serve(&self.world.root.collateral(options, now()).unwrap());
    }

    /// Sound evidence over a fresh nonce.
    async fn event(&self) -> EvidenceCollected {
        let nonce = self.world.nonce().await;
        self.world.event(self.world.evidence(&nonce))
    }

    /// Sound evidence of a platform of another family.
    async fn event_of(&self, fmspc: [u8; 6]) -> EvidenceCollected {
        let platform = self.world.root.platform(&PlatformOptions { fmspc, ..PlatformOptions::default() }, now()).unwrap();
        let nonce = self.world.nonce().await;
        self.world.event(evidence_of(&SimulatedTd::new(platform, TdOptions::default()), &nonce))
    }

    fn asked(&self, path: &str) -> usize {
        self.pcs.requests().iter().filter(|request| request.starts_with(path)).count()
    }

    async fn until(&self, what: &str, mut reached: impl FnMut() -> bool) {
        let waiting = async {
            while !reached() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_mins(1), waiting).await;
        waited.unwrap_or_else(|_| panic!("{what}; the broker's log:\n{}", self.world.broker.log()));
    }

    /// The alarms so far: subject and reason.
    fn alarms(&self) -> Vec<(String, String)> {
        let lines = self.world.broker.log();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let alarms = lines.filter(|line| line.to_string().contains("collateral was not renewed"));
        let find = |line: &Value, name: &str| {
            let fields = [&line[name], &line["fields"][name], &line["attributes"][name]];
            fields.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned()
        };
        alarms.map(|line| (find(&line, "subject"), find(&line, "keyferry.reason"))).collect()
    }
}

type Break = fn(&Stage, &SimulatorRoot, CollateralOptions);

const TCB: &str = "/tdx/certification/v4/tcb";

#[tokio::test(flavor = "multi_thread")]
async fn the_first_sight_of_a_family_fetches_its_collateral_once_and_keeps_it() {
    let mut stage = Stage::start().await;
    stage.serve(&CollateralOptions::default());
    stage.pcs.fail_next(PcsItem::TcbInfo, [PcsFault::Held]);
    let mut events = Vec::new();
    for _ in 0..4 {
        let event = stage.event().await;
        stage.world.td.publish(&stage.world.td_id, &event).await.unwrap();
        events.push(event);
    }
    stage.until("nobody asked", || stage.asked(TCB) > 0).await;
    stage.pcs.release();
    for _ in &events {
        assert!(matches!(stage.world.next_answer().await, Answer::Token(_)));
    }
    assert_eq!(stage.pcs.requests().len(), 4, "one request for each item: {:?}", stage.pcs.requests());

    // The service is down, the broker starts again.
    for item in [PcsItem::TcbInfo, PcsItem::QeIdentity, PcsItem::PckCrl, PcsItem::RootCrl] {
        stage.pcs.fail(item, PcsFault::Status(502));
    }
    assert!(stage.desk.path().join(format!("kept/{}.json", hex::encode(PlatformOptions::FMSPC))).is_file());
    stage.world.broker.kill().await;
    stage.world.broker.restart().await.unwrap();
    let event = stage.event().await;
    stage.world.token(&event).await;
    assert_eq!(stage.pcs.requests().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_does_not_have_is_refused_and_not_asked_for_again() {
    let mut stage = Stage::start().await;
    for _ in 0..3 {
        let event = stage.event().await;
        assert_eq!(stage.world.rejection(&event).await, Reason::CollateralMissing);
    }
    assert_eq!(stage.asked(TCB), 1);

    // Nobody can make it ask for families of his own invention.
    let stranger = SimulatorRoot::generate("stranger", now()).unwrap();
    let platform = stranger.platform(&PlatformOptions { fmspc: [7; 6], ..PlatformOptions::default() }, now()).unwrap();
    let nonce = stage.world.nonce().await;
    let event = stage.world.event(evidence_of(&SimulatedTd::new(platform, TdOptions::default()), &nonce));
    assert_eq!(stage.world.rejection(&event).await, Reason::QuoteRootUntrusted);
    assert_eq!(stage.asked(TCB), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_collateral_is_refused_with_its_reason_whichever_item_it_is() {
    let mut stage = Stage::start().await;
    let foreign = SimulatorRoot::generate("foreign", now()).unwrap();
    let cases: [(&str, Break); 10] = [
        ("collateral_invalid", |stage, foreign, options| {
            stage.pcs.serve_item(PcsItem::TcbInfo, &foreign.collateral(&options, now()).unwrap());
        }),
        ("collateral_invalid", |stage, foreign, options| {
            stage.pcs.serve_item(PcsItem::QeIdentity, &foreign.collateral(&options, now()).unwrap());
        }),
        ("collateral_invalid", |stage, foreign, options| {
            stage.pcs.serve_item(PcsItem::PckCrl, &foreign.collateral(&options, now()).unwrap());
        }),
        ("collateral_invalid", |stage, foreign, options| {
            stage.pcs.serve_item(PcsItem::RootCrl, &foreign.collateral(&options, now()).unwrap());
        }),
        ("collateral_expired", |stage, _, options| stage.serve(&CollateralOptions { tcb_info: Window::EXPIRED, ..options })),
        ("collateral_rolled_back", |stage, _, options| stage.serve(&CollateralOptions { qe_evaluation_number: 19, ..options })),
        ("malformed", |stage, _, _| stage.pcs.fail(PcsItem::TcbInfo, PcsFault::Huge)),
        ("malformed", |stage, _, _| stage.pcs.fail(PcsItem::QeIdentity, PcsFault::Garbage)),
        ("not_found", |stage, _, _| stage.pcs.fail(PcsItem::TcbInfo, PcsFault::Status(461))),
        ("other_family", |stage, _, options| {
            let collateral = stage.world.root.collateral(&CollateralOptions { fmspc: [9; 6], ..options.clone() }, now()).unwrap();
            stage.pcs.serve_tcb_info_as(options.fmspc, &collateral);
        }),
    ];
    for (number, (reason, break_it)) in (1_u8..).zip(cases) {
        let fmspc = [number; 6];
        let options = CollateralOptions { fmspc, ..CollateralOptions::default() };
        stage.pcs.heal();
        stage.serve(&options);
        break_it(&stage, &foreign, options);
        let event = stage.event_of(fmspc).await;
        assert_eq!(stage.world.rejection(&event).await, Reason::CollateralMissing, "{number}");
        assert!(stage.alarms().contains(&(hex::encode(fmspc), reason.to_owned())), "{number} {reason}: {:?}", stage.alarms());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn collateral_is_renewed_before_it_ends_and_bad_news_change_nothing() {
    let mut stage = Stage::start().await;
    // Past four fifths of its life: due at every look, a twentieth of what is left apart.
    let old = Window { from: -340, until: 60 };
    let options = |number| {
        CollateralOptions { tcb_info: old, qe_identity: old, pck_crl: old, ..CollateralOptions::default() }.with_evaluation_number(number)
    };
    stage.serve(&options(20));
    let event = stage.event().await;
    stage.world.token(&event).await;
    stage.until("no alarm before the end", || stage.world.broker.log().contains("collateral is about to expire")).await;
    let kept = stage.desk.path().join(format!("kept/{}.json", hex::encode(PlatformOptions::FMSPC)));
    let in_force = |number: u32| std::fs::read_to_string(&kept).unwrap().contains(&format!("EvaluationDataNumber\\\":{number},"));
    assert!(in_force(20));

    stage.serve(&options(21));
    stage.until("never renewed", || in_force(21)).await;
    let fmspc = hex::encode(PlatformOptions::FMSPC);
    stage.serve(&options(19));
    stage.until("a roll-back is no alarm", || stage.alarms().contains(&(fmspc.clone(), "collateral_rolled_back".to_owned()))).await;
    stage.pcs.fail(PcsItem::QeIdentity, PcsFault::Garbage);
    stage.until("garbage is no alarm", || stage.alarms().contains(&(fmspc.clone(), "malformed".to_owned()))).await;
    assert!(in_force(21));
    let event = stage.event().await;
    stage.world.token(&event).await;

    stage.pcs.heal();
    stage.serve(&CollateralOptions::default().with_evaluation_number(22));
    stage.until("never renewed", || in_force(22)).await;
    let url = format!("http://{}/metrics", stage.world.broker.address("health").unwrap());
    let metrics = reqwest::get(url).await.unwrap().text().await.unwrap();
    for line in [
        "keyferry_collateral_refreshes_total{keyferry_result=\"renewed\"",
        "keyferry_collateral_refreshes_total{keyferry_result=\"collateral_rolled_back\"",
        "keyferry_collateral_refreshes_total{keyferry_result=\"malformed\"",
        "keyferry_collateral_age_seconds{keyferry_kind=\"pck_crl\"",
        "keyferry_collateral_expiry_seconds{keyferry_kind=\"root_crl\"",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}
