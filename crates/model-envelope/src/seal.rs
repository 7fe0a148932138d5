//! Sealing a model as KFM1, in memory.

use aws_lc_rs::{aead::Aad, rand};
use keyferry_key_wrap::KeyMaterial;

use crate::{
    ChunkSize, EnvelopeError, Header, TAG_BYTES,
    keys::{FileKey, SALT_BYTES},
    kfm1::{MAGIC, PRELUDE_BYTES, SUITE, VERSION, header_hash},
};

/// Seals `plaintext` under a fresh salt: two calls never give the same bytes, and one released key may seal many models.
pub fn seal(key: &KeyMaterial, header: &Header, chunk_size: ChunkSize, plaintext: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let mut salt = [0; SALT_BYTES];
    rand::fill(&mut salt).map_err(|_| EnvelopeError::Crypto)?;
    seal_with_salt(key, header, chunk_size, plaintext, &salt)
}

fn seal_with_salt(
    key: &KeyMaterial,
    header: &Header,
    chunk_size: ChunkSize,
    plaintext: &[u8],
    salt: &[u8; SALT_BYTES],
) -> Result<Vec<u8>, EnvelopeError> {
    if plaintext.is_empty() {
        return Err(EnvelopeError::Empty);
    }
    let header = header.encode(plaintext.len() as u64)?;
    let header_length = u32::try_from(header.len()).map_err(|_| EnvelopeError::HeaderTooLong { bytes: header.len() as u64 })?;
    let chunks = chunk_size.chunks(plaintext.len() as u64)?;
    let tags = usize::try_from(chunks).map_err(|_| EnvelopeError::TooManyChunks)?.saturating_mul(TAG_BYTES);

    let mut file = Vec::with_capacity(PRELUDE_BYTES.saturating_add(header.len()).saturating_add(plaintext.len()).saturating_add(tags));
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&[VERSION, SUITE, chunk_size.log2(), 0]);
    file.extend_from_slice(&header_length.to_be_bytes());
    file.extend_from_slice(salt);
    let header_hash = header_hash(&file, &header);
    let key = FileKey::derive(key, salt)?;
    file.extend_from_slice(&key.commitment()?);
    file.extend_from_slice(&key.header_tag(&header_hash)?);
    file.extend_from_slice(&header);

    let cipher = key.chunks(&header_hash)?;
    let mut pieces = plaintext.chunks(chunk_size.bytes()).peekable();
    let mut index: u32 = 0;
    while let Some(piece) = pieces.next() {
        let start = file.len();
        file.extend_from_slice(piece);
        let nonce = cipher.nonce(index, pieces.peek().is_none());
        let tag =
            cipher.key.seal_in_place_separate_tag(nonce, Aad::from(&header_hash), &mut file[start..]).map_err(|_| EnvelopeError::Crypto)?;
        file.extend_from_slice(tag.as_ref());
        index = index.wrapping_add(1); // 2^32 chunks at most: it wraps after the last one only
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::{Kfm1, MediaType, ModelName};

    /// The test vector of the format, computed with Python's `hashlib` and `cryptography`: key 00..1f, salt 20..3f, fixed header, 100 000 bytes `i * 7 mod 251`.
    #[test]
    fn a_fixed_salt_gives_the_published_vector() {
        let key = KeyMaterial::new((0..32).collect::<Vec<u8>>()).unwrap();
        let salt: [u8; 32] = std::array::from_fn(|i| u8::try_from(i + 32).unwrap());
        let mut header = Header::new(
            uuid::uuid!("00112233-4455-6677-8899-aabbccddeeff"),
            MediaType::parse("onnx").unwrap(),
            ModelName::parse("vector").unwrap(),
        );
        header.parameters.insert("b".into(), "2".into());
        header.parameters.insert("a".into(), "1".into());
        let plaintext: Vec<u8> = (0..100_000_u32).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
        let file = seal_with_salt(&key, &header, ChunkSize::from_log2(16).unwrap(), &plaintext, &salt).unwrap();
        assert_eq!(hex::encode(&file[44..108]), VECTOR_COMMITMENT_AND_HEADER_TAG);
        assert_eq!(hex::encode(Sha256::digest(&file)), VECTOR_SHA256);
        assert_eq!(Kfm1::parse(&file).unwrap().digest().to_string(), VECTOR_MODEL_DIGEST);
    }
    const VECTOR_COMMITMENT_AND_HEADER_TAG: &str =
        "480443e969a2bd8a7c8ca41ad3876d13fc3c3969ee2fd5850bff166f60090cd2369ce3e65fd56a749833c2c25f332ce9c201876e56c99486c5335e563d2a9921";
    const VECTOR_SHA256: &str = "f8c7d9af6265302a92fba4cbffe3d1d6a66a67baecfd17953aea6c049de76906";
    const VECTOR_MODEL_DIGEST: &str = "204dc2032c310958c290e0b8a30084a3515be723fad58fd632e60b44f96db49a";
}
