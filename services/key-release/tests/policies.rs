//! Policies: versions, history, and what a crash, another replica or somebody on the bus can do to them.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod harness;

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use futures::future::{join, join_all};
use harness::{Stack, admin, refusal, refused, verifier};
use keyferry_bus::{Bucket, Role};
use keyferry_contract::{
    Reason,
    release::v1::{
        AuditDecision, CreateKeyRequest, CreatePolicyRequest, DeletePolicyRequest, ExplainPolicyRequest, GetPolicyRequest,
        GetPolicyResponse, ImportPolicyRequest, KeyAlgorithm, ListKeysRequest, ListPoliciesRequest, ListPolicyVersionsRequest,
        PolicyChanged, PolicyVersion, RollbackPolicyRequest, UpdateKeyRequest, UpdatePolicyRequest,
    },
};
use keyferry_sealed_store::SealedStore;
use prost::Message;
use prost_types::Timestamp;
use serde_json::{Value, json};
use tonic::{Code, Status};

const UNKNOWN: &str = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10";

/// Documents that differ, each in order.
fn document(number: usize) -> String {
    json!({ "attestation_type": "TDX", "tdx": { "attributes": { "mrtd": [format!("{number:096x}")] } } }).to_string()
}

/// What this file does with policies.
trait Policies {
    async fn create(&self, number: usize) -> String;
    async fn update(&self, id: &str, number: usize, replaces: u32) -> Result<u32, Status>;
    async fn get(&self, id: &str, version: u32) -> Result<GetPolicyResponse, Status>;
    async fn versions(&self, id: &str) -> Result<Vec<PolicyVersion>, Status>;
    async fn delete(&self, id: &str) -> Result<(), Status>;
    async fn move_to(&self, key_id: &str, id: &str) -> Result<(), Status>;
}

impl Policies for Stack {
    async fn create(&self, number: usize) -> String {
        let request = CreatePolicyRequest { document: document(number) };
        self.administration().create_policy(admin(request)).await.unwrap().into_inner().policy_id
    }
    async fn update(&self, id: &str, number: usize, replaces: u32) -> Result<u32, Status> {
        let request = UpdatePolicyRequest { policy_id: id.to_owned(), document: document(number), replaces };
        Ok(self.administration().update_policy(admin(request)).await?.into_inner().version)
    }
    async fn get(&self, id: &str, version: u32) -> Result<GetPolicyResponse, Status> {
        let request = GetPolicyRequest { policy_id: id.to_owned(), version };
        Ok(self.administration().get_policy(admin(request)).await?.into_inner())
    }
    async fn versions(&self, id: &str) -> Result<Vec<PolicyVersion>, Status> {
        let request = ListPolicyVersionsRequest { policy_id: id.to_owned() };
        Ok(self.administration().list_policy_versions(admin(request)).await?.into_inner().versions)
    }
    async fn delete(&self, id: &str) -> Result<(), Status> {
        let request = DeletePolicyRequest { policy_id: id.to_owned() };
        self.administration().delete_policy(admin(request)).await.map(drop)
    }
    async fn move_to(&self, key_id: &str, id: &str) -> Result<(), Status> {
        let request = UpdateKeyRequest { key_id: key_id.to_owned(), policy_id: id.to_owned() };
        self.administration().update_key(admin(request)).await.map(drop)
    }
}

/// What a process that died half-way left behind: written with the broker's own store key.
async fn sealed(stack: &Stack, bucket: Bucket) -> SealedStore {
    SealedStore::open(&stack.nats.connect(Role::KeyRelease).await.unwrap(), bucket, Arc::clone(&stack.store_key))
}

async fn edit(store: &SealedStore, name: &str, change: impl FnOnce(&mut Value)) {
    let record = store.read(name).await.unwrap().unwrap();
    let mut value = serde_json::from_slice(&record.value).unwrap();
    change(&mut value);
    store.update(name, value.to_string().as_bytes(), record.revision).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_a_version_and_no_version_is_lost() {
    let stack = Stack::start().await;
    let id = stack.create(1).await;
    assert_eq!(stack.update(&id, 2, 1).await.unwrap(), 2);
    assert_eq!(refusal(stack.update(&id, 9, 1).await), refused(Code::Aborted, "conflict"), "it was made from an older version");
    assert_eq!(stack.update(&id, 3, 0).await.unwrap(), 3);
    let rollback = RollbackPolicyRequest { policy_id: id.clone(), version: 1 };
    assert_eq!(stack.administration().rollback_policy(admin(rollback)).await.unwrap().into_inner().version, 4);

    for (version, number) in [(0, 1), (1, 1), (2, 2), (3, 3), (4, 1)] {
        assert_eq!(stack.get(&id, version).await.unwrap().document, document(number), "version {version}");
    }
    let current = stack.get(&id, 0).await.unwrap();
    assert_eq!((current.version, current.policy_id, current.actor), (4, id.clone(), "admin".to_owned()));
    assert_eq!(refusal(stack.get(&id, 5).await), refused(Code::FailedPrecondition, "policy_not_found"));

    let versions = stack.versions(&id).await.unwrap();
    let seen: Vec<_> = versions.iter().map(|version| (version.version, version.rolled_back_to)).collect();
    assert_eq!(seen, [(4, 1), (3, 0), (2, 0), (1, 0)]);
    assert_eq!(versions[0].document_digest, hex::encode(digest(&SHA256, document(1).as_bytes())));
    assert!(versions.iter().all(|version| version.actor == "admin" && version.created_at.is_some()));

    let records = stack.audit().await;
    let changes: Vec<_> = records.iter().filter(|record| record.decision() == AuditDecision::PolicyChanged).collect();
    assert_eq!(changes.iter().map(|record| record.policy_version).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(changes.iter().all(|record| record.policy_id == id && record.actor == "admin" && !record.trust_anchor.is_empty()));
    stack.release.finish().await;
    let events = stack.messages("EVENTS").await.into_iter().map(|body| PolicyChanged::decode(body.as_slice()).unwrap());
    let mut told: Vec<_> = events.map(|event| (event.policy_id, event.version)).collect();
    told.sort_unstable();
    assert_eq!(told, [1, 2, 3, 4].map(|version| (id.clone(), version)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_policy_changes_nothing() {
    let stack = Stack::start().await;
    let id = stack.create(1).await;
    let wrong = UpdatePolicyRequest { policy_id: id.clone(), document: "{}".to_owned(), replaces: 0 };
    assert_eq!(refusal(stack.administration().update_policy(admin(wrong)).await), refused(Code::InvalidArgument, "request_malformed"));
    assert_eq!(refusal(stack.update(UNKNOWN, 2, 0).await), refused(Code::FailedPrecondition, "policy_not_found"));
    let rollback = RollbackPolicyRequest { policy_id: id.clone(), version: 7 };
    assert_eq!(
        refusal(stack.administration().rollback_policy(admin(rollback)).await),
        refused(Code::FailedPrecondition, "policy_not_found")
    );
    // Quotes count twice in a record: over the bound of a record it is refused, not half stored.
    let padding = "\"".repeat(2).repeat(30_000);
    let padded = format!(r#"{{"attestation_type":"TDX","tdx":{{"attributes":{{"mrtd":[{}]}}}}}}"#, padding.replace("\"\"", "\"\","));
    let wrong = UpdatePolicyRequest { policy_id: id.clone(), document: padded, replaces: 0 };
    assert_eq!(refusal(stack.administration().update_policy(admin(wrong)).await).0, Code::InvalidArgument);
    assert_eq!(stack.versions(&id).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_counts_at_once_and_so_does_a_rollback() {
    let stack = Stack::start().await;
    let lax = stack.policy(json!({ "trust_anchor": verifier::ANCHOR })).await;
    let key_id = stack.key(&lax).await;
    let token = stack.verifier.token(|_| {});
    assert!(stack.transfer(&key_id, &token).await.is_ok());
    stack.update(&lax, 1, 1).await.unwrap();
    assert!(stack.transfer(&key_id, &token).await.is_err());
    let rollback = RollbackPolicyRequest { policy_id: lax.clone(), version: 1 };
    stack.administration().rollback_policy(admin(rollback)).await.unwrap();
    assert!(stack.transfer(&key_id, &token).await.is_ok());
    let last = stack.audit().await.pop().unwrap();
    assert_eq!((last.decision(), last.policy_id, last.policy_version), (AuditDecision::Released, lax, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_a_key_is_under_stays() {
    let stack = Stack::start().await;
    let (used, other) = (stack.policy(json!({ "trust_anchor": verifier::ANCHOR })).await, stack.create(2).await);
    let key_id = stack.key(&used).await;
    assert_eq!(refusal(stack.delete(&used).await), refused(Code::FailedPrecondition, "policy_in_use"));
    assert!(stack.transfer(&key_id, &stack.verifier.token(|_| {})).await.is_ok(), "a deletion that failed left it as it was");
    assert!(stack.audit().await.iter().all(|record| record.decision() != AuditDecision::PolicyDeleted));

    stack.move_to(&key_id, &other).await.unwrap();
    stack.delete(&used).await.unwrap();
    let gone = refused(Code::FailedPrecondition, "policy_not_found");
    assert_eq!(refusal(stack.get(&used, 0).await), gone);
    assert_eq!(refusal(stack.get(&used, 1).await), gone);
    assert_eq!(refusal(stack.versions(&used).await), gone);
    assert_eq!(refusal(stack.update(&used, 3, 0).await), gone);
    assert_eq!(refusal(stack.delete(&used).await), gone);
    assert_eq!(refusal(stack.move_to(&key_id, &used).await), gone);
    let listed = stack.administration().list_policies(admin(ListPoliciesRequest::default())).await.unwrap().into_inner();
    assert_eq!(listed.policies.into_iter().map(|policy| policy.policy_id).collect::<Vec<_>>(), std::slice::from_ref(&other));
    assert_eq!(refusal(stack.delete(&other).await), refused(Code::FailedPrecondition, "policy_in_use"));
    let deleted: Vec<_> = stack.audit().await.into_iter().filter(|record| record.decision() == AuditDecision::PolicyDeleted).collect();
    assert_eq!(deleted.iter().map(|record| (record.policy_id.as_str(), record.policy_version)).collect::<Vec<_>>(), [(used.as_str(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_leaves_half_done_blocks_nothing() {
    let stack = Stack::start().await;
    let (policies, keys) = (sealed(&stack, Bucket::Policies).await, sealed(&stack, Bucket::Keys).await);

    // Copied to the history, and not replaced: the next change goes on, and the version is there once.
    let id = stack.create(1).await;
    let copy = policies.read(&id).await.unwrap().unwrap();
    policies.create(&format!("{id}.v1"), &copy.value).await.unwrap();
    assert_eq!(stack.update(&id, 2, 1).await.unwrap(), 2);
    assert_eq!(stack.versions(&id).await.unwrap().iter().map(|version| version.version).collect::<Vec<_>>(), [2, 1]);

    // Marked as leaving: it governs, can be read, changed, given to a key, and deleted.
    let marked = stack.policy(json!({ "trust_anchor": verifier::ANCHOR })).await;
    let leave = |value: &mut Value| value["standing"] = json!("leaving");
    let under = stack.key(&marked).await;
    edit(&policies, &marked, leave).await;
    assert!(stack.transfer(&under, &stack.verifier.token(|_| {})).await.is_ok());
    assert_eq!(stack.get(&marked, 0).await.unwrap().version, 1);
    let second = stack.key(&marked).await;
    assert_eq!(refusal(stack.delete(&marked).await), refused(Code::FailedPrecondition, "policy_in_use"));
    edit(&policies, &marked, leave).await;
    assert_eq!(stack.update(&marked, 3, 1).await.unwrap(), 2);
    for key in [&under, &second] {
        stack.move_to(key, &id).await.unwrap();
    }
    edit(&policies, &marked, leave).await;
    stack.delete(&marked).await.unwrap();

    // A reference whose key was never written.
    let referred = stack.create(4).await;
    keys.create(&format!("uses.{referred}.{UNKNOWN}"), b"{}").await.unwrap();
    stack.delete(&referred).await.unwrap();

    // A key whose policy was deleted at the same moment: no TD gets it, and it can be put under another one.
    let lost = stack.key(&id).await;
    edit(&keys, &lost, |value| value["policy_id"] = json!(referred)).await;
    assert_eq!(refusal(stack.transfer(&lost, &stack.verifier.token(|_| {})).await), refused(Code::FailedPrecondition, "policy_not_found"));
    stack.move_to(&lost, &id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_were_stored_before_there_were_references_count() {
    let stack = Stack::start().await;
    let keys = sealed(&stack, Bucket::Keys).await;
    let id = stack.create(1).await;
    let key_id = stack.key(&id).await;
    let reference = format!("uses.{id}.{key_id}");
    keys.delete(&reference, keys.read(&reference).await.unwrap().unwrap().revision).await.unwrap();
    assert_eq!(refusal(stack.delete(&id).await), refused(Code::FailedPrecondition, "policy_in_use"));
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_listed_in_pages() {
    let stack = Stack::start().await;
    let mut made = join_all((0..5).map(|number| stack.create(number))).await;
    made.sort_unstable();
    let (mut after, mut seen) = (String::new(), Vec::new());
    loop {
        let request = ListPoliciesRequest { after, page_size: 2 };
        let page = stack.administration().list_policies(admin(request)).await.unwrap().into_inner();
        assert!(page.policies.len() <= 2);
        seen.extend(page.policies.into_iter().map(|policy| policy.policy_id));
        after = page.next;
        if after.is_empty() {
            break;
        }
    }
    assert_eq!(seen, made);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_none_hides_no_other() {
    let stack = Stack::start().await;
    let (one, two) = (stack.create(1).await, stack.create(2).await);
    let (first, second) = (stack.key(&one).await, stack.key(&two).await);
    let owner = stack.nats.connect(Role::Admin).await.unwrap();
    for (bucket, broken) in [(Bucket::Policies, &one), (Bucket::Keys, &first)] {
        let bucket = owner.bucket(bucket);
        bucket.create("stray", "{}".into()).await.unwrap();
        bucket.create(UNKNOWN, "no record".into()).await.unwrap();
        let revision = bucket.read(broken).await.unwrap().unwrap().revision;
        bucket.update(broken, "{".into(), revision).await.unwrap();
    }
    let policies = stack.administration().list_policies(admin(ListPoliciesRequest::default())).await.unwrap().into_inner();
    assert_eq!(policies.policies.into_iter().map(|policy| policy.policy_id).collect::<Vec<_>>(), [two]);
    let keys = stack.administration().list_keys(admin(ListKeysRequest::default())).await.unwrap().into_inner();
    assert_eq!(keys.keys.into_iter().map(|key| key.key_id).collect::<Vec<_>>(), [second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_taken_over_under_its_id() {
    let stack = Stack::start().await;
    let import = |number, seconds| ImportPolicyRequest {
        policy_id: UNKNOWN.to_owned(),
        document: document(number),
        created_at: Some(Timestamp { seconds, nanos: 123_456_789 }),
    };
    for _ in 0..2 {
        stack.administration().import_policy(admin(import(1, 1_700_000_000))).await.unwrap();
    }
    let other = stack.administration().import_policy(admin(import(2, 1_700_000_000))).await;
    assert_eq!(refusal(other), refused(Code::AlreadyExists, "already_exists"));
    let policy = stack.get(UNKNOWN, 0).await.unwrap();
    assert_eq!((policy.version, policy.document), (1, document(1)));
    assert_eq!(policy.created_at, Some(Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 }));
    assert_eq!(stack.audit().await.iter().filter(|record| record.detail == "imported").count(), 1);

    // After a deletion the numbers go on: in the audit, a version means one document for ever.
    stack.delete(UNKNOWN).await.unwrap();
    stack.administration().import_policy(admin(import(2, 1_700_000_001))).await.unwrap();
    assert_eq!(stack.get(UNKNOWN, 0).await.unwrap().version, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_change_one_policy_at_the_same_time_lose_nothing() {
    const CHANGES: usize = 8;
    let stack = Stack::start().await;
    let id = stack.create(0).await;
    let replica = stack.administration_elsewhere().await;
    let change = |client: &keyferry_contract::release::v1::key_administration_client::KeyAdministrationClient<_>, number| {
        let mut client = client.clone();
        let request = UpdatePolicyRequest { policy_id: id.clone(), document: document(number), replaces: 0 };
        async move { client.update_policy(admin(request)).await.map(|response| (response.into_inner().version, number)) }
    };
    let here = stack.administration();
    let (left, right) = join(
        join_all((1..=CHANGES).map(|number| change(&here, number))),
        join_all((CHANGES + 1..=2 * CHANGES).map(|number| change(&replica, number))),
    )
    .await;
    let mut accepted = vec![(1, 0)];
    for result in left.into_iter().chain(right) {
        match result {
            Ok(version) => accepted.push(version),
            refused => assert_eq!(refusal(refused).1, "conflict"),
        }
    }
    assert!(accepted.len() > 2);
    accepted.sort_unstable();
    let versions = stack.versions(&id).await.unwrap();
    let history: Vec<_> = versions.into_iter().rev().map(|version| (version.version, version.document_digest)).collect();
    let wanted = accepted.into_iter().map(|(version, number)| (version, hex::encode(digest(&SHA256, document(number).as_bytes()))));
    assert_eq!(history, wanted.collect::<Vec<_>>(), "every accepted version once, and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_changes_that_name_the_same_version_one_wins() {
    let stack = Stack::start().await;
    let id = stack.create(0).await;
    let mut replica = stack.administration_elsewhere().await;
    let request = UpdatePolicyRequest { policy_id: id.clone(), document: document(2), replaces: 1 };
    let (left, right) = join(stack.update(&id, 1, 1), replica.update_policy(admin(request))).await;
    assert!(left.is_ok() != right.is_ok());
    let lost = left.err().or(right.err()).unwrap();
    assert_eq!(refusal(Err::<(), _>(lost)), refused(Code::Aborted, "conflict"));
    assert_eq!(stack.versions(&id).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_comes_under_a_policy_that_another_replica_deletes() {
    let stack = Stack::start().await;
    let mut replica = stack.administration_elsewhere().await;
    for number in 0..12 {
        let id = stack.create(number).await;
        let other = stack.create(number + 100).await;
        let moved = stack.key(&other).await;
        let request = CreateKeyRequest {
            algorithm: KeyAlgorithm::Aes.into(),
            length_bits: 256,
            policy_id: id.clone(),
            ..CreateKeyRequest::default()
        };
        let delete = replica.delete_policy(admin(DeletePolicyRequest { policy_id: id.clone() }));
        let mut administration = stack.administration();
        let (created, deleted) = if number % 2 == 0 {
            let (created, deleted) = join(administration.create_key(admin(request)), delete).await;
            (created.map(|created| created.into_inner().key_id), deleted)
        } else {
            let (created, deleted) = join(stack.move_to(&moved, &id), delete).await;
            (created.map(|()| moved.clone()), deleted)
        };
        match (created, deleted) {
            (Ok(_), Err(refused)) => {
                assert!(["policy_in_use", "conflict"].contains(&refusal(Err::<(), _>(refused)).1.as_str()));
                assert_eq!(refusal(stack.delete(&id).await).1, "policy_in_use");
            }
            (Err(refused), Ok(_)) => {
                assert_eq!(refusal(Err::<(), _>(refused)).1, "policy_not_found");
                let request = ListKeysRequest { policy_id: id.clone(), ..ListKeysRequest::default() };
                assert!(stack.administration().list_keys(admin(request)).await.unwrap().into_inner().keys.is_empty());
            }
            both => assert!(both.0.is_err() && both.1.is_err(), "round {number}: a key is under a policy that is gone: {both:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_deleted_while_a_key_is_made_takes_the_key_back() {
    let stack = Stack::start().await;
    let id = stack.create(1).await;
    let request =
        CreateKeyRequest { algorithm: KeyAlgorithm::Aes.into(), length_bits: 256, policy_id: id.clone(), ..CreateKeyRequest::default() };
    let gate = stack.kms.gate.lock().await;
    let mut administration = stack.administration();
    let call = tokio::spawn(async move { administration.create_key(admin(request)).await });
    stack.kms.fetching.notified().await;
    stack.delete(&id).await.unwrap();
    drop(gate);
    assert_eq!(refusal(call.await.unwrap()), refused(Code::FailedPrecondition, "policy_not_found"));
    let made = stack.kms.made.lock().unwrap().clone();
    assert_eq!(stack.kms.state_of(&made[0]).await, Some(keyferry_kms::KeyState::Destroyed));
    let keys = stack.administration().list_keys(admin(ListKeysRequest::default())).await.unwrap().into_inner();
    assert!(keys.keys.is_empty());
    // The audit says that it was about to be made, and that it was not.
    let last = stack.audit().await.pop().unwrap();
    assert_eq!((last.decision(), last.reason()), (AuditDecision::Denied, Reason::PolicyNotFound));
    assert!(last.detail.starts_with("not done"), "{}", last.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_or_another_policys_does_not_open_in_a_new_place() {
    let stack = Stack::start().await;
    let (id, other) = (stack.create(1).await, stack.create(11).await);
    let policies = stack.nats.connect(Role::Admin).await.unwrap().bucket(Bucket::Policies);
    let old = policies.read(&id).await.unwrap().unwrap().value;
    for (policy, number) in [(&id, 2), (&other, 12)] {
        stack.update(policy, number, 1).await.unwrap();
    }
    let archived = |policy: &str| format!("{policy}.v1");
    let foreign = policies.read(&archived(&other)).await.unwrap().unwrap().value;
    let own = policies.read(&archived(&id)).await.unwrap().unwrap().value;
    for (name, forged, version) in
        [(id.clone(), old.clone(), 0), (id.clone(), own, 0), (archived(&id), foreign, 1), (archived(&id), old, 1)]
    {
        let before = policies.read(&name).await.unwrap().unwrap();
        let revision = policies.update(&name, forged, before.revision).await.unwrap();
        assert_eq!(refusal(stack.get(&id, version).await), refused(Code::Unavailable, "store_unavailable"), "{name}");
        assert!(stack.update(&id, 3, 0).await.is_err() || version == 1, "nothing is built upon it");
        let _ = revision;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_explained_against_a_stored_policy_an_old_version_and_a_draft() {
    let stack = Stack::start().await;
    let id = stack.policy(json!({ "trust_anchor": verifier::ANCHOR })).await;
    let key_id = stack.key(&id).await;
    stack.update(&id, 1, 1).await.unwrap();
    let token = stack.verifier.token(|_| {});
    let explain = |key_id: &str, policy_id: &str, policy_version, document: &str| ExplainPolicyRequest {
        token: token.clone(),
        key_id: key_id.to_owned(),
        policy_id: policy_id.to_owned(),
        policy_version,
        document: document.to_owned(),
    };
    let draft = json!({ "attestation_type": "TDX", "tdx": { "attributes": { "trust_anchor": verifier::ANCHOR } } }).to_string();
    for (request, permitted, named) in [
        (explain(&key_id, "", 0, ""), false, (id.clone(), 2)),
        (explain("", &id, 0, ""), false, (id.clone(), 2)),
        (explain("", &id, 1, ""), true, (id.clone(), 1)),
        (explain("", "", 0, &draft), true, (String::new(), 0)),
        (explain("", "", 0, &document(1)), false, (String::new(), 0)),
    ] {
        let explained = stack.broker().explain_policy(admin(request)).await.unwrap().into_inner();
        assert_eq!((explained.permitted, (explained.policy_id, explained.policy_version)), (permitted, named));
        assert_eq!(explained.claims.iter().all(|claim| claim.matched), permitted);
    }
    for request in [explain("", "", 0, ""), explain(&key_id, &id, 0, ""), explain(&key_id, "", 0, &draft), explain("", &id, 1, &draft)] {
        assert_eq!(refusal(stack.broker().explain_policy(admin(request)).await), refused(Code::InvalidArgument, "request_malformed"));
    }
    let unknown = stack.broker().explain_policy(admin(explain("", &id, 9, ""))).await;
    assert_eq!(refusal(unknown), refused(Code::FailedPrecondition, "policy_not_found"));
}
