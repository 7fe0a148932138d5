//! A time in a record: RFC 3339 with its fraction; the first version of this service wrote seconds.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Seconds(i64),
    Text(Timestamp),
}

pub(super) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    at.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    match Stored::deserialize(deserializer)? {
        Stored::Text(at) => Ok(at),
        Stored::Seconds(seconds) => Timestamp::from_second(seconds).map_err(D::Error::custom),
    }
}
