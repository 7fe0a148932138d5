//! The numbers of the KMIP specification that we use, each under its own name.

use std::fmt;

/// A TTLV tag: three bytes on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub(crate) u32);

macro_rules! tags {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        impl Tag { $($(#[$doc])* pub const $name: Self = Self($number);)* }
    };
}
tags! {
    /// Attribute (1.x): a name and a value.
    ATTRIBUTE = 0x42_0008;
    /// Attribute Name (1.x).
    ATTRIBUTE_NAME = 0x42_000A;
    /// Attribute Value (1.x).
    ATTRIBUTE_VALUE = 0x42_000B;
    /// Authentication in a request header.
    AUTHENTICATION = 0x42_000C;
    /// Batch Count.
    BATCH_COUNT = 0x42_000D;
    /// Batch Item.
    BATCH_ITEM = 0x42_000F;
    /// Common Template Attribute (1.x): of both halves of a pair.
    COMMON_TEMPLATE_ATTRIBUTE = 0x42_001F;
    /// Credential.
    CREDENTIAL = 0x42_0023;
    /// Credential Type.
    CREDENTIAL_TYPE = 0x42_0024;
    /// Credential Value.
    CREDENTIAL_VALUE = 0x42_0025;
    /// Cryptographic Algorithm.
    CRYPTOGRAPHIC_ALGORITHM = 0x42_0028;
    /// Cryptographic Domain Parameters.
    CRYPTOGRAPHIC_DOMAIN_PARAMETERS = 0x42_0029;
    /// Cryptographic Length, in bits.
    CRYPTOGRAPHIC_LENGTH = 0x42_002A;
    /// Cryptographic Usage Mask.
    CRYPTOGRAPHIC_USAGE_MASK = 0x42_002C;
    /// Key Block.
    KEY_BLOCK = 0x42_0040;
    /// Key Format Type.
    KEY_FORMAT_TYPE = 0x42_0042;
    /// Key Material.
    KEY_MATERIAL = 0x42_0043;
    /// Key Value.
    KEY_VALUE = 0x42_0045;
    /// Key Wrapping Data.
    KEY_WRAPPING_DATA = 0x42_0046;
    /// Link: to a related object.
    LINK = 0x42_004A;
    /// Link Type.
    LINK_TYPE = 0x42_004B;
    /// Linked Object Identifier.
    LINKED_OBJECT_IDENTIFIER = 0x42_004C;
    /// Name.
    NAME = 0x42_0053;
    /// Name Type.
    NAME_TYPE = 0x42_0054;
    /// Name Value.
    NAME_VALUE = 0x42_0055;
    /// Object Type.
    OBJECT_TYPE = 0x42_0057;
    /// Operation.
    OPERATION = 0x42_005C;
    /// Private Key.
    PRIVATE_KEY = 0x42_0064;
    /// Private Key Template Attribute (1.x).
    PRIVATE_KEY_TEMPLATE_ATTRIBUTE = 0x42_0065;
    /// Private Key Unique Identifier.
    PRIVATE_KEY_UNIQUE_IDENTIFIER = 0x42_0066;
    /// Protocol Version.
    PROTOCOL_VERSION = 0x42_0069;
    /// Protocol Version Major.
    PROTOCOL_VERSION_MAJOR = 0x42_006A;
    /// Protocol Version Minor.
    PROTOCOL_VERSION_MINOR = 0x42_006B;
    /// Public Key.
    PUBLIC_KEY = 0x42_006D;
    /// Public Key Template Attribute (1.x).
    PUBLIC_KEY_TEMPLATE_ATTRIBUTE = 0x42_006E;
    /// Public Key Unique Identifier.
    PUBLIC_KEY_UNIQUE_IDENTIFIER = 0x42_006F;
    /// Query Function.
    QUERY_FUNCTION = 0x42_0074;
    /// Recommended Curve.
    RECOMMENDED_CURVE = 0x42_0075;
    /// Request Header.
    REQUEST_HEADER = 0x42_0077;
    /// Request Message.
    REQUEST_MESSAGE = 0x42_0078;
    /// Request Payload.
    REQUEST_PAYLOAD = 0x42_0079;
    /// Response Header.
    RESPONSE_HEADER = 0x42_007A;
    /// Response Message.
    RESPONSE_MESSAGE = 0x42_007B;
    /// Response Payload.
    RESPONSE_PAYLOAD = 0x42_007C;
    /// Result Reason.
    RESULT_REASON = 0x42_007E;
    /// Result Status.
    RESULT_STATUS = 0x42_007F;
    /// Revocation Reason.
    REVOCATION_REASON = 0x42_0081;
    /// Revocation Reason Code.
    REVOCATION_REASON_CODE = 0x42_0082;
    /// State.
    STATE = 0x42_008D;
    /// Symmetric Key.
    SYMMETRIC_KEY = 0x42_008F;
    /// Template Attribute (1.x).
    TEMPLATE_ATTRIBUTE = 0x42_0091;
    /// Unique Batch Item ID.
    UNIQUE_BATCH_ITEM_ID = 0x42_0093;
    /// Unique Identifier.
    UNIQUE_IDENTIFIER = 0x42_0094;
    /// Username.
    USERNAME = 0x42_0099;
    /// Password.
    PASSWORD = 0x42_00A1;
    /// Attributes (2.0): plain tags.
    ATTRIBUTES = 0x42_0125;
    /// Common Attributes (2.0).
    COMMON_ATTRIBUTES = 0x42_0126;
    /// Private Key Attributes (2.0).
    PRIVATE_KEY_ATTRIBUTES = 0x42_0127;
    /// Public Key Attributes (2.0).
    PUBLIC_KEY_ATTRIBUTES = 0x42_0128;
    /// Attribute Reference (2.0).
    ATTRIBUTE_REFERENCE = 0x42_013B;
}

impl Tag {
    /// The number, as the specification prints it.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06X}", self.0)
    }
}

/// A protocol version we can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 1.2, the oldest with everything we need.
    V1_2,
    /// 1.3.
    V1_3,
    /// 1.4.
    V1_4,
    /// 2.0: attributes by tag.
    V2_0,
}

impl Version {
    /// Major and minor number.
    pub const fn numbers(self) -> (i32, i32) {
        match self {
            Self::V1_2 => (1, 2),
            Self::V1_3 => (1, 3),
            Self::V1_4 => (1, 4),
            Self::V2_0 => (2, 0),
        }
    }
    /// Reads `1.2`, `1.3`, `1.4` or `2.0`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::V1_2, Self::V1_3, Self::V1_4, Self::V2_0].into_iter().find(|version| version.to_string() == text)
    }
    pub(crate) const fn attributes_by_tag(self) -> bool {
        matches!(self, Self::V2_0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.numbers();
        write!(f, "{major}.{minor}")
    }
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$item:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$item])* $variant,)*
            /// A code we have no name for.
            Other(u32),
        }
        impl $name {
            /// From the wire.
            pub const fn from_code(code: u32) -> Self {
                match code { $($code => Self::$variant,)* other => Self::Other(other) }
            }
            /// To the wire.
            pub const fn code(self) -> u32 {
                match self { $(Self::$variant => $code,)* Self::Other(code) => code }
            }
        }
    };
}
codes! {
    /// What is asked of the server.
    Operation {
        /// Make a key in the server.
        Create = 0x01,
        /// Make a key pair in the server.
        CreateKeyPair = 0x02,
        /// Bring a key into the server.
        Register = 0x03,
        /// Find objects by attribute.
        Locate = 0x08,
        /// Read an object.
        Get = 0x0A,
        /// Read an object's attributes.
        GetAttributes = 0x0B,
        /// Pre-Active to Active.
        Activate = 0x12,
        /// To Deactivated or Compromised.
        Revoke = 0x13,
        /// Remove.
        Destroy = 0x14,
        /// What the server can do.
        Query = 0x18,
        /// Which versions it speaks.
        DiscoverVersions = 0x1E,
    }
}
codes! {
    /// What kind of object it is.
    ObjectType {
        /// A certificate.
        Certificate = 1,
        /// A symmetric key.
        SymmetricKey = 2,
        /// A public key.
        PublicKey = 3,
        /// A private key.
        PrivateKey = 4,
        /// A password or seed.
        SecretData = 7,
        /// Anything.
        OpaqueObject = 8,
    }
}
codes! {
    /// The cryptographic algorithm of a key.
    Algorithm {
        /// Triple DES.
        TripleDes = 2,
        /// AES.
        Aes = 3,
        /// RSA.
        Rsa = 4,
        /// ECDSA: what some servers call an elliptic curve key for signatures.
        Ecdsa = 6,
        /// ECDH: what some servers call an elliptic curve key for key agreement.
        Ecdh = 0x0E,
        /// Elliptic curve.
        Ec = 0x1A,
    }
}
codes! {
    /// The curve of an elliptic curve key.
    RecommendedCurve {
        /// P-256.
        P256 = 0x07,
        /// P-384.
        P384 = 0x0A,
        /// P-521.
        P521 = 0x0D,
    }
}
codes! {
    /// In which form a key's bytes come.
    KeyFormat {
        /// The key's own bytes.
        Raw = 1,
        /// An RSA key of PKCS#1, DER.
        Pkcs1 = 3,
        /// A private key of PKCS#8, DER.
        Pkcs8 = 4,
        /// A SubjectPublicKeyInfo, DER.
        X509 = 5,
        /// An elliptic curve private key of SEC 1, DER.
        EcPrivateKey = 6,
    }
}
codes! {
    /// How two objects belong together.
    LinkType {
        /// To the public half.
        PublicKey = 0x102,
        /// To the private half.
        PrivateKey = 0x103,
    }
}
codes! {
    /// Where an object is in its life.
    State {
        /// Made, not yet in use.
        PreActive = 1,
        /// In use.
        Active = 2,
        /// No longer to be used.
        Deactivated = 3,
        /// Known to have leaked.
        Compromised = 4,
        /// Gone.
        Destroyed = 5,
        /// Gone, and known to have leaked.
        DestroyedCompromised = 6,
    }
}
codes! {
    /// Why a server refused.
    ResultReason {
        /// There is no such object (or it is hidden from us).
        ItemNotFound = 0x01,
        /// The answer is larger than allowed.
        ResponseTooLarge = 0x02,
        /// We are not who we must be.
        AuthenticationNotSuccessful = 0x03,
        /// The server did not understand the message.
        InvalidMessage = 0x04,
        /// It does not do this.
        OperationNotSupported = 0x05,
        /// Something required is missing.
        MissingData = 0x06,
        /// Something is not as required.
        InvalidField = 0x07,
        /// It does not do this in this way.
        FeatureNotSupported = 0x08,
        /// A cryptographic operation failed.
        CryptographicFailure = 0x0A,
        /// The object's state forbids it.
        IllegalOperation = 0x0B,
        /// We may not.
        PermissionDenied = 0x0C,
        /// The object is archived.
        ObjectArchived = 0x0D,
        /// The key does not come in this format.
        KeyFormatTypeNotSupported = 0x10,
        /// Anything else.
        GeneralFailure = 0x100,
    }
}

/// What a key may be used for: the bits of the Cryptographic Usage Mask.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UsageMask(pub(crate) i32);

impl UsageMask {
    /// Sign.
    pub const SIGN: Self = Self(0x01);
    /// Verify.
    pub const VERIFY: Self = Self(0x02);
    /// Encrypt.
    pub const ENCRYPT: Self = Self(0x04);
    /// Decrypt.
    pub const DECRYPT: Self = Self(0x08);
    /// Wrap Key.
    pub const WRAP_KEY: Self = Self(0x10);
    /// Unwrap Key.
    pub const UNWRAP_KEY: Self = Self(0x20);
    /// Export.
    pub const EXPORT: Self = Self(0x40);
    /// Key Agreement.
    pub const KEY_AGREEMENT: Self = Self(0x800);

    /// From the wire.
    pub const fn from_bits(bits: i32) -> Self {
        Self(bits)
    }
    /// To the wire.
    pub const fn bits(self) -> i32 {
        self.0
    }
    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// Whether every bit of `other` is here.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Debug for UsageMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UsageMask({:#x})", self.0)
    }
}
