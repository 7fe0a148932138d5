//! Users: what they may be called, that a name has one owner whoever asks for it at the same time, and what a crash leaves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper of a test fails the test")]

mod harness;

use aws_lc_rs::digest::{SHA256, digest};
use harness::{PASSWORD, Stack, admin, basic, refusal, refused, with_credential};
use key_release::{
    Denial,
    users::{NewUser, User, UserChange, Users},
};
use keyferry_bus::{Bucket, Role};
use keyferry_contract::{
    Reason,
    release::v1::{
        AuditDecision, AuditRecord, CreateUserRequest, DeleteUserRequest, GetUserRequest, ListUsersRequest, UpdateUserRequest,
        User as UserMessage,
    },
};
use keyferry_identifiers::UserId;
use keyferry_lifecycle::Secret;
use keyferry_sealed_store::SealedStore;
use serde_json::json;
use tonic::Code;
use zeroize::Zeroizing;

const NOBODY: &str = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10";

fn create(username: &str, password: &str, permissions: &[&str]) -> CreateUserRequest {
    CreateUserRequest {
        username: username.to_owned(),
        password: password.to_owned(),
        permissions: permissions.iter().map(|text| (*text).to_owned()).collect(),
    }
}

fn new(username: &str) -> NewUser {
    let permissions = vec!["keys:search".to_owned()];
    NewUser { username: username.to_owned(), password: Zeroizing::new("some password".to_owned()), permissions }
}

fn renamed(username: &str) -> UserChange {
    UserChange { username: username.to_owned(), ..UserChange::default() }
}

impl Stack {
    async fn made(&self, request: CreateUserRequest) -> UserMessage {
        self.user_administration().create_user(admin(request)).await.unwrap().into_inner()
    }
    async fn names(&self) -> Vec<String> {
        let everybody = self.user_administration().list_users(admin(ListUsersRequest::default())).await.unwrap().into_inner();
        let mut names: Vec<_> = everybody.users.into_iter().map(|user| user.username).collect();
        names.sort();
        names
    }
    async fn store(&self) -> SealedStore {
        let bus = self.nats.connect(Role::KeyRelease).await.unwrap();
        SealedStore::open(&bus, Bucket::Users, self.store_key.clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_made_read_changed_and_deleted() {
    let stack = Stack::start().await;
    let mut users = stack.user_administration();
    let made = stack.made(create("key-admin", "some password", &["keys:create", "key-transfer-policies:search", "users:transfer"])).await;
    assert_eq!(made.permissions, ["keys:create", "key_transfer_policies:search"], "one spelling, and what means nothing is left out");
    assert!(made.created_at.is_some() && made.updated_at.is_none());
    let read = users.get_user(admin(GetUserRequest { user_id: made.user_id.clone() })).await.unwrap().into_inner();
    assert_eq!(read, made);
    let found = users.list_users(admin(ListUsersRequest { username: "key-admin".to_owned() })).await.unwrap().into_inner().users;
    assert_eq!(found, std::slice::from_ref(&made));
    assert_eq!(stack.names().await, ["admin", "key-admin"]);

    let nothing = UpdateUserRequest { user_id: made.user_id.clone(), ..UpdateUserRequest::default() };
    let same = users.update_user(admin(nothing.clone())).await.unwrap().into_inner();
    assert_eq!((&same.username, &same.permissions, &same.created_at), (&made.username, &made.permissions, &made.created_at));
    assert!(same.updated_at.is_some());
    let changed = UpdateUserRequest {
        username: "ops@example.com".to_owned(),
        password: "another password".to_owned(),
        permissions: vec!["users:search".to_owned()],
        ..nothing
    };
    let changed = users.update_user(admin(changed)).await.unwrap().into_inner();
    assert_eq!((changed.username.as_str(), changed.permissions.as_slice()), ("ops@example.com", &["users:search".to_owned()][..]));
    let as_changed = with_credential(ListUsersRequest::default(), &basic("ops@example.com", "another password"));
    assert_eq!(users.list_users(as_changed).await.unwrap().into_inner().users.len(), 2);
    let old_name = users.list_users(admin(ListUsersRequest { username: "key-admin".to_owned() })).await.unwrap().into_inner().users;
    assert_eq!(old_name, []);
    stack.made(create("key-admin", "some password", &["keys:create"])).await; // the old name is free

    users.delete_user(admin(DeleteUserRequest { user_id: made.user_id.clone() })).await.unwrap();
    let gone = refused(Code::NotFound, "user_not_found");
    assert_eq!(refusal(users.get_user(admin(GetUserRequest { user_id: made.user_id.clone() })).await), gone);
    assert_eq!(refusal(users.delete_user(admin(DeleteUserRequest { user_id: made.user_id.clone() })).await), gone);
    stack.made(create("ops@example.com", "some password", &["keys:create"])).await;

    let told: Vec<_> = stack.audit().await.into_iter().filter(|record| record.user_id == made.user_id).collect();
    let decisions: Vec<_> = told.iter().map(AuditRecord::decision).collect();
    let wanted = [AuditDecision::UserCreated, AuditDecision::UserChanged, AuditDecision::UserChanged, AuditDecision::UserDeleted];
    assert_eq!(decisions, wanted);
    assert!(told.iter().all(|record| record.actor == "admin" && record.client_address == "127.0.0.1"), "{told:?}");
    assert!(told.iter().all(|record| !record.detail.contains("some password") && !record.detail.contains("another password")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_user_is_refused_with_the_field() {
    let stack = Stack::start().await;
    let mut users = stack.user_administration();
    let (long, longest) = ("x".repeat(72), "x".repeat(71));
    let permission = ["keys:create"];
    let table = [
        (create("#####", "some password", &permission), "username"),
        (create("", "some password", &permission), "username"),
        (create("a-b", "some password", &permission), "username"),
        (create(&"a".repeat(256), "some password", &permission), "username"),
        (create("good-name", "", &permission), "password"),
        (create("good-name", "12345678", &permission), "password"),
        (create("good-name", &long, &permission), "password"),
        (create("good-name", "<&<&<&<&<", &permission), "password"),
        (create("good-name", "some password", &[]), "permissions"),
        (create("good-name", "some password", &["users:transfer"]), "permissions"),
        (create("good-name", "some password", &["keys:create", "!!!"]), "permissions"),
    ];
    for (request, field) in table {
        let status = users.create_user(admin(request.clone())).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains(field), "{request:?} {status}");
    }
    let made = stack.made(create("good-name", &longest, &permission)).await;
    let again = users.create_user(admin(create("good-name", "some password", &permission))).await;
    assert_eq!(refusal(again), refused(Code::AlreadyExists, "already_exists"));
    let change = |user_id: &str, username: &str, password: &str, permissions: &[&str]| {
        let CreateUserRequest { username, password, permissions } = create(username, password, permissions);
        admin(UpdateUserRequest { user_id: user_id.to_owned(), username, password, permissions })
    };
    for (request, field) in [
        (change(&made.user_id, "!!!", "", &[]), "username"),
        (change(&made.user_id, "", "12345678", &[]), "password"),
        (change(&made.user_id, "", "", &["keys:all"]), "permissions"),
        (change("x", "", "", &[]), "user_id"),
    ] {
        let status = users.update_user(request).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains(field), "{status}");
    }
    assert_eq!(refusal(users.update_user(change(&made.user_id, "admin", "", &[])).await).1, "already_exists");
    assert_eq!(refusal(users.update_user(change(NOBODY, "other", "", &[])).await).1, "user_not_found");
    let status = users.list_users(admin(ListUsersRequest { username: "!!!".to_owned() })).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument, "{status}");
}

fn won<T>(result: &Result<T, Denial>) -> bool {
    match result {
        Ok(_) => true,
        Err(denial) if denial.reason() == Reason::AlreadyExists => false,
        Err(denial) => panic!("{denial:?}"),
    }
}

async fn everybody_called(users: &Users, admin: &key_release::users::Admin, name: &str) -> Vec<User> {
    let everybody = users.find(admin, None).await.unwrap();
    everybody.into_iter().filter(|user| user.username == name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_that_create_one_name_one_wins() {
    let stack = Stack::start().await;
    let (one, other, admin) = (&stack.users, stack.replica().await, stack.admin().await);
    for round in 0..12 {
        let name = format!("user{round}");
        let (first, second) = tokio::join!(one.create(&admin, new(&name)), other.create(&admin, new(&name)));
        assert_eq!(usize::from(won(&first)) + usize::from(won(&second)), 1, "{name}");
        assert_eq!(everybody_called(one, &admin, &name).await.len(), 1);
        let winner = first.or(second).unwrap();
        assert_eq!(other.find(&admin, Some(&name)).await.unwrap(), [winner]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_taken_by_a_creation_or_by_a_renaming() {
    let stack = Stack::start().await;
    let (one, other, admin) = (&stack.users, stack.replica().await, stack.admin().await);
    for round in 0..12 {
        let (old, name) = (format!("old{round}"), format!("user{round}"));
        let user = one.create(&admin, new(&old)).await.unwrap();
        let (first, second) = tokio::join!(one.update(&admin, user.user_id, renamed(&name)), other.create(&admin, new(&name)));
        assert_eq!(usize::from(won(&first)) + usize::from(won(&second)), 1, "{name}");
        assert_eq!(everybody_called(one, &admin, &name).await.len(), 1);
        let kept = one.find(&admin, Some(&old)).await.unwrap();
        assert_eq!(kept.len(), usize::from(first.is_err()), "whoever was not renamed keeps the old name");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_become_one_do_not() {
    let stack = Stack::start().await;
    let (one, other, admin) = (&stack.users, stack.replica().await, stack.admin().await);
    for round in 0..8 {
        let (name, left, right) = (format!("user{round}"), format!("left{round}"), format!("right{round}"));
        let left = one.create(&admin, new(&left)).await.unwrap();
        let right = one.create(&admin, new(&right)).await.unwrap();
        let (first, second) =
            tokio::join!(one.update(&admin, left.user_id, renamed(&name)), other.update(&admin, right.user_id, renamed(&name)));
        // Both may give way to each other, and then neither is renamed; never both.
        assert!(!(won(&first) && won(&second)), "{name}");
        assert_eq!(everybody_called(one, &admin, &name).await.len(), usize::from(first.is_ok() || second.is_ok()));
        for user in [left, right] {
            let now = one.user(&admin, user.user_id).await.unwrap();
            assert_eq!(one.find(&admin, Some(&now.username)).await.unwrap(), [now], "nobody is lost");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_one_user_at_the_same_time_are_both_made() {
    let stack = Stack::start().await;
    let (one, other, admin) = (&stack.users, stack.replica().await, stack.admin().await);
    let user = one.create(&admin, new("worker")).await.unwrap();
    for round in 0..8 {
        let name = format!("worker{round}");
        let permission = ["keys:create", "keys:delete"][round % 2];
        let grant = UserChange { permissions: vec![permission.to_owned()], ..UserChange::default() };
        let (first, second) = tokio::join!(one.update(&admin, user.user_id, renamed(&name)), other.update(&admin, user.user_id, grant));
        first.unwrap();
        second.unwrap();
        let now = one.user(&admin, user.user_id).await.unwrap();
        assert_eq!((now.username.as_str(), now.permissions.first().unwrap().as_str()), (name.as_str(), permission));
    }
}

/// What a process writes that dies in the middle of a creation, a deletion or a renaming.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_leaves_blocks_no_name() {
    let stack = Stack::start().await;
    let store = stack.store().await;
    let name = |name: &str| format!("name.{}", hex::encode(digest(&SHA256, name.as_bytes())));
    let record = |id: &UserId, username: &str, becoming: Option<&str>| {
        let hash = json!({ "bcrypt": "$2a$10$abcdefghijklmnopqrstuu5Lo0g67CiD3M4RpN1BmBb4Crp5w7dbK" });
        let mut record = json!({
            "user_id": id, "username": username, "password": hash, "permissions": ["keys:search"],
            "created_at": "2026-01-01T00:00:00Z", "updated_at": null,
        });
        if let Some(becoming) = becoming {
            record["becoming"] = becoming.into();
        }
        serde_json::to_vec(&record).unwrap()
    };
    let holder = |id: &UserId| serde_json::to_vec(&json!({ "user_id": id })).unwrap();

    let creation = UserId::random();
    store.create(&format!("id.{creation}"), &record(&creation, "created", None)).await.unwrap();
    store.create(&name("deleted"), &holder(&UserId::random())).await.unwrap();
    let announced = UserId::random();
    store.create(&format!("id.{announced}"), &record(&announced, "before", Some("after"))).await.unwrap();
    store.create(&name("before"), &holder(&announced)).await.unwrap();
    store.create(&name("after"), &holder(&announced)).await.unwrap();

    assert_eq!(stack.names().await, ["admin", "before"]);
    let unseen = stack.user_administration().get_user(admin(GetUserRequest { user_id: creation.to_string() })).await;
    assert_eq!(refusal(unseen).1, "user_not_found");
    for free in ["created", "deleted", "after"] {
        stack.made(create(free, "some password", &["keys:search"])).await;
    }
    assert_eq!(stack.names().await, ["admin", "after", "before", "created", "deleted"]);
    let taken = stack.user_administration().create_user(admin(create("before", "some password", &["keys:search"]))).await;
    assert_eq!(refusal(taken).1, "already_exists");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_administrator_is_made_once_and_returns() {
    let stack = Stack::start().await;
    let made = stack.admin().await;
    assert_eq!(made.permissions().len(), 13, "every permission");
    let other = |password: &str| ("admin".to_owned(), Secret::new(password.to_owned()));
    stack.users.bootstrap(Some(&other("another password"))).await.unwrap();
    assert_eq!(stack.admin().await.user_id(), made.user_id(), "the password is as it was");

    stack.users.delete(&made, made.user_id()).await.unwrap();
    assert!(matches!(stack.users.authenticate(&harness::caller("admin", PASSWORD, "127.0.0.1")).await, Err(Denial::Unauthenticated)));
    let replica = stack.replica().await;
    let administrator = other(PASSWORD);
    let (first, second) = tokio::join!(stack.users.bootstrap(Some(&administrator)), replica.bootstrap(Some(&administrator)));
    first.and(second).unwrap();
    assert_ne!(stack.admin().await.user_id(), made.user_id());
    assert_eq!(stack.names().await, ["admin"]);
}
