//! Keys: made, registered, adopted, taken over, listed, moved and deleted; and what is left when a step fails.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod harness;

use futures::future::{join, join_all};
use harness::{Stack, TD, admin, refusal, refused, verifier};
use keyferry_contract::{
    Reason,
    release::v1::{
        AuditDecision, CreateKeyRequest, DeleteKeyRequest, ExportKeyRequest, GetKeyRequest, GetKeyResponse, ImportKeyRequest, KeyAlgorithm,
        ListKeysRequest, UpdateKeyRequest,
    },
};
use keyferry_key_wrap::{ExportKeyPair, KeyMaterial, WrappedKey};
use keyferry_kms::{Curve, KeyRef, KeySpec, KeyState, Kms};
use prost_types::Timestamp;
use rcgen::KeyPair;
use serde_json::json;
use tonic::{Code, Status};

const UNKNOWN: &str = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10";

fn aes(length_bits: u32, policy_id: &str) -> CreateKeyRequest {
    CreateKeyRequest { algorithm: KeyAlgorithm::Aes.into(), length_bits, policy_id: policy_id.to_owned(), ..CreateKeyRequest::default() }
}
fn rsa(length_bits: u32) -> CreateKeyRequest {
    CreateKeyRequest { algorithm: KeyAlgorithm::Rsa.into(), length_bits, ..CreateKeyRequest::default() }
}
fn ec(curve: &str) -> CreateKeyRequest {
    CreateKeyRequest { algorithm: KeyAlgorithm::Ec.into(), curve: curve.to_owned(), ..CreateKeyRequest::default() }
}

/// What this file does with keys.
trait Keys {
    async fn create(&self, request: CreateKeyRequest) -> Result<String, Status>;
    async fn get(&self, id: &str) -> Result<GetKeyResponse, Status>;
    async fn list(&self, request: ListKeysRequest) -> Vec<String>;
    async fn delete(&self, id: &str) -> Result<(), Status>;
    async fn move_to(&self, id: &str, policy_id: &str) -> Result<GetKeyResponse, Status>;
    async fn import(&self, request: ImportKeyRequest) -> Result<(), Status>;
    /// The bytes that a TD gets.
    async fn transferred(&self, id: &str) -> Result<Vec<u8>, Status>;
    async fn lax_policy(&self) -> String;
    async fn in_kms(&self, byte: u8) -> KeyRef;
}

impl Keys for Stack {
    async fn create(&self, request: CreateKeyRequest) -> Result<String, Status> {
        Ok(self.administration().create_key(admin(request)).await?.into_inner().key_id)
    }
    async fn get(&self, id: &str) -> Result<GetKeyResponse, Status> {
        Ok(self.administration().get_key(admin(GetKeyRequest { key_id: id.to_owned() })).await?.into_inner())
    }
    async fn list(&self, mut request: ListKeysRequest) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let page = self.administration().list_keys(admin(request.clone())).await.unwrap().into_inner();
            assert!(request.page_size == 0 || page.keys.len() <= usize::try_from(request.page_size).unwrap());
            all.extend(page.keys.into_iter().map(|key| key.key_id));
            request.after = page.next;
            if request.after.is_empty() {
                return all;
            }
        }
    }
    async fn delete(&self, id: &str) -> Result<(), Status> {
        self.administration().delete_key(admin(DeleteKeyRequest { key_id: id.to_owned() })).await.map(drop)
    }
    async fn move_to(&self, id: &str, policy_id: &str) -> Result<GetKeyResponse, Status> {
        let request = UpdateKeyRequest { key_id: id.to_owned(), policy_id: policy_id.to_owned() };
        Ok(self.administration().update_key(admin(request)).await?.into_inner())
    }
    async fn import(&self, request: ImportKeyRequest) -> Result<(), Status> {
        self.administration().import_key(admin(request)).await.map(drop)
    }
    async fn transferred(&self, id: &str) -> Result<Vec<u8>, Status> {
        let released = self.transfer(id, &self.verifier.token(|_| {})).await?;
        Ok(TD.unwrap_key(&WrappedKey::from_parts(released.wrapped_key, released.wrapped_swk)).unwrap().expose().to_vec())
    }
    async fn lax_policy(&self) -> String {
        self.policy(json!({ "trust_anchor": verifier::ANCHOR })).await
    }
    async fn in_kms(&self, byte: u8) -> KeyRef {
        self.kms.inner.register(&KeySpec::aes(256).unwrap(), &KeyMaterial::new(vec![byte; 32]).unwrap()).await.unwrap()
    }
}

fn parsed_key(id: &str) -> KeyRef {
    KeyRef::parse(id).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_algorithm_are_made_and_reach_the_td() {
    let stack = Stack::start().await;
    let policy_id = stack.lax_policy().await;
    for (request, length_bits, curve) in
        [(aes(192, ""), 192, ""), (rsa(2048), 2048, ""), (ec("prime256v1"), 256, "secp256r1"), (ec("secp521r1"), 521, "secp521r1")]
    {
        let request = CreateKeyRequest { policy_id: policy_id.clone(), ..request };
        let algorithm = request.algorithm();
        let id = stack.create(request).await.unwrap();
        let key = stack.get(&id).await.unwrap();
        assert_eq!((key.algorithm(), key.length_bits, key.curve.as_str()), (algorithm, length_bits, curve));
        assert_eq!((key.kms_kind.as_str(), key.policy_id.as_str()), ("dev", policy_id.as_str()));
        let spec = match algorithm {
            KeyAlgorithm::Aes => KeySpec::aes(192).unwrap(),
            KeyAlgorithm::Rsa => KeySpec::rsa(2048).unwrap(),
            _ => KeySpec::ec(Curve::parse(curve).unwrap()),
        };
        let bytes = stack.transferred(&id).await.unwrap();
        spec.check_material(&KeyMaterial::new(bytes.clone()).unwrap()).unwrap();
        let stored = stack.kms.inner.fetch(&parsed_key(&key.kms_key_ref), &spec).await.unwrap();
        assert_eq!(bytes, stored.expose(), "the key, and not nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_an_administrator_brings_is_checked_and_stored() {
    let stack = Stack::start().await;
    let policy_id = stack.lax_policy().await;
    let bring = |request: CreateKeyRequest, key_data: &[u8]| CreateKeyRequest {
        key_data: key_data.to_vec(),
        policy_id: policy_id.clone(),
        ..request
    };
    let pair = KeyPair::generate().unwrap();
    let id = stack.create(bring(aes(256, ""), &[7; 32])).await.unwrap();
    assert_eq!(stack.transferred(&id).await.unwrap(), [7; 32]);
    for text in [pair.serialize_pem().into_bytes(), pair.serialize_der()] {
        let id = stack.create(bring(ec("secp256r1"), &text)).await.unwrap();
        assert_eq!(stack.transferred(&id).await.unwrap(), pair.serialize_der());
    }
    for wrong in [
        bring(aes(256, ""), &[7; 16]),
        bring(aes(128, ""), &[7; 32]),
        bring(rsa(2048), pair.serialize_pem().as_bytes()),
        bring(ec("secp384r1"), pair.serialize_pem().as_bytes()),
        bring(ec("secp256r1"), b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"),
        CreateKeyRequest { kms_key_ref: "7".to_owned(), ..bring(aes(256, ""), &[7; 32]) },
    ] {
        let status = stack.administration().create_key(admin(wrong)).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains("key_data"), "{status}");
    }
    let huge = stack.create(bring(rsa(2048), &vec![0; 17 * 1024])).await;
    assert_eq!(refusal(huge).1, "request_too_large");
    let all = stack.list(ListKeysRequest::default()).await;
    assert_eq!(all.len(), 3, "what was refused has no record");
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_and_curves_that_do_not_exist_are_refused() {
    let stack = Stack::start().await;
    for (request, names) in [
        (rsa(1024), "length_bits"),
        (rsa(0), "length_bits"),
        (ec(""), "curve"),
        (ec("secp256k1"), "curve"),
        (CreateKeyRequest { curve: "secp256r1".to_owned(), ..aes(256, "") }, "curve"),
        (CreateKeyRequest { algorithm: 99, ..aes(256, "") }, "algorithm"),
    ] {
        let status = stack.administration().create_key(admin(request)).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains(names), "{status}");
    }
    // What Intel's clients must send beside a curve means nothing.
    let id = stack.create(CreateKeyRequest { length_bits: 3072, ..ec("secp384r1") }).await.unwrap();
    assert_eq!(stack.get(&id).await.unwrap().length_bits, 384);
    assert!(stack.kms.made.lock().unwrap().len() == 1, "nothing was made for the others");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_by_what_they_are_in_pages() {
    let stack = Stack::start().await;
    let (one, two) = (stack.lax_policy().await, stack.lax_policy().await);
    let mut ids = join_all([aes(128, &one), aes(256, &one), aes(256, &two), aes(256, "")].map(|request| stack.create(request))).await;
    ids.push(stack.create(CreateKeyRequest { policy_id: one.clone(), ..ec("secp384r1") }).await);
    let ids: Vec<_> = ids.into_iter().map(Result::unwrap).collect();
    let any = ListKeysRequest::default;
    let aes_256 = ListKeysRequest { algorithm: KeyAlgorithm::Aes.into(), length_bits: 256, ..any() };
    let under = |policy: &str| ListKeysRequest { policy_id: policy.to_owned(), ..any() };
    for (request, wanted) in [
        (any(), vec![0, 1, 2, 3, 4]),
        (aes_256.clone(), vec![1, 2, 3]),
        (ListKeysRequest { policy_id: one.clone(), ..aes_256.clone() }, vec![1]),
        (ListKeysRequest { curve: "secp384r1".to_owned(), ..any() }, vec![4]),
        (under(&one), vec![0, 1, 4]),
        (under(&two), vec![2]),
        (under(UNKNOWN), vec![]),
    ] {
        let mut wanted: Vec<_> = wanted.into_iter().map(|index: usize| ids[index].clone()).collect();
        wanted.sort_unstable();
        for page_size in [0, 1, 2, 5, 100_000] {
            assert_eq!(stack.list(ListKeysRequest { page_size, ..request.clone() }).await, wanted, "{request:?}, {page_size} a page");
        }
    }
    stack.move_to(&ids[0], &two).await.unwrap();
    stack.delete(&ids[1]).await.unwrap();
    assert_eq!(stack.list(under(&one)).await, [ids[4].clone()]);
    let mut moved = vec![ids[0].clone(), ids[2].clone()];
    moved.sort_unstable();
    assert_eq!(stack.list(under(&two)).await, moved);
    let wrong = stack.administration().list_keys(admin(ListKeysRequest { after: "x".to_owned(), ..any() })).await;
    assert_eq!(refusal(wrong), refused(Code::InvalidArgument, "request_malformed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_put_under_another_policy() {
    let stack = Stack::start().await;
    let lax = stack.lax_policy().await;
    let id = stack.create(aes(256, "")).await.unwrap();
    assert!(stack.transferred(&id).await.is_err(), "without a policy no TD gets it");
    assert_eq!(refusal(stack.move_to(UNKNOWN, UNKNOWN).await), refused(Code::FailedPrecondition, "policy_not_found"), "looked at first");
    assert_eq!(refusal(stack.move_to(UNKNOWN, &lax).await), refused(Code::NotFound, "key_not_found"));
    let moved = stack.move_to(&id, &lax).await.unwrap();
    assert_eq!((moved.policy_id.as_str(), moved.kms_key_ref), (lax.as_str(), stack.get(&id).await.unwrap().kms_key_ref));
    assert!(stack.transferred(&id).await.is_ok());
    let changed = stack.audit().await.into_iter().find(|record| record.decision() == AuditDecision::KeyChanged).unwrap();
    assert_eq!((changed.key_id, changed.policy_id, changed.detail.as_str()), (id.clone(), lax.clone(), "was under no policy"));
    let strict = stack.policy(json!({ "mrtd": ["99".repeat(48)] })).await;
    stack.move_to(&id, &strict).await.unwrap();
    assert!(stack.transferred(&id).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_is_gone_from_the_kms_and_an_adopted_one_stays_there() {
    let stack = Stack::start().await;
    let lax = stack.lax_policy().await;
    let id = stack.create(aes(256, &lax)).await.unwrap();
    let reference = parsed_key(&stack.get(&id).await.unwrap().kms_key_ref);
    stack.delete(&id).await.unwrap();
    assert_eq!(stack.kms.state_of(&reference).await, Some(KeyState::Destroyed));
    assert_eq!(refusal(stack.get(&id).await), refused(Code::NotFound, "key_not_found"));
    assert_eq!(refusal(stack.transferred(&id).await), refused(Code::NotFound, "key_not_found"));
    assert_eq!(refusal(stack.delete(&id).await), refused(Code::NotFound, "key_not_found"));
    let records = stack.audit().await;
    let deleted = records.iter().find(|record| record.decision() == AuditDecision::KeyDeleted).unwrap();
    assert_eq!((deleted.key_id.as_str(), deleted.detail.as_str()), (id.as_str(), "destroyed in the KMS"));

    let theirs = stack.in_kms(1).await;
    let id = stack.create(CreateKeyRequest { kms_key_ref: theirs.as_str().to_owned(), ..aes(256, "") }).await.unwrap();
    stack.delete(&id).await.unwrap();
    assert_eq!(stack.kms.state_of(&theirs).await, Some(KeyState::Active), "it was there before the broker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kms_that_does_not_destroy_keeps_the_record_and_one_that_did_before_a_crash_does_not() {
    let stack = Stack::start().await;
    let lax = stack.lax_policy().await;
    let id = stack.create(aes(256, &lax)).await.unwrap();
    stack.kms.go_down();
    assert_eq!(refusal(stack.delete(&id).await).1, "kms_unreachable");
    let last = stack.audit().await.pop().unwrap();
    assert_eq!((last.decision(), last.reason(), last.key_id), (AuditDecision::Denied, Reason::KmsUnreachable, id.clone()));
    stack.kms.recover();
    assert!(stack.transferred(&id).await.is_ok(), "it is as it was");

    // The process died between the KMS and the record: the same call once more ends it.
    let reference = parsed_key(&stack.get(&id).await.unwrap().kms_key_ref);
    stack.kms.inner.destroy(&reference).await.unwrap();
    assert_eq!(refusal(stack.transferred(&id).await).1, "key_destroyed");
    stack.delete(&id).await.unwrap();
    assert!(stack.list(ListKeysRequest::default()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_a_stored_record_does_not_stay_in_the_kms() {
    let stack = Stack::start().await;
    let operator = stack.nats.connect(keyferry_bus::Role::Admin).await.unwrap();
    operator.jetstream().delete_stream("AUDIT").await.unwrap();
    assert_eq!(refusal(stack.create(aes(256, "")).await), refused(Code::Unavailable, "audit_unavailable"));
    let made = stack.kms.made.lock().unwrap().clone();
    assert_eq!(stack.kms.state_of(&made[0]).await, Some(KeyState::Destroyed));
    let nothing = stack.administration().list_keys(admin(ListKeysRequest::default())).await.unwrap().into_inner();
    assert!(nothing.keys.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_taken_over_under_its_id() {
    let stack = Stack::start().await;
    let lax = stack.lax_policy().await;
    let reference = stack.in_kms(9).await;
    let import = |length_bits, policy_id: &str, kms_key_ref: &str| ImportKeyRequest {
        key_id: UNKNOWN.to_owned(),
        algorithm: KeyAlgorithm::Aes.into(),
        length_bits,
        curve: String::new(),
        policy_id: policy_id.to_owned(),
        kms_key_ref: kms_key_ref.to_owned(),
        created_at: Some(Timestamp { seconds: 1_600_000_000, nanos: 7 }),
    };
    assert_eq!(refusal(stack.import(import(256, UNKNOWN, reference.as_str())).await).1, "policy_not_found");
    assert_eq!(refusal(stack.import(import(128, &lax, reference.as_str())).await).1, "key_mismatch");
    assert_eq!(refusal(stack.import(import(256, &lax, UNKNOWN)).await).1, "key_not_found");
    for _ in 0..2 {
        stack.import(import(256, &lax, reference.as_str())).await.unwrap();
    }
    let key = stack.get(UNKNOWN).await.unwrap();
    assert_eq!((key.created_at, key.policy_id), (Some(Timestamp { seconds: 1_600_000_000, nanos: 7 }), lax.clone()));
    assert_eq!(stack.transferred(UNKNOWN).await.unwrap(), [9; 32]);
    let other = stack.in_kms(10).await;
    for different in [import(256, "", reference.as_str()), import(256, &lax, other.as_str())] {
        assert_eq!(refusal(stack.import(different).await), refused(Code::AlreadyExists, "already_exists"));
    }
    let created = stack.audit().await.into_iter().filter(|record| record.decision() == AuditDecision::KeyCreated).count();
    assert_eq!(created, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_replicas_that_take_over_one_id_one_wins() {
    let stack = Stack::start().await;
    let mut replica = stack.administration_elsewhere().await;
    let (left, right) = (stack.in_kms(1).await, stack.in_kms(2).await);
    let import = |kms: &KeyRef| ImportKeyRequest {
        key_id: UNKNOWN.to_owned(),
        algorithm: KeyAlgorithm::Aes.into(),
        length_bits: 256,
        kms_key_ref: kms.as_str().to_owned(),
        ..ImportKeyRequest::default()
    };
    let (here, there) = join(stack.import(import(&left)), replica.import_key(admin(import(&right)))).await;
    assert!(here.is_ok() != there.is_ok());
    let kept = stack.get(UNKNOWN).await.unwrap().kms_key_ref;
    assert_eq!(kept, if here.is_ok() { left.as_str() } else { right.as_str() });
    let lost = here.err().or(there.err()).unwrap();
    assert_eq!(refusal(Err::<(), _>(lost)), refused(Code::AlreadyExists, "already_exists"));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_make_move_and_delete_keys_at_the_same_time() {
    let stack = Stack::start().await;
    let mut replica = stack.administration_elsewhere().await;
    let (one, two) = (stack.lax_policy().await, stack.lax_policy().await);
    let here = join_all((0..8).map(|_| stack.create(aes(256, &one))));
    let clients = vec![replica.clone(); 8];
    let there = join_all(clients.into_iter().map(|mut client| {
        let request = aes(256, &two);
        async move { client.create_key(admin(request)).await.map(|made| made.into_inner().key_id) }
    }));
    let (here, there) = join(here, there).await;
    let mut ids: Vec<_> = here.into_iter().chain(there).map(Result::unwrap).collect();
    ids.sort_unstable();
    assert_eq!(stack.list(ListKeysRequest::default()).await, ids, "each is there once");

    for id in &ids {
        let request = UpdateKeyRequest { key_id: id.clone(), policy_id: two.clone() };
        let (moved, deleted) = join(replica.update_key(admin(request)), stack.delete(id)).await;
        deleted.unwrap();
        if let Err(status) = moved {
            assert_eq!(refusal(Err::<(), _>(status)).1, "key_not_found");
        }
    }
    assert!(stack.list(ListKeysRequest::default()).await.is_empty());
    // What a move lost leaves behind does not hold a policy.
    for policy_id in [one, two] {
        let request = keyferry_contract::release::v1::DeletePolicyRequest { policy_id };
        stack.administration().delete_policy(admin(request)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_rsa_key_is_too_long_to_export() {
    let stack = Stack::start().await;
    let key_id = stack.create(rsa(2048)).await.unwrap();
    let pair = ExportKeyPair::generate(2048).unwrap();
    let request = ExportKeyRequest { key_id, public_key_pem: pair.public_pem() };
    assert_eq!(refusal(stack.administration().export_key(admin(request)).await), refused(Code::InvalidArgument, "request_malformed"));
}
