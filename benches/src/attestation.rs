//! How fast evidence becomes a token: parse, verify, appraise, sign - and the signing alone.
//!
//! In one process: the bus between the steps is not measured here. The bound of an attestation is one ECDSA verification
//! and one token signature; that of signing is the bare signature with a key parsed once.

use std::time::Duration;

use anyhow::{Result, anyhow};
use jsonwebtoken::{EncodingKey, Header};
use keyferry_appraisal::{AppraisalPolicy, Catalog, appraise};
use keyferry_attestation_token::Algorithm;
use keyferry_dcap::VerifiedQuote;
use keyferry_tdx_quote::Quote;

use crate::contest::{self, Contestant};
use crate::quote_verification::ecdsa;
use crate::row::Row;
use crate::verifier::{TokenVerifier, claims};
use crate::world::{NOW, World};

/// Intel's form of an RSA-3072 key: the user data of a TD that wants a key released.
const USER_DATA: [u8; 388] = [0xc7; 388];

pub(crate) fn ps384(name: &'static str, each: Duration) -> Result<Row> {
    attestation(name, each, Algorithm::Ps384, "1 ECDSA P-256 verification + 1 PS384 signature")
}
pub(crate) fn es384(name: &'static str, each: Duration) -> Result<Row> {
    attestation(name, each, Algorithm::Es384, "1 ECDSA P-256 verification + 1 ES384 signature")
}
pub(crate) fn es256(name: &'static str, each: Duration) -> Result<Row> {
    attestation(name, each, Algorithm::Es256, "1 ECDSA P-256 verification + 1 ES256 signature")
}
pub(crate) fn signing_ps384(name: &'static str, each: Duration) -> Result<Row> {
    signing(name, each, Algorithm::Ps384, "1 PS384 signature")
}
pub(crate) fn signing_es384(name: &'static str, each: Duration) -> Result<Row> {
    signing(name, each, Algorithm::Es384, "1 ES384 signature")
}
pub(crate) fn signing_es256(name: &'static str, each: Duration) -> Result<Row> {
    signing(name, each, Algorithm::Es256, "1 ES256 signature")
}

fn attestation(name: &'static str, each: Duration, algorithm: Algorithm, bound: &'static str) -> Result<Row> {
    let (world, verifier, policy) = (World::new(1, 64)?, TokenVerifier::new(algorithm)?, AppraisalPolicy::default());
    let mut quotes = world.next_quote();
    let ours: Contestant<'_> = Box::new(|| {
        let quote = Quote::parse(quotes()?)?;
        let wanted = quote.body().report_data;
        let appraised = appraise(world.verifier.verify(&quote, &world.collateral, NOW)?, &policy, &wanted, &Catalog::default(), NOW)?;
        verifier.issue(&claims(appraised.verified(), USER_DATA.to_vec())).map(drop)
    });
    let mut check = ecdsa(&world)?;
    let mut sign = verifier.bare_signature(message(&world, &verifier)?.into_bytes())?;
    let both: Contestant<'_> = Box::new(move || check().and_then(|()| sign()));
    let [ours, both] = contest::run(each, [ours, both])?;
    let notes = "parse, verify, appraise and sign in one process, the bus apart; target 0.70; the verifier keeps parsed collateral, no verdicts yet";
    Ok(Row::new(name, &ours, Some((bound, both.per_second)), None, notes))
}

fn signing(name: &'static str, each: Duration, algorithm: Algorithm, bound: &'static str) -> Result<Row> {
    let (world, verifier) = (World::new(1, 1)?, TokenVerifier::new(algorithm)?);
    let claims = claims(&verified(&world)?, USER_DATA.to_vec());
    let payload = jsonwebtoken::dangerous::insecure_decode::<serde_json::Value>(verifier.issue(&claims)?)?.claims;
    let (key, mut header) = encoding_key(&verifier, algorithm)?;
    header.kid = Some(verifier.issuer.key().kid().to_owned());
    let ours: Contestant<'_> = Box::new(|| verifier.issue(&claims).map(drop));
    let bare = verifier.bare_signature(message(&world, &verifier)?.into_bytes())?;
    let peer: Contestant<'_> = Box::new(|| {
        jsonwebtoken::encode(&header, &payload, &key)?;
        Ok(())
    });
    let [ours, bare, peer] = contest::run(each, [ours, bare, peer])?;
    let peer = ("jsonwebtoken 11 with AWS-LC", peer.per_second);
    Ok(Row::new(
        name,
        &ours,
        Some((bound, bare.per_second)),
        Some(peer),
        "claims to compact JWS; the peer parses its key for each signature",
    ))
}

fn verified(world: &World) -> Result<VerifiedQuote> {
    let quote = world.quotes.first().ok_or_else(|| anyhow!("the world has no quotes"))?;
    Ok(world.verifier.verify(&Quote::parse(quote)?, &world.collateral, NOW)?)
}

/// Header and payload of a token, as they are signed.
fn message(world: &World, verifier: &TokenVerifier) -> Result<String> {
    let jwt = verifier.issue(&claims(&verified(world)?, USER_DATA.to_vec()))?;
    Ok(jwt.rsplit_once('.').ok_or_else(|| anyhow!("the token has no signature"))?.0.to_owned())
}

fn encoding_key(verifier: &TokenVerifier, algorithm: Algorithm) -> Result<(EncodingKey, Header)> {
    let pem = pem::encode(&pem::Pem::new("PRIVATE KEY", verifier.pkcs8.clone()));
    Ok(match algorithm {
        Algorithm::Ps384 => (EncodingKey::from_rsa_pem(pem.as_bytes())?, Header::new(jsonwebtoken::Algorithm::PS384)),
        Algorithm::Es384 => (EncodingKey::from_ec_pem(pem.as_bytes())?, Header::new(jsonwebtoken::Algorithm::ES384)),
        Algorithm::Es256 => (EncodingKey::from_ec_pem(pem.as_bytes())?, Header::new(jsonwebtoken::Algorithm::ES256)),
        Algorithm::Rs256 => (EncodingKey::from_rsa_pem(pem.as_bytes())?, Header::new(jsonwebtoken::Algorithm::RS256)),
    })
}
