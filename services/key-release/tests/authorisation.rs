//! Every method of the administration asks for its permission, and for no other. The methods come from the contract's
//! descriptors: a new one without a row here fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod harness;

use std::collections::HashMap;

use harness::{PASSWORD, Stack, refusal, with_credential};
use key_release::users::{NewUser, Permission};
use keyferry_contract::DESCRIPTORS;
use prost::bytes::{Buf, BufMut};
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MethodDescriptor, Value, prost::Message};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};
use zeroize::Zeroizing;

/// Methods that need no administrator: the token or the evidence is the credential.
const PUBLIC: [&str; 2] = ["KeyBroker/GetNonce", "KeyBroker/TransferKey"];

/// A well-formed identifier that nothing has.
const NOTHING: &str = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10";

const TABLE: [(&str, Permission); 23] = [
    ("KeyBroker/ExplainPolicy", Permission::PoliciesSearch),
    ("KeyAdministration/CreatePolicy", Permission::PoliciesCreate),
    ("KeyAdministration/GetPolicy", Permission::PoliciesSearch),
    ("KeyAdministration/ListPolicies", Permission::PoliciesSearch),
    ("KeyAdministration/UpdatePolicy", Permission::PoliciesUpdate),
    ("KeyAdministration/RollbackPolicy", Permission::PoliciesUpdate),
    ("KeyAdministration/ListPolicyVersions", Permission::PoliciesSearch),
    ("KeyAdministration/DeletePolicy", Permission::PoliciesDelete),
    ("KeyAdministration/ImportPolicy", Permission::PoliciesCreate),
    ("KeyAdministration/CreateKey", Permission::KeysCreate),
    ("KeyAdministration/GetKey", Permission::KeysSearch),
    ("KeyAdministration/ListKeys", Permission::KeysSearch),
    ("KeyAdministration/UpdateKey", Permission::KeysUpdate),
    ("KeyAdministration/DeleteKey", Permission::KeysDelete),
    ("KeyAdministration/ExportKey", Permission::KeysTransfer),
    ("KeyAdministration/ImportKey", Permission::KeysCreate),
    ("UserAdministration/CreateUser", Permission::UsersCreate),
    ("UserAdministration/GetUser", Permission::UsersSearch),
    ("UserAdministration/ListUsers", Permission::UsersSearch),
    ("UserAdministration/UpdateUser", Permission::UsersUpdate),
    ("UserAdministration/DeleteUser", Permission::UsersDelete),
    ("UserAdministration/ImportUser", Permission::UsersCreate),
    ("UserAdministration/ReplaceTokenSigningKey", Permission::UsersUpdate),
];

/// Messages as they are on the wire.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        *self
    }
    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}

fn methods() -> Vec<(String, MethodDescriptor)> {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let services: Vec<_> = pool.services().filter(|service| service.parent_file().package_name() == "keyferry.release.v1").collect();
    let methods =
        services.iter().flat_map(|service| service.methods().map(|method| (format!("{}/{}", service.name(), method.name()), method)));
    methods.collect()
}

/// Identifiers are well formed; everything else is empty.
fn request(method: &MethodDescriptor) -> Vec<u8> {
    let mut message = DynamicMessage::new(method.input());
    for field in method.input().fields() {
        if field.kind() == Kind::String && field.name().ends_with("_id") && field.containing_oneof().is_none() {
            message.set_field(&field, Value::String(NOTHING.to_owned()));
        }
    }
    message.encode_to_vec()
}

async fn call(stack: &Stack, method: &MethodDescriptor, credential: Option<&str>) -> Result<(), Status> {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let message = request(method);
    let request = match credential {
        Some(token) => with_credential(message, &format!("Bearer {token}")),
        None => Request::new(message),
    };
    let mut client = Grpc::new(stack.channel.clone());
    client.ready().await.unwrap();
    client.unary(request, PathAndQuery::try_from(path).unwrap(), Raw).await.map(drop)
}

async fn token(stack: &Stack, name: &str, permissions: Vec<Permission>) -> String {
    let permissions = permissions.into_iter().map(|permission| permission.to_string()).collect();
    let password = Zeroizing::new(PASSWORD.to_owned());
    let new = NewUser { username: name.to_owned(), password: password.clone(), permissions };
    stack.users.create(&stack.admin().await, new).await.unwrap();
    stack.users.login(name, &password, None).await.unwrap()
}

#[test]
fn every_method_of_the_contract_has_a_row() {
    let mut listed: Vec<_> = TABLE.iter().map(|(method, _)| *method).chain(PUBLIC).collect();
    let mut declared: Vec<_> = methods().into_iter().map(|(name, _)| name).collect();
    listed.sort_unstable();
    declared.sort();
    assert_eq!(listed, declared);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_asks_for_its_own_permission() {
    let stack = Stack::start().await;
    let table: HashMap<_, _> = TABLE.into_iter().collect();
    let (mut with, mut without) = (HashMap::new(), HashMap::new());
    for (index, permission) in Permission::ALL.into_iter().enumerate() {
        let others = Permission::ALL.into_iter().filter(|other| *other != permission).collect();
        with.insert(permission, token(&stack, &format!("with{index}"), vec![permission]).await);
        without.insert(permission, token(&stack, &format!("without{index}"), others).await);
    }
    let mut problems = Vec::new();
    for (name, method) in methods().iter().filter(|(name, _)| !PUBLIC.contains(&name.as_str())) {
        let permission = table[name.as_str()];
        let stranger = refusal(call(&stack, method, None).await);
        if stranger != (Code::Unauthenticated, "unauthenticated".to_owned()) {
            problems.push(format!("{name} without a credential: {stranger:?}"));
        }
        match call(&stack, method, Some(&without[&permission])).await.map_err(|status| status.code()) {
            Err(Code::PermissionDenied) => {}
            other => problems.push(format!("{name} with everything but {permission}: {other:?}")),
        }
        if let Err(Code::PermissionDenied | Code::Unauthenticated) =
            call(&stack, method, Some(&with[&permission])).await.map_err(|status| status.code())
        {
            problems.push(format!("{name} with {permission} alone: refused"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
