//! How fast an attestation token becomes a wrapped key: authenticate, evaluate the policy, wrap.
//!
//! In one process: gRPC, TLS, the KMS and the audit record are not measured here. The bound is one verification of the
//! token's signature, one RSA-OAEP encryption and one AES-256-GCM seal.

use std::time::Duration;

use anyhow::{Result, anyhow};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey, PublicKeyComponents};
use keyferry_attestation_token::{Algorithm, authenticate};
use keyferry_identifiers::KeyId;
use keyferry_key_transfer_policy::{Policy, evaluate};
use keyferry_key_wrap::{HeldPublicKey, KeyMaterial, TdKeyPair, wrap};
use keyferry_tdx_quote::Quote;

use crate::contest::{self, Contestant};
use crate::row::Row;
use crate::verifier::{TokenVerifier, claims};
use crate::world::{NOW, World};

pub(crate) const BOUND: &str = "1 PS384 verification + 1 RSA-3072 OAEP + 1 AES-256-GCM";
const KEY_BYTES: usize = 32;

/// Token in, wrapped key out.
pub(crate) fn decision(name: &'static str, each: Duration) -> Result<Row> {
    let (world, verifier, pair) = (World::new(1, 1)?, TokenVerifier::new(Algorithm::Ps384)?, TdKeyPair::generate()?);
    let quote = Quote::parse(world.quotes.first().ok_or_else(|| anyhow!("the world has no quotes"))?)?;
    let jwt = verifier.issue(&claims(&world.verifier.verify(&quote, &world.collateral, NOW)?, pair.held_data()))?;
    let policy = Policy::parse(&policy_document(&world, &quote))?;
    let (keys, key_id, key) = ([verifier.key_set()?], KeyId::random(), KeyMaterial::random(KEY_BYTES)?);
    let ours: Contestant<'_> = Box::new(|| {
        let permitted = evaluate(&policy, authenticate(&jwt, &keys, NOW)?, key_id)?;
        let held = permitted.token().held_data().ok_or_else(|| anyhow!("the token holds no key"))?;
        wrap(&key, &HeldPublicKey::from_intel(held)?)?;
        Ok(())
    });
    let bound = bare(&verifier, &jwt, &pair)?;
    let [ours, bound] = contest::run(each, [ours, bound])?;
    let notes = "authenticate, evaluate and wrap in one process; gRPC, TLS, KMS and audit apart; target 0.70";
    Ok(Row::new(name, &ours, Some((BOUND, bound.per_second)), None, notes))
}

/// The cryptography that no release can do without.
pub(crate) fn bound() -> Result<Contestant<'static>> {
    let (world, verifier, pair) = (World::new(1, 1)?, TokenVerifier::new(Algorithm::Ps384)?, TdKeyPair::generate()?);
    let quote = Quote::parse(world.quotes.first().ok_or_else(|| anyhow!("the world has no quotes"))?)?;
    let jwt = verifier.issue(&claims(&world.verifier.verify(&quote, &world.collateral, NOW)?, pair.held_data()))?;
    bare(&verifier, &jwt, &pair)
}

fn bare(verifier: &TokenVerifier, jwt: &str, pair: &TdKeyPair) -> Result<Contestant<'static>> {
    let (mut verify, mut seal) = (verifier.bare_verification(jwt)?, bare_wrap(&pair.held_data())?);
    Ok(Box::new(move || verify().and_then(|()| seal())))
}

/// MRTD, MRSEAM, all RTMRs and the trust anchor pinned: what a careful operator writes.
fn policy_document(world: &World, quote: &Quote) -> String {
    let body = quote.body();
    let hex = |bytes: &[u8]| hex::encode(bytes);
    serde_json::json!({
        "attestation_type": "TDX",
        "tdx": { "attributes": {
            "mrtd": [hex(&body.mr_td)],
            "mrseam": [hex(&body.mr_seam)],
            "mrsignerseam": [hex(&body.mr_signer_seam)],
            "rtmr0": hex(&body.rtmrs[0]),
            "rtmr1": hex(&body.rtmrs[1]),
            "rtmr2": hex(&body.rtmrs[2]),
            "rtmr3": hex(&body.rtmrs[3]),
            "enforce_tcb_upto_date": true,
            "trust_anchor": world.root.trust_anchor(),
        } },
    })
    .to_string()
}

/// The two encryptions with keys parsed once.
fn bare_wrap(held_data: &[u8]) -> Result<Contestant<'static>> {
    let failed = |_| anyhow!("the bare encryption failed");
    let (_, modulus) = held_data.split_at_checked(4).ok_or_else(|| anyhow!("the held data is too short"))?;
    let components = PublicKeyComponents { n: modulus.to_vec(), e: vec![1, 0, 1] };
    let recipient: PublicEncryptingKey = components.try_into().map_err(failed)?;
    let recipient = OaepPublicEncryptingKey::new(recipient).map_err(failed)?;
    let mut ciphertext = vec![0; recipient.ciphertext_size()];
    let gcm = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[3; KEY_BYTES]).map_err(failed)?);
    Ok(Box::new(move || {
        recipient.encrypt(&OAEP_SHA256_MGF1SHA256, &[3; KEY_BYTES], &mut ciphertext, None).map_err(failed)?;
        let mut sealed = vec![5; KEY_BYTES];
        gcm.seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut sealed).map_err(failed)
    }))
}
