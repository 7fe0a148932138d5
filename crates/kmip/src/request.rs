//! The requests a key broker sends, in both dialects.

use std::fmt;

use zeroize::Zeroizing;

use crate::identifier::{ObjectId, ObjectName};
use crate::reader::FRAME_BYTES_MAX;
use crate::vocabulary::{Algorithm, KeyFormat, ObjectType, Operation, RecommendedCurve, Tag, UsageMask, Version};
use crate::writer::Writer;

/// Uninterpreted Text String: Name Type 1.
const NAME_TYPE_TEXT: u32 = 1;
/// Username and Password: Credential Type 1.
const CREDENTIAL_TYPE_PASSWORD: u32 = 1;
/// Query Operations and Query Server Information.
const QUERY_FUNCTIONS: [u32; 2] = [1, 3];
/// Bytes that any request without key material fits in: three texts of 255 bytes and less than 40 items.
const REQUEST_BYTES: usize = 2048;

/// Why a request cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Over the frame limit: the key material is too long.
    #[error("KMIP request of {bytes} bytes is over the limit of 1 MiB: the key material is too long")]
    TooLarge {
        /// Bytes it would have.
        bytes: usize,
    },
}

/// A key to be made or brought in: symmetric, or one half of a pair.
#[derive(Clone, Debug)]
pub struct NewKey<'a> {
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// Its length in bits.
    pub length_bits: u16,
    /// What it may be used for.
    pub usage: UsageMask,
    /// A name to find it by, if an answer gets lost. Intel's KBS sets none.
    pub name: Option<&'a ObjectName>,
}

/// A key pair to be made.
#[derive(Clone, Debug)]
pub struct NewPair<'a> {
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// Its length in bits.
    pub length_bits: u16,
    /// Its curve, if it has one.
    pub curve: Option<RecommendedCurve>,
    /// What the private half may be used for.
    pub private_usage: UsageMask,
    /// What the public half may be used for.
    pub public_usage: UsageMask,
    /// Names of the private and the public half. Intel's KBS sets none.
    pub names: Option<(&'a ObjectName, &'a ObjectName)>,
}

/// Why an object is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevocationReason {
    /// It leaked: the object becomes Compromised.
    KeyCompromise,
    /// Another took its place: it becomes Deactivated.
    Superseded,
    /// It is no longer needed: it becomes Deactivated.
    CessationOfOperation,
}

impl RevocationReason {
    const fn code(self) -> u32 {
        match self {
            Self::KeyCompromise => 2,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
        }
    }
}

/// One request. [`encode`] puts one or more into a message.
#[derive(Clone)]
pub enum Request<'a> {
    /// Make a key in the server.
    Create {
        /// Which.
        key: NewKey<'a>,
    },
    /// Make a key pair in the server.
    CreateKeyPair {
        /// Which.
        pair: NewPair<'a>,
    },
    /// Bring a key into the server.
    Register {
        /// What kind of object: a symmetric key, a private key or a public key.
        object: ObjectType,
        /// Which.
        key: NewKey<'a>,
        /// Its bytes: raw of a symmetric key, PKCS#8 of a private key, SubjectPublicKeyInfo of a public key.
        material: &'a [u8],
    },
    /// Find objects by their name.
    Locate {
        /// The name.
        name: &'a ObjectName,
    },
    /// Read an object.
    Get {
        /// Which.
        id: &'a ObjectId,
    },
    /// Read state, usage mask, algorithm, length and object type, and nothing else.
    GetAttributes {
        /// Of which object.
        id: &'a ObjectId,
    },
    /// Read an object's names and links, and nothing else.
    GetRelations {
        /// Of which object.
        id: &'a ObjectId,
    },
    /// Pre-Active to Active.
    Activate {
        /// Which.
        id: &'a ObjectId,
    },
    /// To Deactivated or Compromised.
    Revoke {
        /// Which.
        id: &'a ObjectId,
        /// Why.
        reason: RevocationReason,
    },
    /// Remove.
    Destroy {
        /// Which.
        id: &'a ObjectId,
    },
    /// What the server can do.
    Query,
    /// Which versions it speaks.
    DiscoverVersions,
}

impl Request<'_> {
    /// The operation it asks for.
    pub const fn operation(&self) -> Operation {
        match self {
            Self::Create { .. } => Operation::Create,
            Self::CreateKeyPair { .. } => Operation::CreateKeyPair,
            Self::Register { .. } => Operation::Register,
            Self::Locate { .. } => Operation::Locate,
            Self::Get { .. } => Operation::Get,
            Self::GetAttributes { .. } | Self::GetRelations { .. } => Operation::GetAttributes,
            Self::Activate { .. } => Operation::Activate,
            Self::Revoke { .. } => Operation::Revoke,
            Self::Destroy { .. } => Operation::Destroy,
            Self::Query => Operation::Query,
            Self::DiscoverVersions => Operation::DiscoverVersions,
        }
    }

    fn material_bytes(&self) -> usize {
        if let Self::Register { material, .. } = self { material.len() } else { 0 }
    }

    fn write(&self, version: Version, out: &mut Writer) {
        match self {
            Self::Create { key } => write_new_key(ObjectType::SymmetricKey, key, version, out),
            Self::CreateKeyPair { pair } => write_new_pair(pair, version, out),
            Self::Register { object, key, material } => {
                write_new_key(*object, key, version, out);
                write_material(*object, key, material, out);
            }
            Self::Locate { name } => write_filter(name, version, out),
            Self::GetAttributes { id } => {
                out.text(Tag::UNIQUE_IDENTIFIER, id.as_str());
                write_attribute_names(&ATTRIBUTES, version, out);
            }
            Self::GetRelations { id } => {
                out.text(Tag::UNIQUE_IDENTIFIER, id.as_str());
                write_attribute_names(&RELATIONS, version, out);
                // One that every object has: some servers never answer when there is nothing to list.
                write_attribute_names(&[("Object Type", Tag::OBJECT_TYPE)], version, out);
            }
            Self::Revoke { id, reason } => {
                out.text(Tag::UNIQUE_IDENTIFIER, id.as_str());
                out.structure(Tag::REVOCATION_REASON, |out| out.enumeration(Tag::REVOCATION_REASON_CODE, reason.code()));
            }
            Self::Get { id } | Self::Activate { id } | Self::Destroy { id } => out.text(Tag::UNIQUE_IDENTIFIER, id.as_str()),
            Self::Query => QUERY_FUNCTIONS.iter().for_each(|function| out.enumeration(Tag::QUERY_FUNCTION, *function)),
            Self::DiscoverVersions => {}
        }
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({:?})", self.operation())
    }
}

/// A user name and password for the request header, beside the client certificate.
pub struct Credential<'a> {
    /// User name.
    pub username: &'a str,
    /// Password.
    pub password: &'a str,
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(redacted)")
    }
}

/// Writes one message with all `requests` in it, answered in order; the server stops at the first it refuses.
///
/// The buffer is allocated once and wiped on drop.
pub fn encode(version: Version, credential: Option<&Credential<'_>>, requests: &[Request<'_>]) -> Result<Zeroizing<Vec<u8>>, EncodeError> {
    let login = credential.map_or(0, |credential| credential.username.len() + credential.password.len());
    let capacity = requests.iter().map(|request| REQUEST_BYTES + request.material_bytes()).sum::<usize>() + login + REQUEST_BYTES;
    let mut out = Writer::with_capacity(capacity);
    out.structure(Tag::REQUEST_MESSAGE, |out| {
        write_header(version, credential, requests.len(), out);
        for (index, request) in requests.iter().enumerate() {
            write_batch_item(version, request, (requests.len() > 1).then_some(index), out);
        }
    });
    let frame = out.finish();
    if frame.len() > FRAME_BYTES_MAX { Err(EncodeError::TooLarge { bytes: frame.len() }) } else { Ok(frame) }
}

/// No time stamp: a server refuses one that differs from its own clock by a minute.
fn write_header(version: Version, credential: Option<&Credential<'_>>, count: usize, out: &mut Writer) {
    let (major, minor) = version.numbers();
    out.structure(Tag::REQUEST_HEADER, |out| {
        out.structure(Tag::PROTOCOL_VERSION, |out| {
            out.integer(Tag::PROTOCOL_VERSION_MAJOR, major);
            out.integer(Tag::PROTOCOL_VERSION_MINOR, minor);
        });
        if let Some(credential) = credential {
            out.structure(Tag::AUTHENTICATION, |out| write_credential(credential, out));
        }
        out.integer(Tag::BATCH_COUNT, i32::try_from(count).unwrap_or(i32::MAX));
    });
}

fn write_credential(credential: &Credential<'_>, out: &mut Writer) {
    out.structure(Tag::CREDENTIAL, |out| {
        out.enumeration(Tag::CREDENTIAL_TYPE, CREDENTIAL_TYPE_PASSWORD);
        out.structure(Tag::CREDENTIAL_VALUE, |out| {
            out.text(Tag::USERNAME, credential.username);
            out.text(Tag::PASSWORD, credential.password);
        });
    });
}

fn write_batch_item(version: Version, request: &Request<'_>, index: Option<usize>, out: &mut Writer) {
    out.structure(Tag::BATCH_ITEM, |out| {
        out.enumeration(Tag::OPERATION, request.operation().code());
        if let Some(index) = index {
            out.bytes(Tag::UNIQUE_BATCH_ITEM_ID, &batch_item_id(index));
        }
        out.structure(Tag::REQUEST_PAYLOAD, |out| request.write(version, out));
    });
}

/// The id of the request at `index` in its message: what the answer must carry back.
pub(crate) const fn batch_item_id(index: usize) -> [u8; 8] {
    (index as u64).to_be_bytes()
}

fn write_new_key(object: ObjectType, key: &NewKey<'_>, version: Version, out: &mut Writer) {
    out.enumeration(Tag::OBJECT_TYPE, object.code());
    let tag = if version.attributes_by_tag() { Tag::ATTRIBUTES } else { Tag::TEMPLATE_ATTRIBUTE };
    out.structure(tag, |out| {
        write_kind(key.algorithm, key.length_bits, version, out);
        write_use(key.usage, key.name, version, out);
    });
}

/// The common attributes first, then the private half's, then the public half's.
fn write_new_pair(pair: &NewPair<'_>, version: Version, out: &mut Writer) {
    let [common, private, public] = if version.attributes_by_tag() {
        [Tag::COMMON_ATTRIBUTES, Tag::PRIVATE_KEY_ATTRIBUTES, Tag::PUBLIC_KEY_ATTRIBUTES]
    } else {
        [Tag::COMMON_TEMPLATE_ATTRIBUTE, Tag::PRIVATE_KEY_TEMPLATE_ATTRIBUTE, Tag::PUBLIC_KEY_TEMPLATE_ATTRIBUTE]
    };
    out.structure(common, |out| {
        write_kind(pair.algorithm, pair.length_bits, version, out);
        if let Some(curve) = pair.curve {
            attribute("Cryptographic Domain Parameters", Tag::CRYPTOGRAPHIC_DOMAIN_PARAMETERS, version, out, |tag, out| {
                out.structure(tag, |out| out.enumeration(Tag::RECOMMENDED_CURVE, curve.code()));
            });
        }
    });
    out.structure(private, |out| write_use(pair.private_usage, pair.names.map(|names| names.0), version, out));
    out.structure(public, |out| write_use(pair.public_usage, pair.names.map(|names| names.1), version, out));
}

fn write_kind(algorithm: Algorithm, length_bits: u16, version: Version, out: &mut Writer) {
    attribute("Cryptographic Algorithm", Tag::CRYPTOGRAPHIC_ALGORITHM, version, out, |tag, out| out.enumeration(tag, algorithm.code()));
    attribute("Cryptographic Length", Tag::CRYPTOGRAPHIC_LENGTH, version, out, |tag, out| out.integer(tag, i32::from(length_bits)));
}

fn write_use(usage: UsageMask, name: Option<&ObjectName>, version: Version, out: &mut Writer) {
    attribute("Cryptographic Usage Mask", Tag::CRYPTOGRAPHIC_USAGE_MASK, version, out, |tag, out| out.integer(tag, usage.bits()));
    if let Some(name) = name {
        write_name(name, version, out);
    }
}

fn write_material(object: ObjectType, key: &NewKey<'_>, material: &[u8], out: &mut Writer) {
    let (tag, format) = match object {
        ObjectType::PrivateKey => (Tag::PRIVATE_KEY, KeyFormat::Pkcs8),
        ObjectType::PublicKey => (Tag::PUBLIC_KEY, KeyFormat::X509),
        _ => (Tag::SYMMETRIC_KEY, KeyFormat::Raw),
    };
    out.structure(tag, |out| {
        out.structure(Tag::KEY_BLOCK, |out| {
            out.enumeration(Tag::KEY_FORMAT_TYPE, format.code());
            out.structure(Tag::KEY_VALUE, |out| out.bytes(Tag::KEY_MATERIAL, material));
            out.enumeration(Tag::CRYPTOGRAPHIC_ALGORITHM, key.algorithm.code());
            out.integer(Tag::CRYPTOGRAPHIC_LENGTH, i32::from(key.length_bits));
        });
    });
}

fn write_filter(name: &ObjectName, version: Version, out: &mut Writer) {
    if version.attributes_by_tag() {
        out.structure(Tag::ATTRIBUTES, |out| write_name(name, version, out));
    } else {
        write_name(name, version, out);
    }
}

fn write_name(name: &ObjectName, version: Version, out: &mut Writer) {
    attribute("Name", Tag::NAME, version, out, |tag, out| {
        out.structure(tag, |out| {
            out.text(Tag::NAME_VALUE, name.as_str());
            out.enumeration(Tag::NAME_TYPE, NAME_TYPE_TEXT);
        });
    });
}

/// One attribute: by its tag in 2.0, by its name before. `value` writes it under the tag it is given.
fn attribute(name: &str, tag: Tag, version: Version, out: &mut Writer, value: impl FnOnce(Tag, &mut Writer)) {
    if version.attributes_by_tag() {
        return value(tag, out);
    }
    out.structure(Tag::ATTRIBUTE, |out| {
        out.text(Tag::ATTRIBUTE_NAME, name);
        value(Tag::ATTRIBUTE_VALUE, out);
    });
}

/// What ties an object to others, under both names.
pub(crate) const RELATIONS: [(&str, Tag); 2] = [("Name", Tag::NAME), ("Link", Tag::LINK)];

/// The attributes a release depends on, under both of their names.
pub(crate) const ATTRIBUTES: [(&str, Tag); 5] = [
    ("State", Tag::STATE),
    ("Cryptographic Usage Mask", Tag::CRYPTOGRAPHIC_USAGE_MASK),
    ("Cryptographic Algorithm", Tag::CRYPTOGRAPHIC_ALGORITHM),
    ("Cryptographic Length", Tag::CRYPTOGRAPHIC_LENGTH),
    ("Object Type", Tag::OBJECT_TYPE),
];

fn write_attribute_names(attributes: &[(&str, Tag)], version: Version, out: &mut Writer) {
    for (name, tag) in attributes {
        if version.attributes_by_tag() {
            out.enumeration(Tag::ATTRIBUTE_REFERENCE, tag.number());
        } else {
            out.text(Tag::ATTRIBUTE_NAME, name);
        }
    }
}
