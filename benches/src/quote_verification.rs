//! How fast a quote becomes a verified quote.
//!
//! The bound is one ECDSA P-256 verification over the signed range of a quote: a verifier that kept what it learnt about
//! the collateral and the platform would need no more. Seeing a platform for the first time needs three, a cold start
//! nine, so their fractions cannot exceed 0.33 and 0.11.

use std::time::Duration;

use anyhow::{Result, anyhow};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use keyferry_dcap::Collateral;
use keyferry_tdx_quote::Quote;

use crate::contest::{self, Contestant};
use crate::peer;
use crate::row::Row;
use crate::world::{NOW, World};

pub(crate) const BOUND: &str = "1 ECDSA P-256 verification";
const PEER: &str = "dcap-qvl 0.7.1 with AWS-LC";

/// Nothing is kept: collateral is parsed from JSON each time, every quote is of another platform.
pub(crate) fn cold(name: &'static str, each: Duration) -> Result<Row> {
    let world = World::new(64, 64)?;
    let (mut quotes, mut peer_quotes) = (world.next_quote(), world.next_quote());
    let ours: Contestant<'_> = Box::new(|| verify(&world, quotes()?, &Collateral::from_json(&world.collateral_json)?));
    let peer: Contestant<'_> = Box::new(|| peer::verify_from_json(&world, peer_quotes()?));
    figure(name, each, &world, [ours, peer], "needs 9 ECDSA, ceiling 0.111; target 0.085")
}

/// Collateral is kept parsed; every quote is of another platform.
pub(crate) fn first_sight(name: &'static str, each: Duration) -> Result<Row> {
    let world = World::new(64, 64)?;
    kept(name, each, &world, "needs 3 ECDSA, ceiling 0.333; target 0.25; the verifier keeps parsed collateral, no verdicts yet")
}

/// Collateral is kept parsed; every quote is of the same platform.
pub(crate) fn warm(name: &'static str, each: Duration) -> Result<Row> {
    let world = World::new(1, 64)?;
    kept(name, each, &world, "needs 1 ECDSA, ceiling 1; target 0.85; the verifier keeps parsed collateral, no verdicts yet")
}

fn kept(name: &'static str, each: Duration, world: &World, notes: &str) -> Result<Row> {
    let collateral = serde_json::from_str(&world.collateral_json)?;
    let (mut quotes, mut peer_quotes) = (world.next_quote(), world.next_quote());
    let ours: Contestant<'_> = Box::new(|| verify(world, quotes()?, &world.collateral));
    let peer: Contestant<'_> = Box::new(|| peer::verify(world, peer_quotes()?, &collateral));
    figure(name, each, world, [ours, peer], notes)
}

fn figure(name: &'static str, each: Duration, world: &World, [ours, peer]: [Contestant<'_>; 2], notes: &str) -> Result<Row> {
    let [ours, bound, peer] = contest::run(each, [ours, ecdsa(world)?, peer])?;
    Ok(Row::new(name, &ours, Some((BOUND, bound.per_second)), Some((PEER, peer.per_second)), notes))
}

fn verify(world: &World, quote: &[u8], collateral: &Collateral) -> Result<()> {
    world.verifier.verify(&Quote::parse(quote)?, collateral, NOW)?;
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
