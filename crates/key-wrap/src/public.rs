//! RSA public keys to wrap for: parsed and judged once, then only used.

use std::fmt;

use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OaepAlgorithm, OaepPublicEncryptingKey, PublicEncryptingKey};
use der::{Decode, Encode, asn1::BitString, asn1::UintRef};
use pkcs1::RsaPublicKey;
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfo, SubjectPublicKeyInfoRef};

/// The longest PEM text that is looked at: an RSA-8192 public key has 1.6 kB.
pub const PEM_BYTES_MAX: usize = 16 * 1024;

/// A quoted key is *longer* than this, as in Intel's Key Broker Service. Not only 3072 and 4096 bits are taken, though those
/// are what Intel's clients make: an attester that asked Intel's broker with, say, 3071 bits is served there, and would be
/// locked out here without being any safer.
const HELD_BITS_EXCLUSIVE_MIN: usize = 2048;
/// An exported key's recipient has at least this.
const EXPORT_BITS_MIN: usize = 2048;
/// Longer keys only cost the broker time.
const BITS_MAX: usize = 8192;
/// Exponents in use have at most 17 bits. A verifier that takes evidence without a nonce hashes the user data alone, so
/// whoever replays a quote over a nonce can present `nonce || key` as held data: a modulus that nobody made, which may
/// happen to be factored easily. A nonce is base64 text, and four such characters read as an exponent exceed this by far.
const HELD_EXPONENT_MAX: u32 = 0x00FF_FFFF;

/// Why bytes are no acceptable RSA public key. Never repeats them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// Held data too short or too long to be `exponent || modulus`.
    #[error("held data has {bytes} bytes: 4 bytes of exponent and 257 to 1024 bytes of modulus are needed")]
    HeldLength {
        /// Bytes found.
        bytes: usize,
    },
    /// Not PEM with the label `PUBLIC KEY`.
    #[error("not a PEM block with the label PUBLIC KEY (a SubjectPublicKeyInfo of at most {PEM_BYTES_MAX} characters)")]
    Pem,
    /// The PEM holds no RSA `SubjectPublicKeyInfo`.
    #[error("the PEM block is no RSA SubjectPublicKeyInfo")]
    Spki,
    /// Outside the allowed sizes.
    #[error("RSA modulus has {bits} bits: {min} to {BITS_MAX} are allowed")]
    ModulusBits {
        /// Bits found.
        bits: usize,
        /// Smallest allowed.
        min: usize,
    },
    /// Leading zero byte, or even.
    #[error("RSA modulus is not a canonical odd number (big-endian, first byte not zero)")]
    Modulus,
    /// Even, below 3, or above 2^24 in held data; a byte order other than little-endian shows here.
    #[error("RSA exponent is even, below 3 or above 2^24: it is a little-endian u32 in held data")]
    Exponent,
    /// The cryptographic library refused it all the same.
    #[error("the RSA public key is not usable")]
    Unusable,
}

/// The public key that a TD had quoted, from the `attester_held_data` claim.
pub struct HeldPublicKey(RsaKey);

impl HeldPublicKey {
    /// Reads Intel's form for TDX: bytes 0 to 3 are the exponent as a *little-endian* u32, the rest is the modulus
    /// *big-endian* without leading zeros. The modulus has more than 2048 and at most 8192 bits.
    pub fn from_intel(held_data: &[u8]) -> Result<Self, PublicKeyError> {
        let wrong_length = PublicKeyError::HeldLength { bytes: held_data.len() };
        let Some((exponent, modulus)) = held_data.split_first_chunk::<4>() else { return Err(wrong_length) };
        if modulus.len() < HELD_BITS_EXCLUSIVE_MIN / 8 || modulus.len() > BITS_MAX / 8 {
            return Err(wrong_length);
        }
        let exponent = u32::from_le_bytes(*exponent);
        if exponent > HELD_EXPONENT_MAX {
            return Err(PublicKeyError::Exponent);
        }
        RsaKey::checked(modulus, exponent, HELD_BITS_EXCLUSIVE_MIN + 1).map(Self)
    }

    /// Reads Intel's form for SGX: as for TDX, with the modulus *little-endian*. Which of the two it is, the attester's type
    /// says: a modulus read in the wrong order is another number, as a rule one that is refused.
    pub fn from_intel_sgx(held_data: &[u8]) -> Result<Self, PublicKeyError> {
        let Some((exponent, modulus)) = held_data.split_first_chunk::<4>() else {
            return Err(PublicKeyError::HeldLength { bytes: held_data.len() });
        };
        let modulus = modulus.iter().rev();
        Self::from_intel(&exponent.iter().chain(modulus).copied().collect::<Vec<_>>())
    }

    /// Modulus length in bits.
    pub fn bits(&self) -> usize {
        self.0.bits
    }

    /// The same key as PEM, label `PUBLIC KEY` (SPKI), for a KMS that wraps by itself.
    pub fn to_spki_pem(&self) -> String {
        let block = pem::Pem::new("PUBLIC KEY", self.0.spki_der.clone());
        pem::encode_config(&block, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
    }

    /// OAEP-SHA256 under this key.
    pub(crate) fn encrypt_swk(&self, swk: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(&OAEP_SHA256_MGF1SHA256, swk)
    }
}

/// An administrator's own public key, to export key material to.
pub struct ExportPublicKey(RsaKey);

impl ExportPublicKey {
    /// Reads a PEM block with the label `PUBLIC KEY` (SPKI), RSA of 2048 to 8192 bits. Text before the block and a
    /// missing last newline are tolerated, as Intel's server does.
    pub fn from_spki_pem(text: &str) -> Result<Self, PublicKeyError> {
        if text.len() > PEM_BYTES_MAX {
            return Err(PublicKeyError::Pem);
        }
        let block = pem::parse(text).map_err(|_| PublicKeyError::Pem)?;
        if block.tag() != "PUBLIC KEY" {
            return Err(PublicKeyError::Pem);
        }
        let (modulus, exponent) = read_spki(block.contents())?;
        RsaKey::checked(&modulus, exponent, EXPORT_BITS_MIN).map(Self)
    }

    /// Modulus length in bits.
    pub fn bits(&self) -> usize {
        self.0.bits
    }

    /// The longest plaintext OAEP-SHA384 takes under this key.
    pub(crate) fn plaintext_bytes_max(&self) -> usize {
        self.0.key.max_plaintext_size(&OAEP_SHA384_MGF1SHA384)
    }

    /// OAEP-SHA384 under this key.
    pub(crate) fn encrypt(&self, plaintext: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(&OAEP_SHA384_MGF1SHA384, plaintext)
    }
}

struct RsaKey {
    key: OaepPublicEncryptingKey,
    bits: usize,
    spki_der: Vec<u8>,
}

impl RsaKey {
    fn checked(modulus: &[u8], exponent: u32, bits_min: usize) -> Result<Self, PublicKeyError> {
        let (Some(first), Some(last)) = (modulus.first(), modulus.last()) else { return Err(PublicKeyError::Modulus) };
        if *first == 0 || last.is_multiple_of(2) {
            return Err(PublicKeyError::Modulus);
        }
        let bits = modulus.len() * 8 - first.leading_zeros() as usize;
        if !(bits_min..=BITS_MAX).contains(&bits) {
            return Err(PublicKeyError::ModulusBits { bits, min: bits_min });
        }
        if exponent < 3 || exponent.is_multiple_of(2) {
            return Err(PublicKeyError::Exponent);
        }
        let der = write_spki(modulus, exponent).map_err(|_| PublicKeyError::Unusable)?;
        let public = PublicEncryptingKey::from_der(&der).map_err(|_| PublicKeyError::Unusable)?;
        let key = OaepPublicEncryptingKey::new(public).map_err(|_| PublicKeyError::Unusable)?;
        Ok(Self { key, bits, spki_der: der })
    }

    fn encrypt(&self, algorithm: &'static OaepAlgorithm, plaintext: &[u8]) -> Option<Vec<u8>> {
        let mut ciphertext = vec![0; self.key.ciphertext_size()];
        let written = self.key.encrypt(algorithm, plaintext, &mut ciphertext, None).ok()?.len();
        ciphertext.truncate(written);
        Some(ciphertext)
    }
}

impl fmt::Debug for HeldPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeldPublicKey(RSA-{})", self.0.bits)
    }
}
impl fmt::Debug for ExportPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExportPublicKey(RSA-{})", self.0.bits)
    }
}

/// A DER `SubjectPublicKeyInfo` of an RSA key.
pub(crate) fn write_spki(modulus: &[u8], exponent: u32) -> Result<Vec<u8>, der::Error> {
    let exponent = exponent.to_be_bytes();
    let key = RsaPublicKey { modulus: UintRef::new(modulus)?, public_exponent: UintRef::new(&exponent)? };
    let algorithm: AlgorithmIdentifierRef<'_> = pkcs1::ALGORITHM_ID;
    SubjectPublicKeyInfo { algorithm, subject_public_key: BitString::from_bytes(&key.to_der()?)? }.to_der()
}

/// Modulus (big-endian, no leading zero) and exponent of a DER `SubjectPublicKeyInfo`.
pub(crate) fn read_spki(der: &[u8]) -> Result<(Vec<u8>, u32), PublicKeyError> {
    let spki = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| PublicKeyError::Spki)?;
    spki.algorithm.assert_algorithm_oid(pkcs1::ALGORITHM_OID).map_err(|_| PublicKeyError::Spki)?;
    let key = spki.subject_public_key.as_bytes().ok_or(PublicKeyError::Spki)?;
    let key = RsaPublicKey::<UintRef<'_>>::from_der(key).map_err(|_| PublicKeyError::Spki)?;
    let exponent = key.public_exponent.as_bytes();
    let Some(padding) = 4_usize.checked_sub(exponent.len()) else { return Err(PublicKeyError::Exponent) };
    let mut bytes = [0; 4];
    bytes[padding..].copy_from_slice(exponent);
    Ok((key.modulus.as_bytes().to_vec(), u32::from_be_bytes(bytes)))
}
