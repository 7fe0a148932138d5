//! KMIP messages and their TTLV encoding: bytes in, bytes out.
//!
//! This crate builds the twelve requests a key broker sends (KMIP 1.2 to 1.4 and 2.0) and reads the answers. It knows no
//! socket, no TLS, no clock and no policy: whoever holds a connection asks [`frame_length`] how much to read, and whoever
//! decides about a release reads [`Attributes`] and [`KeyObject`].
//!
//! ```
//! use keyferry_kmip::{ObjectId, Request, Version, encode};
//! let id = ObjectId::parse("42")?;
//! let frame = encode(Version::V1_4, None, &[Request::GetAttributes { id: &id }, Request::Get { id: &id }])?;
//! assert_eq!(&frame[..3], [0x42, 0x00, 0x78]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **Why an own reader.** An answer comes from another machine and may be hostile. The serde decoders for KMIP recurse
//! without a limit on one changed byte (a stack overflow aborts the process), match fields by position and refuse every
//! item they do not know. Here a frame becomes a small tree ([`Item`]) with a depth limit, a size limit and a length check
//! against the parent at every step; meaning is then picked out by tag number and unknown items are ignored.
//!
//! **Why an own writer.** One writer serves both dialects (1.x names attributes by text, 2.0 by tag), while the published
//! crate has no 2.0 at all, combines usage mask bits by transmuting an enum, and keeps passwords and key material in plain
//! strings with a derived `Debug`. Ours writes into one buffer that is wiped on drop. The tests compare its bytes with
//! that crate's for every 1.4 request both can make.
//!
//! **Why an empty identifier cannot be sent.** Some servers take a missing or empty identifier to mean "the object created
//! last, by anyone". [`ObjectId`] has no empty value.

mod identifier;
mod reader;
mod request;
mod response;
mod vocabulary;
mod writer;

pub use identifier::{NameError, ObjectId, ObjectName};
pub use reader::{DEPTH_MAX, DecodeError, FRAME_BYTES_MAX, HEADER_BYTES, ITEMS_MAX, Item, Value, frame_length, parse};
pub use request::{Credential, EncodeError, NewKey, NewPair, Request, RevocationReason, encode};
pub use response::{Attributes, KeyObject, Payload, Relations, ResponseError, decode};
pub use vocabulary::{
    Algorithm, KeyFormat, LinkType, ObjectType, Operation, RecommendedCurve, ResultReason, State, Tag, UsageMask, Version,
};
