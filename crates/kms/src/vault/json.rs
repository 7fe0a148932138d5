//! JSON with secrets in it: texts that are wiped, read from and written into buffers that are wiped.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::KmsError;

const NOT_JSON: KmsError = KmsError::Protocol("an answer is not the JSON that this API promises");

/// A text that is wiped, and never printed.
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    pub(crate) fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Raw, because the parser would unescape into a buffer of its own that it does not wipe.
        let raw = <&RawValue>::deserialize(deserializer)?;
        unescape(raw.get()).map(Self).ok_or_else(|| serde::de::Error::custom("expected a string"))
    }
}

/// What a JSON string literal stands for.
fn unescape(literal: &str) -> Option<Zeroizing<String>> {
    let inner = literal.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = Zeroizing::new(String::with_capacity(inner.len()));
    let mut rest = inner;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        text.push_str(plain);
        let mut characters = escaped.chars();
        rest = match characters.next()? {
            'n' => push(&mut text, '\n', characters.as_str()),
            't' => push(&mut text, '\t', characters.as_str()),
            'r' => push(&mut text, '\r', characters.as_str()),
            'b' => push(&mut text, '\u{8}', characters.as_str()),
            'f' => push(&mut text, '\u{c}', characters.as_str()),
            'u' => {
                // Outside the basic plane it takes two; nothing that we read has such a character.
                let code = u32::from_str_radix(characters.as_str().get(..4)?, 16).ok()?;
                push(&mut text, char::from_u32(code)?, characters.as_str().get(4..)?)
            }
            itself => push(&mut text, itself, characters.as_str()),
        };
    }
    text.push_str(rest);
    Some(text)
}

fn push<'a>(text: &mut String, character: char, rest: &'a str) -> &'a str {
    text.push(character);
    rest
}

/// The answer's envelope: everything useful is in `data`.
#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

/// The `data` of an answer.
pub(crate) fn data<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, KmsError> {
    read::<Envelope<T>>(body).map(|envelope| envelope.data)
}

/// All of an answer.
pub(crate) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, KmsError> {
    serde_json::from_slice(body).map_err(|_| NOT_JSON)
}

/// All of a text that holds no secret.
pub(crate) fn read_plain<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body).ok()
}

/// A body. `secret_bytes` is the length of the secrets in it: the buffer never grows, so nothing is left behind.
pub(crate) fn write(body: &impl Serialize, secret_bytes: usize) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    // Twice, for a text in a text; the rest for names and marks.
    let mut buffer = Zeroizing::new(Vec::with_capacity(2 * secret_bytes + 8 * 1024));
    serde_json::to_writer(&mut *buffer, body).map_err(|_| KmsError::Internal)?;
    Ok(buffer)
}

/// An object of texts.
pub(crate) fn write_texts(fields: &[(&str, &str)]) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let fields: BTreeMap<_, _> = fields.iter().copied().collect();
    write(&fields, fields.values().map(|text| text.len()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_reads_as_the_parser_reads_it() {
        for text in ["", "plain", "a\"b\\c/d", "\n\t\r\u{8}\u{c}", "\u{1f}\u{7f}é✓", "{\"key_data\":\"QUJD\"}", "ends with \\"] {
            let literal = serde_json::to_string(text).unwrap();
            assert_eq!(unescape(&literal).unwrap().as_str(), text);
        }
        assert_eq!(unescape(r#""\/\u003d""#).unwrap().as_str(), "/=");
        for wrong in ["", "\"", "plain", "1", "null", r#""\u12""#, r#""\ud800""#] {
            assert!(unescape(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret: Secret = serde_json::from_str("\"hidden\"").unwrap();
        assert_eq!((secret.expose(), format!("{secret:?}").contains("hidden")), ("hidden", false));
    }
}
