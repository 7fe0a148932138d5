//! Request bodies as Go's decoder reads them: member names in any case, the first value only, unknown members refused.
//! Stricter where Go's leniency would hide something: a member that is there twice is refused, and so is text that is not
//! UTF-8. Nesting is bounded by the parser, size by whoever read the body.

use std::fmt;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::Denial;

/// Characters of a parser's message that are passed on.
const MESSAGE_CHARACTERS_MAX: usize = 200;
/// Go's decoder takes a last digit with surplus bits, and skips line ends.
const STANDARD: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The body as a `T`. Every member name has been lower-cased, and `null` for the whole body is refused.
pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Denial> {
    let value = document(body)?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (path, cause) = (error.path().to_string(), error.into_inner().to_string());
        // Of the parser's texts only this one cannot repeat a value, which may be a secret in the wrong place.
        let problem = if cause.starts_with("unknown field") { cause } else { format!("`{path}` has a wrong type or value") };
        Denial::malformed("body:", problem.chars().take(MESSAGE_CHARACTERS_MAX).collect::<String>())
    })
}

/// The first JSON value of a body, which must be an object, with its member names lower-cased.
pub(super) fn document(body: &[u8]) -> Result<Value, Denial> {
    let mut parser = serde_json::Deserializer::from_slice(body);
    let parsed = Folded::deserialize(&mut parser);
    let Folded(value) = parsed.map_err(|error| match error.to_string() {
        text if text.starts_with("duplicate member") => Denial::malformed("body:", "a member is there twice"),
        _ => Denial::malformed("body:", format!("no JSON, line {} column {}", error.line(), error.column())),
    })?;
    if value.is_object() { Ok(value) } else { Err(Denial::malformed("body:", "must be a JSON object")) }
}

/// Standard base64, as Go reads it; padding may be absent.
pub(super) fn base64(field: &'static str, text: Option<&str>) -> Result<Vec<u8>, Denial> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let bytes: Vec<u8> = text.bytes().filter(|byte| !is_line_end(byte)).collect();
    STANDARD.decode(bytes).map_err(|_| Denial::malformed(field, "is not base64"))
}

/// A JSON value whose member names are lower-case, each of them once.
struct Folded(Value);

impl<'de> Deserialize<'de> for Folded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FoldedVisitor)
    }
}

struct FoldedVisitor;

impl<'de> Visitor<'de> for FoldedVisitor {
    type Value = Folded;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Folded, E> {
        Ok(Folded(Value::Null))
    }
    fn visit_bool<E>(self, value: bool) -> Result<Folded, E> {
        Ok(Folded(Value::Bool(value)))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Folded, E> {
        Ok(Folded(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Folded, E> {
        Ok(Folded(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Folded, E> {
        Ok(Folded(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }
    fn visit_str<E>(self, value: &str) -> Result<Folded, E> {
        Ok(Folded(value.into()))
    }
    fn visit_string<E>(self, value: String) -> Result<Folded, E> {
        Ok(Folded(value.into()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Folded, A::Error> {
        let mut list = Vec::new();
        while let Some(Folded(entry)) = entries.next_element()? {
            list.push(entry);
        }
        Ok(Folded(list.into()))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Folded, A::Error> {
        let mut members = Map::new();
        while let Some((mut name, Folded(value))) = entries.next_entry::<String, Folded>()? {
            name.make_ascii_lowercase();
            if members.insert(name, value).is_some() {
                return Err(serde::de::Error::custom("duplicate member"));
            }
        }
        Ok(Folded(members.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        key_length: Option<u16>,
        name: Option<String>,
    }

    #[test]
    fn bodies_are_read_as_go_reads_them() {
        let sample = |key_length, name: Option<&str>| Sample { key_length, name: name.map(str::to_owned) };
        for (body, expected) in [
            (r#"{"KEY_Length":3,"name":null}"#, sample(Some(3), None)),
            (r#"{"name":"Ab"} trailing {"#, sample(None, Some("Ab"))),
            ("{}", sample(None, None)),
        ] {
            assert_eq!(decode::<Sample>(body.as_bytes()).unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused_and_no_value_is_repeated() {
        let deep = "[".repeat(100_000);
        for body in [
            r#"{"key_length":"3"}"#,
            r#"{"key_length":70000}"#,
            r#"{"key_length":3.0}"#,
            r#"{"name":7}"#,
            r#"{"other":1}"#,
            r#"{"name":"secret""#,
            r#"{"key_length":"secret"}"#,
            r#"{"name":"secret","NAME":"b"}"#,
            "null",
            "[]",
            "",
            &deep,
        ] {
            let denial = decode::<Sample>(body.as_bytes()).unwrap_err();
            assert!(!denial.to_string().contains("secret"), "{denial}");
        }
        assert!(decode::<Sample>(b"{\"name\":\"\xff\"}").is_err(), "not UTF-8");
    }

    #[test]
    fn base64_is_gos() {
        for text in ["QQ==", "QQ", "Q\nQ=\r=", "QR=="] {
            assert_eq!(base64("quote", Some(text)).unwrap(), b"A");
        }
        assert!(base64("quote", Some("Q_==")).is_err() && base64("quote", None).unwrap().is_empty());
    }
}
