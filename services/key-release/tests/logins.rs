//! Getting in: tokens, lockout, what an attempt costs, imported hashes, and that whoever is out is out at once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper of a test fails the test")]

mod harness;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use harness::{PASSWORD, Stack, admin, basic, caller, refusal, refused, with_credential};
use key_release::{
    Denial,
    users::{Caller, HashesMade, NewUser, UserChange, Users},
};
use keyferry_bus::{Bucket, Role};
use keyferry_contract::{
    Reason,
    release::v1::{AuditDecision, GetUserRequest, ImportUserRequest, ListUsersRequest, ReplaceTokenSigningKeyRequest},
};
use keyferry_lifecycle::clock;
use keyferry_sealed_store::SealedStore;
use prost_types::Timestamp;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA384, RsaKeySize};
use serde_json::{Value, json};
use tonic::Code;
use zeroize::Zeroizing;

/// `imported password`, as Intel's KBS stores it after base64; made with Python's bcrypt.
const IMPORTED: &str = "$2a$10$pXlfp7zN1VwIRnbF0ouk2OPASDacOEhGESjO/BjRzrqxFeoGCUnVu";
const IMPORTED_PASSWORD: &str = "imported password";
const IMPORTED_ID: &str = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10";

fn secret(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

fn bearer(token: &str) -> Caller {
    Caller { authorization: Some(format!("Bearer {token}")), address: Some([192, 0, 2, 9].into()) }
}

async fn login(users: &Users, name: &str, password: &str) -> Result<String, Denial> {
    users.login(name, &secret(password), Some([192, 0, 2, 9].into())).await
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn import() -> ImportUserRequest {
    ImportUserRequest {
        user_id: IMPORTED_ID.to_owned(),
        username: "imported".to_owned(),
        bcrypt_hash: IMPORTED.to_owned(),
        permissions: vec!["users:search".to_owned()],
        created_at: Some(Timestamp { seconds: 1_700_000_000, nanos: 5 }),
        updated_at: None,
    }
}

impl Stack {
    async fn user(&self, name: &str, permissions: &[&str]) -> key_release::users::User {
        let permissions = permissions.iter().map(|text| (*text).to_owned()).collect();
        let new = NewUser { username: name.to_owned(), password: secret("some password"), permissions };
        self.users.create(&self.admin().await, new).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_looks_like_intels_and_is_a_credential() {
    let stack = Stack::start().await;
    let before = clock::now();
    let token = login(&stack.users, "admin", PASSWORD).await.unwrap();
    let (header, claims) = (part(&token, 0), part(&token, 1));
    assert_eq!((header["alg"].as_str(), header["typ"].as_str()), (Some("PS384"), Some("JWT")));
    let members: Vec<_> = claims.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["Extensions", "Groups", "ID", "Name", "aud", "exp", "iat", "nbf", "scope", "sub"]);
    assert_eq!((&claims["Extensions"], &claims["Groups"], &claims["aud"]), (&Value::Null, &Value::Null, &json!([""])));
    assert_eq!((&claims["Name"], &claims["ID"]), (&json!("admin"), &claims["sub"]));
    let (issued, ends) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
    assert!((before - 60..=clock::now() - 60).contains(&issued) && claims["nbf"] == claims["iat"] && ends == issued + 300);
    assert_eq!(claims["scope"].as_array().unwrap().len(), 13);
    assert!(claims["scope"].as_array().unwrap().contains(&json!("key_transfer_policies:create")));

    let request = with_credential(ListUsersRequest::default(), &format!("Bearer {token}"));
    assert_eq!(stack.user_administration().list_users(request).await.unwrap().into_inner().users.len(), 1);
    let replica = stack.replica().await;
    assert_eq!(replica.authenticate(&bearer(&token)).await.unwrap().name(), "admin", "every replica has the key");
    let record = stack.audit().await.pop().unwrap();
    assert_eq!((record.decision(), record.actor.as_str()), (AuditDecision::LoggedIn, "admin"));
    assert_eq!((record.client_address.as_str(), record.user_id.as_str()), ("192.0.2.9", claims["sub"].as_str().unwrap()));
    let token = login(&stack.users, "admin", "wrong password").await;
    assert!(matches!(token, Err(Denial::Unauthenticated)));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_audit_no_login() {
    let stack = Stack::start().await;
    let owner = stack.nats.connect(Role::Admin).await.unwrap();
    owner.jetstream().delete_stream("AUDIT").await.unwrap();
    assert_eq!(login(&stack.users, "admin", PASSWORD).await.unwrap_err().reason(), Reason::AuditUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_token_is_no_credential() {
    let stack = Stack::start().await;
    let token = login(&stack.users, "admin", PASSWORD).await.unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let text = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = |alg: &str| text(&json!({ "alg": alg, "kid": part(&token, 0)["kid"], "typ": "JWT" }));
    let mut claims = part(&token, 1);
    claims["exp"] = json!(clock::now() + 1_000_000);
    for altered in [
        format!("{}.{}.{}", parts[0], text(&claims), parts[2]),
        format!("{}.{}.", header("none"), parts[1]),
        format!("{}.{}.{}", header("RS384"), parts[1], parts[2]),
        format!("{}.{}.{}", header("HS384"), parts[1], parts[2]),
        format!("{}.{}.{}", text(&json!({ "alg": "PS384", "kid": "secret-id", "typ": "JWT" })), parts[1], parts[2]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{token}."),
        format!(" {token}"),
        "..".to_owned(),
        "a.b.c".to_owned(),
        "x".repeat(20_000),
    ] {
        let result = stack.users.authenticate(&bearer(&altered)).await;
        assert!(matches!(result, Err(Denial::Unauthenticated)), "{altered:.60}");
    }
    assert!(stack.users.authenticate(&bearer(&token)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_deleted_or_demoted_is_out_at_once_on_every_replica() {
    let stack = Stack::start().await;
    let (replica, admin) = (stack.replica().await, stack.admin().await);
    let user = stack.user("worker", &["users:search", "keys:create"]).await;
    let token = login(&stack.users, "worker", "some password").await.unwrap();
    let list = || with_credential(ListUsersRequest::default(), &format!("Bearer {token}"));
    let may_search = async |users: &Users| {
        let worker = users.authenticate(&bearer(&token)).await.unwrap();
        users.find(&worker, None).await.map(drop).map_err(|denial| denial.reason())
    };
    assert!(stack.user_administration().list_users(list()).await.is_ok() && may_search(&replica).await.is_ok());

    let only = |permission: &str| UserChange { permissions: vec![permission.to_owned()], ..UserChange::default() };
    replica.update(&admin, user.user_id, only("keys:create")).await.unwrap();
    assert_eq!(refusal(stack.user_administration().list_users(list()).await), refused(Code::PermissionDenied, "permission_denied"));
    assert_eq!(may_search(&replica).await, Err(Reason::PermissionDenied));
    replica.update(&admin, user.user_id, only("keys:delete")).await.unwrap();
    let now = stack.users.authenticate(&bearer(&token)).await.unwrap();
    assert!(now.permissions().is_empty(), "a token does not gain what it was not issued with");

    replica.delete(&admin, user.user_id).await.unwrap();
    assert_eq!(refusal(stack.user_administration().list_users(list()).await), refused(Code::Unauthenticated, "unauthenticated"));
    let same_name = stack.user("worker", &["users:search"]).await;
    assert_ne!(same_name.user_id, user.user_id);
    assert!(stack.users.authenticate(&bearer(&token)).await.is_err(), "another user of that name is another user");
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_locks_out_the_guesser_and_nobody_else() {
    let stack = Stack::start().await;
    for name in ["admin", "nobody"] {
        for _ in 0..5 {
            let wrong = stack.users.authenticate(&caller(name, "wrong password", "192.0.2.66")).await;
            assert!(matches!(wrong, Err(Denial::Unauthenticated)), "{name}");
        }
        let sixth = stack.users.login(name, &secret("wrong password"), Some([192, 0, 2, 66].into())).await;
        assert_eq!(sixth.unwrap_err().reason(), Reason::LockedOut, "whether there is such a user or not");
    }
    let right = stack.users.authenticate(&caller("admin", PASSWORD, "192.0.2.66")).await;
    assert!(matches!(right, Err(Denial::LockedOut)), "not even with the right password");
    let admin_elsewhere = stack.users.authenticate(&caller("admin", PASSWORD, "192.0.2.1")).await;
    assert!(admin_elsewhere.is_ok(), "an outsider cannot lock the administrator out");
    let records: Vec<_> = stack.audit().await.into_iter().filter(|record| record.client_address == "192.0.2.66").collect();
    assert_eq!(records.iter().filter(|record| record.reason() == Reason::LockedOut).count(), 3);
    assert!(records.iter().any(|record| record.reason() == Reason::Unauthenticated), "as many as are recorded per second");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lockout_holds_over_grpc_and_a_good_login_clears() {
    let stack = Stack::start().await;
    let ask = async |password: &str| {
        let request = with_credential(GetUserRequest { user_id: IMPORTED_ID.to_owned() }, &basic("admin", password));
        refusal(stack.user_administration().get_user(request).await)
    };
    for _ in 0..5 {
        assert_eq!(ask("wrong password").await.1, "unauthenticated");
    }
    assert_eq!(ask(PASSWORD).await.1, "user_not_found", "in time");
    for _ in 0..5 {
        assert_eq!(ask("wrong password").await.1, "unauthenticated");
    }
    assert_eq!(ask("wrong password").await, refused(Code::ResourceExhausted, "locked_out"));
    assert_eq!(ask(PASSWORD).await, refused(Code::ResourceExhausted, "locked_out"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_costs_the_same_whoever_it_is_for() {
    let stack = Stack::start().await;
    let cost = async |name: &str, password: &str| {
        let before = stack.users.hashes_made();
        let _outcome = login(&stack.users, name, password).await;
        let after = stack.users.hashes_made();
        HashesMade { argon2id: after.argon2id - before.argon2id, bcrypt: after.bcrypt - before.bcrypt }
    };
    let alone = HashesMade { argon2id: 1, bcrypt: 0 };
    for (name, password) in [("admin", PASSWORD), ("admin", "wrong password"), ("nobody", "wrong password"), ("#####", "x"), ("", "")] {
        assert_eq!(cost(name, password).await, alone, "{name}");
    }
    stack.user_administration().import_user(admin(import())).await.unwrap();
    let with_imports = HashesMade { argon2id: 1, bcrypt: 1 };
    for (name, password) in [
        ("imported", "wrong password"),
        ("imported", IMPORTED_PASSWORD),
        ("imported", IMPORTED_PASSWORD),
        ("admin", PASSWORD),
        ("admin", "wrong password"),
        ("somebody", "wrong password"),
    ] {
        assert_eq!(cost(name, password).await, with_imports, "{name} {password}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_user_keeps_id_and_password_and_gets_a_hash_of_ours() {
    let stack = Stack::start().await;
    let mut users = stack.user_administration();
    let made = users.import_user(admin(import())).await.unwrap().into_inner();
    assert_eq!((made.user_id.as_str(), made.created_at, made.updated_at), (IMPORTED_ID, import().created_at, None));
    assert_eq!(refusal(users.import_user(admin(import())).await).1, "already_exists");
    let same_id = ImportUserRequest { username: "other".to_owned(), ..import() };
    assert_eq!(refusal(users.import_user(admin(same_id)).await).1, "already_exists");
    for bad in ["", "some password", "$2a$10$tooshort", &IMPORTED.replace("$10$", "$20$")] {
        let request = ImportUserRequest {
            user_id: uuid::Uuid::new_v4().to_string(),
            username: "other".to_owned(),
            bcrypt_hash: bad.to_owned(),
            ..import()
        };
        let status = users.import_user(admin(request)).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains("bcrypt_hash"), "{status}");
    }

    let bus = stack.nats.connect(Role::KeyRelease).await.unwrap();
    let store = SealedStore::open(&bus, Bucket::Users, stack.store_key.clone());
    let kind = async || {
        let record = store.read(&format!("id.{IMPORTED_ID}")).await.unwrap().unwrap();
        let record: Value = serde_json::from_slice(&record.value).unwrap();
        record["password"].as_object().unwrap().keys().next().unwrap().clone()
    };
    assert!(login(&stack.users, "imported", "wrong password").await.is_err());
    assert_eq!(kind().await, "bcrypt", "a wrong password changes nothing");
    login(&stack.users, "imported", IMPORTED_PASSWORD).await.unwrap();
    assert_eq!(kind().await, "argon2id");
    login(&stack.users, "imported", IMPORTED_PASSWORD).await.unwrap();
    assert!(login(&stack.users, "imported", "wrong password").await.is_err());

    let later = stack.replica().await; // a start later, nobody has a bcrypt hash any more
    login(&later, "imported", IMPORTED_PASSWORD).await.unwrap();
    assert_eq!(later.hashes_made(), HashesMade { argon2id: 1, bcrypt: 0 });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signing_key_is_replaced_and_old_tokens_count_on() {
    let stack = Stack::start().await;
    let replica = stack.replica().await;
    let kid = |token: &str| part(token, 0)["kid"].as_str().unwrap().to_owned();
    let old = login(&stack.users, "admin", PASSWORD).await.unwrap();
    let replace = async |pem: &str| {
        let request = ReplaceTokenSigningKeyRequest { private_key_pem: pem.to_owned() };
        stack.user_administration().replace_token_signing_key(admin(request)).await.map(|answer| answer.into_inner().key_id)
    };
    let made = replace("").await.unwrap();
    let new = login(&replica, "admin", PASSWORD).await.unwrap();
    assert_eq!(kid(&new), made, "every replica signs with it at once");
    let pem = KeyPair::generate_rsa_for(&PKCS_RSA_SHA384, RsaKeySize::_3072).unwrap().serialize_pem();
    let imported = replace(&pem).await.unwrap();
    assert_eq!(replace(&pem).await.unwrap(), imported, "once more is once");
    let newest = login(&stack.users, "admin", PASSWORD).await.unwrap();
    assert_eq!(kid(&newest), imported);
    assert!(kid(&old) != made && made != imported);
    for token in [&old, &new, &newest] {
        for users in [&stack.users, &replica] {
            assert!(users.authenticate(&bearer(token)).await.is_ok());
        }
    }
    let small = KeyPair::generate_rsa_for(&PKCS_RSA_SHA384, RsaKeySize::_2048).unwrap().serialize_pem();
    let other_kind = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    for bad in ["x", &small, &other_kind, &pem.replace("PRIVATE KEY", "PUBLIC KEY")] {
        let status = replace(bad).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains("private_key_pem"), "{status}");
    }
    let records = stack.audit().await;
    let changes = records.iter().filter(|record| record.decision() == AuditDecision::SigningKeyChanged);
    assert_eq!(changes.filter(|record| record.actor == "admin" && !record.detail.contains("PRIVATE")).count(), 3);
}
