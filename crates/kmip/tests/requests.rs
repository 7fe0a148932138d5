//! Our 1.4 requests are, byte for byte, those of an independent implementation; our 2.0 requests are spelled out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking; the exemption covers helpers only inside #[test]")]

use keyferry_kmip::{
    Algorithm, Credential, EncodeError, FRAME_BYTES_MAX, NewKey, NewPair, ObjectId, ObjectName, ObjectType as ManagedObjectType,
    RecommendedCurve, Request, RevocationReason, UsageMask, Version, encode,
};
use kmip_protocol::types::common::RevocationReasonCode;
use kmip_protocol::types::{
    common::{
        AttributeName, AttributeValue, CryptographicAlgorithm, CryptographicLength, KeyFormatType, KeyMaterial, NameType, NameValue,
        ObjectType, Operation, UniqueBatchItemID, UniqueIdentifier,
    },
    request::{
        Attribute, Authentication, BatchCount, BatchItem, CommonTemplateAttribute, Credential as TheirCredential, CredentialType,
        CredentialValue, KeyBlock, KeyValue, ManagedObject, Password, PrivateKey, PrivateKeyTemplateAttribute, ProtocolVersion,
        ProtocolVersionMajor, ProtocolVersionMinor, PublicKeyTemplateAttribute, QueryFunction, RequestHeader, RequestMessage,
        RequestPayload, RevocationReason as TheirReason, SymmetricKey, TemplateAttribute, Username,
    },
};

fn theirs(login: Option<Authentication>, payloads: Vec<RequestPayload>) -> Vec<u8> {
    let version = ProtocolVersion(ProtocolVersionMajor(1), ProtocolVersionMinor(4));
    let header = RequestHeader(version, None, login, BatchCount(i32::try_from(payloads.len()).unwrap()));
    let batch = payloads.len() > 1;
    let items = payloads.into_iter().enumerate().map(|(index, payload)| {
        let operation: Operation = payload.operation();
        BatchItem(operation, batch.then(|| UniqueBatchItemID((index as u64).to_be_bytes().to_vec())), payload)
    });
    kmip_ttlv::ser::to_vec(&RequestMessage(header, items.collect())).unwrap()
}

fn ours(version: Version, requests: &[Request<'_>]) -> Vec<u8> {
    encode(version, None, requests).unwrap().to_vec()
}

fn key(name: &ObjectName) -> NewKey<'_> {
    NewKey { algorithm: Algorithm::Aes, length_bits: 256, usage: UsageMask::ENCRYPT.with(UsageMask::DECRYPT), name: Some(name) }
}

fn named(name: &str, value: AttributeValue) -> Attribute {
    Attribute(AttributeName(name.into()), None, value)
}

fn template() -> TemplateAttribute {
    TemplateAttribute::unnamed(vec![
        Attribute::CryptographicAlgorithm(CryptographicAlgorithm::AES),
        Attribute::CryptographicLength(256),
        // Not its own usage mask type: that combines bits by transmuting an enum.
        named("Cryptographic Usage Mask", AttributeValue::Integer(0x0C)),
        named("Name", AttributeValue::Name(NameValue("record-1".into()), NameType::UninterpretedTextString)),
    ])
}

#[test]
fn making_finding_and_bringing_in_keys_is_the_same_in_both() {
    let name = ObjectName::parse("record-1").unwrap();
    assert_eq!(
        ours(Version::V1_4, &[Request::Create { key: key(&name) }]),
        theirs(None, vec![RequestPayload::Create(ObjectType::SymmetricKey, template())])
    );
    let block = KeyBlock(
        KeyFormatType::Raw,
        None,
        Some(KeyValue(KeyMaterial::Bytes(vec![7; 32]), None)),
        Some(CryptographicAlgorithm::AES),
        Some(CryptographicLength(256)),
        None,
    );
    let object = ManagedObject::SymmetricKey(SymmetricKey(block));
    assert_eq!(
        ours(Version::V1_4, &[Request::Register { object: ManagedObjectType::SymmetricKey, key: key(&name), material: &[7; 32] }]),
        theirs(None, vec![RequestPayload::Register(ObjectType::SymmetricKey, template(), Some(object))])
    );
    let attribute = Attribute::Name("record-1".into());
    assert_eq!(ours(Version::V1_4, &[Request::Locate { name: &name }]), theirs(None, vec![RequestPayload::Locate(vec![attribute])]));
}

#[test]
fn everything_about_an_object_is_the_same_in_both() {
    let (id, their_id) = (ObjectId::parse("42").unwrap(), || Some(UniqueIdentifier("42".into())));
    let names = ["State", "Cryptographic Usage Mask", "Cryptographic Algorithm", "Cryptographic Length", "Object Type"];
    let names = names.iter().map(|name| AttributeName((*name).into())).collect();
    assert_eq!(
        ours(Version::V1_4, &[Request::GetAttributes { id: &id }, Request::Get { id: &id }]),
        theirs(None, vec![RequestPayload::GetAttributes(their_id(), Some(names)), RequestPayload::Get(their_id(), None, None, None)])
    );
    assert_eq!(ours(Version::V1_4, &[Request::Activate { id: &id }]), theirs(None, vec![RequestPayload::Activate(their_id())]));
    assert_eq!(ours(Version::V1_4, &[Request::Destroy { id: &id }]), theirs(None, vec![RequestPayload::Destroy(their_id())]));
    let compromised = RequestPayload::Revoke(their_id(), TheirReason(RevocationReasonCode::KeyCompromise, None), None);
    let reason = RevocationReason::KeyCompromise;
    assert_eq!(ours(Version::V1_4, &[Request::Revoke { id: &id, reason }]), theirs(None, vec![compromised]));
}

#[test]
fn questions_about_the_server_and_a_login_are_the_same_in_both() {
    let functions = vec![QueryFunction::QueryOperations, QueryFunction::QueryServerInformation];
    assert_eq!(ours(Version::V1_4, &[Request::Query]), theirs(None, vec![RequestPayload::Query(functions.clone())]));
    assert_eq!(ours(Version::V1_4, &[Request::DiscoverVersions]), theirs(None, vec![RequestPayload::DiscoverVersions(vec![])]));
    let value = CredentialValue::UsernameAndPassword(Username("broker".into()), Some(Password("secret".into())));
    let login = Authentication(TheirCredential(CredentialType::UsernameAndPassword, value));
    let credential = Credential { username: "broker", password: "secret" };
    let with_login = encode(Version::V1_4, Some(&credential), &[Request::Query]).unwrap();
    assert_eq!(with_login.to_vec(), theirs(Some(login), vec![RequestPayload::Query(functions)]));
    assert!(!format!("{credential:?}").contains("secret"));
}

fn pair(names: &(ObjectName, ObjectName)) -> NewPair<'_> {
    NewPair {
        algorithm: Algorithm::Rsa,
        length_bits: 3072,
        curve: None,
        private_usage: UsageMask::DECRYPT,
        public_usage: UsageMask::ENCRYPT,
        names: Some((&names.0, &names.1)),
    }
}

fn pair_names() -> (ObjectName, ObjectName) {
    (ObjectName::parse("record-1").unwrap(), ObjectName::parse("record-1/public").unwrap())
}

#[test]
fn a_key_pair_and_its_halves_are_the_same_in_both() {
    let names = pair_names();
    let half = |mask, name: &str| {
        let name = AttributeValue::Name(NameValue(name.into()), NameType::UninterpretedTextString);
        vec![named("Cryptographic Usage Mask", AttributeValue::Integer(mask)), named("Name", name)]
    };
    let common = vec![Attribute::CryptographicAlgorithm(CryptographicAlgorithm::RSA), Attribute::CryptographicLength(3072)];
    let theirs_pair = RequestPayload::CreateKeyPair(
        Some(CommonTemplateAttribute::unnamed(common)),
        Some(PrivateKeyTemplateAttribute::unnamed(half(0x08, "record-1"))),
        Some(PublicKeyTemplateAttribute::unnamed(half(0x04, "record-1/public"))),
    );
    assert_eq!(ours(Version::V1_4, &[Request::CreateKeyPair { pair: pair(&names) }]), theirs(None, vec![theirs_pair]));

    let private = NewKey { algorithm: Algorithm::Rsa, length_bits: 3072, usage: UsageMask::DECRYPT, name: Some(&names.0) };
    let block = KeyBlock(
        KeyFormatType::PKCS8,
        None,
        Some(KeyValue(KeyMaterial::Bytes(vec![7; 99]), None)),
        Some(CryptographicAlgorithm::RSA),
        Some(CryptographicLength(3072)),
        None,
    );
    let mut template = vec![Attribute::CryptographicAlgorithm(CryptographicAlgorithm::RSA), Attribute::CryptographicLength(3072)];
    template.extend(half(0x08, "record-1"));
    let object = ManagedObject::PrivateKey(PrivateKey(block));
    assert_eq!(
        ours(Version::V1_4, &[Request::Register { object: ManagedObjectType::PrivateKey, key: private, material: &[7; 99] }]),
        theirs(None, vec![RequestPayload::Register(ObjectType::PrivateKey, TemplateAttribute::unnamed(template), Some(object))])
    );
    let id = ObjectId::parse("42").unwrap();
    let relations = ["Name", "Link", "Object Type"].iter().map(|name| AttributeName((*name).into())).collect();
    let asked = RequestPayload::GetAttributes(Some(UniqueIdentifier("42".into())), Some(relations));
    assert_eq!(ours(Version::V1_4, &[Request::GetRelations { id: &id }]), theirs(None, vec![asked]));
}

#[test]
fn a_pair_in_2_0_has_three_lists_of_plain_tags_and_a_curve_by_its_number() {
    let names = pair_names();
    let curve = NewPair { algorithm: Algorithm::Ec, length_bits: 384, curve: Some(RecommendedCurve::P384), ..pair(&names) };
    let asked = hex::encode(ours(Version::V2_0, &[Request::CreateKeyPair { pair: curve }]));
    let common = "4201260100000038\
        42002805000000040000001a00000000\
        42002a02000000040000018000000000\
        4200290100000010\
        42007505000000040000000a00000000";
    assert!(asked.contains(common), "{asked}");
    let private = "420127010000003842002c02000000040000000800000000420053010000002042005507000000087265636f72642d31";
    assert!(asked.contains(private), "{asked}");
    assert!(asked.contains("420128010000004042002c02000000040000000400000000"), "{asked}");
}

#[test]
fn version_2_0_names_attributes_by_tag() {
    let name = ObjectName::parse("record-1").unwrap();
    let create = hex::encode(ours(Version::V2_0, &[Request::Create { key: key(&name) }]));
    let attributes = "4201250100000058\
        4200280500000004000000030000000042002a0200000004000001000000000042002c02000000040000000c00000000\
        4200530100000020\
        42005507000000087265636f72642d3142005405000000040000000100000000";
    assert!(create.contains(attributes), "{create}");
    assert!(create.contains("42006a0200000004000000020000000042006b02000000040000000000000000"));
    let id = ObjectId::parse("42").unwrap();
    let asked = hex::encode(ours(Version::V2_0, &[Request::GetAttributes { id: &id }]));
    for tag in ["0042008d", "0042002c", "00420028", "0042002a", "00420057"] {
        assert!(asked.contains(&format!("42013b0500000004{tag}00000000")), "{tag} in {asked}");
    }
}

#[test]
fn an_identifier_is_never_empty_long_or_with_control_characters() {
    assert!(ObjectId::parse("").is_err());
    assert!(ObjectId::parse("4\n2").is_err());
    assert!(ObjectId::parse("\0").is_err());
    assert!(ObjectId::parse(&"4".repeat(256)).is_err());
    assert!(ObjectId::parse(&"4".repeat(255)).is_ok());
    assert!(ObjectName::parse("").is_err());
}

#[test]
fn an_oversized_request_is_refused_and_none_shows_a_key() {
    let name = ObjectName::parse("record-1").unwrap();
    let material = vec![0xA5; FRAME_BYTES_MAX];
    let request = Request::Register { object: ManagedObjectType::SymmetricKey, key: key(&name), material: &material };
    assert!(!format!("{request:?}").contains("165"));
    assert!(matches!(encode(Version::V1_4, None, &[request]), Err(EncodeError::TooLarge { .. })));
}
