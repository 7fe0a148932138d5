//! Writes TTLV into one buffer that is wiped on drop.

use zeroize::Zeroizing;

use crate::vocabulary::Tag;

pub(crate) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    /// `capacity` must hold the whole message: a buffer that grows leaves its old copy behind unwiped.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(capacity)))
    }
    pub(crate) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
    pub(crate) fn structure(&mut self, tag: Tag, children: impl FnOnce(&mut Self)) {
        self.header(tag, 0x01, 0);
        let start = self.0.len();
        children(self);
        let length = wire_length(self.0.len() - start);
        if let Some(field) = self.0.get_mut(start - 4..start) {
            field.copy_from_slice(&length.to_be_bytes());
        }
    }
    pub(crate) fn integer(&mut self, tag: Tag, value: i32) {
        self.header(tag, 0x02, 4);
        self.padded(&value.to_be_bytes());
    }
    pub(crate) fn enumeration(&mut self, tag: Tag, value: u32) {
        self.header(tag, 0x05, 4);
        self.padded(&value.to_be_bytes());
    }
    pub(crate) fn text(&mut self, tag: Tag, value: &str) {
        self.header(tag, 0x07, value.len());
        self.padded(value.as_bytes());
    }
    pub(crate) fn bytes(&mut self, tag: Tag, value: &[u8]) {
        self.header(tag, 0x08, value.len());
        self.padded(value);
    }

    fn header(&mut self, tag: Tag, kind: u8, length: usize) {
        let [_, tag @ ..] = tag.number().to_be_bytes();
        self.0.extend_from_slice(&tag);
        self.0.push(kind);
        self.0.extend_from_slice(&wire_length(length).to_be_bytes());
    }
    fn padded(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
        let padding = value.len().next_multiple_of(8) - value.len();
        self.0.extend_from_slice([0; 8].get(..padding).unwrap_or_default());
    }
}

/// A length over four bytes cannot be right on the wire; the frame limit of [`crate::encode`] refuses the message then.
fn wire_length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
