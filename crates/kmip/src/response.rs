//! Picks the answers to our requests out of a response frame.

use std::fmt;

use crate::identifier::ObjectId;
use crate::reader::{DecodeError, Item, Value, parse};
use crate::request::{ATTRIBUTES, RELATIONS, Request, batch_item_id};
use crate::vocabulary::{Algorithm, KeyFormat, LinkType, ObjectType, Operation, ResultReason, State, Tag, UsageMask};

/// Why a response gives no payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The bytes make no sense: the connection must not be used again.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// The server refused one of the requests (the reason's code only; its text stays where it is).
    #[error("the KMIP server refused {operation:?}: {reason:?}")]
    Refused {
        /// Which request.
        operation: Operation,
        /// Why.
        reason: ResultReason,
    },
}

/// The payload of one answered request.
pub struct Payload<'a>(Item<'a>);

impl fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({:?})", self.0)
    }
}

/// Reads the frame that answers `requests`: one payload for each, in order, or the first refusal.
///
/// Items we do not know are ignored. The answer must name the same operations, and in a batch the same item ids.
pub fn decode<'a>(frame: &'a [u8], requests: &[Request<'_>]) -> Result<Vec<Payload<'a>>, ResponseError> {
    let message = parse(frame)?;
    if message.tag != Tag::RESPONSE_MESSAGE {
        return Err(DecodeError::Missing { tag: Tag::RESPONSE_MESSAGE }.into());
    }
    let count = message.required(Tag::RESPONSE_HEADER)?.required(Tag::BATCH_COUNT)?.integer()?;
    if usize::try_from(count).ok() != Some(message.all(Tag::BATCH_ITEM).count()) {
        return Err(DecodeError::NotTheAnswer { what: "batch count and batch items differ" }.into());
    }
    let mut answers = Vec::with_capacity(requests.len());
    let mut items = children(message).into_iter().filter(|item| item.tag == Tag::BATCH_ITEM);
    for (index, request) in requests.iter().enumerate() {
        let item = items.next().ok_or(DecodeError::NotTheAnswer { what: "fewer answers than requests" })?;
        answers.push(answer(item, request.operation(), (requests.len() > 1).then_some(index))?);
    }
    if items.next().is_some() {
        return Err(DecodeError::NotTheAnswer { what: "more answers than requests" }.into());
    }
    Ok(answers)
}

fn children(item: Item<'_>) -> Vec<Item<'_>> {
    if let Value::Structure(items) = item.value { items } else { Vec::new() }
}

fn answer(item: Item<'_>, operation: Operation, index: Option<usize>) -> Result<Payload<'_>, ResponseError> {
    if item.required(Tag::RESULT_STATUS)?.enumeration()? != 0 {
        let reason = match item.optional(Tag::RESULT_REASON)? {
            Some(reason) => ResultReason::from_code(reason.enumeration()?),
            None => ResultReason::GeneralFailure,
        };
        return Err(ResponseError::Refused { operation, reason });
    }
    if item.required(Tag::OPERATION)?.enumeration()? != operation.code() {
        return Err(DecodeError::NotTheAnswer { what: "another operation is answered" }.into());
    }
    if let Some(index) = index
        && item.required(Tag::UNIQUE_BATCH_ITEM_ID)?.bytes()? != batch_item_id(index)
    {
        return Err(DecodeError::NotTheAnswer { what: "another batch item is answered" }.into());
    }
    let payload = children(item).into_iter().find(|child| child.tag == Tag::RESPONSE_PAYLOAD);
    payload.map(Payload).ok_or(ResponseError::Malformed(DecodeError::Missing { tag: Tag::RESPONSE_PAYLOAD }))
}

/// A key as Get returns it. The material points into the frame.
pub struct KeyObject<'a> {
    /// Whose material it is, according to the server.
    pub id: ObjectId,
    /// What kind of object.
    pub object_type: ObjectType,
    /// In which format the material comes.
    pub format: KeyFormat,
    /// Algorithm beside the material, where the server says it.
    pub algorithm: Option<Algorithm>,
    /// Length in bits beside the material, where the server says it.
    pub length_bits: Option<i32>,
    /// The key's bytes: secret. `None` if they come as anything but one string of bytes.
    pub material: Option<&'a [u8]>,
    /// Whether the server wrapped the material (we never ask for it).
    pub wrapped: bool,
}

impl fmt::Debug for KeyObject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyObject({:?}, {:?}, material redacted)", self.id, self.object_type)
    }
}

/// What a release depends on. Whatever the server does not say is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Whose attributes, according to the server, where it says so (2.0 servers may not).
    pub id: Option<ObjectId>,
    /// State.
    pub state: Option<State>,
    /// Usage mask.
    pub usage: Option<UsageMask>,
    /// Algorithm.
    pub algorithm: Option<Algorithm>,
    /// Length in bits.
    pub length_bits: Option<i32>,
    /// Object type.
    pub object_type: Option<ObjectType>,
}

/// What ties an object to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relations {
    /// Its names.
    pub names: Vec<String>,
    /// The public halves it is linked to, as its private half.
    pub public_keys: Vec<ObjectId>,
}

impl<'a> Payload<'a> {
    /// The identifier in the answer.
    pub fn id(&self) -> Result<ObjectId, DecodeError> {
        identifier(self.0.required(Tag::UNIQUE_IDENTIFIER)?)
    }

    /// All identifiers in the answer to a Locate.
    pub fn ids(&self) -> Result<Vec<ObjectId>, DecodeError> {
        self.0.all(Tag::UNIQUE_IDENTIFIER).map(identifier).collect()
    }

    /// Identifiers of the private and the public half in the answer to a CreateKeyPair.
    pub fn pair(&self) -> Result<(ObjectId, ObjectId), DecodeError> {
        let half = |tag| identifier(self.0.required(tag)?);
        Ok((half(Tag::PRIVATE_KEY_UNIQUE_IDENTIFIER)?, half(Tag::PUBLIC_KEY_UNIQUE_IDENTIFIER)?))
    }

    /// The symmetric or private key in the answer to a Get. Anything else is `Missing`.
    pub fn key(&self) -> Result<KeyObject<'a>, DecodeError> {
        let object_type = self.object_type()?;
        let tag = if object_type == ObjectType::PrivateKey { Tag::PRIVATE_KEY } else { Tag::SYMMETRIC_KEY };
        let block = self.0.required(tag)?.required(Tag::KEY_BLOCK)?;
        let algorithm = block.optional(Tag::CRYPTOGRAPHIC_ALGORITHM)?.map(Item::enumeration).transpose()?;
        Ok(KeyObject {
            id: self.id()?,
            object_type,
            format: KeyFormat::from_code(block.required(Tag::KEY_FORMAT_TYPE)?.enumeration()?),
            algorithm: algorithm.map(Algorithm::from_code),
            length_bits: block.optional(Tag::CRYPTOGRAPHIC_LENGTH)?.map(Item::integer).transpose()?,
            material: plain_material(block.required(Tag::KEY_VALUE)?)?,
            wrapped: block.optional(Tag::KEY_WRAPPING_DATA)?.is_some(),
        })
    }

    /// The object type in the answer to a Get, to tell "another object" from "not understood".
    pub fn object_type(&self) -> Result<ObjectType, DecodeError> {
        Ok(ObjectType::from_code(self.0.required(Tag::OBJECT_TYPE)?.enumeration()?))
    }

    /// The attributes in the answer to a GetAttributes, in either dialect.
    pub fn attributes(&self) -> Result<Attributes, DecodeError> {
        let find = |index: usize| -> Result<Option<&Item<'a>>, DecodeError> {
            let Some((name, tag)) = ATTRIBUTES.get(index) else { return Ok(None) };
            match self.0.optional(Tag::ATTRIBUTES)? {
                Some(plain) => plain.optional(*tag),
                None => self.named_attribute(name, *tag),
            }
        };
        let code = |index| find(index)?.map(Item::enumeration).transpose();
        let number = |index| find(index)?.map(Item::integer).transpose();
        Ok(Attributes {
            id: self.0.optional(Tag::UNIQUE_IDENTIFIER)?.map(identifier).transpose()?,
            state: code(0)?.map(State::from_code),
            usage: number(1)?.map(UsageMask::from_bits),
            algorithm: code(2)?.map(Algorithm::from_code),
            length_bits: number(3)?,
            object_type: code(4)?.map(ObjectType::from_code),
        })
    }

    /// Names and links in the answer to a GetRelations, in either dialect. Links in a form we do not know are left out.
    pub fn relations(&self) -> Result<Relations, DecodeError> {
        let [(name, name_tag), (link, link_tag)] = RELATIONS;
        let mut relations = Relations::default();
        for value in self.values(name, name_tag)? {
            relations.names.push(value.required(Tag::NAME_VALUE)?.text()?.to_owned());
        }
        for value in self.values(link, link_tag)? {
            let kind = LinkType::from_code(value.required(Tag::LINK_TYPE)?.enumeration()?);
            let linked = value.required(Tag::LINKED_OBJECT_IDENTIFIER)?;
            if let (LinkType::PublicKey, Ok(id)) = (kind, identifier(linked)) {
                relations.public_keys.push(id);
            }
        }
        Ok(relations)
    }

    /// Every value of an attribute that may occur more than once.
    fn values(&self, name: &str, tag: Tag) -> Result<Vec<&Item<'a>>, DecodeError> {
        if let Some(plain) = self.0.optional(Tag::ATTRIBUTES)? {
            return Ok(plain.all(tag).collect());
        }
        let mut values = Vec::new();
        for attribute in self.0.all(Tag::ATTRIBUTE) {
            if attribute.required(Tag::ATTRIBUTE_NAME)?.text()? == name {
                values.push(attribute.required(Tag::ATTRIBUTE_VALUE)?);
            }
        }
        Ok(values)
    }

    fn named_attribute(&self, name: &str, tag: Tag) -> Result<Option<&Item<'a>>, DecodeError> {
        let mut found = None;
        for attribute in self.0.all(Tag::ATTRIBUTE) {
            if attribute.required(Tag::ATTRIBUTE_NAME)?.text()? != name {
                continue;
            }
            if found.replace(attribute.required(Tag::ATTRIBUTE_VALUE)?).is_some() {
                return Err(DecodeError::Repeated { tag });
            }
        }
        Ok(found)
    }

    /// Major and minor numbers in the answer to a DiscoverVersions.
    pub fn versions(&self) -> Result<Vec<(i32, i32)>, DecodeError> {
        let number = |version: &Item<'a>, tag| version.required(tag)?.integer();
        self.0
            .all(Tag::PROTOCOL_VERSION)
            .map(|version| Ok((number(version, Tag::PROTOCOL_VERSION_MAJOR)?, number(version, Tag::PROTOCOL_VERSION_MINOR)?)))
            .collect()
    }

    /// The operations in the answer to a Query.
    pub fn operations(&self) -> Result<Vec<Operation>, DecodeError> {
        self.0.all(Tag::OPERATION).map(|item| item.enumeration().map(Operation::from_code)).collect()
    }
}

fn identifier(item: &Item<'_>) -> Result<ObjectId, DecodeError> {
    ObjectId::parse(item.text()?).map_err(|_| DecodeError::Missing { tag: Tag::UNIQUE_IDENTIFIER })
}

/// A wrapped key's value is one string of bytes, a transparent key's material a structure: neither is plain material.
fn plain_material<'a>(value: &Item<'a>) -> Result<Option<&'a [u8]>, DecodeError> {
    Ok(match value.optional(Tag::KEY_MATERIAL)? {
        Some(Item { value: Value::Bytes(bytes), .. }) => Some(bytes),
        _ => None,
    })
}
