//! The frame of `wrapped_key`: three little-endian u32 (nonce length 12, tag length 16, length of ciphertext and tag),
//! the nonce, the ciphertext, the tag. Source: Intel Key Broker Service, key transfer response.

use crate::{material::KEY_MATERIAL_BYTES_MAX, pair::UnwrapError};

pub(crate) const HEADER_BYTES: usize = 12;
pub(crate) const NONCE_BYTES: usize = 12;
pub(crate) const TAG_BYTES: usize = 16;

/// The parts of a frame whose three lengths are all as they must be.
pub(crate) struct Frame<'a> {
    pub(crate) nonce: [u8; NONCE_BYTES],
    /// Ciphertext and tag.
    pub(crate) sealed: &'a [u8],
}

/// `sealed` is ciphertext and tag.
pub(crate) fn encode(nonce: [u8; NONCE_BYTES], sealed: &[u8]) -> Option<Vec<u8>> {
    let sealed_length = u32::try_from(sealed.len()).ok()?;
    let mut frame = Vec::with_capacity(HEADER_BYTES + NONCE_BYTES + sealed.len());
    for length in [12_u32, 16, sealed_length] {
        frame.extend_from_slice(&length.to_le_bytes());
    }
    frame.extend_from_slice(&nonce);
    frame.extend_from_slice(sealed);
    Some(frame)
}

/// Checks the whole header before anything is opened: Intel's own sample skips it.
pub(crate) fn decode(frame: &[u8]) -> Result<Frame<'_>, UnwrapError> {
    let truncated = UnwrapError::Truncated { bytes: frame.len() };
    let Some((header, body)) = frame.split_at_checked(HEADER_BYTES) else { return Err(truncated) };
    let Some((nonce, sealed)) = body.split_first_chunk::<NONCE_BYTES>() else { return Err(truncated) };
    let announced = |index: usize| {
        let bytes: [u8; 4] = std::array::from_fn(|i| header[index * 4 + i]);
        u32::from_le_bytes(bytes) as usize
    };
    for (field, index, wanted) in [("nonce", 0, NONCE_BYTES), ("tag", 1, TAG_BYTES), ("ciphertext", 2, sealed.len())] {
        if announced(index) != wanted {
            return Err(UnwrapError::Header { field, announced: announced(index), wanted });
        }
    }
    if sealed.len() <= TAG_BYTES || sealed.len() > KEY_MATERIAL_BYTES_MAX + TAG_BYTES {
        return Err(UnwrapError::Truncated { bytes: frame.len() });
    }
    Ok(Frame { nonce: *nonce, sealed })
}
