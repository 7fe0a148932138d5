//! Releases of keys that are in a real KMIP server: what happens when it is gone, rebuilt, or says no.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod harness;

use std::sync::Arc;

use harness::{Stack, TD, admin, refusal, refused};
use keyferry_contract::{
    Reason,
    release::v1::{AuditDecision, CreateKeyRequest, ExportKeyRequest, KeyAlgorithm},
};
use keyferry_key_wrap::{ExportKeyPair, WrappedKey};
use keyferry_kms::{KeyRef, KmipKms, Kms, Revocation};
use keyferry_testkit::pykmip::{Profile, Pykmip};
use tonic::Code;

async fn start(profile: Profile) -> (Pykmip, Arc<KmipKms>, Stack) {
    let server = match Pykmip::start(profile).await {
        Ok(server) => server,
        Err(failure) => panic!("{failure}; {}", failure.hint()),
    };
    let kms = Arc::new(KmipKms::new(&server.config(server.owner())).unwrap());
    let stack = Stack::start_on(kms.clone()).await;
    (server, kms, stack)
}

async fn transferred(stack: &Stack, key_id: &str) -> Result<Vec<u8>, tonic::Status> {
    let released = stack.transfer(key_id, &stack.verifier.token(|_| {})).await?;
    Ok(TD.unwrap_key(&WrappedKey::from_parts(released.wrapped_key, released.wrapped_swk)).unwrap().expose().to_vec())
}

async fn last_reason(stack: &Stack) -> (AuditDecision, Reason) {
    let record = stack.audit().await.pop().unwrap();
    (record.decision(), record.reason())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_a_kmip_server_is_released_over_either_tls_library() {
    for profile in [Profile::Ecdsa, Profile::Intel] {
        let (_server, _, stack) = start(profile).await;
        let key_id = stack.simulator_key().await;
        let pair = ExportKeyPair::generate(2048).unwrap();
        let request = ExportKeyRequest { key_id: key_id.clone(), public_key_pem: pair.public_pem() };
        let exported = stack.administration().export_key(admin(request)).await.unwrap().into_inner().wrapped_key;
        assert_eq!(transferred(&stack, &key_id).await.unwrap(), pair.open(&exported).unwrap().expose(), "{profile:?}");
        assert_eq!(last_reason(&stack).await, (AuditDecision::Released, Reason::Unspecified));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kmip_server_that_is_gone_refuses_and_one_that_is_back_releases_the_same_key() {
    let (mut server, _, stack) = start(Profile::Ecdsa).await;
    let key_id = stack.simulator_key().await;
    let before = transferred(&stack, &key_id).await.unwrap();
    server.kill().await;
    assert_eq!(refusal(transferred(&stack, &key_id).await), refused(Code::Unavailable, "kms_unreachable"));
    assert_eq!(last_reason(&stack).await, (AuditDecision::Denied, Reason::KmsUnreachable));
    let request = CreateKeyRequest { algorithm: KeyAlgorithm::Aes.into(), length_bits: 256, ..CreateKeyRequest::default() };
    assert_eq!(refusal(stack.administration().create_key(admin(request)).await), refused(Code::Unavailable, "kms_unreachable"));
    server.restart().await.unwrap();
    assert_eq!(transferred(&stack, &key_id).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_kmip_database_releases_nothing_under_old_references() {
    let (mut server, _, stack) = start(Profile::Ecdsa).await;
    let key_id = stack.simulator_key().await;
    assert!(transferred(&stack, &key_id).await.is_ok());
    server.rebuild().await.unwrap();
    assert_eq!(refusal(transferred(&stack, &key_id).await), refused(Code::NotFound, "key_not_found"));
    // The next key gets the old one's identifier: other bytes under a known reference, of the right kind and length.
    let newer = stack.simulator_key().await;
    assert_eq!(refusal(transferred(&stack, &key_id).await), refused(Code::FailedPrecondition, "key_mismatch"));
    assert_eq!(last_reason(&stack).await, (AuditDecision::Denied, Reason::KeyMismatch));
    let pair = ExportKeyPair::generate(2048).unwrap();
    let export = ExportKeyRequest { key_id, public_key_pem: pair.public_pem() };
    assert_eq!(refusal(stack.administration().export_key(admin(export)).await).1, "key_mismatch", "nor to an administrator");
    assert!(transferred(&stack, &newer).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kmip_server_says_about_a_key_counts_though_it_would_hand_it_out() {
    let (_server, kms, stack) = start(Profile::Ecdsa).await;
    // Identifiers begin at 1.
    for (reference, why, reason) in [("1", Revocation::Retired, "key_deactivated"), ("2", Revocation::Compromised, "key_compromised")] {
        let key_id = stack.simulator_key().await;
        assert!(transferred(&stack, &key_id).await.is_ok());
        let reference = KeyRef::parse(reference).unwrap();
        kms.revoke(&reference, why).await.unwrap();
        assert_eq!(refusal(transferred(&stack, &key_id).await).1, reason);
        kms.destroy(&reference).await.unwrap();
        assert_eq!(refusal(transferred(&stack, &key_id).await), refused(Code::NotFound, "key_not_found"));
    }
}
