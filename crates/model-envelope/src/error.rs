//! Why a model is not opened or not sealed.

/// A refusal: names the field, never repeats bytes of the file, the key or the plaintext.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The file ends before this part does.
    #[error("the sealed model ends inside its {field}: {needed} bytes needed, {got} there")]
    Truncated {
        /// Which part.
        field: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        got: u64,
    },
    /// The first four bytes are not `KFM1`.
    #[error("the file does not begin with KFM1: it is no KFM1 container")]
    NotKfm1,
    /// A version this crate does not read.
    #[error("KFM1 version {0} is not known: version 1 is read")]
    Version(u8),
    /// A cipher suite this crate does not read.
    #[error("KFM1 suite {0} is not known: suite 1 (AES-256-GCM, HKDF-SHA256) is read")]
    Suite(u8),
    /// A chunk size outside 64 KiB to 16 MiB.
    #[error("chunk size 2^{0} is outside 2^16 to 2^24 bytes")]
    ChunkSize(u8),
    /// A reserved byte is set.
    #[error("a reserved byte of the KFM1 prelude is set")]
    Reserved,
    /// The header is over 64 KiB.
    #[error("the header has {bytes} bytes: at most 65536 are read")]
    HeaderTooLong {
        /// Bytes announced.
        bytes: u64,
    },
    /// A member of the header is missing or out of bounds.
    #[error("header member {field}: {problem}")]
    HeaderMember {
        /// Which member.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not the one canonical encoding: unknown members, another order, or padding.
    #[error("the header is not canonically encoded")]
    HeaderNotCanonical,
    /// The file is longer or shorter than its header says.
    #[error("the sealed model has {got} bytes, its header asks for {wanted}")]
    Size {
        /// Bytes the header asks for.
        wanted: u64,
        /// Bytes there.
        got: u64,
    },
    /// The destination does not fit the plaintext exactly.
    #[error("the destination has {got} bytes, the plaintext {wanted}")]
    Destination {
        /// Bytes of the plaintext.
        wanted: usize,
        /// Bytes of the destination.
        got: usize,
    },
    /// A key of a length this format does not use.
    #[error("the key has {bytes} bytes: {wanted} are needed")]
    KeyLength {
        /// Bytes of the key.
        bytes: usize,
        /// What the format needs.
        wanted: &'static str,
    },
    /// The key commitment does not match: this model was sealed with another key (or its salt was altered).
    #[error("the key does not open this model: it was sealed with another one")]
    KeyWrong,
    /// The key is right and the header is not what was sealed.
    #[error("the header was altered after sealing")]
    HeaderAltered,
    /// The key and the header are right and this chunk is not what was sealed.
    #[error("chunk {chunk} was altered, moved or swapped")]
    Corrupt {
        /// Zero-based index of the first such chunk.
        chunk: u64,
    },
    /// A one-shot file did not open: that format cannot tell a wrong key from a damaged file.
    #[error("the model does not open: another key, or the file was altered (this format cannot tell)")]
    NotOpened,
    /// An empty model is never sealed.
    #[error("an empty model is not sealed")]
    Empty,
    /// The model has more than 2^32 chunks; a larger chunk size fits more.
    #[error("the model has more than 2^32 chunks: choose a larger chunk size")]
    TooManyChunks,
    /// The cryptographic library failed, or gave no random bytes.
    #[error("the cryptographic library failed")]
    Crypto,
}
