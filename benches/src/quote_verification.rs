//! How fast a quote becomes a verified quote.
//!
//! The bound is one ECDSA P-256 verification over the signed range of a quote: for a known platform under known
//! collateral nothing more has to be checked. Seeing a platform for the first time needs three, a cold start nine, so their
//! fractions cannot exceed 0.33 and 0.11.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use keyferry_dcap::{Collateral, Verifier};
use keyferry_td_simulator::{PlatformOptions, SimulatedTd, TdOptions};
use keyferry_tdx_quote::Quote;

use crate::contest::{self, Contestant};
use crate::peer;
use crate::row::Row;
use crate::world::{NOW, World};

pub(crate) const BOUND: &str = "1 ECDSA P-256 verification";
const PEER: &str = "dcap-qvl 0.7.1 with AWS-LC";
/// Far more than a verifier of the least capacity remembers.
const STRANGERS: u8 = 255;
/// Platforms in the figure of memory, for each second of it: 100,000 in two.
const FLEET_PER_SECOND: f64 = 50_000.0;

/// A new generation: a verifier that knows nothing, collateral parsed from JSON, another platform each time.
pub(crate) fn cold(name: &'static str, each: Duration) -> Result<Row> {
    let world = World::new(64, 64)?;
    let (mut quotes, mut peer_quotes) = (world.next_quote(), world.next_quote());
    let anchor = world.verifier.anchor();
    let ours: Contestant<'_> =
        Box::new(|| verify(&Verifier::new(anchor.clone()), quotes()?, &Collateral::from_json(&world.collateral_json)?));
    let peer: Contestant<'_> = Box::new(|| peer::verify_from_json(&world, peer_quotes()?));
    figure(name, each, &world, [ours, peer], "needs 9 ECDSA, ceiling 0.111; target 0.085")
}

/// The collateral is known; every quote is of a platform that is not: so many take turns that each is forgotten by its next.
pub(crate) fn first_sight(name: &'static str, each: Duration) -> Result<Row> {
    let world = World::new(STRANGERS.into(), STRANGERS)?;
    let verifier = Verifier::new(world.verifier.anchor().clone()).with_platform_capacity(1);
    kept(name, each, &world, &verifier, "needs 3 ECDSA, ceiling 0.333; target 0.25")
}

/// The collateral is known; every quote is of the same platform.
pub(crate) fn warm(name: &'static str, each: Duration) -> Result<Row> {
    let world = World::new(1, 64)?;
    kept(name, each, &world, &world.verifier, "needs 1 ECDSA, ceiling 1; target 0.85")
}

/// The first sight of each of 100,000 platforms, and what remembering them takes.
pub(crate) fn memory(name: &'static str, each: Duration) -> Result<Row> {
    let world = World::new(1, 1)?;
    verify(&world.verifier, world.next_quote()()?, &world.collateral)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number of platforms")]
    let fleet = (each.as_secs_f64() * FLEET_PER_SECOND) as usize;
    let mut times = vec![Duration::ZERO; fleet];
    let before = resident_bytes()?;
    for time in &mut times {
        let platform = world.root.platform(&PlatformOptions::default(), NOW)?;
        let quote = SimulatedTd::new(platform, TdOptions::default()).quote(&[7; 64])?;
        let begun = Instant::now();
        verify(&world.verifier, &quote, &world.collateral)?;
        *time = begun.elapsed();
    }
    let bytes = resident_bytes()?.saturating_sub(before);
    let remembered = world.verifier.platforms_remembered();
    ensure!(remembered > fleet, "only {remembered} platforms are remembered");
    let notes = format!("{remembered} platforms remembered in {bytes} bytes of resident memory, {} each", bytes / remembered);
    let [bound] = contest::run(each, [ecdsa(&world)?])?;
    Ok(Row::new(name, &contest::rate(times), Some((BOUND, bound.per_second)), None, &notes))
}

/// Resident memory of this process.
fn resident_bytes() -> Result<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = statm.split(' ').nth(1).context("/proc/self/statm has no second number")?.parse()?;
    Ok(pages * 4096)
}

fn kept(name: &'static str, each: Duration, world: &World, verifier: &Verifier, notes: &str) -> Result<Row> {
    let collateral = serde_json::from_str(&world.collateral_json)?;
    let (mut quotes, mut peer_quotes) = (world.next_quote(), world.next_quote());
    let ours: Contestant<'_> = Box::new(|| verify(verifier, quotes()?, &world.collateral));
    let peer: Contestant<'_> = Box::new(|| peer::verify(world, peer_quotes()?, &collateral));
    figure(name, each, world, [ours, peer], notes)
}

fn figure(name: &'static str, each: Duration, world: &World, [ours, peer]: [Contestant<'_>; 2], notes: &str) -> Result<Row> {
    let [ours, bound, peer] = contest::run(each, [ours, ecdsa(world)?, peer])?;
    Ok(Row::new(name, &ours, Some((BOUND, bound.per_second)), Some((PEER, peer.per_second)), notes))
}

fn verify(verifier: &Verifier, quote: &[u8], collateral: &Collateral) -> Result<()> {
    verifier.verify(&Quote::parse(quote)?, collateral, NOW)?;
    Ok(())
}

/// The bound: the quote's own signature, with nothing around it.
pub(crate) fn ecdsa(world: &World) -> Result<Contestant<'static>> {
    let quote = Quote::parse(world.quotes.first().ok_or_else(|| anyhow!("the world has no quotes"))?)?;
    let point = [&[4], quote.signature().attestation_key.as_slice()].concat();
    let (signed, signature) = (quote.signed_bytes().to_vec(), quote.signature().quote);
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    Ok(Box::new(move || key.verify(&signed, &signature).map_err(|_| anyhow!("the quote's signature does not verify"))))
}
