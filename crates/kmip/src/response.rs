//! Picks the answers to our requests out of a response frame.

use std::fmt;

use crate::identifier::ObjectId;
use crate::reader::{DecodeError, Item, parse};
use crate::request::{ATTRIBUTES, Request, batch_item_id};
use crate::vocabulary::{Algorithm, ObjectType, Operation, ResultReason, State, Tag, UsageMask};

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
    if let crate::reader::Value::Structure(items) = item.value { items } else { Vec::new() }
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

/// A symmetric key as Get returns it. The material points into the frame.
pub struct KeyObject<'a> {
    /// Whose material it is, according to the server.
    pub id: ObjectId,
    /// What kind of object.
    pub object_type: ObjectType,
    /// In which format the material comes; 1 is raw bytes.
    pub format: u32,
    /// Algorithm beside the material, where the server says it.
    pub algorithm: Option<Algorithm>,
    /// Length in bits beside the material, where the server says it.
    pub length_bits: Option<i32>,
    /// The key's bytes: secret.
    pub material: &'a [u8],
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

impl<'a> Payload<'a> {
    /// The identifier in the answer.
    pub fn id(&self) -> Result<ObjectId, DecodeError> {
        identifier(self.0.required(Tag::UNIQUE_IDENTIFIER)?)
    }

    /// All identifiers in the answer to a Locate.
    pub fn ids(&self) -> Result<Vec<ObjectId>, DecodeError> {
        self.0.all(Tag::UNIQUE_IDENTIFIER).map(identifier).collect()
    }

    /// The key in the answer to a Get. Anything but a symmetric key of plain bytes is `Missing`.
    pub fn key(&self) -> Result<KeyObject<'a>, DecodeError> {
        let block = self.0.required(Tag::SYMMETRIC_KEY)?.required(Tag::KEY_BLOCK)?;
        let algorithm = block.optional(Tag::CRYPTOGRAPHIC_ALGORITHM)?.map(Item::enumeration).transpose()?;
        Ok(KeyObject {
            id: self.id()?,
            object_type: ObjectType::from_code(self.0.required(Tag::OBJECT_TYPE)?.enumeration()?),
            format: block.required(Tag::KEY_FORMAT_TYPE)?.enumeration()?,
            algorithm: algorithm.map(Algorithm::from_code),
            length_bits: block.optional(Tag::CRYPTOGRAPHIC_LENGTH)?.map(Item::integer).transpose()?,
            material: block.required(Tag::KEY_VALUE)?.required(Tag::KEY_MATERIAL)?.bytes()?,
            wrapped: block.optional(Tag::KEY_WRAPPING_DATA)?.is_some(),
        })
    }

    /// The object type in the answer to a Get, to tell "not a symmetric key" from "not understood".
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
