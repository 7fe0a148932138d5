//! One record of an Intel Key Broker Service: a file's name and bytes go in, a checked record or the reason why it is
//! none comes out. Nothing is read or sent here.
//!
//! The service keeps one JSON file a record, named by the record's UUID, without an extension. It wrote them with Go, so
//! names of members are exact and a time that never was is year 1.

use std::{collections::BTreeSet, fmt::Display};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::ValueEnum;
use keyferry_contract::release::v1::KeyAlgorithm;
use keyferry_key_transfer_policy::Policy;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

/// Each login costs this; key-release takes no more. The service always wrote 10.
const BCRYPT_COST_MAX: u32 = 12;

/// The KMS a key lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KmsKind {
    Vault,
    Kmip,
}

/// Why a file is no record, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) fix: &'static str,
}

impl Refusal {
    pub(super) fn new(reason: impl Display, fix: &'static str) -> Self {
        Self { reason: reason.to_string(), fix }
    }
}

/// A user, with the hash that lets the old password go on.
#[derive(Clone)]
pub(super) struct UserRecord {
    pub(super) id: Uuid,
    pub(super) username: String,
    pub(super) bcrypt_hash: String,
    pub(super) permissions: BTreeSet<String>,
    pub(super) created_at: Option<jiff::Timestamp>,
    pub(super) updated_at: Option<jiff::Timestamp>,
    pub(super) notes: Vec<String>,
}

/// A policy that our stricter parser takes.
#[derive(Clone)]
pub(super) struct PolicyRecord {
    pub(super) id: Uuid,
    pub(super) document: String,
    pub(super) created_at: Option<jiff::Timestamp>,
    pub(super) notes: Vec<String>,
}

/// A key whose bytes are in the KMS.
#[derive(Clone)]
pub(super) struct KeyRecord {
    pub(super) id: Uuid,
    pub(super) algorithm: KeyAlgorithm,
    pub(super) length_bits: u32,
    pub(super) curve: String,
    pub(super) policy_id: Option<Uuid>,
    pub(super) kms_kind: KmsKind,
    pub(super) kms_key_ref: String,
    pub(super) created_at: Option<jiff::Timestamp>,
    pub(super) notes: Vec<String>,
}

const NO_RECORD: &str = "if it does not belong there, remove it; if it does, restore it from a backup";

/// The id in a file's name: 36 characters of a UUID, as the service writes it.
fn file_id(name: &str) -> Result<Uuid, Refusal> {
    let id = (name.len() == 36).then(|| Uuid::try_parse(name).ok()).flatten().filter(|id| !id.is_nil());
    id.ok_or_else(|| Refusal::new("its name is no UUID", NO_RECORD))
}

/// The id inside has to be the file's: else one of the two belongs to another record.
fn same_id(name: &str, inside: &str) -> Result<Uuid, Refusal> {
    let id = file_id(name)?;
    if Uuid::try_parse(inside).is_ok_and(|inside| inside == id) {
        return Ok(id);
    }
    Err(Refusal::new("the id inside is not the file's name", "rename the file, or restore it from a backup"))
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| {
        // serde names the place and the kind of the mistake; the text it found stays out: it may be a hash.
        let place = format!("line {}, column {}", error.line(), error.column());
        let what = match error.classify() {
            serde_json::error::Category::Data => "JSON, but not of this kind of record",
            serde_json::error::Category::Eof => "JSON that breaks off",
            _ => "not JSON",
        };
        Refusal::new(format!("{what} ({place})"), "restore it from a backup")
    })
}

/// `None` for Go's zero time: it never was.
fn time(text: Option<&str>) -> Result<Option<jiff::Timestamp>, Refusal> {
    let Some(text) = text.filter(|text| !text.is_empty() && !text.starts_with("0001-01-01")) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| Refusal::new("a time in it is not RFC 3339", "restore it from a backup"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserFile {
    id: String,
    created_at: Option<String>,
    updated_at: Option<String>,
    username: String,
    password_hash: String,
    #[serde(rename = "password_cost")]
    _password_cost: Option<u32>,
    #[serde(default)]
    permissions: Vec<String>,
}

/// `users/<id>`.
pub(super) fn user(name: &str, bytes: &[u8]) -> Result<UserRecord, Refusal> {
    file_id(name)?;
    let file: UserFile = json(bytes)?;
    let id = same_id(name, &file.id)?;
    if file.username.is_empty() || file.username.len() > 255 {
        return Err(Refusal::new("username has to have 1 to 255 bytes", "create the user anew"));
    }
    let (permissions, notes) = permissions(&file.permissions)?;
    Ok(UserRecord {
        id,
        username: file.username,
        bcrypt_hash: bcrypt(&file.password_hash)?,
        permissions,
        created_at: time(file.created_at.as_deref())?,
        updated_at: time(file.updated_at.as_deref())?,
        notes,
    })
}

/// `password_hash` is base64 of `$2a$10$` and 53 characters: a salt and a digest.
fn bcrypt(encoded: &str) -> Result<String, Refusal> {
    let wrong = || Refusal::new("password_hash is not the base64 of a bcrypt string", "create the user anew, with a new password");
    let text = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(wrong)?;
    let mut parts = text.split('$');
    let ("", Some("2a" | "2b" | "2y"), Some(cost), Some(rest), None) =
        (parts.next().unwrap_or("-"), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong());
    };
    let cost = cost.parse::<u32>().ok().filter(|known| cost.len() == 2 && (4..=31).contains(known)).ok_or_else(wrong)?;
    if cost > BCRYPT_COST_MAX {
        return Err(Refusal::new(
            format!("password_hash has cost {cost}, at most {BCRYPT_COST_MAX} is taken over"),
            "create the user anew",
        ));
    }
    let is_digest = rest.len() == 53 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/'));
    if is_digest { Ok(text) } else { Err(wrong()) }
}

/// What the service lets be written but checks nowhere, is left out; `key-transfer-policies` and `key_transfer_policies`
/// are the same.
fn permissions(listed: &[String]) -> Result<(BTreeSet<String>, Vec<String>), Refusal> {
    let (mut kept, mut notes) = (BTreeSet::new(), Vec::new());
    for permission in listed {
        let spelled = permission.replace('-', "_");
        match spelled.split_once(':') {
            Some(
                ("keys", "create" | "search" | "update" | "delete" | "transfer")
                | ("users" | "key_transfer_policies", "create" | "search" | "update" | "delete"),
            ) => {
                kept.insert(spelled);
            }
            Some(("users" | "key_transfer_policies", "transfer")) => notes.push(format!("{permission} permits nothing and is left out")),
            _ => return Err(Refusal::new("permissions names one that there is not", "correct the file, or create the user anew")),
        }
    }
    if kept.is_empty() {
        return Err(Refusal::new("it has no permission that permits anything", "create the user anew, if it is needed"));
    }
    Ok((kept, notes))
}

/// `keys-transfer-policy/<id>`.
pub(super) fn policy(name: &str, bytes: &[u8]) -> Result<PolicyRecord, Refusal> {
    #[derive(Deserialize)]
    struct Head {
        id: String,
        created_at: Option<String>,
    }
    const FIX: &str = "correct a copy of the document and store it with `keyferry policy create`, then move its keys to that policy";
    file_id(name)?;
    let head: Head = json(bytes)?;
    let id = same_id(name, &head.id)?;
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::new("it is not UTF-8", "restore it from a backup"))?;
    let policy = Policy::parse(text).map_err(|error| Refusal::new(error, FIX))?;
    let mut document: Value = json(bytes)?;
    if let Value::Object(members) = &mut document {
        // The record's, not the document's.
        members.shift_remove("id");
        members.shift_remove("created_at");
    }
    let mut notes = differences(&document);
    notes.extend(policy.lint().iter().map(|finding| format!("lint: {finding}")));
    Ok(PolicyRecord { id, document: document.to_string(), created_at: time(head.created_at.as_deref())?, notes })
}

/// Where this policy decides otherwise than it did.
fn differences(document: &Value) -> Vec<String> {
    let kind = document["attestation_type"].as_str().unwrap_or_default().to_ascii_lowercase();
    let block = &document[kind.as_str()];
    let mut notes = Vec::new();
    let attributes = block["attributes"].as_object();
    let upper: Vec<&str> =
        attributes.into_iter().flatten().filter(|(_, value)| has_upper_hex(value)).map(|(name, _)| name.as_str()).collect();
    if !upper.is_empty() {
        notes.push(format!("{} is in upper case: it matched no token before, and does here", upper.join(", ")));
    }
    let has_ids = block["policy_ids"].as_array().is_some_and(|ids| !ids.is_empty());
    if has_ids && attributes.is_some_and(|attributes| !attributes.is_empty()) {
        notes.push("policy_ids and attributes: one matching id was enough before, here both have to match".to_owned());
    }
    if block["attributes"]["enforce_tcb_upto_date"] == Value::Bool(true) {
        notes.push("enforce_tcb_upto_date was met by no token of today before; here UpToDate meets it".to_owned());
    }
    notes
}

fn has_upper_hex(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            text.len() >= 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) && text.bytes().any(|byte| byte.is_ascii_uppercase())
        }
        Value::Array(values) => values.iter().any(has_upper_hex),
        _ => false,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    id: String,
    algorithm: String,
    #[serde(default)]
    key_length: u32,
    #[serde(default)]
    curve_type: String,
    #[serde(default)]
    kmip_key_id: String,
    transfer_policy_id: Option<String>,
    #[serde(rename = "transfer_link")]
    _transfer_link: Option<String>,
    created_at: Option<String>,
    // In the schema, and blank in files.
    key_data: Option<String>,
    public_key: Option<String>,
    private_key: Option<String>,
}

/// `keys/<id>`. `wanted` is the KMS that key-release has, if the operator named it.
pub(super) fn key(name: &str, bytes: &[u8], wanted: Option<KmsKind>) -> Result<KeyRecord, Refusal> {
    file_id(name)?;
    let file: KeyFile = json(bytes)?;
    let id = same_id(name, &file.id)?;
    let (kms_kind, kms_key_ref) = place(id, &file, wanted)?;
    let algorithm = kind(&file)?;
    let mut notes = Vec::new();
    if [&file.key_data, &file.public_key, &file.private_key].into_iter().flatten().any(|member| !member.is_empty()) {
        notes.push("the file holds key bytes in the clear: they were not read; what counts is in the KMS".to_owned());
    }
    if algorithm == KeyAlgorithm::Ec && kms_kind == KmsKind::Vault {
        notes.push("this key was released as nothing before; here it is released".to_owned());
    }
    Ok(KeyRecord {
        id,
        algorithm,
        length_bits: if algorithm == KeyAlgorithm::Ec { 0 } else { file.key_length },
        curve: if algorithm == KeyAlgorithm::Ec { file.curve_type.clone() } else { String::new() },
        policy_id: policy_id(file.transfer_policy_id.as_deref())?,
        kms_kind,
        kms_key_ref,
        created_at: time(file.created_at.as_deref())?,
        notes,
    })
}

/// A KMIP object has the server's own id; in Vault a key lies under its record's.
fn place(id: Uuid, file: &KeyFile, wanted: Option<KmsKind>) -> Result<(KmsKind, String), Refusal> {
    const OTHER: &str = "import it into a key-release with the KMS that holds it";
    let found = if file.kmip_key_id.is_empty() { KmsKind::Vault } else { KmsKind::Kmip };
    match (found, wanted) {
        (KmsKind::Kmip, Some(KmsKind::Vault)) => return Err(Refusal::new("it has a kmip_key_id: it lies in a KMIP server", OTHER)),
        (KmsKind::Vault, Some(KmsKind::Kmip)) => return Err(Refusal::new("it has no kmip_key_id: it lies in Vault", OTHER)),
        _ => {}
    }
    if file.kmip_key_id.len() > 255 || file.kmip_key_id.chars().any(char::is_control) {
        return Err(Refusal::new("kmip_key_id is longer than 255 bytes or has control characters", "register the key anew"));
    }
    Ok((found, if found == KmsKind::Kmip { file.kmip_key_id.clone() } else { id.to_string() }))
}

fn kind(file: &KeyFile) -> Result<KeyAlgorithm, Refusal> {
    const ANEW: &str = "register it anew with `keyferry key create --key-data-file`";
    let has_curve = !file.curve_type.is_empty();
    match (file.algorithm.as_str(), file.key_length) {
        ("AES" | "aes", 128 | 192 | 256) if !has_curve => Ok(KeyAlgorithm::Aes),
        ("RSA" | "rsa", 2048 | 3072 | 4096 | 7680) if !has_curve => Ok(KeyAlgorithm::Rsa),
        ("EC" | "ec", _) => match file.curve_type.as_str() {
            "" | "secp256r1" | "prime256v1" | "secp384r1" | "secp521r1" => Ok(KeyAlgorithm::Ec),
            _ => Err(Refusal::new("curve_type names no curve there is", ANEW)),
        },
        ("aes" | "rsa" | "AES" | "RSA", _) if has_curve => {
            Err(Refusal::new("it has a curve although its algorithm has none: what the KMS holds is not what the record says", ANEW))
        }
        ("AES" | "aes" | "RSA" | "rsa", _) => Err(Refusal::new("key_length is none that its algorithm has", ANEW)),
        _ => Err(Refusal::new("algorithm is not AES, RSA or EC", ANEW)),
    }
}

/// The nil UUID means: no policy.
fn policy_id(text: Option<&str>) -> Result<Option<Uuid>, Refusal> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let id = Uuid::try_parse(text).map_err(|_| Refusal::new("transfer_policy_id is no UUID", "restore it from a backup"))?;
    Ok((!id.is_nil()).then_some(id))
}

#[cfg(test)]
mod tests;
