//! Collateral by itself: authenticated without a quote, and accepted a while after its end where somebody allows that.

#![allow(clippy::unwrap_used)] // helpers of a test: a broken fixture has to fail it

use keyferry_dcap::{Authenticated, Collateral, CollateralPart, DcapDenial, TrustAnchor, Verifier};
use keyferry_td_simulator::{CollateralOptions, PlatformOptions, SimulatedTd, SimulatorRoot, TdOptions, Window};
use keyferry_tdx_quote::Quote;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

struct World {
    root: SimulatorRoot,
    td: SimulatedTd,
}

impl World {
    fn new() -> Self {
        let root = SimulatorRoot::generate("test", NOW).unwrap();
        let platform = root.platform(&PlatformOptions::default(), NOW).unwrap();
        Self { td: SimulatedTd::new(platform, TdOptions::default()), root }
    }
    fn anchor(&self) -> TrustAnchor {
        TrustAnchor::simulator(self.root.certificate_der()).unwrap()
    }
    fn collateral(&self, change: impl FnOnce(&mut CollateralOptions)) -> Collateral {
        let mut options = CollateralOptions::for_platform(self.td.platform());
        change(&mut options);
        Collateral::from_json(&self.root.collateral(&options, NOW).unwrap()).unwrap()
    }
    fn quote(&self) -> Quote {
        Quote::parse(&self.td.quote(&[7; 64]).unwrap()).unwrap()
    }
}

#[test]
fn genuine_collateral_says_what_it_is() {
    let world = World::new();
    let collateral = world.collateral(|options| options.qe_identity = Window { from: -60, until: 1000 });
    let authenticated =
        Authenticated { fmspc: PlatformOptions::FMSPC, evaluation_number: 20, issued_at: NOW - 60, next_update: NOW + 1000 };
    assert_eq!(collateral.authenticate(&world.anchor(), NOW), Ok(authenticated));

    let real = include_str!("../testdata/tdx/v5-td15ex-uptodate/collateral.json");
    let real = Collateral::from_json(real).unwrap().authenticate(&TrustAnchor::intel(), 1_791_419_306).unwrap();
    assert_eq!((real.evaluation_number, real.next_update), (20, 1_794_008_711));
}

#[test]
fn collateral_that_no_quote_could_use_is_not_authentic() {
    let world = World::new();
    let refusal = |change: fn(&mut CollateralOptions)| world.collateral(change).authenticate(&world.anchor(), NOW).unwrap_err().label();
    assert_eq!(refusal(|options| options.tcb_info = Window::EXPIRED), "collateral_expired");
    assert_eq!(refusal(|options| options.qe_identity = Window::FUTURE), "collateral_expired");
    assert_eq!(refusal(|options| options.pck_crl = Window::EXPIRED), "collateral_expired");
    assert_eq!(refusal(|options| options.root_crl = Window::FUTURE), "collateral_expired");
    assert_eq!(refusal(|options| options.qe_evaluation_number = 19), "collateral_rolled_back");
    assert_eq!(refusal(|options| options.revoke_platform_ca = true), "platform_revoked");
    assert_eq!(refusal(|options| options.revoke_tcb_signer = true), "platform_revoked");

    let foreign = World::new().collateral(|_| {});
    assert_eq!(foreign.authenticate(&world.anchor(), NOW).unwrap_err().label(), "collateral_invalid");
    let json = world.root.collateral(&CollateralOptions::default(), NOW).unwrap();
    for member in ["root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature", "tcb_info_issuer_chain", "pck_crl_issuer_chain"]
    {
        let mut document: serde_json::Value = serde_json::from_str(&json).unwrap();
        let other: serde_json::Value =
            serde_json::from_str(&World::new().root.collateral(&CollateralOptions::default(), NOW).unwrap()).unwrap();
        document[member] = other[member].clone();
        let mixed = Collateral::from_json(&document.to_string()).unwrap();
        assert_eq!(mixed.authenticate(&world.anchor(), NOW).unwrap_err().label(), "collateral_invalid", "{member}");
    }
    let mut document: serde_json::Value = serde_json::from_str(&json).unwrap();
    document["pck_crl_issuer_chain"] = "".into();
    let unsigned = Collateral::from_json(&document.to_string()).unwrap();
    let missing = DcapDenial::CollateralMalformed { part: CollateralPart::PckCrl, detail: "without its issuer chain" };
    assert_eq!(unsigned.authenticate(&world.anchor(), NOW), Err(missing));
}

#[test]
fn expired_collateral_counts_for_as_long_as_the_grace_lasts() {
    let world = World::new();
    let quote = world.quote();
    let parts: [fn(&mut CollateralOptions) -> &mut Window; 4] = [
        |options| &mut options.tcb_info,
        |options| &mut options.qe_identity,
        |options| &mut options.pck_crl,
        |options| &mut options.root_crl,
    ];
    for part in parts {
        let collateral = world.collateral(|options| *part(options) = Window { from: -1000, until: 1000 });
        let end = collateral.next_update();
        let verifier = Verifier::new(world.anchor()).with_collateral_grace(DAY);
        let expired_at = |now| verifier.verify(&quote, &collateral, now).map(|verified| verified.collateral_expired_at());
        assert_eq!(expired_at(end), Ok(None));
        assert_eq!(expired_at(end + 1), Ok(Some(end)));
        assert_eq!(expired_at(end + DAY), Ok(Some(end)));
        assert!(matches!(expired_at(end + DAY + 1), Err(DcapDenial::CollateralExpired { expires_at, .. }) if expires_at == end));
        assert!(matches!(expired_at(NOW - 1001), Err(DcapDenial::CollateralNotYetValid { .. })));
        let strict = Verifier::new(world.anchor()).verify(&quote, &collateral, end + 1);
        assert!(matches!(strict, Err(DcapDenial::CollateralExpired { .. })));
    }
}

#[test]
fn the_grace_covers_collateral_only() {
    let world = World::new();
    let forever = Window { from: -1000, until: 8 * 365 * 86_400 };
    let all_forever = |options: &mut CollateralOptions| {
        (options.tcb_info, options.qe_identity, options.pck_crl, options.root_crl) = (forever, forever, forever, forever);
    };
    let collateral = world.collateral(all_forever);
    let verifier = Verifier::new(world.anchor()).with_collateral_grace(100 * 365 * DAY);
    // The PCK certificate and the TCB signer live seven years.
    let after = NOW + 7 * 365 * DAY + 1;
    let denial = verifier.verify(&world.quote(), &collateral, after).unwrap_err();
    assert!(matches!(denial, DcapDenial::CollateralExpired { part: CollateralPart::TcbInfoSigner, .. }), "{denial}");
    // Expired items in their grace do not hide the expired certificate either.
    let denial = verifier.verify(&world.quote(), &world.collateral(|_| {}), after).unwrap_err();
    assert!(matches!(denial, DcapDenial::CollateralExpired { part: CollateralPart::TcbInfoSigner, .. }), "{denial}");
    // Nor does the grace admit what is revoked or altered.
    let revoked = world.collateral(|options| options.revoked_pcks.push(world.td.platform().pck_serial()));
    let later = revoked.next_update() + 1;
    assert_eq!(verifier.verify(&world.quote(), &revoked, later).unwrap_err().label(), "platform_revoked");
    let mut bytes = world.td.quote(&[7; 64]).unwrap();
    bytes[600] ^= 1;
    let altered = Quote::parse(&bytes).unwrap();
    assert_eq!(verifier.verify(&altered, &world.collateral(|_| {}), later).unwrap_err().label(), "quote_signature_invalid");
}
