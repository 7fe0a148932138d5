//! Reads TTLV into a small tree, within limits.

use std::fmt;

use crate::vocabulary::Tag;

/// Nesting allowed. The deepest answer we read (a key inside a Get) has 7 levels.
pub const DEPTH_MAX: usize = 8;
/// The largest frame, header included, in bytes.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// The most items in a frame: bounds the memory of a tree made of empty structures.
pub const ITEMS_MAX: usize = 10_000;
/// Tag, type and length in front of every item, in bytes.
pub const HEADER_BYTES: usize = 8;

/// Why bytes are no TTLV, or no answer to the request. Holds numbers only: nothing of the peer's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than a length promised.
    #[error("KMIP frame ends early: {wanted} bytes were announced, {found} are there")]
    Truncated {
        /// Bytes announced.
        wanted: usize,
        /// Bytes present.
        found: usize,
    },
    /// Bytes after the end.
    #[error("KMIP frame has {bytes} bytes after its end")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// Over [`FRAME_BYTES_MAX`].
    #[error("KMIP frame of {bytes} bytes is over the limit of 1 MiB")]
    TooLarge {
        /// Bytes announced.
        bytes: usize,
    },
    /// Over [`DEPTH_MAX`].
    #[error("KMIP frame is nested deeper than 8 levels")]
    TooDeep,
    /// Over [`ITEMS_MAX`].
    #[error("KMIP frame has more than 10000 items")]
    TooMany,
    /// A type number nobody defined.
    #[error("KMIP item {tag:?} has the unknown type {kind:#04x}")]
    UnknownType {
        /// Of which item.
        tag: Tag,
        /// The number.
        kind: u8,
    },
    /// A fixed-size type with another size.
    #[error("KMIP item {tag:?} has {bytes} bytes, which its type {kind:#04x} does not allow")]
    WrongLength {
        /// Of which item.
        tag: Tag,
        /// Its type.
        kind: u8,
        /// Its length.
        bytes: usize,
    },
    /// Text that is not UTF-8.
    #[error("KMIP item {tag:?} is text, but not UTF-8")]
    NotText {
        /// Of which item.
        tag: Tag,
    },
    /// Something required is not there, or of another type.
    #[error("KMIP answer lacks {tag:?}, or has it with another type")]
    Missing {
        /// Of which item.
        tag: Tag,
    },
    /// An item that may occur once is there twice.
    #[error("KMIP answer has {tag:?} more than once")]
    Repeated {
        /// Of which item.
        tag: Tag,
    },
    /// The answer is to something else.
    #[error("KMIP answer does not match the request: {what}")]
    NotTheAnswer {
        /// In which respect.
        what: &'static str,
    },
}

/// One item: a tag and a value.
pub struct Item<'a> {
    /// What it is.
    pub tag: Tag,
    /// What it holds.
    pub value: Value<'a>,
}

/// A value. Texts and bytes point into the frame, so that wiping the frame wipes them.
pub enum Value<'a> {
    /// Items.
    Structure(Vec<Item<'a>>),
    /// 32 bits.
    Integer(i32),
    /// 64 bits.
    LongInteger(i64),
    /// Two's complement, big endian.
    BigInteger(&'a [u8]),
    /// A code.
    Enumeration(u32),
    /// True or false.
    Boolean(bool),
    /// UTF-8.
    Text(&'a str),
    /// Bytes, perhaps secret.
    Bytes(&'a [u8]),
    /// Seconds since 1970.
    DateTime(i64),
    /// Seconds.
    Interval(u32),
    /// Microseconds since 1970 (2.0).
    DateTimeExtended(i64),
}

impl fmt::Debug for Item<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Item({:?}, {:?})", self.tag, self.value)
    }
}

impl fmt::Debug for Value<'_> {
    /// Type and size only: any value may be, or name, a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Structure(items) => f.debug_list().entries(items).finish(),
            Self::Text(text) => write!(f, "text of {} bytes", text.len()),
            Self::Bytes(bytes) | Self::BigInteger(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Integer(_) | Self::Enumeration(_) | Self::Interval(_) => f.write_str("32 bits"),
            Self::LongInteger(_) | Self::DateTime(_) | Self::DateTimeExtended(_) => f.write_str("64 bits"),
            Self::Boolean(_) => f.write_str("boolean"),
        }
    }
}

/// How many bytes follow the first [`HEADER_BYTES`] of a frame; refuses a frame over the limit before it is read.
pub fn frame_length(header: [u8; HEADER_BYTES]) -> Result<usize, DecodeError> {
    let [_, _, _, _, a, b, c, d] = header;
    let bytes = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if bytes > FRAME_BYTES_MAX - HEADER_BYTES {
        return Err(DecodeError::TooLarge { bytes });
    }
    Ok(bytes)
}

/// Reads one whole frame: exactly one item, nothing before or after it.
pub fn parse(frame: &[u8]) -> Result<Item<'_>, DecodeError> {
    if frame.len() > FRAME_BYTES_MAX {
        return Err(DecodeError::TooLarge { bytes: frame.len() });
    }
    let mut reader = Reader { items: 0 };
    let mut rest = frame;
    let item = reader.item(&mut rest, 1)?;
    if rest.is_empty() { Ok(item) } else { Err(DecodeError::Trailing { bytes: rest.len() }) }
}

struct Reader {
    items: usize,
}

impl Reader {
    fn item<'a>(&mut self, rest: &mut &'a [u8], depth: usize) -> Result<Item<'a>, DecodeError> {
        if depth > DEPTH_MAX {
            return Err(DecodeError::TooDeep);
        }
        self.items += 1;
        if self.items > ITEMS_MAX {
            return Err(DecodeError::TooMany);
        }
        let Some((&[a, b, c, kind, l0, l1, l2, l3], after)) = rest.split_first_chunk::<HEADER_BYTES>() else {
            return Err(DecodeError::Truncated { wanted: HEADER_BYTES, found: rest.len() });
        };
        let tag = Tag(u32::from_be_bytes([0, a, b, c]));
        let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let (body, after) = take(after, length)?;
        // A structure is a whole number of padded items already; every other value is padded to eight bytes.
        let padding = if kind == 0x01 { 0 } else { length.next_multiple_of(8) - length };
        let (_, after) = take(after, padding)?;
        *rest = after;
        let value = if kind == 0x01 { self.structure(body, depth)? } else { scalar(tag, kind, body)? };
        Ok(Item { tag, value })
    }

    fn structure<'a>(&mut self, mut body: &'a [u8], depth: usize) -> Result<Value<'a>, DecodeError> {
        let mut items = Vec::new();
        while !body.is_empty() {
            items.push(self.item(&mut body, depth + 1)?);
        }
        Ok(Value::Structure(items))
    }
}

fn take(bytes: &[u8], length: usize) -> Result<(&[u8], &[u8]), DecodeError> {
    bytes.split_at_checked(length).ok_or(DecodeError::Truncated { wanted: length, found: bytes.len() })
}

fn scalar(tag: Tag, kind: u8, body: &[u8]) -> Result<Value<'_>, DecodeError> {
    let wrong = || DecodeError::WrongLength { tag, kind, bytes: body.len() };
    let four = || <[u8; 4]>::try_from(body).map_err(|_| wrong());
    let eight = || <[u8; 8]>::try_from(body).map_err(|_| wrong());
    Ok(match kind {
        0x02 => Value::Integer(i32::from_be_bytes(four()?)),
        0x03 => Value::LongInteger(i64::from_be_bytes(eight()?)),
        0x04 if body.is_empty() || !body.len().is_multiple_of(8) => return Err(wrong()),
        0x04 => Value::BigInteger(body),
        0x05 => Value::Enumeration(u32::from_be_bytes(four()?)),
        0x06 => Value::Boolean(eight()? != [0; 8]),
        0x07 => Value::Text(std::str::from_utf8(body).map_err(|_| DecodeError::NotText { tag })?),
        0x08 => Value::Bytes(body),
        0x09 => Value::DateTime(i64::from_be_bytes(eight()?)),
        0x0A => Value::Interval(u32::from_be_bytes(four()?)),
        0x0B => Value::DateTimeExtended(i64::from_be_bytes(eight()?)),
        kind => return Err(DecodeError::UnknownType { tag, kind }),
    })
}

impl<'a> Item<'a> {
    /// The items of a structure; none for any other type.
    pub fn children(&self) -> &[Item<'a>] {
        match &self.value {
            Value::Structure(items) => items,
            _ => &[],
        }
    }
    /// Every child with this tag.
    pub fn all(&self, tag: Tag) -> impl Iterator<Item = &Item<'a>> {
        self.children().iter().filter(move |item| item.tag == tag)
    }
    /// The only child with this tag, if there is one. Two are an error: which one counts must not be a matter of taste.
    pub fn optional(&self, tag: Tag) -> Result<Option<&Item<'a>>, DecodeError> {
        let mut found = self.all(tag);
        let first = found.next();
        if found.next().is_some() { Err(DecodeError::Repeated { tag }) } else { Ok(first) }
    }
    /// The only child with this tag.
    pub fn required(&self, tag: Tag) -> Result<&Item<'a>, DecodeError> {
        self.optional(tag)?.ok_or(DecodeError::Missing { tag })
    }
    /// The value, if it is an Enumeration.
    pub fn enumeration(&self) -> Result<u32, DecodeError> {
        if let Value::Enumeration(code) = self.value { Ok(code) } else { Err(DecodeError::Missing { tag: self.tag }) }
    }
    /// The value, if it is an Integer.
    pub fn integer(&self) -> Result<i32, DecodeError> {
        if let Value::Integer(value) = self.value { Ok(value) } else { Err(DecodeError::Missing { tag: self.tag }) }
    }
    /// The value, if it is text.
    pub fn text(&self) -> Result<&'a str, DecodeError> {
        if let Value::Text(text) = self.value { Ok(text) } else { Err(DecodeError::Missing { tag: self.tag }) }
    }
    /// The value, if it is bytes.
    pub fn bytes(&self) -> Result<&'a [u8], DecodeError> {
        if let Value::Bytes(bytes) = self.value { Ok(bytes) } else { Err(DecodeError::Missing { tag: self.tag }) }
    }
}
